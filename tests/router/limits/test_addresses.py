"""Where a request comes from, whatever its headers say."""

from __future__ import annotations

import pytest

from router.limits import addresses
from router.limits.addresses import Proxies, is_this_machine, to_limited, to_networks
from router.settings import Settings

PROXIES = Proxies(["10.0.0.0/8", "127.0.0.1", "::1", "fd00::/8"])
CLIENT, NGINX, EDGE, EVIL = "203.0.113.7", "10.0.0.1", "10.9.9.9", "6.6.6.6"


def xff(*values: str) -> list[tuple[bytes, bytes]]:
    return [(b"x-forwarded-for", value.encode("latin-1")) for value in values]


def forwarded(*values: str) -> list[tuple[bytes, bytes]]:
    return [(b"forwarded", value.encode("latin-1")) for value in values]


@pytest.mark.parametrize(
    ("peer", "headers", "address"),
    [
        (CLIENT, [], CLIENT),
        ("", [], ""),
        # Who is no proxy is not believed.
        (CLIENT, xff(EVIL), CLIENT),
        ("", xff(EVIL), ""),
        (CLIENT, forwarded(f"for={EVIL}"), CLIENT),
        # From the right, over trusted proxies; what is left of the client is invented.
        (NGINX, xff(CLIENT), CLIENT),
        (NGINX, xff(f"{EVIL}, {CLIENT}"), CLIENT),
        (NGINX, xff(f"{EVIL},{CLIENT},{EDGE}"), CLIENT),
        (NGINX, xff(EVIL, f"{CLIENT}, {EDGE}"), CLIENT),
        (NGINX, xff(EDGE), EDGE),
        ("127.0.0.1", xff(CLIENT), CLIENT),
        ("::ffff:10.0.0.1", xff(CLIENT), CLIENT),
        # With ports, as Azure and RFC 7239 write them.
        (NGINX, xff(f"{CLIENT}:4711"), CLIENT),
        (NGINX, xff("[2001:db8::7]:4711"), "2001:db8::7"),
        (NGINX, forwarded(f"for={CLIENT};proto=https;by={EDGE}"), CLIENT),
        (NGINX, forwarded(f'for={EVIL}, For="[2001:db8::7]:4711" ; proto=http'), "2001:db8::7"),
        (NGINX, forwarded(f"proto=https;for={CLIENT}", f"for={EDGE}"), CLIENT),
        # Behind what cannot be read nothing can be relied on.
        (NGINX, xff(f"{CLIENT}, unknown"), NGINX),
        (NGINX, xff(f"{CLIENT}, {EDGE}, bogus, {EDGE}"), EDGE),
        (NGINX, xff(""), NGINX),
        (NGINX, forwarded("for=_hidden"), NGINX),
        # What a client says of the host is written beside its address.
        (NGINX, forwarded(f'host="x;for={EVIL}";for={CLIENT}'), CLIENT),
        (NGINX, forwarded(f'host="x, for={EVIL}";for={CLIENT}'), NGINX),
        (NGINX, forwarded(f'for="x, for={CLIENT};proto=http;; '), CLIENT),
        (NGINX, forwarded(f"for={EVIL};for={CLIENT}"), NGINX),
        (NGINX, forwarded("by=10.0.0.1"), NGINX),
        (NGINX, xff("é" * 3000), NGINX),
        (NGINX, xff(",".join([EVIL, *[EDGE] * 40])), EDGE),
        # Both headers: the proxy wrote one of them, and the client the other.
        (NGINX, [*xff(CLIENT), *forwarded(f"for={CLIENT}")], CLIENT),
        (NGINX, [*xff(CLIENT), *forwarded(f"for={EVIL}")], NGINX),
    ],
)
def test_the_address_of_a_client(peer: str, headers: list[tuple[bytes, bytes]], address: str) -> None:
    assert PROXIES.address_of(peer, headers) == address


def test_proxies_on_a_unix_socket_are_trusted_if_that_is_said() -> None:
    assert Proxies(["unix"]).address_of("", xff(CLIENT)) == CLIENT
    assert Proxies(["unix"]).address_of("127.0.0.1", xff(CLIENT)) == "127.0.0.1"


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        (CLIENT, CLIENT),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("::ffff:203.0.113.7", CLIENT),
        ("testclient", ""),
        ("", ""),
    ],
)
def test_a_customer_of_a_provider_is_one_address(address: str, counted: str) -> None:
    assert to_limited(address) == counted


def test_this_machine() -> None:
    assert [is_this_machine(each) for each in ("127.0.0.1", "::1", "127.9.9.9", "", "testclient")] == [True] * 5
    assert [is_this_machine(each) for each in (CLIENT, "2001:db8::1", "10.0.0.1")] == [False] * 3


def test_trusted_proxies_are_read_from_the_environment() -> None:
    assert to_networks("10.0.0.0/8, ::1,unix") == ("10.0.0.0/8", "::1", "unix")
    assert Settings(trusted_proxies="").trusted_proxies == ()
    with pytest.raises(ValueError, match=r"'nginx' is no address or network; write 10\.0\.0\.0/8"):
        Settings(trusted_proxies="10.0.0.1,nginx")


@pytest.mark.parametrize("headers", [xff(f"fe80::1%{'a' * 200}"), forwarded(f'for="{CLIENT}{" " * 5000}"')])
def test_what_is_longer_than_any_address_is_none_and_is_not_remembered(headers: list[tuple[bytes, bytes]]) -> None:
    # The first look remembers the proxy
    PROXIES.address_of(NGINX, [])
    kept = addresses._read_address.cache_info().currsize
    assert PROXIES.address_of(NGINX, headers) == NGINX
    assert addresses._read_address.cache_info().currsize == kept

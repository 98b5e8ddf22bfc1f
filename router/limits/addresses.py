"""Where a request comes from: the address of its client, also behind proxies.

In: the address of the connection, and what proxies wrote into the headers. Out: an address that can be relied on, or
none. Headers count only as far as proxies that are trusted wrote them.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Header = tuple[bytes, bytes]

# Written among the trusted proxies for the ones that come over a unix socket, which has no address.
UNIX: Final = "unix"
# Most proxies between a client and this service; longer headers are not followed.
_MAX_HOPS: Final = 16
# One customer of a provider has all of such a network: limits per address would not limit anybody otherwise.
_IPV6_PREFIX: Final = 64
# An address with zone and port has fewer; longer texts are none, and must not fill the memory of what was read before.
_MAX_CHARS: Final = 100
_PAIR: Final = re.compile(r"""[\s;]*([\w!#$%&'*+.^`|~-]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^;"\s]*)\s*(?:;|$)""")
_HOST_PORT: Final = re.compile(r"\[([0-9a-f:.%\w]+)\](?::\d+)?|([\d.]+):\d+", re.IGNORECASE)


def to_networks(value: object) -> object:
    """Read addresses and networks of trusted proxies, separated by commas.

    Raises:
        ValueError: naming the first that is none.
    """
    if not isinstance(value, str):
        return value
    said = [each.strip() for each in value.split(",") if each.strip()]
    for each in said:
        try:
            _ = each == UNIX or ipaddress.ip_network(each, strict=False)
        except ValueError:
            raise ValueError(f"'{each}' is no address or network; write 10.0.0.0/8, 192.168.1.5 or {UNIX}") from None
    return tuple(said)


class Proxies:
    """The proxies whose word is taken.

    Args:
        trusted: their addresses and networks, and `UNIX`.
    """

    def __init__(self, trusted: Iterable[str]) -> None:
        said = list(trusted)
        self._trusts_unix = UNIX in said
        self._networks: Sequence[Network] = [ipaddress.ip_network(each, strict=False) for each in said if each != UNIX]

    def address_of(self, peer: str, headers: Iterable[Header]) -> str:
        """Return the address of a client.

        The lists are read from the right, where the last proxy wrote: the first address that is no trusted proxy is the
        client's. What is left of it may be anybody's invention.

        Args:
            peer: address of the connection; empty on a unix socket.
            headers: of the request, names in lower case.

        Returns:
            An address; empty if none can be relied on.
        """
        if not (self._trusts_unix if not peer else self._is_trusted(_to_address(peer))):
            return peer
        old: list[bytes] = []
        new: list[bytes] = []
        for name, value in headers:
            if name == b"x-forwarded-for":
                old.append(value)
            elif name == b"forwarded":
                new.append(value)
        found = {
            self._first_client(peer, _split(lines), is_new=is_new)
            for lines, is_new in ((old, False), (new, True))
            if lines
        }
        # A proxy writes one of the two; if they differ, one was sent by the client, and which is not known.
        return found.pop() if len(found) == 1 else peer

    def _first_client(self, peer: str, hops: Sequence[str], *, is_new: bool) -> str:
        found = peer
        for hop in reversed(hops[-_MAX_HOPS:]):
            address = _to_address(_of_forwarded(hop) if is_new else hop)
            if address is None:  # hidden, or rubbish: behind it nothing can be relied on
                return found
            found = str(address)
            if not self._is_trusted(address):
                return found
        return found

    def _is_trusted(self, address: Address | None) -> bool:
        return address is not None and any(address in network for network in self._networks)


@lru_cache(maxsize=4096)
def to_limited(address: str) -> str:
    """Return what limits per address count: the address, or the network that one customer of a provider has."""
    found = _to_address(address)
    if isinstance(found, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((found, _IPV6_PREFIX), strict=False))
    return "" if found is None else str(found)


@lru_cache(maxsize=4096)
def is_this_machine(address: str) -> bool:
    """Whether a client is on this machine, or of no known address."""
    found = _to_address(address)
    return found is None or found.is_loopback


def _split(lines: Sequence[bytes]) -> list[str]:
    return [hop.strip() for hop in b",".join(lines).decode("latin-1").split(",")]


def _of_forwarded(element: str) -> str:
    """Return the address in an element of ``Forwarded``; empty if it names none, or not one for certain.

    Every pair is read, since proxies write there what clients say, too: ``host="x;for=1.2.3.4"`` is one.
    """
    found: list[str] = []
    element, at = element.rstrip("; \t"), 0
    while at < len(element):
        pair = _PAIR.match(element, at)
        if pair is None:
            return ""
        if pair[1].lower() == "for":
            found.append(pair[2].strip('"'))
        at = pair.end()
    return found[0] if len(found) == 1 else ""


def _to_address(text: str) -> Address | None:
    return _read_address(text) if len(text) <= _MAX_CHARS else None


@lru_cache(maxsize=4096)
def _read_address(text: str) -> Address | None:
    found = _HOST_PORT.fullmatch(text)
    try:
        address = ipaddress.ip_address((found[1] or found[2]) if found else text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address

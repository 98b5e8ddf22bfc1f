"""Addresses as URLs have them."""

import re
from pathlib import Path

import pytest

from engines.http.address import url_host

ROOT = Path(__file__).resolve().parents[3]
# A host right before a port, or right after the slashes of a URL, without `url_host` around it.
BARE = re.compile(r"\{[\w.]*host(name)?\}:\{|://\{[\w.]*host(name)?\}|://%s|%s:%d", re.IGNORECASE)


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("localhost", "localhost"),
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "[::1]"),
        ("::ffff:127.0.0.1", "[::ffff:127.0.0.1]"),
        ("[::1]", "[::1]"),
        ("", ""),
    ],
)
def test_an_ipv6_address_is_in_brackets(host: str, shown: str) -> None:
    assert url_host(host) == shown


def test_no_host_is_put_into_a_url_as_it_is() -> None:
    files = [path for folder in ("engines", "router", "policies") for path in (ROOT / folder).rglob("*.py")]
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in files
        for line in path.read_text().splitlines()
        if BARE.search(line)
    ]
    assert found == []

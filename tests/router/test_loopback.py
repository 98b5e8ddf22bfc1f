"""Which hosts only this machine can reach."""

from __future__ import annotations

import pytest

from router.loopback import is_loopback


@pytest.mark.parametrize(
    ("host", "is_it"),
    [
        *((host, True) for host in ("127.0.0.1", "127.8.8.8", "localhost", "LOCALHOST", "::1", "[::1]")),
        *((host, False) for host in ("0.0.0.0", "::", "", "192.168.1.2", "example.com", "127.example.com")),
    ],
)
def test_only_loopback_hosts_are_this_machine_alone(host: str, is_it: bool) -> None:
    assert is_loopback(host) is is_it

"""Where a child listens: a unix socket in the data folder, or a free loopback port where that cannot work.

In: paths, hosts, ports. Out: an `Address`, answers to "is it free?" and "does it answer?".
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from engines.http.address import url_host

LOOPBACK = "127.0.0.1"
# The kernel's limit is 108 bytes on Linux and 104 on macOS, terminator included.
MAX_SOCKET_PATH_BYTES = 100
PROBE_TIMEOUT_S = 2.0


class PortInUseError(Exception):
    """Somebody already listens there, or the address is not ours to listen on."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a process of ours listens: a unix socket, or else a TCP port on the loopback address."""

    uds: Path | None = None
    port: int = 0

    @property
    def url(self) -> str:
        """``unix:///path`` or ``http://127.0.0.1:port``."""
        return f"unix://{self.uds}" if self.uds is not None else f"http://{LOOPBACK}:{self.port}"


def local_address(socket_path: Path) -> Address:
    """A unix socket at that path, or a free loopback port if the path is too long, or odd enough to break a URL."""
    text = str(socket_path)
    if len(text.encode()) <= MAX_SOCKET_PATH_BYTES and quote(text) == text and hasattr(socket, "AF_UNIX"):
        return Address(uds=socket_path)
    return Address(port=free_port(LOOPBACK))


def free_port(host: str) -> int:
    """A port nobody listens on at this moment.

    Raises:
        PortInUseError: if the host is not an address of this machine.
    """
    return _bind(host, 0)


def check_port(host: str, port: int) -> None:
    """Make sure that a server could listen there.

    Raises:
        PortInUseError: if not; the message says why.
    """
    _bind(host, port)


def _bind(host: str, port: int) -> int:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            # As the server itself will: connections that only linger in TIME_WAIT are no hindrance.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            bound: int = probe.getsockname()[1]
            return bound
    except OSError as error:
        raise PortInUseError(f"{url_host(host)}:{port}: {error.strerror or error}") from None


def base_url(host: str, port: int) -> str:
    """What a client on this machine types to reach a server that listens on ``host``."""
    reachable = {"0.0.0.0": LOOPBACK, "::": "::1", "": LOOPBACK}.get(host, host)  # noqa: S104
    return f"http://{url_host(reachable)}:{port}"


async def http_get(url: str, path: str, *, timeout_s: float = PROBE_TIMEOUT_S) -> tuple[int, bytes] | None:
    """Status and body of ``GET path``; None if nothing answers in time. ``url`` as in `Address.url`."""
    import aiohttp

    connector: aiohttp.BaseConnector | None = None
    if url.startswith("unix://"):
        connector = aiohttp.UnixConnector(path=url.removeprefix("unix://"))
        url = "http://localhost"
    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=timeout_s)) as session,
            session.get(url + path) as answer,
        ):
            return answer.status, await answer.read()
    except (aiohttp.ClientError, TimeoutError, OSError):
        return None


async def http_status(url: str, path: str, *, timeout_s: float = PROBE_TIMEOUT_S) -> int | None:
    """Status of ``GET path``; None if nothing answers in time."""
    answer = await http_get(url, path, timeout_s=timeout_s)
    return None if answer is None else answer[0]

"""Where an engine is: its URL, understood and checked.

In: a URL, or several separated by commas, as settings have them. Out: `EngineAddress`. Nothing here connects.
Addresses are for operators: `without_addresses` takes them out of what a caller may read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

# Where engines listen, and are looked for, unless a setting says otherwise.
DEFAULT_PORTS: Final = {"glm": 8101, "owl2": 8102, "owl2_vllm": 8102}
# Ours, vLLM and SGLang serve under /v1; hosted ones may count on (Z.ai: /api/paas/v4) and then say so in their address.
_VERSION = re.compile(r"/v\d+\w*$")

_ADDRESS = re.compile(
    r"""
    \b[a-z][a-z0-9+.-]*://[^\s'"<>)\]}]+            # a URL, of a socket too
    | \b(?:\d{1,3}\.){3}\d{1,3}\b (?:'?,\s*\d+ | :\d+)?  # IPv4, also as a socket error prints it
    | \[? (?<![\w:]) (?:(?:[0-9a-f]{1,4}:){7}[0-9a-f]{1,4} | [0-9a-f:]*::[0-9a-f:]*) (?![\w:]) \]? (?::\d+)?  # IPv6
    | \b(?=[\d.-]*[a-z])[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?:\d{2,5}\b       # host:port
    | (?<![\w/.])(?:/[\w.@+-]+){2,}/?  # an absolute path
    """,
    re.IGNORECASE | re.VERBOSE,
)
_KEY = re.compile(r"\b(?:sk|pk|hf|key|token)[-_][\w-]{6,}|\bBearer\s+\S+", re.IGNORECASE)
_MAX_CHARS = 1000


@dataclass(frozen=True, slots=True)
class EngineAddress:
    """The address of one engine server.

    Attributes:
        shown: as it was given, for messages; no key can be in it.
        root: where ``/readyz`` and ``/health`` are; ``http://localhost`` for a socket.
        api: where ``/chat/completions`` and ``/models`` are.
        socket_path: of a unix socket; None for TCP.
    """

    shown: str
    root: str
    api: str
    socket_path: str | None = None

    @classmethod
    def parse(cls, url: str) -> EngineAddress:
        """Understand ``http(s)://host[:port][/path]`` or ``unix:///path``.

        A path that ends in a version, such as ``/v1``, is where the API is; otherwise the API is under ``/v1``.

        Raises:
            ValueError: if it is neither, or carries a user, a query or a fragment.
        """
        url = url.strip()
        parts = urlsplit(url)
        if parts.scheme == "unix" and parts.path and not parts.netloc:
            return cls(url, "http://localhost", "http://localhost/v1", parts.path)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"no engine URL: {url!r}; use http://host:port, https://host or unix:///path")
        if "@" in parts.netloc or parts.query or parts.fragment:
            where = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"  # without what may be a secret
            raise ValueError(f"no engine URL: {where!r} with a user, a query or a fragment; a key has its own setting")
        _ = parts.port  # raises if it is no number
        bare = url.rstrip("/")
        root = _VERSION.sub("", bare)
        return cls(url, root, bare if root != bare else f"{bare}/v1")


def split_urls(text: str) -> tuple[str, ...]:
    """Take a comma-separated list of URLs apart; what is named twice counts once.

    Raises:
        ValueError: if one of them is no engine URL, or there is none.
    """
    urls = tuple(dict.fromkeys(url.strip() for url in text.split(",") if url.strip()))
    if not urls:
        raise ValueError("no engine URL given")
    for url in urls:
        EngineAddress.parse(url)
    return urls


def url_host(host: str) -> str:
    """Return a host as URLs have it, and as it is to be shown beside a port: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def without_addresses(text: str) -> str:
    """Replace addresses (URLs, hosts, ports, absolute paths) and keys in what another server said to its operator.

    Args:
        text: at most its first 1,000 characters are kept.
    """
    return _KEY.sub("(key)", _ADDRESS.sub("(address)", text[:_MAX_CHARS]))

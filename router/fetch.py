"""Fetching from addresses that strangers name: picture URLs (GET) and webhooks (POST).

In: a URL out of a request. Out: bounded bytes, or a status. Every address is vetted at the moment it is connected to,
so neither a DNS answer that changes nor a redirect can reach this machine's own network.

Errors::

    FetchError                       base; a message in English and Chinese, without the address that was found
    ├── UrlRefusedError              the URL, or what it resolves to, is not allowed; trying again will not help
    ├── FetchTooLargeError           the body is over the limit
    └── FetchFailedError             DNS, connection, TLS, status or time; trying again may help
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.metadata
import ipaddress
import re
import socket
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Final, Protocol, Self, cast
from urllib.parse import quote

from yarl import URL

from policies.text import TextError
from router import texts
from router.lookup import OWNER, Lookups, LookupTimeoutError
from router.shares import Shares

if TYPE_CHECKING:  # a tenth of the time that the api takes to start, and much memory, for what many never fetch
    import aiohttp
    from aiohttp.abc import AbstractResolver, ResolveResult

MAX_REDIRECTS = 10
MAX_URL_CHARS = 8192
# No name server holds longer names (RFC 1035).
_MAX_HOST_CHARS: Final = 253
_MAX_LABEL_CHARS: Final = 63
# A body under way is held in memory. Owners share them, and each owner's hosts share the owner's.
MAX_AT_ONCE: Final = 128
# Browsers escape the rest of a path or query: blanks, quotes, angle brackets, all that is not ASCII. Never a "%":
# signed URLs come escaped.
_UNESCAPED: Final = "%!#$&'()*+,-./:;=?@[]_~|^"
_AUTHORITY: Final = re.compile(r"(?:[a-z][a-z0-9+.-]*:)?//[^/?#]*", re.IGNORECASE)
_CHUNK_BYTES = 64 * 1024
_REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Awaitable[list[str]]]

# The standard library's registry of special addresses changes between Python releases; these are refused by every one.
_REFUSED_NETWORKS = tuple(
    ipaddress.ip_network(network)
    for network in (
        "100.64.0.0/10",  # carrier NAT, home of one cloud's metadata service
        "168.63.129.16/32",  # another cloud's metadata and DNS service, inside public space
        "192.0.0.0/24",
        "192.88.99.0/24",  # 6to4 relays
        "198.18.0.0/15",
        "2001::/23",  # protocol assignments, Teredo among them
        "2001:db8::/32",
        "3fff::/20",
    )
)
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class FetchError(TextError):
    """Base of everything a fetch raises on purpose."""


class UrlRefusedError(FetchError):
    """The URL has a shape that is not fetched, or leads to an address that is not public."""


class FetchTooLargeError(FetchError):
    """The body is over the limit; nothing beyond the limit was read."""


class FetchFailedError(FetchError):
    """The other side could not be found or reached, was too slow, or did not answer with success."""


class FetchSettings(Protocol):
    """The part of `router.settings.Settings` a fetch needs."""

    @property
    def allow_private_urls(self) -> bool:
        """Lift the address check, and nothing else."""
        ...

    @property
    def fetch_timeout_s(self) -> float:
        """Time for a whole fetch: DNS, redirects and body together."""
        ...

    @property
    def max_image_bytes(self) -> int:
        """Largest body a GET reads."""
        ...

    @property
    def contact(self) -> str:
        """Where operators of the servers that are asked find who asks."""
        ...


@dataclass(frozen=True, slots=True)
class FetchedBody:
    """What a GET brought.

    Attributes:
        data: the body, at most ``max_image_bytes`` long.
        content_type: what the server called it, lower case and without parameters; empty if it said nothing.
    """

    data: bytes = field(repr=False)
    content_type: str


@dataclass(frozen=True, slots=True)
class PostAnswer:
    """What a POST was answered.

    Attributes:
        status: the HTTP status.
        retry_after: the header of that name; None without one.
    """

    status: int
    retry_after: str | None = None


@contextlib.contextmanager
def fetching_for(owner: str) -> Generator[None]:
    """Count what is fetched within, and in tasks begun within, among what this owner has under way."""
    token = OWNER.set(owner)
    try:
        yield
    finally:
        OWNER.reset(token)


def is_public_address(address: IPAddress) -> bool:
    """Tell whether an address belongs to the public internet.

    Addresses that wrap an IPv4 address (IPv4-mapped, NAT64, 6to4) are judged by the one inside.
    """
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public_address(address.ipv4_mapped)
        if address.sixtofour is not None:
            return is_public_address(address.sixtofour)
        if address in _NAT64:
            return is_public_address(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        if address not in _GLOBAL_UNICAST:
            return False
    if any(address.version == network.version and address in network for network in _REFUSED_NETWORKS):
        return False
    return (
        address.is_global
        and not address.is_multicast
        and not address.is_reserved
        and not address.is_link_local
        and not address.is_loopback
        and not address.is_unspecified
    )


def parse_url(url: str, *, allow_private: bool = False) -> URL:
    """Parse a URL from a request and refuse what is never fetched, before any DNS question is asked.

    Args:
        url: as the caller wrote it.
        allow_private: let private literal addresses and ``localhost`` pass.

    Raises:
        UrlRefusedError: not http(s), a user name or password inside, a host that is no plain name or address, or a
            literal address that is not public.
    """
    url = url.strip()
    if len(url) > MAX_URL_CHARS:
        raise UrlRefusedError(
            texts.URL_TOO_LONG.fill(max_url_chars=MAX_URL_CHARS),
        )
    # One parser for the check and for the connection. Already encoded URLs stay as they are: signed ones would break.
    try:
        parsed = _escape(url)
        host, port = (parsed.raw_host or "").lower().rstrip("."), parsed.port
        has_userinfo = parsed.user is not None or parsed.password is not None
    except ValueError:
        raise _malformed() from None
    if parsed.scheme not in ("http", "https"):
        raise UrlRefusedError(
            texts.URL_SCHEME,
        )
    authority = _AUTHORITY.match(url)
    if not host or not port or re.search(r"[\x00-\x1f\x7f\\]", url) or (authority and " " in authority[0]):
        raise _malformed()
    if has_userinfo:
        raise UrlRefusedError(
            texts.URL_CREDENTIALS,
        )
    address = _literal_address(host)
    if address is None:
        # inet_aton reads 2130706433, 0177.1 and 0x7f.1 as addresses; no real host name ends in a number.
        if re.fullmatch(r"[0-9]+|0x[0-9a-f]*", host.rpartition(".")[2]) or "%" in host:
            raise _malformed()
        if len(host) > _MAX_HOST_CHARS or not all(0 < len(label) <= _MAX_LABEL_CHARS for label in host.split(".")):
            raise _malformed()
        if not allow_private and (host == "localhost" or host.endswith(".localhost")):
            raise _not_public()
    elif not allow_private and not is_public_address(address):
        raise _not_public()
    return parsed


@dataclass(slots=True)
class _Place:
    """A place among the downloads, given back while a name is looked up: lookups have places of their own."""

    shares: Shares
    owner: str
    host: str
    is_held: bool = False

    async def take(self) -> None:
        await self.shares.wait(self.owner, self.host)
        self.is_held = True

    def give_back(self) -> None:
        if self.is_held:
            self.is_held = False
            self.shares.give_back(self.owner, self.host)


_PLACE: ContextVar[_Place | None] = ContextVar("place", default=None)


class SafeFetcher:
    """Fetches from URLs that callers name. One HTTP session, made on first use, bound to the running event loop.

    Args:
        settings: limits, and whether private addresses are allowed.
        resolve: asks DNS: host and port to a list of addresses; the system's resolver unless given.
    """

    def __init__(self, settings: FetchSettings, *, resolve: Resolve | None = None) -> None:
        self._settings = settings
        self._resolve = resolve or Lookups()
        self._places = Shares(MAX_AT_ONCE)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def get(self, url: str, *, max_redirects: int = MAX_REDIRECTS) -> FetchedBody:
        """Download a body of at most ``max_image_bytes``.

        Args:
            url: where from.
            max_redirects: how many are followed.

        Raises:
            UrlRefusedError: if the URL or one it redirects to is not allowed.
            FetchTooLargeError: if the body is longer than the limit.
            FetchFailedError: if it cannot be had in ``fetch_timeout_s``, or the status is not 200.
        """
        current = self._parse(url)
        async with self._place(current), self._guard():
            for _ in range(max_redirects + 1):
                async with self._open_session().get(current, allow_redirects=False) as response:
                    location = response.headers.get("Location")
                    if response.status in _REDIRECT_STATUSES and location:
                        current = self._parse(str(current.join(_escape(location.strip()))))
                        continue
                    return await self._read_body(response)
            raise FetchFailedError(
                texts.TOO_MANY_REDIRECTS.fill(max_redirects=max_redirects),
            )

    async def post_json(self, url: str, body: bytes, headers: Mapping[str, str] | None = None) -> PostAnswer:
        """Send a JSON document; redirects are not followed and the answer's body is not read.

        Args:
            url: where to.
            body: the encoded document, sent as it is, so that a signature over it holds.
            headers: more headers, such as the signature.

        Returns:
            the HTTP status, whatever it is, and what it says of trying again.

        Raises:
            UrlRefusedError: if the URL is not allowed.
            FetchFailedError: if no status came back in ``fetch_timeout_s``.
        """
        target = self._parse(url)
        async with self._guard():
            request_headers = {"Content-Type": "application/json", **(headers or {})}
            async with self._open_session().post(
                target, data=body, headers=request_headers, allow_redirects=False
            ) as response:
                response.close()
                return PostAnswer(response.status, response.headers.get("Retry-After"))

    def _parse(self, url: str) -> URL:
        return parse_url(url, allow_private=self._settings.allow_private_urls)

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            import aiohttp

            connector = aiohttp.TCPConnector(
                resolver=cast(
                    "AbstractResolver",
                    _VettingResolver(self._resolve, allow_private=self._settings.allow_private_urls),
                ),
                use_dns_cache=False,
                limit=0,  # with one queue for all, those waiting for a silent host would delay everybody
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),  # `_guard` bounds DNS, redirects and body together
                trust_env=False,  # a proxy would connect for us, past the address check
                auto_decompress=False,
                # Some sites refuse a User-Agent without a contact.
                headers={"User-Agent": user_agent(self._settings.contact), "Accept-Encoding": "identity"},
            )
        return self._session

    async def _read_body(self, response: aiohttp.ClientResponse) -> FetchedBody:
        if response.status != 200:
            raise FetchFailedError(
                texts.FETCH_STATUS.fill(status=response.status),
            )
        if response.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
            # Decompressing would let a small transfer grow past every bound.
            raise FetchFailedError(
                texts.FETCH_PACKED,
            )
        limit = self._settings.max_image_bytes
        if (response.content_length or 0) > limit:
            raise _too_large(limit)
        body = bytearray()
        async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
            body += chunk
            if len(body) > limit:
                raise _too_large(limit)
        content_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        return FetchedBody(data=bytes(body), content_type=content_type)

    @contextlib.asynccontextmanager
    async def _place(self, url: URL) -> AsyncGenerator[None]:
        """Hold a place among what its owner has under way.

        Raises:
            FetchFailedError: if there is none for as long as a fetch may take.
        """
        place = _Place(self._places, OWNER.get(), url.raw_host or "")
        try:
            async with asyncio.timeout(self._settings.fetch_timeout_s):
                await place.take()
        except TimeoutError:
            raise FetchFailedError(
                texts.TOO_MANY_DOWNLOADS,
            ) from None
        token = _PLACE.set(place)
        try:
            yield
        finally:
            _PLACE.reset(token)
            place.give_back()

    @contextlib.asynccontextmanager
    async def _guard(self) -> AsyncGenerator[None]:
        """Bound the time and turn every foreign error into one of ours."""
        if "aiohttp" not in sys.modules:
            await asyncio.to_thread(importlib.import_module, "aiohttp")  # others have their turn meanwhile
        import aiohttp

        timeout_s = self._settings.fetch_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                yield
        except TimeoutError:
            raise FetchFailedError(
                texts.FETCH_TIMEOUT.fill(timeout_s=timeout_s),
            ) from None
        except aiohttp.ClientSSLError:
            raise FetchFailedError(texts.FETCH_TLS) from None
        except (aiohttp.ClientConnectorError, OSError):
            raise FetchFailedError(texts.FETCH_UNREACHABLE) from None
        except (aiohttp.InvalidURL, ValueError):
            raise _malformed() from None
        except aiohttp.ClientError:
            raise FetchFailedError(
                texts.FETCH_BROKEN,
            ) from None


class _VettingResolver:
    """Hands the connector only addresses that may be connected to: what is checked is what is dialled.

    An `aiohttp.abc.AbstractResolver` in all but name: that would load aiohttp with this module.

    One refused address refuses the host: an answer that mixes public and private ones is an attack or a mistake.
    """

    def __init__(self, resolve: Resolve, *, allow_private: bool) -> None:
        self._resolve = resolve
        self._allow_private = allow_private

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Resolve and vet; ``family`` is ignored, both are dialled.

        Raises:
            UrlRefusedError: if an address is not public.
            FetchFailedError: if the name has no address.
        """
        place = _PLACE.get()
        if place is not None:
            place.give_back()
        try:
            addresses = [ipaddress.ip_address(text) for text in await self._resolve(host, port)]
        except LookupTimeoutError:
            raise FetchFailedError(texts.HOST_TIMEOUT) from None
        except (OSError, ValueError):
            addresses = []
        if not addresses:
            raise FetchFailedError(texts.HOST_UNKNOWN)
        if not self._allow_private and not all(is_public_address(address) for address in addresses):
            raise _not_public()
        if place is not None:
            await place.take()
        return [
            {
                "hostname": host,
                "host": str(address),
                "port": port,
                "family": socket.AF_INET if address.version == 4 else socket.AF_INET6,
                "proto": socket.IPPROTO_TCP,
                "flags": socket.AI_NUMERICHOST,
            }
            for address in addresses
        ]

    async def close(self) -> None:
        """Nothing is held."""


def user_agent(contact: str) -> str:
    """Return how we name ourselves to the servers of others."""
    return f"Glowl/{importlib.metadata.version('glowl')} (+{contact})"


def _escape(url: str) -> URL:
    """Parse a URL, or the relative one of a redirect, and escape what browsers do of its path and query.

    Raises:
        ValueError: if it is no URL.
    """
    authority = _AUTHORITY.match(url)
    head = authority[0] if authority else ""
    tail = quote(url[len(head) :], safe=_UNESCAPED)
    if not head.isascii():
        parsed = URL(head)
        head = f"{parsed.scheme}://{parsed.raw_authority}" if parsed.scheme else f"//{parsed.raw_authority}"
    return URL(head + tail, encoded=True)


def _literal_address(host: str) -> IPAddress | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _malformed() -> UrlRefusedError:
    return UrlRefusedError(
        texts.URL_FORM,
    )


def _not_public() -> UrlRefusedError:
    return UrlRefusedError(
        texts.URL_PRIVATE,
    )


def _too_large(limit: int) -> FetchTooLargeError:
    return FetchTooLargeError(
        texts.URL_TOO_LARGE.fill(limit=limit),
    )

"""Who may send a request to a service without keys: programs on this machine, and web pages only if they are allowed.

In: the ``Host``, ``Origin``, ``Referer`` and ``Sec-Fetch-*`` headers. Out: the request, or a refusal.

A page of any web site can make a browser send requests to loopback. By DNS rebinding (the page's own name is made to
point to 127.0.0.1) it could read the answers too; then the ``Host`` is the page's. Without rebinding it cannot read
them, but what it posts as ``text/plain`` would be done; then the ``Origin`` is the page's. With keys none of this
works, since a browser does not know them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from router.api.errors import respond
from router.auth.authenticator import Authenticator
from router.errors import HostRefusedError, OriginRefusedError, RouterError
from router.loopback import is_loopback
from router.middleware import texts
from router.settings import Settings

ANY: Final = "*"
_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
# What a page may read of an answer, beside what every page may.
_EXPOSED: Final = (
    "x-request-id",
    "request-id",
    "x-glowl-route",
    "x-glowl-engine",
    "x-glowl-rule",
    "x-glowl-cache",
    "age",
    "x-glowl-response-id",
    "server-timing",
    "openai-poll-after-ms",
    "idempotent-replayed",
    "retry-after",
    "x-should-retry",
    "location",
    "preference-applied",
)


def to_hostname(authority: str) -> str | None:
    """Return the host of ``host[:port]``, lower case, without brackets or a last dot; None if it is no such thing."""
    try:
        parts = urlsplit(f"//{authority.strip()}")
        port_is_good = parts.port is None or parts.port >= 0
    except ValueError:
        return None
    if not port_is_good or parts.path or parts.query or parts.fragment or "@" in parts.netloc:
        return None
    return (parts.hostname or "").removesuffix(".") or None


class HostsChecked:
    """Refuses foreign hosts and origins where no key is asked for.

    Args:
        app: what comes after.
        settings: nothing is checked if the api listens on other addresses than loopback, unless ``allowed_hosts`` says
            which names are its own.
        authenticator: nor while requests without a good key are refused.
    """

    def __init__(self, app: ASGIApp, settings: Settings, authenticator: Authenticator) -> None:
        self._app = app
        self._authenticator = authenticator
        self._is_local = is_loopback(settings.host)
        self._is_known = self._is_local or bool(settings.allowed_hosts)
        self._hosts = {"localhost", settings.host.lower().strip("[]"), *settings.allowed_hosts}
        self._origins = settings.cors_origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        is_on = self._is_known and not self._authenticator.needs_keys
        error = self._refusal(scope) if is_on and scope["type"] == "http" else None
        if error is None:
            await self._app(scope, receive, send)
        else:
            await respond(Request(scope), error)(scope, receive, send)

    def _refusal(self, scope: Scope) -> RouterError | None:
        headers = Headers(scope=scope)
        for host in headers.getlist("host"):
            if not self._is_own(to_hostname(host)):
                return HostRefusedError(texts.HOST_REFUSED.fill(host=host[:100]))
        source = self._foreign_source(scope["method"], headers)
        if source is None:
            return None
        return OriginRefusedError(texts.ORIGIN_REFUSED.fill(origin=source[:100]))

    def _foreign_source(self, method: str, headers: Headers) -> str | None:
        """Return the web page that sent the request, if it may not."""
        if ANY in self._origins:
            return None
        origins = headers.getlist("origin")
        if origins:
            return next((each for each in origins if not self._is_own_url(each)), None)
        if headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") != "navigate":
            return headers.get("referer") or "another site"
        # Browsers of some years ago send neither of these with a form.
        referer = headers.get("referer")
        if method not in _SAFE_METHODS and referer is not None and not self._is_own_url(referer):
            return referer
        return None

    def _is_own_url(self, url: str) -> bool:
        try:
            parts = urlsplit(url)
        except ValueError:
            return False
        if f"{parts.scheme}://{parts.netloc}".lower() in self._origins:
            return True
        return parts.scheme in ("http", "https") and self._is_own(to_hostname(parts.netloc))

    def _is_own(self, host: str | None) -> bool:
        if host is None:
            return False
        if ANY in self._hosts or host in self._hosts or is_loopback(host):
            return True
        # A page under an address was sent by that address: names can be made to point elsewhere, addresses cannot.
        return not self._is_local and _is_address(host)


class Cors:
    """Lets pages of the allowed origins read answers; requests of all others pass unchanged.

    Args:
        app: what comes after.
        origins: such as ``https://app.example.com``; ``*`` is any.
    """

    def __init__(self, app: ASGIApp, origins: Collection[str]) -> None:
        self._app = app
        self._cors = CORSMiddleware(
            app,
            allow_origins=origins,
            allow_methods=["*"],
            allow_headers=["*"],
            allow_private_network=True,
            expose_headers=_EXPOSED,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer a preflight."""
        origin = Headers(scope=scope).get("origin") if scope["type"] == "http" else None
        is_allowed = origin is not None and self._cors.is_allowed_origin(origin)
        await (self._cors if is_allowed else self._app)(scope, receive, send)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True

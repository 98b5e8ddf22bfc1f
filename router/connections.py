"""Connections of the api: how many there may be, and how long one may take to say or to read something.

In: bytes of clients, also of those that stop halfway. Out: requests; a 400, 408, 431 or 503 as an envelope, and a
closed connection, for what never becomes one. Uvicorn itself bounds neither the time nor the size of headers.
"""

from __future__ import annotations

import asyncio
import functools
import secrets
from collections import Counter
from collections.abc import Callable
from typing import Any, Final, cast

import httptools
import orjson
from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, ASGISendEvent, Scope
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from router.api.errors import envelope
from router.api.hangups import ON_DISCONNECT
from router.errors import EngineFailedError

MAX_HEAD_BYTES: Final = 64 * 1024
_MAX_TARGET_BYTES: Final = 65535  # of httptools, which takes a longer one for no HTTP
_CHECK_S: Final = 1.0
# Requests that wait for the answer to an earlier one; no client of today sends any before it.
_MAX_PIPELINED: Final = 32
_FRAMING: Final = (b"content-length", b"transfer-encoding")
# The rest of a body that was refused halfway is read and dropped, so that its client sees the refusal.
_DRAIN_S: Final = 30.0
SOCKET_PATH: Final = b"/v1/responses"
# Of a message; a larger request goes by HTTP, where its bytes are counted while they come.
MAX_SOCKET_BYTES: Final = 16 * 1024 * 1024


class Connections:
    """All connections of one server. One address has half of them at most.

    At a limit the connection that has been without a request longest is closed for the new one, so that connections
    on which nothing is asked never keep out one on which something is.

    Args:
        max_connections: at a time.
        head_timeout_s: from the connection, or the last answer, to the end of a request's headers.
        write_timeout_s: how long a client may leave what it asked for unread.
    """

    def __init__(self, *, max_connections: int, head_timeout_s: float, write_timeout_s: float) -> None:
        self._max = max_connections
        self._max_of_one = max(max_connections // 2, 1)
        self.head_timeout_s = head_timeout_s
        self.write_timeout_s = write_timeout_s
        self._open: set[BoundedProtocol] = set()
        self._by_address: Counter[str] = Counter()
        self._check: asyncio.TimerHandle | None = None

    def add(self, connection: BoundedProtocol) -> bool:
        """Take a connection in; False if there is no room, not even for one with nothing to do."""
        address = connection.address
        if self._by_address[address] >= self._max_of_one:
            has_room = self._close_idle(address)
        else:
            has_room = len(self._open) < self._max or self._close_idle(None)
        if not has_room:
            return False
        self._open.add(connection)
        self._by_address[address] += 1
        if self._check is None:
            self._check = connection.loop.call_later(_CHECK_S, self._check_all, connection.loop)
        return True

    def discard(self, connection: BoundedProtocol) -> None:
        """Forget a connection."""
        if connection in self._open:
            self._open.discard(connection)
            self._by_address[connection.address] -= 1
            if not self._by_address[connection.address]:
                del self._by_address[connection.address]

    def _close_idle(self, address: str | None) -> bool:
        idle = [each for each in self._open if each.idle_since is not None and address in (None, each.address)]
        if not idle:
            return False
        longest = min(idle, key=lambda each: each.idle_since or 0.0)
        self.discard(longest)
        longest.transport.abort()
        return True

    def _check_all(self, loop: asyncio.AbstractEventLoop) -> None:
        for connection in tuple(self._open):
            connection.check(loop.time())
        self._check = loop.call_later(_CHECK_S, self._check_all, loop) if self._open else None


class BoundedProtocol(HttpToolsProtocol):
    """One connection.

    Args:
        limits: what it is counted in.
        config: uvicorn's.
        server_state: uvicorn's.
        app_state: uvicorn's.
        _loop: the event loop, if not the running one.

    Attributes:
        idle_since: on the loop's clock, since when it has been without a request; None while one is answered.
    """

    def __init__(
        self,
        limits: Connections,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits = limits
        self._is_in_head = True
        self._head_bytes = 0
        self._unread_since: float | None = None
        self._is_told_again = False
        self._is_lost = False
        self._told: dict[Callable[[], None], None] = {}
        self.idle_since: float | None = self.loop.time()

    @property
    def address(self) -> str:
        """Of the client; empty on a unix socket."""
        return self.client[0] if self.client else ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count it, or refuse it."""
        super().connection_made(transport)
        if not self._limits.add(self):
            self._refuse(503, "overloaded", "Too many connections are open; try again later.")

    def connection_lost(self, exc: Exception | None) -> None:
        """Count it no more."""
        self._limits.discard(self)
        super().connection_lost(exc)
        self._is_lost = True
        for tell in tuple(self._told):
            tell()

    def on_disconnect(self, tell: Callable[[], None]) -> Callable[[], None]:
        """Have something called when the client is gone: a request costs no task that waits for that."""
        if self._is_lost:
            self.loop.call_soon(tell)
        self._told[tell] = None
        return functools.partial(self._told.pop, tell, None)

    def data_received(self, data: bytes) -> None:
        """Read on, unless a request's headers are too large."""
        if self.transport.is_closing():
            return
        if self._is_in_head:
            self._head_bytes += len(data)
        self._unset_keepalive_if_required()
        self._parse(data)
        if self._is_in_head and self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(431, "headers_too_large", f"The headers have more than {MAX_HEAD_BYTES} bytes.")

    def _parse(self, data: bytes) -> None:
        while data:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                if self._should_upgrade():
                    self.handle_websocket_upgrade()
                    return
                data = data[upgrade.args[0] :]
                self._go_on_without_upgrade()
            except httptools.HttpParserError:
                if len(self.url or b"") > _MAX_TARGET_BYTES:
                    said = f"The path has more than {_MAX_TARGET_BYTES} bytes; send what is long in the body."
                    self._refuse(431, "headers_too_large", said)
                    return
                self.send_400_response("This is not HTTP, or HTTP that is not valid.")
                return

    def _should_upgrade(self) -> bool:
        """Whether a request opens a WebSocket: at the one path that has them, and with nothing before it unanswered."""
        path = self.url.partition(b"?")[0].rstrip(b"/")
        is_free = self.cycle is None or self.cycle.response_complete
        is_asked = self._get_upgrade() == b"websocket" and self.scope["method"] == "GET"
        return is_asked and path == SOCKET_PATH and is_free

    def handle_websocket_upgrade(self) -> None:
        """Let the connection go on as a WebSocket; it stays one of the connections."""
        from router.socket_protocol import SocketProtocol

        self.url = self.url.partition(b"?")[0]  # some clients send a key there, and it would be logged
        self.ws_protocol_class = cast(
            type[asyncio.Protocol],
            functools.partial(SocketProtocol, lost=lambda: self._limits.discard(self), max_bytes=MAX_SOCKET_BYTES),
        )
        super().handle_websocket_upgrade()

    def _go_on_without_upgrade(self) -> None:
        """Read the body of a request that offered another protocol, which nobody has to accept (RFC 9110, 7.8).

        Java's client offers HTTP/2 with every first request. The parser stops there, without the body: a new one, told
        how long the body is, reads on.
        """
        framing = [b"%s: %s\r\n" % each for each in self.headers if each[0] in _FRAMING]
        self.parser = httptools.HttpRequestParser(self)
        self._is_told_again = True
        self.parser.feed_data(b"POST / HTTP/1.1\r\n%s\r\n" % b"".join(framing))
        self._is_told_again = False

    def on_message_begin(self) -> None:
        """Expect a request."""
        if not self._is_told_again:
            super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Take a part of the path."""
        if not self._is_told_again:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        if not self._is_told_again:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin the request.

        Raises:
            ValueError: if too many wait on this connection already; the parser makes an error of it.
        """
        if self._is_told_again:
            return
        if len(self.pipeline) >= _MAX_PIPELINED:
            raise ValueError("too many requests are waiting on one connection")
        self._is_in_head = False
        self._head_bytes = 0
        self.idle_since = None
        self._take_host_of_target()
        super().on_headers_complete()

    def _take_host_of_target(self) -> None:
        """Let the host of ``GET http://host/path`` be the request's, whatever ``Host`` says (RFC 9112, 3.2.2)."""
        if not self.url.startswith((b"/", b"*")):
            target = httptools.parse_url(self.url)
            host = b"[%s]" % target.host if b":" in target.host else target.host
            host += b":%d" % target.port if target.port else b""
            self.headers[:] = [(b"host", host), *(each for each in self.headers if each[0] != b"host")]

    def on_message_complete(self) -> None:
        """Expect the next request's headers."""
        if self.parser.should_upgrade():  # the body is still to come
            return
        self._is_in_head = True
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Begin to be idle, unless another request waits already."""
        if not self.pipeline:
            self.idle_since = self.loop.time()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """Note since when the client has not read."""
        self._unread_since = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        """Note that it has."""
        self._unread_since = None
        super().resume_writing()

    def check(self, now: float) -> None:
        """Close the connection if it takes too long."""
        if self._unread_since is not None and now - self._unread_since > self._limits.write_timeout_s:
            self.transport.abort()
        elif self.idle_since is not None:
            timeout_s = self._limits.head_timeout_s if self._is_in_head else max(_DRAIN_S, self._limits.head_timeout_s)
            if now - self.idle_since > timeout_s and not self.transport.is_closing():
                if self._is_in_head and self._head_bytes:
                    self._refuse(408, "request_timeout", f"The headers did not arrive within {timeout_s:g} s.")
                else:
                    self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP."""
        self._refuse(400, "invalid_http_request", msg)

    def _refuse(self, status: int, code: str, message: str) -> None:
        if self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            self.transport.abort()  # a refusal in the middle of an answer would be read as a part of the answer
            return
        body = orjson.dumps(envelope(EngineFailedError(message, status=status, code=code)))
        headers = [
            *self.server_state.default_headers,
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"x-request-id", f"req_{secrets.token_hex(12)}".encode()),
            (b"connection", b"close"),
        ]
        head = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
        self.transport.write(STATUS_LINE[status] + head + b"\r\n" + body)
        self.transport.close()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        cycle.scope["extensions"] = {ON_DISCONNECT: {"call": self.on_disconnect}}
        is_old = cycle.scope["http_version"] == "1.0"
        super()._start_asgi_task(cycle, _WithoutChunks(app, cycle) if is_old else app)


class _WithoutChunks:
    """Answers HTTP/1.0, which knows no chunks: a body of unknown length ends with the connection."""

    def __init__(self, app: ASGI3Application, cycle: RequestResponseCycle) -> None:
        self._app = app
        self._cycle = cycle

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        has_length = True

        async def send_plainly(message: ASGISendEvent) -> None:
            nonlocal has_length
            if message["type"] == "http.response.start":
                has_length = any(name.lower() == b"content-length" for name, _ in message.get("headers", ()))
                if not has_length:
                    self._cycle.chunked_encoding = False  # uvicorn sends chunks if there is no length, even to HTTP/1.0
            elif message["type"] == "http.response.body" and not has_length:
                self._cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await self._app(scope, receive, send_plainly)

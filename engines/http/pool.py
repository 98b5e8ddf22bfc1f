"""Connections to one server, kept open between requests: HTTP/1.1 as far as an engine's client needs it.

In: a method, a path and a body in pieces. Out: an `Answer` as soon as its headers are there, then its bytes as they
come. httptools reads what arrives; nothing is retried, redirected, unpacked or kept from one request to the next but
the connection. Why this is no library: `docs/decisions/engine-http.md`.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final
from urllib.parse import quote, urlsplit

import httptools
from aiohappyeyeballs import start_connection

# Shorter than the 5 s after which uvicorn, under vLLM too, closes an idle connection: ours must not be closed in use.
KEEP_ALIVE_S: Final = 4.0
# A container that was made anew has another address under its name.
_DNS_TTL_S: Final = 1.0
_MAX_HEAD_BYTES: Final = 64 * 1024
# What has come and was not read: above this nothing more is taken from the socket.
_MAX_UNREAD_BYTES: Final = 256 * 1024
# Written at a time, so that others have a turn between the pieces of a large body.
_WRITE_BYTES: Final = 256 * 1024
_HAPPY_EYEBALLS_S: Final = 0.25
_PORTS: Final = {"http": 80, "https": 443}


class UnreachableError(ConnectionError):
    """No connection could be made: the server did not have the request."""


class BrokenError(ConnectionError):
    """The connection broke, or brought what is no HTTP."""


class Answer:
    """An answer whose headers are there.

    Attributes:
        status: as the server sent it.
        headers: by lower-case name; of several with one name the last.
    """

    __slots__ = ("_connection", "headers", "status")

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection
        self.status = connection.status
        self.headers = connection.headers

    @property
    def content_type(self) -> str:
        """Without its parameters."""
        return self.headers.get("content-type", "application/octet-stream").partition(";")[0].strip().lower()

    async def read(self, until: float) -> bytes:
        """Return what has come since the last time, at least one byte; nothing at the end.

        Args:
            until: on the loop's clock, when to wait no longer.

        Raises:
            TimeoutError: if nothing comes by then.
            BrokenError: if the connection breaks before the end.
        """
        connection = self._connection
        while not connection.pieces:
            if connection.is_whole:
                return b""
            await connection.wait(until)
        return connection.take()

    def close(self) -> None:
        """Let the connection serve another request, if this answer was read to its end; otherwise close it."""
        self._connection.release()


class _Connection(asyncio.Protocol):
    """One connection; the server's answer to one request at a time.

    Attributes:
        pieces: of the body, not read yet.
        has_head: the headers of the answer are there.
        is_whole: it has ended.
        idle_since: on the loop's clock.
    """

    def __init__(self, pool: Pool, loop: asyncio.AbstractEventLoop) -> None:
        self._pool = pool
        self.loop = loop
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._failure: Exception | None = None
        self._is_reading = True
        self._is_asked = self._is_sent = self._keeps_open = False
        self._head_bytes = 0
        self._unread_bytes = 0
        self.transport: Any = None  # of asyncio or uvloop
        self.pieces: list[bytes] = []
        self.status = 0
        self.headers: dict[str, str] = {}
        self.has_head = self.is_whole = False
        self.idle_since = 0.0

    # --- called by the loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if not self._is_asked or self.is_whole:  # nobody has asked, or the answer has ended
            self.fail(BrokenError("the server sent more than an answer"))
            return
        if not self.has_head:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.fail(BrokenError(f"the server sent what is no HTTP: {error}"))
            return
        if not self.has_head and self._head_bytes > _MAX_HEAD_BYTES:
            self.fail(BrokenError(f"the server sent headers of over {_MAX_HEAD_BYTES} bytes"))
            return
        if self.has_head and self._room is not None:
            self.resume_writing()  # it has answered before it has read all, and may never do
        self._wake()

    def eof_received(self) -> None:
        # Closes the transport, which ends in `connection_lost`.
        return

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is None and self.has_head and not self.is_whole and self._ends_with_connection():
            self.is_whole = True
        self.fail(exc or BrokenError("the server closed the connection"))

    def pause_writing(self) -> None:
        self._room = self.loop.create_future()

    def resume_writing(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        self._room = None

    # --- called by the parser

    def on_message_begin(self) -> None:
        if self.is_whole:
            raise ValueError("the server sent more than an answer")
        self.headers = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        if self.status >= 200:  # before, there is another answer to come
            self.has_head = True
            self._keeps_open = self._parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        self.pieces.append(body)
        self._unread_bytes += len(body)
        if self._unread_bytes > _MAX_UNREAD_BYTES and self._is_reading:
            self._is_reading = False
            self.transport.pause_reading()

    def on_message_complete(self) -> None:
        self.is_whole = self.has_head

    # --- called by the client

    async def ask(self, head: bytes, body: Sequence[bytes], until: float) -> None:
        """Send a request, and wait for the headers of its answer; a server may answer before it has read all.

        Raises:
            TimeoutError: if they are not there by then.
            BrokenError: if the connection breaks before.
        """
        self._is_asked = True
        self._is_sent = self.has_head = self.is_whole = False
        self._head_bytes = 0
        if sum(map(len, body)) <= _WRITE_BYTES:
            self.transport.write(b"".join((head, *body)))
            self._is_sent = True
        else:
            self.transport.write(head)
            async with asyncio.timeout_at(until):
                self._is_sent = await self._write(body)
        while not self.has_head:
            await self.wait(until)

    async def _write(self, body: Sequence[bytes]) -> bool:
        """Write a large body; False if the answer, or the end of the connection, came first."""
        for piece in body:
            view = memoryview(piece)
            for start in range(0, len(view), _WRITE_BYTES):
                if self._room is not None:
                    await self._room
                if self.has_head or self._failure is not None:
                    return False
                self.transport.write(view[start : start + _WRITE_BYTES])
        return True

    async def wait(self, until: float) -> None:
        """Wait for anything to happen.

        Raises:
            TimeoutError: if nothing does.
            BrokenError: if the connection has broken.
        """
        if self._failure is not None:
            raise self._failure
        waiter = self._waiter = self.loop.create_future()
        timer = self.loop.call_at(until, _expire, waiter)
        try:
            await waiter
        finally:
            self._waiter = None
            timer.cancel()

    def take(self) -> bytes:
        """Return the bytes that have come."""
        pieces = self.pieces
        found = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._unread_bytes = 0
        if not self._is_reading:
            self._is_reading = True
            self.transport.resume_reading()
        return found

    def release(self) -> None:
        """Give the connection back, if it can serve another request."""
        if self.is_whole and self._is_sent and self._keeps_open and self._failure is None and not self.pieces:
            self._is_asked = False
            self._pool.keep(self)
        else:
            self.fail(BrokenError("the answer was left"))

    def fail(self, error: Exception) -> None:
        """Break it off with an error, which the caller that waits gets."""
        if self._failure is None:
            self._failure = error if isinstance(error, ConnectionError) else BrokenError(str(error))
        self._pool.forget(self)
        if self.transport is not None:
            self.transport.abort()
        self.resume_writing()
        self._wake()

    @property
    def is_usable(self) -> bool:
        """Whether it can serve a request."""
        return self._failure is None and not self.transport.is_closing()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _ends_with_connection(self) -> bool:
        return "content-length" not in self.headers and "chunked" not in self.headers.get("transfer-encoding", "")


class Pool:
    """The connections to one server.

    A pool belongs to the event loop that uses it first. It bounds no number of connections: an engine's own queue is
    the one place that says no.

    Args:
        root: ``http://host:port`` or ``https://...``; what a path is relative to is not part of it.
        headers: sent with every request.
        socket_path: of a unix socket, in place of the host.
    """

    def __init__(self, root: str, headers: Mapping[str, str], socket_path: str | None = None) -> None:
        parts = urlsplit(root)
        self._socket_path = socket_path
        self._host = parts.hostname or "localhost"
        self._port = parts.port or _PORTS[parts.scheme]
        self._is_tls = parts.scheme == "https"
        self._tls: ssl.SSLContext | None = None
        sent = {"Host": _to_host(parts.netloc), "Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "glowl"}
        self._fields = _to_fields({**sent, **headers})
        self._starts: dict[tuple[str, str], str] = {}  # of the few paths that there are
        self._open: set[_Connection] = set()
        self._idle: list[_Connection] = []
        self._resolved: tuple[float, asyncio.Task[list[Any]]] | None = None
        self._cleaning: asyncio.TimerHandle | None = None

    async def ask(
        self,
        method: str,
        path: str,
        body: Sequence[bytes] = (),
        *,
        headers: Mapping[str, str],
        connect_s: float,
        timeout_s: float,
    ) -> Answer:
        """Send a request; returns when the headers of its answer are there. The answer is to be closed.

        Args:
            method: GET or POST.
            path: absolute; one of a few.
            body: sent one piece after the other.
            headers: of this request.
            connect_s: longest time to connect.
            timeout_s: longest time to the headers of the answer, connecting included.

        Raises:
            TimeoutError: if they are not there by then.
            UnreachableError: if there is no connection to be had.
            BrokenError: if it breaks before the answer.
            ValueError: if a header cannot be sent.
        """
        start = self._starts.get((method, path))
        if start is None:
            target = quote(path, safe="/%:@!$&'()*+,;=~-._")
            start = self._starts[method, path] = f"{method} {target} HTTP/1.1\r\n{self._fields}"
        length = f"Content-Length: {sum(map(len, body))}\r\n" if method == "POST" else ""
        head = f"{start}{_to_fields(headers)}{length}\r\n".encode()
        until = asyncio.get_running_loop().time() + timeout_s
        connection = self._take_idle() or await self._connect(connect_s, until)
        try:
            await connection.ask(head, body, until)
        except BaseException:
            connection.fail(BrokenError("the request was given up"))
            raise
        answer = Answer(connection)
        if answer.headers.get("content-encoding", "identity").strip().lower() not in ("identity", ""):
            answer.close()
            raise BrokenError("the server packed its answer, though it was asked not to")
        return answer

    def close(self) -> None:
        """Break all connections off."""
        for connection in tuple(self._open):
            connection.fail(BrokenError("the client was closed"))
        if self._cleaning is not None:
            self._cleaning.cancel()

    def keep(self, connection: _Connection) -> None:
        """Take back a connection that can serve another request."""
        connection.idle_since = connection.loop.time()
        self._idle.append(connection)
        if self._cleaning is None:
            self._cleaning = connection.loop.call_later(KEEP_ALIVE_S, self._close_old, connection.loop)

    def forget(self, connection: _Connection) -> None:
        """Count a connection no more."""
        self._open.discard(connection)
        with suppress(ValueError):
            self._idle.remove(connection)

    def _take_idle(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()  # the one used last
            is_old = connection.loop.time() - connection.idle_since >= KEEP_ALIVE_S
            if connection.is_usable and not is_old:
                return connection
            connection.fail(BrokenError("it was idle"))
        return None

    def _close_old(self, loop: asyncio.AbstractEventLoop) -> None:
        for connection in tuple(self._idle):
            if loop.time() - connection.idle_since >= KEEP_ALIVE_S:
                connection.fail(BrokenError("it was idle"))
        self._cleaning = loop.call_later(KEEP_ALIVE_S, self._close_old, loop) if self._idle else None

    async def _connect(self, connect_s: float, until: float) -> _Connection:
        loop = asyncio.get_running_loop()
        connection = _Connection(self, loop)
        end = loop.time() + connect_s
        try:
            async with asyncio.timeout_at(min(end, until)):
                if self._socket_path is not None:
                    await loop.create_unix_connection(lambda: connection, self._socket_path)
                else:
                    await self._connect_tcp(loop, connection)
        except TimeoutError as error:
            if until < end:
                raise
            raise UnreachableError(f"no connection within {connect_s:g} s") from error
        except OSError as error:  # of names and certificates too
            raise UnreachableError(str(error) or type(error).__name__) from error
        self._open.add(connection)
        return connection

    async def _connect_tcp(self, loop: asyncio.AbstractEventLoop, connection: _Connection) -> None:
        if self._is_tls and self._tls is None:
            self._tls = await loop.run_in_executor(None, ssl.create_default_context)
        found = await start_connection(
            await self._addresses(loop), happy_eyeballs_delay=_HAPPY_EYEBALLS_S, interleave=1, loop=loop
        )
        try:
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            name = self._host if self._is_tls else None
            await loop.create_connection(lambda: connection, sock=found, ssl=self._tls, server_hostname=name)
        except BaseException:
            found.close()
            raise

    async def _addresses(self, loop: asyncio.AbstractEventLoop) -> list[Any]:
        """Look the host up; once for all who connect within a second."""
        if self._resolved is None or loop.time() - self._resolved[0] >= _DNS_TTL_S:
            looking = loop.create_task(self._look_up(loop))
            looking.add_done_callback(lambda done: done.cancelled() or done.exception())  # it may have lost its readers
            self._resolved = (loop.time(), looking)
        try:
            return await asyncio.shield(self._resolved[1])
        except OSError:
            self._resolved = None
            raise

    async def _look_up(self, loop: asyncio.AbstractEventLoop) -> list[Any]:
        return await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)


def _expire(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_exception(TimeoutError())


def _to_host(netloc: str) -> str:
    return netloc if netloc.isascii() else netloc.encode("idna").decode()


def _to_fields(headers: Mapping[str, str]) -> str:
    for name, value in headers.items():
        if "\r" in value or "\n" in value or "\0" in value:
            raise ValueError(f"the header {name} has a line break in it")
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items())

"""Bodies that were packed for the way: ``Content-Encoding: gzip``, ``deflate`` or ``zstd`` (RFC 9110, 8.4; RFC 9659).

In: a packed body. Out: the same request with the body as it was, in pieces, so that the reader's own limit stops a
bomb; or a 415 that names what is accepted. What unpacks to nothing never meets that limit, so the packed bytes and the
members (gzip) or frames (zstd) are bounded here.
"""

from __future__ import annotations

import asyncio
import sys
import zlib
from collections.abc import Iterator
from typing import Final, Protocol

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from router.api.errors import respond
from router.errors import BadRequestError, BodyTooLargeError, EncodingUnsupportedError
from router.middleware import texts
from router.settings import Settings

# A piece takes well under a millisecond to unpack; between two of them others get their turn.
_PIECE_BYTES: Final = 256 * 1024
# The window that RFC 9659 lets a sender use: 8 MB. A larger one is memory that a few bytes could ask for.
_ZSTD_WINDOW_LOG: Final = 23
_GZIP_WBITS: Final = 31
# A client sends one, a packer with threads a few. Each costs a new state, however empty it is.
_MAX_MEMBERS: Final = 64
# An upload may be as large as a file, and has other fields around it.
_UPLOADS: Final = "/files"
_FORM_BYTES: Final = 1024 * 1024


class Unpacked:
    """Unpacks the bodies of requests.

    Args:
        app: what comes after.
        settings: the limits of bodies and files.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._max_bytes = settings.max_body_bytes
        self._max_upload_bytes = max(settings.max_file_bytes + _FORM_BYTES, settings.max_body_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, its body unpacked."""
        given = Headers(scope=scope).getlist("content-encoding") if scope["type"] == "http" else []
        encodings = [name.strip().lower() for name in ",".join(given).split(",")]
        encodings = [name for name in encodings if name not in ("", "identity")]
        if not encodings:
            await self._app(scope, receive, send)
            return
        if len(encodings) > 1 or encodings[0] not in _UNPACKERS:
            response = respond(Request(scope), _unsupported(", ".join(encodings)))
            response.headers["accept-encoding"] = ", ".join(_UNPACKERS)
            await response(scope, receive, send)
            return
        scope = {**scope, "headers": list(scope["headers"])}
        headers = MutableHeaders(scope=scope)
        for name in ("content-encoding", "content-length"):  # of the packed body
            del headers[name]
        is_upload = scope["path"].rstrip("/").endswith(_UPLOADS)
        limit = self._max_upload_bytes if is_upload else self._max_bytes
        body = _Body(receive, _UNPACKERS[encodings[0]](), encodings[0], limit)
        await self._app(scope, body.receive, send)


class _BrokenError(ValueError):
    """The bytes are not packed as they should be."""


class _Unpacker(Protocol):
    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield what some more bytes unpack to, at most `_PIECE_BYTES` at a time."""

    @property
    def is_at_end(self) -> bool:
        """Whether what came so far is whole."""


class _Body:
    """The ASGI ``receive`` of an unpacked body."""

    def __init__(self, receive: Receive, unpacker: _Unpacker, name: str, max_bytes: int) -> None:
        self._receive = receive
        self._unpacker = unpacker
        self._name = name
        self._max_bytes = max_bytes
        self._packed_bytes = 0
        self._pieces: Iterator[bytes] = iter(())
        self._is_last = self._is_over = False

    async def receive(self) -> Message:
        """Return the next piece.

        Raises:
            BadRequestError: if the body is not packed as it says, or in too many members.
            BodyTooLargeError: if more arrives than even the unpacked body may have.
        """
        while not self._is_over:
            try:
                piece = next(self._pieces, None)
            except _BrokenError as error:
                raise _broken(self._name, str(error)) from None
            if piece is not None:
                await asyncio.sleep(0)
                return {"type": "http.request", "body": piece, "more_body": True}
            if self._is_last:
                if not self._unpacker.is_at_end:
                    raise _broken(self._name, "it breaks off")
                self._is_over = True
                return {"type": "http.request", "body": b"", "more_body": False}
            message = await self._receive()
            if message["type"] != "http.request":
                return message
            self._is_last = not message.get("more_body", False)
            self._packed_bytes += len(message.get("body", b""))
            if self._packed_bytes > self._max_bytes:
                raise BodyTooLargeError(texts.PACKED_TOO_LARGE.fill(max_bytes=self._max_bytes))
            self._pieces = self._unpacker.feed(message.get("body", b""))
        return await self._receive()


class _Gzip:
    def __init__(self) -> None:
        self._member = zlib.decompressobj(_GZIP_WBITS)
        self._members = 0
        self.is_at_end = True

    def feed(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self.is_at_end:  # a file may have several members, and zeros behind the last one
                data = data.lstrip(b"\0") if self._member.eof else data
                if not data:
                    return
                self._members = _one_more(self._members)
                self._member = zlib.decompressobj(_GZIP_WBITS)
                self.is_at_end = False
            yield from _unpack(self._member, data)
            self.is_at_end = self._member.eof
            data = self._member.unused_data


class _Deflate:
    """What HTTP calls deflate is zlib's format; many clients send the bare stream in it."""

    def __init__(self) -> None:
        self._first = b""
        self._stream: zlib._Decompress | None = None

    @property
    def is_at_end(self) -> bool:
        return not self._first if self._stream is None else self._stream.eof

    def feed(self, data: bytes) -> Iterator[bytes]:
        if self._stream is None:
            self._first += data
            if len(self._first) < 2:
                return
            has_header = self._first[0] & 15 == 8 and int.from_bytes(self._first[:2]) % 31 == 0
            self._stream = zlib.decompressobj(zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS)
            data = self._first
        if data and not self._stream.eof:
            yield from _unpack(self._stream, data)


class _Zstd:
    def __init__(self) -> None:
        # Few clients send it, so most processes never load it.
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
        self._zstd = zstd
        self._frame: zstd.ZstdDecompressor | None = None
        self._frames = 0

    @property
    def is_at_end(self) -> bool:
        return self._frame is None or self._frame.eof

    def feed(self, data: bytes) -> Iterator[bytes]:
        try:
            while data:
                if self._frame is None or self._frame.eof:
                    self._frames = _one_more(self._frames)
                    options = {int(self._zstd.DecompressionParameter.window_log_max): _ZSTD_WINDOW_LOG}
                    self._frame = self._zstd.ZstdDecompressor(options=options)
                yield self._frame.decompress(data, _PIECE_BYTES)
                while not self._frame.eof and not self._frame.needs_input:
                    yield self._frame.decompress(b"", _PIECE_BYTES)
                data = self._frame.unused_data if self._frame.eof else b""
        except self._zstd.ZstdError as error:
            raise _BrokenError(str(error)) from None


_UNPACKERS: Final[dict[str, type[_Unpacker]]] = {"gzip": _Gzip, "x-gzip": _Gzip, "deflate": _Deflate, "zstd": _Zstd}


def _one_more(members: int) -> int:
    if members >= _MAX_MEMBERS:
        raise _BrokenError(f"it has more than {_MAX_MEMBERS} members (gzip) or frames (zstd)")
    return members + 1


def _unpack(stream: zlib._Decompress, data: bytes) -> Iterator[bytes]:
    while not stream.eof:
        try:
            piece = stream.decompress(data, _PIECE_BYTES)
        except zlib.error as error:
            raise _BrokenError(str(error)) from None
        yield piece
        data = stream.unconsumed_tail
        if not data and len(piece) < _PIECE_BYTES:
            return


def _unsupported(encoding: str) -> EncodingUnsupportedError:
    accepted = "gzip, deflate, zstd"
    return EncodingUnsupportedError(texts.UNKNOWN_ENCODING.fill(encoding=encoding[:64], accepted=accepted))


def _broken(encoding: str, why: str) -> BadRequestError:
    return BadRequestError(texts.NOT_ENCODED.fill(encoding=encoding, why=why), code="invalid_encoding")

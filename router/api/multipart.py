"""Reading ``multipart/form-data`` as it comes in, without ever holding the file in it.

In: the pieces of a request's body. Out: the small fields, and the file's bytes handed on piece by piece.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from email.message import Message
from email.parser import HeaderParser
from typing import Final

from policies.text import Text
from router.api import texts
from router.errors import BadRequestError

_MAX_HEAD_BYTES: Final = 8192
_MAX_FIELD_BYTES: Final = 65536
_MAX_FIELDS: Final = 64
_MAX_SHOWN: Final = 64

# Of a body, beside the bytes of its file; `deploy/nginx/start.sh` allows as much.
MAX_AROUND_BYTES: Final = 2**20

Write = Callable[[bytes], Awaitable[None]]


@dataclass
class Form:
    """What a form held.

    Attributes:
        fields: text by name.
        filename: of the file; None if there was none.
    """

    fields: dict[str, str] = field(default_factory=dict)
    filename: str | None = None


def is_form(content_type: str) -> bool:
    """Whether a body says that it is a form."""
    return content_type.partition(";")[0].strip().lower() == "multipart/form-data"


async def read_form(
    content_type: str, body: AsyncIterator[bytes], form: Form, *, file_field: str, write: Write
) -> None:
    """Read a form with one file in it (RFC 7578).

    Args:
        content_type: the request's header.
        body: its pieces, cut anywhere.
        form: is filled as the parts come: what came before the file is there while that is written.
        file_field: the field whose bytes go to ``write``.
        write: takes the file's next bytes.

    Raises:
        BadRequestError: if it is no such form, or has a field twice.
    """
    head = _parse_head(b"content-type: " + content_type.encode("latin-1", "replace"))
    boundary = head.get_boundary()
    if head.get_content_type() != "multipart/form-data" or not boundary:
        raise _broken(texts.FORM_TYPE)
    pieces = _Pieces(body, b"\r\n")
    delimiter = b"--" + boundary.encode("latin-1", "replace")
    # What comes before the first delimiter is nothing; a line end before it lets it be found like all others.
    await pieces.pass_on(b"\r\n" + delimiter, _drop)
    for _ in range(_MAX_FIELDS):
        rest_of_delimiter = await pieces.read_until(b"\r\n", _MAX_HEAD_BYTES, or_end=True)
        if rest_of_delimiter.startswith(b"--"):
            return
        part = _parse_head(await pieces.read_until(b"\r\n\r\n", _MAX_HEAD_BYTES))
        name = part.get_param("name", header="content-disposition")
        filename = part.get_filename()
        if str(name) in form.fields or (name == file_field and form.filename is not None):
            raise _broken(
                texts.FORM_TWICE.fill(name=str(name)[:_MAX_SHOWN])
            )  # else one of them would be lost in silence
        if name == file_field and filename is not None:
            form.filename = filename
            await pieces.pass_on(b"\r\n" + delimiter, write)
        else:
            text = await pieces.read_until(b"\r\n" + delimiter, _MAX_FIELD_BYTES)
            form.fields[str(name)] = text.decode("utf-8", "replace")
    raise _broken(texts.FORM_FIELDS)


class _Pieces:
    """A body that is read up to marks, wherever it was cut."""

    def __init__(self, body: AsyncIterator[bytes], before: bytes) -> None:
        self._body = body
        self._pending = bytearray(before)

    async def read_until(self, mark: bytes, limit: int, *, or_end: bool = False) -> bytes:
        """Return what comes before a mark, and skip the mark."""
        while (at := self._pending.find(mark)) < 0:
            if len(self._pending) > limit:
                break
            if not await self._fill():
                if or_end:
                    at = len(self._pending)
                    break
                raise _broken(texts.FORM_CUT)
        if not 0 <= at <= limit:
            raise _broken(texts.FORM_FIELD_LONG)
        found = bytes(self._pending[:at])
        del self._pending[: at + len(mark)]
        return found

    async def pass_on(self, mark: bytes, write: Write) -> None:
        """Hand on what comes before a mark, and skip the mark."""
        while (at := self._pending.find(mark)) < 0:
            # The end of what is there may be the beginning of the mark.
            num_sure = len(self._pending) - len(mark) + 1
            if num_sure > 0:
                await write(bytes(self._pending[:num_sure]))
                del self._pending[:num_sure]
            if not await self._fill():
                raise _broken(texts.FORM_CUT)
        if at:
            await write(bytes(self._pending[:at]))
        del self._pending[: at + len(mark)]

    async def _fill(self) -> bool:
        async for piece in self._body:
            if piece:
                self._pending += piece
                return True
        return False


async def _drop(_data: bytes) -> None:
    pass


def _parse_head(head: bytes) -> Message:
    return HeaderParser().parsestr(head.decode("utf-8", "replace"))


def _broken(text: Text) -> BadRequestError:
    return BadRequestError(text, code="invalid_form")

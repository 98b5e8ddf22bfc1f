"""From bytes of the input file to lines, and from a line to what it asks for.

In: a stored file, read a chunk at a time. Out: `Line`s, one at a time, each at most so large; then its custom id and
body, or the `Problem` with it.
"""

from __future__ import annotations

import codecs
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import orjson

from policies.text import Text
from router.batches import texts
from router.batches.files import FileStore
from router.errors import BadRequestError
from router.json_count import JsonCounter

MAX_CUSTOM_ID = 512
# Read this much to recognise a file that holds no lines of JSON.
HEAD_BYTES = 64 * 1024
_BOM = b"\xef\xbb\xbf"
_PACKED = (
    (b"\x1f\x8b", "gzip"),
    (b"PK\x03\x04", "zip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ", "xz"),
    (b"7z\xbc\xaf", "7z"),
)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the input that is not blank.

    Attributes:
        number: counted from 1, blank lines too.
        offset: where it begins.
        num_bytes: its length, with what ends it.
        data: its bytes; None if it is longer than is accepted.
    """

    number: int
    offset: int
    num_bytes: int
    data: bytes | None

    @property
    def end(self) -> int:
        """Where the next line begins."""
        return self.offset + self.num_bytes


@dataclass(frozen=True, slots=True)
class LineLimits:
    """How large a line may be: as large as the body of a request.

    Attributes:
        max_bytes: of the line.
        max_items: objects and lists in it, the line's own included.
    """

    max_bytes: int
    max_items: int


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a line cannot become a request."""

    code: str
    text: Text
    param: str | None = None


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a line asks for.

    Attributes:
        custom_id: the caller's name for it; None if it has none that can be read.
        body: of the request; None if there is a problem.
        problem: with the line.
    """

    custom_id: str | None
    body: dict[str, Any] | None = None
    problem: Problem | None = None


def find_file_problem(head: bytes) -> Problem | None:
    """Say what is wrong with a file as a whole, by its first bytes: each of its lines would fail for the same reason.

    Args:
        head: the file's beginning, as many bytes as are worth looking at.
    """
    packed = next((name for magic, name in _PACKED if head.startswith(magic)), None)
    if packed is not None:
        return _wrong_file(
            texts.PACKED.fill(packed=packed),
        )
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in head or _is_other_encoding(head):
        return _wrong_file(
            texts.NOT_UTF8,
        )
    text = head.removeprefix(_BOM).lstrip()
    if text.startswith(b"[") or text.partition(b"\n")[0].strip() == b"{":
        return _wrong_file(
            texts.NOT_LINES,
        )
    return None


def _is_other_encoding(head: bytes) -> bool:
    """Whether several lines have characters beyond ASCII, and none is UTF-8: one broken line is its own error."""
    *lines, last = head.split(b"\n")
    beyond = [line for line in lines or [last] if not line.isascii()]
    return len(beyond) > 1 and not any(_is_utf_8(line) for line in beyond)


def _is_utf_8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _wrong_file(text: Text) -> Problem:
    return Problem("invalid_input_file", text, "input_file_id")


async def read_lines(
    files: FileStore, file_id: str, num_bytes: int, *, offset: int = 0, number: int = 0, max_line_bytes: int
) -> AsyncGenerator[Line, None]:
    """Yield lines from an offset on; holds one chunk and one line at a time.

    Args:
        files: where they are.
        file_id: which.
        num_bytes: its size.
        offset: where a line begins.
        number: of the line before.
        max_line_bytes: longer lines come without their bytes.

    Raises:
        FileGoneError: if the file is deleted meanwhile.
    """
    pending = bytearray()
    size = 0  # of the line so far, dropped bytes included
    async with contextlib.aclosing(files.stream(file_id, num_bytes, offset)) as chunks:
        async for chunk in chunks:
            begin = 0
            while (newline := chunk.find(b"\n", begin)) >= 0:
                pending += chunk[begin : newline + 1]
                size += newline + 1 - begin
                begin = newline + 1
                number += 1
                line = _to_line(number, offset, size, pending, max_line_bytes)
                offset += size
                pending.clear()
                size = 0
                if line is not None:
                    yield line
            rest = len(chunk) - begin
            size += rest
            if size <= max_line_bytes:
                pending += chunk[begin:]
            else:
                pending.clear()
    if size:
        line = _to_line(number + 1, offset, size, pending, max_line_bytes)
        if line is not None:
            yield line


def _to_line(number: int, offset: int, size: int, data: bytearray, max_line_bytes: int) -> Line | None:
    if size > max_line_bytes:
        return Line(number, offset, size, None)
    text = bytes(data).strip()
    if offset == 0:
        text = text.removeprefix(_BOM)
    return Line(number, offset, size, text) if text else None


def parse_line(data: bytes | None, endpoint: str, limits: LineLimits) -> Parsed:
    """Read a line.

    Args:
        data: its bytes; None if it is too long.
        endpoint: that it must be a request to.
        limits: of its size.
    """
    if data is None:
        size = limits.max_bytes
        return _refused(None, "line_too_large", texts.LINE_TOO_LONG.fill(size=size))
    counter = JsonCounter(limits.max_items)
    try:
        counter.feed(data)
        entry = orjson.loads(data)
    except BadRequestError as error:
        return _refused(None, error.code, error.text)
    except orjson.JSONDecodeError as error:
        return _refused(None, "invalid_json_line", texts.NOT_JSON.fill(error=error))
    if not isinstance(entry, dict):
        return _refused(None, "invalid_json_line", texts.NOT_OBJECT)
    custom_id = entry.get("custom_id")
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= MAX_CUSTOM_ID:
        return _refused(
            None,
            "invalid_custom_id",
            texts.CUSTOM_ID.fill(max_custom_id=MAX_CUSTOM_ID),
            "custom_id",
        )
    try:
        counter.check_names(data, entry)
    except BadRequestError as error:
        return _refused(custom_id, error.code, error.text, error.param)
    if entry.get("method") != "POST":
        return _refused(custom_id, "invalid_method", texts.METHOD, "method")
    if entry.get("url") != endpoint:
        return _refused(custom_id, "mismatched_endpoint", texts.ENDPOINT.fill(endpoint=endpoint), "url")
    body = entry.get("body")
    if not isinstance(body, dict):
        return _refused(custom_id, "invalid_body", texts.BODY, "body")
    return Parsed(custom_id, body)


def duplicate(custom_id: str) -> Parsed:
    """Return what is wrong with a line whose name an earlier one has."""
    return _refused(
        custom_id,
        "duplicate_custom_id",
        texts.SAME_ID,
        "custom_id",
    )


def _refused(custom_id: str | None, code: str, text: Text, param: str | None = None) -> Parsed:
    return Parsed(custom_id, None, Problem(code, text, param))

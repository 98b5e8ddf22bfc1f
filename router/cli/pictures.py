"""Pictures on the command line: files become data URLs, web addresses stay what they are.

In: an argument. Out: a string for ``image_url``. Only the first bytes are looked at; decoding is the service's work.
"""

from __future__ import annotations

from pathlib import Path

import pybase64

from router.cli.common import Language
from router.cli.texts import say

# In base64 it is the 64 MB that the service takes as a request.
MAX_FILE_BYTES = 48 * 1024 * 1024
_NUM_MAGIC_BYTES = 16

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"BM", "image/bmp"),
)


class PictureError(Exception):
    """An argument that is no picture; the message is for the user."""


def sniff(data: bytes) -> str | None:
    """The media type that the first bytes speak of, or None."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((media_type for magic, media_type in _MAGIC if data.startswith(magic)), None)


def is_url(argument: str) -> bool:
    """Whether the argument is an address that the service fetches, or carries, itself."""
    return argument[:8].lower().startswith(("http://", "https://", "data:"))


def read_picture(argument: str, language: Language) -> tuple[bytes, str]:
    """A file's bytes and media type.

    Raises:
        PictureError: if it cannot be read, is no picture or larger than any request.
    """
    try:
        with Path(argument).expanduser().open("rb") as file:
            # A film or a device may have more bytes than the machine has memory.
            data = file.read(_NUM_MAGIC_BYTES)
            media_type = sniff(data)
            if media_type is not None:
                data += file.read(MAX_FILE_BYTES + 1 - len(data))
    except FileNotFoundError:
        raise PictureError(say("ask.file.missing", language, path=argument)) from None
    except (OSError, ValueError, RuntimeError) as error:  # the last two: a zero byte, "~" of an unknown user
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise PictureError(say("ask.file.unreadable", language, path=argument[:200], reason=reason)) from None
    if media_type is None:
        raise PictureError(say("ask.file.type", language, path=argument))
    if len(data) > MAX_FILE_BYTES:
        raise PictureError(say("ask.file.large", language, path=argument, most=MAX_FILE_BYTES // 2**20))
    return data, media_type


def to_image_url(argument: str, language: Language) -> str:
    """What the API takes as ``image_url``.

    Raises:
        PictureError: if it is neither an address nor a readable picture file.
    """
    if is_url(argument):
        return argument
    data, media_type = read_picture(argument, language)
    return f"data:{media_type};base64,{pybase64.b64encode_as_string(data)}"

"""JSON as one line of text: for server-sent events, JSON Lines and every other reader that cuts at line ends.

In: anything that orjson encodes. Out: UTF-8 bytes without a character that any common reader takes for a line end.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

# JSON allows these inside a string, but `str.splitlines`, and with it `httpx.iter_lines`, ends a line there. In JSON
# text their bytes can only be part of a string. All other line ends are control characters, which JSON escapes anyway.
_LINE_ENDS: Final = ((b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"), (b"\xc2\x85", b"\\u0085"))


_LINE_END_TEXTS: Final = {ord(raw.decode()): escaped.decode() for raw, escaped in _LINE_ENDS}


def to_one_line(text: str) -> str:
    """Escape U+2028, U+2029 and U+0085 in a line of JSON."""
    return text.translate(_LINE_END_TEXTS)


def dump_line(value: Any) -> bytes:
    """Encode a value as JSON in which U+2028, U+2029 and U+0085 are escaped; no line end follows.

    Raises:
        orjson.JSONEncodeError: if it is no JSON, or holds a lone surrogate.
    """
    text = orjson.dumps(value)
    for raw, escaped in _LINE_ENDS:
        text = text.replace(raw, escaped)
    return text

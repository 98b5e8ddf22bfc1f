"""Text files that people wrote with other programs: bytes of some encoding go in, text comes out.

In: a path (``-`` is stdin), and the encoding if the user names one. Out: text, and the encoding it was read in. What
cannot be told for certain is refused in one line that says what to do: a wrong guess would send other characters.
"""

from __future__ import annotations

import codecs
import contextlib
import re
import sys
from pathlib import Path

from router.cli.common import Language
from router.cli.encodings import find_rivals, is_everyday
from router.cli.texts import say

STDIN = Path("-")

# A UTF-32 mark begins with that of UTF-16, so it is looked for first.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SPREADSHEET, _PACKED, _OTHER = "text.spreadsheet", "text.packed", "text.other"
_NO_TEXT: tuple[tuple[bytes, str, str], ...] = (
    (b"PK\x03\x04", _SPREADSHEET, "xlsx, ods, zip"),
    (b"\xd0\xcf\x11\xe0", _SPREADSHEET, "xls"),
    (b"\x1f\x8b", _PACKED, "gzip"),
    (b"\x28\xb5\x2f\xfd", _PACKED, "zstd"),
    (b"BZh", _PACKED, "bzip2"),
    (b"\xfd7zXZ", _PACKED, "xz"),
    (b"7z\xbc\xaf", _PACKED, "7z"),
    (b"%PDF", _OTHER, "PDF"),
    (b"\x89PNG", _OTHER, "PNG"),
    (b"\xff\xd8\xff", _OTHER, "JPEG"),
)
_LINE_END = re.compile(r"\r\n|\n|\r")
_CONTROL = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_KANA = re.compile("[\u3041-\u30ff]")
_HAN_GAP = re.compile("[\u4e00-\u9fff] +(?=[\u4e00-\u9fff])")


# Encodings of seven bits: the bytes are ASCII, and what they mean stands between marks.
_SHIFTED: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (re.compile(rb"\x1b\$[@B]|\x1b\([IJ]"), "iso2022_jp"),
    (re.compile(rb"\x1b\$\)C"), "iso2022_kr"),
    (re.compile(rb"\x1b\$[)*+]?[A-Z]"), "ISO-2022-CN"),
    (re.compile(rb"~\{(?:[!-w][!-~])+~\}"), "hz"),
)
_UTF7_RUN = re.compile(rb"\+(?:-|([A-Za-z0-9+/]*)-?)")
# What few characters of a UTF-8 file usually are; each of them may be a Chinese one in GB18030 (CD BC is "图").
_USUAL_IN_UTF8 = re.compile(
    "(?=[\u00c0-\u017f]*[A-Za-z])[A-Za-z\u00c0-\u017f]{2,}|[\u0386-\u03ce]{3,}|[\u0400-\u045f\u0490\u0491]{2,}|[\u05d0-\u05ea]{2,}|[\u0621-\u064a]{2,}"
    "|\u00a0|[£¥§±] ?\\d|\\d ?[°²³½¼¾]|[«»¡¿©®]|(?:\\d|\\b[kM]?)[ ]?[\u00b5\u03bc\u03a9]"
)
_FOREIGN = re.compile("[^\x00-\x7f]")
_PRIVATE = re.compile("[\ue000-\uf8ff]")
# Eight Chinese characters that are UTF-8 by chance are rarer than one file in ten million.
_MAX_CHANCE = 8


class TextFileError(Exception):
    """A file that cannot be read as text; the message is for the user."""


def read_text_file(file: Path, language: Language, encoding: str | None = None) -> tuple[str, str]:
    """Read a whole text file.

    Args:
        file: its path; ``-`` reads stdin.
        language: of a refusal.
        encoding: as Python names it; None finds it out.

    Returns:
        The text without a byte order mark, and the encoding.

    Raises:
        TextFileError: if it cannot be read, is no text, or its encoding cannot be told.
    """
    try:
        data = sys.stdin.buffer.read() if file == STDIN else file.read_bytes()
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise TextFileError(say("text.unreadable", language, path=file, reason=reason)) from None
    for magic, kind, name in _NO_TEXT:
        if data.startswith(magic):
            raise TextFileError(say(kind, language, path=file, kind=name))
    if encoding is None:
        shifted = find_shifted(data)
        if shifted is not None:
            raise TextFileError(say("text.encoding.shifted", language, path=file, encoding=shifted))
        found = detect_encoding(data)
        if found is None:
            raise TextFileError(_say_uncertain(data, file, language))
    else:
        found = encoding
    try:
        text = data.decode(found)
    except LookupError:
        raise TextFileError(say("text.encoding.name", language, encoding=encoding)) from None
    except UnicodeError:
        raise TextFileError(say("text.encoding.wrong", language, path=file, encoding=encoding)) from None
    if _CONTROL.search(text):
        raise TextFileError(say(_OTHER, language, path=file, kind="?"))
    return text.removeprefix("\ufeff"), found


def split_lines(text: str, maxsplit: int = 0) -> list[str]:
    """Split at line ends of all systems, and at nothing else: U+2028 and its like stand inside JSON strings."""
    return _LINE_END.split(text, maxsplit)


def detect_encoding(data: bytes) -> str | None:
    """Tell the encoding of a text: by its mark, else UTF-8, else GB18030 if it is plainly Chinese; else None."""
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), None)
    if encoding is None and b"\x00" in data:
        # UTF-16 without a mark: line ends, commas and digits have their zero byte on one side.
        at_even, at_odd = data[::2].count(0), data[1::2].count(0)
        encoding = "utf-16-le" if 2 * at_even < at_odd else "utf-16-be" if 2 * at_odd < at_even else None
        if encoding is None:
            return None
    for candidate in (encoding,) if encoding else ("utf-8", "gb18030"):
        try:
            text = data.decode(candidate)
        except UnicodeDecodeError:
            continue
        if candidate == "utf-8" and _is_doubtful(text, data):
            return None
        return candidate if candidate != "gb18030" or _is_certainly_chinese(text, data) else None
    return None


def _say_uncertain(data: bytes, file: Path, language: Language) -> str:
    """Say that an encoding cannot be told, and which ones it may be."""
    found = [] if b"\x00" in data else find_rivals(data)
    with contextlib.suppress(UnicodeDecodeError):
        if b"\x00" not in data and _is_chinese(data.decode("gb18030")):
            found.insert(0, "gb18030")
    if not found:
        return say("text.encoding.unknown", language, path=file)
    return say("text.encoding.maybe", language, path=file, encodings=", ".join(found), first=found[0])


def find_shifted(data: bytes) -> str | None:
    """Return which encoding of seven bits a text seems to be in, whose bytes would pass for ASCII; None if it is none.

    It is not decoded unasked: "+AGE-" may be meant as it stands.
    """
    if not data.isascii():
        return None
    for mark, name in _SHIFTED:
        if mark.search(data):
            return name
    return "utf-7" if b"+" in data and _is_utf7(data) else None


def _is_utf7(data: bytes) -> bool:
    """Whether every plus sign begins a run of UTF-7, and one at least spells letters that are not ASCII."""
    has_letters = False
    for run in _UTF7_RUN.finditer(data):
        if run[0] == b"+-":
            continue
        try:
            text = run[0].decode("utf-7")
        except UnicodeDecodeError:
            return False
        if not text or any(char.isascii() or not char.isprintable() for char in text):
            return False
        has_letters |= any(char.isalpha() for char in text)
    return has_letters


def _is_doubtful(text: str, data: bytes) -> bool:
    """Whether the few characters of a UTF-8 text are unusual, and would be usual ones in another encoding."""
    foreign = _FOREIGN.findall(text)
    if not 0 < len(foreign) <= _MAX_CHANCE or max(foreign) > "\u07ff":
        return False
    try:
        chinese = data.decode("gb18030")
    except UnicodeDecodeError:
        return False
    is_other = bool(find_rivals(data)) or all("\u4e00" <= char <= "\u9fff" for char in _FOREIGN.findall(chinese))
    return is_other and _FOREIGN.search(_USUAL_IN_UTF8.sub("", text)) is not None


def _is_certainly_chinese(text: str, data: bytes) -> bool:
    """Whether a text is Chinese, and is not as good in another encoding, or speaks the most usual Chinese."""
    return _is_chinese(text) and (is_everyday(text) or not find_rivals(data))


def _is_chinese(text: str) -> bool:
    """Whether text decoded as GB18030 really is Chinese: files in other encodings decode too, into a wild mixture.

    Western accents and Big5 give characters outside GB2312, Cyrillic its rare second half, Japanese shows kana, and
    Korean and Cyrillic have a space after every few characters. Code points for private use are in no Chinese text, but
    in Korean with Chinese characters (GB18030 maps what KS X 1001 has there to them).
    """
    if _PRIVATE.search(text):
        return False
    foreign = [char for char in text if ord(char) > 127]
    codes = [code for code in map(_gb2312, foreign) if code]
    han = [code for code in codes if code[0] >= 0xB0]
    common = [code for code in han if code[0] <= 0xD7]
    is_usual = len(codes) >= 0.85 * len(foreign) and len(common) >= 0.85 * len(han)
    return bool(han) and is_usual and not _KANA.search(text) and 8 * len(_HAN_GAP.findall(text)) < len(han)


def _gb2312(char: str) -> bytes:
    try:
        return char.encode("gb2312")
    except UnicodeEncodeError:
        return b""

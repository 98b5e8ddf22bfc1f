"""Which other encodings a text may be in that decodes as GB18030 into Chinese characters.

In: bytes. Out: the encodings in which they read as well as in GB18030. A short Korean, Japanese or Russian word is two
or three Chinese characters in GB18030, and often common ones. What tells them apart is the alphabet: Korean is Hangul
alone, Russian words have one case, and Japanese and traditional Chinese keep to the first part of their tables, where
longer Chinese texts don't.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import Final

# Half of the characters of a usual Chinese text, and 4 % of the common ones that foreign bytes happen to be.
_EVERYDAY: Final = frozenset(
    "的一是不了在有人我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过后里用道行所然"
    "家种事成方多经么去法学如都同现当没动面起看定天分还进好小部些主样理心她本前开但因只从想实日几什谁哪图片张请"
    "问少吗呢把被给最写字色吃红黄蓝绿白黑左右两三四五六七八九十月号名数量价格公司总额元商品文内容描述物点间位边候"
)
_WORD: Final = re.compile("[^\\W\\d_]+")
_JAPANESE: Final = re.compile("[\u3041-\u30ff]")
# Half-width kana: marks of voice follow kana that may have them, and no word begins with a small kana or a long sound.
_HALF_KANA: Final = re.compile("(?:[ｦｱ-ﾝ](?:(?<=[ｳｶ-ﾄﾊ-ﾎ])ﾞ|(?<=[ﾊ-ﾎ])ﾟ)?[ｧ-ｰ]*|[｡-･])+")
_RUN: Final = re.compile("[^\x00-\x7f]+")
_SIGNS: Final = frozenset("№«»“”„‘’—–…·°©®§\u00a0")


def _is_hangul(char: str) -> bool:
    return "\uac00" <= char <= "\ud7a3"


def _is_korean(text: str) -> bool:
    return all(map(_is_hangul, _letters(text)))


def _is_japanese(text: str) -> bool:
    """Whether there are only kana and characters of JIS' first part."""
    for char in _letters(text):
        lead = char.encode("euc_jp", "replace")[0]
        if not (0xB0 <= lead <= 0xCF or _JAPANESE.match(char)):
            return False
    return True


def _is_half_kana(text: str) -> bool:
    return all(map(_HALF_KANA.fullmatch, _RUN.findall(text)))


def _is_traditional(text: str) -> bool:
    """Whether there are only characters of Big5's first part."""
    return all(0xA4 <= char.encode("big5", "replace")[0] <= 0xC6 for char in _letters(text))


def _is_cyrillic(text: str) -> bool:
    """Whether there are only Cyrillic words, each in small or capital letters, or with one capital."""
    words = [word for word in _WORD.findall(text) if not word.isascii()]
    if any(not (char.isascii() or char.isalpha() or char in _SIGNS) for char in text):
        return False  # lines of tables and the like
    is_one_case = all(word.islower() or word.isupper() or word.istitle() for word in words)
    return is_one_case and all(unicodedata.name(char, "").startswith("CYRILLIC") for char in _letters(text))


_RIVALS: Final[tuple[tuple[str, Callable[[str], bool]], ...]] = (
    ("euc_kr", _is_korean),
    ("euc_jp", _is_japanese),
    ("shift_jis", _is_half_kana),
    ("big5", _is_traditional),
    ("koi8-r", _is_cyrillic),
    ("cp1251", _is_cyrillic),
    ("iso8859-5", _is_cyrillic),
)


def find_rivals(data: bytes) -> list[str]:
    """Return the encodings beside GB18030 in which a text reads as its writers would write it.

    Args:
        data: not ASCII alone.
    """
    found = []
    for name, is_usual in _RIVALS:
        try:
            text = data.decode(name)
        except UnicodeDecodeError:
            continue
        if _letters(text) and is_usual(text):
            found.append(name)
    return found


def is_everyday(text: str) -> bool:
    """Whether enough of a text's Chinese characters are the most common ones: by chance one in 25 is.

    Args:
        text: decoded as GB18030.
    """
    han = [char for char in text if "\u4e00" <= char <= "\u9fff"]
    num_everyday = sum(char in _EVERYDAY for char in han)
    return 4 * num_everyday > len(han) + 6


def _letters(text: str) -> list[str]:
    """Return what is neither ASCII nor a sign."""
    return [char for char in text if not char.isascii() and char.isalpha()]

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
# The same for Japanese and Korean: what is taught first, and what tables are headed with.
_EVERYDAY_ELSEWHERE: Final = {
    "euc_jp": frozenset(
        "日一国人年大十二本中長出三時行見月分後前生五間上東四今金九入学高円子外八六下来気小七山話女北午百書先名川"
        "千水半男西電校語土木食車何南万白天母火右読友左父雨手目田力立赤青黄黒色番号氏住所数量価格単合計品会社画像"
        "質問答題内容商県市区町村部店員業者物地場図表文字曜週方代用発明業度回新作動事自同通全京都府道"
    ),
    "euc_kr": frozenset(
        "이다는을가에의한고하지사기를아자로그은서나대도어리있해시인원수정보스전일부제구우장만여성라주조과거생상소유비"
        "동무물안선도국미연신관모문것들오심개니년월번호명품량단금액합계질답내용림진색글몇무엇까요습게면"
        "一二三四五六七八九十百千萬年月日人名國大中小上下市區道番號姓住所電話數量價格單合計品會社代表者學校班金額內容"
    ),
}
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
    in_chinese = _share(data.decode("gb18030", "replace"), _EVERYDAY)
    for name, is_usual in _RIVALS:
        try:
            text = data.decode(name)
        except UnicodeDecodeError:
            continue
        # One rare character, as in a name, makes an alphabet useless; words that are usual there still tell it.
        speaks = _share(text, _EVERYDAY_ELSEWHERE.get(name, frozenset())) > in_chinese
        if _letters(text) and (speaks or is_usual(text)):
            found.append(name)
    return found


def _share(text: str, everyday: frozenset[str]) -> float:
    """Return which part of a text's letters are everyday ones, 0 to 1."""
    letters = _letters(text)
    return sum(char in everyday for char in letters) / max(len(letters), 1)


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

"""What is the same although it is written differently: numbers, amounts with a unit, dates.

In: text in English or Chinese, or one JSON value of an answer. Out: `Quantity` and ISO dates that can be compared. Pure
functions; agreement and the merge by field stand on them.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Final

_DIGITS: Final = {
    "零": 0,
    "〇": 0,
    "一": 1,
    "二": 2,
    "两": 2,
    "三": 3,
    "四": 4,
    "五": 5,
    "六": 6,
    "七": 7,
    "八": 8,
    "九": 9,
}
_STEPS: Final = {"十": 10, "百": 100, "千": 1000}
_MYRIADS: Final = {"万": 10**4, "亿": 10**8}
NUMERALS: Final = "零〇一二两三四五六七八九十百千万亿"
# A Chinese numeral counts something if one of these follows; without it, 三角形 would hold a three and 一起 a one.
MEASURES: Final = (
    "个只张条辆位名件本块把根朵棵座栋间头匹架台部颗粒枚支枝片瓶杯盘碗双对组排行列层扇盏艘家所口滴串束堆群种次岁年月日号元米克斤"
    "升秒天周倍人级楼页题"
)
_SMALL_EN: Final = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_TENS_EN: Final = "twenty thirty forty fifty sixty seventy eighty ninety"
_MONTHS_EN: Final = "january february march april may june july august september october november december"
_WORDS: Final = {
    **{word: value for value, word in enumerate(_SMALL_EN.split())},
    **{word: 10 * value for value, word in enumerate(_TENS_EN.split(), 2)},
}
_SCALES: Final = {
    **{"hundred": 100, "thousand": 10**3, "k": 10**3, "million": 10**6, "billion": 10**9},
    **{"百": 100, "千": 10**3, "万": 10**4, "百万": 10**6, "千万": 10**7, "亿": 10**8, "万亿": 10**12},
}
_UNIT_ROWS: Final = (
    ("g", "0.001", "mg 毫克"),
    ("g", "1", "g 克 gram grams"),
    ("g", "500", "斤"),
    ("g", "1000", "kg 千克 公斤 kilogram kilograms"),
    ("g", "1000000", "t 吨 ton tons tonne tonnes"),
    ("m", "0.001", "mm 毫米 millimeter millimeters"),
    ("m", "0.01", "cm 厘米 centimeter centimeters"),
    ("m", "1", "m 米 meter meters metre metres"),
    ("m", "1000", "km 千米 公里 kilometer kilometers"),
    ("l", "0.001", "ml 毫升 milliliter milliliters"),
    ("l", "0.01", "cl"),
    ("l", "1", "l 升 liter liters litre litres"),
    ("s", "1", "s 秒 sec second seconds"),
    ("s", "60", "min 分钟 minute minutes"),
    ("s", "3600", "h 小时 hour hours"),
    ("%", "1", "% percent"),
)
_UNITS: Final = {name: (base, Decimal(factor)) for base, factor, names in _UNIT_ROWS for name in names.split()}
_CURRENCIES: Final = {
    **dict.fromkeys(("元", "块", "块钱", "圆", "人民币", "rmb", "cny", "yuan"), "CNY"),
    **dict.fromkeys(("美元", "usd", "us$", "dollars", "dollar"), "USD"),
    **dict.fromkeys(("欧元", "eur", "€", "euro", "euros"), "EUR"),
    **dict.fromkeys(("英镑", "gbp", "£"), "GBP"),
    **dict.fromkeys(("日元", "円", "jpy", "yen"), "JPY"),
    **dict.fromkeys(("港元", "港币", "hkd", "hk$"), "HKD"),
    **dict.fromkeys(("¥",), "¥"),
    **dict.fromkeys(("$",), "$"),
}
# A sign that several countries write.
_SHARED_SIGNS: Final = {"¥": frozenset({"CNY", "JPY"}), "$": frozenset({"USD", "HKD"})}
_MONTHS: Final = {
    name[:length]: month for month, name in enumerate(_MONTHS_EN.split(), 1) for length in (3, len(name))
} | {"sept": 9}


def _any_of(names: dict[str, object]) -> str:
    """Match one of the names; a Latin one must not go on as another word."""
    ordered = sorted(names, key=len, reverse=True)
    return "|".join(
        re.escape(name) + ("(?![a-z])" if name[-1].isascii() and name[-1].isalpha() else "") for name in ordered
    )


_MONTH: Final = _any_of({**_MONTHS})
_DATES: Final = (
    re.compile(r"(?<!\d)(?P<y>\d{4})\s*(?:年|[-/.])\s*(?P<m>\d{1,2})\s*(?:月|[-/.])\s*(?P<d>\d{1,2})(?!\d)\s*[日号]?"),
    re.compile(rf"(?<!\d)(?P<d>\d{{1,2}})(?:st|nd|rd|th)?\s+(?:of\s+)?(?P<m>{_MONTH})\.?,?\s+(?P<y>\d{{4}})(?!\d)"),
    re.compile(rf"(?<![a-z])(?P<m>{_MONTH})\.?\s+(?P<d>\d{{1,2}})(?:st|nd|rd|th)?,?\s+(?P<y>\d{{4}})(?!\d)"),
)
_SHORT_DATE: Final = re.compile(r"(?<!\d)(?P<a>\d{1,2})(?P<sep>[-/.])(?P<b>\d{1,2})(?P=sep)(?P<y>\d{4})(?!\d)")
_CLOCK: Final = re.compile(r"(?<![\d:])(\d{1,2}):([0-5]\d)(?::([0-5]\d))?(?![\d:])")

_NUMBER: Final = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?(?![\d,]*\d)|\d+(?:\.\d+)?"
_SCALE: Final = _any_of({**_SCALES})
_UNIT: Final = _any_of({**_UNITS, **_CURRENCIES})
_SIGN: Final = _any_of({**_CURRENCIES})
_AMOUNT: Final = re.compile(
    rf"(?<![a-z\d_.])(?P<minus>(?<![\w)])-)?(?P<sign>{_SIGN})?\s?(?P<number>{_NUMBER})"
    rf"(?:st|nd|rd|th)?(?:\s?(?P<scale>{_SCALE}))?(?:\s?(?:(?P<unit>{_UNIT})|[{MEASURES}]))?"
)
_WHOLE: Final = re.compile(
    rf"(?P<minus>-)?\s?(?P<sign>{_SIGN})?\s?(?P<minus2>-)?(?P<number>\d(?:[\d.,' ]*\d)?)(?:\s?(?P<scale>{_SCALE}))?"
    rf"(?:\s?(?P<unit>{_UNIT}))?"
)
_MAX_NUMERAL: Final = 30
_HAN_PERCENT: Final = re.compile(rf"百分之([{NUMERALS}]+(?:点[{NUMERALS}]+)?)")
_HAN_NUMBER: Final = re.compile(
    rf"(?P<ordinal>第)?(?P<number>[{NUMERALS}]+(?:点[零〇一二三四五六七八九]+)?)(?:(?P<measure>[{MEASURES}])|(?P<end>$|[,.;!?、。])|)"
)
_HAN_WORDS_WITHOUT_NUMBERS: Final = frozenset({"万一", "千万", "一一", "百万", "万千", "万亿", "千百"})
_EN_WORD: Final = _any_of({**_WORDS, "hundred": 0, "thousand": 0, "million": 0})
_EN_NUMBER: Final = re.compile(
    rf"(?<![a-z-])(?:{_EN_WORD})(?:(?:(?<=hundred)|(?<=thousand)|(?<=million))\s+and(?=\s+(?:{_EN_WORD}))|[\s-]+(?:{_EN_WORD}))*"
)
# Where something is in a picture, as GLM writes it: two models never draw quite the same box.
_CORNERS: Final = r"\[\s*\d{1,4}(?:\s*,\s*\d{1,4}){3}\s*\]"
_BOX: Final = re.compile(rf"\[\s*{_CORNERS}(?:\s*,\s*{_CORNERS})*\s*\]")
# In brackets a comma stands between numbers, never in one.
_LIST: Final = re.compile(r"\[[\d\s,.+-]+\]")
_BULLET: Final = re.compile(r"(?m)^ ?\d{1,2}[.)、] (?=\S)")
_SPACE: Final = re.compile(r"\s+")
_OUTER: Final = " \t\r\n.,;:!?\"'`()[]{}<>*_~。、；：！？“”‘’《》「」『』【】〈〉·…"


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number, and what it is a number of.

    Attributes:
        value: as written, with multipliers such as 万 and thousand applied.
        unit: ``%``, a base unit (``g``, ``m``, ``l``, ``s``), a currency code or sign, ``date``, ``time``, or nothing.
        base: the value in base units: 1500 for 1.5 kg. Of a date or a time, digits of it.
        is_article: a word that may be no number at all: "one" or 一, of a single thing.
    """

    value: Decimal
    unit: str = ""
    base: Decimal = Decimal(0)
    is_article: bool = False

    @property
    def shown(self) -> str:
        """The quantity in words that both languages read: ``1500 g``, ``12.5``, ``2024-03-05``."""
        if self.unit == "date":
            return f"{int(self.base) // 10000:04d}-{int(self.base) // 100 % 100:02d}-{int(self.base) % 100:02d}"
        if self.unit == "time":
            return f"{int(self.base) // 10000:d}:{int(self.base) // 100 % 100:02d}"
        number = f"{self.base.normalize():f}"
        return f"{number}{self.unit}" if self.unit == "%" else f"{number} {self.unit}".rstrip()


def fold(text: str) -> str:
    """Return a text with full-width characters as half-width ones, in lower case, white space collapsed."""
    folded = unicodedata.normalize("NFKC", text).lower()
    return _SPACE.sub(lambda run: "\n" if "\n" in run[0] else " ", folded)


def plain(text: str) -> str:
    """Return a text folded, without its outer punctuation and without white space that means nothing."""
    folded = fold(text).strip(_OUTER).replace("\n", " ")
    return re.sub(r"(?<=[^\x00-\x7f]) | (?=[^\x00-\x7f])", "", folded)


def same_quantity(first: Quantity, second: Quantity) -> bool:
    """Whether two quantities are equal; a unit that only one of them names is taken to be meant by the other too."""
    if first.unit and second.unit:
        return first.base == second.base and _same_unit(first.unit, second.unit)
    return first.value == second.value and not {first.unit, second.unit} & {"date", "time"}


def same_currency(first: str, second: str) -> bool:
    """Whether two texts name the same currency, by code, sign or word."""
    one, other = _CURRENCIES.get(plain(first)), _CURRENCIES.get(plain(second))
    return one is not None and other is not None and _same_unit(one, other)


def read_quantity(text: str) -> Quantity | None:
    """Read a text that is a number and nothing else but its unit: ``¥1,299.00``, ``1.2万``, ``50 %``, ``三十``."""
    folded = fold(text).strip()
    if match := _WHOLE.fullmatch(folded):
        number = _read_digits(match["number"])
        if number is not None:
            negative = bool(match["minus"]) or bool(match["minus2"])
            return _quantity(-number if negative else number, match["scale"], match["unit"] or match["sign"])
    if match := re.fullmatch(rf"(百分之)?([{NUMERALS}]+(?:点[{NUMERALS}]+)?)\s?({_UNIT})?", folded):
        value = _read_han(match[2])
        return None if value is None else _quantity(value, None, "%" if match[1] else match[3])
    return None


def read_date(text: str) -> str | None:
    """Read a text that is a date and nothing else, as ``YYYY-MM-DD``; None where day and month could be swapped."""
    folded = fold(text).strip(_OUTER)
    for pattern in _DATES:
        if (match := pattern.fullmatch(folded)) and (found := _to_date(match["y"], match["m"], match["d"])):
            return found
    match = _SHORT_DATE.fullmatch(folded)
    return _to_short_date(match) if match else None


def take_quantities(text: str) -> tuple[list[Quantity], str]:
    """Find the numbers, dates and times of day in a text, in no particular order, and return what is left without them.

    The numbers of a list's lines ("1. ...") are none, nor are digits inside a word ("B12") and the corners of boxes.
    """
    left = _BULLET.sub(" ", _BOX.sub(" ", fold(text)))
    left = _LIST.sub(lambda match: match[0].replace(",", ", "), left)
    found: list[Quantity] = []

    def take(pattern: re.Pattern[str], read: Callable[[re.Match[str]], Quantity | None]) -> None:
        nonlocal left

        def replaced(match: re.Match[str]) -> str:
            quantity = read(match)
            if quantity is None:
                return match[0]
            found.append(quantity)
            return " "

        left = pattern.sub(replaced, left)

    for pattern in (*_DATES, _SHORT_DATE):
        take(pattern, _read_date_match)
    take(_CLOCK, _read_clock_match)
    take(_AMOUNT, _read_amount_match)
    take(_HAN_PERCENT, lambda match: _with_unit(_read_han(match[1]), "%"))
    is_alone = plain(left).strip(NUMERALS + "点") == ""
    take(_HAN_NUMBER, lambda match: _read_han_match(match, is_alone=is_alone))
    take(_EN_NUMBER, _read_english_match)
    return found, left


def _read_date_match(match: re.Match[str]) -> Quantity | None:
    iso = _to_short_date(match) if "a" in match.groupdict() else _to_date(match["y"], match["m"], match["d"])
    return None if iso is None else Quantity(Decimal(0), "date", Decimal(iso.replace("-", "")))


def _read_clock_match(match: re.Match[str]) -> Quantity | None:
    digits = int(match[1]) * 10000 + int(match[2]) * 100 + int(match[3] or 0)
    return Quantity(Decimal(0), "time", Decimal(digits)) if int(match[1]) <= 24 else None


def _read_amount_match(match: re.Match[str]) -> Quantity:
    value = Decimal(match["number"].replace(",", ""))
    return _quantity(-value if match["minus"] else value, match["scale"], match["unit"] or match["sign"])


def _with_unit(value: Decimal | None, unit: str) -> Quantity | None:
    return None if value is None else _quantity(value, None, unit)


def _read_english_match(match: re.Match[str]) -> Quantity:
    value = _read_english(match[0])
    return Quantity(value, "", value, is_article=match[0] == "one")


def _same_unit(first: str, second: str) -> bool:
    return (
        first == second
        or second in _SHARED_SIGNS.get(first, frozenset())
        or first in _SHARED_SIGNS.get(second, frozenset())
    )


def _quantity(value: Decimal, scale: str | None, unit: str | None) -> Quantity:
    value *= _SCALES[scale] if scale else 1
    if unit is None:
        return Quantity(value, "", value)
    if unit in _CURRENCIES:
        return Quantity(value, _CURRENCIES[unit], value)
    base, factor = _UNITS[unit]
    return Quantity(value, base, value * factor)


def _read_digits(text: str) -> Decimal | None:
    """Read digits with separators; a lone comma before one or two digits is a decimal one, as in much of Europe."""
    text = text.strip()
    if re.match(r"0\d", text):
        return None  # 007 is a name, not seven
    for pattern, separators, point in (
        (r"\d+(?:\.\d+)?", "", "."),
        (r"\d{1,3}(?:,\d{3})+(?:\.\d+)?", ",", "."),
        (r"\d{1,3}(?:[ ']\d{3})+(?:[.,]\d+)?", " '", "."),
        (r"\d{1,3}(?:\.\d{3})+,\d+", ".", ","),
        (r"\d+,\d{1,2}", "", ","),
    ):
        if re.fullmatch(pattern, text):
            bare = text.translate({ord(mark): None for mark in separators})
            return Decimal(bare.replace(point, ".").replace(",", "."))
    return None


def _read_han(text: str) -> Decimal | None:
    """Read a Chinese numeral, by place value (三百二十) or digit by digit (二〇二四)."""
    if len(text) > _MAX_NUMERAL:
        return None
    whole, _, fraction = text.partition("点")
    if fraction:
        digits = "".join(str(_DIGITS[sign]) for sign in fraction if sign in _DIGITS)
        head = _read_han(whole) if whole else Decimal(0)
        return None if head is None or len(digits) != len(fraction) else head + Decimal(f"0.{digits}")
    if whole and all(sign in _DIGITS for sign in whole):
        return Decimal("".join(str(_DIGITS[sign]) for sign in whole))
    total = section = digit = 0
    for sign in whole:
        if sign in _DIGITS:
            digit = _DIGITS[sign]
        elif sign in _STEPS:
            section += (digit or 1) * _STEPS[sign]
            digit = 0
        else:
            section += digit
            total = (total + section or 1) * _MYRIADS[sign] if sign == "亿" else total + (section or 1) * _MYRIADS[sign]
            section = digit = 0
    return Decimal(total + section + digit) if whole else None


def _read_han_match(match: re.Match[str], *, is_alone: bool) -> Quantity | None:
    text = match["number"]
    is_long = len(text) > 1 and text not in _HAN_WORDS_WITHOUT_NUMBERS
    is_counted = match["measure"] is not None or match["ordinal"] is not None
    is_last = match["end"] is not None and text not in ("一", "十", "百", "千", "万", "亿")
    value = _read_han(text) if is_alone or is_long or is_counted or is_last else None
    if value is None:
        return None
    is_article = text == "一" and not is_alone and match["ordinal"] is None
    return Quantity(value, "", value, is_article)


def _read_english(text: str) -> Decimal:
    total = section = 0
    for word in re.findall(r"[a-z]+", text):
        if word in _WORDS:
            section += _WORDS[word]
        elif word == "hundred":
            section = (section or 1) * 100
        elif word in ("thousand", "million"):
            total += (section or 1) * _SCALES[word]
            section = 0
    return Decimal(total + section)


def _to_date(year: str, month: str, day: str) -> str | None:
    number = _MONTHS.get(month) or int(month)
    try:
        return date(int(year), number, int(day)).isoformat()
    except ValueError:
        return None


def _to_short_date(match: re.Match[str]) -> str | None:
    first, second = int(match["a"]), int(match["b"])
    if first != second and first <= 12 and second <= 12:
        return None
    day, month = (first, second) if first > 12 else (second, first)
    return _to_date(match["y"], str(month), str(day))

"""Two JSON answers to the same JSON Schema become one, field by field.

In: GLM's value and Owl2's. Out: `Merged`: the value, who each field comes from, and where the two differ. Pure
functions; `merge` checks what comes out against the schema.

Fields are walked in objects and in arrays. Arrays of objects are aligned: the shorter one's elements are matched, in
order, to those elements of the longer one with which they share most. A plain array of texts or numbers is one field
and a multiset, since two models list what they see in different orders; inside another array it is a row of a table,
and compared cell by cell.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from difflib import SequenceMatcher
from functools import lru_cache
from typing import Any, Final, Literal

from router.answers.agreement import Conflict, script_of
from router.answers.quantities import Quantity, fold, plain, read_date, read_quantity, same_currency, same_quantity

Origin = Literal["agree", "glm", "owl2", "conflict"]

_MAX_CONFLICTS: Final = 50
# Match arrays by index if matching them by content takes more comparisons than this.
_MAX_MATCHED: Final = 2_500
_MAX_COMPARED_CHARS: Final = 200
# Two spellings this similar are readings of the same print.
_NEARLY: Final = 0.75
_NOTHING: Final = frozenset(
    ["", "-", "--", "null", "n/a", "unknown", "not visible", "not shown", "未知", "不详", "看不清", "无法识别"]
)
_TRUTHS: Final = {
    **dict.fromkeys(("true", "yes", "是", "有"), True),
    **dict.fromkeys(("false", "no", "否", "没有", "无"), False),
}
_MISSING: Final = object()


@dataclass(frozen=True, slots=True)
class Merged:
    """What became of two JSON answers.

    Attributes:
        value: the merged value; may break a bound of the schema that says something of several fields at once.
        provenance: by JSON pointer: ``agree``, ``glm``, ``owl2``, or ``conflict`` where the two differ, no rule says
            whom to believe, and GLM's value stands. A pointer speaks for everything beneath it; an element of an
            array whose fields all come from one place has one.
        conflicts: the fields in which both say something, and not the same; also those that a rule decided.
        score: the share of fields that agree, among those in which either says anything; None without any.
    """

    value: Any
    provenance: dict[str, Origin]
    conflicts: tuple[Conflict, ...]
    score: float | None


def merge_fields(glm: Any, owl2: Any, *, is_reading: bool = False) -> Merged:
    """Merge two values for the same schema.

    Fields that are equal after normalisation agree, and GLM's way of writing stands: numbers with or without thousands
    separators, currency, percent or units; dates; full and half width, case, outer punctuation. Where only one says
    something, it is believed. Where both do, the first of these rules that fits decides:

    1. all is print that is to be read (``is_reading``), or a value has digits, or the two are nearly the same text:
       GLM's, since Owl2 reads badly;
    2. texts in different scripts cannot be compared: GLM's, which is in the language of the question;
    3. true or false, or two texts: Owl2's, which looked longer;
    4. anything else, such as two lists: nobody's. GLM's stands, marked ``conflict``.

    Args:
        glm: GLM's value.
        owl2: Owl2's value.
        is_reading: every field is to be read off the picture, as in the shipped templates.
    """
    walk = _Walk(is_reading)
    value, origins = walk.merge(glm, owl2, "", is_row=False)
    score = walk.num_agreed / walk.num_fields if walk.num_fields else None
    return Merged(value, origins, tuple(walk.conflicts), None if score is None else round(score, 3))


def same(first: Any, second: Any) -> bool:
    """Whether two scalars say the same, however they are written."""
    if isinstance(first, bool) or isinstance(second, bool):
        return _truth(first) is not None and _truth(first) == _truth(second)
    if isinstance(first, str) and isinstance(second, str):
        return _same_texts(first, second)
    if first is None or second is None:
        return first is second
    one, other = _quantity(first), _quantity(second)
    if one is None or other is None:
        return False
    if same_quantity(one, other):
        return True
    # A share may be 0.5 in one answer and "50%" in the other.
    hundredth = Decimal("0.01")
    return {one.unit, other.unit} == {"", "%"} and one.value * (hundredth if one.unit else 1) == other.value * (
        hundredth if other.unit else 1
    )


class _Walk:
    """Walks two values at once and counts."""

    def __init__(self, is_reading: bool) -> None:
        self._is_reading = is_reading
        self.conflicts: list[Conflict] = []
        self.num_fields = 0
        self.num_agreed = 0

    def merge(self, glm: Any, owl2: Any, path: str, *, is_row: bool) -> tuple[Any, dict[str, Origin]]:
        if _is_nothing(glm) or _is_nothing(owl2):
            return self._merge_with_nothing(glm, owl2, path)
        if isinstance(glm, dict) and isinstance(owl2, dict):
            return self._merge_objects(glm, owl2, path)
        if isinstance(glm, list) and isinstance(owl2, list):
            if any(isinstance(each, dict | list) for each in (*glm, *owl2)):
                return self._merge_arrays(glm, owl2, path)
            if is_row and len(glm) == len(owl2):
                return self._merge_pairs(list(zip(glm, owl2, strict=True)), path)
        return self._merge_leaf(glm, owl2, path)

    def _merge_with_nothing(self, glm: Any, owl2: Any, path: str) -> tuple[Any, dict[str, Origin]]:
        if _is_nothing(glm) and _is_nothing(owl2):
            return (owl2 if glm is _MISSING else glm), {path: "agree"}
        self.num_fields += 1
        return (owl2, {path: "owl2"}) if _is_nothing(glm) else (glm, {path: "glm"})

    def _merge_objects(self, glm: dict[str, Any], owl2: dict[str, Any], path: str) -> tuple[Any, dict[str, Origin]]:
        value: dict[str, Any] = {}
        origins: dict[str, Origin] = {}
        for key in _keys(glm, owl2):
            pointer = f"{path}/{key.replace('~', '~0').replace('/', '~1')}"
            value[key], found = self.merge(glm.get(key, _MISSING), owl2.get(key, _MISSING), pointer, is_row=False)
            origins |= found
        return value, origins

    def _merge_arrays(self, glm: list[Any], owl2: list[Any], path: str) -> tuple[Any, dict[str, Origin]]:
        if len(glm) == len(owl2) or len(glm) * len(owl2) > _MAX_MATCHED:
            longest = max(len(glm), len(owl2))
            pairs = list(
                zip(
                    [*glm, *[_MISSING] * (longest - len(glm))],
                    [*owl2, *[_MISSING] * (longest - len(owl2))],
                    strict=True,
                )
            )
        elif len(glm) < len(owl2):
            places = _align(glm, owl2)
            pairs = [(glm[places[j]] if j in places else _MISSING, each) for j, each in enumerate(owl2)]
        else:
            places = _align(owl2, glm)
            pairs = [(each, owl2[places[i]] if i in places else _MISSING) for i, each in enumerate(glm)]
        return self._merge_pairs(pairs, path)

    def _merge_pairs(self, pairs: list[tuple[Any, Any]], path: str) -> tuple[Any, dict[str, Origin]]:
        value: list[Any] = []
        origins: dict[str, Origin] = {}
        for index, (one, other) in enumerate(pairs):
            element, found = self.merge(one, other, f"{path}/{index}", is_row=True)
            value.append(element)
            origins |= _summed_up(found, f"{path}/{index}")
        return value, _summed_up(origins, path)

    def _merge_leaf(self, glm: Any, owl2: Any, path: str) -> tuple[Any, dict[str, Origin]]:
        if _is_same_leaf(glm, owl2):
            self.num_fields += 1
            self.num_agreed += 1
            return glm, {path: "agree"}
        origin = self._believe(glm, owl2)
        if origin == "glm" and _are_in_different_scripts(glm, owl2):
            return glm, {path: origin}  # neither for nor against: "red" may be 红色
        self.num_fields += 1
        if len(self.conflicts) < _MAX_CONFLICTS:
            self.conflicts.append(Conflict("field", glm, owl2, path))
        return (owl2 if origin == "owl2" else glm), {path: origin}

    def _believe(self, glm: Any, owl2: Any) -> Origin:
        both = (glm, owl2)
        if self._is_reading or any(_has_digits(each) for each in both):
            return "glm"
        if all(isinstance(each, bool) for each in both):
            return "owl2"
        if isinstance(glm, str) and isinstance(owl2, str):
            return "glm" if _are_in_different_scripts(glm, owl2) or _are_nearly_same(glm, owl2) else "owl2"
        return "conflict"


def _keys(glm: dict[str, Any], owl2: dict[str, Any]) -> list[str]:
    """Return the keys of both in GLM's order, which is the schema's; Owl2's own ones after the one they follow."""
    keys = list(glm)
    after = 0
    for key in owl2:
        if key in glm:
            after = keys.index(key) + 1
        else:
            keys.insert(after, key)
            after += 1
    return keys


def _align(shorter: list[Any], longer: list[Any]) -> dict[int, int]:
    """Match each element of the shorter array, in order, to one of the longer: place there -> place here.

    The sum of what matched elements share is the largest there is; of equal ones, the earliest match counts.
    """
    num_short, num_long = len(shorter), len(longer)
    shared = [[_share(one, other) for other in longer] for one in shorter]
    # best[i][j]: what the elements from i on can share with those of the longer one from j on.
    best = [[0.0] * (num_long + 1) for _ in range(num_short + 1)]
    for i in range(num_short - 1, -1, -1):
        best[i] = [float("-inf")] * (num_long + 1)
        for j in range(num_long - num_short + i, -1, -1):
            best[i][j] = max(shared[i][j] + best[i + 1][j + 1], best[i][j + 1])
    places: dict[int, int] = {}
    i = j = 0
    while i < num_short:
        if shared[i][j] + best[i + 1][j + 1] >= best[i][j + 1]:
            places[j] = i
            i += 1
        j += 1
    return places


def _share(one: Any, other: Any) -> float:
    """Return which share of two elements' fields agree."""
    walk = _Walk(is_reading=True)
    walk.merge(one, other, "", is_row=True)
    return walk.num_agreed / walk.num_fields if walk.num_fields else 0.0


def _summed_up(origins: dict[str, Origin], path: str) -> dict[str, Origin]:
    kinds = set(origins.values())
    return {path: kinds.pop()} if len(kinds) == 1 else origins


def _is_nothing(value: Any) -> bool:
    if isinstance(value, str):
        return fold(value).strip() in _NOTHING or plain(value) in _NOTHING - {""}
    return value is _MISSING or value is None or value == [] or value == {}


def _is_same_leaf(glm: Any, owl2: Any) -> bool:
    if isinstance(glm, list) and isinstance(owl2, list):
        left = list(owl2)
        for each in glm:
            place = next((i for i, other in enumerate(left) if _is_same_leaf(each, other)), None)
            if place is None:
                return False
            del left[place]
        return not left
    if isinstance(glm, dict | list) or isinstance(owl2, dict | list):
        return False
    return same(glm, owl2)


def _has_digits(value: Any) -> bool:
    if isinstance(value, str):
        return any(sign.isdigit() for sign in value) or _read(value) is not None
    return isinstance(value, int | float) and not isinstance(value, bool)


def _are_in_different_scripts(glm: Any, owl2: Any) -> bool:
    if not (isinstance(glm, str) and isinstance(owl2, str)) or _has_digits(glm) or _has_digits(owl2):
        return False
    scripts = script_of(glm), script_of(owl2)
    return None not in scripts and scripts[0] != scripts[1]


def _are_nearly_same(first: str, second: str) -> bool:
    one, other = sorted((plain(first)[:_MAX_COMPARED_CHARS], plain(second)[:_MAX_COMPARED_CHARS]))
    return SequenceMatcher(None, one, other, autojunk=False).ratio() >= _NEARLY


def _truth(value: Any) -> bool | None:
    return value if isinstance(value, bool) else _TRUTHS.get(plain(value)) if isinstance(value, str) else None


def _quantity(value: Any) -> Quantity | None:
    if isinstance(value, str):
        return _read(value)
    number = Decimal(str(value))
    return Quantity(number, "", number)


@lru_cache(maxsize=4096)
def _read(text: str) -> Quantity | None:
    return read_quantity(text)


@lru_cache(maxsize=4096)
def _same_texts(first: str, second: str) -> bool:
    if fold(first).strip() == fold(second).strip() or (plain(first) and plain(first) == plain(second)):
        return True
    dates = read_date(first), read_date(second)
    if dates[0] is not None or dates[1] is not None:
        return dates[0] == dates[1]
    one, other = _read(first), _read(second)
    if one is not None and other is not None:
        return same_quantity(one, other)
    return same_currency(first, second)

"""How good one answer is, held against the right one.

In: two answers, texts or JSON values. Out: numbers from 0 to 1. Pure functions.

- exact: the two say the same, whatever their width, case, outer punctuation, or way to write a number or a date
  (`router.answers.fields.same`). JSON is exact if every field is.
- field precision, recall and F1: over the leaves of JSON. Elements of lists are paired so that most fields agree, in
  any order; those of very long lists in the order they are in. A field that is empty, null or missing counts as not
  said.
- ANLS*: the normalised edit similarity over trees (D. Peer et al., ANLS* - A Universal Document Processing Metric for
  Generative Large Language Models, arXiv:2402.03848). Below 0.5 a leaf counts as 0.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from rapidfuzz.distance import Levenshtein

from router.answers.fields import same
from router.loop.stats.matching import best_pairs

_LEAST_SIMILARITY: Final = 0.5
# An edit distance takes the product of both lengths; of longer leaves only the beginning is compared.
_MAX_COMPARED_CHARS: Final = 2_000
# Finding the best pairs takes the product of both sides' leaves, and more; a correction may have 50,000 of them.
_MAX_COMPARED_LEAVES: Final = 250_000
_MAX_PAIRING_STEPS: Final = 5_000_000
_FENCE: Final = re.compile(r"\A\s*```(?:json)?\s*\n(.*?)\n?```\s*\Z", re.DOTALL | re.IGNORECASE)
_NOTHING: Final[tuple[Any, ...]] = (None, "", [], {})


@dataclass(frozen=True, slots=True)
class Fields:
    """Leaves of two JSON values.

    Attributes:
        num_same: leaves that agree.
        num_right: leaves of the right value.
        num_said: leaves of the answer.
    """

    num_same: int
    num_right: int
    num_said: int

    @property
    def precision(self) -> float:
        """Share of what was said that is right; 1 if nothing was to be said and nothing was."""
        return self.num_same / self.num_said if self.num_said else float(not self.num_right)

    @property
    def recall(self) -> float:
        """Share of what is right that was said."""
        return self.num_same / self.num_right if self.num_right else float(not self.num_said)

    @property
    def f1(self) -> float:
        """Their harmonic mean."""
        total = self.num_right + self.num_said
        return 2 * self.num_same / total if total else 1.0


@dataclass(frozen=True, slots=True)
class Scores:
    """Of one answer.

    Attributes:
        exact: 1.0 or 0.0.
        precision: of its fields; a text is one field.
        recall: of its fields.
        f1: of its fields.
        anls: ANLS*.
    """

    exact: float
    precision: float
    recall: float
    f1: float
    anls: float


NO_ANSWER: Final = Scores(0.0, 0.0, 0.0, 0.0, 0.0)


def score(right: str, said: str) -> Scores:
    """Score an answer; both are read as JSON if the right one is an object or a list.

    A fence of Markdown around JSON is no fault. An answer that is no JSON, where JSON is right, is one wrong field.
    """
    wanted = read_json(right)
    if not isinstance(wanted, dict | list):
        exact = float(same(right, said))
        return Scores(exact, exact, exact, exact, max(exact, anls_star(right, said)))
    found = read_json(said)
    if not isinstance(found, dict | list):
        found = said
    fields = count_fields(wanted, found)
    is_exact = fields.num_same == fields.num_right == fields.num_said
    return Scores(float(is_exact), fields.precision, fields.recall, fields.f1, anls_star(wanted, found))


def read_json(text: str) -> Any:
    """Read JSON, also out of a fence; None if there is none."""
    fenced = _FENCE.match(text)
    try:
        return json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError):
        return None


def count_fields(right: Any, said: Any) -> Fields:
    """Count the leaves of two JSON values and those that agree."""
    return Fields(_count_same(right, said), _num_leaves(right), _num_leaves(said))


def _num_leaves(value: Any) -> int:
    if value in _NOTHING:
        return 0
    if isinstance(value, dict):
        return sum(map(_num_leaves, value.values()))
    return sum(map(_num_leaves, value)) if isinstance(value, list) else 1


def _count_same(right: Any, said: Any) -> int:
    if right in _NOTHING or said in _NOTHING:
        return 0
    if isinstance(right, dict) and isinstance(said, dict):
        return sum(_count_same(value, said[name]) for name, value in right.items() if name in said)
    if isinstance(right, list) and isinstance(said, list):
        if _is_too_long(right, said):
            return sum(map(_count_same, right, said))
        counts = [[_count_same(one, other) for other in said] for one in right]
        return sum(counts[row][column] for row, column in best_pairs(counts))
    if isinstance(right, dict | list) or isinstance(said, dict | list):
        return 0
    return int(same(right, said) or same(str(right), str(said)))


def anls_star(right: Any, said: Any) -> float:
    """Return ANLS* of two JSON values or texts, 0 to 1."""
    similarity, size = _anls(right, said)
    return similarity / size if size else 1.0


def _anls(right: Any, said: Any) -> tuple[float, int]:
    """Return the sum of the leaves' similarities, and the number of leaves that either side has."""
    if right is None:
        return float(said in _NOTHING), max(1, _size(said))
    if isinstance(right, dict) and isinstance(said, dict):
        # A missing field is null, so one that is said to be nothing, and is not asked for, neither helps nor harms.
        names = [*right, *(name for name in said if name not in right and said[name] not in _NOTHING)]
        return _sum([_anls(right.get(name), said.get(name)) for name in names])
    if isinstance(right, list) and isinstance(said, list):
        return _anls_of_lists(right, said)
    if isinstance(right, dict | list) or isinstance(said, dict | list) or said is None:
        return 0.0, max(_size(right), _size(said))
    return _similarity(_plain(right), _plain(said)), 1


def _is_too_long(right: list[Any], said: list[Any]) -> bool:
    """Whether the best pairs of two lists would take too long to find."""
    few, many = sorted((len(right), len(said)))
    return few**2 * many > _MAX_PAIRING_STEPS or _size(right) * _size(said) > _MAX_COMPARED_LEAVES


def _anls_of_lists(right: list[Any], said: list[Any]) -> tuple[float, int]:
    if _is_too_long(right, said):
        num_pairs = min(len(right), len(said))
        similarity, size = _sum(list(map(_anls, right, said)))
        return similarity, size + sum(map(_size, (*right[num_pairs:], *said[num_pairs:])))
    pairs = [[_anls(one, other) for other in said] for one in right]
    worth = [[similarity / size if size else 1.0 for similarity, size in row] for row in pairs]
    chosen = best_pairs(worth)
    rows, columns = {row for row, _ in chosen}, {column for _, column in chosen}
    similarity, size = _sum([pairs[row][column] for row, column in chosen])
    left_over = [one for row, one in enumerate(right) if row not in rows]
    left_over += [other for column, other in enumerate(said) if column not in columns]
    return similarity, size + sum(map(_size, left_over))


def _sum(parts: list[tuple[float, int]]) -> tuple[float, int]:
    return sum(similarity for similarity, _ in parts), sum(size for _, size in parts)


def _size(value: Any) -> int:
    if isinstance(value, dict):
        return sum(map(_size, value.values()))
    return sum(map(_size, value)) if isinstance(value, list) else 1


def _plain(value: Any) -> str:
    return " ".join(str(value).lower().split())[:_MAX_COMPARED_CHARS]


def _similarity(first: str, second: str) -> float:
    longest = max(len(first), len(second))
    found = 1 - Levenshtein.distance(first, second) / longest if longest else 1.0
    return found if found >= _LEAST_SIMILARITY else 0.0


MEASURES: Final[dict[str, Callable[[Scores], float]]] = {
    "exact": lambda scores: scores.exact,
    "f1": lambda scores: scores.f1,
    "anls": lambda scores: scores.anls,
}

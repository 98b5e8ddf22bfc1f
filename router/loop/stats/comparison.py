"""Two ways of answering, held against each other on the same questions.

In: `Results`. Out: a `Comparison`: the mean difference with its interval, in all and per slice; and whether that is
enough to let the new way answer from now on.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from router.loop.stats.intervals import Interval, Value, mcnemar, mean_interval
from router.loop.stats.metrics import MEASURES
from router.loop.stats.results import Answer, Results, iter_answers

# Slices whose accuracy may not fall, wherever there are questions of them.
GUARDED: Final = ("zh", "en", "pages")
# How much a guarded slice may fall at most, as a share.
MARGIN: Final = 0.05


@dataclass(frozen=True, slots=True)
class Comparison:
    """New answers less old ones.

    Attributes:
        measure: which score: ``exact``, ``f1`` or ``anls``.
        old: mean score of the old answers.
        new: mean score of the new ones.
        gain: the difference; None if there are too few documents.
        slices: the same by slice.
        num_won: questions that only the new answers have right.
        num_lost: questions that only the old ones have right.
        p: of McNemar's exact test on those two.
    """

    measure: str
    old: float
    new: float
    gain: Interval | None
    slices: Mapping[str, Interval | None]
    num_won: int
    num_lost: int
    p: float


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why new answers may not take the old ones' place.

    Attributes:
        why: ``few``: too few documents; ``no gain``: none is proven; ``slice``: a guarded slice may have fallen.
        name: of the slice; empty for all.
        interval: what is known; None if nothing.
    """

    why: Literal["few", "no gain", "slice"]
    name: str = ""
    interval: Interval | None = None


def compare(results: Results, old: str, new: str, measure: str = "exact") -> Comparison:
    """Compare two arms on the questions that both were asked.

    Args:
        results: of `glowl eval`.
        old: an arm.
        new: another.
        measure: a key of `MEASURES`.

    Raises:
        ValueError: if no question was put to both.
    """
    of_old = results.answers.get(old, {})
    pairs = [(of_old[each.id], each) for each in iter_answers(results, new) if each.id in of_old]
    if not pairs:
        raise ValueError(f"no question was put to both {old} and {new}")
    score_of = MEASURES[measure]
    scored = [(one, score_of(one.scores), score_of(other.scores)) for one, other in pairs]
    names = sorted({name for one, _, _ in scored for name in one.slices})
    exact = [(one.scores.exact, other.scores.exact) for one, other in pairs]
    num_won, num_lost = exact.count((0.0, 1.0)), exact.count((1.0, 0.0))
    return Comparison(
        measure,
        sum(before for _, before, _ in scored) / len(scored),
        sum(after for _, _, after in scored) / len(scored),
        _gain(scored),
        {name: _gain([each for each in scored if name in each[0].slices]) for name in names},
        num_won,
        num_lost,
        mcnemar(num_won, num_lost),
    )


def refusals(found: Comparison, *, guarded: Collection[str] = GUARDED, margin: float = MARGIN) -> list[Refusal]:
    """Say what speaks against the new answers; nothing if they may take the old ones' place.

    A gain has to be proven: its interval lies above 0. That a guarded slice has not fallen by more than the margin has
    to be proven too. A slice without any question has no answers that could have become worse.
    """
    reasons = []
    if found.gain is None:
        reasons.append(Refusal("few"))
    elif found.gain.low <= 0:
        reasons.append(Refusal("no gain", interval=found.gain))
    for name, gain in found.slices.items():
        if name in guarded and (gain is None or gain.low <= -margin):
            reasons.append(Refusal("slice", name, gain))
    return reasons


def _gain(scored: list[tuple[Answer, float, float]]) -> Interval | None:
    return mean_interval([Value(each.group, after - before) for each, before, after in scored])

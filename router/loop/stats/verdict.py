"""Does the deeper look pay? For each slice of the questions, what it gains, how sure that is, and what it costs.

In: `Exchange`s. Out: a `Verdict` per slice. On the fast route the deeper answer is known for a random share of the
questions: each of them stands for as many as its probability says (Horvitz and Thompson; the weights are divided by
their sum, as Hajek did). The difference is taken question by question, so that how hard the questions are cancels out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from router.loop.stats.intervals import LEVEL, Interval, Value, mean_interval
from router.loop.stats.records import Exchange, Route, judged, mean_seconds

ALL: Final[tuple[Route, ...]] = ("fast", "deep")
Says = Literal["pays", "harms", "not proven", "not enough data"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """On one slice.

    Attributes:
        slice: its name: a route alone, or a route with a language or ``pages``.
        route: the one that these questions take.
        says: whether a deeper look pays: its interval lies above 0, below, or on both sides.
        gain: of a deeper look, in score per question; None if too little is known.
        seconds: that it takes longer, on average; None if that is not known.
        num_questions: of the slice, of which it is known what was right.
    """

    slice: str
    route: Route
    says: Says
    gain: Interval | None
    seconds: float | None
    num_questions: int

    @property
    def change(self) -> Literal["", "send deep", "answer fast"]:
        """What it implies for the policy; empty for no change."""
        if self.says == "pays" and self.route == "fast":
            return "send deep"
        return "answer fast" if self.says == "harms" and self.route == "deep" else ""


def judge(exchanges: Sequence[Exchange], measure: str = "exact") -> list[Verdict]:
    """Judge each route in all, and each of its slices.

    The intervals of the slices are wider, so that all of them together are right as often as one alone (Bonferroni).

    Args:
        exchanges: of the log, those without feedback too.
        measure: a key of `router.loop.stats.metrics.MEASURES`.
    """
    known = judged(exchanges)
    verdicts = [judge_slice(route, [each for each in known if each.route == route], measure) for route in ALL]
    names = sorted({name for each in known for name in each.slices})
    level = 1 - (1 - LEVEL) / max(1, len(names))
    for name in names:
        verdicts.append(judge_slice(name, [each for each in known if name in each.slices], measure, level))
    return [each for each in verdicts if each.num_questions]


def judge_slice(name: str, exchanges: Sequence[Exchange], measure: str = "exact", level: float = LEVEL) -> Verdict:
    """Judge some questions of one route.

    Args:
        name: of the slice.
        exchanges: of which it is known what was right.
        measure: a key of `router.loop.stats.metrics.MEASURES`.
        level: of the interval.
    """
    route: Route = exchanges[0].route if exchanges else "fast"
    pairs = [(each, 1 / each.probability) for each in exchanges if each.has_both]
    gain = mean_interval([Value(each.group, each.gain(measure), weight) for each, weight in pairs], level=level)
    return Verdict(name, route, _say(gain), gain, mean_seconds(pairs), len(exchanges))


def _say(gain: Interval | None) -> Says:
    if gain is None:
        return "not enough data"
    if gain.low > 0:
        return "pays"
    return "harms" if gain.high < 0 else "not proven"

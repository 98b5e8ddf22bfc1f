"""What another policy would have gained, from the log of the one in use.

In: `Exchange`s, and the route that another policy takes. Out: a `Replay`: the difference in score per question, with
its interval. A question that takes the same route under both counts 0, exactly. One that would go the other way counts
what the other answer is better by, where that answer is known: GLM's draft on the deep route, a second look on the fast
one. Since second looks are drawn at random, what is known stands for the rest, by a doubly robust estimate: the slice's
mean, fitted on the other half of the documents, corrected by what was seen, divided by its probability.

Source: M. Dudik, J. Langford, L. Li, Doubly Robust Policy Evaluation and Learning, arXiv:1103.4601.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from router.loop.stats.intervals import Interval, Value, mean_interval
from router.loop.stats.records import Exchange, Route, answered_share, judged, mean_seconds

# With fewer known answers of the other way, the tails of the weights say more than the answers.
LEAST_KNOWN: Final = 20
# Of the questions that would change, so many may have no chance to be known.
MOST_HIDDEN: Final = 0.05

Why = Literal["", "same", "few", "hidden"]


@dataclass(frozen=True, slots=True)
class Replay:
    """Another policy, held against the one in use.

    Attributes:
        num_questions: of which it is known what was right.
        num_changed: of them, those that would go the other way.
        num_known: of those, the ones whose other answer is known.
        num_hidden: of those, the ones whose other answer never had a chance to be known.
        deep_before: share of the questions that went deep.
        deep_after: share that would.
        gain: in score per question; None if it cannot be told.
        seconds: that an average question would take longer; None if that is not known.
        why: there is no gain: nothing changes (``same``), too few other answers are known (``few``), or some had no
            chance to be (``hidden``).
    """

    num_questions: int
    num_changed: int
    num_known: int
    num_hidden: int
    deep_before: float
    deep_after: float
    gain: Interval | None
    seconds: float | None
    why: Why


def replay(exchanges: Sequence[Exchange], route_of: Callable[[Exchange], Route], measure: str = "exact") -> Replay:
    """Estimate what a policy would have gained over the one that wrote the log.

    Args:
        exchanges: of the log.
        route_of: the other policy.
        measure: a key of `router.loop.stats.metrics.MEASURES`.
    """
    known = judged(exchanges)
    chance = answered_share(exchanges)
    changed = [each for each in known if route_of(each) != each.route]
    hidden = [each for each in changed if _probability(each, chance) == 0]
    seen = [each for each in changed if each.has_both]
    num_questions = len(known)
    num_deep = sum(each.route == "deep" for each in known)
    more_deep = sum(1 if each.route == "fast" else -1 for each in changed)
    why: Why = ""
    if not changed:
        why = "same"
    elif len(hidden) > MOST_HIDDEN * len(changed):
        why = "hidden"
    elif len({each.group for each in seen}) < LEAST_KNOWN:
        why = "few"
    gain = None if why else mean_interval(_values(known, set(map(id, changed)), chance, measure))
    later = mean_seconds([(each, 1 / each.probability) for each in seen])
    return Replay(
        num_questions,
        len(changed),
        len(seen),
        len(hidden),
        num_deep / num_questions if num_questions else 0.0,
        (num_deep + more_deep) / num_questions if num_questions else 0.0,
        gain,
        None if later is None else later * more_deep / num_questions,
        why or ("few" if gain is None else ""),
    )


def _probability(exchange: Exchange, chance: float) -> float:
    """Return the probability that both answers to a question are known."""
    if exchange.route == "fast":
        return exchange.probability * chance
    return float(exchange.fast is not None)


def _values(known: Sequence[Exchange], changed: set[int], chance: float, measure: str) -> list[Value]:
    means = _means(known, measure)
    values = []
    for each in known:
        if id(each) not in changed:
            values.append(Value(each.group, 0.0))
            continue
        expected = means[_half(each), each.slices[0]]
        probability = _probability(each, chance)
        if each.has_both and probability:
            expected += (each.gain(measure) - expected) / probability
        values.append(Value(each.group, expected if each.route == "fast" else -expected))
    return values


def _means(known: Sequence[Exchange], measure: str) -> dict[tuple[int, str], float]:
    """Return a slice's mean gain for each half of the documents, from the other half."""
    sums: dict[tuple[int, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for each in known:
        if each.has_both:
            total = sums[1 - _half(each), each.slices[0]]
            total[0] += each.gain(measure) / each.probability
            total[1] += 1 / each.probability
    return defaultdict(float, {name: top / weight for name, (top, weight) in sums.items()})


def _half(exchange: Exchange) -> int:
    return zlib.crc32(exchange.group.encode()) & 1

"""How sure a mean difference is.

In: values in groups, such as documents, whose questions are not independent of each other. Out: an `Interval`, or None
where there is too little to say anything. Everything is seeded: the same values give the same interval.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

# Fewer groups than this say nothing: an interval from them misses the truth far more often than it claims.
LEAST_GROUPS: Final = 10
LEVEL: Final = 0.95
_ROUNDS: Final = 2_000
_SEED: Final = 0
_NORMAL: Final = NormalDist()


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and how sure it is.

    Attributes:
        estimate: the mean.
        low: the lower end.
        high: the upper end.
        num_rows: values that it is made of.
        num_groups: independent groups among them.
    """

    estimate: float
    low: float
    high: float
    num_rows: int
    num_groups: int

    def to_points(self) -> str:
        """Write it in points, a hundredth of a share each: ``+1.1 [-0.9, +3.2]``."""
        return f"{_signed(self.estimate)} [{_signed(self.low)}, {_signed(self.high)}]"


@dataclass(frozen=True, slots=True)
class Value:
    """One value of a weighted mean.

    Attributes:
        group: what it shares with others, such as the hash of a picture.
        value: of a score or a difference of two scores; at most 1 away from 0.
        weight: for how many it stands, itself included.
    """

    group: str
    value: float
    weight: float = 1.0


def mean_interval(values: Iterable[Value], *, level: float = LEVEL, rounds: int = _ROUNDS) -> Interval | None:
    """Return the weighted mean with its interval: the bootstrap over groups, bias-corrected and accelerated (BCa).

    Where all values are the same, a resample shows no spread. Then the interval reaches as far as values of 1 away
    could be that are too rare to have been seen: for n groups 1 - ((1 - level) / 2) ** (1 / n), 3.7 / n at 95 %.

    Args:
        values: in any order; those of weight 0 are passed over.
        level: how often the interval is to hold the truth.
        rounds: resamples.

    Returns:
        None with fewer than `LEAST_GROUPS` groups.

    Source: B. Efron, Better Bootstrap Confidence Intervals, JASA 82 (1987).
    """
    kept = [each for each in values if each.weight > 0]
    sums: dict[str, list[float]] = {}
    for each in kept:
        of_group = sums.setdefault(each.group, [0.0, 0.0])
        of_group[0] += each.weight * each.value
        of_group[1] += each.weight
    if len(sums) < LEAST_GROUPS:
        return None
    tops, weights = [each[0] for each in sums.values()], [each[1] for each in sums.values()]
    estimate = sum(tops) / sum(weights)
    if all(math.isclose(top, estimate * weight, abs_tol=1e-12) for top, weight in zip(tops, weights, strict=True)):
        unseen = 1 - ((1 - level) / 2) ** (1 / len(sums))
        low, high = max(-1.0, estimate - unseen), min(1.0, estimate + unseen)
    else:
        low, high = _bca(tops, weights, estimate, level, rounds)
    return Interval(estimate, low, high, len(kept), len(sums))


def _bca(
    tops: Sequence[float], weights: Sequence[float], estimate: float, level: float, rounds: int
) -> tuple[float, float]:
    generator = random.Random(_SEED)  # noqa: S311 - a seeded resample, nothing secret
    num_groups = len(tops)
    # One complex number per group: a sum of them adds up both parts in one pass.
    both = [complex(top, weight) for top, weight in zip(tops, weights, strict=True)]
    drawn = (sum(generator.choices(both, k=num_groups)) for _ in range(rounds))
    means = sorted(total.real / total.imag for total in drawn)
    num_below = sum(mean < estimate for mean in means) + 0.5 * sum(mean == estimate for mean in means)
    bias = _NORMAL.inv_cdf(min(max(num_below / rounds, 0.5 / rounds), 1 - 0.5 / rounds))
    top, weight = sum(tops), sum(weights)
    left_out = [(top - one) / (weight - other) for one, other in zip(tops, weights, strict=True)]
    centre = sum(left_out) / num_groups
    spread = sum((centre - each) ** 2 for each in left_out)
    acceleration = sum((centre - each) ** 3 for each in left_out) / (6 * spread**1.5) if spread else 0.0
    ends = []
    for share in ((1 - level) / 2, (1 + level) / 2):
        moved = bias + _NORMAL.inv_cdf(share)
        place = _NORMAL.cdf(bias + moved / (1 - acceleration * moved))
        ends.append(means[min(rounds - 1, max(0, round(place * (rounds - 1))))])
    # The resamples' spread is that of n groups, of which one is taken by the mean.
    widening = math.sqrt(num_groups / (num_groups - 1))
    low, high = (estimate + widening * (end - estimate) for end in ends)
    return max(-1.0, low), min(1.0, high)


def mcnemar(num_won: int, num_lost: int) -> float:
    """Return the two-sided exact p-value of McNemar's test: whether wins and losses could be a fair coin's.

    Args:
        num_won: questions that only the new answers have right.
        num_lost: questions that only the old ones have right.

    Source: Q. McNemar, Psychometrika 12 (1947), with the binomial's exact tail.
    """
    total = num_won + num_lost
    tail = sum(math.comb(total, count) for count in range(min(num_won, num_lost) + 1))
    return min(1.0, float(2 * tail / 2**total))


def _signed(value: float) -> str:
    shown = f"{100 * value:+.1f}"
    return "+0.0" if shown == "-0.0" else shown

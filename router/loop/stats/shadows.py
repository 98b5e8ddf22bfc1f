"""What an adapter in the shadow would have said, held against what callers got.

In: kept exchanges, those that were asked again for a shadow among them. Out: a `Shadow` per adapter and weights: how
often both answers say the same, and, where it is known what was right, how much better the shadow's is. Questions are
drawn at random, so each stands for as many as its probability says.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from router.loop.records import Exchange
from router.loop.right import right_of
from router.loop.stats.intervals import Interval, Value, mean_interval
from router.loop.stats.metrics import MEASURES, score
from router.loop.stats.results import groups_of

_KIND: Final = "shadow"


@dataclass(frozen=True, slots=True)
class Shadow:
    """One adapter with one set of weights.

    Attributes:
        adapter: its name.
        revision: of its weights; empty if it is not known.
        num_questions: that both answered.
        num_judged: of them, those of which it is known what was right.
        same: share in which both say the same; None if there are too few documents.
        gain: score per question of the shadow's answer less that of the one that was given; None likewise.
    """

    adapter: str
    revision: str
    num_questions: int
    num_judged: int
    same: Interval | None
    gain: Interval | None


def to_shadows(kept: Iterable[Exchange], measure: str = "exact") -> list[Shadow]:
    """Compare each adapter that was asked in the shadow.

    Args:
        kept: in any order; `LoopStore.select` leaves what was asked again out unless it is asked for it.
        measure: a key of `router.loop.stats.metrics.MEASURES`.
    """
    own: dict[str, Exchange] = {}
    asked: dict[tuple[str, str], list[Exchange]] = defaultdict(list)
    for each in kept:
        again = each.decision.get("again")
        if again is None:
            own[each.id] = each
        elif again.get("kind") == _KIND and each.final:
            asked[each.adapter, each.revisions.get(f"glm:{each.adapter}", "")].append(each)
    groups = groups_of([(each.id, each.pictures) for each in own.values()])
    score_of = MEASURES[measure]
    found = []
    for (adapter, revision), answers in sorted(asked.items()):
        same, gains = [], []
        for answer in answers:
            given = own.get(answer.again)
            probability = 0.0 if given is None else float((given.decision.get(_KIND) or {}).get("probability") or 0.0)
            if given is None or not given.final or not probability:
                continue
            weight, group = 1 / probability, groups[given.id]
            same.append(Value(group, score(given.final, answer.final).exact, weight))
            right = right_of(given.final, given.feedback)
            if right is not None:
                gain = score_of(score(right, answer.final)) - score_of(score(right, given.final))
                gains.append(Value(group, gain, weight))
        if same:
            intervals = mean_interval(same), mean_interval(gains)
            found.append(Shadow(adapter, revision, len(same), len(gains), *intervals))
    return found

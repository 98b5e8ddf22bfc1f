"""One question of the log, as proofs read it.

In: what was captured. Out: `Exchange`s: who was asked, what both models said, what was right, and with which known
probability the model that did not answer was asked too. Nothing here reads a store.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from policies.features import Features
from router.loop.stats.metrics import MEASURES, NO_ANSWER, score

Route = Literal["fast", "deep"]


@dataclass(frozen=True, slots=True)
class Exchange:
    """One question and what came of it.

    Attributes:
        id: of the response.
        group: exchanges of one group, such as a picture's, are not independent of each other.
        route: the one it took.
        features: what the policy measured.
        question: its words.
        fast: GLM's answer: the final one on the fast route, the draft on the deep one; None if there is none.
        deep: the answer of a deeper look: the final one on the deep route, a second look's on the fast one; None if
            there is none.
        right: what should have been said, as far as somebody said so; None if nobody did.
        probability: with which both were asked: 1 on the deep route, of a second look on the fast one; 0 for never.
        is_drawn: a second look was to be taken; always so on the deep route.
        fast_s: seconds until GLM's answer was there.
        deep_s: seconds until the deeper one was.
    """

    id: str
    group: str
    route: Route
    features: Features
    question: str = ""
    fast: str | None = None
    deep: str | None = None
    right: str | None = None
    probability: float = 0.0
    is_drawn: bool = False
    fast_s: float | None = None
    deep_s: float | None = None

    @property
    def has_both(self) -> bool:
        """Whether both answers are known, and what is right."""
        return self.right is not None and self.fast is not None and self.deep is not None and self.probability > 0

    def gain(self, measure: str = "exact") -> float:
        """Return the deeper answer's score less GLM's; an answer that is not there has none."""
        assert self.right is not None
        of_deep, of_fast = (NO_ANSWER if said is None else score(self.right, said) for said in (self.deep, self.fast))
        return MEASURES[measure](of_deep) - MEASURES[measure](of_fast)

    @property
    def slices(self) -> tuple[str, ...]:
        """What its gain is counted under: its route with its language, and with several pictures."""
        names = [f"{self.route} {self.features.language}"]
        if self.features.num_images > 1:
            names.append(f"{self.route} pages")
        return tuple(names)


def answered_share(exchanges: Iterable[Exchange]) -> float:
    """Return which share of the second looks that were to be taken has an answer; 1 if none was to be taken.

    The others were lost to a full queue or an engine that was away: the probability that both answers are known is the
    drawn one times this share.
    """
    drawn = [each.deep is not None for each in exchanges if each.route == "fast" and each.is_drawn]
    return sum(drawn) / len(drawn) if drawn else 1.0


def judged(exchanges: Iterable[Exchange]) -> list[Exchange]:
    """Return those of which it is known what was right: the questions that all estimates are about."""
    return [each for each in exchanges if each.right is not None]


def mean_seconds(exchanges: Sequence[tuple[Exchange, float]]) -> float | None:
    """Return how much longer the deeper answer took, on average; None if that is not known.

    Args:
        exchanges: each with its weight.
    """
    times = [
        (weight * (each.deep_s - each.fast_s), weight)
        for each, weight in exchanges
        if each.deep_s is not None and each.fast_s is not None
    ]
    total = sum(weight for _, weight in times)
    return sum(time for time, _ in times) / total if total else None

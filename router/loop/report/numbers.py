"""The numbers of a report: what people ask, where it goes, how long it takes, where the models disagree, what it costs.

In: exchanges, and what is known of their pictures. Out: one frozen `Numbers`. Second looks, which nobody asked for, are
not counted.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from router.loop.datasets.select import LOW_AGREEMENT
from router.loop.records import Exchange
from router.loop.store import Kept

PERCENTILES: Final = (50, 90, 95, 99)
MOST_PATTERNS: Final = 15
MOST_SHOWN: Final = 24
# Sides of pictures, in megapixels, up to which they are counted together.
_SIZES: Final = ((0.1, "up to 0.1 MP"), (0.5, "up to 0.5 MP"), (2.0, "up to 2 MP"), (8.0, "up to 8 MP"))
_DIGITS: Final = re.compile(r"\d+(?:[.,]\d+)*")
_QUOTED: Final = re.compile("[\"'“‘「][^\"'”’」]{1,60}[\"'”’」]")


@dataclass(frozen=True, slots=True)
class Prices:
    """What a hosted API would charge.

    Attributes:
        per_million_in: tokens read.
        per_million_out: tokens written.
    """

    per_million_in: float
    per_million_out: float


@dataclass(frozen=True, slots=True)
class Numbers:
    """What a report says.

    Attributes:
        num_exchanges: questions that callers asked.
        first_at: unix seconds of the first.
        last_at: likewise.
        routes: by route and engine.
        rules: by the rule that decided.
        languages: of questions.
        states: how they ended.
        picture_kinds: of different pictures.
        picture_sizes: likewise, by megapixels.
        patterns: what is asked most, numbers and quoted words left out.
        latencies_s: by route, seconds at `PERCENTILES`; answers of the cache are not among them.
        agreements: how often draft and deep answer agreed so far, in tenths.
        num_compared: exchanges with both answers.
        num_disagreed: of them, those that agree little or contradict each other.
        ratings: thumbs.
        errors: by code.
        prompt_tokens: of all.
        completion_tokens: likewise.
        hosted_cost: of the same tokens at the prices given; None without prices.
        disagreements: the exchanges that agree least, the worst first.
        failures: the newest that ended without an answer, or found a thumb down.
    """

    num_exchanges: int
    first_at: float
    last_at: float
    routes: Mapping[str, int]
    rules: Mapping[str, int]
    languages: Mapping[str, int]
    states: Mapping[str, int]
    picture_kinds: Mapping[str, int]
    picture_sizes: Mapping[str, int]
    patterns: Sequence[tuple[str, int]]
    latencies_s: Mapping[str, tuple[float, ...]]
    agreements: Mapping[str, int]
    num_compared: int
    num_disagreed: int
    ratings: Mapping[str, int]
    errors: Mapping[str, int]
    prompt_tokens: int
    completion_tokens: int
    hosted_cost: float | None
    disagreements: Sequence[Exchange]
    failures: Sequence[Exchange]


def measure(exchanges: Sequence[Exchange], pictures: Mapping[str, Kept], prices: Prices | None = None) -> Numbers:
    """Count.

    Args:
        exchanges: at least one of them a caller's own question.
        pictures: by SHA-256.
        prices: of a hosted API; None counts no cost.

    Raises:
        ValueError: if there is no question.
    """
    asked = [each for each in exchanges if not each.again]
    if not asked:
        raise ValueError("there are no questions")
    shown = {sha256 for each in asked for sha256 in each.pictures if sha256 in pictures}
    looks = [pictures[sha256].look for sha256 in shown]
    compared = [each for each in asked if each.agreement is not None]
    disagreed = [each for each in compared if is_disagreement(each)]
    failed = [
        each for each in asked if not each.final or (each.feedback is not None and each.feedback.rating == "down")
    ]
    # A hit of the cache used no tokens here, but a hosted API would have asked for them again.
    read, written = sum(each.prompt_tokens for each in asked), sum(each.completion_tokens for each in asked)
    cost = None
    if prices is not None:
        cost = (read * prices.per_million_in + written * prices.per_million_out) / 1e6
    return Numbers(
        num_exchanges=len(asked),
        first_at=min(each.at for each in asked),
        last_at=max(each.at for each in asked),
        routes=Counter(f"{each.route}: {each.final_engine or each.engine}" for each in asked),
        rules=Counter(each.rule for each in asked),
        languages=Counter(each.language or "other" for each in asked),
        states=Counter(each.state for each in asked),
        picture_kinds=Counter(look.kind for look in looks),
        picture_sizes=Counter(_size_of(look.width_px * look.height_px / 1e6) for look in looks),
        patterns=Counter(to_pattern(each.question) for each in asked if each.question.strip()).most_common(
            MOST_PATTERNS
        ),
        latencies_s={
            route: percentiles([each.took_s for each in asked if each.route == route and each.cache != "hit"])
            for route in ("fast", "deep")
            if any(each.route == route and each.cache != "hit" for each in asked)
        },
        agreements=Counter(f"{min(int((each.agreement or 0.0) * 10), 9) / 10:.1f}" for each in compared),
        num_compared=len(compared),
        num_disagreed=len(disagreed),
        ratings=Counter(each.feedback.rating for each in asked if each.feedback is not None and each.feedback.rating),
        errors=Counter(each.error for each in asked if each.error),
        prompt_tokens=read,
        completion_tokens=written,
        hosted_cost=cost,
        disagreements=sorted(disagreed, key=lambda each: (each.agreement or 0.0, -each.at))[:MOST_SHOWN],
        failures=sorted(failed, key=lambda each: -each.at)[:MOST_SHOWN],
    )


def is_disagreement(exchange: Exchange) -> bool:
    """Whether draft and deep answer agree little, or contradict each other."""
    return bool(exchange.conflicts) or (exchange.agreement is not None and exchange.agreement < LOW_AGREEMENT)


def to_pattern(question: str) -> str:
    """Return what a question has in common with others: numbers and quoted words become marks."""
    plain = " ".join(unicodedata.normalize("NFKC", question).split())[:80]
    return _DIGITS.sub("#", _QUOTED.sub("“…”", plain)).casefold()


def percentiles(values: Sequence[float]) -> tuple[float, ...]:
    """Return the values at `PERCENTILES`: each the smallest that so many per cent do not exceed (nearest rank)."""
    ordered = sorted(values)
    return tuple(ordered[max(-(-len(ordered) * percent // 100), 1) - 1] for percent in PERCENTILES)


def _size_of(megapixels: float) -> str:
    return next((name for limit, name in _SIZES if megapixels <= limit), "over 8 MP")

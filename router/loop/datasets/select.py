"""Which kept exchanges are worth learning from, and what would have been right.

In: exchanges with what was said of them. Out: why each is of interest, and its right answer if somebody said it.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from router.loop.records import Exchange
from router.loop.right import right_of

Reason = Literal["corrected", "down", "up", "conflict", "low"]
REASONS: Final[tuple[Reason, ...]] = ("corrected", "down", "up", "conflict", "low")
# Below this, draft and deep answer agree little; from the other on, they say the same.
LOW_AGREEMENT: Final = 0.5
AGREED: Final = 0.9


@dataclass(frozen=True, slots=True)
class Candidate:
    """An exchange of interest.

    Attributes:
        exchange: as it is kept.
        reasons: why, out of `REASONS`; ``random`` if it was drawn.
        right: the right answer; None if nobody has said it.
    """

    exchange: Exchange
    reasons: tuple[str, ...]
    right: str | None


def select(
    exchanges: Iterable[Exchange], wanted: Collection[str] = REASONS, *, low: float = LOW_AGREEMENT
) -> Iterator[Candidate]:
    """Yield exchanges that are of interest for one of these reasons.

    Args:
        exchanges: in any order; second looks are no questions of their own and are passed over.
        wanted: out of `REASONS`.
        low: agreement below which a pair of answers is of interest.
    """
    for exchange in exchanges:
        if exchange.again or not exchange.final:
            continue
        reasons = tuple(each for each in reasons_of(exchange, low) if each in wanted)
        if reasons:
            yield Candidate(exchange, reasons, right_answer(exchange))


def waiting(exchanges: Iterable[Exchange]) -> Iterator[Candidate]:
    """Yield those of interest of which nobody has said what is right."""
    return (each for each in select(exchanges) if each.right is None)


def reasons_of(exchange: Exchange, low: float = LOW_AGREEMENT) -> list[Reason]:
    """Say why an exchange is of interest."""
    said = exchange.feedback
    found: list[Reason] = []
    if said is not None and (said.correction is not None or said.fields):
        found.append("corrected")
    if said is not None and said.rating is not None:
        found.append(said.rating)
    if exchange.conflicts:
        found.append("conflict")
    if exchange.agreement is not None and exchange.agreement < low:
        found.append("low")
    return found


def right_answer(exchange: Exchange, *, trusts_agreement: bool = False) -> str | None:
    """Return what would have been right: a correction, or the answer itself if it was found right.

    Args:
        exchange: as it is kept.
        trusts_agreement: what both models say without being asked to agree counts as right too.
    """
    said = exchange.feedback
    if (right := right_of(exchange.final, said)) is not None:
        return right
    has_said = said is not None and (said.rating is not None or bool(said.fields))
    is_agreed = exchange.agreement is not None and exchange.agreement >= AGREED and not exchange.conflicts
    return exchange.final if trusts_agreement and is_agreed and not has_said else None


def draw(exchanges: Iterable[Exchange], taken: Collection[str], number: int, seed: int = 0) -> list[Candidate]:
    """Draw more exchanges, from those on which both models agree; the same ones each time.

    Args:
        exchanges: to draw from.
        taken: ids that are selected already.
        number: most to draw.
        seed: another one draws others.
    """
    found = [
        Candidate(exchange, ("random",), right)
        for exchange in exchanges
        if exchange.id not in taken and not exchange.again
        if (right := right_answer(exchange, trusts_agreement=True)) is not None
    ]
    found.sort(key=lambda each: each.exchange.id)
    return random.Random(seed).sample(found, min(number, len(found)))  # noqa: S311 - not for security

"""Answers that no client waits for: a random share of the fast questions is asked again, by a job of lowest priority.

In: fast calls that end. Out: the same events, and now and then one more call. What comes of it is kept with what owners
let us keep (`router.loop`), and shown to nobody. Two kinds: a second look takes the deep route, and says whether that
pays; a shadow is put to an adapter that is not promoted yet. With which probability either was drawn is in the decision
of every question that could have been, drawn or not: `glowl verdict` and `glowl replay` stand on it.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from policies.features import Hints
from router.call import Again, AgainKind, CacheUse, Call
from router.errors import RouterError
from router.jobs.job import Event, Job, JobSpec
from router.promotion.records import BASE, Promotion

log = logging.getLogger(__name__)

SECOND_LOOK: Final[AgainKind] = "second_look"
SHADOW: Final[AgainKind] = "shadow"
_RANDOM: Final = random.SystemRandom()


class Begun(Protocol):
    """What asking returns: events to be closed by whom they do not concern."""

    events: AsyncGenerator[Event, None]


@dataclass(frozen=True, slots=True)
class Draw:
    """Whether a question is asked again.

    Attributes:
        kind: in which way.
        probability: with which it was drawn.
        is_drawn: it was.
        adapter: that is asked; empty for none.
    """

    kind: AgainKind
    probability: float
    is_drawn: bool
    adapter: str = ""


class SecondLooks:
    """Draws questions and asks them again.

    Args:
        share: of the fast questions that get a second look, 0 to 1.
        shadow: says which adapter is in the shadow, and its share.
        keeps: whether what comes of a call is kept; others are never drawn.
        chance: returns 0 to below 1, each time another number.
    """

    def __init__(
        self,
        share: float = 0.0,
        *,
        shadow: Callable[[], Promotion] = lambda: BASE,
        keeps: Callable[[Call], bool] = lambda _call: False,
        chance: Callable[[], float] = _RANDOM.random,
    ) -> None:
        self._share = share
        self._shadow = shadow
        self._keeps = keeps
        self._chance = chance

    def draw(self, call: Call) -> list[Draw]:
        """Draw for a call that takes the fast route; nothing if it cannot be asked again.

        Only questions whose route the policy chose: of others there is nothing to learn for it.
        """
        is_free = call.hints.route == "auto" and call.hints.engine is None and not call.uses_tools
        if not is_free or call.again is not None or not self._keeps(call):
            return []
        draws = []
        if self._share > 0:
            draws.append(Draw(SECOND_LOOK, self._share, self._chance() < self._share))
        shadow = self._shadow()
        if shadow.adapter and shadow.share > 0 and shadow.adapter != call.adapter:
            draws.append(Draw(SHADOW, shadow.share, self._chance() < shadow.share, shadow.adapter))
        return draws

    async def follow(
        self,
        events: AsyncGenerator[Event, None],
        call: Call,
        draws: list[Draw],
        ended: Sequence[Job],
        begin: Callable[[Call], object],
    ) -> AsyncGenerator[Event, None]:
        """Pass on the events of a fast answer, and ask again what was drawn once it is answered.

        Args:
            events: of the answer.
            call: that it answers.
            draws: for it.
            ended: has its record, once there is one; stays empty if its client hangs up before.
            begin: asks beside all else, and does not wait.
        """
        try:
            async with contextlib.aclosing(events):
                async for event in events:
                    yield event
        finally:  # who reads the events may stop at the last one
            for job in ended:
                for draw in draws:
                    if draw.is_drawn and job.final is not None:
                        begin(to_call(call, job.spec, draw))


async def ask(start: Callable[[Call], Awaitable[Begun]], call: Call) -> None:
    """Ask again, if that can be done now: the question was answered, and this is beside it."""
    try:
        begun = await start(call)
    except RouterError as error:
        log.info("%s was not asked again: %s", call.again, error.message)
    else:
        await begun.events.aclose()


def with_draws(spec: JobSpec, draws: list[Draw]) -> JobSpec:
    """Return the spec of a question with what was drawn for it in its decision."""
    noted: dict[str, object] = {
        draw.kind: {
            "probability": draw.probability,
            "is_drawn": draw.is_drawn,
            **({"adapter": draw.adapter} if draw.adapter else {}),
        }
        for draw in draws
    }
    return replace(spec, decision={**spec.decision, **noted}) if noted else spec


def to_call(call: Call, spec: JobSpec, draw: Draw) -> Call:
    """Return the call that asks a question again: in the background, after everybody else, for no one."""
    hints = Hints(route="deep") if draw.kind == SECOND_LOOK else Hints(route="fast", engine="glm")
    return replace(
        call,
        hints=hints,
        adapter=draw.adapter or call.adapter,
        is_background=True,
        is_stored=False,
        is_streamed=False,
        is_watched=False,
        priority="batch",
        response_id=looked_again_id(spec.id, draw.kind),
        again=Again(draw.kind, spec.id),
        keep_s=0,
        metadata={},
        webhook_url=None,
        batch_id="",
        cache=CacheUse(),
        admission=None,
        dial=None,
    )


def looked_again_ids(response_id: str) -> tuple[str, ...]:
    """Return the ids of all that may be asked again because of one question."""
    return tuple(looked_again_id(response_id, kind) for kind in (SECOND_LOOK, SHADOW))


def looked_again_id(response_id: str, kind: AgainKind) -> str:
    """Return the id of what is asked again, which its question's id leads to and nothing else does."""
    return f"resp_{hashlib.sha256(f'{kind} {response_id}'.encode()).hexdigest()[:32]}"

"""How long a new job would wait, from what waits already: what routing knows of the queues.

In: the lines of every queue, as one script of the job store reads them. Out: per caller, how old the queue is and how
many units would go first. Pure functions.

Owners take turns, so an owner's long queue delays another's job by one turn only. What delays a caller is its own
queue, and how long any owner has waited for a turn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from router.call import Priority
from router.jobs.eta import Pace, Standing, estimate
from router.jobs.schedule import to_class
from router.lua.constants import MAX_WALK, SHARE

# A measurement older than this is dropped: else one slow hour would keep jobs away for ever.
_LEARNED_FOR_S: Final = 3600.0
_NO_PACE: Final = Pace()


@dataclass(frozen=True, slots=True)
class Line:
    """One owner's units that wait in a queue, at one priority.

    Attributes:
        owner: whose they are.
        num_waiting: how many.
        oldest_s: time since the oldest one's job was accepted, seconds.
        turn_s: how long the owner has been waiting for this turn, seconds; at most ``oldest_s``.
    """

    owner: str
    num_waiting: int
    oldest_s: float
    turn_s: float


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits in one queue.

    Attributes:
        pace: of the queue.
        learned_s_ago: when a run last ended well; None if none has.
        lines: by priority, 1 = highest: the first `MAX_WALK` owners in the order of their turns.
        num_owners: by priority, all of them.
        depths: by priority, how many units wait.
    """

    pace: Pace = _NO_PACE
    learned_s_ago: float | None = None
    lines: tuple[tuple[Line, ...], ...] = ((), (), ())
    num_owners: tuple[int, ...] = (0, 0, 0)
    depths: tuple[int, ...] = (0, 0, 0)

    @property
    def depth(self) -> int:
        """How many units wait."""
        return sum(self.depths)

    @property
    def oldest_s(self) -> float:
        """Age of the oldest unit of a job that is not of the lowest priority, which may wait for hours."""
        return max((line.oldest_s for lines in self.lines[:-1] for line in lines), default=0.0)

    @property
    def known_pace(self) -> Pace:
        """The pace; without a service time if that was learned too long ago."""
        is_known = self.learned_s_ago is not None and self.learned_s_ago <= _LEARNED_FOR_S
        return self.pace if is_known else Pace(None, self.pace.parallel, self.pace.num_running)

    def ages(self, priority: Priority) -> tuple[float, dict[str, float]]:
        """How long the wait is that a new job would join, seconds.

        Returns:
            For anybody, and for those owners for whom it is longer, since they have a line of their own.
        """
        lines = [line for lines in self.lines[: to_class(priority)] for line in lines]
        turn_s = max((line.turn_s for line in lines), default=0.0)
        longer: dict[str, float] = {}
        for line in lines:
            if line.oldest_s > max(turn_s, longer.get(line.owner, 0.0)):
                longer[line.owner] = line.oldest_s
        return turn_s, longer

    def age_for(self, owner: str, priority: Priority) -> float:
        """How long the wait is that this owner's next job would join, seconds."""
        turn_s, longer = self.ages(priority)
        return longer.get(owner, turn_s)

    def ahead_of(self, owner: str, priority: Priority) -> int:
        """How many units would be started before this owner's next one; as ``jobs/place.lua`` counts."""
        number = to_class(priority)
        lines, num_owners = self.lines[number - 1], self.num_owners[number - 1]
        mine = next((place for place, line in enumerate(lines) if line.owner == owner), None)
        if mine is None:
            ahead = num_owners
        else:
            rank = lines[mine].num_waiting
            others = sum(
                min(rank + (place < mine), line.num_waiting) for place, line in enumerate(lines) if place != mine
            )
            ahead = rank + (others * num_owners // MAX_WALK if num_owners > MAX_WALK else others)
        # For each started unit of this priority, this many of higher priority start first, if they wait.
        passed_by = int(SHARE ** (number - 1)) - 1
        return ahead + min(sum(self.depths[: number - 1]), passed_by * (ahead + 1))


@dataclass(frozen=True, slots=True)
class Backlogs:
    """What waits in every queue, by its name."""

    of: Mapping[str, Backlog] = field(default_factory=dict)

    def deep_ms(self, owner: str, priority: Priority) -> int | None:
        """How long a job for Owl2 would take if it were accepted now, milliseconds; None while that is not known.

        Until Owl2's answer is there and merged. Where GLM composes the final one, its time comes on top.
        """
        owl2, light = self.of.get("owl2", Backlog()), self.of.get("light", Backlog())
        newcomer = Standing(owl2.ahead_of(owner, priority), 0.0, owl2.known_pace)
        return estimate([newcomer], light.known_pace).eta_ms


def to_backlog(row: list[Any]) -> Backlog:
    """Read one row of ``jobs/backlog.lua``."""
    service, parallel, running, learned, *counts = [None if word == b"" else float(word) for word in row[:10]]
    lines: tuple[list[Line], ...] = ([], [], [])
    for number, owner, num_waiting, oldest, turn in zip(*[iter(row[10:])] * 5, strict=True):
        lines[int(number) - 1].append(
            Line(owner.decode(), int(num_waiting), max(float(oldest), 0.0), max(float(turn), 0.0))
        )
    return Backlog(
        Pace(service, parallel or 1.0, int(running or 0)),
        learned,
        tuple(map(tuple, lines)),
        num_owners=tuple(int(count or 0) for count in counts[1::2]),
        depths=tuple(int(count or 0) for count in counts[::2]),
    )

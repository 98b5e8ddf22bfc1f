"""When a job will be done, as far as anybody can know: learned from what its queues did lately.

In: where each unfinished unit stands, and its queue's pace. Out: `QueuePlace`, which every poll of an unfinished job
shows. Pure functions; the scripts that end units keep the paces.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

# The estimate of a run that takes longer than usual never falls to zero.
_LEAST_REST: Final = 0.1


@dataclass(frozen=True, slots=True)
class QueuePlace:
    """How far an unfinished job is.

    Attributes:
        position: 1 is the next to be started; 0 if nothing of it waits any more.
        eta_ms: until its final answer; None while there is no estimate.
    """

    position: int
    eta_ms: int | None


@dataclass(frozen=True, slots=True)
class Pace:
    """What is known of a queue.

    Attributes:
        service_s: how long a run takes, averaged over the last ones; None before the first has ended.
        parallel: how many ran side by side when they ended, averaged alike.
        num_running: how many run now.
    """

    service_s: float | None = None
    parallel: float = 1.0
    num_running: int = 0


@dataclass(frozen=True, slots=True)
class Standing:
    """One unfinished unit.

    Attributes:
        ahead: how many will be started before it; None if it runs.
        elapsed_s: how long it has been running.
        pace: of its queue.
    """

    ahead: int | None
    elapsed_s: float
    pace: Pace


def estimate(units: Sequence[Standing], merge: Pace) -> QueuePlace:
    """Say how far a job is.

    Args:
        units: its unfinished branches, or its merge alone.
        merge: the pace of the queue of merges, which comes after the branches.
    """
    waiting = [unit.ahead for unit in units if unit.ahead is not None]
    rests = [_rest_s(unit) for unit in units]
    known = [rest for rest in rests if rest is not None]
    eta_ms = None
    if known and len(known) == len(rests):
        eta_ms = math.ceil((max(known) + (merge.service_s or 0.0)) * 1000)
    return QueuePlace(position=max(waiting) + 1 if waiting else 0, eta_ms=eta_ms)


def _rest_s(unit: Standing) -> float | None:
    service_s = unit.pace.service_s
    if service_s is None:
        return None
    if unit.ahead is None:
        return max(service_s - unit.elapsed_s, service_s * _LEAST_REST)
    return service_s + unit.ahead * service_s / max(unit.pace.parallel, unit.pace.num_running, 1.0)

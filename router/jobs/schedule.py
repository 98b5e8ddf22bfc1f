"""The queues and the priorities, by which the units that wait take turns.

In: what a client asks for, and engines. Out: the priority of a job, and the queue of a unit.

Within a priority, owners take turns, and each owner's oldest unit goes first: a thousand jobs of one caller delay
another's one by one. Between priorities the higher goes first, but for one turn in `SHARE`, so that no job waits for
ever because others call all they send urgent. The script `jobs/next.lua` takes what is next; `tests.model.fair_queue`
says the same in Python.
"""

from __future__ import annotations

from typing import Final, Literal

from router.call import Priority

# Highest first. In redis a priority is its place in here, from 1.
PRIORITIES: Final[tuple[Priority, ...]] = ("interactive", "normal", "batch")
# The queues: one per engine, for tasks that wait for that engine, and one for merges that call no engine.
Queue = Literal["glm", "owl2", "light"]
QUEUES: Final[tuple[Queue, ...]] = ("glm", "owl2", "light")


def to_priority(service_tier: str | None) -> Priority:
    """Read OpenAI's ``service_tier``: ``priority`` goes first, ``flex`` last, with the lines of batches."""
    tiers: dict[str | None, Priority] = {"priority": "interactive", "flex": "batch"}
    return tiers.get(service_tier, "normal")


def queue_of(engine: str) -> Queue:
    """Return the queue of an engine's branches."""
    return "owl2" if engine == "owl2" else "glm"


def to_class(priority: Priority) -> int:
    """Return a priority's place, from 1."""
    return PRIORITIES.index(priority) + 1

"""What every unit is run with: the record, the queue, the engines.

In: the parts that `router.bootstrap` builds. Out: one `Context` per process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engines.base import (
    Engine,
)
from router.cache.store import AnswerCache
from router.jobs.cancels import CancelWatch
from router.jobs.queue import JobQueue
from router.jobs.store import JobStore
from router.leftovers import Leftovers
from router.webhooks.deliver import Deliverer

if TYPE_CHECKING:
    from engines.traces.sdk import Traces


@dataclass(frozen=True, slots=True)
class Context:
    """What the tasks work with: one per worker process.

    Attributes:
        store: the job records.
        queue: sends units to the workers.
        engines: by name.
        looks: by name, asks an engine whether it is well; of one that is missing it is believed.
        deliverer: posts webhooks.
        cache: keeps answers to be given again; None keeps none.
        cancels: tells at once of jobs that ended from outside; None leaves that to the lease.
        wakers: wake the keeper of each lease that is held now.
        draining: set when the process is to end: what still runs is handed back, and nothing more is begun.
        leftovers: short work that ends after the run that caused it.
        traces: of this process; None keeps none.
    """

    store: JobStore
    queue: JobQueue
    engines: Mapping[str, Engine]
    deliverer: Deliverer
    cache: AnswerCache | None = None
    cancels: CancelWatch | None = None
    looks: Mapping[str, Callable[[], Awaitable[bool]]] = field(default_factory=dict)
    wakers: set[asyncio.Event] = field(default_factory=set)
    draining: asyncio.Event = field(default_factory=asyncio.Event)
    leftovers: Leftovers = field(default_factory=Leftovers)
    traces: Traces | None = None

    def hand_back(self) -> None:
        """Give every running unit back, so that another worker starts it at once."""
        self.draining.set()
        for waker in self.wakers:
            waker.set()

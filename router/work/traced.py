"""The spans of a unit: how long it has waited in its queue, and its run.

In: a job as it was when a worker took one of its units. Out: spans beside each other, in that of the request.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from engines.origin import ORIGIN
from engines.traces import conventions
from router.jobs.job import MERGE, Job

if TYPE_CHECKING:
    from engines.traces.sdk import Span, Traces


@contextmanager
def run_span(traces: Traces, job: Job, unit: str, epoch: int) -> Iterator[Span]:
    """Keep the span of a run open; what is done in it belongs to it.

    Args:
        traces: of this process.
        job: whose unit it is.
        unit: which.
        epoch: of the claim: the second run of a unit is a span of its own.
    """
    origin = ORIGIN.get()
    about = {
        conventions.UNIT: unit,
        conventions.RUN: epoch,
        conventions.QUEUE: job.queue_of(unit),
        conventions.REQUEST_ID: origin.request_id or None,
        conventions.RESPONSE_ID: job.id,
        conventions.BATCH_ID: job.spec.batch_id or None,
    }
    due_at = _due_at(job, unit, epoch)
    if due_at is not None:
        traces.begin(f"queue {unit}", "internal", origin, about, began_at=due_at).end()
    with traces.span(f"run {unit}", "internal", origin, about) as span:
        token = ORIGIN.set(span.origin)
        try:
            yield span
        finally:
            ORIGIN.reset(token)


def _due_at(job: Job, unit: str, epoch: int) -> float | None:
    """Return since when a unit has waited, by redis' clock; None if that is not known, as of a later run."""
    if epoch != 1:
        return None
    if unit != MERGE:
        return job.accepted_at
    ends = [each.began_at + each.result.duration_s for each in job.units.values() if each.began_at and each.result]
    return max(ends, default=None)

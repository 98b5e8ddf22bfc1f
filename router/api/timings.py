"""Where the time of an answer went: for ``hybrid.timings`` and the ``Server-Timing`` header.

In: a job record. Out: milliseconds by step, only of steps that are known by now.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from router.jobs.job import MERGE, Job, Unit

# In the order of the steps; `router.api.openapi` shows the same.
STEPS: Final[dict[str, str]] = {
    "fetch": "loading the pictures: downloaded, or decoded from base64",
    "policy": "deciding",
    "queue": "until a worker, or this process, began with the branch",
    "prefill": "from asking the engine to its first piece of text",
    "decode": "from the first piece of text to the last",
    "merge": "making one answer of the branches' answers",
    "total": "from accepting the request to its end; branches run side by side, so this is no sum",
}


def to_timings(job: Job) -> dict[str, float]:
    """Return the steps' times.

    ``queue``, ``prefill`` and ``decode`` are of one branch: the one whose text is the answer; of a composed answer, the
    main one; until there is an answer, the draft.
    """
    spec = job.spec
    found: dict[str, float | None] = {name: spec.timings.get(name) for name in ("fetch", "policy")}
    unit = None if spec.cache == "hit" else _writer_of(job)  # what it took then is not what it takes now
    if unit is not None and unit.result is not None:
        first_s = unit.result.ttft_s
        found["queue"] = _ms(job.accepted_at, unit.began_at)
        found["prefill"] = None if first_s is None else 1000 * first_s
        found["decode"] = None if first_s is None else 1000 * (unit.result.duration_s - first_s)
    if job.final is not None and MERGE in job.units and spec.cache != "hit":
        found["merge"] = _ms(job.units[MERGE].began_at, job.completed_at)
    found["total"] = _ms(job.accepted_at or spec.created_at, job.completed_at)
    return {name: round(max(value, 0.0), 2) for name in STEPS if (value := found.get(name)) is not None}


def to_server_timing(timings: Mapping[str, float]) -> str:
    """Return the value of the header.

    Source: W3C Server Timing.
    """
    return ", ".join(f"{name};dur={value:g}" for name, value in timings.items())


def _writer_of(job: Job) -> Unit | None:
    units = [job.units[branch.name] for branch in job.spec.branches if branch.name in job.units]
    answered = [unit for unit in units if unit.answer is not None]
    if job.final is None:
        return next((unit for unit in answered if unit.name == "draft"), None)
    wrote = [unit for unit in answered if unit.answer is not None and unit.answer.text == job.final.text]
    return next(iter(wrote or answered[-1:]), None)


def _ms(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else 1000 * (end - start)

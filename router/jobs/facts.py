"""What metrics get of a job: words of the product and numbers, none of it said or named by a client.

In: specs and records. Out: what the record keeps for its end (`of_spec`), what its end adds (`of_end`), and the same of
an answer that was made without the queue (`of_answer`).
"""

from __future__ import annotations

from typing import Any

import orjson

from router.jobs.job import MERGE, Job, JobSpec, Unit
from router.jobs.results import FinalAnswer, add_usage
from router.telemetry.ended import Change, Ended, Run


def of_spec(spec: JobSpec) -> bytes:
    """Return what is known when a job is accepted."""
    decision = spec.decision
    return orjson.dumps({"route": decision.get("route"), "engine": decision.get("engine"), "cache": spec.cache})


def of_end(job: Job, final: FinalAnswer | None) -> bytes:
    """Return what is known of a job when it ends; times by redis' clock, as the record has them.

    Args:
        job: as it was read before its end.
        final: the answer; None if there is none.
    """
    accepted_at = job.accepted_at or job.spec.created_at
    firsts: list[float] = []
    runs: list[list[Any]] = []
    for branch in job.spec.branches:
        unit = job.units[branch.name]
        if unit.began_at is None:
            continue
        run: list[Any] = [job.queue_of(branch.name), branch.engine, max(unit.began_at - accepted_at, 0.0)]
        if (result := unit.result) is not None:
            if result.ttft_s is not None:
                firsts.append(unit.began_at + result.ttft_s)
            run += [result.ttft_s, result.duration_s, result.usage.prompt_tokens, result.usage.completion_tokens]
        runs.append(run)
    runs += _of_merge(job, final)
    draft, merge = job.units.get("draft"), job.units.get(MERGE)
    told: dict[str, Any] = {
        "engine": final.engine if final is not None else "",
        "first_token_at": min(firsts, default=None),
        "merge_began_at": merge.began_at if merge is not None else None,
        "runs": runs,
    }
    if final is not None and draft is not None and draft.answer is not None and draft.began_at is not None:
        told["draft_ended_at"] = draft.began_at + draft.answer.duration_s
        told["agreement"] = final.agreement
        told["change"] = _change(draft, final)
    return orjson.dumps(told)


def of_answer(job: Job) -> Ended:
    """Return what is known of an answer that was made without the queue, or given again."""
    spec, final = job.spec, job.final
    is_hit = spec.cache == "hit"
    before_s = sum(spec.timings.values()) / 1000
    unit = next(iter(job.units.values()), None)
    result = None if unit is None or is_hit else unit.result
    first_s = None if result is None or result.ttft_s is None else before_s + result.ttft_s
    ended_at = job.completed_at or spec.created_at
    runs: tuple[Run, ...] = ()
    if result is not None and spec.cache != "joined":
        usage = result.usage
        runs = (Run(engine="glm", prompt_tokens=usage.prompt_tokens, completion_tokens=usage.completion_tokens),)
    return Ended(
        route=spec.decision["route"],
        engine=final.engine if final is not None else spec.decision["engine"],
        state=job.state,
        cache=spec.cache,
        took_s=before_s + max(ended_at - spec.created_at, 0.0),
        first_token_s=first_s,
        runs=runs,
    )


def _of_merge(job: Job, final: FinalAnswer | None) -> list[list[Any]]:
    """Return the run of the merge, if it has begun: since when it was due, and what an engine used for it."""
    merge = job.units.get(MERGE)
    if merge is None or merge.began_at is None:
        return []
    branches = [unit for name, unit in job.units.items() if name != MERGE]
    ends = [unit.began_at + unit.result.duration_s for unit in branches if unit.began_at and unit.result]
    queue_s = max(merge.began_at - max(ends), 0.0) if ends else None
    used = add_usage(*(unit.result.usage for unit in branches if unit.result))
    tokens = [0, 0]
    if final is not None:
        tokens = [
            max(final.usage.prompt_tokens - used.prompt_tokens, 0),
            max(final.usage.completion_tokens - used.completion_tokens, 0),
        ]
    queue = job.queue_of(MERGE)
    return [[queue, queue if any(tokens) else "", queue_s, None, None, *tokens]]


def _change(draft: Unit, final: FinalAnswer) -> Change:
    """Say what became of a draft, for those who have read it."""
    assert draft.answer is not None
    if draft.answer.text.strip() == final.text.strip():
        return "same"
    return "contradicted" if final.conflicts else "reworded"

"""From a call to the spec of its job.

In: a `Call`, and what was decided about it, now or when the same was asked before. Out: the `JobSpec` that is recorded.
"""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from typing import Any

from engines.origin import ORIGIN
from router.call import Call, to_stored_messages
from router.jobs.job import BranchPlan, JobSpec, new_job_id


def to_spec(
    call: Call,
    *,
    decision: dict[str, Any],
    language: str,
    branches: tuple[BranchPlan, ...],
    strategy: str,
    policy_ms: float | None = None,
) -> JobSpec:
    """Build it.

    Args:
        call: what was asked.
        decision: of the policy, as JSON.
        language: of the question.
        branches: who answers.
        strategy: how the answers are merged.
        policy_ms: how long deciding took; None if nothing was decided.
    """
    timings = {} if policy_ms is None else {"policy": round(policy_ms, 3)}
    if call.fetch_ms is not None and call.images:
        timings["fetch"] = round(call.fetch_ms, 3)
    if call.again is not None:
        decision = {**decision, "again": asdict(call.again)}
    return JobSpec(
        id=call.response_id or new_job_id(),
        owner=call.owner,
        created_at=time.time(),
        model=call.model,
        messages=to_stored_messages(call.messages),
        sampling=call.sampling,
        decision=decision,
        language=language,
        branches=branches,
        strategy=strategy,
        is_background=call.is_background,
        is_stored=call.is_stored,
        metadata=dict(call.metadata),
        instructions=call.instructions,
        webhook_url=call.webhook_url,
        previous_response_id=call.previous_response_id,
        adapter=call.adapter,
        adapter_revision=call.adapter_revision,
        adapter_engine=call.adapter_engine,
        promoted=dict(call.promoted),
        promoted_revisions=dict(call.promoted_revisions),
        output_format=call.output_format,
        keep_s=call.keep_s,
        retention_s=call.retention_s,
        priority=call.priority,
        deadline_ms=call.hints.deadline_ms,
        batch_id=call.batch_id,
        draft_as=call.draft_as,
        echo=dict(call.echo),
        timings=timings,
        origin=ORIGIN.get(),
        is_captured=call.is_captured,
    )


def work_for(spec: JobSpec) -> None:
    """Let all that this task does from now on say whose request it is for."""
    ORIGIN.set(replace(spec.origin, response_id=spec.id))

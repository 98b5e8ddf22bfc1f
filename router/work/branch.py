"""A branch: ask one engine under a lease and record its answer, or the error that ended it.

In: a claimed branch. Out: changes of the job record, all fenced by the epoch of the claim.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from engines.base import (
    EngineError,
    GenerationRequest,
    Message,
    TextPart,
)
from engines.json_check import UncheckableSchemaError
from router.answers import groups
from router.answers.json_answers import InvalidJsonError, dump_json, read_json, repair_prompt
from router.answers.usable import checked
from router.errors import QueueUnavailableError
from router.jobs.job import MERGE, BranchPlan, Job
from router.jobs.results import UnitResult, add_usage, to_failure_record
from router.jobs.specs import work_for
from router.output_format import with_instruction
from router.work.asking import build_request, generate, to_engine_error
from router.work.context import Context
from router.work.lease import HandedBackError, LeaseLostError, hand_back, lease, patiently, release, send_on
from router.work.traced import run_span

if TYPE_CHECKING:
    from engines.traces.sdk import Span

log = logging.getLogger(__name__)


async def run_branch(context: Context, job_id: str, unit: str, epoch: int | None = None) -> None:
    """Ask one engine and record its answer, token by token, or the error that ended it.

    Args:
        context: what to work with.
        job_id: whose.
        unit: which of its branches.
        epoch: of the claim; None takes the unit now, out of turn.
    """
    if epoch is None:
        epoch = await context.store.claim(job_id, unit)
    due = None if epoch is None else await run_claimed(context, job_id, unit, epoch)
    if due is not None:
        await send_on(context, job_id, MERGE)


async def run_claimed(context: Context, job_id: str, unit: str, epoch: int) -> Job | None:
    """Run a branch; returns its job if that was the last one and the merge is due."""
    job = await patiently(lambda: context.store.get(job_id))
    if job is None:
        return None
    plan = next(branch for branch in job.spec.branches if branch.name == unit)

    async def ask() -> UnitResult:
        request = await build_request(
            context, job, plan.engine, groups.shown_to(job.spec, plan), enable_thinking=plan.enable_thinking
        )
        if plan.pictures:
            info = await context.engines[plan.engine].info()
            request = replace(request, sampling=groups.sampling_for(job.spec, plan, info.context_tokens))
        # GLM is held to the schema; Owl2 is asked for JSON, by words, only where answers are merged field by field.
        if job.spec.strategy == "fields" and plan.engine != "glm" and not plan.pictures:
            told = with_instruction(replace(request, sampling=job.spec.sampling), job.spec.output_format, "en")
            return await _generate_json(context, job, plan, epoch, replace(request, messages=told.messages))
        request = with_instruction(request, job.spec.output_format, job.spec.language)
        return await generate(context, job_id, unit, epoch, plan.engine, request)

    return job if await run_under_lease(context, job, unit, epoch, ask) else None


async def run_under_lease(
    context: Context, job: Job, unit: str, epoch: int, ask: Callable[[], Awaitable[UnitResult]]
) -> bool:
    """Run a claimed branch under its lease and record how it ended; True if it was the last: the merge is due."""
    work_for(job.spec)
    if context.traces is None:
        return await _run(context, job, unit, epoch, ask, None)
    with run_span(context.traces, job, unit, epoch) as span:
        return await _run(context, job, unit, epoch, ask, span)


async def _run(
    context: Context, job: Job, unit: str, epoch: int, ask: Callable[[], Awaitable[UnitResult]], span: Span | None
) -> bool:
    store, job_id = context.store, job.id
    try:
        async with lease(context, job_id, unit, epoch):
            result = checked(await ask(), job.spec)
    except LeaseLostError:
        log.info("%s of %s is no longer ours", unit, job_id)
        _failed(span, "lease_lost")
        return False
    except HandedBackError:
        _failed(span, "handed_back")
        await hand_back(context, job_id, unit, epoch)
        return False
    except QueueUnavailableError:
        raise  # no record can be written now; the lease expires and the unit is retried
    except Exception as error:  # the edge of the process: without a record the job would wait for three lost leases
        refusal = to_engine_error(error, f"{unit} of {job_id}")
        _failed(span, refusal.code)
        if refusal.retryable and await release(store, job_id, unit, epoch, refusal):
            return False
        result = UnitResult(error=to_failure_record(refusal))
    _write_down(job, unit, epoch, result)
    # Outside the lease: a renewal that finds the unit finished would cancel this call as if the lease were lost.
    is_first_try = True

    async def finish() -> bool:
        nonlocal is_first_try
        was_first_try, is_first_try = is_first_try, False
        # If only the reply to the first try was lost, a second finds the unit finished; an extra message is harmless.
        return await store.finish(job_id, unit, epoch, result) or not was_first_try

    return await patiently(finish)


def _failed(span: Span | None, code: str) -> None:
    if span is not None:
        span.fail(code)


def _write_down(job: Job, unit: str, epoch: int, result: UnitResult) -> None:
    fields = {
        "unit": unit,
        "run": epoch,
        "model": result.model,
        "duration_ms": round(result.duration_s * 1000),
        "first_text_ms": None if result.ttft_s is None else round(result.ttft_s * 1000),
        "prompt_tokens": result.usage.prompt_tokens,
        "completion_tokens": result.usage.completion_tokens,
    }
    if result.error is not None:
        fields = {"unit": unit, "run": epoch, "code": result.error.get("code")}
    ended = "completed" if result.error is None else "failed"
    log.info("%s of %s has %s", unit, job.id, ended, extra={"fields": fields})


async def _generate_json(
    context: Context, job: Job, plan: BranchPlan, epoch: int, request: GenerationRequest
) -> UnitResult:
    """Read the JSON in the answer of an engine that cannot be held to a schema; let it repair once what is not right.

    What is no such JSON after that stays as it is, and so does an answer that was cut: GLM puts it into the form.

    Raises:
        EngineError: as the engine raised it before there was any answer.
        LeaseLostError: as soon as a write is refused.
    """
    result = await generate(context, job.id, plan.name, epoch, plan.engine, request)
    schema = job.spec.sampling.json_schema
    if schema is None or result.finish_reason != "stop":
        return result
    try:
        try:
            value = await asyncio.to_thread(read_json, result.text, schema)
        except InvalidJsonError as problem:
            asked = TextPart(repair_prompt(str(problem), schema))
            turns = (*request.messages, Message("assistant", (TextPart(result.text),)), Message("user", (asked,)))
            repair = replace(request, messages=turns)
            again = await generate(context, job.id, plan.name, epoch, plan.engine, repair, is_told=False)
            duration_s = round(result.duration_s + again.duration_s, 4)
            both = add_usage(result.usage, again.usage)
            result = replace(result, usage=both, last_usage=result.usage, duration_s=duration_s)
            value = await asyncio.to_thread(read_json, again.text, schema)
            return replace(result, text=dump_json(value), json_state="repaired", logprobs=(), last_usage=again.usage)
        return replace(result, text=dump_json(value), json_state="valid", logprobs=())
    except (EngineError, InvalidJsonError, UncheckableSchemaError) as error:
        log.info("%s of %s is no JSON that satisfies the schema: %s", plan.name, job.id, error)
        return result

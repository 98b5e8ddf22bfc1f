"""The merge of a job: the final answer out of what its branches said.

In: a job whose branches have all ended. Out: the end of the job, fenced by the epoch of the claim.
"""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import replace
from typing import Final

from engines.base import (
    ContextLengthError,
    EngineError,
    Message,
    TextPart,
)
from router.answers import groups, merge
from router.answers.steps import Ask, Ended, Merging
from router.cache.store import KeptAs
from router.errors import QueueUnavailableError
from router.jobs.job import MERGE, Job, Unit, end_state
from router.jobs.queue import WEBHOOKS
from router.jobs.results import FinalAnswer, UnitResult, to_failure_record
from router.jobs.specs import work_for
from router.output_format import with_instruction
from router.work.asking import build_request, generate, to_engine_error
from router.work.context import Context
from router.work.lease import HandedBackError, LeaseLostError, hand_back, lease, patiently, release
from router.work.traced import run_span

log = logging.getLogger(__name__)

# Characters of each finding in the prompt that combines them: all, then fewer, until the prompt fits the context.
_FINDING_CHARS: Final = (None, 800, 250)


async def join(context: Context, job_id: str, epoch: int | None = None) -> None:
    """Merge the branches' results into the final answer, once the last of them has ended.

    Args:
        context: what to work with.
        job_id: whose.
        epoch: of the claim; None takes the merge now, out of turn.
    """
    store = context.store
    if epoch is None:
        epoch = await store.claim(job_id, MERGE)
    job = await patiently(lambda: store.get(job_id)) if epoch is not None else None
    if epoch is None or job is None:
        return
    work_for(job.spec)
    if context.traces is None:
        await _join(context, job, epoch)
        return
    with run_span(context.traces, job, MERGE, epoch):
        await _join(context, job, epoch)


async def _join(context: Context, job: Job, epoch: int) -> None:
    store, job_id = context.store, job.id
    try:
        async with lease(context, job_id, MERGE, epoch):
            ended, failure = await _merge(context, job, epoch)
    except LeaseLostError:
        log.info("the merge of %s is no longer ours", job_id)
        return
    except HandedBackError:
        await hand_back(context, job_id, MERGE, epoch)
        return
    except QueueUnavailableError:
        raise  # no record can be written now; the lease expires and the merge is retried
    except Exception:  # the edge of the process: a bug in the merge must not lose the branches' answers
        log.exception("the merge of %s failed", job_id)
        ended, failure = Ended(merge.without_merging(job)), None
    cause = failure if ended.wants_retry else None
    if cause is not None and cause.retryable and await release(store, job_id, MERGE, epoch, cause):
        return
    outcome = ended.outcome
    final, error = (None, outcome.error) if isinstance(outcome, merge.NoAnswer) else (outcome, None)
    if final is not None:
        await _keep(context, job, final)
    _write_down(job, epoch, final)
    if await patiently(lambda: store.complete(job_id, epoch, final=final, error=error, job=job)):
        await context.queue.send_tickets({WEBHOOKS: 1})  # at once, rather than when the sweeper comes by


def _write_down(job: Job, epoch: int, final: FinalAnswer | None) -> None:
    fields: dict[str, object] = {"unit": MERGE, "run": epoch, "strategy": job.spec.strategy}
    if final is not None:
        fields |= {"model": final.model, "degraded": bool(final.degraded), "agreement": final.agreement}
    log.info("%s has %s", job.id, end_state(final), extra={"fields": fields})


async def _keep(context: Context, job: Job, final: FinalAnswer) -> None:
    """Cache the answer for equal requests, if the client allows it."""
    if context.cache is None or not job.kept_as:
        return
    units = {**job.units, MERGE: Unit(MERGE, "completed", epoch=1)}
    ended = replace(job, state=end_state(final), units=units, final=final, completed_at=time.time())
    await context.cache.put(ended, KeptAs.parse(job.kept_as))


async def _merge(context: Context, job: Job, epoch: int) -> tuple[Ended, EngineError | None]:
    """Merge what the branches said with the help of the engines; returns the failure of the last one that failed, too.

    Raises:
        LeaseLostError: as soon as a write is refused.
        QueueUnavailableError: if redis stays away.
    """
    merging = Merging(job)
    failure: EngineError | None = None
    step = merging.next_step()
    while isinstance(step, Ask):
        try:
            if step.compose is None:
                reply = await _answer_from_findings(context, job, epoch, step.engine, is_told=step.is_told)
            else:
                reply = await _compose(context, job, epoch, step.compose)
        except (LeaseLostError, QueueUnavailableError):
            raise
        except Exception as error:  # all branches have ended: an error here must not lose their answers
            failure = to_engine_error(error, f"the merge of {job.id}")
            reply = UnitResult(error=to_failure_record(failure))
        step = merging.next_step(reply)
    return step, failure


async def _answer_from_findings(context: Context, job: Job, epoch: int, engine: str, *, is_told: bool) -> UnitResult:
    """Ask an engine, without pictures, for one answer; if the findings do not fit its context, with less of each.

    Raises:
        EngineError: as the engine raised it.
        LeaseLostError: as soon as a write is refused.
    """

    async def ask(most_chars: int | None) -> UnitResult:
        stored = groups.reduce_messages(job, most_chars)
        request = await build_request(context, job, engine, stored, enable_thinking=False)
        return await generate(context, job.id, MERGE, epoch, engine, request, is_told=is_told)

    *roomy, least = _FINDING_CHARS
    for most_chars in roomy:
        with contextlib.suppress(ContextLengthError):
            return await ask(most_chars)
    return await ask(least)


async def _compose(context: Context, job: Job, epoch: int, compose: merge.ComposeRequest) -> UnitResult:
    """Let GLM write the final answer.

    Raises:
        EngineError: as the engine raised it.
        LeaseLostError: as soon as a write is refused.
    """
    stored, prompt = job.spec.messages, compose.prompt
    if groups.num_pictures(job.spec) > (await context.engines["glm"].info()).max_images:
        stored = groups.without_pictures(job.spec)
        if groups.groups_of(job.spec):
            prompt = groups.reduce_prompt(job)
    request = await build_request(context, job, "glm", stored, enable_thinking=False)
    head, tail = request.messages[:-1], request.messages[-1]
    request = replace(request, messages=(*head, Message("user", (*tail.images, TextPart(prompt)))))
    request = with_instruction(request, job.spec.output_format, job.spec.language)
    # A finished answer waits only a limited time for a better one.
    silence_s = context.store.merge_patience_s if compose.has_fallback else None
    return await generate(context, job.id, MERGE, epoch, "glm", request, silence_s=silence_s)

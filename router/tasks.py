"""What a worker does: run a branch, join the branches, deliver a webhook.

In: a job id (and a unit). Out: changes of the job record, all fenced by the epoch of the run. The functions are
coroutines over a `Context`; `router.worker` wraps them as Celery tasks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, replace

from engines.base import (
    Delta,
    Engine,
    EngineError,
    EngineOverloadedError,
    GenerationFailedError,
    GenerationRequest,
    Message,
    SamplingParams,
    TextPart,
    TokenLogprob,
    Usage,
)
from router.call import from_stored_messages, stored_image_hashes
from router.errors import QueueUnavailableError
from router.jobs import merge
from router.jobs.job import MERGE, WEBHOOK, FinalAnswer, Job, UnitResult, to_failure_record
from router.jobs.queue import JobQueue
from router.jobs.store import JobStore
from router.webhooks.deliver import Deliverer

log = logging.getLogger(__name__)

_RETRY_DELAY_S = 1.0
_OVERLOAD_DELAY_S = 2.0
_WEBHOOK_DELAYS_S = (5.0, 60.0)


@dataclass(frozen=True, slots=True)
class Context:
    """What the tasks work with: one per worker process."""

    store: JobStore
    queue: JobQueue
    engines: Mapping[str, Engine]
    deliverer: Deliverer


class LeaseLostError(Exception):
    """The unit belongs to another run now, or the job was cancelled: stop and write nothing more."""


async def run_branch(context: Context, job_id: str, unit: str) -> None:
    """Ask one engine and record its answer, token by token, or the error that ended it."""
    store = context.store
    epoch = await store.claim(job_id, unit)
    job = await store.get(job_id) if epoch is not None else None
    if epoch is None or job is None:
        return
    plan = next(branch for branch in job.spec.branches if branch.name == unit)
    try:
        async with _lease(store, job_id, unit, epoch):
            request = await _build_request(context, job, enable_thinking=plan.enable_thinking)
            result = await _generate(context, job_id, unit, epoch, plan.engine, request)
    except LeaseLostError:
        log.info("%s of %s is no longer ours", unit, job_id)
        return
    except QueueUnavailableError:
        raise  # nothing can be recorded now; the lease runs out and the unit is run again
    except Exception as error:  # the edge of the process: without a record the job would wait for a lost lease, thrice
        refusal = _to_engine_error(error, f"{unit} of {job_id}")
        if refusal.retryable and await _release(store, job_id, unit, epoch, refusal):
            return
        result = UnitResult(error=to_failure_record(refusal))
    # Outside the lease: a renewal that finds the unit finished would take it for lost and cancel this very line.
    if await store.finish(job_id, unit, epoch, result):
        await context.queue.send(job_id, MERGE)


async def join(context: Context, job_id: str) -> None:
    """Merge the branches' results into the final answer; called back by whichever branch ended last."""
    store = context.store
    epoch = await store.claim(job_id, MERGE)
    job = await store.get(job_id) if epoch is not None else None
    if epoch is None or job is None:
        return
    try:
        async with _lease(store, job_id, MERGE, epoch):
            outcome = merge.resolve(job, _question(job))
            if isinstance(outcome, merge.ComposeRequest):
                outcome = await _compose(context, job, epoch, outcome)
    except LeaseLostError:
        log.info("the merge of %s is no longer ours", job_id)
        return
    if isinstance(outcome, merge.NoAnswer):
        is_webhook_due = await store.complete(job_id, epoch, error=outcome.error)
    else:
        is_webhook_due = await store.complete(job_id, epoch, final=outcome)
    if is_webhook_due:
        await context.queue.send(job_id, WEBHOOK)


async def deliver_webhook(context: Context, job_id: str) -> None:
    """Tell the caller's server that the job has ended; a failed attempt is made again later."""
    store = context.store
    epoch = await store.claim(job_id, WEBHOOK)
    job = await store.get(job_id) if epoch is not None else None
    if epoch is None or job is None or job.spec.webhook_url is None:
        return
    try:
        async with _lease(store, job_id, WEBHOOK, epoch):
            error = await context.deliverer.deliver(job)
    except LeaseLostError:
        log.info("the webhook of %s is no longer ours", job_id)
        return
    if error is not None:
        delay_s = _WEBHOOK_DELAYS_S[min(job.units[WEBHOOK].failures, len(_WEBHOOK_DELAYS_S) - 1)]
        log.warning("webhook of %s: %s", job_id, error)
        if await store.release(job_id, WEBHOOK, epoch, delay_s=delay_s, is_failure=True):
            return
    await store.finish(
        job_id, WEBHOOK, epoch, UnitResult(error={"code": "webhook_failed", "message": error} if error else None)
    )


@contextlib.asynccontextmanager
async def _lease(store: JobStore, job_id: str, unit: str, epoch: int) -> AsyncGenerator[None, None]:
    """Renew the lease while the body runs; cancel the body and raise `LeaseLostError` once it is lost."""
    body = asyncio.current_task()
    assert body is not None
    is_lost = False

    async def renew() -> None:
        nonlocal is_lost
        while True:
            await asyncio.sleep(min(store.lease_s / 3, 1.0))
            try:
                if await store.renew(job_id, unit, epoch):
                    continue
            except QueueUnavailableError:
                continue  # redis may be restarting; its record decides once it is back
            is_lost = True
            body.cancel()
            return

    beat = asyncio.create_task(renew(), name=f"lease-{job_id}-{unit}")
    try:
        yield
    except asyncio.CancelledError:
        if not is_lost:
            raise
        body.uncancel()
        raise LeaseLostError from None
    finally:
        beat.cancel()


async def _generate(
    context: Context, job_id: str, unit: str, epoch: int, engine_name: str, request: GenerationRequest
) -> UnitResult:
    """Stream an engine's answer into the job's events.

    Raises:
        EngineError: as the engine raised it; `GenerationFailedError` if its answer ended without a finish reason.
        LeaseLostError: as soon as a write is refused.
    """
    engine = context.engines[engine_name]
    info = await engine.info()
    started = time.monotonic()
    ttft_s: float | None = None
    text: list[str] = []
    logprobs: list[TokenLogprob] = []
    num_sent = 0
    last = Delta()
    async with contextlib.aclosing(engine.stream(request)) as deltas:
        async for last in deltas:
            logprobs.extend(last.logprobs)
            if not last.text:
                continue
            if ttft_s is None:
                ttft_s = time.monotonic() - started
            text.append(last.text)
            if not await context.store.append(job_id, unit, epoch, last.text, tuple(logprobs[num_sent:])):
                raise LeaseLostError
            num_sent = len(logprobs)
    if last.finish_reason is None:
        raise GenerationFailedError("The engine ended its answer without saying why.")
    return UnitResult(
        text="".join(text),
        model=info.model_id,
        finish_reason=last.finish_reason,
        usage=last.usage or Usage(),
        duration_s=round(time.monotonic() - started, 4),
        ttft_s=None if ttft_s is None else round(ttft_s, 4),
        logprobs=tuple(logprobs),
    )


async def _compose(context: Context, job: Job, epoch: int, compose: merge.ComposeRequest) -> FinalAnswer:
    try:
        request = await _build_request(context, job, enable_thinking=False)
        head, tail = request.messages[:-1], request.messages[-1]
        turn = Message("user", (*tail.images, TextPart(compose.prompt)))
        result = await _generate(context, job.id, MERGE, epoch, "glm", replace(request, messages=(*head, turn)))
    except (LeaseLostError, QueueUnavailableError):
        raise
    except Exception as error:  # both branches have answered: whatever goes wrong here, the deep answer is good enough
        result = UnitResult(error=to_failure_record(_to_engine_error(error, f"the merge of {job.id}")))
    return merge.composed(compose, result)


async def _build_request(context: Context, job: Job, *, enable_thinking: bool) -> GenerationRequest:
    """Put the stored conversation and its pictures together again.

    Raises:
        EngineError: if a picture has expired; not retryable.
    """
    blobs = await context.store.get_images(stored_image_hashes(job.spec.messages))
    try:
        messages = from_stored_messages(job.spec.messages, blobs)
    except KeyError as error:
        raise _ImageExpiredError(
            f"picture {error.args[0]} is no longer stored; send the request again", code="image_file_not_found"
        ) from error
    sampling: SamplingParams = job.spec.sampling
    return GenerationRequest(
        messages, sampling, enable_thinking=enable_thinking, request_id=job.id, caller=job.spec.owner
    )


class _ImageExpiredError(EngineError):
    """A picture outlived its time in the store while its job waited."""

    status_code = 410


async def _release(store: JobStore, job_id: str, unit: str, epoch: int, error: EngineError) -> bool:
    # A full engine is not a failure of this run: the job keeps its place and its number of runs.
    is_overload = isinstance(error, EngineOverloadedError)
    log.info("%s of %s will run again: %s", unit, job_id, error.message)
    return await store.release(
        job_id, unit, epoch, delay_s=_OVERLOAD_DELAY_S if is_overload else _RETRY_DELAY_S, is_failure=not is_overload
    )


def _question(job: Job) -> str:
    return "".join(part["text"] for part in job.spec.messages[-1]["parts"] if part["type"] == "text")


def _to_engine_error(error: Exception, what: str) -> EngineError:
    """Return what an engine raised on purpose as it is; anything else is a bug, which the log shows and nobody else."""
    if isinstance(error, EngineError):
        return error
    log.error("%s failed", what, exc_info=error)
    return GenerationFailedError(f"The worker failed: {type(error).__name__}.")

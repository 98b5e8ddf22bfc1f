"""What a worker does: take what is next in a queue, run a branch or join the branches, deliver webhooks.

In: the name of a queue. Out: changes of the job record, all fenced by the epoch of the run. The
functions are coroutines over a `Context`; `router.worker` wraps them as Celery tasks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

from engines.adapter_names import model_with
from engines.base import (
    Box,
    ContextLengthError,
    Delta,
    Engine,
    EngineError,
    EngineOverloadedError,
    EngineUnavailableError,
    GenerationFailedError,
    GenerationRequest,
    Message,
    SamplingParams,
    TextPart,
    TokenLogprob,
    Usage,
)
from router.answers import groups, merge
from router.answers.json_answers import InvalidJsonError, UncheckableSchemaError, dump_json, read_json, repair_prompt
from router.answers.usable import checked, is_blank
from router.attend import attended
from router.call import from_stored_messages, pictures_first, stored_image_hashes
from router.errors import QueueUnavailableError
from router.jobs.cancels import CancelWatch
from router.jobs.job import MERGE, BranchPlan, FinalAnswer, Job, UnitResult, Why, add_usage, to_failure_record
from router.jobs.queue import WEBHOOKS, JobQueue
from router.jobs.store import JobStore
from router.leftovers import Leftovers, end_tasks
from router.output_format import with_instruction
from router.webhooks.deliver import Deliverer
from router.work.early import EarlyStream

log = logging.getLogger(__name__)

# Before a run that is tried again; doubled each time, up to the longest.
_RETRY_DELAY_S = 1.0
_FULL_DELAY_S = 2.0
_MAX_DELAY_S = 30.0
# As an engine may ask for by `Retry-After`.
_MAX_RETRY_AFTER_S = 60.0
# A worker holds on to what an engine has said for so long while redis is away; then the lease has run out anyway.
_PATIENCE_S = 60.0
_MAX_BEAT_S = 1.0
_CANCEL_AGAIN_S = 0.5
_ending = Leftovers()
# Shorter than the reaper's round: whoever still has the answer is back before the unit is taken for lost.
_REDIS_RETRY_S = 0.2
# How much of each finding is shown to whoever makes one answer of them: all, then less, until it fits the context.
_FINDING_CHARS: Final = (None, 800, 250)

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Context:
    """What the tasks work with: one per worker process.

    Attributes:
        store: the job records.
        queue: sends units to the workers.
        engines: by name.
        deliverer: posts webhooks.
        cancels: tells at once of jobs that ended from outside; None leaves that to the lease.
        wakers: wake the keeper of each lease that is held now.
        draining: set when the process is to end: what still runs is handed back, and nothing more is begun.
    """

    store: JobStore
    queue: JobQueue
    engines: Mapping[str, Engine]
    deliverer: Deliverer
    cancels: CancelWatch | None = None
    wakers: set[asyncio.Event] = field(default_factory=set)
    draining: asyncio.Event = field(default_factory=asyncio.Event)

    def hand_back(self) -> None:
        """Give every running unit back, so that another worker starts it at once."""
        self.draining.set()
        for waker in self.wakers:
            waker.set()


class LeaseLostError(Exception):
    """The unit belongs to another run now, or the job was cancelled: stop and write nothing more."""


class HandedBackError(Exception):
    """The process is to end before the unit is done."""


async def work(context: Context, queue: str) -> None:
    """Run the unit whose turn it is, or see to the webhooks that are due; a ticket too many finds none."""
    if context.draining.is_set():
        await context.queue.send_tickets({queue: 1})
        return
    if queue == WEBHOOKS:
        context.deliverer.wake()  # returns at once: a slow receiver must not hold a thread
        return
    try:
        await _work(context, queue)
    except QueueUnavailableError as error:
        # The ticket is lost, and is missed and sent again; the lease of what was begun runs out.
        log.warning("a worker of %s goes on without redis: %s", queue, error.message)


async def _work(context: Context, queue: str) -> None:
    claim = await context.store.take_next(queue)
    if claim is None:
        return
    if claim.unit == MERGE:
        await join(context, claim.job_id, claim.epoch)
        return
    due = await _run_claimed(context, claim.job_id, claim.unit, claim.epoch)
    if due is None:
        return
    if due.spec.merge_queue != "light":
        await context.queue.send(due, MERGE)
        return
    # It asks no engine: a message and its way through the broker would cost more than the merge itself.
    epoch = await _patiently(lambda: context.store.claim(due.id, MERGE))
    if epoch is not None:
        await join(context, due.id, epoch)


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
    due = None if epoch is None else await _run_claimed(context, job_id, unit, epoch)
    if due is not None:
        await context.queue.send(due, MERGE)


async def _run_claimed(context: Context, job_id: str, unit: str, epoch: int) -> Job | None:
    """Run a branch; returns its job if that was the last one and the merge is due."""
    job = await _patiently(lambda: context.store.get(job_id))
    if job is None:
        return None
    plan = next(branch for branch in job.spec.branches if branch.name == unit)

    async def ask() -> UnitResult:
        request = await _build_request(
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
        return await _generate(context, job_id, unit, epoch, plan.engine, request)

    return job if await _run(context, job, unit, epoch, ask) else None


async def _run(context: Context, job: Job, unit: str, epoch: int, ask: Callable[[], Awaitable[UnitResult]]) -> bool:
    """Run a claimed branch under its lease and record how it ended; True if it was the last: the merge is due."""
    store, job_id = context.store, job.id
    try:
        async with _lease(context, job_id, unit, epoch):
            result = checked(await ask(), job.spec)
    except LeaseLostError:
        log.info("%s of %s is no longer ours", unit, job_id)
        return False
    except HandedBackError:
        await _hand_back(context, job_id, unit, epoch)
        return False
    except QueueUnavailableError:
        raise  # nothing can be recorded now; the lease runs out and the unit is run again
    except Exception as error:  # the edge of the process: without a record the job would wait for a lost lease, thrice
        refusal = _to_engine_error(error, f"{unit} of {job_id}")
        if refusal.retryable and await _release(store, job_id, unit, epoch, refusal):
            return False
        result = UnitResult(error=to_failure_record(refusal))
    # Outside the lease: a renewal that finds the unit finished would take it for lost and cancel this very line.
    is_first_try = True

    async def finish() -> bool:
        nonlocal is_first_try
        was_first_try, is_first_try = is_first_try, False
        # A second try finds the unit finished if only the answer to the first was lost; a needless message is harmless.
        return await store.finish(job_id, unit, epoch, result) or not was_first_try

    return await _patiently(finish)


class LocalRuns:
    """Runs units in a process that is no worker: the api, for callers who wait for the first word.

    Args:
        context: what to work with.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._runs = Leftovers()

    @property
    def num_running(self) -> int:
        """How many there are now."""
        return len(self._runs)

    def run(self, job: Job, unit: str, epoch: int, stream: EarlyStream) -> None:
        """Go on with a branch that was claimed and begun, under the rules of every run, whoever hangs up."""
        self._runs.add(run_begun(self._context, job, unit, epoch, stream))

    async def aclose(self) -> None:
        """Give back what has not ended, so that a worker starts it at once."""
        self._context.hand_back()
        await self._runs.aclose()
        if self._context.cancels is not None:
            await self._context.cancels.aclose()


async def run_begun(context: Context, job: Job, unit: str, epoch: int, stream: EarlyStream) -> None:
    """Do as `run_branch` with an answer that the engine has begun already.

    Args:
        context: what to work with.
        job: whose.
        unit: which of its branches.
        epoch: of the claim.
        stream: read to its end, or closed.
    """
    tape = _Tape(context.store, job.id, unit, epoch)
    async with contextlib.aclosing(stream):
        read = stream.read
        if await _run(context, job, unit, epoch, lambda: _record(tape, read(), stream.model, stream.started_at)):
            await context.queue.send(job, MERGE)


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
    job = await _patiently(lambda: store.get(job_id)) if epoch is not None else None
    if epoch is None or job is None:
        return
    try:
        async with _lease(context, job_id, MERGE, epoch):
            outcome = await _merge(context, job, epoch)
    except LeaseLostError:
        log.info("the merge of %s is no longer ours", job_id)
        return
    except HandedBackError:
        await _hand_back(context, job_id, MERGE, epoch)
        return
    except _NothingToFallBackOnError as failed:
        if failed.error.retryable and await _release(store, job_id, MERGE, epoch, failed.error):
            return
        outcome = merge.composed(failed.compose, UnitResult(error=to_failure_record(failed.error)))
    except _NotReducedError as failed:
        if failed.error.retryable and await _release(store, job_id, MERGE, epoch, failed.error):
            return
        outcome = failed.outcome
    except QueueUnavailableError:
        raise  # nothing can be recorded now; the lease runs out and the merge is run again
    except Exception:  # the edge of the process; whatever comparing and merging ran into, the answers are there
        log.exception("the merge of %s failed", job_id)
        outcome = merge.without_merging(job)
    final, error = (None, outcome.error) if isinstance(outcome, merge.NoAnswer) else (outcome, None)
    if await _patiently(lambda: store.complete(job_id, epoch, final=final, error=error)):
        await context.queue.send_tickets({WEBHOOKS: 1})  # at once, rather than when the sweeper comes by


async def _merge(context: Context, job: Job, epoch: int) -> FinalAnswer | merge.NoAnswer:
    """Make one answer of what the branches said; what groups of pictures found is one branch's word by then.

    Raises:
        _NothingToFallBackOnError: if GLM could not write what only GLM can.
        _NotReducedError: if no engine could make one answer of what the groups found.
    """
    folded, failure = groups.fold(job), None
    if groups.wants_reduce(job):
        writers = ("glm", "owl2") if job.spec.strategy == "compose" else ("owl2",)
        folded, failure = await _reduce(context, job, folded, epoch, writers)
    outcome = merge.resolve(folded, job.spec.question)
    if isinstance(outcome, merge.ComposeRequest):
        if folded is not job:
            outcome = groups.before_compose(job, outcome)
        outcome = await _compose(context, job, epoch, outcome)
        if folded is not job and isinstance(outcome, FinalAnswer) and outcome.engine == "owl2":
            # GLM could not compose: what its text would have replaced are findings, and still no answer.
            folded = groups.without_compose(folded)
            folded, failure = await _reduce(context, job, folded, epoch, ("owl2",), is_told=False)
            alone = merge.resolve(folded, job.spec.question)
            assert isinstance(alone, FinalAnswer)
            outcome = groups.after_compose(alone, outcome)
    if isinstance(outcome, FinalAnswer):
        outcome = groups.finished(job, folded, outcome)
    if failure is not None:
        raise _NotReducedError(outcome, failure)
    return outcome


async def _reduce(
    context: Context, job: Job, folded: Job, epoch: int, writers: tuple[str, ...], *, is_told: bool = True
) -> tuple[Job, EngineError | None]:
    """Let the first engine that can make one answer of what a job's groups found.

    Args:
        context: what to work with.
        job: whose.
        folded: what `groups.fold` made of it.
        epoch: of the merge's claim.
        writers: whom to ask, one after the other.
        is_told: stream the answer; not possible any more if another engine may have begun one in this run.

    Returns:
        The job with the answer in the place of the findings; if there is none, with the reason among what is degraded,
        and the failure of the last engine.
    """
    failure: EngineError | None = None
    reason = "it wrote nothing"
    for engine in writers:
        try:
            result = await _answer_from_findings(context, job, epoch, engine, is_told=is_told)
        except (LeaseLostError, QueueUnavailableError):
            raise
        except Exception as error:  # what the groups found is there: whatever goes wrong here, it is good enough
            failure = _to_engine_error(error, f"the reduce of {job.id}")
            reason = failure.message
        else:
            if not is_blank(result.text):
                return groups.reduced(folded, engine, result), None
            failure, reason = None, "it wrote nothing"
        folded = groups.not_reduced(folded, engine, reason, is_last=engine == writers[-1])
        is_told = False
    return folded, failure


async def _answer_from_findings(context: Context, job: Job, epoch: int, engine: str, *, is_told: bool) -> UnitResult:
    """Ask an engine, without pictures, for one answer; if the findings do not fit its context, with less of each.

    Raises:
        EngineError: as the engine raised it.
        LeaseLostError: as soon as a write is refused.
    """

    async def ask(most_chars: int | None) -> UnitResult:
        stored = groups.reduce_messages(job, most_chars)
        request = await _build_request(context, job, engine, stored, enable_thinking=False)
        return await _generate(context, job.id, MERGE, epoch, engine, request, is_told=is_told)

    *roomy, least = _FINDING_CHARS
    for most_chars in roomy:
        with contextlib.suppress(ContextLengthError):
            return await ask(most_chars)
    return await ask(least)


@contextlib.asynccontextmanager
async def _lease(context: Context, job_id: str, unit: str, epoch: int) -> AsyncGenerator[None, None]:
    """Renew the lease while the body runs; cancel the body once it is lost, or has to be handed back.

    Raises:
        LeaseLostError: in place of the body, when the unit is no longer ours.
        HandedBackError: likewise, when the process is to end.
    """
    body = asyncio.current_task()
    assert body is not None
    store = context.store
    is_lost = is_over = False

    async def renew(ended: asyncio.Event) -> None:
        nonlocal is_lost
        wait_s = min(store.lease_s / 3, _MAX_BEAT_S)
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), wait_s)
            ended.clear()
            if context.draining.is_set():
                break
            try:
                if await store.renew(job_id, unit, epoch):
                    wait_s = min(store.lease_s / 3, _MAX_BEAT_S)
                    continue
            except QueueUnavailableError:
                # It may be restarting; its record decides once it is back, and then this must come before the reaper.
                wait_s = min(store.lease_s / 3, _REDIS_RETRY_S)
                continue
            is_lost = True
            break
        while not is_over:
            # Once may not do: cancelled in the middle of a command, redis' client may return as if nothing had been.
            body.cancel()
            await asyncio.sleep(_CANCEL_AGAIN_S)

    with context.cancels.watch(job_id) if context.cancels else contextlib.nullcontext(asyncio.Event()) as ended:
        beat = asyncio.create_task(renew(ended), name=f"lease-{job_id}-{unit}")
        context.wakers.add(ended)
        try:
            yield
            # It may be cancelled by now and not know it yet: it would, at its next await, far from here.
            if body.cancelling() and (is_lost or context.draining.is_set()):
                raise asyncio.CancelledError
        except (asyncio.CancelledError, Exception):  # clients turn a cancellation into errors of their own
            if not body.cancelling() or not (is_lost or context.draining.is_set()):
                raise
            while body.uncancel():
                pass
            raise (LeaseLostError if is_lost else HandedBackError) from None
        finally:
            is_over = True
            context.wakers.discard(ended)
            _ending.add(end_tasks(beat))  # not awaited: it may be cancelling this very task


async def _hand_back(context: Context, job_id: str, unit: str, epoch: int) -> None:
    """Put a unit back into its queue, to be run again elsewhere; that is no failure of it."""
    log.info("handing back %s of %s", unit, job_id)
    with contextlib.suppress(QueueUnavailableError):  # then the lease runs out, which takes a little longer
        await context.store.release(job_id, unit, epoch, "handed back")
        await _send_on(context, job_id, unit)


async def _send_on(context: Context, job_id: str, unit: str) -> None:
    """Send a unit to the other workers."""
    job = await context.store.get(job_id)
    if job is not None:
        await context.queue.send(job, unit)


async def _patiently(call: Callable[[], Awaitable[Result]]) -> Result:
    """Make a call to redis again and again while redis is away.

    Raises:
        QueueUnavailableError: if it stays away for longer than `_PATIENCE_S`.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return await call()
        except QueueUnavailableError:
            if time.monotonic() >= deadline:
                raise
        await asyncio.sleep(_REDIS_RETRY_S)


class _Tape:
    """Writes what a run says into the job's events.

    While redis is away the engine goes on, and what it says is kept here: a run of a minute is not lost to a restart of
    two seconds. Pieces are numbered, since one whose answer was lost may be there already.
    """

    def __init__(self, store: JobStore, job_id: str, unit: str, epoch: int) -> None:
        self._store = store
        self._where = (job_id, unit, epoch)
        self._sending: tuple[str, tuple[TokenLogprob, ...]] | None = None
        self._waiting: list[tuple[str, tuple[TokenLogprob, ...]]] = []
        self._piece = 0
        self._try_again_at = 0.0

    async def write(self, text: str, logprobs: tuple[TokenLogprob, ...]) -> None:
        """Add a piece, now or as soon as redis is back.

        Raises:
            LeaseLostError: if the unit is no longer ours.
        """
        self._waiting.append((text, logprobs))
        if time.monotonic() >= self._try_again_at:
            try:
                await self._send()
            except QueueUnavailableError:
                self._try_again_at = time.monotonic() + _REDIS_RETRY_S

    async def close(self) -> None:
        """Write what is left.

        Raises:
            LeaseLostError: if the unit is no longer ours.
            QueueUnavailableError: if redis stays away.
        """
        await _patiently(self._send)

    async def _send(self) -> None:
        while self._sending or self._waiting:
            if self._sending is None:
                texts, logprobs = zip(*self._waiting, strict=True)
                self._sending = ("".join(texts), tuple(token for tokens in logprobs for token in tokens))
                self._waiting.clear()
                self._piece += 1
            if not await self._store.append(*self._where, *self._sending, piece=self._piece):
                raise LeaseLostError
            self._sending = None


async def _generate(
    context: Context,
    job_id: str,
    unit: str,
    epoch: int,
    engine_name: str,
    request: GenerationRequest,
    *,
    is_told: bool = True,
    silence_s: float | None = None,
) -> UnitResult:
    """Stream an engine's answer into the job's events, unless it is to be told only when it is whole.

    Args:
        context: what to work with.
        job_id: whose.
        unit: which of its units.
        epoch: of the claim.
        engine_name: who is asked.
        request: what for.
        is_told: while it is written.
        silence_s: how long the engine may say nothing; None leaves that to its client.

    Raises:
        EngineError: as the engine raised it; `GenerationFailedError` if its answer ended without a finish reason.
        LeaseLostError: as soon as a write is refused.
    """
    engine = context.engines[engine_name]
    model = model_with((await engine.info()).model_id, request.adapter)
    tape = _Tape(context.store, job_id, unit, epoch) if is_told else None
    deltas = engine.stream(request)
    if silence_s is not None:
        deltas = attended(deltas, _is_well, silence_s=silence_s)
    return await _record(tape, deltas, model, time.monotonic())


async def _is_well() -> bool:
    return True  # whoever made the engine's client looks after that


async def _record(tape: _Tape | None, stream: AsyncGenerator[Delta, None], model: str, started: float) -> UnitResult:
    """Read an engine's answer to its end, and write it down as it comes.

    Args:
        tape: where to; None if the answer is to be told only when it is whole.
        stream: of the engine; closed.
        model: the name that the answer shows.
        started: `time.monotonic` when the engine was asked.

    Raises:
        EngineError: as the engine raised it; `GenerationFailedError` if its answer ended without a finish reason.
        LeaseLostError: as soon as a write is refused.
    """
    ttft_s: float | None = None
    text: list[str] = []
    logprobs: list[TokenLogprob] = []
    boxes: list[Box] = []
    waiting: list[str] = []
    has_words, num_sent = False, 0
    last = Delta()
    async with contextlib.aclosing(stream) as deltas:
        async for last in deltas:
            logprobs.extend(last.logprobs)
            boxes.extend(last.boxes)
            if not last.text:
                continue
            if ttft_s is None:
                ttft_s = time.monotonic() - started
            text.append(last.text)
            waiting.append(last.text)
            # What may turn out to be no answer at all is not told: a reader could not take it back.
            if tape is not None and (has_words := has_words or not is_blank("".join(text))):
                await tape.write("".join(waiting), tuple(logprobs[num_sent:]))
                num_sent = len(logprobs)
                waiting.clear()
    if last.finish_reason is None:
        raise GenerationFailedError("The engine ended its answer without saying why.")
    if tape is not None:
        await tape.close()
    return UnitResult(
        text="".join(text),
        model=model,
        finish_reason=last.finish_reason,
        usage=last.usage or Usage(),
        duration_s=round(time.monotonic() - started, 4),
        ttft_s=None if ttft_s is None else round(ttft_s, 4),
        logprobs=tuple(logprobs),
        boxes=tuple(boxes),
    )


async def _generate_json(
    context: Context, job: Job, plan: BranchPlan, epoch: int, request: GenerationRequest
) -> UnitResult:
    """Read the JSON in the answer of an engine that cannot be held to a schema; let it repair once what is not right.

    What is no such JSON after that stays as it is, and so does an answer that was cut: GLM puts it into the form.

    Raises:
        EngineError: as the engine raised it before there was any answer.
        LeaseLostError: as soon as a write is refused.
    """
    result = await _generate(context, job.id, plan.name, epoch, plan.engine, request)
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
            again = await _generate(context, job.id, plan.name, epoch, plan.engine, repair, is_told=False)
            duration_s = round(result.duration_s + again.duration_s, 4)
            both = add_usage(result.usage, again.usage)
            result = replace(result, usage=both, last_usage=result.usage, duration_s=duration_s)
            value = await asyncio.to_thread(read_json, again.text, schema)
            return replace(result, text=dump_json(value), json_state="repaired", logprobs=(), last_usage=again.usage)
        return replace(result, text=dump_json(value), json_state="valid", logprobs=())
    except (EngineError, InvalidJsonError, UncheckableSchemaError) as error:
        log.info("%s of %s is no JSON that satisfies the schema: %s", plan.name, job.id, error)
        return result


class _NothingToFallBackOnError(Exception):
    """GLM could not compose, and without it there is no answer at all."""

    def __init__(self, compose: merge.ComposeRequest, error: EngineError) -> None:
        super().__init__(error.message)
        self.compose = compose
        self.error = error


class _NotReducedError(Exception):
    """No engine could make one answer of what the groups found; ``outcome`` is what to end with if none ever can."""

    def __init__(self, outcome: FinalAnswer | merge.NoAnswer, error: EngineError) -> None:
        super().__init__(error.message)
        self.outcome = outcome
        self.error = error


async def _compose(
    context: Context, job: Job, epoch: int, compose: merge.ComposeRequest
) -> FinalAnswer | merge.NoAnswer:
    try:
        stored = job.spec.messages
        if groups.num_pictures(job.spec) > (await context.engines["glm"].info()).max_images:
            stored = groups.without_pictures(job.spec)
            if groups.groups_of(job.spec):
                compose = replace(compose, prompt=groups.reduce_prompt(job))
        request = await _build_request(context, job, "glm", stored, enable_thinking=False)
        head, tail = request.messages[:-1], request.messages[-1]
        turn = Message("user", (*tail.images, TextPart(compose.prompt)))
        request = replace(request, messages=(*head, turn))
        request = with_instruction(request, job.spec.output_format, job.spec.language)
        # A finished answer does not wait for ever to be made a better one.
        silence_s = context.store.merge_patience_s if compose.has_fallback else None
        result = await _generate(context, job.id, MERGE, epoch, "glm", request, silence_s=silence_s)
    except (LeaseLostError, QueueUnavailableError):
        raise
    except Exception as error:  # both branches have answered: whatever goes wrong here, what is there is good enough
        refusal = _to_engine_error(error, f"the merge of {job.id}")
        if not compose.has_fallback:
            raise _NothingToFallBackOnError(compose, refusal) from error
        result = UnitResult(error=to_failure_record(refusal))
    return merge.composed(compose, result)


async def _build_request(
    context: Context, job: Job, engine: str, stored: list[dict[str, Any]], *, enable_thinking: bool
) -> GenerationRequest:
    """Put the stored conversation, or what of it the engine is to be shown, and its pictures together again.

    Raises:
        EngineError: if a picture has expired; not retryable.
    """
    blobs = await _patiently(lambda: context.store.get_images(stored_image_hashes(stored)))
    try:
        messages = from_stored_messages(stored, blobs)
    except KeyError as error:
        raise _ImageExpiredError(
            f"picture {error.args[0]} is no longer stored; send the request again", code="image_file_not_found"
        ) from error
    sampling: SamplingParams = job.spec.sampling
    if engine != "glm":  # it answers in prose, which GLM then puts into the form that was asked for
        sampling = replace(sampling, json_schema=None)
    return GenerationRequest(
        pictures_first(messages) if engine == "glm" else messages,
        sampling,
        enable_thinking=enable_thinking,
        request_id=job.id,
        caller=job.spec.owner,
        adapter=job.spec.adapter if engine == "glm" else "",
    )


class _BugError(EngineError):
    """Our own code is wrong: it would be so the next time, whichever engine is asked."""

    default_code = "internal_error"


class _ImageExpiredError(EngineError):
    """A picture outlived its time in the store while its job waited."""

    status_code = 410


async def _release(store: JobStore, job_id: str, unit: str, epoch: int, error: EngineError) -> bool:
    """Give a unit back after a refusal that may pass; False if it has to end with it.

    An engine that is full, loading or away is not a failure of this run: the job keeps its place and its number of
    runs. One that was lost in the middle of an answer is: the request itself may be what ends it.
    """
    why: Why = "failure"
    delay_s, longest_s = _RETRY_DELAY_S, _MAX_DELAY_S
    if isinstance(error, EngineOverloadedError):
        why, delay_s = "full", _FULL_DELAY_S
        if error.retry_after_s is not None:
            delay_s = longest_s = min(max(_FULL_DELAY_S, error.retry_after_s), _MAX_RETRY_AFTER_S)
    elif isinstance(error, EngineUnavailableError) and not error.is_broken_off:
        why = "away"
    is_left = await store.release(job_id, unit, epoch, why, delay_s=delay_s, max_delay_s=longest_s)
    log.info("%s of %s %s: %s", unit, job_id, "will run again" if is_left else "is given up", error.for_operators)
    return is_left


def _to_engine_error(error: Exception, what: str) -> EngineError:
    """Return what an engine raised on purpose as it is; of anything else the log shows more than a caller may see."""
    if isinstance(error, EngineError):
        return error
    log.error("%s failed", what, exc_info=error)
    if isinstance(error, OSError | MemoryError):  # they pass; TimeoutError is one of them
        return GenerationFailedError(f"The worker failed: {type(error).__name__}.")
    return _BugError(f"The worker failed: {type(error).__name__}.")

"""The merge of a job: the final answer out of what its branches said.

In: a job whose branches have all ended. Out: the end of the job, fenced by the epoch of the claim.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import replace
from typing import Final

from engines.base import (
    ContextLengthError,
    EngineError,
    Message,
    TextPart,
)
from router.answers import groups, merge
from router.answers.usable import is_blank
from router.errors import QueueUnavailableError
from router.jobs.job import MERGE, FinalAnswer, Job, UnitResult, to_failure_record
from router.jobs.queue import WEBHOOKS
from router.output_format import with_instruction
from router.work.asking import build_request, generate, to_engine_error
from router.work.context import Context
from router.work.lease import HandedBackError, LeaseLostError, hand_back, lease, patiently, release

log = logging.getLogger(__name__)

# How much of each finding is shown to whoever makes one answer of them: all, then less, until it fits the context.
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
    try:
        async with lease(context, job_id, MERGE, epoch):
            outcome = await _merge(context, job, epoch)
    except LeaseLostError:
        log.info("the merge of %s is no longer ours", job_id)
        return
    except HandedBackError:
        await hand_back(context, job_id, MERGE, epoch)
        return
    except _NothingToFallBackOnError as failed:
        if failed.error.retryable and await release(store, job_id, MERGE, epoch, failed.error):
            return
        outcome = merge.composed(failed.compose, UnitResult(error=to_failure_record(failed.error)))
    except _NotReducedError as failed:
        if failed.error.retryable and await release(store, job_id, MERGE, epoch, failed.error):
            return
        outcome = failed.outcome
    except QueueUnavailableError:
        raise  # nothing can be recorded now; the lease runs out and the merge is run again
    except Exception:  # the edge of the process; whatever comparing and merging ran into, the answers are there
        log.exception("the merge of %s failed", job_id)
        outcome = merge.without_merging(job)
    final, error = (None, outcome.error) if isinstance(outcome, merge.NoAnswer) else (outcome, None)
    if await patiently(lambda: store.complete(job_id, epoch, final=final, error=error)):
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
            failure = to_engine_error(error, f"the reduce of {job.id}")
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
        request = await build_request(context, job, engine, stored, enable_thinking=False)
        return await generate(context, job.id, MERGE, epoch, engine, request, is_told=is_told)

    *roomy, least = _FINDING_CHARS
    for most_chars in roomy:
        with contextlib.suppress(ContextLengthError):
            return await ask(most_chars)
    return await ask(least)


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
        request = await build_request(context, job, "glm", stored, enable_thinking=False)
        head, tail = request.messages[:-1], request.messages[-1]
        turn = Message("user", (*tail.images, TextPart(compose.prompt)))
        request = replace(request, messages=(*head, turn))
        request = with_instruction(request, job.spec.output_format, job.spec.language)
        # A finished answer does not wait for ever to be made a better one.
        silence_s = context.store.merge_patience_s if compose.has_fallback else None
        result = await generate(context, job.id, MERGE, epoch, "glm", request, silence_s=silence_s)
    except (LeaseLostError, QueueUnavailableError):
        raise
    except Exception as error:  # both branches have answered: whatever goes wrong here, what is there is good enough
        refusal = to_engine_error(error, f"the merge of {job.id}")
        if not compose.has_fallback:
            raise _NothingToFallBackOnError(compose, refusal) from error
        result = UnitResult(error=to_failure_record(refusal))
    return merge.composed(compose, result)

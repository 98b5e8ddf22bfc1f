"""The merge, step by step: from what the branches of a job said to its one final answer.

In: a job whose branches have all ended, then a reply to each `Ask`. Out: `Ask` for what an engine has to write first;
at last `Ended`. Pure: who replies is up to the caller, an engine or, for a job that is over its time, `NoEngine`.

1. Fold: what groups of pictures found takes the place of one branch's answer.
2. Reduce: if nobody composes from the findings, an engine makes one answer of them.
3. Resolve: the answers are compared, and the final one is chosen.
4. Compose: GLM writes the final answer, where the strategy or a schema wants it.
5. After: a composition of findings that failed leaves findings, which are reduced after all.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

from router.answers import groups, merge, texts
from router.answers.merge import ComposeRequest, NoAnswer, message_of
from router.answers.usable import is_blank
from router.jobs.job import Job
from router.jobs.results import FinalAnswer, UnitResult


@dataclass(frozen=True, slots=True)
class Ask:
    """An engine has to write something first.

    Attributes:
        engine: ``glm`` or ``owl2``.
        compose: what it is to write the final answer from; None if it is to make one answer of what groups found.
        is_told: the answer may be streamed; not if another engine may have begun one.
    """

    engine: str
    compose: ComposeRequest | None = None
    is_told: bool = True


@dataclass(frozen=True, slots=True)
class NoEngine:
    """The reply of a job that is over its time: no engine is asked any more.

    Attributes:
        result: with the error that says why.
    """

    result: UnitResult


@dataclass(frozen=True, slots=True)
class Ended:
    """The merge has come to its end.

    Attributes:
        outcome: the final answer, or the error that leaves none.
        wants_retry: an engine failed that the outcome needed: if it may be asked again, that is better.
    """

    outcome: FinalAnswer | NoAnswer
    wants_retry: bool = False


Reply = UnitResult | NoEngine


class Merging:
    """One merge.

    Args:
        job: all branches terminal.
        wants_all: take findings from some of the pictures for no answer if GLM has one, which is from all of them.
    """

    def __init__(self, job: Job, *, wants_all: bool = False) -> None:
        self._steps = _merge(job, wants_all=wants_all)

    def next_step(self, reply: Reply | None = None) -> Ask | Ended:
        """Go on until an engine has to be asked, or to the end.

        Args:
            reply: to the last `Ask`; its result has an error if the engine failed. None for the first step.
        """
        try:
            return self._steps.send(reply)
        except StopIteration as end:
            ended: Ended = end.value
            return ended


def _merge(job: Job, *, wants_all: bool) -> Generator[Ask, Reply | None, Ended]:
    folded = groups.fold(job, wants_all=wants_all)
    has_groups, is_failed = folded is not job, False
    if has_groups and folded.units[groups.DEEP].answer and groups.wants_reduce(job):
        writers = ("glm", "owl2") if job.spec.strategy == "compose" else ("owl2",)
        folded, is_failed = yield from _reduce(folded, writers)
    outcome = merge.resolve(folded, job.spec.question)
    if isinstance(outcome, ComposeRequest):
        request = groups.before_compose(job, outcome) if has_groups else outcome
        reply = yield Ask("glm", request)
        assert reply is not None
        result = _result_of(reply)
        outcome = merge.composed(request, result)
        if isinstance(outcome, NoAnswer):
            return Ended(outcome, wants_retry=result.error is not None)
        if has_groups and outcome.engine == "owl2" and not isinstance(reply, NoEngine):
            # GLM could not compose, so the fallback holds findings of groups and still needs combining.
            folded = groups.without_compose(folded)
            folded, is_failed = yield from _reduce(folded, ("owl2",), is_told=False)
            alone = merge.resolve(folded, job.spec.question)
            assert isinstance(alone, FinalAnswer)
            outcome = groups.after_compose(alone, outcome)
    if isinstance(outcome, FinalAnswer):
        outcome = groups.finished(job, folded, outcome)
    return Ended(outcome, wants_retry=is_failed)


def _reduce(
    folded: Job, writers: tuple[str, ...], *, is_told: bool = True
) -> Generator[Ask, Reply | None, tuple[Job, bool]]:
    """Let the first engine that can make one answer of what a job's groups found.

    Args:
        folded: what `groups.fold` made of the job.
        writers: whom to ask, one after the other.
        is_told: as `Ask` has it.

    Returns:
        The job with the answer in the place of the findings; if there is none, with the reason among what is degraded,
        and whether the last engine failed.
    """
    is_failed = False
    for engine in writers:
        reply = yield Ask(engine, is_told=is_told)
        assert reply is not None
        result = _result_of(reply)
        if result.error is None and not is_blank(result.text):
            return groups.reduced(folded, engine, result), False
        is_failed, is_told = result.error is not None, False
        reason = message_of(result.error) if result.error else texts.WROTE_NOTHING
        if isinstance(reply, NoEngine):
            return groups.not_reduced(folded, writers[-1], reason, is_last=True), True
        folded = groups.not_reduced(folded, engine, reason, is_last=engine == writers[-1])
    return folded, is_failed


def _result_of(reply: Reply) -> UnitResult:
    return reply.result if isinstance(reply, NoEngine) else reply

"""A job that is over its time ends with what there is.

In: an unfinished job whose deadline has passed, or that nobody finished within the time any job has. Out: the answer
that its finished branches amount to, saying what is missing; or, with none finished, the error that says why.
"""

from __future__ import annotations

from dataclasses import replace

from router.answers import merge
from router.answers.steps import Ask, Merging, NoEngine
from router.jobs import texts
from router.jobs.job import Job
from router.jobs.results import ErrorRecord, FinalAnswer, UnitResult, to_error_record
from router.jobs.rows import Cause


def settle(job: Job, cause: Cause) -> FinalAnswer | merge.NoAnswer:
    """Decide what an overdue job ends with; branches that have not ended count as failed.

    A draft that is there is a whole answer, so the job is ``completed``, and ``hybrid.degraded`` names what was missed:
    OpenAI's ``incomplete`` would say that the answer itself was cut.
    """
    error = to_error(job, cause)
    cut = {
        name: unit if unit.result else replace(unit, state="failed", result=UnitResult(error=error))
        for name, unit in job.units.items()
    }
    job = replace(job, units=cut)
    merging, nothing = Merging(job, wants_all=True), NoEngine(UnitResult(error=error))
    step = merging.next_step()
    while isinstance(step, Ask):
        step = merging.next_step(nothing)
    return step.outcome


def to_error(job: Job, cause: Cause) -> ErrorRecord:
    """Return the record of what ran out."""
    if cause == "deadline":
        said = texts.DEADLINE_PASSED.fill(deadline_ms=job.spec.deadline_ms)
        code, param = "deadline_exceeded", "hybrid.deadline_ms"
    else:
        said, code, param = texts.JOB_EXPIRED, "job_expired", None
    return to_error_record(said, code=code, status=504, param=param)

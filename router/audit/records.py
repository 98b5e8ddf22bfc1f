"""What is written down of a question: its kind, its cost and its end, and nothing that was said.

In: a job. Out: fields of a record. Texts are added only for owners who want it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from router.batches.records import BatchSpec
from router.call import stored_image_hashes
from router.jobs.job import Job

_MAX_TEXT_CHARS: Final = 100_000

Fields = dict[str, Any]


def of_job(job: Job, with_text: Collection[str]) -> Fields:
    """Return what is written down of a question.

    Args:
        job: as it was last seen.
        with_text: owners whose questions and answers are kept.
    """
    spec, final = job.spec, job.final
    found: Fields = {
        "response_id": job.id,
        "state": job.state,
        "route": spec.decision["route"],
        "rule": spec.decision["rule"],
        "engine": final.engine if final is not None else spec.decision["engine"],
        "asked_model": spec.model,
        "pictures": stored_image_hashes(spec.messages),
    }
    if final is not None:
        found["model"] = final.model
        found["finish_reason"] = final.finish_reason
        found["prompt_tokens"] = final.usage.prompt_tokens
        found["completion_tokens"] = final.usage.completion_tokens
    if spec.cache:
        found["cache"] = spec.cache
    if job.error is not None:
        found["code"] = job.error.get("code", "")
    if spec.owner in with_text:
        found["question"] = spec.question[:_MAX_TEXT_CHARS]
        found["answer"] = final.text[:_MAX_TEXT_CHARS] if final is not None else None
    return found


def of_line(batch: BatchSpec, custom_id: str, status: int, job: Job | None, with_text: Collection[str]) -> Fields:
    """Return the record of a batch line that has ended.

    Args:
        batch: whose line it is.
        custom_id: the line's own name.
        status: of its answer.
        job: that answered it; None if it was refused.
        with_text: owners whose questions and answers are kept.
    """
    found: Fields = {
        "kind": "batch_line",
        "owner": batch.owner,
        "batch_id": batch.id,
        "custom_id": custom_id,
        "path": batch.endpoint,
        "status": status,
        "outcome": outcome(status),
    }
    return found if job is None else found | of_job(job, with_text)


def outcome(status: int) -> str:
    """Return what a whole answer of this status amounts to."""
    return "answered" if status < 400 else "refused" if status < 500 else "failed"

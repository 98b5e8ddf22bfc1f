"""What ends a branch, a merge or a request that is given up.

In: limits. Out: errors, as records and as refusals.
"""

from __future__ import annotations

from typing import Final

from router.errors import QueueFullError
from router.jobs import texts
from router.jobs.results import ErrorRecord, UnitResult

NOT_AWAITED: Final = UnitResult(
    error={
        "code": "not_awaited",
        "message": texts.NOT_AWAITED.en,
        "message_zh": texts.NOT_AWAITED.zh,
        "param": None,
        "status": 504,
        "retryable": True,
    }
)

LOST_MERGE: Final[ErrorRecord] = {
    "code": "server_error",
    "message": texts.LOST_MERGE.en,
    "message_zh": texts.LOST_MERGE.zh,
}


def lost_result(max_attempts: int) -> UnitResult:
    """Return what a branch ends with whose workers were lost too often."""
    said = texts.LOST_BRANCH.fill(max_attempts=max_attempts)
    return UnitResult(
        error={
            "code": "worker_lost",
            "message": said.en,
            "message_zh": said.zh,
            "param": None,
            "status": 500,
            "retryable": True,
        }
    )


def queue_full(limit: int) -> QueueFullError:
    """Make the refusal of a job too many."""
    return QueueFullError(texts.TOO_MANY_JOBS.fill(limit=limit), retry_after_s=5)


def pictures_full(limit: int) -> QueueFullError:
    """Make the refusal of a job whose pictures are too much beside those that its owner's unfinished jobs hold."""
    return QueueFullError(texts.JOBS_TOO_LARGE.fill(limit=limit), code="too_many_picture_bytes", retry_after_s=5)

"""What ends a branch, a merge or a request that is given up, and what is said of a response that is not there.

In: limits. Out: errors, as records and as refusals.
"""

from __future__ import annotations

from typing import Final

from router.errors import NotFoundError, QueueFullError
from router.jobs import texts
from router.jobs.results import UnitResult, to_error_record

NOT_AWAITED: Final = UnitResult(
    error=to_error_record(texts.NOT_AWAITED, code="not_awaited", status=504, retryable=True)
)
LOST_MERGE: Final = to_error_record(texts.LOST_MERGE, code="server_error")


def lost_result(max_attempts: int) -> UnitResult:
    """Return what a branch ends with whose workers were lost too often."""
    said = texts.LOST_BRANCH.fill(max_attempts=max_attempts)
    return UnitResult(error=to_error_record(said, code="worker_lost", retryable=True))


def no_response(response_id: str, *, param: str | None = "response_id") -> NotFoundError:
    """Make the one refusal of a response that is not there, or not the caller's.

    Args:
        response_id: which.
        param: the field that names it; None if the request names none.
    """
    return NotFoundError(texts.NO_RESPONSE.fill(response_id=response_id), code="response_not_found", param=param)


def queue_full(limit: int) -> QueueFullError:
    """Make the refusal of a job too many."""
    return QueueFullError(texts.TOO_MANY_JOBS.fill(limit=limit), retry_after_s=5)


def pictures_full(limit: int) -> QueueFullError:
    """Make the refusal of a job whose pictures are too much beside those that its owner's unfinished jobs hold."""
    return QueueFullError(texts.JOBS_TOO_LARGE.fill(limit=limit), code="too_many_picture_bytes", retry_after_s=5)

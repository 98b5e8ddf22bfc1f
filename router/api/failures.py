"""What a job without an answer is refused with.

In: a job that ended without one. Out: the error to raise, with its fields named as the endpoint names them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from router.errors import EngineFailedError, RouterError
from router.jobs.job import ErrorRecord, Job

_MESSAGES_ZH = {
    "deadline_exceeded": "在 hybrid.deadline_ms 规定的时间内没有得到任何回答。",
    "job_expired": "任务在允许的时间内没有完成。",
}


def to_failure(job: Job) -> RouterError:
    """Return the error that a job without an answer ended with."""
    if job.state == "cancelled":
        return EngineFailedError(
            f"The response {job.id} was cancelled.",
            status=400,
            code="response_cancelled",
            message_zh=f"响应 {job.id} 已被取消。",
        )
    error: ErrorRecord = job.error or {}
    return EngineFailedError(
        error.get("message", "no engine gave an answer"),
        status=int(error.get("status", 500)),
        code=error.get("code", "server_error"),
        param=error.get("param"),
        message_zh=_MESSAGES_ZH.get(error.get("code", "")),
        retry_after_s=1 if error.get("retryable") else None,
    )


# Engines name fields as chat completions do.
_FIELDS = {
    "messages": "input",
    "logprobs": "top_logprobs",
    "max_tokens": "max_output_tokens",
    "response_format": "text.format",
}


@contextlib.contextmanager
def fields_named() -> Iterator[None]:
    """Let engines' refusals name the fields as this endpoint calls them."""
    try:
        yield
    except EngineFailedError as error:
        error.param = _FIELDS.get(error.param or "", error.param)
        raise

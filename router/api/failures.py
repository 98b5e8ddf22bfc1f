"""What a job without an answer is refused with.

In: a job that ended without one. Out: the error to raise, with its fields named as the endpoint names them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from policies.text import Text
from router.api import texts
from router.errors import EngineFailedError, RouterError
from router.failover import to_text
from router.jobs.job import Job
from router.jobs.results import ErrorRecord


def to_failure(job: Job) -> RouterError:
    """Return the error that a job without an answer ended with."""
    if job.state == "cancelled":
        return EngineFailedError(texts.CANCELLED.fill(id=job.id), status=400, code="response_cancelled")
    error: ErrorRecord = job.error or {}
    code = error.get("code", "server_error")
    said = to_text(code, error["message"]) if "message" in error else texts.NO_ANSWER
    return EngineFailedError(
        Text(said.en, error.get("message_zh", said.zh)),
        status=int(error.get("status", 500)),
        code=code,
        param=error.get("param"),
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

"""Asking an engine for a job: its stored conversation as a request, and the engine's answer as a result.

In: a job and what of its conversation the engine is shown. Out: a `UnitResult`, or an `EngineError`.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import Any

from engines.adapter_names import model_with
from engines.base import (
    EngineError,
    GenerationFailedError,
    GenerationRequest,
    SamplingParams,
)
from engines.origin import ORIGIN
from router.attend import attended
from router.call import from_stored_messages, pictures_first, stored_image_hashes
from router.health import UNHEARD_S
from router.jobs.job import Job
from router.jobs.results import UnitResult
from router.work.context import Context
from router.work.lease import patiently
from router.work.transcript import Tape, record

log = logging.getLogger(__name__)


async def build_request(
    context: Context, job: Job, engine: str, stored: list[dict[str, Any]], *, enable_thinking: bool
) -> GenerationRequest:
    """Put the stored conversation, or what of it the engine is to be shown, and its pictures together again.

    Raises:
        EngineError: if a picture has expired; not retryable.
    """
    blobs = await patiently(lambda: context.store.get_images(stored_image_hashes(stored)))
    try:
        messages = from_stored_messages(stored, blobs)
    except KeyError as error:
        raise _ImageExpiredError(f"picture {error.args[0]} is no longer stored; send the request again") from error
    sampling: SamplingParams = job.spec.sampling
    if engine != "glm":  # it answers in prose, which GLM then puts into the form that was asked for
        sampling = replace(sampling, json_schema=None)
    return GenerationRequest(
        pictures_first(messages) if engine == "glm" else messages,
        sampling,
        enable_thinking=enable_thinking,
        request_id=job.id,
        origin=ORIGIN.get(),
        caller=job.spec.owner,
        adapter=job.spec.adapter_for(engine),
    )


async def generate(
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
        silence_s: how long the engine may say nothing, if there is an answer to fall back on: then it is also given up
            as soon as it no longer says how it is. None leaves that to its client.

    Raises:
        EngineError: as the engine raised it; `GenerationFailedError` if its answer ended without a finish reason.
        LeaseLostError: as soon as a write is refused.
    """
    engine = context.engines[engine_name]
    model = model_with((await engine.info()).model_id, request.adapter)
    tape = Tape(context.store, job_id, unit, epoch) if is_told else None
    deltas = engine.stream(request)
    if silence_s is not None:
        is_well = context.looks.get(engine_name, _is_well)
        deltas = attended(deltas, is_well, silence_s=silence_s, calm_s=UNHEARD_S, unheard_s=UNHEARD_S)
    return await record(tape, deltas, model, time.monotonic())


async def _is_well() -> bool:
    return True


class _BugError(EngineError):
    """Our own code is wrong: it would be so the next time, whichever engine is asked."""

    default_code = "internal_error"


class _ImageExpiredError(EngineError):
    """A picture outlived its time in the store while its job waited."""

    status_code = 410
    default_code = "image_file_not_found"


def to_engine_error(error: Exception, what: str) -> EngineError:
    """Return what an engine raised on purpose as it is; of anything else the log shows more than a caller may see."""
    if isinstance(error, EngineError):
        return error
    log.error("%s failed", what, exc_info=error)
    if isinstance(error, OSError | MemoryError):  # they pass; TimeoutError is one of them
        return GenerationFailedError(f"The worker failed: {type(error).__name__}.")
    return _BugError(f"The worker failed: {type(error).__name__}.")

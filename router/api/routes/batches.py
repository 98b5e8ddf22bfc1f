"""``/v1/batches``: many requests in one file, answered when there is time.

In: batch requests and ids. Out: OpenAI's batch objects.
"""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import Field

from engines.http.requests import Whole
from router.api import texts
from router.api.checks import webhook_url_of
from router.api.errors import json_response, wants_chinese
from router.api.intake import owner, parse, services_of
from router.api.knobs import check_metadata
from router.api.owned import find_file
from router.api.paging import Limit, to_page
from router.api.schemas import ClosedModel
from router.batches.records import MAX_OPEN, MAX_TTL_S, MIN_TTL_S, WINDOW_S, Batch, BatchSpec, new_id
from router.batches.runner import BatchRunner
from router.errors import BadRequestError, NotFoundError, QueueUnavailableError
from router.services import Services

routes = APIRouter(tags=["batches"])

Json = dict[str, Any]


class OutputExpiresAfter(ClosedModel):
    """How long the files of a batch are kept."""

    anchor: Literal["created_at"]
    seconds: Whole = Field(ge=MIN_TTL_S, le=MAX_TTL_S)


class BatchCreate(ClosedModel):
    """``POST /v1/batches``."""

    input_file_id: str = Field(max_length=256, description="an uploaded file with one request in JSON a line")
    endpoint: Literal["/v1/chat/completions", "/v1/responses"] = Field(description="that every line is a request to")
    completion_window: Literal["24h"]
    metadata: dict[str, Any] | None = None
    output_expires_after: OutputExpiresAfter | None = None


@routes.post("/v1/batches")
async def create_batch(request: Request) -> Response:
    """Begin with a file of requests."""
    services, caller = services_of(request), owner(request, "jobs")
    body = await parse(request, BatchCreate)
    metadata = check_metadata(body.metadata)
    file = await find_file(services, caller, body.input_file_id, param="input_file_id")
    if file.purpose != "batch":
        raise BadRequestError(
            texts.WRONG_PURPOSE.fill(id=file.id, purpose=file.purpose), code="invalid_input_file", param="input_file_id"
        )
    expiry = body.output_expires_after
    spec = BatchSpec(
        id=new_id("batch_"),
        owner=caller,
        endpoint=body.endpoint,
        input_file_id=file.id,
        output_ttl_s=services.files.lifetime_s(caller, expiry.seconds if expiry else None),
        metadata=metadata,
        language="zh" if wants_chinese(request) else "en",
        webhook_url=webhook_url_of(metadata, services.settings),
    )
    try:
        batch = await services.batches.create(spec)
    except QueueUnavailableError as error:
        services.dispatcher.take_back(error, lambda: services.batches.cancel(caller, spec.id))
        raise
    if batch is None:
        raise BadRequestError(texts.TOO_MANY_BATCHES.fill(max_open=MAX_OPEN), code="too_many_batches")
    _wake(request, spec.id)
    return json_response(to_batch(batch))


@routes.get("/v1/batches")
async def list_batches(request: Request, after: str = "", limit: Limit = 20) -> Response:
    """List batches, newest first."""
    found, has_more = await services_of(request).batches.list_batches(owner(request, "jobs"), after=after, limit=limit)
    return json_response(to_page([to_batch(each) for each in found], has_more=has_more))


@routes.get("/v1/batches/{batch_id}")
async def get_batch(request: Request, batch_id: str) -> Response:
    """Describe a batch."""
    return json_response(to_batch(await _find(services_of(request), owner(request, "jobs"), batch_id)))


@routes.post("/v1/batches/{batch_id}/cancel")
async def cancel_batch(request: Request, batch_id: str) -> Response:
    """Begin no more lines and end those under way; a batch that has ended already is returned as it is."""
    found = await services_of(request).batches.cancel(owner(request, "jobs"), batch_id)
    if found is None:
        raise _missing(batch_id)
    _wake(request, batch_id)
    return json_response(to_batch(found))


def to_batch(batch: Batch) -> Json:
    """Return a batch as OpenAI clients know it."""
    spec = batch.spec
    times = {
        f"{event}_at": int(batch.times[event]) if event in batch.times else None
        for event in (
            *("created", "in_progress", "expires", "finalizing"),
            *("completed", "failed", "expired", "cancelling", "cancelled"),
        )
    }
    errors = [dict(error) for error in batch.errors]
    return {
        "id": spec.id,
        "object": "batch",
        "endpoint": spec.endpoint,
        "model": None,
        "errors": {"object": "list", "data": errors} if errors else None,
        "input_file_id": spec.input_file_id,
        "completion_window": f"{WINDOW_S // 3600}h",
        "status": batch.status,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        **times,
        "request_counts": {"total": batch.total, "completed": batch.completed, "failed": batch.failed},
        "usage": _to_usage(batch),
        "metadata": dict(spec.metadata),
    }


def _wake(request: Request, batch_id: str) -> None:
    runner: BatchRunner = request.app.state.batch_runner
    runner.wake(batch_id)


def _to_usage(batch: Batch) -> Json:
    def count(name: str) -> int:
        return batch.usage.get(name, 0)

    return {
        "input_tokens": count("input_tokens"),
        "input_tokens_details": {"cached_tokens": count("cached_tokens")},
        "output_tokens": count("output_tokens"),
        "output_tokens_details": {"reasoning_tokens": count("reasoning_tokens")},
        "total_tokens": count("input_tokens") + count("output_tokens"),
    }


async def _find(services: Services, caller: str, batch_id: str) -> Batch:
    found = await services.batches.get(batch_id)
    if found is None or found.spec.owner != caller:
        raise _missing(batch_id)
    return found


def _missing(batch_id: str) -> NotFoundError:
    return NotFoundError(texts.NO_BATCH.fill(batch_id=batch_id), code="batch_not_found", param="batch_id")

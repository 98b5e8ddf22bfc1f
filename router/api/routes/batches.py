"""``/v1/batches``: many requests in one file, answered when there is time.

In: batch requests and ids; and, for the runner, the lines of their input. Out: OpenAI's batch objects, and the answer
to each line as the endpoint itself would have given it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import Field, ValidationError

from router.api.errors import envelope, json_response, status_of, to_invalid, wants_chinese
from router.api.intake import owner, parse, services_of, webhook_url_of
from router.api.objects import to_completion, to_response
from router.api.paging import Limit, to_page
from router.api.routes import chat, responses
from router.api.routes.files import MAX_TTL_S, MIN_TTL_S, find_file
from router.api.schemas import ChatRequest, ResponsesRequest, WireModel, check_metadata
from router.batches.line_api import Answer
from router.batches.lines import LineLimits
from router.batches.records import CHAT, MAX_OPEN, WINDOW_S, Batch, BatchSpec, new_id
from router.batches.run import BatchContext
from router.batches.runner import BatchRunner
from router.call import Call
from router.errors import BadRequestError, NotFoundError, QueueUnavailableError, RouterError
from router.jobs.job import Job
from router.lua.constants import NOBODY
from router.services import Services

routes = APIRouter(tags=["batches"])

Json = dict[str, Any]
LineRequest = ChatRequest | ResponsesRequest


class OutputExpiresAfter(WireModel):
    """How long the files of a batch are kept."""

    anchor: Literal["created_at"]
    seconds: int = Field(ge=MIN_TTL_S, le=MAX_TTL_S)


class BatchCreate(WireModel):
    """``POST /v1/batches``."""

    input_file_id: str = Field(max_length=256, description="an uploaded file with one request in JSON a line")
    endpoint: Literal["/v1/chat/completions", "/v1/responses"] = Field(description="that every line is a request to")
    completion_window: Literal["24h"]
    metadata: dict[str, Any] | None = None
    output_expires_after: OutputExpiresAfter | None = None


@routes.post("/v1/batches")
async def create_batch(request: Request) -> Response:
    """Begin with a file of requests."""
    services, caller = services_of(request), owner(request)
    body = await parse(request, BatchCreate)
    metadata = check_metadata(body.metadata)
    file = await find_file(services, caller, body.input_file_id, param="input_file_id")
    if file.purpose != "batch":
        raise BadRequestError(
            f"The file '{file.id}' has the purpose '{file.purpose}'; upload the input with 'batch'.",
            code="invalid_input_file",
            param="input_file_id",
            message_zh=f"文件 '{file.id}' 的用途为 '{file.purpose}'；请以用途 'batch' 上传输入文件。",
        )
    expiry = body.output_expires_after
    spec = BatchSpec(
        id=new_id("batch_"),
        owner=caller,
        endpoint=body.endpoint,
        input_file_id=file.id,
        output_ttl_s=expiry.seconds if expiry else services.files.ttl_s,
        metadata=metadata,
        language="zh" if wants_chinese(request) else "en",
        webhook_url=webhook_url_of(metadata, services.settings),
    )
    try:
        is_created = await services.batches.create(spec)
    except QueueUnavailableError as error:
        services.dispatcher.take_back(error, lambda: services.batches.cancel(caller, spec.id))
        raise
    if not is_created:
        raise BadRequestError(
            f"There are {MAX_OPEN} batches under way already; wait for one of them, or cancel one.",
            code="too_many_batches",
            message_zh=f"已有 {MAX_OPEN} 个批次正在进行；请等待其中一个完成，或取消一个。",
        )
    _wake(request, spec.id)
    return json_response(to_batch(await _find(services, caller, spec.id)))


@routes.get("/v1/batches")
async def list_batches(request: Request, after: str = "", limit: Limit = 20) -> Response:
    """List batches, newest first."""
    found, has_more = await services_of(request).batches.list_batches(owner(request), after=after, limit=limit)
    return json_response(to_page([to_batch(each) for each in found], has_more=has_more))


@routes.get("/v1/batches/{batch_id}")
async def get_batch(request: Request, batch_id: str) -> Response:
    """Describe a batch."""
    return json_response(to_batch(await _find(services_of(request), owner(request), batch_id)))


@routes.post("/v1/batches/{batch_id}/cancel")
async def cancel_batch(request: Request, batch_id: str) -> Response:
    """Begin no more lines and end those under way; a batch that has ended already is returned as it is."""
    found = await services_of(request).batches.cancel(owner(request), batch_id)
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


class Lines:
    """What the runner needs to know of the wire: a line is a request like any other, but for who waits for it.

    Args:
        services: the parts the routes use too.
    """

    def __init__(self, services: Services) -> None:
        self._services = services

    def read(self, endpoint: str, body: Json) -> LineRequest:
        """Validate a line's body.

        Raises:
            RouterError: for whatever is wrong with it.
        """
        model: type[LineRequest] = ChatRequest if endpoint == CHAT else ResponsesRequest
        try:
            request = model.model_validate(body)
        except ValidationError as error:
            raise to_invalid(error) from None
        if request.stream:
            raise BadRequestError(
                "A line of a batch cannot be streamed; leave 'stream' out.",
                code="unsupported_value",
                param="stream",
                message_zh="批次中的请求不支持流式输出；请去掉 'stream'。",
            )
        return request

    async def to_call(self, request: LineRequest, spec: BatchSpec, job_id: str) -> Call:
        """Load the pictures and build the call.

        Raises:
            RouterError: for whatever is wrong with it.
        """
        if isinstance(request, ChatRequest):
            call = await chat.to_call(request, spec.owner, self._services)
        else:
            call = await responses.to_call(request, spec.owner, self._services)
        # Until it is in the output, the answer is kept whatever the caller wants to be stored.
        # Its end is an event of the batch, not one for each of fifty thousand lines.
        call = replace(call, is_background=True, priority="batch", webhook_url=NOBODY)
        return replace(call, response_id=job_id, keep_s=WINDOW_S, batch_id=spec.id)

    def to_answer(self, spec: BatchSpec, job: Job) -> Answer:
        """Return what a job that has ended amounts to."""
        try:
            if spec.endpoint == CHAT:
                if job.final is None:
                    raise chat.to_failure(job)
                body = to_completion(job, job.final)
            else:
                if job.state in ("failed", "cancelled"):
                    with responses.fields_named():
                        raise chat.to_failure(job)
                body = {**to_response(job), "background": False}
        except RouterError as error:
            return self.to_refusal(spec, error)
        if not job.spec.is_stored:
            # Its record goes once the line is written: the id would lead nowhere.
            body["hybrid"]["response_id"] = None
        usage = to_response(job)["usage"]
        counts = {
            "input_tokens": usage["input_tokens"],
            "cached_tokens": usage["input_tokens_details"]["cached_tokens"],
            "output_tokens": usage["output_tokens"],
            "reasoning_tokens": usage["output_tokens_details"]["reasoning_tokens"],
        }
        return Answer(200, body, counts)

    def to_refusal(self, spec: BatchSpec, error: RouterError) -> Answer:
        """Return what a refusal at the door amounts to."""
        return Answer(status_of(error), envelope(error, wants_chinese=spec.language == "zh"))


def make_runner(services: Services) -> BatchRunner:
    """Build what works on batches in an api process."""
    context = BatchContext(
        store=services.batches,
        files=services.files,
        jobs=services.store,
        hub=services.hub,
        dispatcher=services.dispatcher,
        api=Lines(services),
        lines_in_flight=services.settings.batch_lines_in_flight,
        line_limits=LineLimits(services.settings.max_body_bytes, services.settings.max_json_items),
    )
    return BatchRunner(context)


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
    return NotFoundError(
        f"No batch with id '{batch_id}'.",
        code="batch_not_found",
        param="batch_id",
        message_zh=f"没有 id 为 '{batch_id}' 的批次。",
    )

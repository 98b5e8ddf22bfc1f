"""``/v1/responses``: create, poll, resume a stream, cancel, delete.

In: Responses requests and ids. Out: Responses objects and event streams, all folded from the one job record.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from engines.base import Message
from router.api.chat import PING_S, to_failure
from router.api.conversation import answer_turn, from_responses, to_wire_input
from router.api.errors import json_response, to_refusal
from router.api.intake import (
    cancel_on_disconnect,
    owner,
    parse,
    services_of,
    start,
    to_hints,
    webhook_url_of,
    with_pings,
)
from router.api.objects import to_response, to_route_headers
from router.api.schemas import ResponsesRequest, check_metadata, to_responses_sampling
from router.api.stream import SSE_HEADERS, SSE_PING, sse, to_response_events
from router.call import Call, from_stored_messages, stored_image_hashes
from router.dispatch import Running
from router.errors import BadRequestError, EngineFailedError, NotFoundError
from router.jobs.job import Job
from router.services import Services

routes = APIRouter(tags=["responses"])

# Engines name fields as chat completions do.
_FIELDS = {"messages": "input", "logprobs": "top_logprobs", "max_tokens": "max_output_tokens"}


@routes.post("/v1/responses")
async def create_response(request: Request) -> Response:
    """Answer now, as a stream, or in the background."""
    services = services_of(request)
    caller = owner(request)
    body = await parse(request, ResponsesRequest)
    call = await _to_call(body, caller, services)
    with _fields_named():
        running = await start(request, call)
    if body.stream:
        return _stream(services, running)
    if running.is_queued and (call.is_background or call.wants_async):
        await running.events.aclose()
        return json_response(to_response(running.job), headers=to_route_headers(running.job))
    job = await cancel_on_disconnect(request, _wait(services, running))
    if job.state == "failed":
        # Whoever waits for the answer gets a refusal as such; whoever polls finds it in the object.
        with _fields_named():
            raise to_failure(job)
    return json_response(to_response(job), headers=to_route_headers(job))


@routes.get("/v1/responses/{response_id}")
async def get_response(
    request: Request, response_id: str, stream: bool = False, starting_after: int | None = None
) -> Response:
    """Poll a response, or read its stream from the beginning or after a sequence number."""
    services = services_of(request)
    job = await find(services, response_id, owner(request))
    if not stream:
        return json_response(to_response(job), headers=to_route_headers(job))
    running = Running(job, services.hub.follow(job.id), is_queued=True)
    return _stream(services, running, after=-1 if starting_after is None else starting_after)


@routes.post("/v1/responses/{response_id}/cancel")
async def cancel_response(request: Request, response_id: str) -> Response:
    """End a response now; one that has ended already is returned as it is."""
    services = services_of(request)
    job = await find(services, response_id, owner(request))
    if not job.is_terminal:
        job = await services.store.cancel(job.id) or job
    return json_response(to_response(job), headers=to_route_headers(job))


@routes.delete("/v1/responses/{response_id}")
async def delete_response(request: Request, response_id: str) -> Response:
    """Forget a response; one that still runs is cancelled first."""
    services = services_of(request)
    job = await find(services, response_id, owner(request))
    if not job.is_terminal:
        await services.store.cancel(job.id)
    await services.store.delete(job.id)
    return json_response({"id": job.id, "object": "response", "deleted": True})


@routes.get("/v1/responses/{response_id}/input_items")
async def list_input_items(request: Request, response_id: str) -> Response:
    """List what a response was asked."""
    services = services_of(request)
    job = await find(services, response_id, owner(request))
    items = to_wire_input(job.spec.messages)
    return json_response(
        {
            "object": "list",
            "data": items,
            "first_id": items[0]["id"],
            "last_id": items[-1]["id"],
            "has_more": False,
        }
    )


async def find(services: Services, response_id: str, caller: str, *, param: str = "response_id") -> Job:
    """Return a record of the caller's.

    Raises:
        NotFoundError: if there is none, or it belongs to somebody else.
    """
    job = await services.store.get(response_id)
    if job is None or job.spec.owner != caller:
        raise NotFoundError(
            f"No response with id '{response_id}'.",
            code="response_not_found",
            param=param,
            message_zh=f"没有 id 为 '{response_id}' 的响应。",
        )
    return job


async def _to_call(body: ResponsesRequest, caller: str, services: Services) -> Call:
    sampling = to_responses_sampling(body)
    metadata = check_metadata(body.metadata)
    earlier: tuple[Message, ...] = ()
    if body.previous_response_id:
        earlier = await _conversation_of(services, body.previous_response_id, caller)
    hybrid = body.hybrid
    return Call(
        messages=await from_responses(body.input, body.instructions, earlier, services.media),
        sampling=sampling,
        hints=to_hints(body.model, hybrid, body.service_tier, services.monitor),
        model=body.model,
        owner=caller,
        strategy=hybrid.merge,
        wants_async=hybrid.async_ == "auto",
        is_background=bool(body.background),
        is_stored=body.store is not False,
        metadata=metadata,
        instructions=body.instructions,
        webhook_url=webhook_url_of(metadata),
        dial=hybrid.dial,
        previous_response_id=body.previous_response_id,
    )


async def _conversation_of(services: Services, response_id: str, caller: str) -> tuple[Message, ...]:
    """Return an earlier conversation and its answer, without its instructions, which do not carry over."""
    job = await find(services, response_id, caller, param="previous_response_id")
    if job.final is None:
        raise BadRequestError(
            f"The response '{response_id}' has no answer to continue from (it is {job.state}).",
            code="previous_response_not_completed",
            param="previous_response_id",
            message_zh=f"响应 '{response_id}' 还没有可以继续的答案（状态：{job.state}）。",
        )
    stored = job.spec.messages[1:] if job.spec.instructions else job.spec.messages
    blobs = await services.store.get_images(stored_image_hashes(stored))
    try:
        return (*from_stored_messages(stored, blobs), answer_turn(job.final.text))
    except KeyError as error:
        raise BadRequestError(
            f"The pictures of the response '{response_id}' are no longer stored; send the conversation again.",
            code="image_file_not_found",
            param="previous_response_id",
            message_zh=f"响应 '{response_id}' 的图片已过期；请重新发送整个对话。",
        ) from error


@contextlib.contextmanager
def _fields_named() -> Iterator[None]:
    """Let engines' refusals name the fields as this endpoint calls them."""
    try:
        yield
    except EngineFailedError as error:
        error.param = _FIELDS.get(error.param or "", error.param)
        raise


async def _wait(services: Services, running: Running) -> Job:
    async with contextlib.aclosing(running.events):
        async for _event in running.events:
            pass
    return running.finished() or await find(services, running.job.id, running.job.spec.owner)


def _stream(services: Services, running: Running, after: int = -1) -> StreamingResponse:
    async def load() -> Job | None:
        return running.finished() or await services.store.get(running.job.id)

    async def body() -> AsyncIterator[bytes]:
        events = with_pings(to_response_events(running.job, running.events, load), PING_S)
        last = -1
        try:
            async with contextlib.aclosing(running.events), contextlib.aclosing(events):
                async for event in events:
                    if event is None:
                        yield SSE_PING
                        continue
                    last = event["sequence_number"]
                    if last > after:
                        yield sse(event, name=event["type"])
        except Exception as error:  # the status is long sent: an event is the only way left to say it
            refusal = to_refusal(error, f"the stream of {running.job.id}")
            event = {"type": "error", "code": refusal.code, "message": refusal.message, "param": refusal.param}
            yield sse({**event, "sequence_number": last + 1}, name="error")

    return StreamingResponse(
        body(),
        media_type="text/event-stream",
        headers={**to_route_headers(running.job), **SSE_HEADERS},
    )

"""``/v1/responses``: create, poll, resume a stream, cancel, delete.

In: Responses requests and ids. Out: Responses objects and event streams, all folded from the one job record.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from functools import partial
from typing import Literal

from fastapi import APIRouter, Request, Response

from router.api import texts
from router.api.begin import begin, start
from router.api.calls import to_call
from router.api.captured import forget_captured
from router.api.compaction import to_compaction, to_summary_call, to_summary_request
from router.api.conversation import to_wire_input
from router.api.counts import count_call
from router.api.errors import json_response, to_refusal, wants_chinese
from router.api.failures import fields_named, to_failure
from router.api.hangups import PING_S, hold, with_pings
from router.api.intake import asking, owner, parse, services_of
from router.api.knobs import check_metadata
from router.api.listing import Id, Search, Wanted, list_jobs, located, metadata_wanted
from router.api.objects import to_poll_headers, to_response, to_route_headers
from router.api.owned import find_response
from router.api.owned_stream import OwnedStream
from router.api.paging import Limit, to_page
from router.api.readers import Frame, Readers, Told, to_frames
from router.api.schemas import CompactRequest, InputTokensRequest, ResponsesRequest, ResponseUpdate
from router.api.stream import SSE_HEADERS, SSE_PING, answer_restarted, find_items, sse
from router.api.waiting import until_end
from router.direct import FAST_UNIT
from router.dispatch import Running
from router.errors import BadRequestError, NotFoundError
from router.jobs.job import Job, JobState
from router.services import Services

routes = APIRouter(tags=["responses"])

# A stream whose connection broke can be resumed for this long; then a job that only this client could read ends.
RESUME_GRACE_S = 30.0


@routes.post("/v1/responses")
async def create_response(request: Request) -> Response:
    """Answer now, as a stream, or in the background."""
    services = services_of(request)
    caller = asking(request).owner
    body = await parse(request, ResponsesRequest)
    is_streamed, returns_at_once = body.stream, body.background or body.hybrid.async_ == "auto"
    with fields_named():
        running = await begin(request, caller, partial(to_call, body, caller, services))
    del body  # its pictures are not to be held as long as the answer takes
    if is_streamed:
        return _stream(request, running)
    if running.is_queued and returns_at_once:
        await running.events.aclose()
        if not running.job.is_announced:
            await services.store.tell(running.job.id)
        return await _show(services, running.job)
    job = await hold(request, running, until_end(services, running))
    if job.state == "failed":
        # A client that waits gets an HTTP error; one that polls finds the error in the object.
        with fields_named():
            raise to_failure(job)
    return await _to_json(services, job, to_route_headers(job))


@routes.post("/v1/responses/input_tokens")
async def count_input_tokens(request: Request) -> Response:
    """Count the tokens that a request's input takes, pictures included, without answering it."""
    services, caller = services_of(request), owner(request, "ask")
    body = await parse(request, InputTokensRequest)
    with fields_named():
        counted = await count_call(services, await to_call(body, caller, services))
    return json_response({"object": "response.input_tokens", **counted})


@routes.post("/v1/responses/compact")
async def compact_response(request: Request) -> Response:
    """Make a conversation shorter: what was answered becomes one item, which the next request sends in its place."""
    services = services_of(request)
    caller = asking(request).owner
    body = await parse(request, CompactRequest)
    with fields_named():
        call = to_summary_call(await to_call(to_summary_request(body), caller, services))
        request.state.running = running = await start(request, call)
        job = await hold(request, running, until_end(services, running))
        if job.final is None:
            raise to_failure(job)
    return json_response(to_compaction(call, job.final, job.spec.created_at), headers=to_route_headers(job))


@routes.get("/v1/responses")
async def list_responses(
    request: Request,
    state: JobState | None = None,
    q: Search = "",
    after: Id = "",
    limit: Limit = 20,
) -> Response:
    """List the caller's stored responses, newest first, each with the `input` items of its last turn.

    `metadata[KEY]=VALUE` shows those that have that pair.
    """
    services, caller = services_of(request), owner(request, "ask")
    wanted = Wanted(state, q, metadata_wanted(request))
    page = await list_jobs(services, caller, wanted, after=after, limit=limit, missing=texts.NO_RESPONSE_AFTER)
    data = []
    for job in await located(services, page.jobs):
        items = await find_items(job, services.store.read_events)
        data.append({**to_response(job, items), "input": to_wire_input(job.spec.messages)[-1:]})
    return json_response(to_page(data, has_more=page.has_more, last_id=page.last_id))


@routes.get("/v1/responses/{response_id}")
async def get_response(
    request: Request, response_id: str, stream: bool = False, starting_after: int | None = None
) -> Response:
    """Poll a response, or read its stream from the beginning or after a sequence number."""
    services = services_of(request)
    job = await find_response(services, response_id, owner(request, "ask"))
    if not stream:
        return await _show(services, job)
    if job.spec.is_only_for_its_caller:
        await services.store.rejoin(job.id)
    running = Running(job, services.hub.follow(job.id, job.follows), is_queued=True)
    return _stream(request, running, after=-1 if starting_after is None else starting_after)


@routes.post("/v1/responses/{response_id}")
async def update_response(request: Request, response_id: str) -> Response:
    """Replace the `metadata` of a response, as OpenAI does for stored chat completions: a title, for example."""
    services = services_of(request)
    job = await find_response(services, response_id, owner(request, "ask"))
    body = await parse(request, ResponseUpdate)
    metadata = check_metadata(body.metadata)
    await services.store.describe(job.id, metadata)
    return await _show(services, await find_response(services, response_id, owner(request, "ask")))


@routes.post("/v1/responses/{response_id}/cancel")
async def cancel_response(request: Request, response_id: str) -> Response:
    """End a response now; one that has ended already is returned as it is."""
    services = services_of(request)
    job = await find_response(services, response_id, owner(request, "ask"))
    if not job.is_terminal:
        job = await services.store.cancel(job.id) or job
    return await _to_json(services, job, to_route_headers(job))


@routes.delete("/v1/responses/{response_id}")
async def delete_response(request: Request, response_id: str) -> Response:
    """Forget a response; one that still runs is cancelled first."""
    services, caller = services_of(request), owner(request, "ask")
    try:
        job = await find_response(services, response_id, caller)
    except NotFoundError:
        # Its record may have expired, or never been stored, and what is kept for data sets be there.
        if not await forget_captured(services, response_id, caller):
            raise
        return json_response({"id": response_id, "object": "response", "deleted": True})
    if not job.is_terminal:
        await services.store.cancel(job.id)
    if job.spec.is_captured:
        await forget_captured(services, job.id, caller)
    if services.cache is not None:
        await services.cache.forget(job)
    await services.store.delete(job.id)
    return json_response({"id": job.id, "object": "response", "deleted": True})


@routes.get("/v1/responses/{response_id}/input_items")
async def list_input_items(
    request: Request,
    response_id: str,
    after: str | None = None,
    limit: Limit = 20,
    order: Literal["asc", "desc"] = "desc",
) -> Response:
    """List what a response was asked, newest first unless ``order`` says otherwise."""
    services = services_of(request)
    job = await find_response(services, response_id, owner(request, "ask"))
    items = to_wire_input(job.spec.messages)
    if order == "desc":
        items.reverse()
    start = 0
    if after is not None:
        start = next((index for index, item in enumerate(items, 1) if item["id"] == after), -1)
        if start < 0:
            raise BadRequestError(texts.NO_ITEM_AFTER.fill(after=after), code="invalid_value", param="after")
    page = items[start : start + limit]
    return json_response(to_page(page, has_more=start + limit < len(items)))


async def _show(services: Services, job: Job) -> Response:
    """Return a stored response; if it has not ended, with its place in the queue."""
    job = await services.store.locate(job)
    eta_ms = job.place.eta_ms if job.place else None
    return await _to_json(services, job, to_poll_headers(job, eta_ms))


async def _to_json(services: Services, job: Job, headers: dict[str, str]) -> Response:
    items = await find_items(job, services.store.read_events)
    return json_response(to_response(job, items), headers=headers)


def _stream(request: Request, running: Running, after: int = -1) -> OwnedStream:
    services = services_of(request)
    is_chinese = wants_chinese(request)
    is_direct = running.job.spec.branches[0].name == FAST_UNIT and not running.job.spec.is_background
    known = Told()

    def note(told: Told) -> None:
        nonlocal known
        known = told

    async def load() -> Job | None:
        running.seen = running.finished() or await services.hub.load(running.job.id)
        return running.seen

    if running.is_queued:
        readers = _readers_of(request)
        readers.check(running.job)
        frames = readers.read(running.job, note, PING_S)
    else:  # it lives and dies with this connection
        frames = with_pings(to_frames(running.job, running.events, load, known), PING_S)

    async def drop() -> None:
        await running.events.aclose()
        if running.is_queued:
            services.dispatcher.abandon(running.job.spec, grace_s=RESUME_GRACE_S)

    async def body() -> AsyncGenerator[bytes, None]:
        batch: list[Frame] | None = None
        last, has_sent, is_left = -1, False, True
        try:
            async with contextlib.aclosing(running.events), contextlib.aclosing(frames):
                async for batch in frames:
                    if batch is None:
                        yield SSE_PING
                        continue
                    if is_direct and after >= 0 and known.is_rewritten:
                        # Its first words came from a process that died, and are on no record: who read some of them
                        # cannot go on.
                        raise answer_restarted(running.job.id)
                    if batch[-1].event["type"] == "error" and not running.job.is_announced:
                        await services.store.tell(running.job.id)  # it says where the whole answer can be read
                    last = batch[-1].number
                    if last > after:
                        has_sent = True
                        yield b"".join(frame.data for frame in batch if frame.number > after)
            if batch is not None and known.is_summary and not has_sent:
                # Told in fewer events than the stream that was cut: how it ended must not get lost with the numbers.
                end = batch[-1].event
                yield sse({**end, "sequence_number": after + 1}, name=end["type"])
            is_left = False
        except Exception as error:  # the status is long sent: an event is the only way left to say it
            is_left = False
            refusal = to_refusal(error, f"the stream of {running.job.id}")
            message = refusal.message_zh if is_chinese else refusal.message
            broken = {"type": "error", "code": refusal.code, "message": message, "param": refusal.param}
            yield sse({**broken, "sequence_number": max(last, after) + 1}, name="error")
        finally:
            if is_left:
                await drop()

    return OwnedStream(body(), drop, {**to_route_headers(running.job), **SSE_HEADERS})


def _readers_of(request: Request) -> Readers:
    """Return the streams that are read in this process."""
    state = request.app.state
    if not hasattr(state, "readers"):
        state.readers = Readers(services_of(request).hub)
    readers: Readers = state.readers
    return readers

"""``/v1/responses``: create, poll, resume a stream, cancel, delete.

In: Responses requests and ids. Out: Responses objects and event streams, all folded from the one job record.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Literal

from fastapi import APIRouter, Request, Response

from engines.base import Message
from router.api.conversation import answer_turn, from_responses, to_wire_input
from router.api.errors import json_response, to_refusal, wants_chinese
from router.api.intake import (
    begin,
    check_format,
    check_text,
    hold,
    owner,
    parse,
    services_of,
    timed,
    to_hints,
    webhook_url_of,
    with_pings,
)
from router.api.models import resolve_model
from router.api.objects import to_poll_headers, to_response, to_route_headers
from router.api.owned_stream import OwnedStream
from router.api.paging import Limit, to_page
from router.api.readers import Frame, Readers, Told, to_frames
from router.api.routes.chat import PING_S, to_failure
from router.api.schemas import (
    InputItem,
    ItemReference,
    ResponsesRequest,
    check_metadata,
    to_responses_format,
    to_responses_sampling,
    to_thinking,
)
from router.api.stream import SSE_HEADERS, SSE_PING, answer_restarted, find_items, sse
from router.call import Call, from_stored_messages, stored_image_hashes
from router.direct import FAST_UNIT
from router.dispatch import Running
from router.errors import BadRequestError, EngineFailedError, NotFoundError
from router.jobs.job import Job
from router.jobs.schedule import to_priority
from router.services import Services

routes = APIRouter(tags=["responses"])

# A stream whose connection broke may be read on for so long; then a job that nobody else would miss ends.
RESUME_GRACE_S = 30.0
_ITEM_ID = re.compile(r"(msg|rs)_([0-9a-f]{32})_\d+")
# Engines name fields as chat completions do.
_FIELDS = {
    "messages": "input",
    "logprobs": "top_logprobs",
    "max_tokens": "max_output_tokens",
    "response_format": "text.format",
}


@routes.post("/v1/responses")
async def create_response(request: Request) -> Response:
    """Answer now, as a stream, or in the background."""
    services = services_of(request)
    caller = owner(request)
    body = await parse(request, ResponsesRequest)
    with fields_named():
        running = await begin(request, caller, lambda: to_call(body, caller, services))
    body = body.model_copy(update={"input": ()})  # the pictures are not to be held as long as the answer takes
    if body.stream:
        return _stream(request, running)
    if running.is_queued and (body.background or body.hybrid.async_ == "auto"):
        await running.events.aclose()
        if not running.job.is_announced:
            await services.store.tell(running.job.id)
        return await _show(services, running.job)
    job = await hold(request, running, _wait(services, running))
    if job.state == "failed":
        # Whoever waits for the answer gets a refusal as such; whoever polls finds it in the object.
        with fields_named():
            raise to_failure(job)
    return await _to_json(services, job, to_route_headers(job))


@routes.get("/v1/responses/{response_id}")
async def get_response(
    request: Request, response_id: str, stream: bool = False, starting_after: int | None = None
) -> Response:
    """Poll a response, or read its stream from the beginning or after a sequence number."""
    services = services_of(request)
    job = await find(services, response_id, owner(request))
    if not stream:
        return await _show(services, job)
    if job.spec.is_only_for_its_caller:
        await services.store.rejoin(job.id)
    running = Running(job, services.hub.follow(job.id), is_queued=True)
    return _stream(request, running, after=-1 if starting_after is None else starting_after)


@routes.post("/v1/responses/{response_id}/cancel")
async def cancel_response(request: Request, response_id: str) -> Response:
    """End a response now; one that has ended already is returned as it is."""
    services = services_of(request)
    job = await find(services, response_id, owner(request))
    if not job.is_terminal:
        job = await services.store.cancel(job.id) or job
    return await _to_json(services, job, to_route_headers(job))


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
async def list_input_items(
    request: Request,
    response_id: str,
    after: str | None = None,
    limit: Limit = 20,
    order: Literal["asc", "desc"] = "desc",
) -> Response:
    """List what a response was asked, newest first unless ``order`` says otherwise."""
    services = services_of(request)
    job = await find(services, response_id, owner(request))
    items = to_wire_input(job.spec.messages)
    if order == "desc":
        items.reverse()
    start = 0
    if after is not None:
        start = next((index for index, item in enumerate(items, 1) if item["id"] == after), -1)
        if start < 0:
            raise BadRequestError(
                f"There is no input item '{after}'; send an id of this list as 'after'.",
                code="invalid_value",
                param="after",
                message_zh=f"没有 id 为 '{after}' 的输入项；'after' 应为此列表中的 id。",
            )
    page = items[start : start + limit]
    return json_response(to_page(page, has_more=start + limit < len(items)))


async def _show(services: Services, job: Job) -> Response:
    """Return a response to whoever asks for it again: with its place in the queue, if it has not ended."""
    job = await services.store.locate(job)
    eta_ms = job.place.eta_ms if job.place else None
    return await _to_json(services, job, to_poll_headers(job, eta_ms))


async def _to_json(services: Services, job: Job, headers: dict[str, str]) -> Response:
    items = await find_items(job, lambda: services.store.read_events(job.id))
    return json_response(to_response(job, items), headers=headers)


async def find(services: Services, response_id: str, caller: str, *, param: str = "response_id") -> Job:
    """Return a record of the caller's.

    Raises:
        NotFoundError: if there is none, it belongs to somebody else, or it was not to be stored and has been answered.
    """
    job = await services.store.get(response_id)
    if job is None or job.spec.owner != caller or (job.is_terminal and not job.is_announced):
        raise NotFoundError(
            f"No response with id '{response_id}'.",
            code="response_not_found",
            param=param,
            message_zh=f"没有 id 为 '{response_id}' 的响应。",
        )
    return job


async def to_call(body: ResponsesRequest, caller: str, services: Services) -> Call:
    """Convert a Responses request.

    Raises:
        RouterError: for whatever is wrong with it.
    """
    sampling = to_responses_sampling(body)
    metadata = check_metadata(body.metadata)
    earlier: tuple[Message, ...] = ()
    if body.previous_response_id:
        earlier = await _conversation_of(services, body.previous_response_id, caller)
    hybrid = body.hybrid
    output_format, _ = to_responses_format(body)
    target = resolve_model(body.model, services.monitor)
    check_format(output_format, target.engine, hybrid, "text.format")
    answers = await _answers_named(services, body.input, caller)
    check_text(body.input, services.settings)
    loading = from_responses(body.input, body.instructions, earlier, services.media, answers)
    messages, fetch_ms = await timed(loading, caller)
    return Call(
        messages=messages,
        sampling=sampling,
        hints=to_hints(body, target),
        model=body.model,
        owner=caller,
        strategy=hybrid.merge,
        wants_async=hybrid.async_ == "auto",
        is_background=bool(body.background),
        is_stored=body.store is not False,
        metadata=metadata,
        instructions=body.instructions,
        webhook_url=webhook_url_of(metadata, services.settings),
        dial=hybrid.dial,
        previous_response_id=body.previous_response_id,
        adapter=target.adapter,
        output_format=output_format,
        wants_thinking=to_thinking(body, target.engine),
        priority=to_priority(body.service_tier),
        is_streamed=bool(body.stream),
        is_watched=bool(body.stream or not (body.background or hybrid.async_ == "auto")),
        fetch_ms=fetch_ms,
        draft_as=body.hybrid.draft_as,
        echo=body.echo,
    )


async def _conversation_of(services: Services, response_id: str, caller: str) -> tuple[Message, ...]:
    """Return an earlier conversation and its answer, without its instructions, which do not carry over."""
    try:
        job = await find(services, response_id, caller)
    except NotFoundError:
        # A wrong field of this request, as OpenAI has it; a 404 would say that there is no such endpoint or model.
        raise BadRequestError(
            f"Previous response with id '{response_id}' not found; send the whole conversation as 'input' instead.",
            code="previous_response_not_found",
            param="previous_response_id",
            message_zh=f"没有 id 为 '{response_id}' 的响应；请改为在 'input' 中发送整个对话。",
        ) from None
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
        earlier = from_stored_messages(stored, blobs, param="previous_response_id")
        return (*earlier, answer_turn(job.final.text))
    except KeyError as error:
        raise BadRequestError(
            f"The pictures of the response '{response_id}' are no longer stored; send the conversation again.",
            code="image_file_not_found",
            param="previous_response_id",
            message_zh=f"响应 '{response_id}' 的图片已过期；请重新发送整个对话。",
        ) from error


async def _answers_named(services: Services, items: str | Sequence[InputItem], caller: str) -> dict[str, str | None]:
    """Look up the output items that an input only names.

    Returns:
        By id, the answer; None for a draft, which is no turn of the conversation.

    Raises:
        BadRequestError: if there is no such item of the caller's.
    """
    answers: dict[str, str | None] = {}
    for index, item in enumerate([] if isinstance(items, str) else items):
        if not isinstance(item, ItemReference) or item.id in answers:
            continue
        found = _ITEM_ID.fullmatch(item.id)
        if found is not None and found[1] == "rs":
            answers[item.id] = None
            continue
        job = await services.store.get(f"resp_{found[2]}") if found is not None else None
        names = (
            await find_items(job, lambda job_id=job.id: services.store.read_events(job_id))  # type: ignore[misc]
            if job is not None and job.spec.owner == caller
            else None
        )
        if job is None or names is None or (job.final is None and item.id == names.final):
            raise BadRequestError(
                f"Item with id '{item.id}' not found: it belongs to no stored response; send its text instead.",
                code="item_not_found",
                param=f"input[{index}].id",
                message_zh=f"没有 id 为 '{item.id}' 的项：它不属于任何已保存的响应；请改为发送其文本。",
            )
        answers[item.id] = job.final.text if job.final is not None and item.id == names.final else None
    return answers


@contextlib.contextmanager
def fields_named() -> Iterator[None]:
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
    job = running.finished() or await services.hub.load(running.job.id)
    return job or await find(services, running.job.id, running.job.spec.owner)


def _stream(request: Request, running: Running, after: int = -1) -> OwnedStream:
    services = services_of(request)
    is_chinese = wants_chinese(request)
    is_direct = running.job.spec.branches[0].name == FAST_UNIT and not running.job.spec.is_background
    known = Told()

    def note(told: Told) -> None:
        nonlocal known
        known = told

    async def load() -> Job | None:
        return running.finished() or await services.hub.load(running.job.id)

    if running.is_queued:
        readers = _readers_of(request)
        readers.check(running.job)
        frames = readers.read(running.job, note)
    else:  # it lives and dies with this connection
        frames = to_frames(running.job, running.events, load, known)

    async def drop() -> None:
        await running.events.aclose()
        if running.is_queued:
            services.dispatcher.abandon(running.job.spec, grace_s=RESUME_GRACE_S)

    async def body() -> AsyncGenerator[bytes, None]:
        paced = with_pings(frames, PING_S)
        batch: list[Frame] | None = None
        last, has_sent, is_left = -1, False, True
        try:
            async with contextlib.aclosing(running.events), contextlib.aclosing(frames), contextlib.aclosing(paced):
                async for batch in paced:
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

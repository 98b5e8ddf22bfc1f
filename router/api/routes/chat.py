"""``POST /v1/chat/completions``: the answer at once on the fast route; on the deep route the final one if it is there
within the wait, else the draft and the id under which the final one can be read.

In: a chat request. Out: a chat completion, or its stream.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response

from engines.http.tools import to_wire_deltas
from router.api.begin import begin
from router.api.calls import to_call
from router.api.errors import envelope, to_refusal, wants_chinese
from router.api.intake import asking, parse, services_of
from router.api.objects import to_chunk, to_hybrid, to_route_headers
from router.api.owned_stream import OwnedStream
from router.api.schemas import ChatRequest
from router.api.stream import SSE_DONE, SSE_HEADERS, SSE_PING, sse
from router.api.telling import Telling, drop
from router.api.waiting import answer
from router.call import DraftAs
from router.dispatch import Running
from router.services import Services

routes = APIRouter(tags=["chat"])


@routes.post("/v1/chat/completions")
async def create_chat_completion(request: Request) -> Response:
    """Answer a chat request."""
    services = services_of(request)
    caller = asking(request).owner
    body = await parse(request, ChatRequest)
    max_wait_s = body.hybrid.max_wait_s
    wait_s = services.settings.max_wait_s if max_wait_s is None else max_wait_s
    is_streamed, has_usage = body.stream, bool(body.stream_options and body.stream_options.include_usage)
    running = await begin(request, caller, partial(to_call, body, caller, services))
    del body  # its pictures are not to be held as long as the answer takes
    if is_streamed:
        return OwnedStream(
            _stream(services, running, wait_s, has_usage=has_usage, is_chinese=wants_chinese(request)),
            lambda: drop(services, running),
            {**to_route_headers(running.job), **SSE_HEADERS},
        )
    return await answer(request, running, wait_s)


def _draft_fields(draft_as: DraftAs, text: str) -> dict[str, Any] | None:
    """Return the fields of the chunk that a piece of the draft amounts to, before the first word of the answer.

    Clients that know ``reasoning_content`` show it as thinking, all others pass over it. A chat has no message beside
    its one answer, so ``message`` tells nothing here.
    """
    if draft_as == "reasoning":
        return {"delta": {"reasoning_content": text}}
    if draft_as == "events":
        return {"delta": {}, "hybrid": {"type": "hybrid.draft.delta", "delta": text}}
    return None


async def _stream(
    services: Services, running: Running, wait_s: float, *, has_usage: bool, is_chinese: bool
) -> AsyncGenerator[bytes, None]:
    telling = Telling(services, running, wait_s)

    def chunk(**fields: Any) -> bytes:
        return sse(to_chunk(telling.job, telling.model, has_usage=has_usage, **fields))

    is_left = True
    try:
        yield chunk(delta={"role": "assistant", "content": ""}, hybrid=to_hybrid(telling.job))
        async with contextlib.aclosing(telling.steps()) as steps:
            async for step in steps:
                if step.kind == "ping":
                    yield SSE_PING
                elif step.kind == "draft":
                    fields = _draft_fields(telling.job.spec.draft_as, step.text)
                    if fields is not None:
                        yield chunk(**fields)
                elif step.kind == "text":
                    yield chunk(delta={"content": step.text}, logprobs=step.logprobs)
                elif step.call is not None:
                    yield chunk(delta={"tool_calls": to_wire_deltas((step.call,))})
                elif step.answer is not None:
                    yield chunk(delta={}, finish_reason=step.answer.finish_reason, hybrid=to_hybrid(telling.job))
                    if has_usage:
                        yield chunk(delta=None, usage=step.answer.written)
        is_left = False
    except Exception as error:  # the status is long sent: an event is the only way left to say it
        yield sse(envelope(to_refusal(error, f"the stream of {telling.job.id}"), wants_chinese=is_chinese))
        is_left = False
    finally:
        if is_left:
            await drop(services, running)
    yield SSE_DONE

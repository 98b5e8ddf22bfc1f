"""``POST /v1/messages``: the answer of a chat in Anthropic's shape.

In: a Messages request. Out: a message, or its stream.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from functools import partial

from fastapi import APIRouter, Request, Response

from router.api.anthropic.errors import to_error
from router.api.anthropic.objects import PING, to_events, to_message
from router.api.anthropic.reading import to_message_call
from router.api.anthropic.shapes import CountRequest, MessagesRequest
from router.api.begin import begin
from router.api.counts import count_call
from router.api.errors import envelope, json_response, status_of, to_refusal, wants_chinese
from router.api.intake import asking, owner, parse, services_of
from router.api.objects import to_route_headers
from router.api.owned_stream import OwnedStream
from router.api.stream import SSE_HEADERS, sse
from router.api.telling import Telling, drop
from router.api.waiting import answer
from router.dispatch import Running

routes = APIRouter(tags=["messages"])

_PING = sse(PING, name="ping")


@routes.post("/v1/messages")
async def create_message(request: Request) -> Response:
    """Answer a Messages request."""
    services = services_of(request)
    caller = asking(request).owner
    body = await parse(request, MessagesRequest)
    max_wait_s = body.hybrid.max_wait_s
    wait_s = services.settings.max_wait_s if max_wait_s is None else max_wait_s
    is_streamed = body.stream
    running = await begin(request, caller, partial(to_message_call, body, caller, services))
    del body  # its pictures are not to be held as long as the answer takes
    if is_streamed:
        return OwnedStream(
            _stream(request, running, wait_s),
            lambda: drop(services, running),
            {**to_route_headers(running.job), **SSE_HEADERS},
        )
    return await answer(request, running, wait_s, to_body=to_message)


@routes.post("/v1/messages/count_tokens")
async def count_tokens(request: Request) -> Response:
    """Count the tokens that a Messages request's conversation takes, pictures included, without answering it."""
    services, caller = services_of(request), owner(request, "ask")
    body = await parse(request, CountRequest)
    return json_response(await count_call(services, await to_message_call(body, caller, services)))


async def _stream(request: Request, running: Running, wait_s: float) -> AsyncGenerator[bytes, None]:
    services = services_of(request)
    telling = Telling(services, running, wait_s)
    is_left = True
    try:
        async with contextlib.aclosing(telling.steps()) as steps, contextlib.aclosing(to_events(telling, steps)) as out:
            async for event in out:
                yield _PING if event is PING else sse(event, name=event["type"])
        is_left = False
    except Exception as error:  # the status is long sent: an event is the only way left to say it
        refusal = to_refusal(error, f"the stream of {telling.job.id}")
        said = envelope(refusal, wants_chinese=wants_chinese(request))
        yield sse(to_error(said, status_of(refusal), request.state.request_id), name="error")
        is_left = False
    finally:
        if is_left:
            await drop(services, running)

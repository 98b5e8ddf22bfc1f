"""Questions to `POST /v1/responses`, and the events and objects that come back.

In: a `Client`, a question with pictures or a response's id. Out: the stream's events as dictionaries.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import orjson

from engines.base import GenerationFailedError
from engines.http import sse
from router.cli.client import Client, Json, RefusedError, UnreachableError

TERMINAL = frozenset({"completed", "failed", "cancelled", "incomplete"})
# A stream that says nothing, not even a keep-alive, for so long is broken.
SILENCE_S = 120.0
# A completed response is one event, with draft and answer in it.
MAX_EVENT_BYTES = 64 * 1024 * 1024
_RECONNECT_S = 0.5


class StreamBrokenError(Exception):
    """The connection ended before the answer did; the response may still be asked for by its id."""


@dataclass(frozen=True, slots=True)
class Question:
    """What to ask.

    Attributes:
        text: the question.
        image_urls: data URLs or http(s) addresses, in order.
        model: ``glowl``, or an engine's model to override the policy.
        route: ``fast`` or ``deep`` to override it; None leaves it alone.
    """

    text: str
    image_urls: tuple[str, ...] = ()
    model: str = "glowl"
    route: str | None = None

    def to_body(self) -> Json:
        """The request body."""
        content: list[Json] = [{"type": "input_image", "image_url": url} for url in self.image_urls]
        content.append({"type": "input_text", "text": self.text})
        body: Json = {"model": self.model, "stream": True, "input": [{"role": "user", "content": content}]}
        body["hybrid"] = {"draft": "message"}  # items are read apart here
        if self.route is not None:
            body["hybrid"]["route"] = self.route
        return body


async def stream(client: Client, body: Json) -> AsyncIterator[Json]:
    """Ask what a request body with ``stream`` says, and yield every event; the last one is terminal.

    Raises:
        UnreachableError: if nothing listens.
        RefusedError: if the request was refused.
        StreamBrokenError: if the stream ended before a terminal event.
    """
    headers = {"Accept": "text/event-stream"}
    was_answered = False
    try:
        async with client.request("POST", "responses", json=body, headers=headers, silence_s=SILENCE_S) as answer:
            was_answered = True
            async for event in read_events(answer.content.iter_any()):
                yield event
                if is_terminal(event):
                    return
    except UnreachableError as error:
        if not was_answered:
            raise
        raise StreamBrokenError(str(error)) from None
    raise StreamBrokenError("the stream ended early")


async def follow(client: Client, response_id: str, *, patience_s: float) -> AsyncIterator[Json]:
    """Yield every event of a response, from its first to its terminal one, across lost connections.

    Raises:
        RefusedError: if there is no such response.
        StreamBrokenError: if the service was away, or sent nothing, for ``patience_s``.
    """
    after = -1
    deadline = time.monotonic() + patience_s
    path = f"responses/{quote(response_id, safe='')}"
    while True:
        query = {"stream": "true", "starting_after": str(after)}
        try:
            async with client.request("GET", path, params=query, silence_s=SILENCE_S) as answer:
                async for event in read_events(answer.content.iter_any()):
                    after = event["sequence_number"]
                    deadline = time.monotonic() + patience_s
                    yield event
                    if is_terminal(event):
                        return
        except (RefusedError, UnreachableError, StreamBrokenError) as error:
            if isinstance(error, RefusedError) and error.status != 503:
                raise
            if time.monotonic() >= deadline:
                raise StreamBrokenError(str(error)) from None
        await asyncio.sleep(_RECONNECT_S)


def is_terminal(event: Mapping[str, Any]) -> bool:
    """Whether nothing follows this event."""
    return event.get("type") in ("response.completed", "response.failed", "response.incomplete", "error")


async def read_events(chunks: AsyncIterable[bytes]) -> AsyncIterator[Json]:
    """Parse server-sent events; comments (keep-alives) and ``[DONE]`` are skipped.

    Raises:
        StreamBrokenError: if an event is no JSON, or larger than `MAX_EVENT_BYTES`.
    """
    parser = sse.EventParser(max_bytes=MAX_EVENT_BYTES, wraps_errors=False)
    async for chunk in chunks:
        try:
            events = [orjson.loads(payload) for payload in parser.feed(chunk) if payload != sse.DONE]
        except (GenerationFailedError, orjson.JSONDecodeError) as error:
            raise StreamBrokenError(str(error)) from None
        for event in events:
            yield event


def output_text(response: Mapping[str, Any], *, phase: str | None = None) -> str:
    """The text of a response object's messages; with ``phase``, of those in that phase only."""
    return "".join(
        part.get("text", "")
        for item in response.get("output") or ()
        if item.get("type") == "message" and (phase is None or (item.get("phase") or "final_answer") == phase)
        for part in item.get("content") or ()
        if part.get("type") == "output_text"
    )

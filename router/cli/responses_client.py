"""A small client of `POST /v1/responses`, over nothing but the public API.

In: a question with pictures. Out: the stream's events as dictionaries, and the response object. No OpenAI package: a
base install has none.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import aiohttp
import orjson

Json = dict[str, Any]

TERMINAL = frozenset({"completed", "failed", "cancelled", "incomplete"})
# A stream that says nothing, not even a keep-alive, for so long is broken.
SILENCE_S = 120.0
_RECONNECT_S = 0.5


class UnreachableError(Exception):
    """Nothing answers at the base URL."""


class RefusedError(Exception):
    """The service answered with an error.

    Attributes:
        status: the HTTP status.
        message: the error envelope's message, or the body where there is none.
        code: the envelope's code, if any.
    """

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code


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


class ResponsesClient:
    """One service. Use as an async context manager.

    Args:
        base_url: such as ``http://127.0.0.1:8000``; a trailing ``/v1`` is understood too.
        api_key: sent as a bearer token when not empty.
        language: sent as ``Accept-Language``: refusals come in it.
    """

    def __init__(self, base_url: str, *, api_key: str = "", language: str = "en") -> None:
        self._url = base_url.rstrip("/").removesuffix("/v1") + "/v1/responses"
        self._api_key = api_key
        self._language = language
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> ResponsesClient:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=SILENCE_S)
        headers = {"Accept-Language": self._language, **bearer(self._api_key)}
        self._session = aiohttp.ClientSession(headers=headers, timeout=timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()

    async def stream(self, question: Question) -> AsyncIterator[Json]:
        """Ask, and yield every event; the last one is terminal.

        Raises:
            UnreachableError: if nothing listens.
            RefusedError: if the request was refused.
            StreamBrokenError: if the stream ended before a terminal event.
        """
        assert self._session is not None
        body = orjson.dumps(question.to_body())
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
        was_answered = False
        try:
            async with self._session.post(self._url, data=body, headers=headers) as answer:
                was_answered = True
                if answer.status != 200:
                    raise read_refusal(answer.status, await answer.read())
                async for event in read_events(answer.content.iter_any()):
                    yield event
                    if is_terminal(event):
                        return
        except (aiohttp.ClientError, TimeoutError) as error:
            if not was_answered:
                raise UnreachableError(str(error)) from None
            raise StreamBrokenError(str(error)) from None
        raise StreamBrokenError("the stream ended early")

    async def follow(self, response_id: str, *, patience_s: float) -> AsyncIterator[Json]:
        """Yield every event of a response, from its first to its terminal one, across lost connections.

        Raises:
            RefusedError: if there is no such response.
            StreamBrokenError: if the service was away, or sent nothing, for ``patience_s``.
        """
        assert self._session is not None
        after = -1
        deadline = time.monotonic() + patience_s
        while True:
            query = {"stream": "true", "starting_after": str(after)}
            try:
                async with self._session.get(f"{self._url}/{response_id}", params=query) as answer:
                    if answer.status != 200:
                        refusal = read_refusal(answer.status, await answer.read())
                        if answer.status != 503:
                            raise refusal
                        raise StreamBrokenError(refusal.message)
                    async for event in read_events(answer.content.iter_any()):
                        after = event["sequence_number"]
                        deadline = time.monotonic() + patience_s
                        yield event
                        if is_terminal(event):
                            return
            except (aiohttp.ClientError, TimeoutError, StreamBrokenError) as error:
                if time.monotonic() >= deadline:
                    raise StreamBrokenError(str(error)) from None
            await asyncio.sleep(_RECONNECT_S)

    async def retrieve(self, response_id: str) -> Json:
        """Read a response by its id.

        Raises:
            UnreachableError: if nothing listens.
            RefusedError: if it is not there any longer.
        """
        assert self._session is not None
        try:
            async with self._session.get(f"{self._url}/{response_id}") as answer:
                body = await answer.read()
                if answer.status != 200:
                    raise read_refusal(answer.status, body)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise UnreachableError(str(error)) from None
        return read_object(body)


def is_terminal(event: Mapping[str, Any]) -> bool:
    """Whether nothing follows this event."""
    return event.get("type") in ("response.completed", "response.failed", "response.incomplete", "error")


async def read_events(chunks: AsyncIterable[bytes]) -> AsyncIterator[Json]:
    """Parse server-sent events; comments (keep-alives) and ``[DONE]`` are skipped.

    Lines may be as long as they like: a completed response holds the whole answer in one.
    """
    pending = bytearray()
    data: list[bytes] = []
    async for chunk in chunks:
        pending += chunk
        *lines, rest = pending.split(b"\n")
        pending = bytearray(rest)
        for raw in lines:
            line = raw.removesuffix(b"\r")
            if line.startswith(b"data:"):
                data.append(bytes(line[5:].removeprefix(b" ")))
            elif not line and data:
                payload = b"\n".join(data)
                data = []
                if payload != b"[DONE]":
                    yield orjson.loads(payload)


def output_text(response: Mapping[str, Any], *, phase: str | None = None) -> str:
    """The text of a response object's messages; with ``phase``, of those in that phase only."""
    return "".join(
        part.get("text", "")
        for item in response.get("output") or ()
        if item.get("type") == "message" and (phase is None or (item.get("phase") or "final_answer") == phase)
        for part in item.get("content") or ()
        if part.get("type") == "output_text"
    )


def read_object(body: bytes) -> Json:
    """Read a JSON object that came with 200.

    Raises:
        RefusedError: if it is none: then another service answers at that address.
    """
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        raise RefusedError(200, "no JSON object: is a glowl service at that address?")
    return found


def bearer(api_key: str) -> dict[str, str]:
    """Return the header with a key, none for an empty one; line ends around it, as files have them, are dropped."""
    key = api_key.strip()
    if not key.isprintable():
        raise RefusedError(401, "the API key has characters that no header can carry")
    return {"Authorization": f"Bearer {key}"} if key else {}


def read_refusal(status: int, body: bytes) -> RefusedError:
    """Read an error envelope, or whatever else came with an error status."""
    try:
        error = orjson.loads(body)["error"]
        return RefusedError(status, str(error["message"]), error.get("code"))
    except (orjson.JSONDecodeError, KeyError, TypeError):
        text = body.decode("utf-8", errors="replace").strip()
        return RefusedError(status, text[:500] or "no message")

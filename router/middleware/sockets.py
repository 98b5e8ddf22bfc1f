"""Responses over a WebSocket: each ``response.create`` is the same request as over HTTP, told in the same events.

In: WebSocket connections at ``/v1/responses``. Out: for each message a request to the application itself, so that keys,
limits, audit log and metrics are those of any request; its events as messages. Turns come one after the other.

A response that is not stored (``store: false``) can be gone on from on the connection that made it: its conversation is
kept here, of the latest response only, and sent again with the next request.

Source: openresponses.org, specification of 2026-04-24, WebSocket transport.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final

import orjson
from pydantic_core import to_json
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from router.api.errors import envelope, status_of, wants_chinese
from router.api.intake import read_json, to_utf8
from router.auth.caller import Caller
from router.errors import BadRequestError, RouterError, TooManyInFlightError
from router.json_count import JsonCounter
from router.leftovers import end_tasks
from router.middleware import texts
from router.middleware.inner import Heard, is_stream, to_request
from router.settings import Settings

Json = dict[str, Any]

PATH: Final = "/v1/responses"
# As OpenAI has it: clients connect again, and send the whole conversation.
MAX_AGE_S: Final = 3600.0
MAX_OF_OWNER: Final = 16
MAX_OF_ALL: Final = 256
# Of what is kept for unstored responses: of one connection, and of all.
MAX_KEPT_BYTES: Final = 8 * 1024 * 1024
MAX_KEPT_OF_ALL: Final = 256 * 1024 * 1024
# Turns that wait: of one connection, and what they take, of one and of all. One message may always wait.
_MAX_WAITING: Final = 8
MAX_WAITING_BYTES: Final = 16 * 1024 * 1024
MAX_WAITING_OF_ALL: Final = 256 * 1024 * 1024
_FULL_S: Final = 5
_RESTARTING: Final = 1012
_DONE: Final = 1000
_LIFECYCLE: Final = (b"event: response.created", b"event: response.queued", b"event: response.in_progress")
_ENDS: Final = (b"event: response.completed", b"event: response.failed", b"event: response.incomplete")


class Sockets:
    """Turns messages into requests.

    Args:
        app: answers the requests; with all other middleware.
        settings: the limits.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self.max_json_items = settings.max_json_items
        self.kept_bytes = 0
        self.waiting_bytes = 0
        self._open: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or hold a WebSocket."""
        if scope["type"] != "websocket":
            await self.app(scope, receive, send)
            return
        await receive()  # websocket.connect
        if scope["path"].rstrip("/") != PATH:
            await send({"type": "websocket.close"})
            return
        refused, caller = await self._knock(scope)
        if refused is None and caller is not None and not self._has_room(caller.owner):
            full = TooManyInFlightError(
                texts.TOO_MANY_SOCKETS.fill(of_owner=MAX_OF_OWNER, of_all=MAX_OF_ALL), retry_after_s=_FULL_S
            )
            said = envelope(full, wants_chinese=wants_chinese(HTTPConnection(scope)))
            headers = [(b"content-type", b"application/json"), (b"retry-after", b"%d" % _FULL_S)]
            refused = Heard(429, headers, orjson.dumps(said))
        if refused is not None or caller is None:
            await (refused or Heard(500)).refuse(send)
            return
        self._open[caller.owner] += 1
        socket = _Socket(self, scope, receive, send)
        try:
            await socket.run()
        finally:
            self._open[caller.owner] -= 1
            socket.close()

    def _has_room(self, owner: str) -> bool:
        return self._open[owner] < MAX_OF_OWNER and self._open.total() < MAX_OF_ALL

    async def _knock(self, scope: Scope) -> tuple[Heard | None, Caller | None]:
        """Ask the application for something that costs nothing, as whoever connects: hosts, origins, key and scope."""
        asked = to_request(scope, "GET", "/v1/models", [])
        heard = Heard()

        async def nothing() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        await self.app(asked, nothing, heard.take)
        return (None if heard.status == 200 else heard), asked["state"].get("caller")


class _Kept:
    """The conversation of the latest response that was not stored.

    Attributes:
        id: of the response; empty if none is kept.
        items: its input and its output.
        num_bytes: what they take, as JSON.
    """

    def __init__(self) -> None:
        self.id = ""
        self.items: list[Any] = []
        self.num_bytes = 0


class _Socket:
    """One connection.

    Args:
        sockets: it belongs to.
        scope: of the WebSocket.
        receive: likewise.
        send: likewise.
    """

    def __init__(self, sockets: Sockets, scope: Scope, receive: Receive, send: Send) -> None:
        self._sockets = sockets
        self._scope = scope
        self._receive = receive
        self._send = send
        self._waiting: asyncio.Queue[bytes] = asyncio.Queue(_MAX_WAITING)
        self._waiting_bytes = 0
        self._gone = asyncio.Event()
        self._kept = _Kept()

    async def run(self) -> None:
        """Answer turns until the client or the server leaves."""
        await self._send({"type": "websocket.accept"})
        until = time.monotonic() + MAX_AGE_S
        # Set by `router.socket_protocol`; other servers have none, and cancel.
        ending: asyncio.Event = self._scope.get("state", {}).get("glowl.ending") or asyncio.Event()
        reader = asyncio.create_task(self._read(), name="socket")
        ends = [asyncio.create_task(ending.wait()), asyncio.create_task(self._gone.wait())]
        code = _DONE
        try:
            while not self._gone.is_set():
                if ending.is_set():
                    code = _RESTARTING
                    break
                message = await self._next(ends, until)
                if message is not None:
                    await self._turn(message)
                elif time.monotonic() >= until:
                    old = BadRequestError(texts.SOCKET_TOO_OLD, code="websocket_connection_limit_reached")
                    await self._refuse(old)
                    break
            if not self._gone.is_set():
                await self._send({"type": "websocket.close", "code": code})
        finally:
            await end_tasks(reader, *ends)

    def close(self) -> None:
        """Keep nothing any more, and let nothing wait."""
        self._count(-self._waiting_bytes)
        self.forget()

    def forget(self) -> None:
        """Go on from nothing any more."""
        self._sockets.kept_bytes -= self._kept.num_bytes
        self._kept = _Kept()

    async def _next(self, ends: list[asyncio.Task[Any]], until: float) -> bytes | None:
        """Wait for a message; None if something else comes first."""
        getting = asyncio.create_task(self._waiting.get())
        try:
            await asyncio.wait(
                {getting, *ends},
                timeout=max(until - time.monotonic(), 0),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if not getting.done():
                return None
            self._count(-len(getting.result()))
            return getting.result()
        finally:
            await end_tasks(getting)

    async def _read(self) -> None:
        """Read on while a turn is answered: a client that leaves must be noticed."""
        while True:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                self._gone.set()
                return
            text = message.get("text")
            turn: bytes = message.get("bytes", b"") if text is None else text.encode()
            if self._has_room_for(turn):
                self._count(len(turn))
                self._waiting.put_nowait(turn)
            else:
                sizes = {"most": _MAX_WAITING, "size": MAX_WAITING_BYTES // 2**20}
                await self._refuse(TooManyInFlightError(texts.TOO_MANY_TURNS.fill(**sizes)))

    def _has_room_for(self, turn: bytes) -> bool:
        if self._waiting.empty():
            return True
        own, everybodys = self._waiting_bytes + len(turn), self._sockets.waiting_bytes + len(turn)
        return not self._waiting.full() and own <= MAX_WAITING_BYTES and everybodys <= MAX_WAITING_OF_ALL

    def _count(self, num_bytes: int) -> None:
        """Count what waits."""
        self._waiting_bytes += num_bytes
        self._sockets.waiting_bytes += num_bytes

    async def _turn(self, message: bytes) -> None:
        """Answer a message."""
        try:
            body = self._to_body(message)
        except RouterError as error:
            await self._refuse(error)
            return
        previous = ""
        if body.get("previous_response_id") and body["previous_response_id"] == self._kept.id:
            previous = body.pop("previous_response_id")
            body["input"] = [*self._kept.items, *_to_items(body.get("input"))]
        answer = _Answer(self._tell_raw, previous, is_kept=body.get("store") is False)
        await self._ask(to_json(body), answer)
        if answer.refusal is not None:
            await self._tell(answer.refusal.to_event())
        if answer.response is not None:
            self._keep(body.get("input"), answer.response)
        elif previous and not answer.is_whole and not self._gone.is_set():
            self.forget()  # what it went on from may be what is wrong

    def _to_body(self, message: bytes) -> Json:
        """Return the body of the request that a message asks for.

        Raises:
            BadRequestError: if it asks for nothing.
        """
        counter = JsonCounter(self._sockets.max_json_items)
        counter.feed(message)
        body = read_json(to_utf8(message), counter)
        if not isinstance(body, dict) or body.get("type") != "response.create":
            param = "type" if isinstance(body, dict) else None
            raise BadRequestError(texts.NOT_AN_EVENT, code="unknown_event", param=param)
        for name, is_refused in (
            ("background", bool(body.get("background"))),
            ("generate", body.get("generate") is False),
            ("stream", body.get("stream") is False),
            ("stream_id", body.get("stream_id") is not None),
        ):
            if is_refused:
                raise BadRequestError(texts.NOT_OVER_SOCKETS.fill(param=name), code="unsupported_value", param=name)
            body.pop(name, None)
        del body["type"]
        return {**body, "stream": True}

    async def _ask(self, body: bytes, answer: _Answer) -> None:
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        sent = False

        async def receive() -> Message:
            nonlocal sent
            if not sent:
                sent = True
                return {"type": "http.request", "body": body, "more_body": False}
            await self._gone.wait()
            return {"type": "http.disconnect"}

        await self._sockets.app(to_request(self._scope, "POST", PATH, headers), receive, answer.take)

    def _keep(self, asked: Any, response: Json) -> None:
        """Keep the conversation of a response that is not stored, in place of the one before."""
        self.forget()
        said = [item for item in response["output"] if item["type"] != "reasoning" and item.get("content") != []]
        items = [*_to_items(asked), *said]
        num_bytes = len(to_json(items))
        if num_bytes <= MAX_KEPT_BYTES and self._sockets.kept_bytes + num_bytes <= MAX_KEPT_OF_ALL:
            self._kept.id, self._kept.items, self._kept.num_bytes = response["id"], items, num_bytes
            self._sockets.kept_bytes += num_bytes

    async def _refuse(self, error: RouterError) -> None:
        is_chinese = wants_chinese(HTTPConnection(self._scope))
        await self._tell({"type": "error", "status": status_of(error), **envelope(error, wants_chinese=is_chinese)})

    async def _tell(self, event: Json) -> None:
        await self._tell_raw(orjson.dumps(event))

    async def _tell_raw(self, event: bytes) -> None:
        if not self._gone.is_set():
            await self._send({"type": "websocket.send", "text": event.decode()})


class _Answer:
    """The answer to one turn: server-sent events become messages.

    Args:
        tell: sends one.
        previous: the kept response that the turn goes on from; the events name it.
        is_kept: the response is not stored, so its end is read.

    Attributes:
        refusal: the answer, if it is no stream.
        is_whole: the response was completed.
        response: of a response that is not stored, once it is completed.
    """

    def __init__(self, tell: Callable[[bytes], Awaitable[None]], previous: str, *, is_kept: bool) -> None:
        self.refusal: Heard | None = None
        self.is_whole = False
        self.response: Json | None = None
        self._tell = tell
        self._previous = previous
        self._is_kept = is_kept
        self._left = b""

    async def take(self, message: Message) -> None:
        """Take in a part of the application's answer."""
        if message["type"] == "http.response.start" and not is_stream(message["headers"]):
            self.refusal = Heard()
        if self.refusal is not None:
            await self.refusal.take(message)
            return
        *frames, self._left = (self._left + message.get("body", b"")).split(b"\n\n")
        for frame in frames:
            head, _, data = frame.partition(b"\ndata: ")
            if data:
                await self._tell(self._read(head, data))

    def _read(self, head: bytes, data: bytes) -> bytes:
        is_end = head in _ENDS
        if not is_end and not (self._previous and head in _LIFECYCLE):
            return data
        self.is_whole = self.is_whole or head == _ENDS[0]
        if not (self._previous or self._is_kept):
            return data
        event = orjson.loads(data)
        if self._previous:
            event["response"]["previous_response_id"] = self._previous
        if self._is_kept and head == _ENDS[0]:
            self.response = event["response"]
        return orjson.dumps(event) if self._previous else data


def _to_items(asked: Any) -> list[Any]:
    """Return an input as items."""
    if isinstance(asked, str):
        return [{"type": "message", "role": "user", "content": asked}]
    return asked if isinstance(asked, list) else []

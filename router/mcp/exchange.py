"""One question, or one job, waited for as long as its caller has patience.

In: a client, a request body or a response's id. Out: an `Exchange`: what was heard of the response so far, whether it
has ended, and the service's refusal as an exception. Reading is a task of its own: a caller whose patience ends, or who
cancels, leaves at once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from urllib.parse import quote

import anyio

from router.cli.client import Client, Json, RefusedError, UnreachableError
from router.cli.responses import TERMINAL, StreamBrokenError, follow, is_terminal, stream

# A client that waits longer after a sign of life than after none is given one this often.
BEAT_S = 5.0
# After a cancel: this long for the id of what is to be cancelled, and for the cancel itself.
_TAKE_BACK_S = 10.0
# When patience is over and nothing is accepted yet: this much longer for the id, which else would be lost.
_ID_S = 10.0
# When patience is over: this long for the place in the queue, which no stream tells.
_LOOK_S = 2.0

Report = Callable[["Exchange"], Awaitable[None]]


@dataclass
class _Item:
    phase: str
    text: str = ""


@dataclass
class Exchange:
    """What was heard of one response.

    Attributes:
        response: the response object as it was last seen.
        error: the error event that ended the stream, if one did.
        is_kept: the service goes on with it by itself, so that its id leads to the answer later.
        waited_s: how long the caller has waited.
    """

    response: Json = field(default_factory=dict)
    error: Json | None = None
    is_kept: bool = True
    waited_s: float = 0.0
    _items: dict[str, _Item] = field(default_factory=dict)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def id(self) -> str:
        """Its id, empty if none is known or if it would lead nowhere."""
        return str(self.response.get("id") or "") if self.is_kept else ""

    @property
    def has_ended(self) -> bool:
        """Whether nothing follows."""
        return self.error is not None or self.response.get("status") in TERMINAL

    def text_so_far(self, phase: str) -> str:
        """What the newest output item of a phase, ``commentary`` (a draft) or ``final_answer``, has said."""
        return next((item.text for item in reversed(self._items.values()) if item.phase == phase), "")

    def take(self, event: Json) -> None:
        """Note one event of the stream."""
        kind = event.get("type")
        known = bool(self.response)
        self.response = event.get("response") or self.response
        if kind == "error":
            self.error = event
        elif kind == "response.output_item.added":
            self._items[event["item"]["id"]] = _Item(event["item"].get("phase") or "final_answer")
        elif kind == "response.output_text.delta" and (item := self._items.get(event["item_id"])):
            item.text += event["delta"]
        if not known or is_terminal(event) or kind == "response.output_item.added":
            self._news.set()

    def begin_again(self) -> None:
        """Forget what a stream said that is now read from its start."""
        self._items.clear()

    async def heard(self, timeout_s: float) -> None:
        """Wait until there is something to report, or until the time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._news.wait()
        self._news.clear()


async def ask(client: Client, body: Json, *, patience_s: float, report: Report) -> Exchange:
    """Ask, and wait for the answer as long as there is patience; the job goes on without its caller.

    A caller who cancels has no id yet, so the job is cancelled too.

    Raises:
        RefusedError: if the service refuses the question.
        UnreachableError: if nothing answers.
        StreamBrokenError: if the connection ended before an id was known.
    """
    exchange = Exchange()
    reading = asyncio.create_task(_read(client, body, exchange, patience_s))
    try:
        await _wait(exchange, reading, patience_s, report)
        if not exchange.response and not reading.done():
            await _wait(exchange, reading, _ID_S, report, until=lambda: bool(exchange.response))
    except asyncio.CancelledError:
        with anyio.CancelScope(shield=True), contextlib.suppress(TimeoutError, RefusedError, UnreachableError):
            async with asyncio.timeout(_TAKE_BACK_S):
                while not exchange.response and not reading.done():
                    await exchange.heard(_TAKE_BACK_S)
                if exchange.id and not exchange.has_ended:
                    await client.call("POST", f"{_path(exchange.id)}/cancel")
        raise
    finally:
        await _end(reading)
    await _look(client, exchange)
    return exchange


async def resume(client: Client, response_id: str, *, patience_s: float, report: Report) -> Exchange:
    """Wait for a job that was begun earlier; one that has ended is returned at once.

    Raises:
        RefusedError: if there is no such response.
        UnreachableError: if nothing answers.
    """
    exchange = Exchange(response=await client.call("GET", _path(response_id)))
    if exchange.has_ended:
        return exchange
    reading = asyncio.create_task(_take_all(exchange, follow(client, response_id, patience_s=patience_s)))
    try:
        await _wait(exchange, reading, patience_s, report)
    finally:
        await _end(reading)
    await _look(client, exchange)
    return exchange


async def _read(client: Client, body: Json, exchange: Exchange, patience_s: float) -> None:
    try:
        await _take_all(exchange, stream(client, body))
    except RefusedError as error:
        if error.code != "queue_unavailable":
            raise
        # Without redis there is no job: GLM answers the connection.
        exchange.is_kept = False
        plain = {**body, "background": False, "store": False, "hybrid": {**body["hybrid"], "route": "fast"}}
        await _take_all(exchange, stream(client, plain))
    except StreamBrokenError:
        if not exchange.id:
            raise
        exchange.begin_again()
        await _take_all(exchange, follow(client, exchange.id, patience_s=patience_s))


async def _take_all(exchange: Exchange, events: AsyncIterator[Json]) -> None:
    async for event in events:
        exchange.take(event)


async def _wait(
    exchange: Exchange,
    reading: asyncio.Task[None],
    patience_s: float,
    report: Report,
    until: Callable[[], bool] = lambda: False,
) -> None:
    """Wait for the end of the reading, or until something is so, and report what is heard.

    Raises:
        RefusedError, UnreachableError, StreamBrokenError: as the reading does.
    """
    reading.add_done_callback(lambda _: exchange._news.set())
    clock = asyncio.get_running_loop().time
    began, before_s = clock(), exchange.waited_s
    while not reading.done() and not until() and (left := began + patience_s - clock()) > 0:
        await exchange.heard(min(BEAT_S, left))
        exchange.waited_s = before_s + clock() - began
        if not reading.done():
            await report(exchange)
    if reading.done() and not reading.cancelled():
        reading.result()


async def _end(reading: asyncio.Task[None]) -> None:
    reading.cancel()
    await asyncio.wait({reading})
    if not reading.cancelled():
        reading.exception()  # it was raised already, or no call waits for it


async def _look(client: Client, exchange: Exchange) -> None:
    """Read the response once more if it has not ended: its place in the queue, and the whole draft."""
    if exchange.has_ended or not exchange.id:
        return
    with contextlib.suppress(TimeoutError, RefusedError, UnreachableError):
        async with asyncio.timeout(_LOOK_S):
            exchange.response = await client.call("GET", _path(exchange.id))


def _path(response_id: str) -> str:
    return f"responses/{quote(response_id, safe='')}"

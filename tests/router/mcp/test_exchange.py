"""Waiting for an answer: patience that ends, streams that break, callers that cancel, a service without redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from router.cli.client import RefusedError
from router.cli.responses import StreamBrokenError
from router.mcp import exchange
from router.mcp.exchange import Exchange

LONG_S = 300.0
BODY = {"background": True, "hybrid": {"route": "auto"}}
QUEUED = {"type": "response.queued", "response": {"id": "resp_1", "status": "queued"}}
DONE = {"type": "response.completed", "response": {"id": "resp_1", "status": "completed"}}
DRAFT = (
    {"type": "response.output_item.added", "item": {"id": "msg_0", "phase": "commentary"}},
    {"type": "response.output_text.delta", "item_id": "msg_0", "delta": "left"},
)


class Service:
    """What a client of it would hear, in the order in which it is asked.

    Attributes:
        calls: routes that were called.
        bodies: of the questions.
    """

    def __init__(self, *streams: list[Any]) -> None:
        self.streams = list(streams)
        self.calls: list[tuple[str, str]] = []
        self.bodies: list[Any] = []
        self.was_asked = asyncio.Event()

    async def call(self, method: str, path: str) -> dict[str, Any]:
        self.calls.append((method, path))
        return {"id": "resp_1", "status": "in_progress", "hybrid": {"queue": {"eta_ms": 40_000}}}

    async def stream(self, _: Any, body: Any) -> AsyncIterator[Any]:
        self.bodies.append(body)
        self.was_asked.set()
        for each in self.streams.pop(0):
            if isinstance(each, Exception):
                raise each
            if isinstance(each, asyncio.Event):
                await each.wait()
            else:
                yield each


async def report(_: Exchange) -> None:
    pass


async def ask(service: Service, monkeypatch: pytest.MonkeyPatch, patience_s: float = LONG_S) -> Exchange:
    monkeypatch.setattr(exchange, "stream", service.stream)
    monkeypatch.setattr(exchange, "follow", lambda client, response_id, patience_s: service.stream(client, response_id))
    return await exchange.ask(service, BODY, patience_s=patience_s, report=report)  # type: ignore[arg-type]


async def test_an_answer_in_time_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service([QUEUED, DONE])
    found = await ask(service, monkeypatch)
    assert found.has_ended
    assert service.calls == []


async def test_when_patience_ends_there_is_a_draft_an_id_and_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service([QUEUED, *DRAFT, asyncio.Event()])
    found = await ask(service, monkeypatch, patience_s=0.01)
    assert not found.has_ended
    assert found.id == "resp_1"
    assert found.text_so_far("commentary") == "left"
    assert found.response["hybrid"]["queue"]["eta_ms"] == 40_000
    assert service.calls == [("GET", "responses/resp_1")]


async def test_the_id_is_waited_for_even_without_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    accepted = asyncio.Event()
    service = Service([accepted, QUEUED, asyncio.Event()])
    asked = asyncio.create_task(ask(service, monkeypatch, patience_s=0))
    await asyncio.sleep(0)
    accepted.set()
    assert (await asked).id == "resp_1"


async def test_a_service_that_accepts_nothing_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "_ID_S", 0.01)
    found = await ask(Service([asyncio.Event()]), monkeypatch, patience_s=0)
    assert found.response == {}


async def test_a_stream_that_breaks_is_read_on_by_its_id(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service([QUEUED, *DRAFT, StreamBrokenError("gone")], [QUEUED, *DRAFT, DONE])
    found = await ask(service, monkeypatch)
    assert found.has_ended
    assert found.text_so_far("commentary") == "left"  # once, though it was heard twice
    assert service.bodies == [BODY, "resp_1"]


async def test_a_stream_that_breaks_before_there_is_an_id_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StreamBrokenError):
        await ask(Service([StreamBrokenError("gone")]), monkeypatch)


async def test_without_redis_glm_answers_the_connection_and_no_id_is_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service([RefusedError(503, "no queue", "queue_unavailable")], [QUEUED, *DRAFT, asyncio.Event()])
    found = await ask(service, monkeypatch, patience_s=0.01)
    assert service.bodies[1] == {"background": False, "store": False, "hybrid": {"route": "fast"}}
    assert found.id == ""
    assert service.calls == []


async def test_any_other_refusal_is_the_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RefusedError, match="too many"):
        await ask(Service([RefusedError(429, "too many", "rate_limit_exceeded")]), monkeypatch)


async def test_who_cancels_before_the_id_is_known_has_the_job_cancelled_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    accepted = asyncio.Event()
    service = Service([accepted, QUEUED, asyncio.Event()])
    asked = asyncio.create_task(ask(service, monkeypatch))
    await service.was_asked.wait()
    asked.cancel()
    await asyncio.sleep(0)
    accepted.set()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert service.calls == [("POST", "responses/resp_1/cancel")]

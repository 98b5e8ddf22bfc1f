"""A direct answer that GLM's server spoils: whose failure it is, who answers instead, and what the caller reads."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from unittest.mock import AsyncMock, MagicMock

import httpx
import pytest
from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from engines.base import (
    EngineUnavailableError,
    Message,
    SamplingParams,
    TextPart,
)
from engines.echo import EchoEngine
from engines.http.app import create_app as create_engine_app
from policies.features import Hints
from policies.rules import load_preset
from router.api import waiting
from router.app import create_app
from router.call import Call
from router.dispatch import Dispatcher
from router.errors import EngineFailedError
from router.health import EngineMonitor
from router.jobs.store import JobStore
from router.routing import Router
from router.settings import Settings
from tests.support.servers import AppServer, RedisProcess, wait_until

MODEL = "Org/GLM-4.6V-Flash-AWQ"


class ScriptedServer:
    """Speaks the OpenAI wire, and says to every question what it was told to say.

    Attributes:
        body: of every answer.
        status: of every answer.
    """

    def __init__(self) -> None:
        self.body = b""
        self.status = 200

    @property
    def app(self) -> Starlette:
        async def chat(_request: Request) -> Response:
            return Response(self.body, self.status, media_type="text/event-stream")

        async def models(_request: Request) -> Response:
            return JSONResponse({"object": "list", "data": [{"id": MODEL, "object": "model"}]})

        async def health(_request: Request) -> Response:
            return Response()

        return Starlette(
            routes=[
                Route("/v1/chat/completions", chat, methods=["POST"]),
                Route("/v1/models", models),
                Route("/health", health),
            ]
        )


def event(text: str | None = None, finish_reason: Any = None, **more: Any) -> bytes:
    chunk = {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish_reason}], **more}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


@pytest.fixture(scope="module")
def glm() -> ScriptedServer:
    return ScriptedServer()


@pytest.fixture(scope="module")
def api(redis_process: RedisProcess, glm: ScriptedServer) -> Iterator[AppServer]:
    folder = Path(tempfile.mkdtemp(prefix="glowl-d"))
    servers = [
        AppServer(glm.app, uds=str(folder / "glm")),
        AppServer(create_engine_app(EchoEngine("owl2")), uds=str(folder / "owl2")),
    ]
    settings = Settings(REDIS_URL=redis_process.url, glm_url=servers[0].url, owl2_url=servers[1].url)
    servers.insert(0, AppServer(create_app(settings)))
    yield servers[0]
    for server in servers:
        server.stop()


@pytest.fixture
def http(api: AppServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=api.url, timeout=300, trust_env=False) as client:
        yield client


# Each spoils the answer before its first word, or at its end: with a bad word, a bad number, or none at all.
BEFORE = {
    "no events": b"once upon a time",
    "no json": b"data: {oops\n\n",
    "a list": b"data: []\n\n",
    "content is a number": b'data: {"choices": [{"delta": {"content": 5}}]}\n\n',
    "a lone surrogate": b'data: {"choices": [{"delta": {"content": "\\ud83d"}}]}\n\n',
    "ten megabytes": event("x" * 10_000_000) + event("", "stop"),
    "an error": b'data: {"error": {"message": "CUDA died at 10.0.0.7:8000", "code": 500}}\n\n',
    "nothing at all": event("", "stop") + b"data: [DONE]\n\n",
    "only spaces": event(" \n ") + event("", "stop") + b"data: [DONE]\n\n",
}
AFTER = {
    "network_error": event("你好") + event("", "network_error") + b"data: [DONE]\n\n",
    "an unknown end": event("你好") + event("", "tired") + b"data: [DONE]\n\n",
    "no end": event("你好", "") + event("", ""),
    "many tokens": event("你好") + event("", "stop", usage={"prompt_tokens": 1, "completion_tokens": "many"}),
}


@pytest.fixture(autouse=True)
def _glm_is_up(http: httpx.Client) -> None:
    """The test before may have spoilt what is thought of it."""
    wait_until(lambda: http.get("/readyz").json()["engines"]["glm"] == "up", "glm to be up")


def ask(http: httpx.Client, **fields: Any) -> httpx.Response:
    return http.post("/v1/responses", json={"model": "glowl", "input": "你好", "hybrid": {"async": "auto"}, **fields})


@pytest.mark.parametrize("body", [*BEFORE.values(), *AFTER.values()], ids=[*BEFORE, *AFTER])
def test_an_answer_that_is_none_is_handed_to_owl2_which_the_answer_says(
    http: httpx.Client, glm: ScriptedServer, body: bytes
) -> None:
    glm.body, glm.status = body, 200

    response = ask(http)

    assert response.status_code == 200
    found = response.json()
    assert (found["status"], found["hybrid"]["route"], found["hybrid"]["engine"]) == ("queued", "deep", "owl2")
    assert any("glm" in sentence for sentence in found["hybrid"]["degraded"])
    assert "10.0.0.7" not in response.text


def test_a_wait_counts_from_its_beginning_even_if_glm_was_asked_first(
    http: httpx.Client, glm: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    glm.body, glm.status = BEFORE["no json"], 200
    began_at: list[float] = []
    asked_at: list[float] = []

    class NotedWait(waiting.Wait):
        def __init__(self, wait_s: float, began: float) -> None:
            began_at.append(began)
            super().__init__(wait_s, began)

    run_now = Dispatcher._run_now

    async def noted(*args: Any) -> Any:
        asked_at.append(time.monotonic())
        return await run_now(*args)

    monkeypatch.setattr(waiting, "Wait", NotedWait)
    monkeypatch.setattr(Dispatcher, "_run_now", noted)
    messages = [{"role": "user", "content": "你好"}]

    answer = http.post(
        "/v1/chat/completions", json={"model": "glowl", "messages": messages, "hybrid": {"max_wait_s": 0.01}}
    )

    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "answer_timeout")
    assert began_at[0] <= asked_at[0]


@pytest.mark.parametrize("status", [500, 502, 503, 401, 404, 429])
def test_a_server_that_fails_before_the_first_word_is_replaced_by_owl2(
    http: httpx.Client, glm: ScriptedServer, status: int
) -> None:
    glm.body, glm.status = b'{"error": {"message": "no"}}', status

    found = ask(http).json()["hybrid"]

    assert found["engine"] == "owl2"
    assert ("glm 已满负荷" in " ".join(found["degraded"])) == (status == 429)


def test_a_caller_that_wants_glm_is_told_that_it_is_full(http: httpx.Client, glm: ScriptedServer) -> None:
    glm.body, glm.status = b'{"error": {"message": "rate limit of this key"}}', 429

    refusals = [ask(http, model="glm-4.6v-flash"), ask(http, hybrid={"route": "fast"})]

    assert [(refused.status_code, refused.headers["retry-after"]) for refused in refusals] == [(429, "1")] * 2


@pytest.mark.parametrize("body", AFTER.values(), ids=AFTER)
def test_a_stream_spoilt_after_its_first_word_ends_as_failed_and_says_no_address(
    http: httpx.Client, glm: ScriptedServer, body: bytes
) -> None:
    glm.body, glm.status = body, 200

    with http.stream("POST", "/v1/responses", json={"model": "glowl", "input": "你好", "stream": True}) as stream:
        events = [json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: ")]

    assert events[-1]["type"] == "response.failed"
    assert ".sock" not in json.dumps(events)
    assert str(tempfile.gettempdir()) not in json.dumps(events)


@pytest.mark.parametrize("blank", ["\u200b\u200b", "\ufeff", "<|endoftext|>", " \n", ""])
def test_a_stream_in_which_nothing_can_be_read_is_handed_to_owl2(
    http: httpx.Client, glm: ScriptedServer, blank: str
) -> None:
    glm.body, glm.status = event(blank) + event("", "stop") + b"data: [DONE]\n\n", 200

    with http.stream("POST", "/v1/responses", json={"model": "glowl", "input": "你好", "stream": True}) as stream:
        first = next(json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: "))

    assert (first["response"]["hybrid"]["route"], first["response"]["hybrid"]["engine"]) == ("deep", "owl2")


def test_a_refusal_of_the_request_is_no_failure_of_the_server(http: httpx.Client, glm: ScriptedServer) -> None:
    glm.body, glm.status = b'{"error": {"message": "temperature is odd", "param": "temperature"}}', 400

    refused = ask(http)

    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "temperature")


@pytest.mark.parametrize(
    ("finish_reason", "ours", "status", "reason"),
    [
        ("stop", "stop", "completed", None),
        ("length", "length", "incomplete", "max_output_tokens"),
        ("model_context_window_exceeded", "length", "incomplete", "max_output_tokens"),
        ("sensitive", "content_filter", "incomplete", "content_filter"),
    ],
)
def test_why_an_answer_ended_is_told_in_both_shapes(
    http: httpx.Client, glm: ScriptedServer, finish_reason: str, ours: str, status: str, reason: str | None
) -> None:
    glm.body, glm.status = event("你好") + event("", finish_reason) + b"data: [DONE]\n\n", 200

    chat = http.post(
        "/v1/chat/completions", json={"model": "glowl", "messages": [{"role": "user", "content": "你好"}]}
    ).json()
    response = ask(http).json()

    assert chat["choices"][0]["finish_reason"] == ours
    assert response["status"] == status
    assert (response["incomplete_details"] or {}).get("reason") == reason
    assert response["output"][-1]["status"] == status


def test_a_stop_string_may_leave_nothing_of_an_answer(http: httpx.Client, glm: ScriptedServer) -> None:
    glm.body, glm.status = event("", "stop") + b"data: [DONE]\n\n", 200

    chat = http.post(
        "/v1/chat/completions", json={"model": "glowl", "messages": [{"role": "user", "content": "你好"}], "stop": "你"}
    )

    assert chat.json()["choices"][0]["message"]["content"] == ""


CASES = Path(__file__).parents[3] / "shared" / "cases"


@pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not beside this checkout")
def test_streams_that_servers_of_other_makes_really_sent(http: httpx.Client, glm: ScriptedServer) -> None:
    def answer(name: str, **fields: Any) -> Any:
        glm.body, glm.status = (CASES / name).read_bytes(), 200
        body = {"model": MODEL, "messages": [{"role": "user", "content": "你好"}], **fields}
        return http.post("/v1/chat/completions", json=body)

    filtered = answer("glm-stream-finish-sensitive.sse").json()
    counted = answer("glm-stream-usage-without-choices.sse").json()
    cut = answer("glm-stream-empty-finish-then-cut.sse", stream=True).text

    assert filtered["choices"][0]["finish_reason"] == "content_filter"
    assert counted["choices"][0]["message"]["content"] == "你好"
    assert counted["choices"][0]["finish_reason"] == "stop"
    assert (counted["usage"]["prompt_tokens"], counted["usage"]["completion_tokens"]) == (3, 2)
    assert '"error"' in cut
    assert '"finish_reason":"stop"' not in cut


def dispatcher_of(engines: Any, monitor: EngineMonitor, redis: Redis) -> Dispatcher:
    """A dispatcher that asks engines by itself; what it would put in line goes nowhere."""
    rules = load_preset("seed")
    return Dispatcher(
        engines=engines,
        store=JobStore(redis),
        queue=cast("Any", AsyncMock()),
        hub=cast("Any", MagicMock()),
        monitor=monitor,
        router=Router(lambda: rules),
    )


@pytest.mark.parametrize("is_back", [True, False])
async def test_a_call_that_loses_glm_asks_owl2_though_it_was_down_at_the_last_look(
    redis_url: str, is_back: bool
) -> None:
    # Given an Owl2 that was restarted and has just come up, or has not, and a GLM that is restarted right after it
    class Owl2(EchoEngine):
        is_well = False

        async def is_ready(self) -> bool:
            return self.is_well

    glm, owl2 = EchoEngine("glm"), Owl2("owl2")
    await glm.start()
    await owl2.start()
    glm.fail_with = EngineUnavailableError("The engine is shutting down.")
    engines: Any = {"glm": glm, "owl2": owl2}
    monitor = EngineMonitor(engines)
    monitor.mark_down("owl2")
    call = Call((Message("user", (TextPart("图里有什么？"),)),), SamplingParams(), Hints(), "glowl", "local")
    async with Redis.from_url(redis_url) as redis:
        dispatcher = dispatcher_of(engines, monitor, redis)
        # When it is asked
        owl2.is_well = is_back
        # Then it is refused only if both are away
        if is_back:
            running = await dispatcher.start(replace(call, is_streamed=True))
            assert running.job.spec.branches[-1].engine == "owl2"
        else:
            with pytest.raises(EngineFailedError, match="shutting down"):
                await dispatcher.start(replace(call, is_streamed=True))
        await dispatcher.aclose()
    await monitor.aclose()
    await owl2.aclose()
    await glm.aclose()


@pytest.mark.parametrize(("num_words", "answered_by"), [(0, "owl2"), (1, "glm")], ids=["at once", "in the middle"])
async def test_an_engine_that_is_gone_is_left_alone_by_the_next_calls(
    redis_url: str, num_words: int, answered_by: str
) -> None:
    # Given an api that last saw both engines up, and a GLM that is gone since
    glm, owl2 = EchoEngine("glm"), EchoEngine("owl2")
    await glm.start()
    glm.fail_with, glm.fail_after_deltas = EngineUnavailableError("connection lost"), num_words
    engines: Any = {"glm": glm, "owl2": owl2}
    monitor = EngineMonitor(engines)
    call = Call((Message("user", (TextPart("图里有什么？"),)),), SamplingParams(), Hints(), "glowl", "local")
    async with Redis.from_url(redis_url) as redis:
        dispatcher = dispatcher_of(engines, monitor, redis)
        assert dispatcher.route(call).decision.route == "fast"

        # When a direct answer fails
        running = await dispatcher.start(replace(call, is_streamed=True))
        if not running.is_queued:
            async for _event in running.events:
                pass

        # Then the next call is not sent there, though nobody has looked at the engines since
        assert running.job.spec.branches[-1].engine == answered_by
        assert monitor.down() == {"glm"}
        assert dispatcher.route(call).decision.route == "deep"
        await dispatcher.aclose()
    await glm.aclose()

"""A caller who goes away, and what goes wrong once the status line is out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest

from engines.base import EngineOverloadedError
from engines.echo import EchoEngine
from router.api.hangups import ON_DISCONNECT, ClientGoneError, while_connected
from router.errors import QueueUnavailableError
from tests.support.raw import send
from tests.support.servers import AppServer, wait_until

CHAT = {"model": "glowl", "messages": [{"role": "user", "content": "你好"}]}
RESPONSE = {"model": "glowl", "input": "你好"}
BOTH = [("/v1/chat/completions", CHAT), ("/v1/responses", RESPONSE)]


@pytest.mark.parametrize(("path", "body"), BOTH)
@pytest.mark.parametrize("stream", [False, True])
def test_hanging_up_before_the_first_word_frees_the_engine(
    api: AppServer, echoes: dict[str, EchoEngine], path: str, body: dict[str, Any], stream: bool
) -> None:
    echoes["glm"].delta_delay_s = 3600.0
    connection = send(api, path, {**body, "stream": stream})
    wait_until(lambda: echoes["glm"].num_running == 1, "the answer to begin")

    connection.close()

    wait_until(lambda: echoes["glm"].num_running == 0, "the engine to be free")


@pytest.mark.parametrize(("path", "body"), BOTH)
def test_hanging_up_in_the_middle_of_a_stream_frees_the_engine(
    api: AppServer, echoes: dict[str, EchoEngine], path: str, body: dict[str, Any]
) -> None:
    echoes["glm"].delta_delay_s = 0.05
    connection = send(api, path, {**body, "stream": True})
    received = b""
    while b"[echo" not in received:
        received += connection.recv(65536)
    echoes["glm"].delta_delay_s = 3600.0

    connection.close()

    wait_until(lambda: echoes["glm"].num_running == 0, "the engine to be free")


@pytest.fixture
def broken_store(api: AppServer, monkeypatch: pytest.MonkeyPatch) -> list[Exception]:
    """Raise the error put in here when a fast answer is to be stored."""
    errors: list[Exception] = []

    async def put_finished(*_args: Any, **_fields: Any) -> bool:
        raise errors[0]

    monkeypatch.setattr(api._app.state.services.store, "put_finished", put_finished)
    return errors


def test_a_bug_in_the_middle_of_a_chat_stream_is_an_error_event_without_its_innards(
    client: openai.OpenAI, broken_store: list[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    broken_store.append(KeyError("a secret"))
    chunks: list[Any] = []

    with pytest.raises(openai.APIError, match="Something went wrong") as caught:
        chunks.extend(client.chat.completions.create(**CHAT, stream=True, store=True))  # type: ignore[call-overload]

    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert said == "[echo glm] no pictures, question: 你好"
    assert caught.value.code == "server_error"
    assert "secret" not in str(caught.value.body)
    assert "a secret" in caplog.text


def test_a_bug_in_the_middle_of_a_response_stream_is_its_error_event(
    client: openai.OpenAI, broken_store: list[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    broken_store.append(KeyError("a secret"))

    events: list[Any] = list(client.responses.create(**RESPONSE, stream=True))  # type: ignore[call-overload]

    assert (events[-1].type, events[-1].code, events[-1].param) == ("error", "server_error", None)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "a secret" in caplog.text


def test_a_fast_answer_that_cannot_be_stored_is_given_and_says_so(
    client: openai.OpenAI, broken_store: list[Exception]
) -> None:
    broken_store.append(QueueUnavailableError("redis is away"))

    whole = client.responses.create(**RESPONSE)  # type: ignore[call-overload]
    *_, last = client.responses.create(**RESPONSE, stream=True)  # type: ignore[call-overload]

    assert (whole.output_text, whole.model_extra["store"]) == ("[echo glm] no pictures, question: 你好", False)
    # The id of a stream was announced at its beginning, and leads to its record all the same
    assert (last.type, last.response.model_extra["store"]) == ("response.completed", True)
    for response in (whole, last.response):
        assert "could not be stored" in response.model_extra["hybrid"]["degraded"][-1] or "未能保存" in str(
            response.model_extra["hybrid"]["degraded"][-1]
        )


def test_an_engine_that_fails_in_mid_answer_fails_the_request_with_all_it_said(
    client: openai.OpenAI, echoes: dict[str, EchoEngine], http: httpx.Client
) -> None:
    echoes["glm"].fail_with = EngineOverloadedError("no room", param="messages")
    echoes["glm"].fail_after_deltas = 2

    body = {**RESPONSE, "model": "glm-4.6v-flash"}  # no other may answer
    refused = http.post("/v1/responses", json=body)
    *_, last = client.responses.create(**body, stream=True)  # type: ignore[call-overload]

    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert refused.json()["error"]["param"] == "input"
    assert (last.type, last.response.error.message) == ("response.failed", "no room")


class Client:
    """A client as `BoundedProtocol` tells of it."""

    def __init__(self) -> None:
        self.told: list[Callable[[], None]] = []
        self.scope: dict[str, Any] = {"extensions": {ON_DISCONNECT: {"call": self.on_disconnect}}}

    def on_disconnect(self, tell: Callable[[], None]) -> Callable[[], None]:
        self.told.append(tell)
        return lambda: self.told.remove(tell)

    async def receive(self) -> Any:
        raise AssertionError("nothing is received for this")


async def test_work_ends_with_its_client_however_often_it_swallows_that() -> None:
    client, swallowed, has_begun = Client(), [], asyncio.Event()

    async def work() -> None:
        while len(swallowed) < 2:
            has_begun.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError as error:
                swallowed.append(error)
        await asyncio.Event().wait()

    task = asyncio.create_task(while_connected(client.scope, client.receive, work()))
    await has_begun.wait()
    client.told[0]()

    with pytest.raises(ClientGoneError):
        await task
    assert len(swallowed) == 2
    assert client.told == []
    assert task.cancelling() == 0


async def test_whoever_cancels_beside_the_client_is_obeyed() -> None:
    client, has_begun = Client(), asyncio.Event()

    async def work() -> None:
        has_begun.set()
        await asyncio.Event().wait()

    for is_gone in (False, True):
        has_begun.clear()
        task = asyncio.create_task(while_connected(client.scope, client.receive, work()))
        await has_begun.wait()
        if is_gone:
            client.told[0]()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_an_answer_that_was_there_when_the_client_left_is_kept() -> None:
    client, answer = Client(), asyncio.get_running_loop().create_future()

    async def work() -> str:
        try:
            await answer
        except asyncio.CancelledError:
            assert answer.done()
        return "whole"

    task = asyncio.create_task(while_connected(client.scope, client.receive, work()))
    await asyncio.sleep(0)
    answer.set_result(None)
    client.told[0]()

    assert await task == "whole"
    assert task.cancelling() == 0

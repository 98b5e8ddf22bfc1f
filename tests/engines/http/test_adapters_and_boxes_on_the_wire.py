"""Adapters by model name and boxes, from an engine over our own server, or one of another make, to the client."""

from __future__ import annotations

import contextlib
import io
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

import httpx
import orjson
import pytest
from PIL import Image

from engines import json_forms
from engines.adapter_names import UnknownAdapterError
from engines.base import (
    Box,
    Delta,
    GenerationRequest,
    GenerationResult,
    ImagePart,
    Message,
    TextPart,
    Usage,
    generate,
)
from engines.echo import EchoEngine
from engines.http import answers, loading, server, sse
from engines.http.client import EngineClient
from engines.http.exits import HOPELESS
from engines.http.server import listening
from tests.support.vllm_server import VllmServer, serving

HI = Message("user", (TextPart("hi"),))
BOX = Box(1.0, 2.5, 30.0, 40.0, 1)
ON_WIRE = {"image": 1, "x1": 1.0, "y1": 2.5, "x2": 30.0, "y2": 40.0}


class Scripted(EchoEngine):
    """Sends the deltas it was given."""

    def __init__(self, *deltas: Delta) -> None:
        super().__init__("glm")
        self._deltas = deltas

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        self.last_request = request
        for delta in self._deltas:
            yield delta
        yield Delta(finish_reason="stop", usage=Usage(1, 1))


def picture(width: int, height: int) -> ImagePart:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, "PNG")
    return ImagePart(buffer.getvalue(), "image/png", "0")


@contextlib.asynccontextmanager
async def client_of(url: str) -> AsyncIterator[EngineClient]:
    client = EngineClient(url, timeout_s=10)
    try:
        await client.start()
        yield client
    finally:
        await client.aclose()


# --- adapters -------------------------------------------------------------------------------------------------------


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with (
        listening(EchoEngine("glm", adapters=("receipts", "Tags"))) as url,
        httpx.AsyncClient(base_url=url, trust_env=False) as http,
    ):
        yield http


def body(model: object) -> dict[str, object]:
    return {"model": model, "messages": [{"role": "user", "content": "hi"}]}


async def test_an_adapter_is_listed_as_a_model_that_names_its_own(http: httpx.AsyncClient) -> None:
    listed = (await http.get("/v1/models")).json()["data"]

    assert [entry["id"] for entry in listed] == [
        "glm-4.6v-flash-echo",
        "glm-4.6v-flash-echo:receipts",
        "glm-4.6v-flash-echo:Tags",
    ]
    assert [entry.get("parent") for entry in listed] == [None, "glm-4.6v-flash-echo", "glm-4.6v-flash-echo"]


@pytest.mark.parametrize(
    ("model", "said", "name"),
    [
        ("glm-4.6v-flash", "[echo glm]", "glm-4.6v-flash-echo"),
        ("anything", "[echo glm]", "glm-4.6v-flash-echo"),
        ("glm-4.6v-flash:receipts", "[echo glm:receipts]", "glm-4.6v-flash-echo:receipts"),
        ("glm-4.6v-flash-echo:TAGS", "[echo glm:Tags]", "glm-4.6v-flash-echo:Tags"),
    ],
)
async def test_the_model_name_chooses_the_adapter_and_every_answer_says_it(
    http: httpx.AsyncClient, model: str, said: str, name: str
) -> None:
    answer = (await http.post("/v1/chat/completions", json=body(model))).json()
    assert answer["choices"][0]["message"]["content"].startswith(said)
    assert answer["model"] == name

    stream = await http.post("/v1/chat/completions", json=body(model) | {"stream": True})
    assert f'"model":"{name}"' in stream.text


@pytest.mark.parametrize("stream", [False, True])
async def test_an_unknown_adapter_is_a_404_before_anything_is_sent(http: httpx.AsyncClient, stream: bool) -> None:
    answer = await http.post("/v1/chat/completions", json=body("glm-4.6v-flash:nope") | {"stream": stream})

    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")
    assert "'glm-4.6v-flash-echo:receipts'" in error["message"]


async def test_the_client_learns_the_adapters_and_asks_for_one_by_name() -> None:
    engine = EchoEngine("glm", adapters=("receipts",))
    async with listening(engine) as url, client_of(url) as client:
        assert (await client.info()).adapters == ("receipts",)

        result = await generate(client, GenerationRequest((HI,), adapter="receipts"))

        assert result.text.startswith("[echo glm:receipts]")
        with pytest.raises(UnknownAdapterError):
            await generate(client, GenerationRequest((HI,), adapter="nope"))


async def test_an_engine_that_came_back_without_the_adapter_is_there_but_has_it_no_more(tmp_path: Path) -> None:
    socket = tmp_path / "e.sock"
    async with client_of_restarted(socket) as client:
        with pytest.raises(UnknownAdapterError) as caught:
            await generate(client, GenerationRequest((HI,), adapter="receipts"))

    assert caught.value.status_code == 404


@contextlib.asynccontextmanager
async def client_of_restarted(socket: Path) -> AsyncIterator[EngineClient]:
    """A client that knows an adapter of an engine in whose place there is one without."""
    client = EngineClient(f"unix://{socket}", timeout_s=10)
    async with listening(EchoEngine("glm", adapters=("receipts",)), uds=socket):
        await client.start()
        await client.info()
    async with listening(EchoEngine("glm"), uds=socket):
        await client.start()
        yield client
    await client.aclose()


@pytest.mark.parametrize("listed", ["receipts", "glm-4.6v-flash:receipts"])
async def test_another_server_is_asked_for_the_name_it_lists_the_adapter_under(listed: str) -> None:
    # Given a vLLM whose LoRA module has a name of its own, or the one that callers of ours use
    echo = EchoEngine("glm", adapters=(listed,))
    await echo.start()
    async with serving(echo, model="glm-4.6v-flash", adapters=(listed,)) as vllm, client_of(vllm.url) as client:
        assert (await client.info()).adapters == ("receipts",)

        await generate(client, GenerationRequest((HI,), adapter="receipts"))

        assert vllm.bodies[-1]["model"] == listed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["glm", "--model", "echo", "--adapter", "receipts"], "NAME=FOLDER_OR_HUB_ID"),
        (["glm", "--model", "echo", "--adapter", "a=x", "--adapter", "A=y"], "two adapters named 'A'"),
        (["owl2_vllm", "--model", "a/b", "--adapter", "a=x"], "engine 'owl2_vllm' takes no adapters"),
        (["glm", "--model", "a/b", "--adapter", "x=/nonexistent"], "adapter 'x': there is no folder at /nonexistent"),
        (["glm", "--model", "a/b", "--adapter", "x=/tmp"], "it has no adapter_config.json"),
    ],
)
def test_an_adapter_that_cannot_be_is_one_clear_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.setattr(loading.importlib.util, "find_spec", lambda _name: object())

    assert server.main(arguments) == HOPELESS

    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_without_peft_the_extra_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading.importlib.util, "find_spec", lambda name: None if name == "peft" else object())

    assert server.main(["glm", "--model", "a/b", "--adapter", "x=c/d"]) == HOPELESS

    assert "pip install 'glowl[adapters]'" in capsys.readouterr().err


# --- boxes ----------------------------------------------------------------------------------------------------------


def test_boxes_are_part_of_a_whole_answer_and_of_the_event_they_came_with() -> None:
    head = answers.CompletionHead("chatcmpl-1", 1, "m")

    whole = answers.to_completion(GenerationResult("a", "", "stop", Usage(), boxes=(BOX,)), head)
    assert orjson.loads(whole)["choices"][0]["message"]["glowl"] == {"boxes": [ON_WIRE]}
    assert b"glowl" not in answers.to_completion(GenerationResult("a", "", "stop", Usage()), head)

    [payload] = sse.EventParser().feed(answers.to_events(Delta(boxes=(BOX,)), head))
    assert answers.from_event(payload) == Delta(boxes=(BOX,))


def test_boxes_go_out_in_hundredths_of_a_pixel() -> None:
    [entry] = json_forms.to_boxes([Box(1 / 3, 2 / 3, 10.004, 10.006, 0)])

    assert entry == {"image": 0, "x1": 0.33, "y1": 0.67, "x2": 10.0, "y2": 10.01}
    assert json_forms.from_boxes([entry]) == (Box(0.33, 0.67, 10.0, 10.01, 0),)
    assert json_forms.from_boxes(None) == ()


async def test_our_own_servers_boxes_reach_the_client_and_its_text_is_left_alone() -> None:
    # Given a model that also wrote a mark in plain characters
    said = "a <|begin_of_box|> b"
    async with listening(Scripted(Delta(text=said), Delta(boxes=(BOX,)))) as url, client_of(url) as client:
        result = await generate(client, GenerationRequest((HI,)))

    assert (result.text, result.boxes) == (said, (BOX,))


async def test_another_servers_marks_are_taken_out_of_its_text_and_its_boxes_are_read() -> None:
    # Given a server that sends marks as text, in its thoughts too, and cuts one in two
    deltas = (
        Delta(reasoning="maybe <|begin_of_box|>[0,0,1,1]<|end_of_box|>"),
        Delta(text="There: <|begin_of"),
        Delta(text="_box|>[[0,0,500,1000]]"),
        Delta(text="<|end_of_box|>, it is <|begin_of_box|>red<|end_of_box|> <|en"),
    )
    message = Message("user", (picture(200, 100), TextPart("where?")))
    vllm = VllmServer(Scripted(*deltas), model="glm")
    await vllm.start()
    async with client_of(vllm.url) as client:
        result = await generate(client, GenerationRequest((message,), enable_thinking=True))
    await vllm.stop()

    assert result.text == "There: [[0,0,500,1000]], it is red <|en"
    assert result.reasoning == "maybe [0,0,1,1]"
    assert result.boxes == (Box(0.0, 0.0, 100.0, 100.0, 0),)

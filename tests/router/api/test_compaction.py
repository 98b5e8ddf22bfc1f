"""``/v1/responses/compact``, ``/v1/responses/input_tokens`` and ``/v1/messages/count_tokens``."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import openai
import pytest
from PIL import Image

from engines.base import EngineUnavailableError, GenerationRequest, Message, TextPart
from engines.echo import EchoEngine
from router.api.compaction import summary_of
from router.api.schemas import CompactionItem
from router.errors import BadRequestError
from tests.support.servers import AppServer

GLM = "glm-4.6v-flash"


def png() -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), "red").save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def turns_of(echo: EchoEngine) -> list[tuple[str, str]]:
    assert echo.last_request is not None
    return [(each.role, each.text) for each in echo.last_request.messages]


PICTURE = {"type": "input_image", "image_url": f"data:image/png;base64,{png()}"}
ASKED = {"role": "user", "content": [PICTURE, {"type": "input_text", "text": "什么颜色？"}]}
SAID = {"role": "assistant", "content": "红色。"}


def test_a_compacted_conversation_goes_on_with_its_pictures_and_a_summary(
    client: openai.OpenAI, echoes: dict[str, EchoEngine]
) -> None:
    compacted = client.responses.compact(model=GLM, input=[ASKED, SAID], instructions="简短。")  # type: ignore[list-item]

    # Then GLM was asked for a summary, in the conversation's language, under everything else
    (system, asked, said, ask) = turns_of(echoes["glm"])
    assert (system, asked[0], said) == (("system", "简短。"), "user", ("assistant", "红色。"))
    assert ask[1].startswith("请总结")
    assert compacted.object == "response.compaction"
    assert [item.type for item in compacted.output] == ["message", "compaction"]
    assert compacted.usage.total_tokens > 0

    # And when the next request begins with it
    output: Any = [item.model_dump(exclude_none=True, warnings=False) for item in compacted.output]
    client.responses.create(model=GLM, input=[*output, {"role": "user", "content": "再说一遍"}])

    first, summary, question = turns_of(echoes["glm"])
    assert first == ("user", "什么颜色？")
    assert summary[0] == "assistant"
    assert summary[1].startswith("[echo glm] 1 picture")
    assert question == ("user", "再说一遍")
    assert echoes["glm"].last_request is not None
    assert len(echoes["glm"].last_request.images) == 1


def test_a_stored_conversation_is_compacted_by_its_id(client: openai.OpenAI, echoes: dict[str, EchoEngine]) -> None:
    first = client.responses.create(model=GLM, input=[ASKED])  # type: ignore[list-item]

    compacted = client.responses.compact(model=GLM, previous_response_id=first.id)

    assert [role for role, _ in turns_of(echoes["glm"])] == ["user", "assistant", "user"]
    assert [item.type for item in compacted.output] == ["message", "compaction"]


@pytest.mark.parametrize("content", ["", "gAAAA", "glowl1.", "glowl1.bm9uZQ==", "glowl1.e30="])
def test_an_item_that_was_made_elsewhere_is_refused_by_name(content: str) -> None:
    item = CompactionItem(type="compaction", encrypted_content=content)
    with pytest.raises(BadRequestError) as refused:
        summary_of(item, "input[0].encrypted_content")
    assert refused.value.param == "input[0].encrypted_content"


def test_nothing_is_compacted_without_a_model(http: httpx.Client) -> None:
    assert http.post("/v1/responses/compact", json={"input": "你好"}).status_code == 400


@pytest.mark.parametrize("empty", [{}, {"input": None}, {"input": []}, {"input": ""}, {"instructions": "Be brief."}])
def test_nothing_is_not_compacted(http: httpx.Client, empty: dict[str, Any]) -> None:
    answers = [http.post(f"/v1/responses/{name}", json={"model": GLM, **empty}) for name in ("compact", "input_tokens")]
    assert [answer.status_code for answer in answers] == [400, 400]
    assert [answer.json()["error"]["param"] for answer in answers] == ["input", "input"]


def test_what_is_counted_is_what_an_answer_then_uses(client: openai.OpenAI, echoes: dict[str, EchoEngine]) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    text: Any = {"format": {"type": "json_schema", "name": "a", "schema": schema}}
    for fields in ({}, {"text": text}, {"instructions": "简短。"}):
        started = echoes["glm"].num_started
        counted = client.responses.input_tokens.count(model=GLM, input=[ASKED], **fields)  # type: ignore[list-item, arg-type]
        assert echoes["glm"].num_started == started  # no model was asked
        answer = client.responses.create(model=GLM, input=[ASKED], **fields)  # type: ignore[call-overload]
        assert counted.input_tokens == answer.usage.input_tokens, fields
        assert counted.object == "response.input_tokens"
        assert counted.model_extra is not None
        assert counted.model_extra["hybrid"]["is_exact"] is True


def test_a_deep_question_is_counted_for_both_engines(http: httpx.Client) -> None:
    body = {"model": "glowl", "input": [ASKED], "hybrid": {"route": "deep"}}
    counted = http.post("/v1/responses/input_tokens", json=body).json()

    assert counted["hybrid"]["engine"] == "owl2"
    assert set(counted["hybrid"]["input_tokens"]) == {"glm", "owl2"}
    assert counted["input_tokens"] == counted["hybrid"]["input_tokens"]["owl2"]


@pytest.mark.parametrize("hangs", [False, True])
def test_an_engine_that_cannot_count_now_leaves_an_estimate(
    http: httpx.Client, echoes: dict[str, EchoEngine], monkeypatch: pytest.MonkeyPatch, hangs: bool
) -> None:
    async def away(_request: Any) -> Any:
        if hangs:
            await asyncio.Event().wait()
        raise EngineUnavailableError("busy")

    monkeypatch.setattr(echoes["glm"], "count", away)
    if hangs:
        monkeypatch.setattr("router.counting._PATIENCE_S", 0.0)
    counted = http.post("/v1/responses/input_tokens", json={"model": GLM, "input": "你好"}).json()

    assert counted["hybrid"]["is_exact"] is False
    assert counted["input_tokens"] > 0


@pytest.fixture
def claude(api: AppServer) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=api.url, api_key="unused", max_retries=0) as client:
        yield client


def test_anthropics_client_counts_what_its_messages_then_use(claude: anthropic.Anthropic) -> None:
    source: Any = {"type": "base64", "media_type": "image/png", "data": png()}
    asked: Any = [
        {"role": "user", "content": [{"type": "image", "source": source}, {"type": "text", "text": "什么？"}]}
    ]

    counted = claude.messages.count_tokens(model=GLM, system="简短。", messages=asked)
    message = claude.messages.create(model=GLM, max_tokens=9, system="简短。", messages=asked)

    assert counted.input_tokens == message.usage.input_tokens


async def test_the_echo_counts_its_prompt_and_a_closed_one_says_that_it_is_away() -> None:
    echo = EchoEngine("glm")
    request = GenerationRequest((Message("user", (TextPart("one two"),)),))
    with pytest.raises(EngineUnavailableError):
        await echo.count(request)
    await echo.start()
    assert (await echo.count(request)).prompt_tokens == 2

"""``/v1/messages`` as the unmodified client of Anthropic uses it: answers, streams, the draft as thinking, refusals."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import Any

import anthropic
import httpx
import pytest
from PIL import Image

from engines.base import GenerationFailedError, Usage
from engines.echo import EchoEngine
from router.api.anthropic.objects import to_events, to_message
from router.api.telling import Step
from router.jobs.job import Job
from router.jobs.results import FinalAnswer
from tests.router.api.test_stream import answer, job_with
from tests.support.servers import AppServer


def png(width: int = 64) -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (width, 48), "red").save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def picture(width: int = 64) -> dict[str, Any]:
    return {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": png(width)}}


def ask(*content: Any) -> list[Any]:
    return [{"role": "user", "content": list(content)}]


HELLO = [{"role": "user", "content": "你好"}]
DEEP = {"hybrid": {"route": "deep", "max_wait_s": 0}}


@pytest.fixture
def claude(api: AppServer) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=api.url, api_key="unused", max_retries=0) as client:
        yield client


def test_a_text_is_answered_with_usage_and_how_it_was_routed(
    claude: anthropic.Anthropic, echoes: dict[str, EchoEngine]
) -> None:
    message = claude.messages.create(model="glm-4.6v-flash", max_tokens=99, system="Be brief.", messages=HELLO)

    assert [block.type for block in message.content] == ["text"]
    assert message.content[0].text == "[echo glm] no pictures, question: 你好"
    assert (message.stop_reason, message.role, message.model) == ("end_turn", "assistant", "glm-4.6v-flash-echo")
    assert (message.usage.input_tokens, message.usage.output_tokens) == (4, 7)
    assert message.id.startswith("msg_")
    assert message._request_id
    assert message.model_extra["hybrid"]["route"] == "fast"
    asked = echoes["glm"].last_request
    assert asked is not None
    assert [(each.role, each.text) for each in asked.messages] == [("system", "Be brief."), ("user", "你好")]
    assert asked.sampling.max_tokens == 99


def test_knobs_reach_the_engine_and_the_limit_of_tokens_is_the_stop_reason(
    claude: anthropic.Anthropic, echoes: dict[str, EchoEngine]
) -> None:
    message = claude.messages.create(
        model="glowl",
        max_tokens=2,
        messages=HELLO,
        stop_sequences=["zebra"],
        extra_body={"temperature": 0.5, "top_p": 0.9, "top_k": 7},
    )

    assert message.stop_reason == "max_tokens"
    asked = echoes["glm"].last_request
    assert asked is not None
    knobs = asked.sampling
    assert (knobs.temperature, knobs.top_p, knobs.top_k, knobs.stop) == (0.5, 0.9, 7, ("zebra",))


@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
def test_the_stop_sequence_that_ended_an_answer_is_named(claude: anthropic.Anthropic, *, is_streamed: bool) -> None:
    asked: dict[str, Any] = {"model": "glowl", "max_tokens": 99, "messages": HELLO, "stop_sequences": ["zebra", "ques"]}

    if is_streamed:
        with claude.messages.stream(**asked) as stream:
            message = stream.get_final_message()
    else:
        message = claude.messages.create(**asked)

    assert message.content[0].text == "[echo glm] no pictures, "
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "ques")


def test_pictures_come_by_data_and_by_file_and_thinking_is_no_part_of_the_conversation(
    claude: anthropic.Anthropic, http: httpx.Client, echoes: dict[str, EchoEngine]
) -> None:
    upload = {"file": ("red.png", base64.b64decode(png(32)), "image/png")}
    file_id = http.post("/v1/files", files=upload, data={"purpose": "vision"}).json()["id"]
    earlier = [{"type": "thinking", "thinking": "hm", "signature": "rs"}, {"type": "text", "text": "Red."}]
    uploaded = {"type": "image", "source": {"type": "file", "file_id": file_id}}

    message = claude.messages.create(
        model="glm-4.6v-flash",
        max_tokens=99,
        messages=[
            *ask(picture(), {"type": "text", "text": "什么？"}),
            {"role": "assistant", "content": earlier},
            *ask(uploaded, {"type": "text", "text": "这个呢？"}),
        ],
    )

    said = "[echo glm] 2 pictures (64x48 png, 32x48 png), question: 这个呢？"
    assert message.content[0].text == said
    asked = echoes["glm"].last_request
    assert asked is not None
    assert asked.messages[1].text == "Red."


def test_a_stream_has_every_event_in_its_place(claude: anthropic.Anthropic) -> None:
    with claude.messages.stream(model="glowl", max_tokens=99, messages=HELLO) as stream:
        kinds = [event.type for event in stream]
        message = stream.get_final_message()

    raw = [kind for kind in kinds if kind != "text"]  # the client's own
    assert raw[:2] == ["message_start", "content_block_start"]
    assert set(raw[2:-3]) == {"content_block_delta"}
    assert raw[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert message.content[0].text == "[echo glm] no pictures, question: 你好"
    assert (message.usage.input_tokens, message.usage.output_tokens) == (2, 7)
    assert message.stop_reason == "end_turn"


@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
def test_a_deep_question_past_its_wait_is_the_draft_as_text(claude: anthropic.Anthropic, *, is_streamed: bool) -> None:
    asked: dict[str, Any] = {"model": "glowl", "max_tokens": 99, "messages": HELLO, "extra_body": DEEP}
    asked["thinking"] = {"type": "adaptive"}

    if is_streamed:
        with claude.messages.stream(**asked) as stream:
            message = stream.get_final_message()
    else:
        message = claude.messages.create(**asked)

    (text,) = message.content
    assert text.text == "[echo glm] no pictures, question: 你好"  # type: ignore[union-attr]


def steps_of(final: FinalAnswer) -> list[Step]:
    said = [Step("text", piece) for piece in (final.text[:3], final.text[3:]) if piece]
    return [Step("draft", "ow"), Step("ping"), Step("draft", "l"), *said, Step("end", answer=final)]


async def events_of(job: Job) -> list[dict[str, Any]]:
    telling: Any = SimpleNamespace(job=job, model="m")

    async def steps() -> AsyncIterator[Step]:
        for step in steps_of(job.final):  # type: ignore[arg-type]
            yield step

    return [event async for event in to_events(telling, steps())]


async def test_a_draft_is_signed_thinking_before_the_text_where_that_was_asked_for() -> None:
    thought = await events_of(job_with(answer("an owl"), draft_as="reasoning"))
    plain = await events_of(job_with(answer("an owl"), draft_as="none"))

    said = [(each["index"], each["delta"]) for each in thought if each["type"] == "content_block_delta"]
    assert said == [
        (0, {"type": "thinking_delta", "thinking": "ow"}),
        (0, {"type": "thinking_delta", "thinking": "l"}),
        (0, {"type": "signature_delta", "signature": "rs_1_0"}),
        (1, {"type": "text_delta", "text": "an "}),
        (1, {"type": "text_delta", "text": "owl"}),
    ]
    opened = [each["content_block"]["type"] for each in thought if each["type"] == "content_block_start"]
    closed = [each["index"] for each in thought if each["type"] == "content_block_stop"]
    assert (opened, closed) == (["thinking", "text"], [0, 1])
    assert [each["content_block"]["type"] for each in plain if each["type"] == "content_block_start"] == ["text"]
    assert {"type": "ping"} in plain


async def test_an_answer_of_no_words_is_an_empty_text_since_clients_read_the_first_block() -> None:
    events = await events_of(job_with(answer(""), draft_as="none"))
    kinds = [each["type"] for each in events]
    assert kinds[2:] == ["content_block_start", "content_block_stop", "message_delta", "message_stop"]


@pytest.mark.parametrize(("draft_as", "kinds"), [("reasoning", ["thinking", "text"]), ("none", ["text"])])
def test_a_whole_message_has_the_draft_where_a_stream_has(draft_as: Any, kinds: list[str]) -> None:
    final = answer("an owl", finish_reason="length", usage=Usage(prompt_tokens=9, cached_tokens=4, completion_tokens=2))
    message = to_message(job_with(final, draft_as=draft_as), final)

    assert [block["type"] for block in message["content"]] == kinds
    assert message["stop_reason"] == "max_tokens"
    assert message["usage"] == {
        "input_tokens": 5,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 4,
        "output_tokens": 2,
    }


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"messages": []}, anthropic.BadRequestError, "messages"),
        ({"model": "claude"}, anthropic.NotFoundError, "'claude'"),
        ({"messages": ask({"type": "document", "source": {}})}, anthropic.BadRequestError, "'document'"),
        ({"messages": ask({**picture(), "source": {"type": "tape"}})}, anthropic.BadRequestError, "'tape'"),
        ({"extra_body": {"output_format": {"type": "json_schema"}}}, anthropic.BadRequestError, "output_config"),
        ({"extra_body": {"n": 2}}, anthropic.BadRequestError, "'n'"),
        ({"stop_sequences": list("abcde")}, anthropic.BadRequestError, "'stop_sequences'"),
        ({"extra_body": {"hybrid": {"rout": "deep"}}}, anthropic.BadRequestError, "hybrid.rout"),
    ],
    ids=["nothing", "model", "block", "source", "format", "n", "stops", "hybrid"],
)
def test_a_refusal_is_one_that_anthropics_client_understands(
    claude: anthropic.Anthropic, change: dict[str, Any], error: type[anthropic.APIStatusError], says: str
) -> None:
    with pytest.raises(error) as refused:
        claude.messages.create(**{"model": "glowl", "max_tokens": 9, "messages": HELLO, **change})

    body: Any = refused.value.body
    kind = {400: "invalid_request_error", 404: "not_found_error"}[refused.value.status_code]
    assert (body["type"], body["error"]["type"]) == ("error", kind)
    assert says in body["error"]["message"]
    assert body["request_id"] == refused.value.response.headers["request-id"]


def test_a_picture_that_is_none_is_refused_with_the_field_it_came_in(claude: anthropic.Anthropic) -> None:
    broken = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "bm9uZQ=="}}

    with pytest.raises(anthropic.BadRequestError) as refused:
        claude.messages.create(model="glowl", max_tokens=9, system="Brief.", messages=ask(picture(), broken))

    body: Any = refused.value.body
    assert body["error"]["param"] == "messages[0].content[1].source.data"


def test_an_address_in_place_of_data_is_not_fetched(claude: anthropic.Anthropic) -> None:
    sent = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "http://127.0.0.1/a.png"}}

    with pytest.raises(anthropic.BadRequestError, match="'type': 'url'"):
        claude.messages.create(model="glowl", max_tokens=9, messages=ask(sent))


def test_who_has_no_key_or_asks_elsewhere_below_messages_is_refused_in_the_same_shape(keyed_api: AppServer) -> None:
    with httpx.Client(base_url=keyed_api.url, trust_env=False, timeout=60) as http:
        body = {"model": "glowl", "max_tokens": 9, "messages": HELLO}
        unknown = http.post("/v1/messages", json=body, headers={"x-api-key": "wrong"})
        assert (unknown.status_code, unknown.json()["error"]["type"]) == (401, "authentication_error")
        assert http.post("/v1/messages", json=body, headers={"x-api-key": "alice"}).status_code == 200
        elsewhere = http.get("/v1/messages/batches", headers={"x-api-key": "alice"})
        assert (elsewhere.status_code, elsewhere.json()["error"]["type"]) == (404, "not_found_error")


def test_an_engine_that_fails_in_mid_stream_is_an_error_event(
    http: httpx.Client, echoes: dict[str, EchoEngine]
) -> None:
    echoes["glm"].fail_with = GenerationFailedError("broken")
    echoes["glm"].fail_after_deltas = 3

    body = {"model": "glm-4.6v-flash", "max_tokens": 9, "messages": HELLO, "stream": True}
    answer = http.post("/v1/messages", json=body)

    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
    assert events[0]["type"] == "message_start"
    assert (events[-1]["type"], events[-1]["error"]["type"]) == ("error", "api_error")
    assert events[-1]["request_id"] == answer.headers["request-id"]


def test_a_schema_holds_the_answer(claude: anthropic.Anthropic) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}

    message = claude.messages.create(
        model="glowl",
        max_tokens=99,
        messages=HELLO,
        output_config={"format": {"type": "json_schema", "schema": schema}},
    )

    assert json.loads(message.content[0].text) == {"n": 0}

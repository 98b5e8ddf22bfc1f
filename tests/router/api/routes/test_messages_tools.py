"""Functions over ``/v1/messages``, through the unmodified client of Anthropic: called, streamed, answered, refused."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import pytest

from engines.base import ImagePart
from engines.echo import EchoEngine
from engines.tools import ToolCall
from router.api.anthropic.objects import to_message
from tests.router.api.routes.test_messages import picture, png
from tests.router.api.test_stream import answer, job_with
from tests.support.servers import AppServer

PARIS = {"city": "Paris", "days": 2}
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
WEATHER: Any = {"name": "weather", "description": "of a city", "input_schema": SCHEMA, "strict": True}
CLOCK: Any = {"type": "custom", "name": "clock", "input_schema": {"type": "object"}}
TOOLS = [WEATHER, CLOCK]
TWO = f"say: I look.\ncall: weather {json.dumps(PARIS)}\ncall: clock"


@pytest.fixture
def claude(api: AppServer) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=api.url, api_key="unused", max_retries=0) as client:
        yield client


def asked(*content: Any) -> Any:
    return [{"role": "user", "content": list(content) if len(content) > 1 else content[0]}]


def called(message: anthropic.types.Message) -> list[tuple[str, Any]]:
    return [(block.name, block.input) for block in message.content if block.type == "tool_use"]


def result(id_: str, content: Any = (), **fields: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": id_, "content": content, **fields}


def test_a_message_calls_and_goes_on_with_the_results(
    claude: anthropic.Anthropic, echoes: dict[str, EchoEngine]
) -> None:
    message = claude.messages.create(model="glowl", max_tokens=99, messages=asked(TWO), tools=TOOLS)

    assert message.stop_reason == "tool_use"
    assert [block.type for block in message.content] == ["text", "tool_use", "tool_use"]
    assert message.content[0].text == "I look."
    assert called(message) == [("weather", PARIS), ("clock", {})]
    ids = [block.id for block in message.content[1:]]
    assert len(set(ids)) == 2
    # Results in another order, one with a picture, one that failed; the question goes on behind them.
    seen: Any = [{"type": "text", "text": "sunny"}, picture(32)]
    turn: Any = [result(ids[1], "no battery", is_error=True), result(ids[0], seen), {"type": "text", "text": "So?"}]
    turns = [*asked(TWO), {"role": "assistant", "content": message.content}, {"role": "user", "content": turn}]
    claude.messages.create(model="glowl", max_tokens=99, messages=turns, tools=TOOLS)
    last = echoes["glm"].last_request
    assert last is not None
    assert [(each.role, each.text) for each in last.messages] == [
        ("user", TWO),
        ("assistant", "I look."),
        ("tool", "sunny"),
        ("tool", "Error: no battery"),
        ("user", "So?"),
    ]
    assert [call.id for call in last.messages[1].tool_calls] == ids
    assert [type(part) for part in last.messages[2].parts][-1] is ImagePart


def test_results_alone_are_answered_and_may_be_empty_or_an_uploaded_picture(
    claude: anthropic.Anthropic, http: httpx.Client
) -> None:
    upload = {"file": ("red.png", base64.b64decode(png(32)), "image/png")}
    file_id = http.post("/v1/files", files=upload, data={"purpose": "vision"}).json()["id"]
    calls: Any = [{"type": "tool_use", "id": f"toolu_{n}", "name": "clock", "input": {}} for n in (1, 2)]
    file: Any = {"type": "image", "source": {"type": "file", "file_id": file_id}}
    results: Any = [result("toolu_1"), result("toolu_2", [file, {"type": "text", "text": "seen"}])]
    turns: Any = [*asked("?"), {"role": "assistant", "content": calls}, {"role": "user", "content": results}]

    message = claude.messages.create(model="glowl", max_tokens=99, messages=turns, tools=TOOLS)

    assert message.content[0].text == "[echo glm] results:  | seen"
    assert message.stop_reason == "end_turn"


def test_a_stream_has_a_block_for_every_call(claude: anthropic.Anthropic) -> None:
    with claude.messages.stream(model="glowl", max_tokens=99, messages=asked(TWO), tools=TOOLS) as stream:
        events: list[Any] = list(stream)
        message = stream.get_final_message()

    assert called(message) == [("weather", PARIS), ("clock", {})]
    assert (message.stop_reason, message.content[0].type) == ("tool_use", "text")
    begun = [(event.index, event.content_block.type) for event in events if event.type == "content_block_start"]
    assert begun == [(0, "text"), (1, "tool_use"), (2, "tool_use")]
    assert [event.index for event in events if event.type == "content_block_stop"] == [0, 1, 2]
    pieces = [event for event in events if event.type == "input_json"]
    assert len(pieces) > 4, "arguments come in pieces"


def test_a_stream_of_a_call_alone_has_no_text(claude: anthropic.Anthropic) -> None:
    choice: Any = {"type": "tool", "name": "clock"}
    asking: Any = {"model": "glowl", "max_tokens": 99, "messages": asked("?"), "tools": TOOLS, "tool_choice": choice}

    with claude.messages.stream(**asking) as stream:
        streamed = stream.get_final_message()
    whole = claude.messages.create(**asking)

    assert [block.type for block in streamed.content] == [block.type for block in whole.content] == ["tool_use"]


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        (None, ["weather", "clock"]),
        ({"type": "auto"}, ["weather", "clock"]),
        ({"type": "auto", "disable_parallel_tool_use": True}, ["weather"]),
        ({"type": "any"}, ["weather", "clock"]),
        ({"type": "any", "disable_parallel_tool_use": True}, ["weather"]),
        ({"type": "tool", "name": "clock"}, ["clock"]),
        ({"type": "none"}, []),
    ],
    ids=["nothing", "auto", "auto, one", "any", "any, one", "tool", "none"],
)
def test_what_may_be_called_is_the_callers_choice(claude: anthropic.Anthropic, choice: Any, names: list[str]) -> None:
    fields = {} if choice is None else {"tool_choice": choice}

    message = claude.messages.create(model="glowl", max_tokens=99, messages=asked(TWO), tools=TOOLS, **fields)

    assert [name for name, _ in called(message)] == names
    is_forced = choice is not None and choice["type"] in ("any", "tool")
    assert (message.content[0].type == "text") is not is_forced


def test_examples_are_read_with_the_description(claude: anthropic.Anthropic, echoes: dict[str, EchoEngine]) -> None:
    tools: Any = [{**WEATHER, "input_examples": [PARIS], "cache_control": {"type": "ephemeral"}}]

    claude.messages.create(model="glowl", max_tokens=99, messages=asked("?"), tools=tools)

    last = echoes["glm"].last_request
    assert last is not None
    assert last.sampling.tool_use is not None
    (tool,) = last.sampling.tool_use.tools
    assert tool.description == f"of a city\nExample: {json.dumps(PARIS)}"
    assert tool.is_strict


def test_functions_count_as_the_engine_reads_them(claude: anthropic.Anthropic) -> None:
    counted = claude.messages.count_tokens(model="glowl", messages=asked("Say hello."), tools=TOOLS)

    assert counted.input_tokens == 2
    assert counted.model_extra["hybrid"]["rule"] == "tools"


def test_a_call_that_the_limit_cut_is_left_out_of_a_whole_message() -> None:
    whole, cut = ToolCall("call_1", "clock", "{}"), ToolCall("call_2", "weather", '{"city": "Pa')
    final = answer("", finish_reason="length", tool_calls=(whole, cut))

    message = to_message(job_with(final, draft_as="none"), final)

    assert message["content"] == [{"type": "tool_use", "id": "call_1", "name": "clock", "input": {}}]
    assert message["stop_reason"] == "max_tokens"


CALL = {"type": "tool_use", "id": "toolu_1", "name": "clock", "input": {}}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0].type"),
        ({"tools": [{"name": "clock"}]}, "tools[0].input_schema"),
        ({"tools": [CLOCK, {**CLOCK, "name": "two words"}]}, "tools[1].name"),
        ({"tools": [{**CLOCK, "input_schema": {"type": "array"}}]}, "tools[0].input_schema"),
        ({"tools": [{**WEATHER, "input_schema": {**SCHEMA, "not": {}}}]}, "tools[0].input_schema"),
        ({"tools": [{**CLOCK, "allowed_callers": ["code_execution_20260120"]}]}, "tools[0].allowed_callers"),
        ({"tool_choice": {"type": "required"}}, "tool_choice.type"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"tool_choice": {"type": "tool", "name": "other"}}, "tool_choice"),
        ({"tools": [], "tool_choice": {"type": "any"}}, "tool_choice"),
        ({"extra_body": {"parallel_tool_calls": False}}, "parallel_tool_calls"),
        ({"model": "mplug-owl2"}, "tools"),
        ({"messages": asked({"type": "text", "text": "?"}, CALL)}, "messages[0].content[1]"),
        ({"messages": [*asked("?"), {"role": "assistant", "content": [result("a", "b")]}]}, "messages[1].content[0]"),
        ({"messages": asked(result("toolu_9", "b"), {"type": "text", "text": "?"})}, "messages"),
        ({"messages": [*asked("?"), {"role": "assistant", "content": [CALL]}, *asked("So?")]}, "messages"),
        ({"messages": asked(result("a", [{"type": "document"}]), CALL)}, "messages[0].content[0].content[0].type"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_called_is_refused_by_its_own_name(
    claude: anthropic.Anthropic, change: dict[str, Any], param: str
) -> None:
    asking: dict[str, Any] = {"model": "glowl", "max_tokens": 9, "messages": asked("?"), "tools": TOOLS}

    with pytest.raises(anthropic.BadRequestError) as refused:
        claude.messages.create(**{**asking, **change})

    error: Any = refused.value.body["error"]
    assert error["param"] == param
    assert ".function" not in error["message"]

"""Functions through the unmodified openai client: called, streamed, answered, chained; refused where none can be."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest

from engines.base import GenerationFailedError, ImagePart
from engines.echo import EchoEngine
from tests.support.pictures import data_url, png

PARIS = {"city": "Paris", "days": 2}
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
WEATHER = {"name": "weather", "description": "of a city", "parameters": SCHEMA, "strict": True}
CHAT: Any = [{"type": "function", "function": WEATHER}, {"type": "function", "function": {"name": "clock"}}]
FLAT: Any = [{"type": "function", **WEATHER}, {"type": "function", "name": "clock"}]
ONE = f"call: weather {json.dumps(PARIS)}"
TWO = f"say: I look.\n{ONE}\ncall: clock"


def asked(question: str) -> Any:
    return [{"role": "user", "content": question}]


def called(calls: Any) -> list[tuple[str, Any]]:
    return [(call.name, json.loads(call.arguments)) for call in calls]


def test_a_chat_calls_and_goes_on_with_the_results(client: openai.OpenAI, echoes: dict[str, EchoEngine]) -> None:
    completion = client.chat.completions.create(model="glowl", messages=asked(TWO), tools=CHAT)

    choice = completion.choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "I look.")
    calls = choice.message.tool_calls or []
    assert called([call.function for call in calls]) == [("weather", PARIS), ("clock", {})]  # type: ignore[union-attr]
    results = [{"role": "tool", "tool_call_id": call.id, "content": f"{call.function.name} says"} for call in calls]  # type: ignore[union-attr]
    # The results come the other way round: models match them by their order, so they are put right.
    turns: Any = [*asked(TWO), choice.message.model_dump(exclude_none=True), *reversed(results)]
    answer = client.chat.completions.create(model="glowl", messages=turns, tools=CHAT)
    assert answer.choices[0].message.content == "[echo glm] results: weather says | clock says"
    assert answer.choices[0].finish_reason == "stop"
    last = echoes["glm"].last_request
    assert last is not None
    assert [message.role for message in last.messages] == ["user", "assistant", "tool", "tool"]
    assert [call.id for call in last.messages[1].tool_calls] == [call.id for call in calls]


def test_a_chat_stream_tells_calls_as_they_are_written(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="glowl", messages=asked(TWO), tools=CHAT) as stream:
        deltas = [event for event in stream if event.type == "tool_calls.function.arguments.delta"]
        message = stream.get_final_completion().choices[0]

    assert (message.finish_reason, message.message.content) == ("tool_calls", "I look.")
    calls = message.message.tool_calls or []
    assert called([call.function for call in calls]) == [("weather", PARIS), ("clock", {})]
    assert len(deltas) > 4, "arguments come in pieces"
    assert len({call.id for call in calls}) == 2


def test_a_response_calls_is_read_again_and_goes_on(client: openai.OpenAI, echoes: dict[str, EchoEngine]) -> None:
    response = client.responses.create(model="glowl", input=TWO, tools=FLAT, tool_choice="auto")

    assert (response.status, [item.type for item in response.output]) == (
        "completed",
        ["message", "function_call", "function_call"],
    )
    calls: Any = response.output[1:]
    assert called(calls) == [("weather", PARIS), ("clock", {})]
    assert client.responses.retrieve(response.id).output == response.output
    assert [tool.name for tool in response.tools] == ["weather", "clock"]  # type: ignore[union-attr]
    assert (response.tool_choice, response.parallel_tool_calls) == ("auto", True)
    outputs: Any = [
        {"type": "function_call_output", "call_id": call.call_id, "output": f"{call.name} says"}
        for call in reversed(calls)
    ]
    chained = client.responses.create(
        model="glowl", input=outputs, tools=FLAT, previous_response_id=response.id, instructions="Be brief."
    )
    assert chained.output_text == "[echo glm] results: weather says | clock says"
    sent: Any = [{"role": "user", "content": TWO}, *response.output, *outputs]
    assert client.responses.create(model="glowl", input=sent, tools=FLAT).output_text == chained.output_text
    named: Any = [{"role": "user", "content": TWO}, *({"type": "item_reference", "id": item.id} for item in calls)]
    again = client.responses.create(model="glowl", input=[*named, *outputs], tools=FLAT)
    assert again.output_text == chained.output_text
    listed = client.responses.input_items.list(chained.id, order="asc").data
    assert [item.type for item in listed] == [
        *["message", "message", "message", "function_call", "function_call"],
        *["function_call_output", "function_call_output"],
    ]
    last = echoes["glm"].last_request
    assert last is not None
    assert [message.text for message in last.messages if message.role == "tool"] == ["weather says", "clock says"]


def test_a_response_stream_has_an_item_for_every_call_and_can_be_read_again(client: openai.OpenAI) -> None:
    with client.responses.stream(model="glowl", input=TWO, tools=FLAT) as stream:
        events: list[Any] = list(stream)
        final = stream.get_final_response()

    assert called(final.output[1:]) == [("weather", PARIS), ("clock", {})]
    of_calls = [event for event in events if "function_call" in event.type]
    done = [event for event in of_calls if event.type.endswith(".done")]
    assert [(event.output_index, event.name) for event in done] == [(1, "weather"), (2, "clock")]
    for item in final.output[1:]:
        pieces = [event.delta for event in of_calls if event.item_id == item.id and event.type.endswith(".delta")]
        assert "".join(pieces) == item.arguments  # type: ignore[union-attr]
        assert len(pieces) > 1 or item.arguments == "{}"  # type: ignore[union-attr]
    added = [event.item.id for event in events if event.type == "response.output_item.added"]
    assert added == [item.id for item in final.output]
    again: list[Any] = list(client.responses.retrieve(final.id, stream=True))
    numbers = [(event.type, event.sequence_number) for event in events if not event.type.endswith("in_progress")]
    assert [(event.type, event.sequence_number) for event in again if not event.type.endswith("in_progress")] == numbers
    rest: list[Any] = list(client.responses.retrieve(final.id, stream=True, starting_after=again[-4].sequence_number))
    assert [event.sequence_number for event in rest] == [event.sequence_number for event in again[-3:]]


@pytest.mark.parametrize(
    ("choice", "fields", "names"),
    [
        ("auto", {}, ["weather", "clock"]),
        ("required", {}, ["weather", "clock"]),
        ("required", {"parallel_tool_calls": False}, ["weather"]),
        ({"type": "function", "name": "clock"}, {}, ["clock"]),
        ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "clock"}]}, {}, ["clock"]),
        ("none", {}, []),
    ],
)
def test_what_may_be_called_is_the_callers_choice(
    client: openai.OpenAI, choice: Any, fields: dict[str, Any], names: list[str]
) -> None:
    response = client.responses.create(model="glowl", input=TWO, tools=FLAT, tool_choice=choice, **fields)
    in_chat = choice
    if isinstance(choice, dict) and choice["type"] == "function":
        in_chat = {"type": "function", "function": {"name": "clock"}}
    elif isinstance(choice, dict):
        allowed = {"mode": "auto", "tools": [{"type": "function", "function": {"name": "clock"}}]}
        in_chat = {"type": "allowed_tools", "allowed_tools": allowed}
    completion = client.chat.completions.create(
        model="glowl", messages=asked(TWO), tools=CHAT, tool_choice=in_chat, **fields
    )

    assert [item.name for item in response.output if item.type == "function_call"] == names
    calls = completion.choices[0].message.tool_calls or []
    assert [call.function.name for call in calls] == names  # type: ignore[union-attr]
    assert completion.choices[0].finish_reason == ("tool_calls" if names else "stop")
    is_echoed: Any = response.tool_choice
    assert (is_echoed if isinstance(is_echoed, str) else is_echoed.model_dump(exclude_none=True)) == choice


def test_a_call_that_must_be_made_is_made_without_words(client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(
        model="glowl", messages=asked("What now?"), tools=CHAT, tool_choice="required"
    )

    message = completion.choices[0].message
    assert message.content is None
    (call,) = message.tool_calls or []
    assert called([call.function]) == [("weather", {"city": "echo", "days": 1})]  # type: ignore[union-attr]


def test_a_question_that_would_go_deep_stays_fast_and_says_why(client: openai.OpenAI, http: httpx.Client) -> None:
    question = f"What colour is the owl?\n{ONE}"
    body = {"model": "glowl", "messages": asked(question), "tools": CHAT}

    plain = http.post("/v1/route", json={"model": "glowl", "messages": asked(question)}).json()
    routed = http.post("/v1/route", json=body).json()
    answer = http.post("/v1/chat/completions", json=body)

    assert plain["route"] == "deep"
    assert (routed["route"], routed["engine"], routed["rule"]) == ("fast", "glm", "tools")
    assert plain["rule"] in routed["reasons"][0]["text"]
    assert (answer.headers["x-glowl-route"], answer.headers["x-glowl-rule"]) == ("fast", "tools")
    hybrid = answer.json()["hybrid"]
    assert (hybrid["route"], hybrid["rule"], hybrid["degraded"]) == ("fast", "tools", [])
    assert plain["rule"] in hybrid["reasons"][0]["text"]
    deep = http.post("/v1/chat/completions", json={**body, "hybrid": {"route": "deep"}}).json()["hybrid"]
    assert (deep["rule"], len(deep["degraded"])) == ("tools", 1)
    # Nor does Owl2 read a conversation that holds calls, although none may be called now.
    call = answer.json()["choices"][0]["message"]
    turns = [*asked(question), call, {"role": "tool", "tool_call_id": call["tool_calls"][0]["id"], "content": "warm"}]
    later = http.post("/v1/route", json={"model": "glowl", "messages": [*turns, *asked("What colour is the owl?")]})
    assert later.json()["rule"] == "tools"


def test_a_function_may_return_a_picture(client: openai.OpenAI, echoes: dict[str, EchoEngine]) -> None:
    call: Any = {"type": "function_call", "call_id": "call_1", "name": "clock", "arguments": "{}"}
    shown = [
        {"type": "input_image", "image_url": data_url(png("red")), "detail": "auto"},
        {"type": "input_text", "text": "this"},
    ]
    output: Any = {"type": "function_call_output", "call_id": "call_1", "output": shown}

    response = client.responses.create(model="glowl", input=[*asked("看看"), call, output], tools=FLAT)

    assert response.output_text == "[echo glm] results: this"
    last = echoes["glm"].last_request
    assert last is not None
    assert isinstance(last.messages[-1].parts[0], ImagePart)


def test_functions_are_never_answered_from_the_cache(client: openai.OpenAI, http: httpx.Client) -> None:
    bodies = [{"model": "glowl", "messages": asked(ONE), "tools": CHAT, "store": True} for _ in range(2)]

    answers = [http.post("/v1/chat/completions", json=body).json() for body in bodies]

    assert all("cache" not in answer["hybrid"] for answer in answers)
    first, second = (answer["choices"][0]["message"]["tool_calls"][0]["id"] for answer in answers)
    assert first != second


def test_a_call_that_the_limit_cuts_says_so(client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(model="glowl", messages=asked(ONE), tools=CHAT, max_tokens=3)
    response = client.responses.create(model="glowl", input=ONE, tools=FLAT, max_output_tokens=3)

    assert completion.choices[0].finish_reason == "length"
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")  # type: ignore[union-attr]
    (item,) = response.output
    assert (item.type, item.status) == ("function_call", "incomplete")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": [CHAT[1], CHAT[1]]}, "tools"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "string"}}}]},
            "tools[0].function.parameters",
        ),
        (
            {
                "tools": [
                    {
                        "type": "function",
                        "function": {"name": "f", "strict": True, "parameters": {"type": "object", "not": {}}},
                    }
                ]
            },
            "tools[0].function.parameters",
        ),
        ({"tools": CHAT, "tool_choice": "any"}, "tool_choice"),
        ({"tools": CHAT, "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
        ({"tools": CHAT, "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": CHAT, "response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": CHAT, "model": "mplug-owl2"}, "tools"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"messages": [{"role": "tool", "tool_call_id": "call_9", "content": "x"}]}, "messages"),
        ({"messages": [*asked("hi"), {"role": "tool", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": "你好", "tool_calls": []}]}, None),
    ],
)
def test_what_cannot_be_offered_is_refused_by_name_in_both_languages(
    http: httpx.Client, fields: dict[str, Any], param: str | None
) -> None:
    body = {"model": "glowl", "messages": asked("你好"), **fields}

    refused = http.post("/v1/chat/completions", json=body)
    if param is None:
        assert refused.status_code == 200
        return
    chinese = http.post("/v1/chat/completions", json=body, headers={"accept-language": "zh"}).json()["error"]

    error = refused.json()["error"]
    assert (refused.status_code, error["param"]) == (400, param)
    assert chinese["message"] != error["message"]


def test_an_unanswered_call_is_refused(http: httpx.Client) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
    turns = [*asked("hi"), {"role": "assistant", "tool_calls": [call]}]

    for more in ([], asked("and now?")):
        refused = http.post("/v1/chat/completions", json={"model": "glowl", "messages": [*turns, *more]})
        assert refused.status_code == 400
        assert "call_1" in refused.json()["error"]["message"]


def test_a_broken_call_in_a_stream_is_an_error_and_no_answer(
    client: openai.OpenAI, echoes: dict[str, EchoEngine]
) -> None:
    echoes["glm"].fail_with, echoes["glm"].fail_after_deltas = GenerationFailedError("broken"), 3
    stream = client.chat.completions.create(model="glowl", messages=asked(ONE), tools=CHAT, stream=True)

    with pytest.raises(openai.APIError):
        list(stream)

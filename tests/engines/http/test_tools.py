"""Functions on the wire between engines: asked for as any server understands it, and calls read with care."""

from __future__ import annotations

import orjson
import pytest

from engines.base import GenerationFailedError, GenerationRequest, Message, SamplingParams, TextPart, generate
from engines.echo import EchoEngine
from engines.http import answers, requests
from engines.http.client import EngineClient
from engines.http.reading import NOTHING, AnswerReader
from engines.http.server import listening
from engines.http.sse import to_event
from engines.tools import GrowingCalls, Tool, ToolCall, ToolUse

CITY = '{"type":"object","properties":{"city":{"type":"string"}},"required":["city"],"additionalProperties":false}'
TOOLS = (Tool("weather", "of a city", CITY, is_strict=True), Tool("clock"))
PARIS, ROME = '{"city": "Paris"}', '{"city": "Rome"}'


def asking(text: str = "hi", **fields: object) -> GenerationRequest:
    use = ToolUse(TOOLS, **fields)
    return GenerationRequest((Message("user", (TextPart(text),)),), SamplingParams(max_tokens=256, tool_use=use))


def call(index: int | None = 0, id_: str | None = None, name: str | None = None, arguments: object = None) -> dict:
    piece = {"index": index, "id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}
    return {key: value for key, value in piece.items() if value is not None}


async def read(
    *deltas: dict, end: str = "tool_calls", is_foreign: bool = True, **fields: object
) -> tuple[str, list[tuple[str, str]], str | None]:
    """Read an answer piece by piece; returns its text, its calls and its end."""
    reader = AnswerReader(asking(**fields), max_chars=10_000, is_foreign=is_foreign, url="http://engine")
    text, calls = "", GrowingCalls()
    events = [to_event({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}) for delta in deltas]
    for event in [*events, to_event({"choices": [{"index": 0, "delta": {}, "finish_reason": end}]})]:
        _, failure = reader.feed(event)
        if failure is not None:
            raise failure
        if (shown := reader.take()) is not NOTHING:
            text += shown.text
            for piece in shown.tool_calls:
                calls.add(piece)
    last = await reader.finish()
    for piece in last.tool_calls:
        calls.add(piece)
    ids = [each.id for each in calls.whole()]
    assert all(ids), "every call has an id"
    assert len(set(ids)) == len(ids), "and no two have the same"
    return text + last.text, [(each.name, each.arguments) for each in calls.whole()], last.finish_reason


SPLIT = [call(0, "a", "weather", ""), call(0, arguments='{"city": '), call(0, arguments='"Paris"}')]


@pytest.mark.parametrize(
    ("pieces", "calls"),
    [
        (SPLIT, [("weather", PARIS)]),
        ([call(0, "a", "weather", {"city": "Paris"})], [("weather", '{"city":"Paris"}')]),
        # No id, no index, no arguments; an index that does not count; one id twice.
        ([call(None, None, "weather", PARIS), call(None, None, "clock")], [("weather", PARIS), ("clock", "{}")]),
        ([call(0, "a", "weather", PARIS), call(0, "b", "weather", ROME)], [("weather", PARIS), ("weather", ROME)]),
        ([call(0, "a", "clock", "{}"), call(1, "", "weather", ROME)], [("clock", "{}"), ("weather", ROME)]),
        # The name in every piece, and in two.
        ([call(0, "a", "weather", PARIS[:4]), call(0, "a", "weather", PARIS[4:])], [("weather", PARIS)]),
        ([call(0, "a", "wea"), call(0, None, "ther"), call(0, arguments=PARIS)], [("weather", PARIS)]),
        # Both begun before either has arguments, and arguments in turns: told one call after the other.
        (
            [
                call(0, "a", "weather"),
                call(1, "b", "weather"),
                call(0, arguments=PARIS[:4]),
                call(1, arguments=ROME[:3]),
                call(0, arguments=PARIS[4:]),
                call(1, arguments=ROME[3:]),
            ],
            [("weather", PARIS), ("weather", ROME)],
        ),
    ],
)
@pytest.mark.parametrize("end", ["tool_calls", "stop", "function_call"])
async def test_calls_are_put_together_however_a_server_cuts_them(pieces, calls, end):
    answer = await read({"content": "let me see"}, *({"tool_calls": [piece]} for piece in pieces), end=end)

    assert answer == ("let me see", calls, "tool_calls")
    # And as one piece, with text behind it, which is no part of the answer.
    assert await read({"content": "let me see", "tool_calls": pieces}, {"content": "!"}, end=end) == answer


MARKED = (
    'I look.\n<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Pa"ris\n</arg_value>\n</tool_call>\n'
    "<tool_call>clock\n</tool_call>"
)


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
async def test_calls_in_glms_own_marks_are_read_out_of_the_text(size):
    pieces = [{"content": MARKED[start : start + size]} for start in range(0, len(MARKED), size)]

    text, calls, end = await read(*pieces, {"content": "<|observation|>"}, end="stop")

    assert (text, end) == ("I look.", "tool_calls")
    assert [name for name, _ in calls] == ["weather", "clock"]
    assert [orjson.loads(arguments) for _, arguments in calls] == [{"city": 'Pa"ris\n'}, {}]


async def test_one_call_is_one_whatever_the_server_sends():
    pieces = ({"tool_calls": [call(0, "a", "weather", PARIS)]}, {"tool_calls": [call(1, "b", "weather", ROME)]})

    assert await read(*pieces, is_parallel=False) == ("", [("weather", PARIS)], "tool_calls")
    text, calls, _ = await read({"content": MARKED}, end="stop", is_parallel=False)
    assert (text, len(calls)) == ("I look.", 1)


async def test_a_call_that_the_limit_cut_is_told_as_far_as_it_came():
    assert await read({"tool_calls": SPLIT[:2]}, end="length") == ("", [("weather", '{"city": ')], "length")
    text, calls, end = await read({"content": MARKED[:64]}, end="length")
    assert (text, calls, end) == ("I look.", [("weather", '{"city": "Pa')], "length")


@pytest.mark.parametrize(
    ("deltas", "end", "fields"),
    [
        ([{"tool_calls": [call(0, "a", "delete_all", "{}")]}], "tool_calls", {}),
        ([{"tool_calls": [call(0, "a", "weather", '{"city": "Pa')]}], "tool_calls", {}),
        ([{"tool_calls": [call(0, "a", "weather", '["Paris"]')]}], "tool_calls", {}),
        ([{"tool_calls": [call(0, "a", "weather", '{"town": "Paris"}')]}], "tool_calls", {}),  # it is strict
        ([{"content": "Paris?"}], "tool_calls", {}),
        ([{"content": "It is warm."}], "stop", {"is_required": True}),
        ([{"content": MARKED[:40]}], "stop", {}),
        ([{"content": "<tool_call>delete_all\n</tool_call>"}], "stop", {}),
        ([{"content": "<tool_call>weather\n</arg_key>"}], "stop", {}),
        ([{"content": "<tool_call>weather\n<arg_key>city</arg_key> is <arg_value>"}], "stop", {}),
        ([{"content": 2 * MARKED[:-12] + "<tool_call>"}], "stop", {}),
    ],
)
async def test_what_is_no_call_that_was_asked_for_is_a_failure(deltas, end, fields):
    with pytest.raises(GenerationFailedError):
        await read(*deltas, end=end, **fields)


async def test_a_call_that_nobody_asked_for_is_a_failure():
    request = GenerationRequest((Message("user", (TextPart("hi"),)),))
    reader = AnswerReader(request, max_chars=100, is_foreign=True, url="http://engine")

    _, failure = reader.feed(to_event({"choices": [{"delta": {"tool_calls": [call(0, "a", "f", "{}")]}}]}))

    assert isinstance(failure, GenerationFailedError)
    reader = AnswerReader(request, max_chars=100, is_foreign=True, url="http://engine")
    reader.feed(to_event({"choices": [{"delta": {}, "finish_reason": "tool_calls"}]}))
    with pytest.raises(GenerationFailedError):
        await reader.finish()


@pytest.mark.parametrize("piece", [{"index": "0"}, {"index": -1}, {"id": 5}, {"function": {"arguments": 5}}, "f"])
def test_a_piece_of_the_wrong_type_is_no_chunk(piece):
    with pytest.raises(GenerationFailedError):
        answers.from_event(orjson.dumps({"choices": [{"delta": {"tool_calls": [piece]}}]}))


@pytest.mark.parametrize("fields", [{}, {"is_required": True}, {"is_parallel": False}])
def test_what_may_be_called_and_what_was_comes_through_the_wire(fields):
    calls = (ToolCall("call_1", "weather", PARIS), ToolCall("call_2", "clock", "{}"))
    results = (
        Message("tool", (TextPart("18"),), tool_call_id="call_1"),
        Message("tool", (TextPart("9"),), tool_call_id="call_2"),
    )
    messages = (
        Message("user", (TextPart("hi"),)),
        Message("assistant", (TextPart("I look."),), tool_calls=calls),
        *results,
    )
    request = GenerationRequest(messages, SamplingParams(tool_use=ToolUse(TOOLS, **fields)))

    sent = b"".join(requests.to_chat_pieces(request, "m"))

    assert requests.from_chat_body(sent).generation == request


@pytest.mark.parametrize("is_required", [False, True])
async def test_an_engine_server_streams_calls_and_sends_them_whole(is_required):
    script = f"say: I look.\ncall: weather {PARIS}\ncall: clock"
    engine = EchoEngine("glm")
    async with listening(engine) as url:
        client = EngineClient(url, timeout_s=10)
        result = await generate(client, asking(script, is_required=is_required))
        await client.aclose()

    assert [(each.name, each.arguments) for each in result.tool_calls] == [("weather", PARIS), ("clock", "{}")]
    assert (result.text, result.finish_reason) == ("" if is_required else "I look.", "tool_calls")
    assert engine.last_request is not None
    assert engine.last_request.sampling.tool_use == ToolUse(TOOLS, is_required=is_required)

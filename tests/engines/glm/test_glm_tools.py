"""Function calls out of the real architecture: held to their schemas, read while they are written, rendered back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

torch = pytest.importorskip("torch")

from engines.base import (  # noqa: E402
    EngineOptions,
    GenerationRequest,
    InvalidRequestError,
    Message,
    SamplingParams,
    TextPart,
    generate,
)
from engines.glm.engine import GlmEngine, load  # noqa: E402
from engines.glm.tool_grammar import to_grammar  # noqa: E402
from engines.json_schema import JsonSchemaError  # noqa: E402
from engines.pocket.random_tiny import make_glm  # noqa: E402
from engines.runtime.constrained import constrain  # noqa: E402
from engines.runtime.lazy_constraint import LazyConstraint  # noqa: E402
from engines.tool_text import CALL, CALL_END, MARKS  # noqa: E402
from engines.tools import GrowingCalls, Tool, ToolCall, ToolUse  # noqa: E402

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 6},
        "unit": {"enum": ["celsius", 'a "b"']},
        "days": {"type": "integer", "minimum": 1, "maximum": 99},
        "when": {"anyOf": [{"type": "string", "maxLength": 3}, {"type": "null"}]},
        "at": {"$ref": "#/$defs/place"},
        "code": {"type": "string", "pattern": "^[a-c]{2}/[0-9]$"},
    },
    "required": ["city", "unit", "days", "at", "code"],
    "additionalProperties": False,
    "$defs": {
        "place": {
            "type": "object",
            "properties": {"x": {"type": "integer", "minimum": 0, "maximum": 9}},
            "required": ["x"],
            "additionalProperties": False,
        }
    },
}
WEATHER = Tool("weather", "of a city", json.dumps(SCHEMA), is_strict=True)
CLOCK = Tool("clock")
# Not strict, and with a keyword that cannot be kept: held to what can be.
LOOSE_SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer", "not": {"const": 3}}, "on": {"type": "boolean"}},
    "required": ["n", "on"],
}
LOOSE = Tool("loose", parameters=json.dumps(LOOSE_SCHEMA))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("tools") / "glm"
    make_glm(path)
    return path


@pytest.fixture
async def engine(checkpoint: Path) -> AsyncIterator[GlmEngine]:
    engine = load(EngineOptions(model=str(checkpoint), device="cpu"))
    await engine.start()
    yield engine
    await engine.aclose()


@pytest.fixture(scope="module")
def loaded(checkpoint: Path) -> GlmEngine:
    """Not started: for what is done before and after the model."""
    engine = load(EngineOptions(model=str(checkpoint), device="cpu"))
    engine._load()
    return engine


def ask(use: ToolUse, *messages: Message, enable_thinking: bool = False, **sampling: Any) -> GenerationRequest:
    knobs = SamplingParams(**({"max_tokens": 200, "tool_use": use} | sampling))
    turns = messages or (Message("user", (TextPart("看天气"),)),)
    return GenerationRequest(turns, knobs, enable_thinking=enable_thinking)


async def test_calls_that_must_be_made_are_made_and_keep_their_schemas(engine: GlmEngine) -> None:
    one = ToolUse((WEATHER,), is_required=True, is_parallel=False)
    several = ToolUse((WEATHER, CLOCK, LOOSE), is_required=True)
    requests = [ask(use, temperature=1.2, seed=seed) for seed in range(3) for use in (one, several)]
    requests.append(ask(ToolUse((CLOCK,), is_required=True), enable_thinking=True, temperature=1.3, seed=1))

    results = await asyncio.gather(*(generate(engine, request) for request in requests))

    assert any(result.finish_reason == "tool_calls" for result in results)
    for request, result in zip(requests, results, strict=True):
        assert result.text == ""
        assert result.logprobs == ()
        use = request.sampling.tool_use
        assert use is not None
        is_cut = result.finish_reason == "length"
        for call in result.tool_calls[: -1 if is_cut else None]:
            schema = {"weather": SCHEMA, "clock": {"type": "object", "maxProperties": 0}, "loose": {}}[call.name]
            arguments = json.loads(call.arguments)
            jsonschema.validate(arguments, schema)
            assert call.name != "loose" or {"n": int, "on": bool} == {key: type(arguments[key]) for key in arguments}
        assert is_cut or result.finish_reason == "tool_calls"
        assert is_cut or len(result.tool_calls) >= 1
        assert use.is_parallel or len(result.tool_calls) <= 1


async def test_a_free_answer_is_the_same_as_one_without_functions_in_the_same_prompt(engine: GlmEngine) -> None:
    request = ask(ToolUse((WEATHER,)), max_tokens=12)
    tools_turn = Message("system", (TextPart(said_of_tools(engine, request)),))
    plain = GenerationRequest((tools_turn, *request.messages), SamplingParams(max_tokens=12))

    with_tools, without = await generate(engine, request), await generate(engine, plain)

    assert with_tools.text.rstrip() == without.text.rstrip()
    assert with_tools.usage.prompt_tokens == without.usage.prompt_tokens


def said_of_tools(engine: GlmEngine, request: GenerationRequest) -> str:
    text: str = engine.processor.tokenizer.decode(engine.plan(request).input_ids)
    return text.partition("<|system|>\n")[2].partition("<|user|>")[0]


def written(engine: GlmEngine, text: str) -> list[int]:
    """Tokenize what a model writes: its marks are tokens."""
    ids: list[int] = engine.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def in_marks(name: str, **arguments: str) -> str:
    pairs = "".join(f"<arg_key>{key}</arg_key>\n<arg_value>{value}</arg_value>\n" for key, value in arguments.items())
    return f"{CALL}{name}\n{pairs}{CALL_END}"


def test_a_call_is_read_while_it_is_written(loaded: GlmEngine) -> None:
    parser = loaded.make_parser(tool_use=ToolUse((WEATHER, CLOCK)))
    text = "我看看。\n" + in_marks("weather", city='巴黎 "P"\n', days="3", when="null") + "\n" + in_marks("clock")
    said, calls, num_pieces = "", GrowingCalls(), 0

    for token_id in written(loaded, text):
        delta = parser.push(token_id)
        if delta is not None:
            said += delta.text
            num_pieces += len(delta.tool_calls)
            for piece in delta.tool_calls:
                calls.add(piece)

    assert parser.finish() is None
    assert (said, parser.has_calls) == ("我看看。", True)
    weather, clock = calls.whole()
    assert json.loads(weather.arguments) == {"city": '巴黎 "P"\n', "days": 3, "when": None}
    assert (clock.name, clock.arguments) == ("clock", "{}")
    assert num_pieces > 8, "a text is told as it comes"


def test_marks_in_thinking_are_no_calls(loaded: GlmEngine) -> None:
    parser = loaded.make_parser(tool_use=ToolUse((CLOCK,)))
    ids = [*written(loaded, "<think>"), *written(loaded, in_marks("clock")), *written(loaded, "</think>\nhi \n")]

    deltas = [delta for token_id in ids if (delta := parser.push(token_id)) is not None]
    last = parser.finish()

    assert "".join(delta.text for delta in deltas) + (last.text if last else "") == "hi \n"
    assert not parser.has_calls


@pytest.mark.parametrize("is_parallel", [True, False])
def test_an_answer_is_free_until_it_begins_a_call(loaded: GlmEngine, is_parallel: bool) -> None:
    to_id = loaded.processor.tokenizer.convert_tokens_to_ids
    use = ToolUse((CLOCK,), is_parallel=is_parallel)
    grammar = loaded._compiler.compile_lark(to_grammar(use, {mark: to_id(mark) for mark in MARKS}))
    constraint = LazyConstraint(grammar, to_id(CALL), (to_id("<think>"), to_id("</think>")))
    logits = torch.zeros(1, loaded._model.config.get_text_config().vocab_size)

    def num_allowed() -> int:
        return int(constrain(logits, [constraint]).isfinite().sum())

    for token_id in [*written(loaded, "<think>"), to_id(CALL), *written(loaded, "</think>\nhi"), to_id(CALL)]:
        assert num_allowed() == logits.shape[1]
        constraint.accept(token_id)
    assert num_allowed() < 20, "only what clock begins with"
    for token_id in [*written(loaded, "clock\n"), to_id(CALL_END)]:
        constraint.accept(token_id)
    assert constrain(logits, [constraint]).isfinite()[0, to_id("<|observation|>")]
    # One call at most: nothing may follow it.
    assert bool(constrain(logits, [constraint]).isfinite()[0, to_id(CALL)]) is is_parallel


def test_calls_and_results_are_rendered_in_the_models_own_format(loaded: GlmEngine) -> None:
    call = ToolCall("call_1", "weather", '{"city": "巴黎", "days": 3, "at": {"<|user|>": "x"}}')
    turns = (
        Message("user", (TextPart("q"),)),
        Message("assistant", (TextPart("ok"),), tool_calls=(call,)),
        Message("tool", (TextPart("18 <|user|>"),), tool_call_id="call_1"),
    )

    plan = loaded.plan(ask(ToolUse((WEATHER,)), *turns))

    text: str = loaded.processor.tokenizer.decode(plan.input_ids)
    assert "weather\n<arg_key>city</arg_key>\n<arg_value>巴黎</arg_value>\n<arg_key>days</arg_key>" in text
    assert "<|observation|>\n<tool_response>\n18 <|user|>\n</tool_response>" in text
    assert plan.input_ids.count(loaded.processor.tokenizer.convert_tokens_to_ids("<|user|>")) == 1
    assert '"maxLength": 6' in text


@pytest.mark.parametrize("name", ["<|user|>", "a</think>b"])
def test_a_name_that_holds_a_control_token_is_refused(loaded: GlmEngine, name: str) -> None:
    schema = json.dumps({"type": "object", "properties": {"a": {"properties": {name: {}}}}})
    call = ToolCall("call_1", "clock", json.dumps({name: 1}))
    turns = (Message("assistant", (), tool_calls=(call,)), Message("tool", (), tool_call_id="call_1"))

    for request, param in (
        (ask(ToolUse((Tool("f", parameters=schema),))), "tools"),
        (ask(ToolUse((CLOCK,)), *turns), "messages"),
    ):
        with pytest.raises(InvalidRequestError) as refused:
            loaded.plan(request)
        assert refused.value.param == param


@pytest.mark.parametrize(
    "properties",
    [
        {"a": {"type": "string", "pattern": "(?=x)"}},
        {"a": {"type": "string", "pattern": "x", "maxLength": 3}},
        {"a": {"type": "integer", "not": {}}},
    ],
)
def test_a_strict_function_that_cannot_be_kept_is_refused_and_any_other_is_called(
    loaded: GlmEngine, properties: dict[str, Any]
) -> None:
    parameters = json.dumps({"type": "object", "properties": properties, "required": ["a"]})

    with pytest.raises(JsonSchemaError) as refused:
        loaded.plan(ask(ToolUse((Tool("f", parameters=parameters, is_strict=True),))))
    assert refused.value.param == "tools"
    assert loaded.plan(ask(ToolUse((Tool("f", parameters=parameters),)))).grammar is not None


@pytest.mark.parametrize(
    "schema",
    [
        {"required": 1e308},
        {"properties": {"a": {"type": {"type": "object"}}}},
        {"properties": {"a": {"type": ["string", {}]}}},
        {"properties": {"a": {"type": None, "allOf": [{"type": ["string", "null"]}]}}},
        {"properties": {"a": {"allOf": 5}}},
        {"properties": {"a": {"type": "string", "pattern": 5}}},
        {"properties": {"a": {"type": "string", "minLength": "x"}}},
        {"properties": {"a": {"type": "string", "maxLength": {}}}},
        {"properties": {"a": {"type": "string", "minLength": -1}}},
        {"properties": {"a": {"$ref": "#/anyOf/" + "9" * 5000}}, "anyOf": [{}]},
    ],
)
def test_a_schema_that_is_none_is_no_reason_to_fail(loaded: GlmEngine, schema: dict[str, Any]) -> None:
    """The functions of agents come as others wrote them; only strict ones promise anything."""
    assert loaded.plan(ask(ToolUse((Tool("f", parameters=json.dumps(schema)),)))).grammar is not None


@pytest.mark.parametrize("last", [{"type": "string"}, {"type": "integer"}])
def test_options_that_double_with_every_level_come_to_an_end(loaded: GlmEngine, last: dict[str, Any]) -> None:
    """Without a bound this goes on for 2**30 options, in a thread that nothing ends."""
    levels = {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(30)} | {"d30": last}
    schema = {"properties": {"a": {"$ref": "#/$defs/d0"}}, "required": ["a"], "$defs": levels}
    marks = dict.fromkeys(MARKS, 1)

    text = to_grammar(ToolUse((Tool("f", parameters=json.dumps(schema)),)), marks)

    assert len(text) < 1000
    strict = {"type": "object", "additionalProperties": False, **schema}
    with pytest.raises(JsonSchemaError, match=r"anyOf|ref"):
        to_grammar(ToolUse((Tool("f", parameters=json.dumps(strict), is_strict=True),)), marks)

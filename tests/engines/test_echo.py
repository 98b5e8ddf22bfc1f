"""The echo engine's own habits; what it shares with every engine is in tests/contract."""

import io
import json

import pytest
from PIL import Image

from engines import echo
from engines.base import (
    EngineOptions,
    EngineUnavailableError,
    GenerationFailedError,
    GenerationRequest,
    ImagePart,
    InvalidImageError,
    InvalidRequestError,
    Message,
    SamplingParams,
    TextPart,
    TokenLogprob,
    generate,
)
from engines.echo import EchoEngine
from engines.json_schema import ANY_OBJECT, JsonSchemaError
from engines.tools import Tool, ToolUse


def encoded(format_: str, size: tuple[int, int] = (6, 4)) -> ImagePart:
    file = io.BytesIO()
    Image.new("RGB", size).save(file, format_)
    return ImagePart(file.getvalue(), f"image/{format_.lower()}", "0" * 64)


def ask(text: str, *images: ImagePart, **sampling: object) -> GenerationRequest:
    return GenerationRequest((Message("user", (*images, TextPart(text))),), SamplingParams(**sampling))


@pytest.fixture
async def engine():
    engine = EchoEngine("glm")
    await engine.start()
    return engine


async def test_it_is_labelled_as_an_echo_of_the_model_it_stands_in_for():
    glm = await echo.load("glm", EngineOptions(model="echo")).info()
    owl2 = await echo.load("owl2", EngineOptions(model="echo")).info()

    assert (glm.model_id, glm.variant) == ("glm-4.6v-flash-echo", "echo")
    assert owl2.model_id == "mplug-owl2-echo"


async def test_it_refuses_before_it_is_started():
    with pytest.raises(EngineUnavailableError):
        await generate(EchoEngine(), ask("hello?"))


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
async def test_it_names_size_and_format_of_a_picture(engine, format_):
    result = await generate(engine, ask("what?", encoded(format_)))

    assert result.text == f"[echo glm] 1 picture (6x4 {format_.lower()}), question: what?"


async def test_it_reads_the_header_only(engine):
    # Given a picture whose pixels are missing
    whole = encoded("PNG", (200, 100))
    truncated = ImagePart(whole.data[:60], whole.media_type, whole.sha256)

    result = await generate(engine, ask("what?", truncated))

    assert "200x100 png" in result.text


@pytest.mark.parametrize("data", [b"GIF8", b"", b"<svg/>", b"\x89PNG\r\n\x1a\n"])
async def test_it_refuses_what_has_no_picture_header(engine, data):
    with pytest.raises(InvalidImageError):
        await generate(engine, ask("what?", ImagePart(data, "image/png", "0" * 64)))


async def test_every_chinese_character_is_a_token_of_its_own(engine):
    result = await generate(engine, ask("图里有两只 cats 吗?"))

    assert result.usage.prompt_tokens == 8
    assert result.text.endswith("图里有两只 cats 吗?")


async def test_white_space_at_the_end_survives(engine):
    result = await generate(engine, ask("  two  spaces \n"))

    assert result.text == "[echo glm] no pictures, question:   two  spaces \n"


async def test_the_earliest_stop_string_wins(engine):
    result = await generate(engine, ask("one two three", stop=("three", "two")))

    assert result.text.endswith("question: one ")
    assert result.finish_reason == "stop"


async def test_max_tokens_before_the_stop_string_says_length(engine):
    result = await generate(engine, ask("one two three", stop=("three",), max_tokens=6))

    assert (result.text, result.finish_reason) == ("[echo glm] no pictures, question: one", "length")


async def test_without_max_tokens_a_long_answer_ends_at_the_default(engine):
    result = await generate(engine, ask("word " * 2000))

    assert result.usage.completion_tokens == echo.DEFAULT_MAX_TOKENS
    assert result.finish_reason == "length"


async def test_every_word_of_an_echo_is_certain(engine):
    result = await generate(engine, ask("猫", top_logprobs=5, max_tokens=3))

    assert result.text == "[echo glm] no"
    assert result.logprobs == tuple(TokenLogprob(word, 0.0, word.encode()) for word in ("[echo", " glm]", " no"))


async def test_owl2_does_not_think():
    engine = EchoEngine("owl2")
    await engine.start()

    result = await generate(engine, GenerationRequest((Message("user", (TextPart("why?"),)),), enable_thinking=True))

    assert result.reasoning == ""


async def test_a_failure_is_raised_again_for_every_request():
    engine = EchoEngine(fail_with=GenerationFailedError("on purpose"), fail_after_deltas=1)
    await engine.start()

    for _ in range(2):
        stream = engine.stream(ask("hello?"))
        assert (await anext(stream)).text == "[echo"
        with pytest.raises(GenerationFailedError, match="on purpose"):
            await anext(stream)

    assert (engine.num_running, engine.num_cancelled) == (0, 0)


async def test_closing_breaks_off_a_running_answer():
    engine = EchoEngine(delta_delay_s=0.001)
    await engine.start()
    stream = engine.stream(ask("hello?"))
    await anext(stream)

    await engine.aclose()

    with pytest.raises(EngineUnavailableError):
        await anext(stream)
    assert (engine.num_running, engine.num_cancelled) == (0, 0)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "null"}}, "required": ["a"]},
        {"type": "array", "items": {"type": "boolean"}, "minItems": 2},
        {"type": "string", "minLength": 9, "maxLength": 10},
        {"type": "string", "maxLength": 2},
        {"type": "integer", "exclusiveMinimum": 6, "multipleOf": 4},
        {"type": "number", "maximum": -2.5},
        {"type": ["integer", "null"], "exclusiveMinimum": 0},
        {"enum": ["x", 1]},
        {"anyOf": [{"type": "string", "format": "date"}, {"type": "null"}]},
        {"$defs": {"leaf": {"const": 5}}, "type": "object", "properties": {"a": {"$ref": "#/$defs/leaf"}}},
    ],
)
async def test_held_to_a_schema_it_answers_with_a_value_that_satisfies_it(engine, schema):
    jsonschema = pytest.importorskip("jsonschema")

    result = await generate(engine, ask("hi", json_schema=json.dumps(schema)))

    jsonschema.validate(json.loads(result.text), schema)


async def test_asked_for_any_object_it_puts_the_echo_into_one(engine):
    result = await generate(engine, ask("hi", json_schema=ANY_OBJECT))

    assert json.loads(result.text) == {"echo": "[echo glm] no pictures, question: hi"}


@pytest.mark.parametrize("schema", [{"type": "string", "pattern": "^a"}, {"$ref": "#"}, {"allOf": [{}]}])
async def test_a_schema_without_an_obvious_value_is_refused_by_name(engine, schema):
    with pytest.raises(JsonSchemaError):
        await generate(engine, ask("hi", json_schema=json.dumps(schema)))


async def test_what_stands_in_for_owl2_refuses_a_schema_as_owl2_does():
    owl2 = EchoEngine("owl2")
    await owl2.start()

    with pytest.raises(InvalidRequestError) as caught:
        await generate(owl2, ask("hi", json_schema=ANY_OBJECT))

    assert caught.value.param == "response_format"


@pytest.mark.parametrize(
    ("script", "said", "calls"),
    [
        ('say: One.\n  call: clock {"zone": "utc"}  \nsay:Two.', "One.\nTwo.", [("clock", '{"zone": "utc"}')]),
        ("call: clock\tnot JSON\ncall: clock\n{}", "", [("clock", "{}")]),
        ("call: other\ncall:\ncall: clock [1]", None, []),
        # Patterns that let white space follow white space take minutes over this.
        (f"call:{' ' * 300_000}clock\nsay:{' ' * 300_000}x", "x", [("clock", "{}")]),
        (f"call: clock {'{' * 300_000}", None, []),
    ],
    ids=["lines", "no arguments", "no calls", "spaces", "brackets"],
)
async def test_calls_are_scripted_line_by_line(engine, script, said, calls):
    request = ask(script, tool_use=ToolUse((Tool("clock"),)))

    answer = await generate(engine, request)

    assert [(call.name, call.arguments) for call in answer.tool_calls] == calls
    if said is not None:
        assert answer.text == said

"""JSON instead of prose: the shipped templates, the words that go to the model, and what is stored and echoed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engines.base import GenerationRequest, Message, SamplingParams, TextPart
from engines.json_schema import ANY_OBJECT, to_schema_text
from router.api.formats import to_chat_format, to_responses_format
from router.api.schemas import ChatRequest, ResponsesRequest
from router.errors import BadRequestError
from router.jobs.job import JobSpec
from router.output_format import OutputFormat, instruction, with_instruction
from router.templates import NAMES, template_schema
from tests.support.jobs import make_spec

SCHEMA = {
    "type": "object",
    "properties": {
        "total": {"type": "number", "description": "what was paid"},
        "lines": {"type": "array", "items": {"$ref": "#/$defs/Line"}},
        "kind": {"anyOf": [{"enum": ["shop", "bar"]}, {"type": "null"}], "title": "where"},
    },
    "$defs": {"Line": {"type": "object", "properties": {"name": {"type": ["string", "null"]}}}},
}
HELLO: dict[str, Any] = {"model": "glowl", "messages": [{"role": "user", "content": "你好"}]}


def chat(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({**HELLO, **fields})


def responses(**fields: Any) -> ResponsesRequest:
    return ResponsesRequest.model_validate({"model": "glowl", "input": "hi", **fields})


def test_both_endpoints_read_the_same_format_from_their_own_shape() -> None:
    flat = {"name": "bill", "schema": SCHEMA, "strict": True}

    from_chat = to_chat_format(chat(response_format={"type": "json_schema", "json_schema": flat}))
    from_responses = to_responses_format(responses(text={"format": {"type": "json_schema", **flat}}))

    assert from_chat == from_responses == (OutputFormat("json_schema", "bill", strict=True), to_schema_text(SCHEMA))


@pytest.mark.parametrize("wanted", [None, {"type": "text"}])
def test_text_is_prose(wanted: Any) -> None:
    assert to_chat_format(chat(response_format=wanted)) == (None, None)
    assert to_responses_format(responses(text={"format": wanted})) == (None, None)


def test_json_mode_needs_no_magic_word_in_the_messages() -> None:
    assert to_chat_format(chat(response_format={"type": "json_object"})) == (OutputFormat("json_object"), ANY_OBJECT)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"hybrid": {"template": "poem"}}, "hybrid.template"),
        ({"hybrid": {"template": "table"}, "response_format": {"type": "json_object"}}, "hybrid.template"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"not": {}}}}},
            "response_format",
        ),
    ],
)
def test_what_cannot_be_kept_is_refused_in_both_languages(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        to_chat_format(chat(**fields))

    assert caught.value.param == param
    assert caught.value.message_zh != caught.value.message


def test_an_unknown_template_is_answered_with_the_known_ones() -> None:
    with pytest.raises(BadRequestError) as caught:
        to_responses_format(responses(hybrid={"template": "poem"}))

    assert all(name in caught.value.message and name in caught.value.message_zh for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("language", ["en", "zh"])
def test_templates_are_schemas_that_can_be_kept_and_named_in_both_languages(name: str, language: Any) -> None:
    schema = template_schema(name, language)

    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(schema)
    text = to_schema_text(schema)
    assert "x-zh" not in text
    has_han = [any("一" <= character <= "鿿" for character in text_) for text_ in _descriptions(schema)]
    assert all(has_han) if language == "zh" else not any(has_han)


def _descriptions(value: Any) -> list[str]:
    if isinstance(value, list):
        return [text for item in value for text in _descriptions(item)]
    if not isinstance(value, dict):
        return []
    own = [value["description"]] if isinstance(value.get("description"), str) else []
    return own + [text for item in value.values() for text in _descriptions(item)]


def test_the_words_name_every_field_with_its_kind_and_meaning() -> None:
    words = instruction(OutputFormat("json_schema", "bill"), json.dumps(SCHEMA), "en")

    assert words.splitlines() == [
        "Answer with JSON and nothing else.",
        "Fields:",
        "- total (number): what was paid",
        "- lines (array)",
        "  - name (string | null)",
        '- kind ("shop" | "bar" | null): where',
        "Write null for what cannot be seen.",
    ]


def test_a_template_is_explained_in_the_language_of_the_question() -> None:
    words = instruction(OutputFormat("json_schema", "receipt", template="receipt"), "{}", "zh")

    assert words.startswith("请只用 JSON 回答。内容：购物小票")
    assert "- merchant (string | null): 商户名称" in words


def test_words_are_bounded_whatever_the_schema() -> None:
    properties = {f"p{number}": {"type": "string", "description": "x" * 500} for number in range(500)}

    assert len(instruction(OutputFormat("json_schema", "a"), json.dumps({"properties": properties}), "en")) <= 4000


def _chain(length: int, *, of: str) -> dict[str, Any]:
    """Definitions of which each is the next one or a list of it, ``of`` says how: 2**length paths."""
    links = {
        f"d{number}": {of: [{"$ref": f"#/$defs/d{number + 1}"}, {"items": {"$ref": f"#/$defs/d{number + 1}"}}]}
        for number in range(length)
    }
    last = {f"d{length}": {"type": "object", "properties": {"end": {"type": "string"}}}}
    return {"properties": {"a": {"$ref": "#/$defs/d0"}, "b": {"const": 1}}, "$defs": {**links, **last}}


@pytest.mark.parametrize("of", ["anyOf", "oneOf", "allOf"])
@pytest.mark.parametrize("length", [40, 700])
def test_each_definition_is_walked_once_however_many_ways_lead_to_it(of: str, length: int) -> None:
    words = instruction(OutputFormat("json_schema", "a"), json.dumps(_chain(length, of=of)), "en")

    assert words.splitlines()[2].startswith("- a (")
    assert words.splitlines()[-2:] == ["  - end (string)", "- b (1)"]


@pytest.mark.parametrize(
    "schema",
    [
        {"anyOf": [{"$ref": "#"}, {"properties": {"a": {"type": "string"}}}]},
        {"properties": {"a": {"anyOf": [{"type": "string"}, {"$ref": "#/properties/a"}]}}},
        {"allOf": [{"$ref": "#/allOf/1"}, {"$ref": "#/allOf/0"}], "properties": {"a": {"type": "string"}}},
        {"items": {"$ref": "#"}, "properties": {"a": {"type": "string"}}},
    ],
)
def test_a_schema_that_refers_to_itself_is_put_into_words(schema: dict[str, Any]) -> None:
    words = instruction(OutputFormat("json_schema", "a"), json.dumps(schema), "en")

    assert words.splitlines()[1:] == ["Fields:", "- a (string)"]


def test_a_tree_is_told_down_to_a_few_levels() -> None:
    node = {"properties": {"left": {"$ref": "#"}, "right": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}}

    words = instruction(OutputFormat("json_schema", "a"), json.dumps({"type": "object", **node}), "en")

    assert words.splitlines()[2:4] == ["- left (object)", "  - left (object)"]
    assert len(words.splitlines()) <= 83


def test_the_words_go_under_the_question_and_only_where_there_is_a_schema() -> None:
    turns = (Message("system", (TextPart("s"),)), Message("user", (TextPart("q"),)))
    free = GenerationRequest(turns)
    held = GenerationRequest(turns, SamplingParams(json_schema=ANY_OBJECT))
    wanted = OutputFormat("json_object")

    assert with_instruction(free, wanted, "en") is free
    told = with_instruction(held, wanted, "en")
    assert told.messages[0] == turns[0]
    assert told.messages[1].text == "q\n\nAnswer with one JSON object and nothing else."


def test_a_format_that_no_engine_keeps_is_told_in_words() -> None:
    schema = {
        "properties": {"link": {"type": ["string", "null"], "format": "uri-reference"}, "day": {"format": "date"}}
    }

    words = instruction(OutputFormat("json_schema", "a"), json.dumps(schema), "en").splitlines()

    assert words[2:4] == ["- link (string, uri-reference | null)", "- day (any)"]


def test_a_pattern_that_cannot_be_kept_is_noted_in_both_languages() -> None:
    mail = {"type": "string", "format": "email", "pattern": "^(?!x)"}
    schema = {"type": "object", "properties": {"mail": mail}}

    wanted, text = to_chat_format(
        chat(response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": schema}})
    )

    assert wanted is not None
    assert text is not None
    assert "pattern" not in text
    (note,) = wanted.degraded
    assert "/properties/mail" in note.en
    assert "/properties/mail" in note.zh


def test_a_stored_job_keeps_the_format_and_the_schema() -> None:
    spec = make_spec(
        sampling=SamplingParams(json_schema=to_schema_text(SCHEMA)),
        output_format=OutputFormat("json_schema", "bill", "a bill", True, None, ("/properties/a",)),
    )

    again = JobSpec.from_dict(json.loads(json.dumps(spec.to_dict())))

    assert again == spec
    assert again.output_format is not None
    assert again.output_format.to_wire(again.sampling.json_schema)["schema"] == SCHEMA

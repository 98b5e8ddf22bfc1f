"""Schemas as people and programs write them, and as somebody does who means harm: checked, simplified or refused."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.base import EngineError, GenerationRequest, Message, SamplingParams, TextPart, generate
from engines.echo import EchoEngine
from engines.json_check import can_check
from engines.json_schema import (
    FORMATS,
    JsonSchemaError,
    check_schema,
    from_schema_text,
    nodes,
    shortest_answer,
    to_schema_text,
)
from engines.schema_keywords import KEYWORDS, is_beyond_regular
from router.output_format import OutputFormat, instruction


def simplified(schema: dict[str, Any]) -> Any:
    return json.loads(to_schema_text(schema))


def record_of(value: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": value}, "required": ["a"]}


# --- shapes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("type", ["string", None]),
        ("type", "str"),
        ("type", []),
        ("type", {"name": "string"}),
        ("type", [["string"]]),
        ("enum", "red"),
        ("enum", {}),
        ("enum", []),
        ("required", True),
        ("required", "a"),
        ("required", ["a", None]),
        ("properties", []),
        ("properties", {"b": None}),
        ("properties", {"b": "string"}),
        ("patternProperties", {"^b": 1}),
        ("items", "string"),
        ("items", [{"type": "string"}, None]),
        ("prefixItems", {"type": "string"}),
        ("additionalProperties", "no"),
        ("anyOf", {"type": "string"}),
        ("anyOf", [{"type": "string"}, None]),
        ("oneOf", ["string"]),
        ("allOf", 3),
        ("minLength", "1"),
        ("maxLength", -1),
        ("minItems", 1.5),
        ("maxItems", True),
        ("minimum", "0"),
        ("exclusiveMaximum", [1]),
        ("multipleOf", 0),
        ("multipleOf", "2"),
        ("pattern", ["a"]),
        ("format", 7),
        ("$ref", 7),
        ("$ref", {"x": 1}),
        ("uniqueItems", "yes"),
        ("$defs", []),
        ("dependentRequired", ["a"]),
        ("propertyNames", "a"),
    ],
)
def test_a_keyword_of_a_wrong_shape_is_refused_with_its_name_and_place(keyword: str, value: Any) -> None:
    with pytest.raises(JsonSchemaError) as caught:
        to_schema_text({"properties": {"x/y": {"items": {keyword: value}}}})

    error = caught.value
    assert f"'{keyword}" in error.message
    assert "/properties/x" in error.message
    assert error.message_zh != error.message
    assert f"'{keyword}" in error.message_zh


@pytest.mark.parametrize(
    "keyword",
    ["type", "enum", "properties", "required", "items", "anyOf", "$ref", "pattern", "minLength", "not", "$defs"],
)
def test_null_is_a_keyword_that_was_not_set(keyword: str) -> None:
    assert simplified(record_of({keyword: None, "title": "t"})) == record_of({"title": "t"})


def test_null_as_a_value_stays() -> None:
    schema = record_of({"enum": [None, 1], "default": None})

    assert simplified(schema) == schema
    assert simplified({"const": None}) == {"const": None}


words = st.sampled_from([*sorted(KEYWORDS), "a"])
scalars = st.sampled_from(
    [None, True, False, 0, 1, -1, 1.0, 2.5, 10**18, "", "a", "string", "object", "#", "#/$defs/a", "#/anyOf/0", "(?=a)"]
)
junk = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(words, inner, max_size=4)),
    max_leaves=14,
)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(st.dictionaries(words, junk, max_size=5))
def test_whatever_is_sent_is_refused_as_a_schema_or_can_be_used_everywhere(schema: dict[str, Any]) -> None:
    try:
        text = to_schema_text(schema)
    except JsonSchemaError:
        return

    # What was accepted once is accepted again, as it is; and no later walk stumbles over it.
    assert to_schema_text(from_schema_text(text)) == text
    instruction(OutputFormat("json_schema", "a"), text, "zh")
    can_check(text)


# --- what asks for nothing, and what can be said more simply ---------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ({"type": "string", "minLength": 1.0, "maxLength": 8.0}, {"type": "string", "minLength": 1, "maxLength": 8}),
        ({"type": "integer", "minLength": 2, "items": {"not": {}}}, {"type": "integer"}),
        ({"type": "string", "uniqueItems": True, "contains": {"type": "string"}}, {"type": "string"}),
        ({"type": "array", "uniqueItems": True, "maxItems": 1}, {"type": "array", "maxItems": 1}),
        ({"anyOf": [], "oneOf": [], "allOf": [], "required": []}, {"required": []}),
        ({"if": {"type": "string"}}, {}),
        ({"then": {"type": "string"}, "else": False}, {}),
        ({"if": {"type": "string"}, "then": {"title": "t"}, "else": True}, {}),
        ({"not": False, "minContains": 1}, {}),
        ({"contains": {"type": "string"}, "minContains": 0}, {}),
        ({"dependentRequired": {"a": []}, "dependentSchemas": {"b": {}}, "dependencies": {"c": [], "d": {}}}, {}),
        ({"unevaluatedProperties": {}, "unevaluatedItems": True}, {}),
        ({"type": "object", "propertyNames": {"type": "string", "title": "name"}}, {"type": "object"}),
        ({"type": "object", "propertyNames": {}}, {"type": "object"}),
        ({"type": "object", "required": False}, {"type": "object"}),
        ({"minimum": 3, "exclusiveMinimum": True, "exclusiveMaximum": False}, {"exclusiveMinimum": 3}),
        ({"type": "string", "maxLength": 10**12}, {"type": "string"}),
        (
            {"type": "object", "unevaluatedProperties": False},
            {"type": "object", "additionalProperties": False},
        ),
        (
            {"type": "object", "propertyNames": {"enum": ["x", "y"]}, "additionalProperties": {"type": "null"}},
            {
                "type": "object",
                "additionalProperties": False,
                "properties": {"x": {"type": "null"}, "y": {"type": "null"}},
            },
        ),
        (
            {"type": "object", "propertyNames": {"pattern": "^x-"}, "additionalProperties": {"type": "null"}},
            {"type": "object", "additionalProperties": False, "patternProperties": {"^x-": {"type": "null"}}},
        ),
    ],
)
def test_what_is_true_of_every_answer_goes_and_the_rest_says_the_same(sent: dict[str, Any], kept: Any) -> None:
    assert simplified(record_of(sent)) == record_of(kept)


def test_names_of_properties_may_be_defined_elsewhere() -> None:
    schema = {"propertyNames": {"$ref": "#/$defs/Colour"}, "$defs": {"Colour": {"type": "string", "enum": ["red"]}}}

    assert simplified(schema)["properties"] == {"red": True}


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("not", {}),
        ("not", {"type": "string"}),
        ("uniqueItems", True),
        ("contains", {"type": "string"}),
        ("propertyNames", {"maxLength": 3}),
        ("dependentRequired", {"a": ["b"]}),
        ("$dynamicRef", "#x"),
    ],
)
def test_what_asks_for_something_that_cannot_be_kept_is_refused(keyword: str, value: Any) -> None:
    with pytest.raises(JsonSchemaError, match=f"'{keyword.replace('$', '.')}' .at /properties/a.*cannot be guaranteed"):
        to_schema_text(record_of({keyword: value}))


def test_only_what_the_top_leads_to_counts() -> None:
    # Given definitions of which one is used, and one of a kind that cannot be kept
    schema = {"$ref": "#/components/Used", "components": {"Used": {"$ref": "#/$defs/Deep"}, "Lost": {"not": {}}}}
    schema |= {"$defs": {"Deep": {"type": "string"}, "Lost": {"type": 3}}}

    # Then the used ones are walked, wherever they are
    assert [path for _, path in nodes(schema)] == ["", "/components/Used", "/$defs/Deep"]
    assert simplified(schema) == schema


def test_a_reference_is_found_under_any_spelling_and_written_as_a_uri() -> None:
    for ref in ("#/$defs/项 目", "#/$defs/%E9%A1%B9%20%E7%9B%AE"):
        schema = simplified({"$ref": ref, "$defs": {"项 目": {"type": "string"}}})

        assert schema["$ref"] == "#/$defs/%E9%A1%B9%20%E7%9B%AE"


@pytest.mark.parametrize("ref", ["#/enum/0", "#/title", "#/required"])
def test_a_reference_to_what_is_no_schema_is_refused(ref: str) -> None:
    schema = {"enum": [1], "title": "t", "required": ["a"], "anyOf": [{"$ref": ref}]}

    with pytest.raises(JsonSchemaError, match="no schema"):
        to_schema_text(schema)


# --- patterns ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "is_beyond"),
    [
        ("^(?!\\.)a$", True),
        ("(?=a)b", True),
        ("(?<=a)b", True),
        ("(?<!a)b", True),
        ("\\bword\\b", True),
        ("(a)\\1", True),
        ("(?P<x>a)(?P=x)", True),
        ("(?<x>a)\\k<x>", True),
        ("(?>a)", True),
        ("[(?!]a", False),
        ("[^]\\](?=]", False),
        ("\\(?!a", False),
        ("\\\\b", False),
        ("[\\b]", False),
        ("(?P<x>a)|(?<y>b)|(?:c)|(?i)d", False),
        ("^[a-z]{1,3}\\d+$", False),
    ],
)
def test_what_no_automaton_can_follow_is_told_from_what_looks_like_it(pattern: str, is_beyond: bool) -> None:
    assert is_beyond_regular(pattern) is is_beyond


@pytest.mark.parametrize("known", sorted(FORMATS))
def test_beside_a_format_a_pattern_that_looks_around_is_dropped_and_named(known: str) -> None:
    checked = check_schema(record_of({"type": "string", "format": known, "pattern": "^(?!x)"}))

    assert checked.dropped_patterns == ("/properties/a",)
    assert json.loads(checked.text) == record_of({"type": "string", "format": known})


@pytest.mark.parametrize(
    "schema", [{"pattern": "(?!x)"}, {"pattern": "(?!x)", "format": "price"}, {"patternProperties": {"(?!x)": {}}}]
)
def test_alone_or_beside_an_unknown_format_it_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(JsonSchemaError, match="at /properties/a cannot be guaranteed: look-around"):
        check_schema(record_of(schema))


# --- bombs ------------------------------------------------------------------------------------------------------------


def test_places_stay_short_however_long_the_names() -> None:
    schema = {"properties": {"n" * 40_000: {"properties": {f"p{index}": {} for index in range(400)}}}}

    assert max(len(path) for _, path in nodes(schema)) < 200


def doubled(length: int, make: Any) -> dict[str, Any]:
    """Definitions that each refer twice to the next one."""
    defs = {f"d{index}": make({"$ref": f"#/$defs/d{index + 1}"}) for index in range(length)}
    return {"$ref": "#/$defs/d0", "$defs": {**defs, f"d{length}": {"type": "string", "pattern": "x"}}}


BOMBS: dict[str, dict[str, Any]] = {
    "any of two": doubled(40, lambda ref: {"anyOf": [ref, {"type": "array", "items": ref}]}),
    "one of two": doubled(40, lambda ref: {"oneOf": [ref, {"type": "array", "items": ref, "minItems": 1}]}),
    "all of two": doubled(40, lambda ref: {"allOf": [ref, dict(ref)]}),
    "two fields": doubled(
        40, lambda ref: {"type": "object", "properties": {"l": ref, "r": ref}, "required": ["l", "r"]}
    ),
    "two items": doubled(40, lambda ref: {"type": "array", "prefixItems": [ref, ref], "minItems": 2}),
    "many items": {"type": "array", "minItems": 10**9},
    "long text": {"type": "string", "minLength": 10**9},
    "one constant": {"const": "x" * 90_000},
    "itself": {"$ref": "#"},
    "each other": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
    "needs itself": record_of({"$ref": "#"}),
    "optional": {"properties": {f"p{index}": {} for index in range(3_000)}},
    "long names": {"properties": {"n" * 40_000: {"properties": {f"p{index}": {} for index in range(400)}}}},
    "open brackets": {"type": "string", "pattern": "[" * 90_000},
    "spellings": {"prefixItems": [{"$ref": f"#/prefixItems/{'0' * index}0"} for index in range(300)]},
}


REFUSED = (
    *("two fields", "two items", "many items", "long text", "one constant", "optional"),
    *("itself", "each other", "needs itself"),  # and nothing would satisfy them
)


@pytest.mark.parametrize("name", BOMBS)
async def test_a_bomb_is_refused_or_costs_little(name: str) -> None:
    # Given a small schema that stands for a huge one; each step below took hours, or gigabytes, when paths were walked
    try:
        text = to_schema_text(BOMBS[name])
    except JsonSchemaError:
        assert name in REFUSED
        return

    # Then everything that reads it comes to an end
    assert instruction(OutputFormat("json_schema", "a"), text, "en")
    engine = EchoEngine("glm")
    await engine.start()
    request = GenerationRequest((Message("user", (TextPart("hi"),)),), SamplingParams(json_schema=text))
    with contextlib.suppress(EngineError):
        await generate(engine, request)


@pytest.mark.parametrize(
    ("schema", "size"),
    [
        ({"type": "object", "properties": {"ab": {"type": "string"}, "c": {}}, "required": ["ab"]}, len('{"ab":""}')),
        ({"type": "object", "required": ["a", "b"]}, len('{"a":1,"b":1}')),
        ({"type": "array", "items": {"type": "boolean"}, "minItems": 3}, len("[true,true,true]")),
        ({"enum": ["long", "x"]}, 3),
        ({"anyOf": [{"const": 100}, {"$ref": "#"}]}, 3),
        (record_of({"anyOf": [{"type": "null"}, {"$ref": "#"}]}), len('{"a":null}')),
        ({"type": ["string", "null"], "minLength": 7}, 4),
    ],
)
def test_the_shortest_answer_is_known(schema: dict[str, Any], size: int) -> None:
    assert shortest_answer(schema) == size


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
        {"anyOf": [{"$ref": "#"}, {"type": "array", "items": {"$ref": "#"}, "minItems": 1}]},
        record_of({"$ref": "#"}),
        {"type": "object", "required": ["a"], "additionalProperties": False},
    ],
)
def test_a_schema_that_nothing_satisfies_is_refused_at_the_door(schema: dict[str, Any]) -> None:
    with pytest.raises(JsonSchemaError, match="No JSON satisfies"):
        check_schema(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {"$ref": "#"}}},
        {"type": "array", "items": {"$ref": "#"}},
        {"type": "object", "required": ["ab"], "patternProperties": {"^a": {}}, "additionalProperties": False},
    ],
)
def test_what_contains_itself_but_ends_is_accepted(schema: dict[str, Any]) -> None:
    assert check_schema(schema).text


def test_an_answer_with_elements_is_longer() -> None:
    schema = {"type": "array", "items": {"type": "object", "required": ["key"]}, "maxItems": 2}

    assert shortest_answer(schema, items=1) == len('[{"key":1}]')

"""JSON out of prose, fences and slips; and schemas that are made to hang whoever checks them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engines.json_check import UncheckableSchemaError, can_check, parse, to_check
from router.answers.json_answers import InvalidJsonError, dump_json, read_json, repair_prompt

SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "day": {"type": "string", "format": "date"}},
        "required": ["a"],
        "additionalProperties": False,
    }
)


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1}',
        ' {"a":1}\n',
        'Sure, here it is:\n```json\n{"a": 1}\n```\nAnything else?',
        '```\n{"a": 1,}\n```',
        'The answer [to this] is {"a": 1}. It [the picture] is clear.',
        "The answer is {'a': 1}",
        "{'a': 1}",
        "{a: 1}",
        '{"a": 1',
        '{"a": 1,}',
    ],
)
def test_json_is_found_and_mended(text: str) -> None:
    assert read_json(text, SCHEMA) == {"a": 1}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("There is one cat.", "it is no JSON"),
        ("", "it is no JSON"),
        ('{"a": "x"}', "at a: 'x' is not of type 'integer'"),
        ('{"b": 1}', "'a' is a required property"),
        ('{"a": 1, "day": "5 March"}', "at day: '5 March' is not a 'date'"),
        ('{"a": NaN}', "at a"),
        ("[1]", "not of type 'object'"),
        ("[" * 100_000, "it is no JSON"),
    ],
)
def test_what_is_wrong_is_said(text: str, problem: str) -> None:
    with pytest.raises(InvalidJsonError) as raised:
        read_json(text, SCHEMA)

    assert problem in str(raised.value)
    assert len(str(raised.value)) < 500


CHAIN: dict[str, Any] = {
    "$defs": {
        "d30": {"type": "string"},
        **{f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(30)},
    },
    "$ref": "#/$defs/d0",
}


@pytest.mark.parametrize(
    "schema",
    [
        CHAIN,
        {"$ref": "#"},
        {"type": "string", "pattern": "(a+)+$"},
        {"type": "object", "patternProperties": {"(a+)+$": {}}},
        {"type": "array", "items": {"type": "string", "pattern": "(a+)+$"}},
        {"items": [{"type": "string"}]},
    ],
    ids=["doubling", "endless", "pattern", "names", "inside", "list"],
)
def test_a_schema_that_could_hang_the_worker_is_not_tried(schema: dict[str, Any]) -> None:
    with pytest.raises(UncheckableSchemaError):
        to_check(json.dumps(schema))("a" * 40 + "!")


def test_a_field_named_pattern_is_none() -> None:
    assert can_check('{"type":"object","properties":{"pattern":{"type":"string"}}}')
    assert not can_check('{"type":"object","properties":{"a":{"type":"string","pattern":"^a"}}}')


def test_json_is_written_without_white_space_and_read_strictly() -> None:
    assert dump_json({"a": [1, "红"]}) == '{"a":[1,"红"]}'
    for text in ("NaN", "[Infinity]", "{'a': 1}", "[" * 100_000):
        with pytest.raises(ValueError):
            parse(text)


def test_the_repair_prompt_names_the_problem_and_bounds_the_schema() -> None:
    prompt = repair_prompt("at a: no", SCHEMA * 100)

    assert "at a: no" in prompt
    assert len(prompt) < 5_000


def test_a_text_under_many_alternatives_is_not_written_down_for_each() -> None:
    # Given a long text, and a thousand alternatives of which each failure repeats it
    schema = {"anyOf": [{"type": "integer", "minimum": index} for index in range(1_000)]}
    check = to_check(json.dumps(schema))

    with pytest.raises(UncheckableSchemaError, match="too many steps"):
        check("x" * 150_000)

    assert check("short") is not None


@pytest.mark.parametrize("depth", [120, 900])
def test_an_answer_that_is_nested_too_deep_is_no_json_here(depth: int) -> None:
    for text in ("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth, "So: " + "[" * depth + "]" * depth):
        with pytest.raises(InvalidJsonError):
            read_json(text, "{}")


def test_a_fence_that_is_never_closed_is_read_once() -> None:
    with pytest.raises(InvalidJsonError):
        read_json("```" + "a" * 190_000, SCHEMA)


def test_an_unknown_format_is_an_annotation() -> None:
    assert to_check(json.dumps({"type": "string", "format": "regex"}))("(") is None


@pytest.mark.parametrize("text", ['{"a":1e999}', "[-1e400]", '{"a":1,"a":2}', '[{"b":{"c":0,"c":0}}]', '{"a":NaN}'])
def test_strict_json_has_no_endless_number_and_no_key_twice(text):
    with pytest.raises(ValueError):
        parse(text)

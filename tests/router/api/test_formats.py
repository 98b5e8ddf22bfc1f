"""JSON Schemas as clients send them, over HTTP: answered, with a note where not all is kept; never a 500."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

HELLO = {"model": "glowl", "messages": [{"role": "user", "content": "你好"}]}


def asked_for(field: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": {"a": field}, "required": ["a"], "additionalProperties": False}
    return {**HELLO, "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}}


@pytest.mark.parametrize(
    ("field", "keyword"),
    [
        ({"type": ["string", None]}, "'type' at /properties/a"),
        ({"enum": {}}, "'enum' at /properties/a"),
        ({"items": {"anyOf": [None]}}, "'anyOf' at /properties/a/items"),
        ({"$ref": ["#"]}, "'$ref' at /properties/a"),
        ({"pattern": "^(?!x)"}, "'pattern' at /properties/a"),
    ],
)
def test_a_schema_of_a_wrong_shape_is_a_400_that_names_keyword_and_place(
    http: httpx.Client, field: Any, keyword: str
) -> None:
    response = http.post("/v1/chat/completions", json=asked_for(field))

    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, "invalid_json_schema", "response_format")
    assert keyword in error["message"]


@pytest.mark.parametrize(
    "field",
    [
        {"type": "string", "enum": None},
        {"type": "string", "format": "uri-reference"},
        {"type": "string", "minLength": 1.0},
        {"type": "object", "propertyNames": {"type": "string"}, "additionalProperties": {"type": "number"}},
        {"oneOf": [{"$ref": "#/properties/a/$defs/A"}, {"type": "null"}], "$defs": {"A": {"type": "object"}}},
        {"anyOf": [{"type": "string"}, {"$ref": "#"}]},
    ],
)
def test_what_says_nothing_or_can_be_kept_is_answered(http: httpx.Client, field: Any) -> None:
    assert http.post("/v1/chat/completions", json=asked_for(field)).status_code == 200


@pytest.mark.parametrize("route", ["fast", "deep"])
def test_a_pattern_that_is_dropped_is_told_in_degraded(http: httpx.Client, route: str) -> None:
    # Given a format that the echo engine has a value for only as a constant
    mail = {"const": "a@b.cn", "type": "string", "format": "email", "pattern": "^(?!\\.)"}

    # When its answer, or a job that only begins here, is shown
    hybrid = {"route": route, "max_wait_s": 0}
    shown = http.post("/v1/chat/completions", json={**asked_for(mail), "hybrid": hybrid}).json()["hybrid"]

    # Then it says what of the schema is not kept
    (note,) = [each for each in shown["degraded"] if "pattern" in each]
    assert "/properties/a" in note

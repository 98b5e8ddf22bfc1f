"""What is proved of a schema before the compiler sees it."""

from __future__ import annotations

from typing import Any

import pytest

from engines.runtime.schema_grammar import are_exclusive, to_compilable

DEFS = {
    "Cat": {"type": "object", "properties": {"kind": {"const": "cat"}}, "required": ["kind"]},
    "Dog": {"type": "object", "properties": {"kind": {"enum": ["dog", "wolf"]}}, "required": ["kind"]},
    "Closed": {"type": "object", "properties": {"b": {}}, "additionalProperties": False},
    "Alias": {"$ref": "#/$defs/Cat"},
}


def ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/$defs/{name}"}


@pytest.mark.parametrize(
    ("options", "are_disjoint"),
    [
        ([ref("Cat"), {"type": "null"}], True),
        ([ref("Cat"), ref("Dog")], True),
        ([ref("Alias"), ref("Dog"), {"type": ["string", "null"]}], True),
        ([ref("Cat"), ref("Alias")], False),
        ([ref("Cat"), ref("Closed")], True),
        ([ref("Closed"), {"type": "object"}], False),
        ([{"enum": [1, 2]}, {"const": 2.0}], False),
        ([{"enum": [1, 2]}, {"const": "2"}, {"const": True}], True),
        ([{"type": "integer"}, {"type": "number"}], False),
        ([{"type": "string", "maxLength": 2}, {"type": "string", "minLength": 3}], False),
        ([{"minLength": 3}, {"type": "null"}], False),
        ([True, {"type": "null"}], False),
    ],
)
def test_options_exclude_each_other_by_type_constant_or_name(options: list[Any], are_disjoint: bool) -> None:
    assert are_exclusive(options, {"$defs": DEFS}) is are_disjoint


def test_only_options_that_exclude_each_other_become_any_of() -> None:
    schema = {"prefixItems": [{"oneOf": [ref("Cat"), ref("Dog")]}, {"oneOf": [ref("Cat"), {}]}], "$defs": DEFS}

    first, second = to_compilable(schema)["prefixItems"]

    assert first == {"anyOf": [ref("Cat"), ref("Dog")]}
    assert second == {"oneOf": [ref("Cat"), {}]}


def test_a_format_that_no_grammar_keeps_is_an_annotation() -> None:
    schema = {"prefixItems": [{"format": "uri-reference"}, {"format": "color"}, {"format": "uri"}]}

    assert to_compilable(schema) == {"prefixItems": [{}, {}, {"format": "uri"}]}

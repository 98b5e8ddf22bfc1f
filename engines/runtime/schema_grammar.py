"""From a checked JSON Schema to the one that the grammar compiler is given: the same answers, in words that it knows.

In: a schema as `json_schema.from_schema_text` returns it. Out: the same object, rewritten in place.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Final

import orjson

from engines.json_schema import FORMATS, nodes, resolve

_MAX_NUMBER: Final = 10**15
_NUMBER_STEP: Final = 1e-6
# Each pair of options is compared: 100 of them take 10 ms.
_MAX_OPTIONS: Final = 100
_MAX_REFS: Final = 8
_BOUNDING: Final = frozenset({"const", "enum", "$ref", "anyOf", "oneOf", "allOf"})
_BOUNDING_TEXT: Final = frozenset({"maxLength", "pattern", "format"})
_ALL_KINDS: Final = frozenset({"string", "number", "boolean", "array", "object", "null"})


def to_compilable(schema: dict[str, Any]) -> dict[str, Any]:
    """Drop annotations that the compiler would refuse, and write ``oneOf`` as ``anyOf`` where that is the same."""
    for node, _ in nodes(schema):
        if "format" in node and node["format"] not in FORMATS:
            del node["format"]
        if "oneOf" in node and "anyOf" not in node and are_exclusive(node["oneOf"], schema):
            node["anyOf"] = node.pop("oneOf")
    return schema


def with_bounded_numbers(schema: dict[str, Any]) -> dict[str, Any]:
    """Let no number go on for ever: 15 digits before the point and 6 after it at most, if the schema says nothing."""
    is_combined = any("multipleOf" in node or "allOf" in node for node, _ in nodes(schema))
    for node, _ in nodes(schema):
        kinds = node.get("type")
        if kinds not in ("number", "integer") and not (isinstance(kinds, list) and {"number", "integer"} & set(kinds)):
            continue
        if "exclusiveMinimum" not in node:
            node.setdefault("minimum", -_MAX_NUMBER)
        if "exclusiveMaximum" not in node:
            node.setdefault("maximum", _MAX_NUMBER)
        if "number" in kinds and not is_combined:
            node["multipleOf"] = _NUMBER_STEP
    return schema


def num_free_texts(schema: dict[str, Any]) -> int:
    """Count the places of a schema where a text, or the name of a property, may stand that the schema lets be long."""
    num = 0
    for node, _ in nodes(schema):
        if _BOUNDING & node.keys():
            continue
        kinds = node.get("type", ("string", "object"))
        num += "string" in kinds and not _BOUNDING_TEXT & node.keys()
        num += "object" in kinds and node.get("additionalProperties", True) is not False
    return num


def are_exclusive(options: list[Any], root: dict[str, Any]) -> bool:
    """Whether no value can satisfy two of the options, as far as their types, constants and names of properties say."""
    if len(options) > _MAX_OPTIONS:
        return False
    shapes = [_shape(option, root) for option in options]
    return all(_exclude(first, second) for first, second in combinations(shapes, 2))


@dataclass(frozen=True, slots=True)
class _Shape:
    """What can be told of the values that satisfy a schema.

    Attributes:
        kinds: their types; an integer is a number.
        values: as JSON, if they are listed.
        tags: of an object: properties that it must have, and as JSON which values those may have.
        required: names of the properties that an object must have.
        allowed: names of the properties that an object may have; None for any.
    """

    kinds: AbstractSet[str]
    values: AbstractSet[bytes] | None = None
    tags: dict[str, AbstractSet[bytes]] = field(default_factory=dict)
    required: AbstractSet[str] = frozenset()
    allowed: AbstractSet[str] | None = None


def _shape(schema: Any, root: dict[str, Any]) -> _Shape:
    node = _follow(schema, root)
    if node is None:
        return _Shape(_ALL_KINDS)
    values = _values(node)
    if values is not None:
        return _Shape({_kind_of(orjson.loads(value)) for value in values}, values)
    kinds = node.get("type", [])
    kinds = {"number" if kind == "integer" else kind for kind in (kinds if isinstance(kinds, list) else [kinds])}
    properties, required = node.get("properties", {}), frozenset(node.get("required", ()))
    tags: dict[str, AbstractSet[bytes]] = {}
    for name in required & properties.keys():
        inner = _follow(properties[name], root)
        if inner is not None and (listed := _values(inner)) is not None:
            tags[name] = listed
    is_closed = node.get("additionalProperties") is False and not node.get("patternProperties")
    return _Shape(kinds or _ALL_KINDS, None, tags, required, frozenset(properties) if is_closed else None)


def _exclude(first: _Shape, second: _Shape) -> bool:
    shared = first.kinds & second.kinds
    if not shared:
        return True
    if first.values is not None and second.values is not None and not first.values & second.values:
        return True
    if shared != {"object"}:
        return False
    if any(not first.tags[name] & second.tags[name] for name in first.tags.keys() & second.tags.keys()):
        return True
    return any(
        one.allowed is not None and bool(other.required - one.allowed)
        for one, other in ((first, second), (second, first))
    )


def _follow(schema: Any, root: dict[str, Any]) -> dict[str, Any] | None:
    for _ in range(_MAX_REFS):
        if not isinstance(schema, dict):
            return None
        if "$ref" not in schema:
            return schema
        schema = resolve(root, schema["$ref"])
    return None


def _values(node: dict[str, Any]) -> frozenset[bytes] | None:
    if "const" in node:
        return frozenset({_to_json(node["const"])})
    return frozenset(map(_to_json, node["enum"])) if "enum" in node else None


def _to_json(value: Any) -> bytes:
    # 1.0 and 1 are one number.
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def _kind_of(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    names = {str: "string", int: "number", float: "number", list: "array", dict: "object", type(None): "null"}
    return names[type(value)]

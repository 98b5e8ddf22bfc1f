"""Of which JSON types an argument may be: GLM writes texts as they are, and everything else as JSON.

In: the schema of a function's arguments. Out: per argument the types that its value may have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from engines.json_schema import JsonSchemaError, resolve

ALL_TYPES: Final = frozenset({"string", "number", "boolean", "null", "array", "object"})
_MAX_STEPS: Final = 200
_MAX_STEPS_IN_ALL: Final = 20_000


class ArgumentTypes:
    """The types of one function's arguments.

    The schema of a function that is not strict is as its caller wrote it: a keyword's value may be of any type.

    Args:
        parameters: JSON text of the schema.
    """

    def __init__(self, parameters: str) -> None:
        self.root: dict[str, Any] = orjson.loads(parameters)
        self.num_bytes = len(parameters)
        # A schema may be asked about from many places. All are inside `root`, so that their ids stay theirs.
        self._found: dict[int, frozenset[str]] = {}
        self._num_steps_left = _MAX_STEPS_IN_ALL
        self._led_to: dict[str, Any] = {}
        self.top = self.follow(self.root)
        properties = self.top.get("properties")
        self.properties: Mapping[str, Any] = properties if isinstance(properties, dict) else {}
        self.required = [name for name in _items(self.top.get("required")) if isinstance(name, str)]

    def of(self, name: str) -> frozenset[str]:
        """Return the types that an argument's value may have; all of them where the schema does not say."""
        return self.of_schema(self.properties[name]) if name in self.properties else ALL_TYPES

    def of_schema(self, schema: Any) -> frozenset[str]:
        """Return the types of the values that a schema inside the function's own allows."""
        if id(schema) not in self._found:
            self._found[id(schema)] = self._of(schema, [_MAX_STEPS])
        return self._found[id(schema)]

    def _of(self, schema: Any, left: list[int]) -> frozenset[str]:
        node = self.follow(schema)
        left[0] -= 1
        self._num_steps_left -= 1
        if left[0] < 0 or self._num_steps_left < 0:
            return ALL_TYPES
        if "const" in node:
            return frozenset({type_of(node["const"])})
        if isinstance(node.get("enum"), list) and node["enum"]:
            return frozenset(map(type_of, node["enum"]))
        found = ALL_TYPES
        kinds = node.get("type")
        if kinds is not None:
            listed = kinds if isinstance(kinds, list) else [kinds]
            named = (kind for kind in listed if isinstance(kind, str))
            found = frozenset("number" if kind == "integer" else kind for kind in named) & ALL_TYPES
        for keyword in ("anyOf", "oneOf"):
            if isinstance(options := node.get(keyword), list) and options:
                found &= frozenset().union(*(self._of(option, left) for option in options))
        for option in _items(node.get("allOf")):
            found &= self._of(option, left)
        return found or ALL_TYPES

    def follow(self, schema: Any) -> dict[str, Any]:
        """Return what a schema says, or what its references lead to; nothing if they lead nowhere."""
        for _ in range(_MAX_STEPS):
            if not isinstance(schema, dict):
                return {}
            if not isinstance(schema.get("$ref"), str):
                return schema
            schema = self._resolve(schema["$ref"])
        return {}

    def _resolve(self, ref: str) -> Any:
        if ref not in self._led_to:
            try:
                self._led_to[ref] = resolve(self.root, ref)
            except JsonSchemaError:
                self._led_to[ref] = None
        return self._led_to[ref]


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def type_of(value: Any) -> str:
    """Return the JSON type of a value."""
    if isinstance(value, bool):
        return "boolean"
    names = {str: "string", int: "number", float: "number", list: "array", dict: "object", type(None): "null"}
    return names[type(value)]

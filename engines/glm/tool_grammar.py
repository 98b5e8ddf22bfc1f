"""What a call may look like: GLM's format for the functions of one request, as a grammar over its tokens.

In: a `ToolUse` and the ids of the marks. Out: the text of a grammar (Lark, as llguidance reads it). Texts stand as they
are between the marks of an argument, everything else as JSON; arguments come in the order of the schema.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import orjson

from engines.json_schema import JsonSchemaError, check_schema, unsupported
from engines.runtime.schema_grammar import to_compilable, with_bounded_numbers
from engines.tool_text import CALL, CALL_END, KEY, KEY_END, VALUE, VALUE_END
from engines.tool_values import ALL_TYPES, ArgumentTypes
from engines.tools import NO_PARAMETERS, Tool, ToolUse

# A model that may write white space between JSON's tokens can write newlines until the limit.
_JSON_OPTIONS: Final = {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"}
_ANY_TEXT: Final = "/(?s:.)*/"
_KEY_TEXT: Final = "/[^\\n<>]{1,64}/"
_DEFINITIONS: Final = ("$defs", "definitions")
_MAX_OPTIONS: Final = 32
# Of all arguments together: options that lead to each other double with every level, and 32 levels never end.
_MAX_OPTIONS_IN_ALL: Final = 4096
# Of all schemas that are checked, with the definitions that each of them needs: 4 MB take about a second.
_MAX_CHECKED_BYTES: Final = 4_000_000


class UnfollowableError(Exception):
    """A schema that only a looser grammar can be made of; no caller sees it."""


def to_grammar(tool_use: ToolUse, mark_ids: Mapping[str, int], *, is_relaxed: bool = False) -> str:
    """Write the grammar of an answer's calls.

    Where calls must be made it begins with the first call's mark, else behind it: what was said before is free.

    Args:
        tool_use: what may be called.
        mark_ids: of the marks in `engines.tool_text`.
        is_relaxed: hold functions that are not strict to the names of their arguments alone.

    Raises:
        JsonSchemaError: for a strict function whose schema cannot be kept.
    """
    writer = _Writer(mark_ids)
    calls = [writer.call(tool, is_relaxed=is_relaxed and not tool.is_strict) for tool in tool_use.tools]
    mark = writer.mark(CALL)
    more = f' ("\\n"? {mark} call)*' if tool_use.is_parallel else ""
    first = f"{mark} call" if tool_use.is_required else "call"
    return "\n".join([f"start: {first}{more}", f"call: {' | '.join(calls)}", *writer.rules])


class _Writer:
    """Writes rules.

    Args:
        mark_ids: of the marks.
    """

    def __init__(self, mark_ids: Mapping[str, int]) -> None:
        self._mark_ids = mark_ids
        self._num_options_left = _MAX_OPTIONS_IN_ALL
        self._num_bytes_left = _MAX_CHECKED_BYTES
        self.rules: list[str] = []

    def mark(self, mark: str) -> str:
        return f"<[{self._mark_ids[mark]}]>"

    def call(self, tool: Tool, *, is_relaxed: bool) -> str:
        """Write the rule of one function's calls; return its name."""
        types = ArgumentTypes(tool.parameters)
        top = types.top
        if tool.is_strict and any(keyword in top for keyword in ("anyOf", "oneOf", "allOf", "patternProperties")):
            raise unsupported(next(word for word in ("anyOf", "oneOf", "allOf", "patternProperties") if word in top))
        named = dict.fromkeys([*types.properties, *types.required])
        arguments = [
            self._argument(types, name, is_strict=tool.is_strict, is_relaxed=is_relaxed)
            + ("" if name in types.required else "?")
            for name in named
        ]
        if not named and top.get("additionalProperties") is not False and tool.parameters != NO_PARAMETERS:
            key, value = self.mark(KEY), self.mark(VALUE)
            any_key = f'{key} {_KEY_TEXT} {self.mark(KEY_END)} "\\n" {value} {_ANY_TEXT} {self.mark(VALUE_END)} "\\n"'
            arguments = [f"({any_key})*"]
        return self._rule("call", f"{_literal(tool.name + chr(10))} {' '.join(arguments)} {self.mark(CALL_END)}")

    def _argument(self, types: ArgumentTypes, name: str, *, is_strict: bool, is_relaxed: bool) -> str:
        value = _ANY_TEXT
        if name in types.properties:
            try:
                value = self._value(types, types.properties[name], 0)
                if is_relaxed:
                    raise UnfollowableError(name)
            except (UnfollowableError, JsonSchemaError) as error:
                if is_strict:
                    raise error if isinstance(error, JsonSchemaError) else unsupported(str(error)) from error
                value = self._of_types(types.of(name))
        key = f"{self.mark(KEY)} {_literal(name)} {self.mark(KEY_END)}"
        return self._rule("argument", f'{key} "\\n" {self.mark(VALUE)} ({value}) {self.mark(VALUE_END)} "\\n"')

    def _value(self, types: ArgumentTypes, schema: Any, depth: int) -> str:
        """Write what a schema allows.

        Raises:
            UnfollowableError: if it holds what this grammar has no words for; its text names the keyword.
            JsonSchemaError: if it cannot be followed at all.
        """
        kinds = types.of_schema(schema)
        if "string" not in kinds:
            return self._json(types, schema)
        node = types.follow(schema)
        if kinds == {"string"}:
            return _text(node)
        listed = node.get("enum")
        if isinstance(listed, list):
            texts = [value for value in listed if isinstance(value, str)]
            others = [value for value in listed if not isinstance(value, str)]
            return f"{_text({'enum': texts})} | {self._json(types, {'enum': others})}"
        options = node.get("anyOf") or node.get("oneOf")
        if isinstance(options, list) and 0 < len(options) <= _MAX_OPTIONS and depth < _MAX_OPTIONS:
            self._num_options_left -= len(options)
            if self._num_options_left < 0:
                raise UnfollowableError("anyOf")
            return " | ".join(self._value(types, option, depth + 1) for option in options)
        if kinds == ALL_TYPES:
            return _ANY_TEXT
        rest = {**node, "type": [kind for kind in node.get("type") or () if kind != "string"]}
        return f"{_text(node)} | {self._json(types, rest)}"

    def _json(self, types: ArgumentTypes, schema: Any) -> str:
        inner = dict(schema) if isinstance(schema, dict) else {}
        num_bytes = len(text := orjson.dumps(inner))
        if b'"$ref"' in text:
            for name in _DEFINITIONS:
                if name in types.root:
                    inner.setdefault(name, types.root[name])
                    num_bytes += types.num_bytes
        self._num_bytes_left -= num_bytes
        if self._num_bytes_left < 0:
            raise UnfollowableError("$ref")
        root = orjson.loads(check_schema(inner).text)
        root = with_bounded_numbers(to_compilable(root))
        return f"%json {orjson.dumps({'x-guidance': _JSON_OPTIONS, **root}).decode()}"

    def _of_types(self, kinds: frozenset[str]) -> str:
        if "string" in kinds:
            return _ANY_TEXT
        options = {"x-guidance": _JSON_OPTIONS, "type": sorted(kinds)}
        return f"%json {orjson.dumps(options).decode()}"

    def _rule(self, kind: str, text: str) -> str:
        name = f"{kind}_{len(self.rules)}"
        self.rules.append(f"{name}: {text}")
        return name


def _text(node: Mapping[str, Any]) -> str:
    """Write what a schema allows of texts."""
    listed = [node["const"]] if "const" in node else node.get("enum")
    if isinstance(listed, list):
        options = " | ".join(_literal(text) for text in listed if text)
        return f"({options})?" if "" in listed else options
    low, high, pattern = node.get("minLength", 0), node.get("maxLength"), node.get("pattern")
    if not isinstance(low, int) or not isinstance(high, int | None) or not isinstance(pattern, str | None):
        raise UnfollowableError("minLength, maxLength or pattern of a wrong type")
    if pattern is not None:
        if low or high is not None:
            raise UnfollowableError("pattern with minLength or maxLength")
        return f"/{_whole(pattern)}/"
    if high is None:
        return _ANY_TEXT if not low else f"/(?s:.){{{low},}}/"
    return f"/(?s:.){{{low},{high}}}/"


def _whole(pattern: str) -> str:
    """Write a pattern, which may be anywhere in the text, as one of the whole text."""
    begins, ends = pattern.startswith("^"), pattern.endswith("$") and not pattern.endswith("\\$")
    bare = pattern[begins : len(pattern) - ends].replace("/", "\\/").replace("\\\\/", "\\/").replace("\n", "\\n")
    return f"{'' if begins else '(?s:.)*'}(?:{bare}){'' if ends else '(?s:.)*'}"


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)

"""Functions and their calls as chat-completions JSON has them, and back.

In: the fields of a body that speak of tools, or a `ToolUse` and calls. Out: the one made from the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field

from engines.base import InvalidRequestError
from engines.json_schema import JsonSchemaError, check_schema
from engines.tools import MAX_TOOLS, NO_PARAMETERS, TOOL_NAME, Tool, ToolCall, ToolCallDelta, ToolUse, arguments_of

NO_INDEX: Final = -1  # of a piece that does not say which call it belongs to
ACCEPTED_CHOICES: Final = "'none', 'auto', 'required', or {'type': 'function', 'function': {'name': ...}}"


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class FunctionIn(_Model):
    """A function that may be called."""

    name: str = Field(pattern=f"^(?:{TOOL_NAME.pattern})$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolIn(_Model):
    """One of ``tools``."""

    type: Literal["function"]
    function: FunctionIn


class CalledFunctionIn(_Model):
    """What was called, and with what."""

    name: str = Field(pattern=f"^(?:{TOOL_NAME.pattern})$")
    arguments: str


class ToolCallIn(_Model):
    """A call of an earlier answer, sent back."""

    id: str = Field("", max_length=256)
    type: Literal["function"] = "function"
    function: CalledFunctionIn


def to_tool(function: FunctionIn, param: str) -> Tool:
    """Check a function.

    Args:
        function: as it was sent.
        param: the field it came in, which errors name.

    Raises:
        JsonSchemaError: if its parameters are no object's schema, or, of a strict function, cannot be guaranteed.
    """
    if function.parameters is None:
        return Tool(function.name, function.description or "", is_strict=bool(function.strict))
    field = f"{param}.parameters"
    schema = dict(function.parameters)
    if schema.setdefault("type", "object") != "object":
        raise InvalidRequestError(
            f"'{field}' must be the JSON Schema of an object, with 'type': 'object'.", param=field, code="invalid_value"
        )
    try:
        text = check_schema(schema).text
    except JsonSchemaError as error:
        if function.strict:
            error.param = field
            raise
        text = _as_sent(schema, field)
    return Tool(function.name, function.description or "", text, is_strict=bool(function.strict))


def _as_sent(schema: Mapping[str, Any], field: str) -> str:
    """Write a schema that calls need not be held to: the model reads it, and so does the caller."""
    try:
        text = orjson.dumps(schema)
    except (orjson.JSONEncodeError, RecursionError) as error:
        raise InvalidRequestError(f"'{field}' cannot be written as JSON: {error}.", param=field) from error
    return text.decode()


def check_names(tools: Sequence[Tool], param: str = "tools") -> None:
    """Refuse more functions than a model can tell apart, and two of one name.

    Raises:
        InvalidRequestError: naming the field.
    """
    if len(tools) > MAX_TOOLS:
        raise InvalidRequestError(
            f"'{param}' has {len(tools)} functions; at most {MAX_TOOLS} are accepted.", param=param
        )
    names = [tool.name for tool in tools]
    if (twice := next((name for place, name in enumerate(names) if name in names[:place]), None)) is not None:
        raise InvalidRequestError(f"'{param}' has two functions with the name '{twice}'.", param=param)


def from_choice(tools: Sequence[ToolIn], choice: object, *, is_parallel: bool) -> ToolUse | None:
    """Read the three fields of a chat-completions body that an engine is asked with.

    Raises:
        InvalidRequestError: naming the field at fault.
    """
    if not tools or choice == "none":
        if choice not in (None, "none", "auto"):
            raise InvalidRequestError("'tool_choice' needs 'tools'.", param="tool_choice")
        return None
    offered = tuple(to_tool(tool.function, f"tools[{place}].function") for place, tool in enumerate(tools))
    check_names(offered)
    if choice in (None, "auto", "required"):
        return ToolUse(offered, is_required=choice == "required", is_parallel=is_parallel)
    name = _chosen_name(choice)
    if name is None:
        raise InvalidRequestError(f"'tool_choice' must be {ACCEPTED_CHOICES}.", param="tool_choice")
    chosen = tuple(tool for tool in offered if tool.name == name)
    if not chosen:
        raise InvalidRequestError(f"'tool_choice' names '{name}', which is not in 'tools'.", param="tool_choice")
    return ToolUse(chosen, is_required=True, is_parallel=False)


def _chosen_name(choice: object) -> str | None:
    function = choice.get("function") if isinstance(choice, dict) and choice.get("type") == "function" else None
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else None


def from_calls(calls: Sequence[ToolCallIn], param: str) -> tuple[ToolCall, ...]:
    """Read the calls of an earlier answer.

    Raises:
        InvalidRequestError: if one's arguments are no JSON object.
    """
    read = []
    for place, call in enumerate(calls):
        arguments = call.function.arguments if call.function.arguments.strip() else "{}"
        try:
            arguments_of(arguments)
        except ValueError as error:
            field = f"{param}[{place}].function.arguments"
            raise InvalidRequestError(f"'{field}' must be the JSON text of an object.", param=field) from error
        read.append(ToolCall(call.id, call.function.name, arguments))
    return tuple(read)


def to_fields(tool_use: ToolUse | None) -> dict[str, Any]:
    """Return the fields that ask any server for what may be called."""
    if tool_use is None:
        return {}
    fields: dict[str, Any] = {"tools": [to_wire_tool(tool) for tool in tool_use.tools]}
    fields["tool_choice"] = "required" if tool_use.is_required else "auto"
    if not tool_use.is_parallel:
        fields["parallel_tool_calls"] = False
    return fields


def to_wire_tool(tool: Tool) -> dict[str, Any]:
    """Return a function as chat completions have it; its schema goes out as it is written."""
    function: dict[str, Any] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    if tool.parameters != NO_PARAMETERS:
        function["parameters"] = orjson.Fragment(tool.parameters)
    if tool.is_strict:
        function["strict"] = True
    return {"type": "function", "function": function}


def to_wire_calls(calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
    """Return whole calls as a message has them."""
    return [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in calls
    ]


def to_wire_deltas(pieces: Sequence[ToolCallDelta]) -> list[dict[str, Any]]:
    """Return pieces of calls as a chunk has them: a call's first piece names it."""
    return [
        {
            "index": piece.index,
            "id": piece.id,
            "type": "function",
            "function": {"name": piece.name, "arguments": piece.arguments},
        }
        if piece.name
        else {"index": piece.index, "function": {"arguments": piece.arguments}}
        for piece in pieces
    ]

"""Functions of a Messages request, as a chat request has them.

In: the validated tools and choice. Out: fields of the chat request; the name of a field of ours in their request.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from router.api.anthropic import texts
from router.api.anthropic.shapes import CountRequest, CustomTool, ToolChoice
from router.errors import BadRequestError

# What a chat has inside ``function``, a tool here has beside its name.
_FIELD: Final = re.compile(r"(tools\[\d+\])\.function\b(\.parameters\b)?")
_CHOICES: Final = {"auto": "auto", "any": "required", "none": "none"}


def to_tool_fields(body: CountRequest) -> dict[str, Any]:
    """Return the fields of a chat request that speak of functions.

    Raises:
        BadRequestError: for a function that only another one's code may call, and a choice that names none.
    """
    choice = body.tool_choice
    fields: dict[str, Any] = {}
    if body.tools:
        fields["tools"] = [_to_chat_tool(tool, f"tools[{place}]") for place, tool in enumerate(body.tools)]
    if choice is not None:
        fields["tool_choice"] = _to_chat_choice(choice)
        fields["parallel_tool_calls"] = not choice.disable_parallel_tool_use
    return fields


def in_their_words(name: str) -> str:
    """Return a text about fields of a chat request's functions with the fields of a Messages request in it."""
    return _FIELD.sub(lambda found: found[1] + (".input_schema" if found[2] else ""), name)


def _to_chat_tool(tool: CustomTool, param: str) -> dict[str, Any]:
    if tool.allowed_callers and "direct" not in tool.allowed_callers:
        raise BadRequestError(
            texts.CALLED_BY_MODEL.fill(param=f"{param}.allowed_callers"),
            code="unsupported_value",
            param=f"{param}.allowed_callers",
        )
    parts = [tool.description or ""]
    parts += [f"Example: {json.dumps(each, ensure_ascii=False)}" for each in tool.input_examples or ()]
    function = {
        "name": tool.name,
        "description": "\n".join(part for part in parts if part),
        "parameters": tool.input_schema,
        "strict": tool.strict,
    }
    return {"type": "function", "function": function}


def _to_chat_choice(choice: ToolChoice) -> Any:
    if choice.type != "tool":
        return _CHOICES[choice.type]
    if not choice.name:
        raise BadRequestError(texts.NAME_THE_TOOL, code="missing_required_parameter", param="tool_choice.name")
    return {"type": "function", "function": {"name": choice.name}}

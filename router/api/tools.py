"""Functions that a request offers, of either endpoint: which may be called in its answer, and which must be.

In: a validated body. Out: a `ToolUse`, or None where none may be called; a `BadRequestError` names the field.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic import ValidationError

from engines.base import InvalidRequestError
from engines.http.tools import FunctionIn, check_names, to_tool
from engines.json_schema import JsonSchemaError
from engines.tools import MAX_TOOLS, Tool, ToolUse
from policies.text import Text
from router.api import texts
from router.api.invalid import to_invalid
from router.api.other_fields import unsupported
from router.api.schemas import ChatRequest, Sampling
from router.errors import BadRequestError

_MODES: Final = ("none", "auto", "required")


def to_tool_use(request: Sampling) -> ToolUse | None:
    """Read what may be called.

    Args:
        request: of either endpoint; Responses have a function's fields beside its type, chats inside ``function``.

    Raises:
        BadRequestError: for tools that are no functions, a function that cannot be offered, or a choice without one.
    """
    is_chat = isinstance(request, ChatRequest)
    tools = tuple(_to_tool(sent, place, is_chat=is_chat) for place, sent in enumerate((request.tools or [])[:_MOST]))
    try:
        check_names(tools)
    except InvalidRequestError as error:
        raise unsupported("tools", _about_names(tools)) from error
    mode, names = _read_choice(request.tool_choice, is_chat=is_chat)
    for name in names or ():
        if all(tool.name != name for tool in tools):
            raise unsupported("tool_choice", texts.NOT_AMONG_TOOLS.fill(name=name[:64]))
    if mode == "required" and not tools:
        raise unsupported("tool_choice", texts.CHOICE_NEEDS_TOOLS)
    allowed = tools if names is None else tuple(tool for tool in tools if tool.name in names)
    if mode == "none" or not allowed:
        return None
    is_one = isinstance(request.tool_choice, dict) and request.tool_choice.get("type") == "function"
    is_parallel = request.parallel_tool_calls is not False and not is_one
    return ToolUse(allowed, is_required=mode == "required", is_parallel=is_parallel)


# One more than are accepted says that there are too many.
_MOST: Final = MAX_TOOLS + 1


def echo_of(request: Sampling) -> dict[str, Any]:
    """Return what a Response object repeats of a request's tools, in its own shape."""
    if not request.tools:
        return {}
    choice = request.tool_choice
    return {
        "tools": [{"description": None, "parameters": None, "strict": False, **sent} for sent in request.tools],
        "tool_choice": "auto" if choice is None else choice,
        "parallel_tool_calls": request.parallel_tool_calls is not False,
    }


def _to_tool(sent: Any, place: int, *, is_chat: bool) -> Tool:
    param = f"tools[{place}]"
    if not isinstance(sent, dict):
        said = texts.INVALID_PARAMETER.fill(param=param, says=texts.SHAPES["dict_type"])
        raise BadRequestError(said, code="invalid_value", param=param)
    kind = sent.get("type")
    if kind != "function":
        shown = kind[:64] if isinstance(kind, str) else "?"
        raise unsupported(f"{param}.type", texts.FUNCTIONS_ONLY.fill(kind=shown))
    param = f"{param}.function" if is_chat else param
    if is_chat and "function" not in sent:
        said = texts.MISSING_PARAMETER.fill(param=param)
        raise BadRequestError(said, code="missing_required_parameter", param=param)
    function_sent = sent.get("function") if is_chat else sent
    try:
        function = FunctionIn.model_validate(function_sent)
    except ValidationError as error:
        raise to_invalid(error, function_sent, param) from None
    try:
        return to_tool(function, param)
    except JsonSchemaError as error:
        message = Text(error.message, error.message_zh)
        raise BadRequestError(message, code=error.code, param=error.param) from error
    except InvalidRequestError as error:
        field = error.param or param
        raise BadRequestError(texts.NO_OBJECT_SCHEMA.fill(param=field), code="invalid_value", param=field) from error


def _about_names(tools: Sequence[Tool]) -> Text:
    return texts.TOO_MANY_TOOLS.fill(most=MAX_TOOLS) if len(tools) > MAX_TOOLS else texts.ONE_OF_EACH_NAME


def _read_choice(choice: Any, *, is_chat: bool) -> tuple[str, list[str] | None]:
    """Return the mode, and the names of the functions that it is about; None for all."""
    if choice is None:
        return "auto", None
    if isinstance(choice, str) and choice in _MODES:
        return choice, None
    if isinstance(choice, dict):
        name = _name_of(choice, is_chat=is_chat)
        if name is not None:
            return "required", [name]
        if choice.get("type") == "allowed_tools":
            return _read_allowed(choice, is_chat=is_chat)
    raise unsupported("tool_choice", texts.TOOL_CHOICES)


def _read_allowed(choice: Mapping[str, Any], *, is_chat: bool) -> tuple[str, list[str]]:
    nested = choice.get("allowed_tools")
    allowed = nested if isinstance(nested, dict) else choice
    mode, listed = allowed.get("mode"), allowed.get("tools")
    names = [_name_of(each, is_chat=is_chat) for each in listed] if isinstance(listed, list) else []
    known = [name for name in names if name is not None]
    if mode not in ("auto", "required") or not known or len(known) < len(names):
        raise unsupported("tool_choice", texts.ALLOWED_TOOLS)
    return str(mode), known


def _name_of(choice: Any, *, is_chat: bool) -> str | None:
    """Return the function that a choice names; chats name it inside ``function``."""
    if not isinstance(choice, dict) or choice.get("type") != "function":
        return None
    inner = choice.get("function")
    name = inner.get("name") if is_chat and isinstance(inner, dict) else choice.get("name")
    return name if isinstance(name, str) else None

"""How the echo engine calls functions: as the question scripts it.

In: a request with functions. Out: what the echo says before its calls, and the calls. A question scripts them line by
line, as ``say: TEXT`` and ``call: NAME {"argument": ...}``; only functions that may be called are. The answer to
results says them back. Where a call is a must and none is scripted, the first function is called with a small value
that satisfies its schema.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from engines.base import GenerationRequest
from engines.json_schema import ANY_OBJECT, from_schema_text
from engines.tools import ToolCall, ToolUse, arguments_of, new_call_id


def scripted_calls(
    request: GenerationRequest, example: Callable[[dict[str, Any]], Any]
) -> tuple[str, tuple[ToolCall, ...]] | None:
    """Return the words and the calls of an answer; None if it is to be words alone.

    Args:
        request: what was asked.
        example: returns a value that satisfies a schema.
    """
    tool_use = request.sampling.tool_use
    if tool_use is None:
        return None
    question = request.messages[-1].text if request.messages[-1].role == "user" else ""
    calls = [call for call in map(_to_call, _lines(question, "call:")) if call is not None and tool_use.find(call.name)]
    if not calls and tool_use.is_required:
        calls = [_first_of(tool_use, example)]
    if not calls:
        return None
    words = "" if tool_use.is_required else "\n".join(_lines(question, "say:"))
    return words, tuple(calls if tool_use.is_parallel else calls[:1])


def _lines(question: str, keyword: str) -> list[str]:
    """Return what follows a keyword at the beginning of lines, in time linear in the question's length."""
    lines = (line.strip() for line in question.split("\n"))
    return [line[len(keyword) :].strip() for line in lines if line.startswith(keyword)]


def _to_call(script: str) -> ToolCall | None:
    """Read ``NAME {"argument": ...}``; None if it is something else."""
    name, *arguments = script.split(maxsplit=1) or [""]
    try:
        value = arguments_of(*arguments or ["{}"])
    except ValueError:
        return None
    return ToolCall(new_call_id(), name, json.dumps(value, ensure_ascii=False))


def _first_of(tool_use: ToolUse, example: Callable[[dict[str, Any]], Any]) -> ToolCall:
    tool = tool_use.tools[0]
    value = {} if tool.parameters == ANY_OBJECT else example(from_schema_text(tool.parameters))
    return ToolCall(new_call_id(), tool.name, json.dumps(value, ensure_ascii=False))

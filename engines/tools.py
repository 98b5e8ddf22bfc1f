"""Functions that a model may call, and its calls of them: the nouns, and what can be wrong with a call.

In: what a caller offers, and pieces of calls as a model writes them. Out: whole calls, in order. This module imports
neither torch nor a web framework.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

ID_CHARS: Final = 24
MAX_TOOLS: Final = 128
# What separates a name from what follows it in a model's text may be no part of it.
TOOL_NAME: Final = re.compile(r"[^\s<>\"'\\]{1,128}")
NO_PARAMETERS: Final = '{"type":"object","properties":{}}'


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that a model may call.

    Attributes:
        name: as `TOOL_NAME`.
        description: what it does, for the model.
        parameters: JSON text of a JSON Schema of one object: its arguments. Properties keep their order.
        is_strict: every call's arguments satisfy the schema. Otherwise they are held to it as far as they can be.
    """

    name: str
    description: str = ""
    parameters: str = NO_PARAMETERS
    is_strict: bool = False


@dataclass(frozen=True, slots=True)
class ToolUse:
    """What may be called in an answer.

    Attributes:
        tools: the functions, at least one.
        is_required: the answer is a call of one of them, and no words. One function that must be called is alone here.
        is_parallel: the answer may hold several calls.
    """

    tools: tuple[Tool, ...]
    is_required: bool = False
    is_parallel: bool = True

    def find(self, name: str) -> Tool | None:
        """Return the function of a name."""
        return next((tool for tool in self.tools if tool.name == name), None)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ToolUse:
        """Read what `dataclasses.asdict` wrote, by whichever release; what is not known here is left out."""
        return cls(
            tuple(Tool(**{key: value for key, value in each.items() if key in _TOOL_FIELDS}) for each in data["tools"]),
            bool(data.get("is_required")),
            bool(data.get("is_parallel", True)),
        )


_TOOL_FIELDS: Final = frozenset(Tool.__slots__)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that a model made.

    Attributes:
        id: names it; its result comes back under the same.
        name: of the function.
        arguments: JSON text of an object; cut short only where the whole answer is.
    """

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of a call.

    Attributes:
        index: of the call in the answer, from 0.
        id: only in a call's first piece.
        name: likewise.
        arguments: what is added to the text of its arguments.
    """

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


def new_call_id() -> str:
    """Return an id for a call: no two calls of a conversation have the same."""
    return f"call_{secrets.token_hex(ID_CHARS // 2)}"


class GrowingCalls:
    """Calls, put together from their pieces."""

    def __init__(self) -> None:
        self._heads: list[tuple[str, str]] = []
        self._arguments: list[list[str]] = []

    def __len__(self) -> int:
        return len(self._heads)

    def add(self, delta: ToolCallDelta) -> None:
        """Take the next piece; calls begin in the order of their indices."""
        if delta.index == len(self._heads):
            self._heads.append((delta.id, delta.name))
            self._arguments.append([])
        self._arguments[delta.index].append(delta.arguments)

    def whole(self) -> tuple[ToolCall, ...]:
        """Return the calls as they are by now."""
        return tuple(
            ToolCall(id_, name, "".join(arguments))
            for (id_, name), arguments in zip(self._heads, self._arguments, strict=True)
        )


def arguments_of(text: str) -> dict[str, Any]:
    """Read the arguments of a call.

    Raises:
        ValueError: if they are no JSON object.
    """
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError("the arguments are nested too deep") from error
    if not isinstance(value, dict):
        raise ValueError("the arguments are no JSON object")
    return value

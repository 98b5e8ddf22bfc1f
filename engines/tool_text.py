"""GLM's own way to write calls: marks, and the names and values between them, read while they are written.

In: marks and texts, in order; by id from our own engine, out of the text of a server that lets the marks through. Out:
pieces of calls whose arguments are JSON. The format::

    <tool_call>name
    <arg_key>key</arg_key>
    <arg_value>value</arg_value>
    </tool_call>
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final, Literal

from engines.base import GenerationFailedError
from engines.boxes import num_begun
from engines.json_check import parse
from engines.tool_values import ALL_TYPES, ArgumentTypes, type_of
from engines.tools import Tool, ToolCallDelta, ToolUse, new_call_id

CALL: Final = "<tool_call>"
CALL_END: Final = "</tool_call>"
KEY: Final = "<arg_key>"
KEY_END: Final = "</arg_key>"
VALUE: Final = "<arg_value>"
VALUE_END: Final = "</arg_value>"
MARKS: Final = (CALL, CALL_END, KEY, KEY_END, VALUE, VALUE_END)

_State = Literal["outside", "name", "between", "key", "keyed", "value"]
# What may follow in each state, beside text.
_NEXT: Final[dict[_State, dict[str, _State]]] = {
    "outside": {CALL: "name"},
    "name": {KEY: "key", CALL_END: "outside"},
    "between": {KEY: "key", CALL_END: "outside"},
    "key": {KEY_END: "keyed"},
    "keyed": {VALUE: "value"},
    "value": {VALUE_END: "between"},
}


class CallReader:
    """Reads the calls of one answer.

    A call's name is told as soon as it is whole, texts as they come, and other values when they are whole.

    Args:
        tool_use: what may be called.

    Attributes:
        is_over: all that may be called was: whatever follows is no part of the answer.
    """

    def __init__(self, tool_use: ToolUse) -> None:
        self._tool_use = tool_use
        self._state: _State = "outside"
        self._held = ""
        self._key = ""
        self._keys: set[str] = set()
        self._types: frozenset[str] = frozenset()
        self._arguments = ArgumentTypes("{}")
        self._num_begun = 0
        self.is_over = False

    @property
    def has_begun(self) -> bool:
        """Whether there was a call, or is the beginning of one."""
        return self._num_begun > 0

    @property
    def is_open(self) -> bool:
        """Whether a call has begun and not ended."""
        return self._state != "outside"

    def mark(self, mark: str) -> tuple[ToolCallDelta, ...]:
        """Take one of `MARKS`.

        Raises:
            GenerationFailedError: if it cannot stand here, or ends something that is no name or value.
        """
        if self.is_over:
            return ()
        following = _NEXT[self._state].get(mark)
        if following is None:
            raise _malformed(f"{mark} is at the wrong place")
        told = self._end_of_state(mark)
        self._state, self._held = following, ""
        if mark == CALL:
            self._num_begun += 1
        if mark == CALL_END and not self._tool_use.is_parallel:
            self.is_over = True
        return told

    def text(self, text: str) -> tuple[ToolCallDelta, ...]:
        """Take what stands between two marks, or a part of it; between calls it is no part of the answer.

        Raises:
            GenerationFailedError: if there can be no text here.
        """
        if self.is_over or self._state == "outside":
            return ()
        if self._state == "value" and self._types == {"string"}:
            return self._tell(_escaped(text)) if text else ()
        if self._state in ("between", "keyed"):
            if text.strip():
                raise _malformed("there is text between its arguments")
            return ()
        self._held += text
        return ()

    def finish(self, *, is_cut: bool) -> None:
        """Take note that nothing follows.

        Args:
            is_cut: the answer ended before its model was done.

        Raises:
            GenerationFailedError: if the model stopped in the middle of a call.
        """
        if self.is_open and not is_cut:
            raise _malformed("it breaks off")

    def _end_of_state(self, mark: str) -> tuple[ToolCallDelta, ...]:
        """Tell what is whole with this mark."""
        if self._state == "name":
            begun = self._begin_call(self._held.strip())
            return (*begun, *self._tell("{}")) if mark == CALL_END else begun
        if self._state == "key":
            return self._begin_argument(self._held.strip())
        if self._state == "value":
            return self._tell('"') if self._types == {"string"} else self._tell(self._to_json(self._held))
        return self._tell("}") if mark == CALL_END else ()

    def _begin_call(self, name: str) -> tuple[ToolCallDelta, ...]:
        tool = find_tool(self._tool_use, name)
        self._arguments, self._keys = ArgumentTypes(tool.parameters), set()
        return (ToolCallDelta(self._num_begun - 1, new_call_id(), name),)

    def _begin_argument(self, key: str) -> tuple[ToolCallDelta, ...]:
        if key in self._keys:
            raise _malformed(f"it has the argument {key[:64]!r} twice")
        self._key, self._types = key, self._arguments.of(key)
        before = ", " if self._keys else "{"
        self._keys.add(key)
        quote = '"' if self._types == {"string"} else ""
        return self._tell(f"{before}{json.dumps(key, ensure_ascii=False)}: {quote}")

    def _to_json(self, text: str) -> str:
        """Write a value that is not certain to be a text: as JSON if it is such a value, else as a text if it may be.

        Raises:
            GenerationFailedError: if it is neither.
        """
        try:
            value = parse(text)
        except ValueError:
            value = None
            is_json = False
        else:
            is_json = type_of(value) in self._types
        # Quotes around a text are its own, unless it has to be no text.
        if is_json and (not isinstance(value, str) or "string" not in self._types or self._types == ALL_TYPES):
            return text.strip()
        if "string" in self._types:
            return json.dumps(text, ensure_ascii=False)
        raise _malformed(f"its argument {self._key[:64]!r} is none of {', '.join(sorted(self._types))}")

    def _tell(self, arguments: str) -> tuple[ToolCallDelta, ...]:
        return (ToolCallDelta(self._num_begun - 1, arguments=arguments),)


class CallText:
    """Finds calls in a text that comes in pieces, of a server that lets the marks through.

    Args:
        tool_use: what may be called.
    """

    def __init__(self, tool_use: ToolUse) -> None:
        self.reader = CallReader(tool_use)
        self._held = ""

    def push(self, text: str) -> tuple[str, tuple[ToolCallDelta, ...]]:
        """Add a piece; return the text before the calls, and the pieces of calls, that are certain.

        Raises:
            GenerationFailedError: for a call that is none.
        """
        self._held += text
        shown: list[str] = []
        told: list[ToolCallDelta] = []
        while True:
            marks = MARKS if self.reader.is_open else (CALL,)
            places = [(self._held.find(mark), mark) for mark in marks]
            place, mark = min(((at, mark) for at, mark in places if at >= 0), default=(-1, ""))
            if place < 0:
                break
            self._take(self._held[:place].rstrip() if mark == CALL else self._held[:place], shown, told)
            told += self.reader.mark(mark)
            self._held = self._held[place + len(mark) :]
        kept = num_begun(self._held, marks)
        if not self.reader.has_begun:  # the white space before a call is layout
            bare = self._held[: len(self._held) - kept]
            kept += len(bare) - len(bare.rstrip())
        self._take(self._held[: len(self._held) - kept], shown, told)
        self._held = self._held[len(self._held) - kept :]
        return "".join(shown), tuple(told)

    def finish(self, *, is_cut: bool) -> str:
        """Return the text that was held back; inside a call it is the beginning of a mark, which is cut off with it.

        Raises:
            GenerationFailedError: if the model stopped in the middle of a call.
        """
        self.reader.finish(is_cut=is_cut)
        rest, self._held = self._held, ""
        return "" if self.reader.has_begun else rest

    def _take(self, text: str, shown: list[str], told: list[ToolCallDelta]) -> None:
        if self.reader.has_begun:
            told += self.reader.text(text)
        else:
            shown.append(text)


def find_tool(tool_use: ToolUse, name: str) -> Tool:
    """Return the function of a name.

    Raises:
        GenerationFailedError: if no such function was offered.
    """
    tool = tool_use.find(name)
    if tool is None:
        raise GenerationFailedError(f"The model called a function that was not offered: {name[:64]!r}.")
    return tool


def argument_texts(arguments: dict[str, object]) -> Iterator[tuple[str, str]]:
    """Yield the arguments of a call as GLM writes them: texts as they are, everything else as JSON."""
    for key, value in arguments.items():
        yield key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _malformed(why: str) -> GenerationFailedError:
    return GenerationFailedError(f"The model wrote a function call that cannot be read: {why}.")

"""The calls in another server's answer: read with care, and held against what was asked for.

In: pieces of calls as the server sends them; or a text with GLM's own marks in it, from a server that does not read
them. Out: pieces as `engines.base.Delta` has them; what breaks the caller's wishes is no answer.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field, replace
from typing import Final

from engines import json_check
from engines.base import Delta, FinishReason, GenerationFailedError
from engines.schema_keywords import JsonSchemaError
from engines.tool_text import CallText, find_tool
from engines.tools import ToolCallDelta, ToolUse, new_call_id

log = logging.getLogger(__name__)

MAX_ID: Final = 128


@dataclass(slots=True)
class _Call:
    """A call as it grows.

    Attributes:
        theirs: its index and its id as the server names it.
        name: of the function, as far as it is known.
        arguments: pieces of their text.
        num_told: how many of them were told.
        is_named: its name was told.
    """

    theirs: tuple[int, str]
    name: str
    arguments: list[str] = field(default_factory=list)
    num_told: int = 0
    is_named: bool = False

    @property
    def is_complete(self) -> bool:
        """Whether its arguments can be no longer."""
        try:
            return isinstance(json_check.parse("".join(self.arguments)), dict)
        except ValueError:
            return False


class AnswerCalls:
    """Reads the calls of one answer; tells them one after the other, however their pieces come.

    Servers differ: some give every whole call the index 0 and an id of its own, some leave the index or the id out,
    some repeat the name in every piece, or send it in two. A call is a new one if its index is, or its id is another.

    Args:
        tool_use: what may be called.
        is_foreign: the server may not know GLM's marks.
    """

    def __init__(self, tool_use: ToolUse, *, is_foreign: bool) -> None:
        self._tool_use = tool_use
        self._text = CallText(tool_use) if is_foreign else None
        self._calls: list[_Call] = []
        self._num_ended = 0
        self._ids: set[str] = set()

    def read(self, delta: Delta) -> Delta:
        """Return what may be shown of a delta; text behind a call is no part of the answer.

        Raises:
            GenerationFailedError: for a call of what was not offered, or one that cannot be read.
        """
        is_behind = bool(self._calls)
        text, found = (delta.text, ()) if self._text is None else self._text.push(delta.text)
        if is_behind and text.strip():
            log.info("the engine wrote %d characters behind its function calls: left out", len(text))
        for piece in (*found, *delta.tool_calls):
            self._take(piece)
        return replace(delta, text="" if is_behind else text, tool_calls=self._tell())

    async def finish(self, rest: Delta, finish_reason: FinishReason | None) -> Delta:
        """Return the last delta, with why the answer ended: ``tool_calls`` if it has any and was not cut.

        Args:
            rest: what was held back before.
            finish_reason: as the server says it.

        Raises:
            GenerationFailedError: if a finished answer is not what was asked for.
        """
        is_cut = finish_reason not in ("stop", "tool_calls")
        last = self.read(rest)
        text = last.text
        if self._text is not None:
            text += self._text.finish(is_cut=is_cut)
        told = self._tell(is_end=True, is_cut=is_cut)
        last = replace(last, text=text, tool_calls=(*last.tool_calls, *told))
        if is_cut:
            return replace(last, finish_reason=finish_reason)
        if not self._calls and self._tool_use.is_required:
            raise GenerationFailedError("The engine called no function although it had to: it ignores 'tool_choice'.")
        if not self._calls and finish_reason == "tool_calls":
            raise GenerationFailedError("The engine says that it called a function, and has called none.")
        await asyncio.to_thread(self._check)
        return replace(last, finish_reason="tool_calls" if self._calls else "stop")

    @property
    def _wanted(self) -> list[_Call]:
        """The calls of the answer: only one, if only one was asked for."""
        return self._calls if self._tool_use.is_parallel else self._calls[:1]

    def _take(self, piece: ToolCallDelta) -> None:
        call = self._call_of(piece)
        if call is None:
            call = _Call((piece.index, piece.id), piece.name)
            self._calls.append(call)
        elif not call.arguments and piece.name not in ("", call.name):
            call.name += piece.name
        if piece.arguments:
            call.arguments.append(piece.arguments)

    def _call_of(self, piece: ToolCallDelta) -> _Call | None:
        """Return the call that a piece belongs to; None if it begins one."""
        if piece.id and (known := next((call for call in self._calls if call.theirs[1] == piece.id), None)):
            return known
        newest = next((call for call in reversed(self._calls) if call.theirs[0] == piece.index), None)
        if newest is None or (piece.id and newest.theirs[1]):
            return None
        # A name behind arguments begins a call, if it is not the same one repeated.
        return None if newest.arguments and piece.name not in ("", newest.name) else newest

    def _tell(self, *, is_end: bool = False, is_cut: bool = False) -> tuple[ToolCallDelta, ...]:
        """Return what can be told now; all, at the end."""
        told: list[ToolCallDelta] = []
        wanted = self._wanted
        while self._num_ended < len(wanted):
            index, call = self._num_ended, wanted[self._num_ended]
            if is_end and not is_cut and not call.arguments:
                call.arguments.append("{}")
            if not call.is_named and (call.arguments or is_end):
                call.is_named = True
                told.append(self._name(index, call))
            told += [ToolCallDelta(index, arguments=each) for each in call.arguments[call.num_told :]]
            call.num_told = len(call.arguments)
            if not (is_end or (len(wanted) > index + 1 and call.is_complete)):
                break
            self._num_ended += 1
        return tuple(told)

    def _name(self, index: int, call: _Call) -> ToolCallDelta:
        find_tool(self._tool_use, call.name)
        id_ = call.theirs[1]
        if not 0 < len(id_) <= MAX_ID or id_ in self._ids or not id_.isprintable():
            id_ = new_call_id()
        self._ids.add(id_)
        return ToolCallDelta(index, id_, call.name)

    def _check(self) -> None:
        for call in self._wanted:
            try:
                arguments = json_check.parse("".join(call.arguments))
            except ValueError as error:
                raise _bad_arguments(call.name, "are no JSON") from error
            if not isinstance(arguments, dict):
                raise _bad_arguments(call.name, "are no JSON object")
            tool = find_tool(self._tool_use, call.name)
            if not tool.is_strict:
                continue
            try:
                problem = json_check.to_check(tool.parameters)(arguments)
            except (json_check.UncheckableSchemaError, JsonSchemaError) as error:
                log.info("the arguments of %s were not held against their schema: %s", tool.name, error)
                continue
            if problem is not None:
                raise _bad_arguments(call.name, f"break their schema ({problem})")


def _bad_arguments(name: str, why: str) -> GenerationFailedError:
    return GenerationFailedError(f"The engine called {name[:64]!r} with arguments that {why}.")

"""Calls and results in a conversation: put together as an engine reads them.

In: turns as they were sent. Out: the same with each answer's calls in one turn and their results behind it, in the
calls' order: models match results by it, not by id. A `BadRequestError` says which id does not fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from engines.base import Message
from engines.tools import ToolCall, arguments_of
from router.api import texts
from router.errors import BadRequestError


def to_call(id_: str, name: str, arguments: str, param: str) -> ToolCall:
    """Read a call of an earlier answer.

    Raises:
        BadRequestError: if its arguments are no JSON object.
    """
    written = arguments if arguments.strip() else "{}"
    try:
        arguments_of(written)
    except ValueError as error:
        raise BadRequestError(texts.NO_ARGUMENTS.fill(param=param), code="invalid_value", param=param) from error
    return ToolCall(id_, name, written)


def in_order(messages: Sequence[Message], param: str) -> list[Message]:
    """Put calls and results in the order in which engines read them.

    Args:
        messages: of the whole conversation. Calls may be spread over neighbouring turns, as Responses have one item for
            each, and results may stand between them.
        param: the field that brought the conversation in.

    Raises:
        BadRequestError: for a result without its call, a call without its result, and two of either with one id.
    """
    if not any(message.tool_calls or message.role == "tool" for message in messages):
        return list(messages)
    ordered: list[Message] = []
    place = 0
    while place < len(messages):
        end = place
        while end < len(messages) and (messages[end].tool_calls or messages[end].role == "tool"):
            end += 1
        if end == place:
            ordered.append(messages[place])
            place += 1
            continue
        # The words before calls came as a turn of their own.
        before = ordered.pop() if ordered and ordered[-1].role == "assistant" else None
        ordered += _group(before, messages[place:end], param)
        place = end
    return ordered


def _group(before: Message | None, turns: Sequence[Message], param: str) -> list[Message]:
    """Order neighbouring calls and results: rounds of calls, each with its results."""
    grouped: list[Message] = [] if before is None else [before]
    open_calls: list[ToolCall] = []
    results: dict[str, Message] = {}

    def close() -> None:
        for call in open_calls:
            if call.id not in results:
                raise BadRequestError(texts.NO_RESULT.fill(id=call.id[:64]), code="invalid_value", param=param)
            grouped.append(results[call.id])
        open_calls.clear()
        results.clear()

    for turn in turns:
        if turn.role == "tool":
            id_ = turn.tool_call_id
            if id_ in results or all(call.id != id_ for call in open_calls):
                raise BadRequestError(texts.NO_CALL.fill(id=id_[:64]), code="invalid_value", param=param)
            results[id_] = turn
            continue
        if results and len(results) == len(open_calls):
            close()
        known = {call.id for call in open_calls}
        for call in turn.tool_calls:
            if not call.id or call.id in known:
                raise BadRequestError(texts.CALL_IDS.fill(id=call.id[:64]), code="invalid_value", param=param)
            known.add(call.id)
        last = grouped[-1] if grouped else None
        if last is not None and last.role == "assistant" and (open_calls or not last.tool_calls):
            calls = (*last.tool_calls, *turn.tool_calls)
            grouped[-1] = replace(last, parts=(*last.parts, *turn.parts), tool_calls=calls)
        else:
            grouped.append(turn)
        open_calls += turn.tool_calls
    close()
    return grouped

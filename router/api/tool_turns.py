"""Calls and results in a conversation: put together as an engine reads them.

In: turns as they were sent. Out: the same with each answer's calls in one turn and their results behind it, in the
calls' order: models match results by it, not by id. A `BadRequestError` says which id does not fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from engines.base import Message, Part
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
    """Order neighbouring calls and results: rounds of calls, each with its results.

    One request may have thousands of calls, and others wait while they are ordered: each is looked at once.
    """
    grouped: list[Message] = []
    answer = before
    parts: list[Part] = [] if before is None else list(before.parts)
    calls: dict[str, ToolCall] = {}
    results: dict[str, Message] = {}

    def close() -> None:
        nonlocal answer
        if answer is None:
            return
        for id_ in calls:
            if id_ not in results:
                raise BadRequestError(texts.NO_RESULT.fill(id=id_[:64]), code="invalid_value", param=param)
        grouped.append(replace(answer, parts=tuple(parts), tool_calls=tuple(calls.values())))
        grouped.extend(results[id_] for id_ in calls)
        answer = None
        parts.clear()
        calls.clear()
        results.clear()

    for turn in turns:
        if turn.role == "tool":
            id_ = turn.tool_call_id
            if id_ in results or id_ not in calls:
                raise BadRequestError(texts.NO_CALL.fill(id=id_[:64]), code="invalid_value", param=param)
            results[id_] = turn
            continue
        if results and len(results) == len(calls):
            close()
        for call in turn.tool_calls:
            if not call.id or call.id in calls:
                raise BadRequestError(texts.CALL_IDS.fill(id=call.id[:64]), code="invalid_value", param=param)
            calls[call.id] = call
        if answer is None:
            answer = turn
        parts += turn.parts
    close()
    return grouped

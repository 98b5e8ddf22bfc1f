"""A conversation that is too long, without its oldest turns: what ``truncation: auto`` of a Responses request asks for.

In: a `Call`, and the engines that count. Out: the same, or one that the engine of its answer can read, with a note.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from engines.base import Message
from router.api import texts
from router.call import CacheUse, Call
from router.counting import count_tokens
from router.errors import EngineFailedError
from router.questions import continues
from router.services import Services

_ROOM: Final = 512
# More than a chat template writes around a conversation, and around each message.
_AROUND_BYTES: Final = 1024
_MESSAGE_BYTES: Final = 64


async def without_oldest(services: Services, call: Call) -> Call:
    """Leave out as few of the oldest turns as it takes; the last one always stays.

    A turn is a question with all that follows it up to the next: answers, calls and their results. Instructions stay.

    Args:
        services: the parts the application was built from.
        call: what is asked.

    Returns:
        The call itself if it fits, or if even its last turn is too long: then the engine refuses it as ever.
    """
    head, turns = _cut(call.messages)
    if len(turns) < 2 or await _fits(services, call):
        return call

    def left(num_dropped: int) -> Call:
        kept = [message for turn in turns[num_dropped:] for message in turn]
        return replace(call, messages=(*head, *kept))

    few, many = 1, len(turns) - 1
    if not await _fits(services, left(many)):
        return call
    while few < many:
        middle = (few + many) // 2
        if await _fits(services, left(middle)):
            many = middle
        else:
            few = middle + 1
    note = texts.TRUNCATED.fill(num=many)
    # An answer that is kept for others would not say what was left out of this conversation.
    return replace(left(many), notes=(*call.notes, note), cache=CacheUse())


def _cut(messages: Sequence[Message]) -> tuple[list[Message], list[list[Message]]]:
    """Return the instructions at the beginning, and the turns."""
    head: list[Message] = []
    turns: list[list[Message]] = []
    for message in messages:
        if message.role == "system" and not turns:
            head.append(message)
        elif not turns or (message.role == "user" and not continues(turns[-1][-1].role, message.text)):
            turns.append([message])
        else:
            turns[-1].append(message)
    return head, turns


async def _fits(services: Services, call: Call) -> bool:
    """Say whether the engine of the answer can read the prompt and has room left to answer it."""
    routed = services.dispatcher.route(call)
    info = services.monitor.info(routed.decision.engine)
    if info is None:
        return True
    room = min(call.sampling.max_tokens or _ROOM, info.context_tokens // 4)
    if not call.uses_tools and not any(message.images for message in call.messages):
        # No token is shorter than a byte: most conversations need no counting.
        num_bytes = sum(len(message.text.encode()) + _MESSAGE_BYTES for message in call.messages)
        if num_bytes + _AROUND_BYTES + room <= info.context_tokens:
            return True
    try:
        counted = await count_tokens(services.engines, services.monitor, call, routed)
    except EngineFailedError as error:
        return error.code != "context_length_exceeded"  # what else is wrong, the answer will say
    return counted.total + room <= info.context_tokens

"""From wire messages to the conversation an engine reads: roles folded, pictures loaded.

In: chat messages, Responses input or an older shape. Out: `engines.base.Message` tuples ending in a user turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engines.base import ImagePart, Message, Part, Role, TextPart
from router.api.schemas import (
    ChatMessage,
    ImagePartIn,
    InferenceRequest,
    InputImagePart,
    InputItem,
    ItemReference,
    ReasoningItem,
    unsupported,
)
from router.errors import BadRequestError
from router.media import MediaIntake

_ROLES: dict[str, Role] = {
    "developer": "system",
    "system": "system",
    "user": "user",
    "assistant": "assistant",
}


async def from_chat(messages: Sequence[ChatMessage], media: MediaIntake) -> tuple[Message, ...]:
    """Read chat messages.

    Raises:
        BadRequestError: for a role we cannot honour, or if the last turn is not a user's.
        ImageError: for a picture that is refused.
        ImageFetchError: for a picture URL that cannot be fetched.
    """
    turns: list[tuple[Role, list[str | tuple[str, str]]]] = []
    for index, message in enumerate(messages):
        if message.role not in _ROLES or message.tool_calls:
            raise unsupported(
                f"messages[{index}].role", "only system, developer, user and assistant turns are accepted"
            )
        parts: list[str | tuple[str, str]] = []
        if isinstance(message.content, str):
            parts.append(message.content)
        for place, part in enumerate(message.content if isinstance(message.content, list) else ()):
            if isinstance(part, ImagePartIn):
                parts.append((part.image_url.url, f"messages[{index}].content[{place}].image_url.url"))
            else:
                parts.append(part.text)
        turns.append((_ROLES[message.role], parts))
    return await _load(turns, media, "messages")


async def from_responses(
    items: str | Sequence[InputItem],
    instructions: str | None,
    earlier: tuple[Message, ...],
    media: MediaIntake,
    answers: Mapping[str, str | None] | None = None,
) -> tuple[Message, ...]:
    """Read a Responses input.

    Args:
        items: a text, or input items; reasoning is left out.
        instructions: become a system turn before everything else.
        earlier: the conversation of ``previous_response_id``, its answer included.
        media: loads the pictures.
        answers: by id, what the items that are only named said; None for one that is no part of the conversation.

    Raises:
        BadRequestError: for an item we cannot honour, or if the last turn is not a user's.
        ImageError: for a picture that is refused.
        ImageFetchError: for a picture URL that cannot be fetched.
    """
    turns: list[tuple[Role, list[str | tuple[str, str]]]] = []
    if isinstance(items, str):
        turns.append(("user", [items]))
    else:
        for index, item in enumerate(items):
            if isinstance(item, ReasoningItem):
                continue
            if isinstance(item, ItemReference):
                if (said := (answers or {})[item.id]) is not None:
                    turns.append(("assistant", [said]))
                continue
            parts: list[str | tuple[str, str]] = []
            if isinstance(item.content, str):
                parts.append(item.content)
            for place, part in enumerate(item.content if isinstance(item.content, list) else ()):
                if not isinstance(part, InputImagePart):
                    parts.append(part.text)
                    continue
                param = f"input[{index}].content[{place}].image_url"
                if part.image_url is None:
                    raise unsupported(param, "send the picture as image_url: a data URL or an http(s) URL")
                parts.append((part.image_url, param))
            turns.append((_ROLES[item.role], parts))
    loaded = await _load(turns, media, "input")
    system = (Message("system", (TextPart(instructions),)),) if instructions else ()
    return (*system, *earlier, *loaded)


async def from_older_shape(request: InferenceRequest, media: MediaIntake) -> tuple[Message, ...]:
    """Read one of the two older shapes: the picture first, then the question.

    Raises:
        BadRequestError: if the prompt is empty.
        ImageError: for a picture that is refused.
        ImageFetchError: for a picture URL that cannot be fetched.
    """
    parts: list[str | tuple[str, str]] = [(request.image, "image")] if request.image else []
    return await _load([("user", [*parts, request.prompt])], media, "prompt")


async def _load(
    turns: list[tuple[Role, list[str | tuple[str, str]]]], media: MediaIntake, param: str
) -> tuple[Message, ...]:
    sources = [part for _role, parts in turns for part in parts if isinstance(part, tuple)]
    images = iter(await media.load_all(sources))
    messages: list[Message] = []
    for role, parts in turns:
        loaded: list[Part] = [TextPart(part) if isinstance(part, str) else next(images) for part in parts]
        messages.append(Message(role, tuple(loaded)))
    _check_last(messages, param)
    return tuple(messages)


def _check_last(messages: list[Message], param: str) -> None:
    if not messages or messages[-1].role != "user":
        raise BadRequestError(
            "The conversation must end with a user message.",
            code="no_user_message",
            param=param,
            message_zh="对话必须以用户消息结尾。",
        )
    last = messages[-1]
    if not last.text.strip() and not any(isinstance(part, ImagePart) for part in last.parts):
        raise BadRequestError(
            "The last user message is empty; send a question, a picture, or both.",
            code="empty_message",
            param=param,
            message_zh="最后一条用户消息为空；请发送问题、图片或两者。",
        )


def answer_turn(text: str) -> Message:
    """Return an earlier answer as a turn of the conversation."""
    return Message("assistant", (TextPart(text),))


def to_wire_input(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Write a stored conversation as Responses input items; pictures are named by hash, not sent back."""
    items: list[dict[str, Any]] = []
    for index, message in enumerate(messages):
        text_type = "output_text" if message["role"] == "assistant" else "input_text"
        content = [
            {"type": text_type, "text": part["text"]}
            if part["type"] == "text"
            else {"type": "input_image", "detail": "auto", "image_url": None, "file_id": f"sha256-{part['sha256']}"}
            for part in message["parts"]
        ]
        items.append(
            {
                "id": f"msg_in_{index}",
                "type": "message",
                "role": message["role"],
                "status": "completed",
                "content": content,
            }
        )
    return items

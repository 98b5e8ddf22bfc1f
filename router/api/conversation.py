"""From wire messages to the conversation an engine reads: roles folded, pictures loaded.

In: chat messages, Responses input or an older shape. Out: `engines.base.Message` tuples ending in a user turn.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from engines.base import ImagePart, Message, Part, Role, TextPart
from router.api import texts
from router.api.other_fields import unsupported
from router.api.schemas import (
    ChatMessage,
    ImagePartIn,
    InferenceRequest,
    InputImagePart,
    InputItem,
    ItemReference,
    ReasoningItem,
)
from router.errors import BadRequestError
from router.media import MediaIntake, Source, StoredPicture
from router.questions import is_empty

# What is said, and what is shown with the field that it came in.
_Turn = tuple[Role, list[str | tuple[Source, str]]]
_ROLES: dict[str, Role] = {
    "developer": "system",
    "system": "system",
    "user": "user",
    "assistant": "assistant",
}


async def from_chat(messages: Sequence[ChatMessage], media: MediaIntake) -> tuple[Message, ...]:
    """Read chat messages.

    Raises:
        BadRequestError: for a role we cannot honour, or if there is nothing to answer.
        ImageError: for a picture that is refused.
        ImageFetchError: for a picture URL that cannot be fetched.
    """
    turns: list[_Turn] = []
    for index, message in enumerate(messages):
        if message.role not in _ROLES or message.tool_calls or message.function_call:
            raise unsupported(
                f"messages[{index}].role",
                texts.CONVERSATION_ROLES,
            )
        parts: list[str | tuple[Source, str]] = []
        if isinstance(message.content, str):
            parts.append(message.content)
        elif not message.content and message.refusal:
            parts.append(message.refusal)
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
    files: Mapping[str, StoredPicture] | None = None,
) -> tuple[Message, ...]:
    """Read a Responses input.

    Args:
        items: a text, or input items; reasoning is left out.
        instructions: become a system turn before everything else.
        earlier: the conversation of ``previous_response_id``, its answer included.
        media: loads the pictures.
        answers: by id, what the items that are only named said; None for one that is no part of the conversation.
        files: by id, the uploaded pictures that are named.

    Raises:
        BadRequestError: for an item we cannot honour, or if there is nothing to answer.
        ImageError: for a picture that is refused.
        ImageFetchError: for a picture URL that cannot be fetched.
    """
    turns: list[_Turn] = []
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
            parts: list[str | tuple[Source, str]] = []
            if isinstance(item.content, str):
                parts.append(item.content)
            for place, part in enumerate(item.content if isinstance(item.content, list) else ()):
                if not isinstance(part, InputImagePart):
                    parts.append(part.text)
                    continue
                field = f"input[{index}].content[{place}]"
                if part.image_url is not None:
                    parts.append((part.image_url, f"{field}.image_url"))
                elif part.file_id is not None:
                    parts.append(((files or {})[part.file_id], f"{field}.file_id"))
                else:
                    raise unsupported(f"{field}.image_url", texts.SEND_IMAGE_URL)
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
    parts: list[str | tuple[Source, str]] = [(request.image, "image")] if request.image else []
    return await _load([("user", [*parts, request.prompt])], media, "prompt")


async def _load(turns: list[_Turn], media: MediaIntake, param: str) -> tuple[Message, ...]:
    sources = [part for _role, parts in turns for part in parts if isinstance(part, tuple)]
    images = iter(await media.load_all(sources))
    messages: list[Message] = []
    for role, parts in turns:
        loaded: list[Part] = [TextPart(part) if isinstance(part, str) else next(images) for part in parts]
        messages.append(Message(role, tuple(loaded)))
    return _ending_in_question(messages, param)


def _ending_in_question(messages: list[Message], param: str) -> tuple[Message, ...]:
    """Let the conversation end with a user's turn, which is what an engine answers.

    Instructions at its end are what is to be answered; an answer at its end is to be continued.
    """
    if len(messages) > 1 and messages[-1].role == "assistant" and is_empty(messages[-1].text):
        messages = messages[:-1]  # some clients put an empty turn where the answer is to be
    if not messages:
        raise BadRequestError(texts.EMPTY_CONVERSATION, code="no_user_message", param=param)
    last = messages[-1]
    if is_empty(last.text) and not any(isinstance(part, ImagePart) for part in last.parts):
        raise BadRequestError(texts.EMPTY_MESSAGE, code="empty_message", param=param)
    if last.role == "system":
        return (*messages[:-1], replace(last, role="user"))
    if last.role == "assistant":
        return (*messages, Message("user", (TextPart(_CONTINUE["zh" if _HAN.search(last.text) else "en"]),)))
    return tuple(messages)


_HAN: Final = re.compile("[\u4e00-\u9fff]")
_CONTINUE: Final = {
    "en": "Continue your last answer exactly where it ends. Do not repeat any of it.",
    "zh": "从你上一条回答结束的地方接着写，不要重复已有内容。",
}


def answer_turn(text: str) -> Message:
    """Return an earlier answer as a turn of the conversation."""
    return Message("assistant", (TextPart(text),))


def to_wire_input(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Write a stored conversation as Responses input items; pictures are named by their file, or else by hash."""
    items: list[dict[str, Any]] = []
    for index, message in enumerate(messages):
        text_type = "output_text" if message["role"] == "assistant" else "input_text"
        content = [
            {"type": text_type, "text": part["text"]} if part["type"] == "text" else _to_wire_picture(part)
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


def _to_wire_picture(part: dict[str, Any]) -> dict[str, Any]:
    file_id = part.get("file_id") or f"sha256-{part['sha256']}"
    return {"type": "input_image", "detail": "auto", "image_url": None, "file_id": file_id}

"""From wire messages to the conversation an engine reads: roles folded, pictures loaded.

In: chat messages, Responses input or an older shape. Out: `engines.base.Message` tuples ending in a user turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

from engines.base import ImagePart, Message, Part, Role, TextPart
from engines.tools import ToolCall
from router.api import texts
from router.api.call_items import call_item
from router.api.compaction import HAN, summary_of
from router.api.other_fields import unsupported
from router.api.schemas import (
    ChatMessage,
    CompactionItem,
    FunctionCallItem,
    FunctionCallOutputItem,
    ImagePartIn,
    InferenceRequest,
    InputImagePart,
    InputItem,
    ItemReference,
    ReasoningItem,
    ResponsesPart,
)
from router.api.tool_turns import in_order, to_call
from router.errors import BadRequestError
from router.jobs.results import FinalAnswer
from router.media import MediaIntake, Source, StoredPicture
from router.questions import CONTINUE, is_empty


class _Turn(NamedTuple):
    """A turn: what is said, and what is shown with the field that it came in; calls, or whose result it is."""

    role: Role
    parts: list[str | tuple[Source, str]]
    calls: tuple[ToolCall, ...] = ()
    result_of: str = ""


_ROLES: dict[str, Role] = {
    "developer": "system",
    "system": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
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
        if message.role not in _ROLES or message.function_call:
            raise unsupported(
                f"messages[{index}].role",
                texts.CONVERSATION_ROLES,
            )
        if message.tool_calls and message.role != "assistant":
            raise unsupported(f"messages[{index}].tool_calls", texts.ONLY_ITS_TURN)
        parts: list[str | tuple[Source, str]] = []
        if isinstance(message.content, str):
            parts.append(message.content)
        elif not message.content and message.refusal:
            parts.append(message.refusal)
        for place, part in enumerate(message.content if isinstance(message.content, list) else ()):
            if isinstance(part, ImagePartIn):
                parts.append(part.source_at(f"messages[{index}].content[{place}]"))
            else:
                parts.append(part.text)
        calls = tuple(
            to_call(call.id, call.function.name, call.function.arguments, f"messages[{index}].tool_calls[{place}]")
            for place, call in enumerate(message.tool_calls or ())
        )
        result_of = message.tool_call_id or "" if message.role == "tool" else ""
        turns.append(_Turn(_ROLES[message.role], parts, calls, result_of))
    return await _load(turns, media, "messages")


async def from_responses(
    items: str | Sequence[InputItem],
    instructions: str | None,
    earlier: tuple[Message, ...],
    media: MediaIntake,
    answers: Mapping[str, Message | None] | None = None,
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
        turns.append(_Turn("user", [items]))
    else:
        for index, item in enumerate(items):
            if isinstance(item, ReasoningItem):
                continue
            if isinstance(item, CompactionItem):
                turns.append(_Turn("assistant", [summary_of(item, f"input[{index}].encrypted_content")]))
                continue
            if isinstance(item, ItemReference):
                if (said := (answers or {})[item.id]) is not None:
                    turns.append(_Turn(said.role, [said.text] if said.text else [], said.tool_calls))
                continue
            if isinstance(item, FunctionCallItem):
                call = to_call(item.call_id, item.name, item.arguments, f"input[{index}].arguments")
                turns.append(_Turn("assistant", [], (call,)))
            elif isinstance(item, FunctionCallOutputItem):
                parts = _parts_of(item.output, f"input[{index}].output", files or {})
                turns.append(_Turn("tool", parts, result_of=item.call_id))
            else:
                parts = _parts_of(item.content, f"input[{index}].content", files or {})
                turns.append(_Turn(_ROLES[item.role], parts))
    system = (Message("system", (TextPart(instructions),)),) if instructions else ()
    return (*system, *await _load(turns, media, "input", earlier))


def _parts_of(
    content: str | Sequence[ResponsesPart], field: str, files: Mapping[str, StoredPicture]
) -> list[str | tuple[Source, str]]:
    """Read what an item says and shows."""
    if isinstance(content, str):
        return [content]
    parts: list[str | tuple[Source, str]] = []
    for place, part in enumerate(content):
        if not isinstance(part, InputImagePart):
            parts.append(part.text)
        elif part.image_url is not None:
            parts.append((part.image_url, f"{field}[{place}].image_url"))
        elif part.file_id is not None:
            parts.append((files[part.file_id], f"{field}[{place}].file_id"))
        else:
            raise unsupported(f"{field}[{place}].image_url", texts.SEND_IMAGE_URL)
    return parts


async def from_older_shape(request: InferenceRequest, media: MediaIntake) -> tuple[Message, ...]:
    """Read one of the two older shapes: the picture first, then the question.

    Raises:
        BadRequestError: if the prompt is empty.
        ImageError: for a picture that is refused.
        ImageFetchError: for a picture URL that cannot be fetched.
    """
    parts: list[str | tuple[Source, str]] = [] if request.image is None else [(request.image, "image")]
    return await _load([_Turn("user", [*parts, request.prompt])], media, "prompt")


async def _load(
    turns: list[_Turn], media: MediaIntake, param: str, earlier: tuple[Message, ...] = ()
) -> tuple[Message, ...]:
    sources = [part for turn in turns for part in turn.parts if isinstance(part, tuple)]
    images = iter(await media.load_all(sources))
    messages: list[Message] = []
    for role, parts, calls, result_of in turns:
        loaded: list[Part] = [TextPart(part) if isinstance(part, str) else next(images) for part in parts]
        messages.append(Message(role, tuple(loaded), calls, result_of))
    # Calls of the conversation before may have their results only now.
    return _ending_in_question(in_order((*earlier, *messages), param), param, is_new=bool(messages))


def _ending_in_question(messages: list[Message], param: str, *, is_new: bool) -> tuple[Message, ...]:
    """Let the conversation end with a user's turn, or with results, which is what an engine answers.

    Instructions at its end are what is to be answered; an answer at its end is to be continued.
    """
    if len(messages) > 1 and messages[-1].role == "assistant" and is_empty(messages[-1].text):
        messages = messages[:-1]  # some clients put an empty turn where the answer is to be
    if not messages or not is_new:
        raise BadRequestError(texts.EMPTY_CONVERSATION, code="no_user_message", param=param)
    last = messages[-1]
    if last.role == "tool":  # a function may return nothing
        return tuple(messages)
    if is_empty(last.text) and not any(isinstance(part, ImagePart) for part in last.parts):
        said = texts.NOTHING_TO_READ if last.text.strip(_SPACES) else texts.EMPTY_MESSAGE
        raise BadRequestError(said, code="empty_message", param=param)
    if last.role == "system":
        return (*messages[:-1], replace(last, role="user"))
    if last.role == "assistant":
        return (*messages, Message("user", (TextPart(CONTINUE["zh" if HAN.search(last.text) else "en"]),)))
    return tuple(messages)


_SPACES: Final = " \t\r\n\u3000"


def answer_turn(answer: FinalAnswer) -> Message:
    """Return an earlier answer as a turn of the conversation."""
    parts = (TextPart(answer.text),) if answer.text or not answer.tool_calls else ()
    return Message("assistant", parts, answer.tool_calls)


def to_wire_input(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Write a stored conversation as Responses input items; pictures are named by their file, or else by hash."""
    items: list[dict[str, Any]] = []
    for index, message in enumerate(messages):
        text_type = "output_text" if message["role"] == "assistant" else "input_text"
        content = [
            {"type": text_type, "text": part["text"]} if part["type"] == "text" else _to_wire_picture(part)
            for part in message["parts"]
        ]
        calls = message.get("tool_calls", ())
        if message["role"] == "tool":
            items.append(
                {
                    "id": f"fco_in_{index}",
                    "type": "function_call_output",
                    "call_id": message.get("tool_call_id", ""),
                    "status": "completed",
                    "output": content,
                }
            )
        elif content or not calls:
            items.append(
                {
                    "id": f"msg_in_{index}",
                    "type": "message",
                    "role": message["role"],
                    "status": "completed",
                    "content": content,
                }
            )
        items += [
            call_item(f"fc_in_{index}_{place}", ToolCall(**call), "completed") for place, call in enumerate(calls)
        ]
    return items


def _to_wire_picture(part: dict[str, Any]) -> dict[str, Any]:
    file_id = part.get("file_id") or f"sha256-{part['sha256']}"
    return {"type": "input_image", "detail": "auto", "image_url": None, "file_id": file_id}

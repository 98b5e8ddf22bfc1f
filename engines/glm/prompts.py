"""From our messages to the conversation that the checkpoint's chat template renders.

In: `Message`s. Out: role and content dicts in the template's own shape, with one image slot where each picture was.
Pure: no tokenizer, no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engines.base import ImagePart, Message, TextPart

_NO_THINK = "/nothink"
_THINK_END = "</think>"


def to_conversation(messages: Sequence[Message], *, enable_thinking: bool) -> list[dict[str, Any]]:
    """Convert messages for ``apply_chat_template``.

    Two things that the template does to text are done here instead, because control tokens in callers' text are
    encoded as plain text and the template would no longer recognise them: the reasoning of earlier answers is dropped,
    and a ``/nothink`` that a caller typed is not doubled.

    Neighbouring texts are joined here, too: the template writes parts with nothing between them, and a control token in
    two halves would only become one after its text was searched for control tokens.

    Args:
        messages: the conversation, oldest first.
        enable_thinking: with False, the template itself ends every user turn in ``/nothink``.

    Returns:
        One dict per message; content is a string where there is only text, else a list of ``text`` and ``image`` parts.
    """
    conversation = []
    for message in messages:
        parts = _joined([_to_part(part) for part in message.parts])
        if message.role == "assistant":
            parts = _without_reasoning(parts)
        elif message.role == "user" and not enable_thinking and parts and parts[-1]["type"] == "text":
            parts[-1]["text"] = parts[-1]["text"].removesuffix(_NO_THINK)
        is_plain = all(part["type"] == "text" for part in parts)
        content: Any = "".join(part["text"] for part in parts) if is_plain else parts
        conversation.append({"role": message.role, "content": content})
    return conversation


def least_texts(conversation: list[dict[str, Any]]) -> list[bytes]:
    """Return the texts of a `to_conversation` in UTF-8, as far as they are certainly rendered: answers are stripped."""
    texts = []
    for turn in conversation:
        content = turn["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for part in parts:
            if part["type"] == "text":
                text = part["text"].strip() if turn["role"] == "assistant" else part["text"]
                texts.append(text.encode())
    return texts


def _to_part(part: TextPart | ImagePart) -> dict[str, Any]:
    if isinstance(part, ImagePart):
        return {"type": "image"}
    # JSON can carry half a surrogate pair, which no tokenizer accepts.
    return {"type": "text", "text": part.text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")}


def _joined(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Make one part of neighbouring texts."""
    joined: list[dict[str, Any]] = []
    for part in parts:
        if part["type"] == "text" and joined and joined[-1]["type"] == "text":
            joined[-1]["text"] += part["text"]
        else:
            joined.append(part)
    return joined


def _without_reasoning(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Keep what an earlier answer said after it had thought; and every picture, since each of them needs its place."""
    for index in range(len(parts) - 1, -1, -1):
        if parts[index]["type"] == "text" and _THINK_END in parts[index]["text"]:
            answer = parts[index]["text"].rpartition(_THINK_END)[2].lstrip("\n")
            pictures = [part for part in parts[:index] if part["type"] == "image"]
            return [*pictures, {"type": "text", "text": answer}, *parts[index + 1 :]]
    return parts

"""From our messages to the conversation that the checkpoint's chat template renders.

In: `Message`s. Out: role and content dicts in the template's own shape, with one image slot where each picture was.
Pure: no tokenizer, no torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from engines.base import ImagePart, InvalidRequestError, Message, TextPart
from engines.tool_text import CALL, CALL_END, KEY, KEY_END, VALUE, VALUE_END, argument_texts
from engines.tools import ToolCall, ToolUse, arguments_of

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
        Calls are ``tool_calls`` whose arguments are texts.
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
        turn = {"role": message.role, "content": content}
        if message.tool_calls:
            turn["tool_calls"] = [_to_call(call) for call in message.tool_calls]
        conversation.append(turn)
    return conversation


def _to_call(call: ToolCall) -> dict[str, Any]:
    """Write a call for the template; values as the texts that it would make of them.

    Template and tokenizer look for control tokens in texts alone: inside JSON, names would be passed over.
    """
    arguments = dict(argument_texts(arguments_of(call.arguments)))
    return {"type": "function", "function": {"name": call.name, "arguments": arguments}}


def to_template_tools(tool_use: ToolUse | None) -> list[dict[str, Any]] | None:
    """Write what may be called for the template; None for nothing."""
    if tool_use is None:
        return None
    return [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description,
                "parameters": json.loads(tool.parameters),
            },
        }
        for tool in tool_use.tools
    ]


def with_tools_turn(conversation: list[dict[str, Any]], tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Tell of functions in a first turn, for a checkpoint whose template has no place for them."""
    listed = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    text = (
        f"Functions that can be called, one JSON object each:\n{listed}\nTo call one, write its name and arguments:\n"
        f"{CALL}NAME\n{KEY}ARGUMENT{KEY_END}\n{VALUE}VALUE{VALUE_END}\n{CALL_END}"
    )
    return [{"role": "system", "content": text}, *conversation]


def check_names(conversation: list[dict[str, Any]], tools: list[dict[str, Any]] | None, tokens: Sequence[str]) -> None:
    """Refuse a name of an argument that holds a control token: in a name, unlike in a text, it would be one.

    Raises:
        InvalidRequestError: naming the field.
    """
    control = re.compile("|".join(map(re.escape, tokens)) or "(?!)")
    calls = [call["function"]["arguments"] for turn in conversation for call in turn.get("tool_calls", ())]
    for param, value in (("tools", tools), ("messages", calls)):
        if any(control.search(name) for name in _names(value)):
            raise InvalidRequestError(
                f"An argument's name in '{param}' holds one of the model's control tokens: choose another name.",
                param=param,
            )


def _names(value: Any) -> Iterator[str]:
    """Yield the names inside a JSON value."""
    level = [value]
    while level:
        each = level.pop()
        if isinstance(each, dict):
            yield from each
            level += each.values()
        elif isinstance(each, list):
            level += each


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

"""A conversation in few words: asked for, and carried by the client until its next request.

In: a conversation, or an item that an earlier request made of one. Out: the question for a summary; an item with the
answer, and that again. The item is opaque to clients, and no secret: they had the conversation. Nothing is stored.
"""

from __future__ import annotations

import base64
import re
import secrets
from dataclasses import replace
from typing import Any, Final

import orjson

from engines.base import ImagePart, Message, TextPart
from router.api import texts
from router.api.objects import to_response_usage
from router.api.schemas import CompactionItem, CompactRequest, InputMessage, ResponsesRequest
from router.call import Call
from router.errors import BadRequestError
from router.jobs.results import FinalAnswer

Json = dict[str, Any]

# What the text behind it is; a later form gets another.
_FORM: Final = "glowl1."
HAN: Final = re.compile("[\u4e00-\u9fff]")
_MAX_TOKENS: Final = 1024
_ASK: Final = {
    "en": "Summarize this conversation so that it can go on without your earlier answers: what was found, said and "
    "agreed, with all names and numbers, what each picture shows, and what is still open. Write only the summary.",
    "zh": "请总结以上对话，使其在没有你之前回答的情况下也能继续：已得出的结论、说过和约定的内容（保留全部名称与数字）、"
    "每张图片的内容，以及尚未解决的问题。只写总结。",
}


def to_summary_request(body: CompactRequest) -> ResponsesRequest:
    """Return the request that asks for a summary after everything else; nothing of it is stored.

    Args:
        body: whose conversation it is.
    """
    asked = (
        [InputMessage.model_construct(role="user", content=body.input)] if isinstance(body.input, str) else body.input
    )
    ask = InputMessage.model_construct(role="user", content=_ASK["en"])
    return ResponsesRequest.model_construct(
        model=body.model,
        input=[*(asked or []), ask],
        instructions=body.instructions,
        previous_response_id=body.previous_response_id,
        max_output_tokens=_MAX_TOKENS,
        service_tier=body.service_tier,
        store=False,
    )


def to_summary_call(call: Call) -> Call:
    """Let GLM write the summary, in the language of the conversation.

    Raises:
        BadRequestError: if nothing was said in it.
    """
    *conversation, ask = call.messages
    if not any(message.role != "system" and (message.text or message.images) for message in conversation):
        raise BadRequestError(texts.EMPTY_CONVERSATION, code="no_user_message", param="input")
    if HAN.search("".join(message.text for message in conversation if message.role != "system")):
        ask = Message("user", (TextPart(_ASK["zh"]),))
    return replace(call, messages=(*conversation, ask), hints=replace(call.hints, route="fast", engine=None))


def to_compaction(call: Call, final: FinalAnswer, created_at: float) -> Json:
    """Return the compacted conversation: the user's turns as they were, then one item for all that was answered.

    Args:
        call: made by `to_summary_call`.
        final: the summary.
        created_at: seconds since 1970.
    """
    conversation = call.messages[1 if call.instructions else 0 : -1]  # instructions do not carry over
    turns = [message for message in conversation if message.role in ("user", "system")]
    return {
        "id": f"resp_{secrets.token_hex(16)}",
        "object": "response.compaction",
        "created_at": int(created_at),
        "output": [*(_to_item(turn) for turn in turns), _summary_item(final.text)],
        "usage": to_response_usage(final.written),
    }


def summary_of(item: CompactionItem, param: str) -> str:
    """Return the summary that an item carries.

    Args:
        item: made by `to_compaction`, here or on another machine.
        param: the field that it came in.

    Raises:
        BadRequestError: if it was not.
    """
    try:
        form, content = item.encrypted_content[: len(_FORM)], item.encrypted_content[len(_FORM) :]
        summary = orjson.loads(base64.urlsafe_b64decode(content))["summary"] if form == _FORM else None
    except (ValueError, KeyError, TypeError):
        summary = None
    if not isinstance(summary, str):
        raise BadRequestError(texts.FOREIGN_COMPACTION.fill(param=param), code="invalid_encrypted_content", param=param)
    return summary


def _summary_item(summary: str) -> Json:
    content = base64.urlsafe_b64encode(orjson.dumps({"summary": summary})).decode()
    return {"id": f"cmp_{secrets.token_hex(16)}", "type": "compaction", "encrypted_content": _FORM + content}


def _to_item(turn: Message) -> Json:
    return {
        "id": f"msg_{secrets.token_hex(16)}",
        "type": "message",
        "role": turn.role,
        "status": "completed",
        "content": [_to_part(part) for part in turn.parts if isinstance(part, TextPart | ImagePart)],
    }


def _to_part(part: TextPart | ImagePart) -> Json:
    if isinstance(part, TextPart):
        return {"type": "input_text", "text": part.text}
    data = base64.b64encode(part.data).decode()
    return {"type": "input_image", "detail": "auto", "image_url": f"data:{part.media_type};base64,{data}"}

"""From a Messages request to the chat request that asks the same.

In: a validated body. Out: a `ChatRequest`, whose pictures name the field that they came in; a refusal names what cannot
be honoured.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from policies.text import Text
from router.api.anthropic import texts
from router.api.anthropic.shapes import (
    Base64Source,
    Block,
    CountRequest,
    FileSource,
    ImageBlock,
    MessagesRequest,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    Turn,
)
from router.api.anthropic.tools import in_their_words, to_tool_fields
from router.api.calls import to_call
from router.api.named_files import read_named
from router.api.other_fields import check_others
from router.api.schemas import (
    CalledFunction,
    ChatMessage,
    ChatPart,
    ChatRequest,
    ChatToolCall,
    ImagePartIn,
    ImageUrl,
    JsonSchemaFormat,
    Reasoning,
    ResponseFormat,
    TextPartIn,
)
from router.call import Call, DraftAs
from router.errors import BadRequestError, ImageError
from router.media import Source, StoredPicture
from router.services import Services

# Known, and the same answer whatever they say.
_HARMLESS: Final = frozenset(
    {
        "betas",
        "cache_control",
        "context_management",
        "diagnostics",
        "inference_geo",
        "max_tokens",
        "metadata",
        "speed",
        "stop_sequences",
        "stream",
        "stream_options",
        "temperature",
        "top_k",
        "top_p",
        "user",
        "user_profile_id",
        "workspace_id",
    }
)
_INSTEAD: Final = {
    "output_format": texts.SEND_OUTPUT_CONFIG,
    "parallel_tool_calls": texts.SEND_DISABLE_PARALLEL,
}
_SCHEME_CHARS: Final = 64
_FAILED: Final = "Error: "
_DATA_URL: Final = re.compile(r"\s*data:", re.IGNORECASE)
# What the chat request calls what this one calls otherwise.
_NAMES: Final = {
    "stop": "stop_sequences",
    "response_format": "output_config.format",
    "reasoning.enabled": "thinking",
}


async def to_message_call(body: CountRequest, caller: str, services: Services) -> Call:
    """Convert a Messages request.

    Args:
        body: of either Messages endpoint.
        caller: the owner.
        services: the parts the application was built from.

    Raises:
        RouterError: for whatever is wrong with it.
    """
    _check_others(body.others)
    files = await read_named(services, _files_of(body), caller)
    try:
        call = await to_call(to_chat(body, files), caller, services)
    except BadRequestError as error:
        raise _renamed(error) from error
    top_k = body.top_k if isinstance(body, MessagesRequest) else None
    return call if not top_k else replace(call, sampling=replace(call.sampling, top_k=max(top_k, 0)))


def to_chat(body: CountRequest, files: Mapping[str, StoredPicture]) -> ChatRequest:
    """Return the chat request that asks the same.

    Args:
        body: of either Messages endpoint.
        files: the uploaded pictures that it names, by id.

    Raises:
        BadRequestError: for a block that is not of its turn, and functions that cannot be offered.
        ImageError: for a picture whose data cannot be base64.
    """
    fields: dict[str, Any] = {}
    if isinstance(body, MessagesRequest):
        fields = {
            "max_tokens": body.max_tokens,
            "stop": body.stop_sequences,
            "stream": body.stream,
            "temperature": body.temperature,
            "top_p": body.top_p,
            "seed": body.seed,
        }
    if body.output_config is not None and body.output_config.format is not None:
        schema = JsonSchemaFormat.model_construct(name="answer", json_schema=body.output_config.format.json_schema)
        fields["response_format"] = ResponseFormat.model_construct(type="json_schema", json_schema=schema)
    if body.thinking is not None and body.thinking.type in ("enabled", "disabled"):
        fields["reasoning"] = Reasoning(enabled=body.thinking.type == "enabled")
    fields |= to_tool_fields(body)
    return ChatRequest.model_construct(
        model=body.model,
        messages=[*_system(body), *_turns(body, files)],
        hybrid=body.hybrid.model_copy(update={"draft": _draft_as(body)}),
        **fields,
    )


def _draft_as(body: CountRequest) -> DraftAs:
    """Carry the draft as thinking only where thinking is asked for: others read the first block as the answer."""
    if body.hybrid.draft is not None:
        return body.hybrid.draft
    thinking = body.thinking
    is_shown = thinking is not None and thinking.type in ("enabled", "adaptive") and thinking.display != "omitted"
    return "reasoning" if is_shown else "none"


def _system(body: CountRequest) -> list[ChatMessage]:
    if not body.system:
        return []
    text = body.system if isinstance(body.system, str) else "\n\n".join(block.text for block in body.system)
    return [ChatMessage.model_construct(role="system", content=text)] if text else []


def _turns(body: CountRequest, files: Mapping[str, StoredPicture]) -> list[ChatMessage]:
    messages = []
    for index, turn in enumerate(body.messages):
        if isinstance(turn.content, str):
            messages.append(ChatMessage.model_construct(role=turn.role, content=turn.content))
        else:
            messages += _of_blocks(turn, turn.content, f"messages[{index}].content", files)
    return messages


def _of_blocks(
    turn: Turn, blocks: Sequence[Block], param: str, files: Mapping[str, StoredPicture]
) -> list[ChatMessage]:
    """Return the turn of its blocks, behind a turn for each result in it."""
    results: list[ChatMessage] = []
    calls: list[ChatToolCall] = []
    parts: list[ChatPart] = []
    for at, block in enumerate(blocks):
        place = f"{param}[{at}]"
        if isinstance(block, ToolUseBlock):
            _check_turn(turn, block, "assistant", place)
            arguments = json.dumps(block.input, ensure_ascii=False)
            called = CalledFunction.model_construct(name=block.name, arguments=arguments)
            calls.append(ChatToolCall.model_construct(id=block.id, type="function", function=called))
        elif isinstance(block, ToolResultBlock):
            _check_turn(turn, block, "user", place)
            content = _of_result(block, f"{place}.content", files)
            results.append(ChatMessage.model_construct(role="tool", tool_call_id=block.tool_use_id, content=content))
        elif not isinstance(block, ThinkingBlock):
            parts.append(_to_part(block, place, files))
    if results and not parts:
        return results
    return [*results, ChatMessage.model_construct(role=turn.role, content=parts, tool_calls=calls or None)]


def _check_turn(turn: Turn, block: ToolUseBlock | ToolResultBlock, role: str, param: str) -> None:
    if turn.role != role:
        message = texts.OTHER_TURN.fill(param=param, kind=block.type, role=role)
        raise BadRequestError(message, code="unsupported_value", param=param)


def _of_result(block: ToolResultBlock, param: str, files: Mapping[str, StoredPicture]) -> list[ChatPart]:
    """Return what a function returned; that it failed is said in words, which is all that models read."""
    sent = block.content or ""
    if isinstance(sent, str):
        parts: list[ChatPart] = [_text(sent)]
    else:
        parts = [_to_part(each, f"{param}[{at}]", files) for at, each in enumerate(sent)]
    return [_text(_FAILED), *parts] if block.is_error else parts


def _text(text: str) -> TextPartIn:
    return TextPartIn.model_construct(type="text", text=text)


def _to_part(block: TextBlock | ImageBlock, param: str, files: Mapping[str, StoredPicture]) -> TextPartIn | ImagePartIn:
    if isinstance(block, TextBlock):
        return _text(block.text)
    source = block.source
    if isinstance(source, FileSource):
        return _picture(files[source.file_id], f"{param}.source.file_id")
    if isinstance(source, Base64Source):
        if ":" in source.data[:_SCHEME_CHARS] and not _DATA_URL.match(source.data[:_SCHEME_CHARS]):
            where = f"{param}.source.data"
            raise ImageError(texts.NOT_BASE64.fill(param=where), code="invalid_base64_image", param=where)
        return _picture(source.data, f"{param}.source.data")
    return _picture(source.url, f"{param}.source.url")


class _PlacedImage(ImagePartIn):
    """A picture that says itself where it came from.

    Attributes:
        source: what it is loaded from.
        came_in: the field of the request.
    """

    source: Any
    came_in: str

    def source_at(self, _param: str) -> tuple[Source, str]:
        """See `ImagePartIn.source_at`."""
        return self.source, self.came_in


def _picture(source: Source, came_in: str) -> ImagePartIn:
    return _PlacedImage.model_construct(
        type="image_url", image_url=ImageUrl.model_construct(url=""), source=source, came_in=came_in
    )


def _files_of(body: CountRequest) -> list[tuple[str, str]]:
    return [
        (block.source.file_id, f"{param}.source.file_id")
        for index, turn in enumerate(body.messages)
        if not isinstance(turn.content, str)
        for block, param in _pictures_of(turn.content, f"messages[{index}].content")
        if isinstance(block.source, FileSource)
    ]


def _pictures_of(blocks: Sequence[Any], param: str) -> Iterator[tuple[ImageBlock, str]]:
    """Yield the pictures of blocks, those in results too, with their fields."""
    for at, block in enumerate(blocks):
        if isinstance(block, ImageBlock):
            yield block, f"{param}[{at}]"
        elif isinstance(block, ToolResultBlock) and not isinstance(block.content, str):
            yield from _pictures_of(block.content or (), f"{param}[{at}].content")


def _check_others(others: Mapping[str, Any]) -> None:
    """Refuse a field that would change the answer if it were known here."""
    unknown = {name: value for name, value in others.items() if name not in _HARMLESS and value is not None}
    for name, value in unknown.items():
        if name in _INSTEAD or (name in ChatRequest.model_fields and value != ChatRequest.model_fields[name].default):
            advice = _INSTEAD.get(name, texts.LEAVE_IT_OUT)
            raise BadRequestError(
                texts.NOT_SUPPORTED.fill(param=name, advice=advice), code="unsupported_value", param=name
            )
    check_others(unknown, is_chat=True, is_greedy=False)


def _renamed(error: BadRequestError) -> BadRequestError:
    """Return a refusal of the chat request in the words of this one."""
    param = error.param or ""
    name = _NAMES.get(param) or in_their_words(param)
    if name == param:
        return error
    old = f"'{param}'"
    text = Text(error.message.replace(old, f"'{name}'"), error.message_zh.replace(old, f"'{name}'"))
    return BadRequestError(text, code=error.code, param=name)

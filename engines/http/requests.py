"""Chat-completions requests: a body to a `GenerationRequest`, and back.

In: a JSON body, or a request. Out: the one made from the other, or an `InvalidRequestError` that names the field.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import orjson
import pybase64
from pydantic import BaseModel, BeforeValidator, ConfigDict, FailFast, Field, ValidationError
from pydantic_core import from_json

from engines.adapter_names import split_model
from engines.base import (
    GenerationRequest,
    ImagePart,
    InvalidImageError,
    InvalidRequestError,
    Message,
    Part,
    Role,
    SamplingParams,
    TextPart,
)
from engines.http import tools as tool_json
from engines.http.body_paths import path_of
from engines.http.control_tokens import without_control_tokens, without_control_tokens_in
from engines.image_header import sniff_media_type
from engines.json_schema import ANY_OBJECT, JsonSchemaError, to_schema_text

MAX_TOP_LOGPROBS: Final = 20
STOP_WITH_SCHEMA: Final = "'stop' cannot be combined with 'response_format': a stop string could cut the JSON in half."
SCHEMA_WITH_TOOLS: Final = "'tools' cannot be combined with 'response_format': send tool_choice 'none', or no format."


def _as_whole(value: object) -> object:
    """Take 5.0 for 5, as JSON Schema does: some languages have one kind of number and write all with a point."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


# Knobs that the public endpoints and the engines' take alike. Larger numbers can be read from JSON but not be written.
Whole = Annotated[int, BeforeValidator(_as_whole)]
Seed = Annotated[Whole, Field(ge=-(2**63), le=2**63 - 1)]
Tokens = Annotated[Whole, Field(ge=1, le=2**31 - 1)]
Temperature = Annotated[float, Field(ge=0, le=2)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
RepetitionPenalty = Annotated[float, Field(gt=0, le=10)]
TopLogprobs = Annotated[Whole, Field(ge=0, le=MAX_TOP_LOGPROBS)]
# Of our own server: how many tokens a chat request takes, without an answer.
COUNT_PATH: Final = "/v1/chat/completions/input_tokens"
# What a server may not know and an answer does not depend on.
OPTIONAL_FIELDS: Final = ("stream_options", "user", "cache_salt", "parallel_tool_calls")
# Two spellings of one switch: vLLM's and SGLang's, and that of Z.ai, who host the model. A server needs one of them.
THINKING_FIELDS: Final = ("chat_template_kwargs", "thinking")


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A chat-completions body, understood.

    Attributes:
        generation: the question itself.
        stream: the caller wants server-sent events.
        include_usage: the caller wants token counts at the end of the stream.
    """

    generation: GenerationRequest
    stream: bool
    include_usage: bool


class _Model(BaseModel):
    # Strict: "5" is no number. Fields that are not declared change nothing about an answer and are ignored.
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class _TextPart(_Model):
    type: Literal["text"]
    text: str


class _ImageUrl(_Model):
    url: str


class _ImageUrlPart(_Model):
    type: Literal["image_url"]
    image_url: _ImageUrl


def _as_parts(value: object) -> object:
    if value is None:
        return []
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


def _as_list(value: object) -> object:
    if value is None:
        return []
    return [value] if isinstance(value, str) else value


class _ChatMessage(_Model):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[
        list[Annotated[_TextPart | _ImageUrlPart, Field(discriminator="type")]], FailFast(), BeforeValidator(_as_parts)
    ] = Field(default_factory=list)
    tool_calls: Annotated[list[tool_json.ToolCallIn], FailFast(), BeforeValidator(_as_list)] = Field(
        default_factory=list
    )
    tool_call_id: str | None = None


class _StreamOptions(_Model):
    include_usage: bool = False


class _TemplateKwargs(_Model):
    enable_thinking: bool = False


class _JsonSchema(_Model):
    # Its name, description and strictness change nothing: an answer is always held to the schema.
    json_schema: dict[str, Any] = Field(alias="schema")


class _ResponseFormat(_Model):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _JsonSchema | None = None


class _ChatBody(_Model):
    model: str = ""
    # Only the first error is shown, and a million of them would take gigabytes.
    messages: Annotated[list[_ChatMessage], FailFast()] = Field(min_length=1)
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    temperature: Temperature | None = None
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: Whole | None = Field(None, ge=-1, le=2**31 - 1)  # -1 and 0 are vLLM's words for none
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    repetition_penalty: RepetitionPenalty | None = None
    seed: Seed | None = None
    stop: Annotated[list[Annotated[str, Field(min_length=1)]], FailFast(), BeforeValidator(_as_list)] = Field(
        default_factory=list
    )
    logprobs: bool | None = None
    top_logprobs: TopLogprobs | None = None
    user: str | None = None
    stream: bool | None = None
    response_format: _ResponseFormat | None = None
    stream_options: _StreamOptions | None = None
    tools: Annotated[list[tool_json.ToolIn], FailFast(), BeforeValidator(_as_list)] = Field(default_factory=list)
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: _TemplateKwargs | None = None
    # Declared only to be refused: an answer that silently ignores them would be a wrong one.
    n: Whole | None = None
    functions: list[Any] | None = None
    logit_bias: dict[str, Any] | None = None


# The id of the request at the api that a call is made for; `X-Request-ID` is the call's own.
ORIGIN_HEADER: Final = "X-Glowl-Request-ID"


def from_chat_body(body: bytes, request_id: str = "") -> ChatRequest:
    """Understand a chat-completions body.

    What is absent is as in `SamplingParams`, so a bare request is answered greedily unless it asks for thinking.
    ``user`` is the caller. Of ``model`` only the adapter behind its colon counts.

    Raises:
        InvalidRequestError: naming the field at fault; `InvalidImageError` for a picture that is no base64 data URL.
    """
    try:
        chat = _ChatBody.model_validate_json(body)
    except ValidationError as error:
        raise _from_validation_error(error, body) from error
    _refuse_unsupported(chat)
    if chat.messages[-1].role not in ("user", "tool"):
        raise InvalidRequestError(
            "The last message must be the user's turn to answer, or a function's result.", param="messages"
        )
    default = SamplingParams()
    enable_thinking = chat.chat_template_kwargs is not None and chat.chat_template_kwargs.enable_thinking
    sampling = SamplingParams(
        max_tokens=chat.max_completion_tokens or chat.max_tokens,
        temperature=default.temperature if chat.temperature is None and not enable_thinking else chat.temperature,
        top_p=default.top_p if chat.top_p is None else chat.top_p,
        top_k=max(0, chat.top_k or 0),
        frequency_penalty=chat.frequency_penalty or 0.0,
        presence_penalty=chat.presence_penalty or 0.0,
        repetition_penalty=chat.repetition_penalty or 1.0,
        seed=chat.seed,
        stop=tuple(chat.stop),
        top_logprobs=(chat.top_logprobs or 0) if chat.logprobs else None,
        json_schema=_from_response_format(chat),
        tool_use=tool_json.from_choice(chat.tools, chat.tool_choice, is_parallel=chat.parallel_tool_calls is not False),
    )
    if sampling.tool_use is not None and sampling.json_schema is not None:
        raise InvalidRequestError(SCHEMA_WITH_TOOLS, param="response_format")
    return ChatRequest(
        generation=GenerationRequest(
            messages=tuple(_from_message(message, index) for index, message in enumerate(chat.messages)),
            sampling=sampling,
            enable_thinking=enable_thinking,
            request_id=request_id,
            caller=chat.user or "",
            adapter=split_model(chat.model)[1],
        ),
        stream=bool(chat.stream),
        include_usage=chat.stream_options is not None and chat.stream_options.include_usage,
    )


def _refuse_unsupported(chat: _ChatBody) -> None:
    refused = {
        "n": chat.n not in (None, 1),
        "functions": bool(chat.functions),
        "logit_bias": bool(chat.logit_bias),
    }
    for param, is_refused in refused.items():
        if is_refused:
            raise InvalidRequestError(f"'{param}' is not supported by this engine: leave it out.", param=param)
    if chat.top_logprobs and not chat.logprobs:
        raise InvalidRequestError("'top_logprobs' needs 'logprobs' to be true.", param="top_logprobs")


def _from_response_format(chat: _ChatBody) -> str | None:
    wanted = chat.response_format
    if wanted is None or wanted.type == "text":
        return None
    if chat.stop:
        raise InvalidRequestError(STOP_WITH_SCHEMA, param="stop")
    if wanted.type == "json_object":
        return ANY_OBJECT
    if wanted.json_schema is None:
        raise JsonSchemaError("'response_format' of type 'json_schema' needs 'json_schema': {'name', 'schema'}.")
    return to_schema_text(wanted.json_schema.json_schema)


def _to_response_format(json_schema: str) -> dict[str, Any]:
    if json_schema == ANY_OBJECT:
        return {"type": "json_object"}
    # The schema goes out as it is written: the order of its properties is that of the answer.
    return {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": orjson.Fragment(json_schema), "strict": True},
    }


def _from_message(message: _ChatMessage, index: int) -> Message:
    role: Role = "system" if message.role == "developer" else message.role
    parts: list[Part] = []
    for place, part in enumerate(message.content):
        if isinstance(part, _TextPart):
            parts.append(TextPart(part.text))
        else:
            parts.append(from_data_url(part.image_url.url, param=f"messages[{index}].content[{place}].image_url"))
    calls = tool_json.from_calls(message.tool_calls, f"messages[{index}].tool_calls")
    return Message(role, tuple(parts), calls, message.tool_call_id or "")


def _from_validation_error(error: ValidationError, body: bytes) -> InvalidRequestError:
    """Make one OpenAI-shaped refusal of the first thing that is wrong."""
    first = error.errors(include_url=False)[0]
    if first["type"] == "json_invalid":
        return InvalidRequestError(f"The body is not valid JSON: {first['ctx']['error']}.", code="invalid_json")
    param = path_of(first, from_json(body))
    where = f"'{param}'" if param else "The body"
    return InvalidRequestError(f"{where}: {first['msg']}.", param=param or None)


def to_chat_pieces(
    request: GenerationRequest, model: str, *, is_foreign: bool = False, without: Collection[str] = ()
) -> list[bytes]:
    """Encode a request for any OpenAI-compatible server, streamed and with its usage.

    Each picture is a piece of its own, so that its megabytes are not copied into the JSON around it.

    Args:
        request: what to encode.
        model: the name to ask for.
        is_foreign: the server is none of ours: say thinking in both spellings, let no text hold a control token, and
            keep callers' caches apart in the way of vLLM and SGLang, as ours does by ``user``.
        without: fields the server does not know, of `OPTIONAL_FIELDS` and `THINKING_FIELDS`.

    Returns:
        The body, cut around its pictures.

    Raises:
        InvalidRequestError: if a text cannot be sent because it is no valid Unicode (a lone surrogate).
    """
    sampling = request.sampling
    images = [image for message in request.messages for image in message.images]
    cut = secrets.token_hex(16) if images else ""  # where a picture belongs; no text can hold it
    body: dict[str, Any] = {
        "model": model,
        "messages": [_to_message(message, cut, is_foreign=is_foreign) for message in request.messages],
        **tool_json.to_fields(sampling.tool_use),
        **_to_sampling(sampling, is_foreign=is_foreign, enable_thinking=request.enable_thinking),
        "stream": True,
        "stream_options": {"include_usage": True},
        "chat_template_kwargs": {"enable_thinking": request.enable_thinking},
    }
    if sampling.max_tokens is not None:
        body["max_tokens"] = sampling.max_tokens
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if sampling.top_logprobs is not None:
        body["logprobs"] = True
        body["top_logprobs"] = sampling.top_logprobs
    if sampling.json_schema is not None:
        body["response_format"] = _to_response_format(sampling.json_schema)
    if request.caller:
        body["user"] = request.caller
    if is_foreign:
        body["thinking"] = {"type": "enabled" if request.enable_thinking else "disabled"}
        if request.caller:
            body["cache_salt"] = hashlib.sha256(f"glowl:{request.caller}".encode("utf-8", "replace")).hexdigest()
    for field in without:
        body.pop(field, None)
    try:
        whole = orjson.dumps(body)
    except orjson.JSONEncodeError as error:
        raise InvalidRequestError(f"The request cannot be sent as JSON: {error}.", param="messages") from error
    if not images:
        return [whole]
    head, *rest = whole.split(cut.encode())
    pieces = [head]
    for image, after in zip(images, rest, strict=True):
        pieces += (pybase64.b64encode(image.data), after)
    return pieces


def to_tokenize_body(request: GenerationRequest, model: str) -> bytes:
    """Encode a request without pictures for vLLM's ``/tokenize``."""
    return orjson.dumps(
        {
            "model": model,
            "messages": [
                {"role": message.role, "content": without_control_tokens(message.text)} for message in request.messages
            ],
            "add_generation_prompt": True,
            "chat_template_kwargs": {"enable_thinking": request.enable_thinking},
        }
    )


def _to_sampling(sampling: SamplingParams, *, is_foreign: bool, enable_thinking: bool) -> dict[str, Any]:
    """Say how tokens are chosen; ours chooses by itself if that was left open, as another server does for thinking."""
    fields: dict[str, Any] = {"temperature": sampling.temperature, "top_p": sampling.top_p, "seed": sampling.seed}
    if sampling.temperature is None:
        del fields["temperature"]
        if is_foreign and not enable_thinking:
            fields["temperature"] = 0.0
        elif is_foreign:  # from the checkpoint's own values, and the same again for the same question
            fields["seed"] = 0 if sampling.seed is None else sampling.seed
            if sampling.top_p == 1.0:
                del fields["top_p"]
    if fields["seed"] is None:
        del fields["seed"]
    default = SamplingParams()
    for name in ("top_k", "frequency_penalty", "presence_penalty", "repetition_penalty"):
        if (value := getattr(sampling, name)) != getattr(default, name):
            fields[name] = value
    return fields


def _to_message(message: Message, cut: str, *, is_foreign: bool) -> dict[str, Any]:
    written: dict[str, Any] = {"role": message.role, "content": _to_content(message, cut, is_foreign=is_foreign)}
    if message.tool_calls:
        written["tool_calls"] = tool_json.to_wire_calls(message.tool_calls)
        written["content"] = written["content"] or None
    if message.role == "tool":
        written["tool_call_id"] = message.tool_call_id
    return written


def _to_content(message: Message, cut: str, *, is_foreign: bool) -> str | list[dict[str, Any]]:
    if not message.images:  # the oldest shape, which every server and chat template takes
        return without_control_tokens(message.text) if is_foreign else message.text
    texts = [part.text if isinstance(part, TextPart) else "" for part in message.parts]
    if is_foreign:
        texts = without_control_tokens_in(texts)
    return [
        {"type": "text", "text": text}
        if isinstance(part, TextPart)
        else {"type": "image_url", "image_url": {"url": f"data:{part.media_type};base64,{cut}"}}
        for part, text in zip(message.parts, texts, strict=True)
    ]


_CONTENT_PART: Final = re.compile(r"messages\[(\d+)\]\.content\[(\d+)\]")


def param_of_caller(param: str, messages: Sequence[Message]) -> str | None:
    """Return the field of the caller's own request that a picture came in.

    Args:
        param: the field that a refusal names, of the request that `to_chat_pieces` made.
        messages: what that was made from.

    Returns:
        The field as it is if it is no picture's; None if the picture does not say where it came from.
    """
    place = _CONTENT_PART.match(param)
    if place is None:
        return param
    index, number = int(place[1]), int(place[2])
    parts = messages[index].parts if index < len(messages) else ()
    part = parts[number] if number < len(parts) else None
    return part.param or None if isinstance(part, ImagePart) else None


def from_data_url(url: str, *, param: str) -> ImagePart:
    """Take the picture out of a base64 data URL; its bytes decide the media type, whatever is declared.

    Raises:
        InvalidImageError: if it is an address to fetch, another kind of data, or not base64.
    """
    head, comma, data = url.partition(",")
    kind = head.strip().lower()
    if not kind.startswith("data:"):
        raise InvalidImageError(
            "An engine fetches nothing: send the picture itself as 'data:image/png;base64,...'.",
            code="invalid_image_url",
            param=param,
        )
    declared, *parameters = (part.strip() for part in kind.removeprefix("data:").split(";"))
    if not comma or "base64" not in parameters:
        raise InvalidImageError(
            "The data URL must start with 'data:image/<format>;base64,'.", code="invalid_image_url", param=param
        )
    try:
        decoded = pybase64.b64decode(data, validate=True)
    except ValueError as error:
        raise InvalidImageError("The picture is not valid base64.", code="invalid_base64_image", param=param) from error
    if not decoded:
        raise InvalidImageError("The picture is empty.", code="empty_image_file", param=param)
    media_type = sniff_media_type(decoded) or declared
    return ImagePart(data=decoded, media_type=media_type, sha256=hashlib.sha256(decoded).hexdigest(), param=param)

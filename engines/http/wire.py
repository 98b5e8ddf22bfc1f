"""The OpenAI chat-completions wire, as pure functions that the engine server and the engine client share.

In: JSON bodies, server-sent events and the types of `engines.base`. Out: the one made from the other. No sockets here.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, get_args

import orjson
import pybase64
from pydantic import BaseModel, BeforeValidator, ConfigDict, FailFast, Field, ValidationError

from engines.adapter_names import model_with, split_model
from engines.base import (
    Alternative,
    Box,
    ContextLengthError,
    Delta,
    EngineError,
    EngineInfo,
    EngineOverloadedError,
    EngineTimeoutError,
    EngineUnavailableError,
    FinishReason,
    GenerationFailedError,
    GenerationRequest,
    GenerationResult,
    ImagePart,
    InvalidImageError,
    InvalidRequestError,
    Message,
    Part,
    Role,
    SamplingParams,
    TextPart,
    TokenLogprob,
    TooManyImagesError,
    Usage,
    Variant,
)
from engines.http.address import without_addresses
from engines.image_header import sniff_media_type
from engines.json_schema import ANY_OBJECT, JsonSchemaError, to_schema_text
from engines.json_text import dump_line

DONE: Final = b"[DONE]"
# What a server of another make is taken to accept when it does not say; it refuses for itself what is too much.
UNKNOWN_CONTEXT_TOKENS: Final = 131_072
UNKNOWN_MAX_IMAGES: Final = 64
MAX_TOP_LOGPROBS: Final = 20
# A whole answer of the longest context in one event, with room for escapes and log probabilities.
MAX_EVENT_BYTES: Final = 2 * 1024 * 1024
# More tokens than any context has; it fits a double, so that every JSON reader reads the same number.
_MAX_COUNT: Final = 2**53
# JSON has no infinity; this is what OpenAI and vLLM send for a token that could not come.
LEAST_LOGPROB: Final = -9999.0
STOP_WITH_SCHEMA: Final = "'stop' cannot be combined with 'response_format': a stop string could cut the JSON in half."
# What a server may not know and an answer does not depend on.
OPTIONAL_FIELDS: Final = ("stream_options", "user", "cache_salt")
# Two spellings of one switch: vLLM's and SGLang's, and that of Z.ai, who host the model. A server needs one of them.
THINKING_FIELDS: Final = ("chat_template_kwargs", "thinking")

_BOM: Final = b"\xef\xbb\xbf"
_IMAGE_CODES: Final = (
    "invalid_image_format",
    "invalid_base64_image",
    "invalid_image_url",
    "image_too_large",
    "image_too_small",
    "image_parse_error",
    "invalid_image_mode",
    "image_file_too_large",
    "unsupported_image_media_type",
    "empty_image_file",
)
_ERRORS: Final[tuple[type[EngineError], ...]] = (
    InvalidRequestError,
    ContextLengthError,
    InvalidImageError,
    TooManyImagesError,
    EngineOverloadedError,
    EngineUnavailableError,
    EngineTimeoutError,
    GenerationFailedError,
)
_ERROR_BY_CODE: Final[dict[str, type[EngineError]]] = {
    **{error.default_code: error for error in _ERRORS},
    **dict.fromkeys(_IMAGE_CODES, InvalidImageError),
}
# A refused key, a wrong path or a wrong model name is our own configuration: the caller's request is not at fault, and
# another engine may serve it.
_ERROR_BY_STATUS: Final[dict[int, type[EngineError]]] = {
    401: EngineUnavailableError,
    402: EngineUnavailableError,
    403: EngineUnavailableError,
    404: EngineUnavailableError,
    405: EngineUnavailableError,
    408: EngineTimeoutError,
    429: EngineOverloadedError,
    502: EngineUnavailableError,
    503: EngineUnavailableError,
    504: EngineTimeoutError,
}
# In the middle of a stream there is no status; for a code that is not known, the type says whose fault it is.
_STATUS_BY_TYPE: Final = {"invalid_request_error": 400, "rate_limit_error": 429}


# --- requests -----------------------------------------------------------------------------------------------------


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
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[
        list[Annotated[_TextPart | _ImageUrlPart, Field(discriminator="type")]], FailFast(), BeforeValidator(_as_parts)
    ] = Field(default_factory=list)


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
    # The first error is the one that is told, and a million of them would take gigabytes.
    messages: Annotated[list[_ChatMessage], FailFast()] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    stop: Annotated[list[Annotated[str, Field(min_length=1)]], FailFast(), BeforeValidator(_as_list)] = Field(
        default_factory=list
    )
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    user: str | None = None
    stream: bool | None = None
    response_format: _ResponseFormat | None = None
    stream_options: _StreamOptions | None = None
    chat_template_kwargs: _TemplateKwargs | None = None
    # Declared only to be refused: an answer that silently ignores them would be a wrong one.
    n: int | None = None
    tools: list[Any] | None = None
    functions: list[Any] | None = None
    logit_bias: dict[str, Any] | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None


def from_chat_body(body: bytes, request_id: str = "") -> ChatRequest:
    """Understand a chat-completions body.

    ``temperature`` and ``top_p`` are those of `SamplingParams` when absent, so a bare request is answered greedily.
    ``user`` is the caller. Of ``model`` only the adapter behind its colon counts.

    Raises:
        InvalidRequestError: naming the field at fault; `InvalidImageError` for a picture that is no base64 data URL.
    """
    try:
        chat = _ChatBody.model_validate_json(body)
    except ValidationError as error:
        raise _from_validation_error(error) from error
    _refuse_unsupported(chat)
    if chat.messages[-1].role != "user":
        raise InvalidRequestError("The last message must be the user's turn to answer.", param="messages")
    default = SamplingParams()
    sampling = SamplingParams(
        max_tokens=chat.max_completion_tokens or chat.max_tokens,
        temperature=default.temperature if chat.temperature is None else chat.temperature,
        top_p=default.top_p if chat.top_p is None else chat.top_p,
        seed=chat.seed,
        stop=tuple(chat.stop),
        top_logprobs=(chat.top_logprobs or 0) if chat.logprobs else None,
        json_schema=_from_response_format(chat),
    )
    return ChatRequest(
        generation=GenerationRequest(
            messages=tuple(_from_message(message, index) for index, message in enumerate(chat.messages)),
            sampling=sampling,
            enable_thinking=chat.chat_template_kwargs is not None and chat.chat_template_kwargs.enable_thinking,
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
        "tools": bool(chat.tools),
        "functions": bool(chat.functions),
        "logit_bias": bool(chat.logit_bias),
        "frequency_penalty": bool(chat.frequency_penalty),
        "presence_penalty": bool(chat.presence_penalty),
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
    return Message(role, tuple(parts))


def _from_validation_error(error: ValidationError) -> InvalidRequestError:
    """Make one OpenAI-shaped refusal of the first thing that is wrong."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return InvalidRequestError("The body is not valid JSON: send one JSON object.")
    steps = list(first["loc"])
    if len(steps) > 4 and steps[2] == "content":
        del steps[4]  # the name of the union's member, which is no field of the request
    param = ""
    for step in steps:
        param += f"[{step}]" if isinstance(step, int) else f".{step}" if param else step
    where = f"'{param}'" if param else "The body"
    return InvalidRequestError(f"{where}: {first['msg']}.", param=param or None)


def to_chat_body(
    request: GenerationRequest, model: str, *, is_foreign: bool = False, without: Collection[str] = ()
) -> bytes:
    """Encode a request for any OpenAI-compatible server, streamed and with its usage.

    Args:
        request: what to encode.
        model: the name to ask for.
        is_foreign: the server is none of ours: say thinking in both spellings, and keep callers' caches apart in the
            way of vLLM and SGLang, as ours does by ``user``.
        without: fields the server does not know, of `OPTIONAL_FIELDS` and `THINKING_FIELDS`.

    Raises:
        InvalidRequestError: if a text cannot be sent because it is no valid Unicode (a lone surrogate).
    """
    sampling = request.sampling
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": message.role, "content": _to_content(message)} for message in request.messages],
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "stream": True,
        "stream_options": {"include_usage": True},
        "chat_template_kwargs": {"enable_thinking": request.enable_thinking},
    }
    if sampling.max_tokens is not None:
        body["max_tokens"] = sampling.max_tokens
    if sampling.seed is not None:
        body["seed"] = sampling.seed
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
        return orjson.dumps(body)
    except orjson.JSONEncodeError as error:
        raise InvalidRequestError(f"The request cannot be sent as JSON: {error}.", param="messages") from error


def _to_content(message: Message) -> str | list[dict[str, Any]]:
    if not message.images:  # the oldest shape, which every server and chat template takes
        return message.text
    return [
        {"type": "text", "text": part.text}
        if isinstance(part, TextPart)
        else {"type": "image_url", "image_url": {"url": to_data_url(part)}}
        for part in message.parts
    ]


_CONTENT_PART: Final = re.compile(r"messages\[(\d+)\]\.content\[(\d+)\]")


def param_of_caller(param: str, messages: Sequence[Message]) -> str | None:
    """Return the field of the caller's own request that a picture came in.

    Args:
        param: the field that a refusal names, of the request that `to_chat_body` made.
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


def to_data_url(image: ImagePart) -> str:
    """Encode a picture as a base64 data URL; the bytes stay as they are."""
    return f"data:{image.media_type};base64,{pybase64.b64encode_as_string(image.data)}"


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


# --- answers ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CompletionHead:
    """What every chunk of one answer repeats.

    Attributes:
        completion_id: ``chatcmpl-...``.
        created: unix seconds.
        model: the name shown in the answer.
        include_usage: end the stream with a chunk of token counts.
        has_logprobs: a whole answer carries log probabilities, if only an empty list.
    """

    completion_id: str
    created: int
    model: str
    include_usage: bool = False
    has_logprobs: bool = False


def to_completion(result: GenerationResult, head: CompletionHead) -> bytes:
    """Encode a whole answer as a ``chat.completion`` object."""
    message: dict[str, Any] = {"role": "assistant", "content": result.text, "refusal": None}
    if result.reasoning:
        message["reasoning_content"] = result.reasoning
    if result.boxes:
        message["glowl"] = {"boxes": to_boxes(result.boxes)}
    return dump_line(
        {
            "id": head.completion_id,
            "object": "chat.completion",
            "created": head.created,
            "model": head.model,
            "choices": [
                {
                    "index": 0,
                    "message": message,
                    "logprobs": to_choice_logprobs(result.logprobs) if head.has_logprobs else None,
                    "finish_reason": result.finish_reason,
                }
            ],
            "usage": _to_usage(result.usage),
        }
    )


def to_first_event(head: CompletionHead) -> bytes:
    """Encode the event that opens a stream: the role, and no text yet."""
    return _to_chunk(head, {"role": "assistant", "content": ""})


def to_events(delta: Delta, head: CompletionHead) -> bytes:
    """Encode one delta as server-sent events; the last delta brings the finish reason, the usage and ``[DONE]``."""
    events = b""
    if delta.text or delta.reasoning or delta.logprobs or delta.boxes:
        content: dict[str, Any] = {}
        if delta.reasoning:
            content["reasoning_content"] = delta.reasoning
        if delta.text:
            content["content"] = delta.text
        if delta.boxes:
            content["glowl"] = {"boxes": to_boxes(delta.boxes)}
        events += _to_chunk(head, content, logprobs=delta.logprobs)
    if delta.finish_reason is not None:
        events += _to_chunk(head, {}, finish_reason=delta.finish_reason)
        if head.include_usage:
            events += _to_event({**_chunk_head(head), "choices": [], "usage": _to_usage(delta.usage or Usage())})
        events += b"data: " + DONE + b"\n\n"
    return events


def _chunk_head(head: CompletionHead) -> dict[str, Any]:
    return {
        "id": head.completion_id,
        "object": "chat.completion.chunk",
        "created": head.created,
        "model": head.model,
    }


def _to_chunk(
    head: CompletionHead,
    delta: Mapping[str, Any],
    finish_reason: FinishReason | None = None,
    logprobs: tuple[TokenLogprob, ...] = (),
) -> bytes:
    choice = {
        "index": 0,
        "delta": delta,
        "logprobs": to_choice_logprobs(logprobs) if logprobs else None,
        "finish_reason": finish_reason,
    }
    chunk = {**_chunk_head(head), "choices": [choice]}
    if head.include_usage:
        chunk["usage"] = None
    return _to_event(chunk)


def _to_event(payload: Mapping[str, Any]) -> bytes:
    return b"data: " + dump_line(payload) + b"\n\n"


def _to_usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens, "image_tokens": usage.image_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


class EventParser:
    """Cuts a byte stream into the payloads of its server-sent events.

    Bytes may be split anywhere, inside a character or a line end too. Comments, which servers send to keep a
    connection alive, events without data, and all fields but ``data`` are dropped; what comes as ``event: error`` is
    passed on as an error envelope.

    Args:
        max_bytes: the largest event taken.
        wraps_errors: False passes ``event: error`` on as it came: the Responses API has an event type of that name.

    Source: https://html.spec.whatwg.org/multipage/server-sent-events.html, section 9.2.6.
    """

    _LINE_END = re.compile(rb"\r\n|\n|\r")

    def __init__(self, max_bytes: int = MAX_EVENT_BYTES, *, wraps_errors: bool = True) -> None:
        self._max_bytes = max_bytes
        self._wraps_errors = wraps_errors
        self._rest = b""
        self._data: list[bytes] = []
        self._num_bytes = 0
        self._is_after_cr = False
        self._is_error = False
        self._is_begun = False

    def feed(self, received: bytes) -> list[bytes]:
        """Take the next bytes; return the payloads of the events they complete.

        Raises:
            GenerationFailedError: if an event is larger than is taken.
        """
        if not received:
            return []
        if not self._is_begun:  # a byte order mark, which may be cut as well
            self._rest += received
            if _BOM.startswith(self._rest) and len(self._rest) < len(_BOM):
                return []
            self._is_begun = True
            received, self._rest = self._rest.removeprefix(_BOM), b""
        ends_with_cr = received.endswith(b"\r")
        if self._is_after_cr and received.startswith(b"\n"):  # the second half of a split \r\n
            received = received[1:]
        self._is_after_cr = ends_with_cr
        *lines, self._rest = self._LINE_END.split(self._rest + received)
        payloads = []
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
                self._check(len(line))
            elif line.startswith(b"event:"):
                self._is_error = line[6:].strip() == b"error"
            elif not line:
                payload = b"\n".join(self._data).strip()
                if payload:
                    payloads.append(_to_failure(payload) if self._is_error and self._wraps_errors else payload)
                self._data, self._num_bytes, self._is_error = [], 0, False
        self._check(len(self._rest), is_held=False)
        return payloads

    def _check(self, num_bytes: int, *, is_held: bool = True) -> None:
        if self._num_bytes + num_bytes > self._max_bytes:
            raise GenerationFailedError(f"The engine sent an event of over {self._max_bytes} bytes.")
        if is_held:
            self._num_bytes += num_bytes


def from_event(payload: bytes) -> Delta:
    """Understand one event of an answer; an event may bring any of text, reasoning, finish reason and usage.

    An event without choices, as some servers send for token counts or metadata, brings no text and is no fault.

    Raises:
        EngineError: the one the event carries, or `GenerationFailedError` if it is no chat-completion chunk.
    """
    try:
        chunk = orjson.loads(payload)
        if _is_failure(chunk):
            raise from_error(None, payload)
        usage = _from_usage(chunk["usage"]) if chunk.get("usage") else None
        if not chunk.get("choices"):
            return Delta(usage=usage)
        # Of several answers, which nobody asked for, the first is meant.
        choice = next((each for each in chunk["choices"] if each.get("index") in (0, None)), None)
        if choice is None:
            return Delta(usage=usage)
        delta = choice.get("delta") or {}
        text, thoughts = _from_content(delta.get("content"))
        more_thoughts = _from_content(delta.get("reasoning_content") or delta.get("reasoning"))
        return Delta(
            text=text,
            reasoning=thoughts + "".join(more_thoughts),
            finish_reason=_from_finish_reason(choice.get("finish_reason")),
            usage=usage,
            logprobs=from_logprobs((choice.get("logprobs") or {}).get("content")),
            boxes=from_boxes((delta.get("glowl") or {}).get("boxes")),
        )
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
        raise GenerationFailedError("The engine sent an event that is no chat-completion chunk.") from error


def _is_failure(chunk: dict[str, Any]) -> bool:
    """Whether an event says that the answer failed: an envelope, or an older flat error object."""
    if chunk.get("error") or chunk.get("status") in ("failed", "error"):
        return True
    return "choices" not in chunk and (chunk.get("object") == "error" or not _FAILURE_WORDS.isdisjoint(chunk))


def _to_failure(payload: bytes) -> bytes:
    """Put what came as ``event: error`` into an envelope, if it is in none."""
    try:
        found = orjson.loads(payload)
    except orjson.JSONDecodeError:
        found = _text_of(payload)
    if isinstance(found, dict) and found.get("error"):
        return payload
    return orjson.dumps({"error": found or "The engine failed."})


def _from_content(content: object) -> tuple[str, str]:
    """Read a delta's text and the reasoning in it: a string, or a list of parts as newer servers write it.

    Raises:
        TypeError: if it is something else, or has a part that is no text.
    """
    if content is None:
        return "", ""
    if isinstance(content, str):
        return content, ""
    if not isinstance(content, list):
        raise TypeError("content is neither text nor a list of parts")
    text = reasoning = ""
    for part in content:
        if isinstance(part, dict):
            said, thought = _from_content(part.get("text"))
            if part.get("type") in ("reasoning", "thinking", "reasoning_text"):
                said, thought = "", said + thought
        else:
            said, thought = _from_content(part)
        text, reasoning = text + said, reasoning + thought
    return text, reasoning


# Fields of a failure, in the words of several servers, that no event of an answer has beside its choices.
_REASON_FIELDS: Final = ("message", "detail", "msg", "detail_message", "error_msg", "errorMessage")
_FAILURE_WORDS: Final = frozenset((*_REASON_FIELDS, "error_code"))

# How servers of GLM and others end an answer. Only a known good end is one: what is not listed here is a failure.
_FINISH_REASONS: Final[dict[str, FinishReason]] = {
    **dict.fromkeys(("stop", "stop_sequence", "stop_str", "eos", "eos_token", "end_turn"), "stop"),
    **dict.fromkeys(("length", "max_tokens", "max_output_tokens", "model_length"), "length"),
    # Z.ai's word for a full context; vLLM's for an answer that was cut because it went round in circles.
    **dict.fromkeys(("model_context_window_exceeded", "repetition"), "length"),
    **dict.fromkeys(("content_filter", "sensitive", "safety", "refusal", "blocked", "recitation"), "content_filter"),
}


def _from_finish_reason(value: object) -> FinishReason | None:
    """Read why an answer ended; None if it has not.

    Raises:
        GenerationFailedError: if the server gave it up, or says something that is not known to be a good end.
    """
    if value is None or value == "":  # some servers say "" on every chunk but the last
        return None
    known = _FINISH_REASONS.get(value.lower()) if isinstance(value, str) else None
    if known is None:
        raise GenerationFailedError(f"The engine broke its answer off: {str(value)[:40]!r}.")
    return known


def _from_usage(usage: Mapping[str, Any]) -> Usage:
    prompt = usage.get("prompt_tokens_details") or {}
    completion = usage.get("completion_tokens_details") or {}
    return Usage(
        prompt_tokens=_from_count(usage.get("prompt_tokens")),
        completion_tokens=_from_count(usage.get("completion_tokens")),
        image_tokens=_from_count(prompt.get("image_tokens")),
        cached_tokens=_from_count(prompt.get("cached_tokens")),
        reasoning_tokens=_from_count(completion.get("reasoning_tokens") or usage.get("reasoning_tokens")),
    )


def _from_count(value: object) -> int:
    """Read a number of tokens; a server that does not count says none.

    Raises:
        TypeError: if it is no number.
        ValueError: if it is no whole number from 0 up, or too large to be stored.
    """
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("a number of tokens is no number")
    if value != int(value) or not 0 <= value < _MAX_COUNT:
        raise ValueError("no number of tokens")
    return int(value)


def to_boxes(boxes: Iterable[Box]) -> list[dict[str, Any]]:
    """Encode boxes as a list of ``{"image", "x1", "y1", "x2", "y2"}``, in hundredths of a pixel."""
    return [
        {
            "image": box.image,
            "x1": round(box.left, 2),
            "y1": round(box.top, 2),
            "x2": round(box.right, 2),
            "y2": round(box.bottom, 2),
        }
        for box in boxes
    ]


def from_boxes(entries: list[dict[str, Any]] | None) -> tuple[Box, ...]:
    """Read `to_boxes`' form.

    Raises:
        KeyError, TypeError, ValueError: if it is something else.
    """
    return tuple(
        Box(float(entry["x1"]), float(entry["y1"]), float(entry["x2"]), float(entry["y2"]), int(entry["image"]))
        for entry in entries or ()
    )


def to_choice_logprobs(tokens: Iterable[TokenLogprob]) -> dict[str, Any]:
    """Encode log probabilities as a chat completion's choice has them."""
    return {"content": to_logprobs(tokens), "refusal": None}


def to_logprobs(tokens: Iterable[TokenLogprob]) -> list[dict[str, Any]]:
    """Encode log probabilities as a list of ``{"token", "logprob", "bytes", "top_logprobs"}``."""
    return [{**_to_logprob(token), "top_logprobs": [_to_logprob(other) for other in token.top]} for token in tokens]


def _to_logprob(token: TokenLogprob | Alternative) -> dict[str, Any]:
    logprob = token.logprob if math.isfinite(token.logprob) else LEAST_LOGPROB
    return {"token": token.token, "logprob": logprob, "bytes": list(token.data)}


def from_logprobs(entries: list[dict[str, Any]] | None) -> tuple[TokenLogprob, ...]:
    """Read `to_logprobs`' form, or another server's, which may lack the bytes and the alternatives.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: if it is something else.
    """
    return tuple(
        TokenLogprob(
            *_from_logprob(entry),
            top=tuple(Alternative(*_from_logprob(other)) for other in entry.get("top_logprobs") or ()),
        )
        for entry in entries or ()
    )


def _from_logprob(entry: Mapping[str, Any]) -> tuple[str, float, bytes]:
    token, logprob, data = str(entry["token"]), entry.get("logprob"), entry.get("bytes")
    return (
        token,
        LEAST_LOGPROB if logprob is None else float(logprob),
        token.encode("utf-8", "replace") if data is None else bytes(list(data)),
    )


# --- errors -------------------------------------------------------------------------------------------------------


def to_error(message: str, *, status_code: int, code: str, param: str | None = None) -> bytes:
    """Encode an OpenAI error envelope."""
    kind = "server_error"
    if status_code == 429:
        kind = "rate_limit_error"
    elif status_code < 500:
        kind = "invalid_request_error"
    return dump_line({"error": {"message": message, "type": kind, "param": param, "code": code}})


def to_error_event(error: EngineError) -> bytes:
    """Encode a failure in the middle of a stream, where no status can be sent any more."""
    body = to_error(error.message, status_code=error.status_code, code=error.code, param=error.param)
    return b"data: " + body + b"\n\n"


def from_error(status: int | None, body: bytes) -> EngineError:
    """Find the engine error that a refusal stands for: by its code, by known wording, else by its status.

    Args:
        status: the HTTP status; None for an error inside a stream.
        body: an envelope, an older flat error object, or anything.
    """
    envelope: Any = None
    try:
        envelope = orjson.loads(body)
    except orjson.JSONDecodeError:  # a proxy's page, or plain text
        envelope = {"message": _text_of(body)}
    details = envelope.get("error", envelope) if isinstance(envelope, dict) else None
    if not isinstance(details, dict):
        details = {"message": details}
    reason = next((details[field] for field in _REASON_FIELDS if details.get(field)), None)
    if reason and not isinstance(reason, str):  # FastAPI's list of what is wrong where
        reason = orjson.dumps(reason).decode()
    message = without_addresses(reason) if reason else f"The engine answered with status {status} and no reason."
    code = details.get("code")
    if status is None:
        status = code if isinstance(code, int) else _STATUS_BY_TYPE.get(str(details.get("type")), 500)
    kind = _ERROR_BY_CODE.get(code) if isinstance(code, str) else None
    kind = kind or _kind_by_wording(message, status) or _ERROR_BY_STATUS.get(status)
    if kind is None:
        kind = InvalidRequestError if 400 <= status < 500 else GenerationFailedError
    param = details.get("param")
    return kind(message, code=code if isinstance(code, str) else None, param=param if isinstance(param, str) else None)


def _text_of(body: bytes) -> str:
    """The words of a refusal that is no JSON: its first line, or a web page's title."""
    text = body[:65536].decode("utf-8", "replace").strip()
    if text.startswith("<"):
        title = re.search(r"<title>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
        text = " ".join(title[1].split()) if title else ""
    return text.partition("\n")[0].strip()[:300]


_CONTEXT_WORDING: Final = re.compile(
    r"context length|longer than the model's context|exceeds the maximum allowed length", re.IGNORECASE
)
_NO_PICTURE_WORDING: Final = re.compile(
    r"cannot identify image file|image file is truncated|(?:failed|unable) to (?:load|open|decode) (?:the )?image",
    re.IGNORECASE,
)


def _kind_by_wording(message: str, status: int) -> type[EngineError] | None:
    """Tell the refusals of vLLM and SGLang apart, which all come as a plain 400."""
    if status in (401, 403, 404) or not 400 <= status < 500:
        return None
    if _CONTEXT_WORDING.search(message):
        return ContextLengthError
    if re.search(r"at most \d+ image", message, re.IGNORECASE):
        return TooManyImagesError
    if _NO_PICTURE_WORDING.search(message):
        return InvalidImageError
    return None


def room_for_answer(error: EngineError) -> int | None:
    """How many tokens an answer may have, if a refusal of ``max_tokens`` tells; None if it does not, or there is none.

    vLLM refuses a bound that is over what the context has left, where an engine of ours shrinks it.
    """
    context = re.search(r"context length is (?:only )?(\d+)", error.message)
    prompt = re.search(r"(\d+) input tokens|(\d+) in the messages", error.message)
    if context is None or prompt is None:
        return None
    room = int(context[1]) - int(prompt[1] or prompt[2])
    return room if room > 0 else None


def unknown_field(error: EngineError, sent: Iterable[str]) -> str | None:
    """Which of the fields a refusal is about; None if it names none of them."""
    for field in sent:
        if error.param is not None and error.param.removeprefix("body.").split(".")[0] == field:
            return field
        if re.search(
            rf"""["'`(\[]{field}(?:["'`)\].]|$)|\b(?:argument|field|parameter|property)s?(?: supplied)?:? {field}\b""",
            error.message,
        ):
            return field
    return None


# --- models -------------------------------------------------------------------------------------------------------


def to_models(info: EngineInfo, created: int) -> bytes:
    """Encode the list of what an engine server has: its one model, and that model with each of its adapters.

    An adapter names its model as ``parent``, as in the lists of vLLM and SGLang.
    """
    model = {
        "id": info.model_id,
        "object": "model",
        "created": created,
        "owned_by": "glowl",
        "max_model_len": info.context_tokens,
        "glowl": {
            "engine": info.name,
            "variant": info.variant,
            "context_tokens": info.context_tokens,
            "max_images": info.max_images,
        },
    }
    adapted = [{**model, "id": model_with(info.model_id, name), "parent": info.model_id} for name in info.adapters]
    return orjson.dumps({"object": "list", "data": [model, *adapted]})


def from_models(body: bytes, model: str | None = None) -> EngineInfo:
    """Describe the engine behind a model list.

    A server of another make says neither its role nor its limits: its model id is then taken for its name, and limits
    it does not tell are set so high that the server itself is the one to refuse. Adapters are the entries that name the
    model as their ``parent``.

    Args:
        body: the answer to ``GET /v1/models``.
        model: which entry to take; None takes the first.

    Raises:
        EngineUnavailableError: if there is no such model, or the body is no model list.
    """
    try:
        entries = orjson.loads(body)["data"]
        # Adapters are listed too, each with the model it belongs to; without a name, a model is meant.
        named = (entry for entry in entries if entry["id"] == model or (model is None and not entry.get("parent")))
        entry = next(named, None)
        if entry is None:
            raise EngineUnavailableError(f"The engine does not serve a model named {model!r}.")
        model_id = str(entry["id"])
        own = entry.get("glowl")
        adapters = tuple(_adapter_ids(entries, model_id))
        if not own:
            return EngineInfo(
                name=model_id,
                model=model_id,
                variant="full",
                context_tokens=entry.get("max_model_len") or UNKNOWN_CONTEXT_TOKENS,
                max_images=UNKNOWN_MAX_IMAGES,
                adapters=adapters,
            )
        variant = own["variant"]
        if variant not in get_args(Variant):
            raise ValueError(f"unknown variant {variant!r}")
        return EngineInfo(
            name=own["engine"],
            model=model_id if variant == "full" else model_id.removesuffix(f"-{variant}"),
            variant=variant,
            context_tokens=own["context_tokens"],
            max_images=own["max_images"],
            adapters=adapters,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EngineUnavailableError("The engine answered with something that is no model list.") from error


def adapter_ids(body: bytes, model_id: str) -> dict[str, str]:
    """Return the ids under which a server takes a model's adapters, by their names, from the list `from_models` read.

    Ours and SGLang say ``model:name``; vLLM says whatever it was started with, and then that is the name.
    """
    return _adapter_ids(orjson.loads(body)["data"], model_id)


def _adapter_ids(entries: list[dict[str, Any]], model_id: str) -> dict[str, str]:
    ids = [str(entry["id"]) for entry in entries if entry.get("parent") == model_id]
    return {id_.removeprefix(f"{model_id}:"): id_ for id_ in ids}

"""The wire shapes callers send, and what of them we can honour.

In: JSON bytes. Out: pydantic models and engine knobs. Fields that we cannot honour are refused by name; fields that
change nothing are accepted and ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from engines.base import SamplingParams
from engines.wire import MAX_TOP_LOGPROBS
from router.errors import BadRequestError

MAX_METADATA = 16
MAX_NAME = 256
LOGPROBS = "message.output_text.logprobs"

# Larger numbers than these can be read from JSON but not be written to it.
Seed = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
Tokens = Annotated[int, Field(ge=1, le=2**31 - 1)]
# Refused at the first wrong item: a list of a million of them would cost gigabytes of errors.
Item = TypeVar("Item")
Items = Annotated[list[Item], Field(fail_fast=True)]


class WireModel(BaseModel):
    """Base of request shapes: unknown fields are ignored, as OpenAI clients expect."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Hybrid(WireModel):
    """Glowl's own request options; every one may be left out."""

    route: Literal["auto", "fast", "deep"] = Field("auto", description="override the policy")
    merge: Literal["deep", "compose"] | None = Field(
        None, description="deep: Owl2's answer is final; compose: GLM writes the final answer from both"
    )
    max_wait_s: float | None = Field(None, ge=0, le=3600, description="how long a chat completion waits for a job")
    deadline_ms: Tokens | None = Field(None, description="an answer later than this is of no use")
    dial: float | None = Field(None, ge=0, le=1, description="0 = latency, 1 = depth; default: the preset's own")
    async_: Literal["auto"] | None = Field(
        None, alias="async", description="auto: answer with a queued object when the route is deep"
    )


class ImageUrl(WireModel):
    """Where a picture is: http(s) URL or data URL."""

    url: str
    detail: str | None = None


class TextPartIn(WireModel):
    """Text inside a chat message."""

    type: Literal["text"]
    text: str


class ImagePartIn(WireModel):
    """A picture inside a chat message."""

    type: Literal["image_url"]
    image_url: ImageUrl


def _refuse_part(value: object) -> object:
    if isinstance(value, dict) and value.get("type") in {"input_audio", "file", "input_file", "video_url", "refusal"}:
        raise ValueError(f"a content part of type '{value['type']}' is not supported; send text and pictures")
    return value


ChatPart = Annotated[TextPartIn | ImagePartIn, Field(discriminator="type"), BeforeValidator(_refuse_part)]


class ChatMessage(WireModel):
    """One turn of a chat."""

    role: Literal["developer", "system", "user", "assistant", "tool", "function"]
    content: str | Items[ChatPart] | None = None
    tool_calls: list[Any] | None = None


class StreamOptions(WireModel):
    """What a stream carries beside the text."""

    include_usage: bool = False


class Sampling(WireModel):
    """Knobs that both OpenAI endpoints share, and those of them that we refuse unless they change nothing."""

    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    stream: bool | None = False
    store: bool | None = None
    metadata: dict[str, Any] | None = None
    service_tier: str | None = None
    tools: list[Any] | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    hybrid: Hybrid = Hybrid()


class ChatRequest(Sampling):
    """``POST /v1/chat/completions``."""

    model: str = Field(max_length=MAX_NAME)
    messages: Items[ChatMessage] = Field(min_length=1)
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    n: int | None = 1
    stop: str | Items[str] | None = None
    seed: Seed | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, Any] | None = None
    logprobs: bool | None = None
    response_format: dict[str, Any] | None = None
    stream_options: StreamOptions | None = None
    functions: list[Any] | None = None


class InputTextPart(WireModel):
    """Text inside a Responses input message; ``output_text`` comes back from earlier answers."""

    type: Literal["input_text", "output_text"]
    text: str


class InputImagePart(WireModel):
    """A picture inside a Responses input message: here the URL is a plain string."""

    type: Literal["input_image"]
    image_url: str | None = None
    file_id: str | None = None
    detail: str | None = None


ResponsesPart = Annotated[InputTextPart | InputImagePart, Field(discriminator="type"), BeforeValidator(_refuse_part)]


class InputMessage(WireModel):
    """One item of a Responses input."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | Items[ResponsesPart]


class TextOptions(WireModel):
    """How the answer's text is formatted."""

    format: dict[str, Any] | None = None


class ResponsesRequest(Sampling):
    """``POST /v1/responses``."""

    model: str = Field(max_length=MAX_NAME)
    input: str | Items[InputMessage]
    instructions: str | None = None
    background: bool | None = False
    max_output_tokens: Tokens | None = None
    include: Items[str] | None = None
    previous_response_id: str | None = Field(None, max_length=MAX_NAME)
    conversation: Any = None
    text: TextOptions | None = None


class InferenceRequest(WireModel):
    """``POST /api/v1/inference``: an older shape with one base64 picture."""

    image: str | None = None
    prompt: str = Field(min_length=1)
    max_tokens: Tokens | None = None
    temperature: float | None = Field(None, ge=0, le=2)


class VisionRequest(InferenceRequest):
    """``POST /v1/vision/completion``: an older shape with one picture by URL or data URL."""

    model: str | None = Field(None, max_length=MAX_NAME)


def to_chat_sampling(request: ChatRequest) -> SamplingParams:
    """Read a chat request's knobs.

    Raises:
        BadRequestError: naming the field, for what we cannot honour.
    """
    if request.n not in (None, 1):
        raise unsupported("n", "only one choice per request is generated; send n=1")
    if request.top_logprobs and not request.logprobs:
        raise unsupported("top_logprobs", "send logprobs=true with it")
    if request.frequency_penalty:
        raise unsupported("frequency_penalty", "leave it out or send 0")
    if request.presence_penalty:
        raise unsupported("presence_penalty", "leave it out or send 0")
    if request.logit_bias:
        raise unsupported("logit_bias", "leave it out")
    if request.functions:
        raise unsupported("functions", "tool calls are not available; leave it out")
    _refuse_tools(request)
    _refuse_format(request.response_format, "response_format")
    stop = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ())
    if len(stop) > 4:
        raise unsupported("stop", "at most 4 stop strings are accepted")
    return SamplingParams(
        max_tokens=request.max_completion_tokens or request.max_tokens,
        temperature=request.temperature or 0.0,
        top_p=request.top_p or 1.0,
        seed=request.seed,
        stop=tuple(text for text in stop if text),
        top_logprobs=(request.top_logprobs or 0) if request.logprobs else None,
    )


def to_responses_sampling(request: ResponsesRequest) -> SamplingParams:
    """Read a Responses request's knobs.

    Raises:
        BadRequestError: naming the field, for what we cannot honour.
    """
    if request.conversation:
        raise unsupported("conversation", "send previous_response_id or the whole conversation as input")
    if request.background and request.store is False:
        raise unsupported("store", "a background response must be stored; leave store out")
    _refuse_tools(request)
    _refuse_format(request.text.format if request.text else None, "text.format")
    has_logprobs = request.top_logprobs or LOGPROBS in (request.include or ())
    return SamplingParams(
        max_tokens=request.max_output_tokens,
        temperature=request.temperature or 0.0,
        top_p=request.top_p or 1.0,
        top_logprobs=(request.top_logprobs or 0) if has_logprobs else None,
    )


def check_metadata(metadata: dict[str, Any] | None) -> dict[str, str]:
    """Bound the caller's pairs as OpenAI does.

    Raises:
        BadRequestError: if there are too many, or one is too long or no text.
    """
    metadata = metadata or {}
    if len(metadata) > MAX_METADATA:
        raise unsupported("metadata", f"at most {MAX_METADATA} pairs are accepted")
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise BadRequestError(
                f"Invalid 'metadata.{key[:64]}': Input should be a valid string.",
                code="invalid_value",
                param=f"metadata.{key[:64]}",
                message_zh=f"参数 'metadata.{key[:64]}' 无效：值必须是字符串。",
            )
        if len(key) > 64 or len(value) > 512:
            raise unsupported(f"metadata.{key[:64]}", "keys hold at most 64 characters, values at most 512")
    return metadata


def unsupported(param: str, advice: str) -> BadRequestError:
    """Make the refusal of one field."""
    return BadRequestError(
        f"Unsupported value for '{param}': {advice}.",
        code="unsupported_value",
        param=param,
        message_zh=f"不支持参数 '{param}' 的这个取值：{advice}。",
    )


def _refuse_tools(request: Sampling) -> None:
    if request.tools:
        raise unsupported("tools", "tool calls are not available; leave it out")


def _refuse_format(wanted: dict[str, Any] | None, param: str) -> None:
    if wanted and wanted.get("type", "text") != "text":
        raise unsupported(param, "only the type 'text' is available")

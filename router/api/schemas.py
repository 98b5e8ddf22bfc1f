"""The wire shapes callers send, and what of them we can honour.

In: JSON bytes. Out: pydantic models and engine knobs. Fields that we cannot honour are refused by name; fields that
change nothing are accepted and ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticUseDefault

from engines.base import SamplingParams
from engines.http.requests import MAX_TOP_LOGPROBS
from engines.json_schema import ANY_OBJECT, JsonSchemaError, check_schema, to_schema_text
from router.api.other_fields import check_others, unsupported
from router.call import DraftAs
from router.errors import BadRequestError
from router.output_format import OutputFormat
from router.templates import NAMES, template_schema

MAX_METADATA = 16
MAX_NAME = 256
LOGPROBS = "message.output_text.logprobs"


def _default_if_null(value: object) -> object:
    if value is None:
        raise PydanticUseDefault
    return value


# Many clients write null for what is not set.
NullAsDefault = BeforeValidator(_default_if_null)
# Larger numbers than these can be read from JSON but not be written to it.
Seed = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
Tokens = Annotated[int, Field(ge=1, le=2**31 - 1)]
ServiceTier = Literal["auto", "default", "flex", "scale", "priority", "fast", "ultrafast"]
# Refused at the first wrong item: a list of a million of them would cost gigabytes of errors.
Item = TypeVar("Item")
Items = Annotated[list[Item], Field(fail_fast=True)]


class WireModel(BaseModel):
    """Base of request shapes: unknown fields are ignored, as OpenAI clients expect."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Hybrid(WireModel):
    """Glowl's own request options; every one may be left out.

    A key that is not one of them is refused: no other client writes into this object, so it can only be a slip.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    route: Annotated[Literal["auto", "fast", "deep"], NullAsDefault] = Field("auto", description="override the policy")
    merge: Literal["deep", "compose", "fields"] | None = Field(
        None,
        description="deep: Owl2's answer is final; compose: GLM writes the final answer from both; "
        "fields: JSON answers are merged field by field, which needs a JSON format",
    )
    max_wait_s: float | None = Field(
        None,
        ge=0,
        le=3600,
        description="how long a chat completion waits for a job before it answers with the draft, or "
        "without one with a 504 that names the id; 0: as soon as the draft is there",
    )
    deadline_ms: Tokens | None = Field(
        None, description="an answer later than this is of no use: a job ends then with what there is"
    )
    dial: float | None = Field(None, ge=0, le=1, description="0 = latency, 1 = depth; default: the preset's own")
    template: str | None = Field(
        None,
        max_length=MAX_NAME,
        description="answer in JSON of a shipped schema, see /v1/templates",
        json_schema_extra={"enum": [*NAMES, None]},
    )
    async_: Literal["auto"] | None = Field(
        None, alias="async", description="auto: answer with a queued object when the route is deep"
    )
    draft: DraftAs | None = Field(
        None,
        description="what carries GLM's draft in a stream: reasoning (the default: clients show it as thinking), "
        "message (a message of its own, for clients that read items apart), events (hybrid.draft.*) or none",
    )

    @model_validator(mode="before")
    @classmethod
    def _knows_every_key(cls, sent: Any) -> Any:
        known = [field.alias or name for name, field in cls.model_fields.items()]
        for key in sent if isinstance(sent, dict) else ():
            if key not in known:
                shown, accepted = f"hybrid.{str(key)[:64]}", ", ".join(known)
                raise BadRequestError(
                    f"Unknown parameter: '{shown}'. The options of 'hybrid' are {accepted}.",
                    code="unknown_parameter",
                    param=shown,
                    message_zh=f"未知参数：'{shown}'。'hybrid' 可用的选项有 {accepted}。",
                )
        return sent

    @property
    def draft_as(self) -> DraftAs:
        """What carries the draft."""
        return self.draft or "reasoning"


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


class RefusalPartIn(WireModel):
    """What a model said instead of an answer; a part of the conversation like any text."""

    type: Literal["refusal"]
    refusal: str

    @property
    def text(self) -> str:
        """The refusal."""
        return self.refusal


_REFUSED_PARTS = ("input_audio", "file", "input_file", "video_url", "audio_url", "document", "tool_use", "tool_result")


def _check_part(value: object) -> object:
    """Say what is wrong with a part's type, which pydantic would say of a string only."""
    if not isinstance(value, dict):
        return value
    kind = value.get("type")
    if kind is not None and not isinstance(kind, str):
        raise ValueError("'type' must be a string")
    if kind in _REFUSED_PARTS:
        raise ValueError(f"a content part of type '{kind}' is not supported; send text and pictures")
    return value


ChatPart = Annotated[
    TextPartIn | ImagePartIn | RefusalPartIn, Field(discriminator="type"), BeforeValidator(_check_part)
]


class ChatMessage(WireModel):
    """One turn of a chat."""

    role: Literal["developer", "system", "user", "assistant", "tool", "function"]
    content: str | Items[ChatPart] | None = None
    refusal: str | None = None
    tool_calls: list[Any] | None = None
    function_call: Any = None


class StreamOptions(WireModel):
    """What a stream carries beside the text."""

    include_usage: Annotated[bool, NullAsDefault] = False


ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class Reasoning(WireModel):
    """Whether the model is to think before it answers."""

    effort: ReasoningEffort | None = None
    enabled: bool | None = None
    max_tokens: int | None = None


class Sampling(WireModel):
    """Knobs that both OpenAI endpoints share; `other_fields` says which others are refused."""

    model_config = ConfigDict(extra="allow", frozen=True)

    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1, description="0 is greedy")
    stream: bool | None = False
    store: bool | None = None
    metadata: dict[str, Any] | None = None
    service_tier: ServiceTier | None = Field(
        None,
        description="of waiting jobs, `priority` goes first and `flex` last, with the lines of batches",
    )
    seed: Seed | None = None
    reasoning: Reasoning | None = None
    reasoning_effort: ReasoningEffort | None = Field(
        None, description="none and minimal: GLM answers at once; all others: where it answers alone, it thinks first"
    )
    tools: list[Any] | None = Field(None, description="accepted with tool_choice `none` only")
    tool_choice: Any = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    hybrid: Annotated[Hybrid, NullAsDefault] = Hybrid()

    @property
    def others(self) -> dict[str, Any]:
        """The fields that are not declared."""
        return self.model_extra or {}


class JsonSchemaFormat(WireModel):
    """A caller's own JSON Schema. Answers are always held to it, ``strict`` or not."""

    name: Annotated[str, NullAsDefault] = Field("answer", min_length=1, max_length=64)
    json_schema: dict[str, Any] = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None


class ResponseFormat(WireModel):
    """How a chat answer is formatted."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None
    flat_schema: dict[str, Any] | None = Field(
        None, alias="schema", description="the same as json_schema.schema, as llama.cpp and others have it"
    )


class TextFormat(WireModel):
    """The same as Responses requests have it: flat."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = Field(None, min_length=1, max_length=64)
    json_schema: dict[str, Any] | None = Field(None, alias="schema")
    description: str | None = None
    strict: bool | None = None


class ChatRequest(Sampling):
    """``POST /v1/chat/completions``."""

    model: str = Field(max_length=MAX_NAME)
    messages: Items[ChatMessage] = Field(min_length=1)
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    n: int | None = 1
    stop: str | Items[str] | None = None
    logprobs: bool | None = None
    response_format: ResponseFormat | None = None
    guided_json: dict[str, Any] | str | None = Field(None, description="a JSON Schema, as vLLM has it")
    structured_outputs: dict[str, Any] | None = Field(None, description="{'json': a JSON Schema}, as vLLM has it")
    stream_options: StreamOptions | None = None
    functions: list[Any] | None = None
    function_call: Any = None


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


ResponsesPart = Annotated[
    InputTextPart | InputImagePart | RefusalPartIn, Field(discriminator="type"), BeforeValidator(_check_part)
]


class InputMessage(WireModel):
    """One item of a Responses input."""

    type: Annotated[Literal["message"], NullAsDefault] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | Items[ResponsesPart]


class ItemReference(WireModel):
    """An output item of an earlier response, named by its id: some clients send them instead of the text."""

    type: Literal["item_reference"] | None = None
    id: str = Field(max_length=MAX_NAME)


class ReasoningItem(WireModel):
    """Thinking of an earlier turn, sent back; it is no part of the conversation."""

    type: Literal["reasoning"]


def _kind_of_item(value: object) -> str:
    kind, role, name = (
        value.get(each) if isinstance(value, dict) else getattr(value, each, None) for each in ("type", "role", "id")
    )
    if kind == "reasoning":
        return "reasoning-item"
    is_bare = kind is None and role is None and name is not None
    return "reference-item" if kind == "item_reference" or is_bare else "message-item"


# Tags that are no names, so that no path to a field shows them.
InputItem = Annotated[
    Annotated[InputMessage, Tag("message-item")]
    | Annotated[ItemReference, Tag("reference-item")]
    | Annotated[ReasoningItem, Tag("reasoning-item")],
    Discriminator(_kind_of_item),
]


class TextOptions(WireModel):
    """How the answer's text is formatted."""

    format: TextFormat | None = None
    verbosity: str | None = None


class ResponsesRequest(Sampling):
    """``POST /v1/responses``."""

    model: str = Field(max_length=MAX_NAME)
    input: str | Items[InputItem]
    instructions: str | None = None
    background: bool | None = False
    max_output_tokens: Tokens | None = None
    include: Items[str] | None = None
    previous_response_id: str | None = Field(None, max_length=MAX_NAME)
    conversation: Any = None
    text: TextOptions | None = None
    max_tool_calls: int | None = None
    prompt_cache_key: str | None = Field(None, max_length=MAX_NAME)
    safety_identifier: str | None = Field(None, max_length=MAX_NAME)
    user: str | None = Field(None, max_length=MAX_NAME)

    @property
    def echo(self) -> dict[str, Any]:
        """What the Response object repeats, beside what it has from elsewhere; only what was sent."""
        names = ("max_tool_calls", "prompt_cache_key", "safety_identifier", "user", "service_tier")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


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
    if request.functions and request.function_call != "none":
        raise unsupported("functions", _NO_TOOLS.format("function_call"), _NO_TOOLS_ZH.format("function_call"))
    _refuse_tools(request)
    check_others(request.others, is_chat=True, is_greedy=_is_greedy(request))
    stop = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ())
    if len(stop) > 4:
        raise unsupported("stop", "at most 4 stop strings are accepted")
    _, json_schema = to_chat_format(request)
    if json_schema is not None and any(stop):
        raise unsupported("stop", "a stop string could cut the JSON in half; leave it out, or response_format")
    return SamplingParams(
        max_tokens=request.max_completion_tokens or request.max_tokens,
        temperature=0.0 if _is_greedy(request) else request.temperature or 0.0,
        top_p=request.top_p or 1.0,
        seed=request.seed,
        stop=tuple(text for text in stop if text),
        top_logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        json_schema=json_schema,
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
    verbosity = {"verbosity": request.text.verbosity} if request.text else {}
    check_others({**request.others, **verbosity}, is_chat=False, is_greedy=_is_greedy(request))
    _, json_schema = to_responses_format(request)
    has_logprobs = request.top_logprobs or LOGPROBS in (request.include or ())
    return SamplingParams(
        max_tokens=request.max_output_tokens,
        temperature=0.0 if _is_greedy(request) else request.temperature or 0.0,
        top_p=request.top_p or 1.0,
        seed=request.seed,
        top_logprobs=(request.top_logprobs or 0) if has_logprobs else None,
        json_schema=json_schema,
    )


def _is_greedy(request: Sampling) -> bool:
    """Whether the likeliest token is taken each time: at a temperature of 0, or because there is no other choice."""
    return not request.temperature or request.top_p == 0 or request.others.get("top_k") == 1


def to_thinking(request: Sampling, engine: str | None) -> bool | None:
    """Say whether GLM is to think before it answers; None leaves it to the policy.

    Every way in which clients of GLM, Qwen, vLLM, Ollama and OpenAI ask for it is read.

    Args:
        request: of either endpoint.
        engine: the one whose model the caller named, if it did.

    Raises:
        BadRequestError: naming the field, if thinking is asked of an engine that has none, or in a way that is unknown.
    """
    wishes: dict[str, bool] = {}
    reasoning = request.reasoning or Reasoning()
    if reasoning.max_tokens:
        raise unsupported("reasoning.max_tokens", "send reasoning_effort", "请使用 reasoning_effort")
    for name, effort in (("reasoning_effort", request.reasoning_effort), ("reasoning.effort", reasoning.effort)):
        if effort is not None:
            wishes[name] = effort not in ("none", "minimal")
    kwargs = request.others.get("chat_template_kwargs") or {}
    kwargs = kwargs if isinstance(kwargs, dict) else {"": kwargs}
    flags = {
        "reasoning.enabled": reasoning.enabled,
        **{name: request.others.get(name) for name in ("thinking", "enable_thinking", "think")},
        **{f"chat_template_kwargs.{name}": value for name, value in kwargs.items()},
    }
    for name, flag in flags.items():
        if isinstance(flag, dict):
            flag = {"enabled": True, "disabled": False}.get(str(flag.get("type")), flag)
        if flag is None:
            continue
        if not isinstance(flag, bool) or name.rpartition(".")[2] not in (
            "enabled",
            "thinking",
            "enable_thinking",
            "think",
        ):
            raise unsupported(name[:64], "send reasoning_effort", "请使用 reasoning_effort")
        wishes[name] = flag
    asking = [name for name, wish in wishes.items() if wish]
    if asking and engine == "owl2":
        raise unsupported(
            asking[0],
            f"mplug-owl2 does not think before it answers; leave it out, or send model '{_THINKER}'",
            f"mplug-owl2 没有思考过程；请去掉，或使用模型 '{_THINKER}'",
        )
    return bool(asking) if wishes else None


def to_chat_format(request: ChatRequest) -> tuple[OutputFormat | None, str | None]:
    """Read how the answer is to be formatted, and the text of its JSON Schema; two Nones for prose.

    Raises:
        BadRequestError: for a schema that cannot be kept, an unknown template, or more than one format.
    """
    wanted = request.response_format
    ways: dict[str, tuple[str, JsonSchemaFormat | None]] = {}
    if wanted is not None and (wanted.type != "text" or wanted.json_schema or wanted.flat_schema is not None):
        schema = wanted.json_schema
        if schema is None and wanted.flat_schema is not None:
            schema = JsonSchemaFormat(schema=wanted.flat_schema)
        ways["response_format"] = (wanted.type, schema)
    if request.guided_json is not None:
        ways["guided_json"] = ("json_schema", _to_schema(request.guided_json, "guided_json"))
    for name, value in (request.structured_outputs or {}).items():
        if name == "json" and value is not None:
            ways["structured_outputs"] = ("json_schema", _to_schema(value, "structured_outputs.json"))
        elif name == "json_object" and isinstance(value, bool):
            ways |= {"structured_outputs": ("json_object", None)} if value else {}
        elif value is not None and value is not False:
            raise unsupported(f"structured_outputs.{name[:64]}", *_JSON_ONLY)
    if len(ways) > 1:
        names = ", ".join(ways)
        raise unsupported(list(ways)[1], f"send one of {names}", f"{names} 只能使用其中一个")
    for param, (kind, schema) in ways.items():
        if kind == "json_schema" and schema is None:
            raise _missing("response_format.json_schema")
        return _to_format(kind, schema, request.hybrid, param)
    return _to_format("text", None, request.hybrid, "response_format")


def _to_schema(value: dict[str, Any] | str, param: str) -> JsonSchemaFormat:
    """Read a schema that may come as its text."""
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            value = ""
    if not isinstance(value, dict):
        raise unsupported(param, "send a JSON Schema: an object, or its text", "请发送 JSON Schema：对象或其文本")
    return JsonSchemaFormat(schema=value)


def to_responses_format(request: ResponsesRequest) -> tuple[OutputFormat | None, str | None]:
    """Read how the answer is to be formatted, like `to_chat_format`.

    Raises:
        BadRequestError: likewise.
    """
    wanted, param = request.text.format if request.text else None, "text.format"
    schema = None
    if wanted is not None and wanted.json_schema is not None:
        schema = JsonSchemaFormat(
            name=wanted.name, schema=wanted.json_schema, description=wanted.description, strict=wanted.strict
        )
    if wanted is not None and wanted.type == "json_schema" and schema is None:
        raise _missing("text.format.schema")
    return _to_format(wanted.type if wanted else "text", schema, request.hybrid, param)


def _to_format(
    kind: str, schema: JsonSchemaFormat | None, hybrid: Hybrid, param: str
) -> tuple[OutputFormat | None, str | None]:
    if hybrid.template is not None:
        if kind != "text":
            raise unsupported("hybrid.template", f"a template is a format by itself; send it or {param}, not both")
        if hybrid.template not in NAMES:
            known = ", ".join(f"'{name}'" for name in NAMES)
            raise BadRequestError(
                f"There is no template '{hybrid.template}'; there are {known}, see /v1/templates.",
                code="unknown_template",
                param="hybrid.template",
                message_zh=f"没有名为 '{hybrid.template}' 的模板；可用：{known}，详见 /v1/templates。",
            )
        text = to_schema_text(template_schema(hybrid.template))
        return OutputFormat("json_schema", hybrid.template, strict=True, template=hybrid.template), text
    if kind == "text" and schema is not None:
        raise unsupported(f"{param}.type", "with a schema send 'json_schema'", "提供 schema 时请使用 'json_schema'")
    if schema is None:
        return (OutputFormat("json_object"), ANY_OBJECT) if kind == "json_object" else (None, None)
    try:
        checked = check_schema(schema.json_schema)
    except JsonSchemaError as error:
        raise BadRequestError(error.message, code=error.code, param=param, message_zh=error.message_zh) from error
    dropped = checked.dropped_patterns
    return OutputFormat(
        "json_schema", schema.name, schema.description, schema.strict, dropped_patterns=dropped
    ), checked.text


def _missing(param: str) -> BadRequestError:
    return BadRequestError(
        f"Missing required parameter: '{param}'.",
        code="missing_required_parameter",
        param=param,
        message_zh=f"缺少必需的参数 '{param}'。",
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


_THINKER = "glm-4.6v-flash"
_JSON_ONLY = (
    "answers can be held to a JSON Schema only; send response_format of type 'json_schema', for a choice with an enum",
    "回答只能按 JSON Schema 约束；请使用 response_format 的 'json_schema'，限定选项请用 enum",
)
_NO_TOOLS = "tool calls are not available; leave it out, or send {} 'none' for an answer in words"
_NO_TOOLS_ZH = "不支持工具调用；请去掉，或将 {} 设为 'none' 以得到文字回答"


def _refuse_tools(request: Sampling) -> None:
    """Refuse tools unless the caller says itself that none is to be called."""
    choice = request.tool_choice
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        choice = choice.get("mode")
    if choice not in (None, "none", "auto"):
        raise unsupported(
            "tool_choice",
            "tool calls are not available; leave out 'tool_choice' and 'tools', or send tool_choice 'none' for an "
            "answer in words",
            "不支持工具调用；请去掉 'tool_choice' 与 'tools'，或将 tool_choice 设为 'none' 以得到文字回答",
        )
    if request.tools and choice != "none":
        raise unsupported("tools", _NO_TOOLS.format("tool_choice"), _NO_TOOLS_ZH.format("tool_choice"))

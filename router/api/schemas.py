"""The wire shapes callers send.

In: JSON bytes. Out: pydantic models. What of them can be honoured: `router.api.knobs` and `router.api.formats`.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError, PydanticUseDefault

from engines.http.requests import Penalty, RepetitionPenalty, Seed, Temperature, Tokens, TopLogprobs, Whole
from router.api.picture_names import names_picture
from router.call import DraftAs
from router.media import Source
from router.templates import NAMES

MAX_NAME = 256
_MAX_SHOWN = 64


def _default_if_null(value: object) -> object:
    if value is None:
        raise PydanticUseDefault
    return value


# Many clients write null for what is not set.
NullAsDefault = BeforeValidator(_default_if_null)
ServiceTier = Literal["auto", "default", "flex", "scale", "priority", "fast", "ultrafast"]
# Refused at the first wrong item: a list of a million of them would cost gigabytes of errors.
Item = TypeVar("Item")
Items = Annotated[list[Item], Field(fail_fast=True)]


class WireModel(BaseModel):
    """Base of request shapes: unknown fields are ignored, as OpenAI clients expect.

    Strict: `true` is no number, "5" neither, and "yes" is no boolean. A guess at what was meant would answer another
    question than the caller's.
    """

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class ClosedModel(WireModel):
    """Base of shapes in which a key that is not declared is refused: there it can only be a slip."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _knows_every_key(cls, sent: Any) -> Any:
        known = [field.alias or name for name, field in cls.model_fields.items()]
        for key in sent if isinstance(sent, dict) else ():
            if key not in known:
                context = {"name": str(key)[:_MAX_SHOWN], "accepted": ", ".join(known)}
                raise PydanticCustomError("unknown_parameter", "'{name}' is none of {accepted}", context)
        return sent


class SaidModel(WireModel):
    """Base of turns and their parts: no picture and no text of theirs is dropped because it is in a field of others."""

    picture_part: ClassVar[str] = "image_url"
    is_picture: ClassVar[bool] = False

    @model_validator(mode="before")
    @classmethod
    def _drops_nothing(cls, sent: Any) -> Any:
        for name, value in sent.items() if isinstance(sent, dict) else ():
            if not value or name in cls.model_fields:
                continue
            if cls.is_picture and name == "text":
                raise PydanticCustomError("text_beside", "it is not read here", {"name": name})
            if not cls.is_picture and names_picture(name):
                context = {"name": name, "kind": cls.picture_part}
                raise PydanticCustomError("picture_beside", "it is not read here", context)
        return sent


class Hybrid(ClosedModel):
    """Glowl's own request options; every one may be left out."""

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
    cache: bool | None = Field(
        None,
        description="true: an earlier answer to the same request may be given, and this one kept for that; "
        "false: neither, and no run is shared; default: as `store` says",
    )

    @property
    def draft_as(self) -> DraftAs:
        """What carries the draft."""
        return self.draft or "reasoning"


def known_types(*kinds: str) -> BeforeValidator:
    """Refuse an object of another type by the type's name."""

    def check(value: object) -> object:
        kind = value.get("type") if isinstance(value, dict) else None
        if isinstance(kind, str) and kind not in kinds:
            accepted = ", ".join(f"'{each}'" for each in kinds)
            raise PydanticCustomError(
                "unknown_type", "'{kind}' is none of {accepted}", {"kind": kind[:_MAX_SHOWN], "accepted": accepted}
            )
        return value

    return BeforeValidator(check)


class ImageUrl(WireModel):
    """Where a picture is: http(s) URL or data URL."""

    url: str
    detail: str | None = None


class TextPartIn(SaidModel):
    """Text inside a chat message."""

    type: Literal["text"]
    text: str


class ImagePartIn(SaidModel):
    """A picture inside a chat message."""

    is_picture = True

    type: Literal["image_url"]
    image_url: ImageUrl

    def source_at(self, param: str) -> tuple[Source, str]:
        """Return what the picture is loaded from, and the field it came in.

        Args:
            param: the part's own field.
        """
        return self.image_url.url, f"{param}.image_url.url"


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
    """Say what is sent instead of a part that others accept."""
    kind = value.get("type") if isinstance(value, dict) else None
    if kind in _REFUSED_PARTS:
        raise PydanticCustomError("refused_part", "'{kind}' is not supported", {"kind": kind})
    return value


ChatPart = Annotated[
    TextPartIn | ImagePartIn | RefusalPartIn, Field(discriminator="type"), BeforeValidator(_check_part)
]


class CalledFunction(WireModel):
    """What an earlier answer called."""

    name: str = Field(max_length=MAX_NAME)
    arguments: Annotated[str, NullAsDefault] = Field("", description="JSON text of an object")


class ChatToolCall(WireModel):
    """A call of an earlier answer, sent back with it."""

    id: str = Field(max_length=MAX_NAME)
    type: Annotated[Literal["function"], NullAsDefault] = "function"
    function: CalledFunction


class ChatMessage(SaidModel):
    """One turn of a chat."""

    role: Literal["developer", "system", "user", "assistant", "tool", "function"]
    content: str | Items[ChatPart] | None = None
    refusal: str | None = None
    tool_calls: Items[ChatToolCall] | None = Field(None, description="of an assistant's turn")
    tool_call_id: str | None = Field(None, max_length=MAX_NAME, description="of a tool's turn: whose result it is")
    function_call: Any = None


class StreamOptions(WireModel):
    """What a stream carries beside the text."""

    include_usage: Annotated[bool, NullAsDefault] = False


ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class Reasoning(WireModel):
    """Whether the model is to think before it answers."""

    effort: ReasoningEffort | None = None
    enabled: bool | None = None
    max_tokens: Whole | None = None


class Sampling(WireModel):
    """Knobs that both OpenAI endpoints share; `other_fields` says which others are refused."""

    model_config = ConfigDict(extra="allow")

    temperature: Temperature | None = None
    top_p: float | None = Field(None, ge=0, le=1, description="0 is greedy")
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    repetition_penalty: RepetitionPenalty | None = Field(None, description="as vLLM has it; prompt and answer count")
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
    tools: list[Any] | None = Field(
        None, description="functions that GLM may call; such requests stay on the fast route, see docs/tools.md"
    )
    tool_choice: Any = Field(
        None, description="none, auto (the default), required, one function, or allowed_tools with some of them"
    )
    parallel_tool_calls: bool | None = Field(None, description="false: one call at most in an answer")
    top_logprobs: TopLogprobs | None = None
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
    n: Whole | None = 1
    stop: str | Items[str] | None = None
    logprobs: bool | None = None
    response_format: ResponseFormat | None = None
    guided_json: dict[str, Any] | str | None = Field(None, description="a JSON Schema, as vLLM has it")
    structured_outputs: dict[str, Any] | None = Field(None, description="{'json': a JSON Schema}, as vLLM has it")
    stream_options: StreamOptions | None = None
    functions: list[Any] | None = None
    function_call: Any = None


class RouteRequest(ChatRequest):
    """``POST /v1/route``: a chat request, or the id of a stored response whose request is decided again."""

    model: str = Field("glowl", max_length=MAX_NAME)
    messages: Items[ChatMessage] = Field([], description="left out with `response_id`")
    response_id: str | None = Field(None, max_length=MAX_NAME, description="of a stored response of the caller's")
    preset: str | None = Field(
        None, max_length=MAX_NAME, description="rules to decide by, see /v1/presets; default: those in use"
    )


class InputTextPart(SaidModel):
    """Text inside a Responses input message; ``output_text`` comes back from earlier answers."""

    picture_part = "input_image"

    type: Literal["input_text", "output_text"]
    text: str


class InputImagePart(SaidModel):
    """A picture inside a Responses input message: here the URL is a plain string."""

    is_picture = True

    type: Literal["input_image"]
    image_url: str | None = None
    file_id: str | None = None
    detail: str | None = None


ResponsesPart = Annotated[
    InputTextPart | InputImagePart | RefusalPartIn, Field(discriminator="type"), BeforeValidator(_check_part)
]


class InputMessage(SaidModel):
    """One item of a Responses input."""

    picture_part = "input_image"

    type: Annotated[Literal["message"], NullAsDefault] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | Items[ResponsesPart]


class ItemReference(WireModel):
    """An output item of an earlier response, named by its id: some clients send them instead of the text."""

    type: Literal["item_reference"] | None = None
    id: str = Field(max_length=MAX_NAME)


class FunctionCallItem(WireModel):
    """A call of an earlier answer, sent back."""

    type: Literal["function_call"]
    call_id: str = Field(max_length=MAX_NAME)
    name: str = Field(max_length=MAX_NAME)
    arguments: Annotated[str, NullAsDefault] = ""


class FunctionCallOutputItem(WireModel):
    """What a called function returned: text, or text and pictures."""

    type: Literal["function_call_output"]
    call_id: str = Field(max_length=MAX_NAME)
    output: str | Items[ResponsesPart]


class ReasoningItem(WireModel):
    """Thinking of an earlier turn, sent back; it is no part of the conversation."""

    type: Literal["reasoning"]


class CompactionItem(WireModel):
    """A conversation so far in few words, as ``/v1/responses/compact`` made it."""

    type: Literal["compaction"]
    encrypted_content: str


def _kind_of_item(value: object) -> str:
    kind, role, name = (
        value.get(each) if isinstance(value, dict) else getattr(value, each, None) for each in ("type", "role", "id")
    )
    if kind in ("reasoning", "compaction", "function_call", "function_call_output"):
        return f"{str(kind).replace('_', '-')}-item"
    is_bare = kind is None and role is None and name is not None
    return "reference-item" if kind == "item_reference" or is_bare else "message-item"


# Tags that are no names, so that no path to a field shows them.
InputItem = Annotated[
    Annotated[InputMessage, Tag("message-item")]
    | Annotated[ItemReference, Tag("reference-item")]
    | Annotated[FunctionCallItem, Tag("function-call-item")]
    | Annotated[FunctionCallOutputItem, Tag("function-call-output-item")]
    | Annotated[ReasoningItem, Tag("reasoning-item")]
    | Annotated[CompactionItem, Tag("compaction-item")],
    Discriminator(_kind_of_item),
    known_types("message", "item_reference", "function_call", "function_call_output", "reasoning", "compaction"),
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
    truncation: Literal["auto", "disabled"] | None = Field(
        None,
        description="auto: the oldest turns of a conversation that is too long are left out, and the answer says so",
    )
    conversation: Any = None
    text: TextOptions | None = None
    max_tool_calls: Whole | None = None
    prompt_cache_key: str | None = Field(None, max_length=MAX_NAME)
    safety_identifier: str | None = Field(None, max_length=MAX_NAME)
    user: str | None = Field(None, max_length=MAX_NAME)

    @property
    def echo(self) -> dict[str, Any]:
        """What the Response object repeats, beside what it has from elsewhere; only what was sent."""
        names = ("max_tool_calls", "prompt_cache_key", "safety_identifier", "user", "service_tier", "truncation")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


class InputTokensRequest(ResponsesRequest):
    """``POST /v1/responses/input_tokens``: a request that is not answered."""

    model: str = Field("glowl", max_length=MAX_NAME)


class CompactRequest(WireModel):
    """``POST /v1/responses/compact``."""

    model: str = Field(max_length=MAX_NAME)
    input: str | Items[InputItem] | None = None
    instructions: str | None = None
    previous_response_id: str | None = Field(None, max_length=MAX_NAME)
    prompt_cache_key: str | None = Field(None, max_length=MAX_NAME)
    service_tier: ServiceTier | None = None


class ResponseUpdate(ClosedModel):
    """``POST /v1/responses/{id}``."""

    metadata: dict[str, Any] | None


class FeedbackRequest(ClosedModel):
    """``POST /v1/responses/{id}/feedback``."""

    rating: Literal["up", "down"] | None = None
    correction: str | dict[str, Any] | list[Any] | None = Field(
        None, description="the right answer: a text, or JSON for a JSON answer"
    )
    fields: dict[str, Any] | None = Field(None, description="right values of single fields of a JSON answer")
    comment: str | None = None


class InferenceRequest(WireModel):
    """``POST /api/v1/inference``: an older shape with one base64 picture; `other_fields` refuses other names of it."""

    model_config = ConfigDict(extra="allow")

    image: str | None = Field(None, description="the picture: base64, a data URL or an http(s) URL")
    prompt: str = Field(min_length=1)
    max_tokens: Tokens | None = None
    temperature: Temperature | None = None


class VisionRequest(InferenceRequest):
    """``POST /v1/vision/completion``: an older shape with one picture by URL or data URL."""

    model: str | None = Field(None, max_length=MAX_NAME)

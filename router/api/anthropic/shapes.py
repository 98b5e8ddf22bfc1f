"""The wire shape of Anthropic's Messages.

In: JSON. Out: pydantic models. What of them can be honoured: `router.api.anthropic.reading`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from engines.http.requests import Seed, Temperature, Tokens, Whole
from router.api.schemas import MAX_NAME, Hybrid, Items, NullAsDefault, SaidModel, WireModel, known_types


class TextBlock(SaidModel):
    """Text in a turn."""

    picture_part = "image"

    type: Literal["text"]
    text: str


class Base64Source(WireModel):
    """A picture itself; its bytes decide what it is, whatever ``media_type`` says."""

    type: Literal["base64"]
    data: str
    media_type: str | None = None


class UrlSource(WireModel):
    """Where a picture is."""

    type: Literal["url"]
    url: str


class FileSource(WireModel):
    """A picture that was uploaded to ``/v1/files`` with the purpose ``vision``."""

    type: Literal["file"]
    file_id: str = Field(max_length=MAX_NAME)


class ImageBlock(SaidModel):
    """A picture in a turn."""

    is_picture = True

    type: Literal["image"]
    source: Annotated[
        Base64Source | UrlSource | FileSource, Field(discriminator="type"), known_types("base64", "url", "file")
    ]


class ThinkingBlock(WireModel):
    """Thinking of an earlier turn, sent back; it is no part of the conversation."""

    type: Literal["thinking", "redacted_thinking"]


class ToolUseBlock(WireModel):
    """A call of an earlier answer, sent back."""

    type: Literal["tool_use"]
    id: str = Field(max_length=MAX_NAME)
    name: str = Field(max_length=MAX_NAME)
    input: dict[str, Any] = Field(description="the arguments")


ResultBlock = Annotated[TextBlock | ImageBlock, Field(discriminator="type"), known_types("text", "image")]


class ToolResultBlock(WireModel):
    """What a called function returned: text and pictures."""

    type: Literal["tool_result"]
    tool_use_id: str = Field(max_length=MAX_NAME)
    content: str | Items[ResultBlock] | None = None
    is_error: bool | None = Field(None, description="it failed; the model is told so")


Block = Annotated[
    TextBlock | ImageBlock | ThinkingBlock | ToolUseBlock | ToolResultBlock,
    Field(discriminator="type"),
    known_types("text", "image", "thinking", "redacted_thinking", "tool_use", "tool_result"),
]


class Turn(SaidModel):
    """One turn of a conversation."""

    picture_part = "image"

    role: Literal["user", "assistant", "system"]
    content: str | Items[Block]


class CustomTool(WireModel):
    """A function that may be called; the caller runs it."""

    type: Literal["custom"] | None = None
    name: str = Field(max_length=MAX_NAME)
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None
    input_examples: Items[dict[str, Any]] | None = Field(None, description="read by the model with the description")
    allowed_callers: Items[str] | None = None


class ToolChoice(WireModel):
    """Which functions may be called, and whether one must be."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = Field(None, max_length=MAX_NAME, description="of the function that must be called")
    disable_parallel_tool_use: bool | None = Field(None, description="true: one call at most in an answer")


class Thinking(WireModel):
    """Whether the model is to think before it answers; how long is its own business."""

    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    budget_tokens: Whole | None = None
    display: str | None = None


class JsonFormat(WireModel):
    """A JSON Schema that the answer satisfies."""

    type: Literal["json_schema"]
    json_schema: dict[str, Any] = Field(alias="schema")


class OutputConfig(WireModel):
    """How the answer is formatted; ``effort`` is taken and changes nothing."""

    effort: str | None = None
    format: JsonFormat | None = None


class Metadata(WireModel):
    """Who asks, for the caller's own records."""

    user_id: str | None = None


class CountRequest(WireModel):
    """``POST /v1/messages/count_tokens``: a conversation that is not answered."""

    model_config = ConfigDict(extra="allow")

    model: str = Field(max_length=MAX_NAME)
    messages: Items[Turn] = Field(min_length=1)
    system: str | Items[TextBlock] | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    tools: Items[Annotated[CustomTool, known_types("custom")]] | None = Field(
        None, description="functions that GLM may call; such requests stay on the fast route, see docs/anthropic.md"
    )
    tool_choice: Annotated[ToolChoice, known_types("auto", "any", "tool", "none")] | None = None
    hybrid: Annotated[Hybrid, NullAsDefault] = Hybrid()

    @property
    def others(self) -> dict[str, Any]:
        """The fields that are not declared."""
        return self.model_extra or {}


class MessagesRequest(CountRequest):
    """``POST /v1/messages``."""

    max_tokens: Tokens | None = None
    stop_sequences: Items[str] | None = None
    stream: bool | None = False
    temperature: Temperature | None = None
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: Whole | None = Field(None, ge=-1, le=2**31 - 1, description="the likeliest tokens to choose from")
    seed: Seed | None = Field(None, description="ours: the same answer again")
    metadata: Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None

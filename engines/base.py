"""The border every engine shares: what goes in (a request), what comes out (deltas), what can go wrong.

In: a frozen `GenerationRequest` with decoded-nothing image bytes. Out: an async stream of `Delta`, the last of
which carries the finish reason and the usage. This module imports neither torch nor any web framework.

Errors::

    EngineError                      everything an engine raises on purpose
    ├── InvalidRequestError          400; the caller must change the request
    │   ├── ContextLengthError       the prompt leaves no room in the context for an answer
    │   ├── InvalidImageError        bytes that do not decode to a picture
    │   └── TooManyImagesError       more pictures than the engine accepts
    ├── EngineOverloadedError        429; the queue is full, try again later          (retryable)
    ├── EngineUnavailableError       503; not started, still loading, or gone         (retryable)
    │   └── EngineEndedError         it ended by itself; only a new process answers again
    ├── EngineTimeoutError           504; no token within the allowed time            (retryable)
    └── GenerationFailedError        500; the model raised while generating           (retryable)
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol, runtime_checkable

from engines.origin import NOWHERE, Origin
from engines.token_costs import TokenCosts
from engines.tools import GrowingCalls, ToolCall, ToolCallDelta, ToolUse

Role = Literal["system", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "content_filter", "tool_calls"]
Variant = Literal["full", "pocket", "random-tiny", "echo"]


@dataclass(frozen=True, slots=True)
class TextPart:
    """A piece of text inside a message."""

    text: str


@dataclass(frozen=True, slots=True)
class ImagePart:
    """An encoded picture inside a message.

    Attributes:
        data: the encoded file as received (PNG, JPEG, WebP, ...). Only the engine decodes it.
        media_type: sniffed type, such as ``image/png``.
        sha256: lower-case hex digest of ``data``.
        param: the request field it came in, which errors about it name; empty if that is not known.
        file_id: of the uploaded file that it was named by; empty for any other.
    """

    data: bytes = field(repr=False)
    media_type: str
    sha256: str
    param: str = field(default="", compare=False)
    file_id: str = field(default="", compare=False)


Part = TextPart | ImagePart


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; pictures keep their place among the text parts.

    Attributes:
        role: whose turn it is; ``tool`` for the result of one call.
        parts: what is said and shown.
        tool_calls: of an assistant's turn: what it called.
        tool_call_id: of a tool's turn: which call it is the result of. Results follow their calls in the calls' order,
            since models match them by it.
    """

    role: Role
    parts: tuple[Part, ...]
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""

    @property
    def text(self) -> str:
        """The text parts joined with nothing between them."""
        return "".join([part.text for part in self.parts if isinstance(part, TextPart)])

    @property
    def images(self) -> tuple[ImagePart, ...]:
        """The pictures of this turn, in order."""
        return tuple([part for part in self.parts if isinstance(part, ImagePart)])


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Generation knobs. A temperature of 0 is greedy decoding.

    Attributes:
        max_tokens: upper bound of generated tokens; None lets the engine use its own default. Where the context ends
            earlier, so does the answer, with finish reason ``length``.
        temperature: 0 to 2; None leaves it to the engine, which is greedy unless its model thinks: greedy thinking runs
            in circles, so that one samples as its checkpoint says, with a fixed seed unless one is given.
        top_p: nucleus mass in (0, 1].
        top_k: sample among so many of the likeliest tokens; 0 for all.
        frequency_penalty: -2 to 2, taken off a token's logit for each time it is in the answer.
        presence_penalty: -2 to 2, taken off once.
        repetition_penalty: over 0; logits of tokens of prompt and answer are divided by it, multiplied if negative.
        seed: makes sampling repeatable; None draws a fresh one.
        stop: strings that end the answer and are not part of it.
        top_logprobs: None for no log probabilities; 0 for those of the tokens of the answer; N, up to 20, for those of
            the N likeliest alternatives at each place too.
        json_schema: JSON text of a JSON Schema that the answer must satisfy; ``{"type": "object"}`` for any object. An
            engine without constrained decoding refuses it by name.
        tool_use: functions that may be called; an engine that can call none refuses it by name. Not with a schema.
    """

    max_tokens: int | None = None
    temperature: float | None = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None
    json_schema: str | None = None
    top_k: int = 0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    tool_use: ToolUse | None = None


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One question to one engine.

    Attributes:
        messages: the conversation, oldest first, ending in the user turn to answer, or in results of calls.
        sampling: generation knobs.
        enable_thinking: let a reasoning model think before it answers; engines without that ignore it.
        request_id: of the job or answer; for logs only.
        caller: whose request it is: engines share themselves fairly over callers, and what one caller's request left in
            a cache is never found by another's.
        adapter: name of the LoRA adapter to answer with; empty for the model as it is.
        origin: what it is asked for, for logs and traces.
    """

    messages: tuple[Message, ...]
    sampling: SamplingParams = SamplingParams()
    enable_thinking: bool = False
    request_id: str = ""
    caller: str = ""
    adapter: str = ""
    origin: Origin = NOWHERE

    @property
    def images(self) -> tuple[ImagePart, ...]:
        """All pictures of the conversation, in order."""
        return tuple(image for message in self.messages for image in message.images)


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts as the engine saw them; ``image_tokens`` and ``cached_tokens`` are part of ``prompt_tokens``."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    image_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Alternative:
    """A token that could have stood at a place of the answer.

    Attributes:
        token: its text; not valid text by itself if it is a part of a character.
        logprob: natural log of its probability, before temperature and top_p.
        data: its bytes.
    """

    token: str
    logprob: float
    data: bytes


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token of the answer with the likeliest alternatives at its place, likeliest first."""

    token: str
    logprob: float
    data: bytes
    top: tuple[Alternative, ...] = ()


@dataclass(frozen=True, slots=True)
class Box:
    """A place in a picture that the answer named.

    Attributes:
        left: in pixels of the picture as it was sent, upright; 0 is its left edge. The others likewise.
        top: 0 is the upper edge.
        right: beyond ``left``.
        bottom: beyond ``top``.
        image: index among the request's pictures.
    """

    left: float
    top: float
    right: float
    bottom: float
    image: int = 0


@dataclass(frozen=True, slots=True)
class Delta:
    """One step of an answer. The last one of a stream, and only it, has ``finish_reason`` and ``usage``.

    ``boxes`` are those that became complete with this piece of text.

    ``logprobs`` are of the tokens generated since the delta before; their texts need not line up with ``text``, since a
    character may span tokens and a possible stop string is held back.

    ``tool_calls`` are pieces of calls, in order; once there was one, no text follows.

    ``stop_sequence``, beside the finish reason ``stop``, is the stop string that ended the answer; empty if the model
    ended it, or its server does not say.
    """

    text: str = ""
    reasoning: str = ""
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    boxes: tuple[Box, ...] = ()
    tool_calls: tuple[ToolCallDelta, ...] = ()
    stop_sequence: str = ""


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """A whole answer: the deltas of one stream, joined."""

    text: str
    reasoning: str
    finish_reason: FinishReason
    usage: Usage
    logprobs: tuple[TokenLogprob, ...] = ()
    boxes: tuple[Box, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    stop_sequence: str = ""


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What a caller may know about an engine before asking it.

    Attributes:
        name: ``glm`` or ``owl2``: the role in the pair.
        model: the model's own name, such as ``glm-4.6v-flash``.
        variant: what weights are behind it; anything but ``full`` is shown wherever the model name is.
        context_tokens: prompt and answer together.
        max_images: most pictures in one request.
        adapters: names of the LoRA adapters that a request may ask for.
        revision: changes whenever answers may, with the weights for one; empty if the engine does not say.
        costs: what it counts for a request; None if the engine does not say.
        adapter_revisions: as ``revision``, of the model with each of ``adapters`` alone; empty if it does not say.
    """

    name: str
    model: str
    variant: Variant
    context_tokens: int
    max_images: int
    adapters: tuple[str, ...] = ()
    revision: str = ""
    costs: TokenCosts | None = None
    adapter_revisions: tuple[str, ...] = ()

    def revision_with(self, adapter: str) -> str:
        """Return which weights answer with an adapter; the engine's own revision if it does not say, or without one."""
        return dict(zip(self.adapters, self.adapter_revisions, strict=False)).get(adapter) or self.revision

    @property
    def model_id(self) -> str:
        """The name shown in answers: the model, and the variant unless it is the real one."""
        return self.model if self.variant == "full" else f"{self.model}-{self.variant}"


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How to load a local engine; what ``glowl engine NAME`` was given.

    Attributes:
        model: a checkpoint folder.
        device: ``auto`` takes the first CUDA device, else the CPU.
        dtype: ``auto`` is float32 on the CPU, bfloat16 on CUDA, and float16 on cards that have no bfloat16.
        attn_implementation: ``auto`` picks the best that is installed; or ``sdpa``, ``eager``, ``flash_attention_2``.
        max_queue: requests that may wait before new ones are refused with `EngineOverloadedError`.
        quantization: of the decoder's matrices: ``none``, ``int8`` or ``int4``.
        max_batch: requests answered side by side; None chooses by the device.
        cache_bytes: for what may be reused between requests, vision features and beginnings of prompts; None takes a
            share of the device's memory, 0 turns it off. On CUDA, up to four times as much pinned host memory is
            used beside it.
        gpu_share: how much of a GPU this process may take, 0 to 1; None shares the card with the other model of the
            pair in proportion to what both need, or takes nearly all of a card that is too small for both.
        pixel_budget: most pixels of one picture that the model sees; None takes the engine's own default.
        adapters: LoRA adapters to load, as (name, folder or hub id).
        model_name: the hub's id of what is in the folder; empty if it is not from a hub.
        vllm_args: arguments of vLLM, as one would write them behind ``vllm serve``; only of an engine on vLLM.
    """

    model: str
    device: str = "auto"
    dtype: str = "auto"
    attn_implementation: str = "auto"
    max_queue: int = 64
    quantization: str = "none"
    max_batch: int | None = None
    cache_bytes: int | None = None
    gpu_share: float | None = None
    pixel_budget: int | None = None
    adapters: tuple[tuple[str, str], ...] = ()
    model_name: str = ""
    vllm_args: str = ""


@runtime_checkable
class HasTrouble(Protocol):
    """An engine that can say of itself that it does not get on, although it is loaded."""

    def trouble(self) -> str:
        """Say why the next request would not be served at normal speed; empty if it would."""
        ...


@runtime_checkable
class CanEnd(Protocol):
    """An engine that can end by itself after it was loaded, as one does that has its model in another process."""

    async def ended(self) -> str:
        """Wait until only a new process can answer again, and say why. Cancel it before `Engine.aclose`."""
        ...


@runtime_checkable
class CountsTokens(Protocol):
    """An engine that can say how long a prompt is without answering it."""

    async def count(self, request: GenerationRequest) -> Usage | None:
        """Count the tokens of a prompt, its pictures included, as an answer's usage would have them.

        None if what does the work cannot say.

        Raises:
            EngineUnavailableError: if the engine is not ready.
            InvalidRequestError: or one of its kinds, if the request could not be answered as it is.
        """
        ...


@dataclass(frozen=True, slots=True)
class CallerWait:
    """What of one caller's waits for a place in the batch.

    Attributes:
        caller: whose it is, as a hash: the engine server tells it to others.
        num_waiting: how many requests.
        oldest_s: how long the oldest has been waiting, seconds.
        turn_s: how long the caller has been waiting for this turn, seconds; callers take turns.
    """

    caller: str
    num_waiting: int
    oldest_s: float
    turn_s: float


def hash_caller(caller: str) -> str:
    """Return what stands for a caller in a `CallerWait`."""
    return hashlib.sha256(caller.encode("utf-8", "replace")).hexdigest()[:16]


@runtime_checkable
class HasWaiting(Protocol):
    """An engine that can say who waits for it."""

    def waiting(self) -> tuple[CallerWait, ...]:
        """Say who waits for a place in the batch; empty if nobody does."""
        ...


class Streams(Protocol):
    """What answers requests."""

    def stream(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        """See `Engine.stream`."""
        ...


class Engine(Protocol):
    """Owner of one model's weights, in this process or behind HTTP."""

    async def info(self) -> EngineInfo:
        """Describe the engine.

        Raises:
            EngineUnavailableError: if it cannot be reached.
        """
        ...

    async def start(self) -> None:
        """Load and warm up; return when the next request would be served at normal speed."""
        ...

    def stream(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        """Generate an answer.

        Closing the generator cancels the generation and frees the engine within one decode step.

        Raises:
            EngineError: at any step, see the tree above.
        """
        ...

    async def aclose(self) -> None:
        """Stop running generations and release what the engine holds."""
        ...


class EngineError(Exception):
    """Base of everything an engine raises on purpose.

    Attributes:
        retryable: the same request may succeed later or elsewhere.
        status_code: the HTTP status an engine server answers with.
        code: machine-readable, as in the OpenAI error envelope.
        param: the request field at fault, if any.
        retry_after_s: when to retry, if the engine has said so.
        detail: what only an operator may read, such as an address or a cause; for logs.
    """

    retryable: ClassVar[bool] = False
    status_code: ClassVar[int] = 500
    default_code: ClassVar[str] = "server_error"

    def __init__(self, message: str, *, code: str | None = None, param: str | None = None, detail: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.param = param
        self.retry_after_s: float | None = None
        self.detail = detail

    @property
    def for_operators(self) -> str:
        """The message and the detail."""
        return f"{self.message} ({self.detail})" if self.detail else self.message


class InvalidRequestError(EngineError):
    """The request itself is wrong; sending it again will not help."""

    status_code: ClassVar[int] = 400
    default_code: ClassVar[str] = "invalid_request"


class ContextLengthError(InvalidRequestError):
    """The prompt leaves no room for an answer; the message says by how many tokens it is over."""

    default_code: ClassVar[str] = "context_length_exceeded"


class InvalidImageError(InvalidRequestError):
    """The bytes do not decode to a picture (truncated, animated, an unsupported mode)."""

    default_code: ClassVar[str] = "invalid_image"


class TooManyImagesError(InvalidRequestError):
    """More pictures than the engine accepts in one request."""

    default_code: ClassVar[str] = "too_many_images"


class EngineOverloadedError(EngineError):
    """The engine's queue is full."""

    retryable: ClassVar[bool] = True
    status_code: ClassVar[int] = 429
    default_code: ClassVar[str] = "engine_overloaded"


class EngineUnavailableError(EngineError):
    """The engine is not there: not started, still loading, or the connection broke.

    Attributes:
        is_broken_off: the connection was lost after the engine had the request, which may be what ended it.
    """

    is_broken_off: bool = False

    retryable: ClassVar[bool] = True
    status_code: ClassVar[int] = 503
    default_code: ClassVar[str] = "engine_unavailable"


class EngineEndedError(EngineUnavailableError):
    """The engine ended by itself after it was loaded, so only a new process answers again."""

    waiting_helps: ClassVar[bool] = True


class EngineTimeoutError(EngineError):
    """The engine accepted the request but sent nothing for too long."""

    retryable: ClassVar[bool] = True
    status_code: ClassVar[int] = 504
    default_code: ClassVar[str] = "engine_timeout"


class GenerationFailedError(EngineError):
    """The model raised while generating; the engine itself lives on."""

    retryable: ClassVar[bool] = True
    status_code: ClassVar[int] = 500
    default_code: ClassVar[str] = "generation_failed"


async def generate(engine: Streams, request: GenerationRequest) -> GenerationResult:
    """Run ``engine.stream`` to its end and join the deltas.

    Raises:
        EngineError: whatever the stream raised.
        GenerationFailedError: if the stream ended without a finish reason.
    """
    text: list[str] = []
    reasoning: list[str] = []
    logprobs: list[TokenLogprob] = []
    boxes: list[Box] = []
    calls = GrowingCalls()
    async with aclosing(engine.stream(request)) as deltas:
        async for delta in deltas:
            text.append(delta.text)
            reasoning.append(delta.reasoning)
            logprobs.extend(delta.logprobs)
            boxes.extend(delta.boxes)
            for piece in delta.tool_calls:
                calls.add(piece)
            if delta.finish_reason is not None:
                return GenerationResult(
                    text="".join(text),
                    reasoning="".join(reasoning),
                    finish_reason=delta.finish_reason,
                    usage=delta.usage or Usage(),
                    logprobs=tuple(logprobs),
                    boxes=tuple(boxes),
                    tool_calls=calls.whole(),
                    stop_sequence=delta.stop_sequence,
                )
    raise GenerationFailedError("the engine ended its answer without saying why")


def check_could_fit(least: int, context_tokens: int) -> None:
    """Refuse a text that is too long however it is tokenized, since tokenizing megabytes takes many seconds.

    Args:
        least: tokens that the text has at least.
        context_tokens: of the model.

    Raises:
        ContextLengthError: if the text has more tokens than the context.
    """
    if least > context_tokens:
        raise ContextLengthError(
            f"The prompt has at least {least} tokens, {least - context_tokens} more than fit this model's context of "
            f"{context_tokens} with room for an answer. Shorten the messages.",
            param="messages",
        )


def fit_max_tokens(num_prompt_tokens: int, wanted: int | None, default: int, context_tokens: int) -> int:
    """Return how many tokens an answer may have: what was asked for, but no more than the context has room for.

    A bound that is too generous is shrunk, not refused: callers send one number whichever engine the policy picks, and
    the two contexts differ by a factor of sixty.

    Raises:
        ContextLengthError: if there is no room for even one token.
    """
    room = context_tokens - num_prompt_tokens
    if room < 1:
        raise ContextLengthError(
            f"The prompt has {num_prompt_tokens} tokens, {1 - room} more than fit this model's context of "
            f"{context_tokens} with room for an answer. Shorten the messages or send fewer pictures.",
            param="messages",
        )
    return min(default if wanted is None else wanted, room)

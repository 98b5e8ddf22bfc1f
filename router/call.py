"""What a caller asked for, whichever wire shape it came in.

In: nothing; the api's conversions build a `Call`. Out: the frozen `Call` that routing and dispatch read, and its JSON
form, in which pictures are named by hash, for the job record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from engines.base import ImagePart, Message, Part, SamplingParams, TextPart
from engines.tools import ToolCall
from policies.features import Hints
from policies.text import Text
from router.limits.admission import Admission
from router.output_format import OutputFormat

Strategy = Literal["deep", "compose", "fields"]
Priority = Literal["interactive", "normal", "batch"]
# How a stream carries the draft: as thinking, as a message of its own, in events of our own, or not at all.
AgainKind = Literal["second_look", "shadow"]
DraftAs = Literal["reasoning", "message", "events", "none"]


@dataclass(frozen=True, slots=True)
class CacheUse:
    """What may be done to spare a request a run of its own.

    Attributes:
        reads: it may get an answer that is kept from before.
        writes: its answer may be kept.
        joins: it may share the run of an equal request that is under way.
        max_age_s: an answer that is older is not read; None for any.
        is_all: no engine is to be asked if there is none.
    """

    reads: bool = False
    writes: bool = False
    joins: bool = False
    max_age_s: int | None = None
    is_all: bool = False


@dataclass(frozen=True, slots=True)
class Again:
    """A question that is asked again, only for the log (`router.second_looks`).

    Attributes:
        kind: by the deep route, or of an adapter that is not promoted.
        response_id: of the answer that its caller got.
    """

    kind: AgainKind
    response_id: str


@dataclass(frozen=True, slots=True)
class Call:
    """One request, validated, its pictures loaded.

    Attributes:
        messages: the conversation, oldest first, ending in a user turn, or in results of functions.
        sampling: generation knobs.
        hints: what the caller said about routing.
        model: the model name as the caller wrote it.
        strategy: how to merge, if the caller said so.
        is_background: return at once with an object to poll.
        is_stored: the answer can be read again by its id.
        metadata: the caller's own key-value pairs, returned unchanged.
        instructions: the system text of a Responses request, echoed in the answer.
        webhook_url: where to post when the work is done.
        dial: the caller's place between latency (0) and depth (1); None leaves it to the preset.
        owner: whose it is; only the same owner may read it.
        previous_response_id: which response this one goes on from.
        adapter: which LoRA adapter of ``adapter_engine`` answers: the one that the model name asks for, or that is
            promoted; empty for none.
        adapter_engine: whose adapter it is; other engines that take part are asked for none.
        adapter_revision: of the weights of the model with that adapter, if the engine says; empty for none.
        keeps_base: the caller asks for the model without any adapter, whichever is promoted.
        promoted: adapters of engines other than ``adapter_engine`` that answer for their models, by engine.
        promoted_revisions: of these, as ``adapter_revision``.
        output_format: JSON of which kind the answer is to be; its schema is in ``sampling``. None for prose.
        response_id: chosen before anything was accepted, by an ``Idempotency-Key``; None for a new one.
        keep_s: the answer is kept at least so long whatever ``is_stored`` says, to be given again under that key.
        retention_s: upper bound of all these lifetimes; None for no bound.
        priority: which jobs go first when several wait.
        batch_id: of the batch that this is a line of; empty for any other request.
        is_watched: a client waits for the first word: it does not queue behind jobs that no client waits for.
        wants_thinking: GLM is to think before it answers, or not to; None leaves it to the policy.
        is_streamed: the caller reads the answer while it is written; otherwise only a whole one is shown.
        draft_as: what carries the draft in a stream.
        echo: fields of a Responses request that change nothing and are repeated in its object.
        fetch_ms: how long its pictures took to be there; None if it has none.
        cache: what may be done to spare it a run of its own.
        admission: what it is charged with; None if nothing limits it.
        again: what it asks again; None for a caller's own question.
        is_captured: question and answers may be kept for data sets (`router.loop`).
        notes: what the answer says is degraded, as the request was taken.
    """

    messages: tuple[Message, ...]
    sampling: SamplingParams
    hints: Hints
    model: str
    owner: str
    strategy: Strategy | None = None
    is_background: bool = False
    is_stored: bool = True
    metadata: Mapping[str, str] = field(default_factory=dict)
    instructions: str | None = None
    webhook_url: str | None = None
    dial: float | None = None
    previous_response_id: str | None = None
    adapter: str = ""
    adapter_engine: str = "glm"
    adapter_revision: str = ""
    keeps_base: bool = False
    promoted: Mapping[str, str] = field(default_factory=dict)
    promoted_revisions: Mapping[str, str] = field(default_factory=dict)
    output_format: OutputFormat | None = None
    response_id: str | None = None
    keep_s: int = 0
    retention_s: int | None = None
    priority: Priority = "normal"
    batch_id: str = ""
    is_watched: bool = False
    wants_thinking: bool | None = None
    is_streamed: bool = False
    draft_as: DraftAs = "reasoning"
    echo: Mapping[str, Any] = field(default_factory=dict)
    fetch_ms: float | None = None
    cache: CacheUse = CacheUse()
    admission: Admission | None = None
    again: Again | None = None
    is_captured: bool = False
    notes: tuple[Text, ...] = ()

    def adapter_for(self, engine: str) -> str:
        """The adapter that an engine is to answer with; empty for the model as it is."""
        named = self.adapter if engine == self.adapter_engine else ""
        return named or self.promoted.get(engine, "")

    @property
    def uses_tools(self) -> bool:
        """Whether functions may be called, or were: only GLM reads and writes that."""
        return self.sampling.tool_use is not None or any(each.tool_calls for each in self.messages)

    @property
    def images(self) -> tuple[ImagePart, ...]:
        """All pictures of the conversation, in order."""
        return tuple([part for each in self.messages for part in each.parts if isinstance(part, ImagePart)])


def pictures_first(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Put the pictures of a user turn before its text where the turn is texts and then pictures.

    What comes before the first differing token is computed once: with the picture in front, that is the picture,
    whatever is asked about it. Where texts and pictures alternate, the order is the caller's meaning ("Picture 1: ...
    Picture 2: ...") and stays. A turn is looked at alone, so it comes out the same in every later request.
    """
    return tuple(_pictures_first(message) for message in messages)


def _pictures_first(message: Message) -> Message:
    texts = tuple(part for part in message.parts if isinstance(part, TextPart))
    if message.role != "user" or message.parts != (*texts, *message.images):
        return message
    return Message(message.role, (*message.images, *texts))


def to_stored_messages(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    """Write a conversation as JSON; pictures become hash, media type, and the field they came in."""
    return [_to_stored_message(message) for message in messages]


def from_stored_messages(
    stored: list[dict[str, Any]], blobs: Mapping[str, bytes], *, param: str | None = None
) -> tuple[Message, ...]:
    """Read a conversation back.

    Args:
        stored: what `to_stored_messages` wrote.
        blobs: picture bytes by hash.
        param: the field of a new request that brings the conversation in; None if it is still the request's own.

    Raises:
        KeyError: if a picture is not among ``blobs``; the key is its hash.
    """
    return tuple(
        Message(
            message["role"],
            tuple(_from_stored_part(part, blobs, param) for part in message["parts"]),
            tuple(ToolCall(**call) for call in message.get("tool_calls", ())),
            message.get("tool_call_id", ""),
        )
        for message in stored
    )


def stored_image_hashes(stored: list[dict[str, Any]]) -> list[str]:
    """Hashes of all pictures of a stored conversation, in order, repeats kept."""
    return [part["sha256"] for message in stored for part in message["parts"] if part["type"] == "image"]


def _to_stored_message(message: Message) -> dict[str, Any]:
    stored: dict[str, Any] = {"role": message.role, "parts": [_to_stored_part(part) for part in message.parts]}
    if message.tool_calls:
        stored["tool_calls"] = [asdict(call) for call in message.tool_calls]
    if message.tool_call_id:
        stored["tool_call_id"] = message.tool_call_id
    return stored


def _to_stored_part(part: Part) -> dict[str, str]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    stored = {"type": "image", "sha256": part.sha256, "media_type": part.media_type, "param": part.param}
    return {**stored, "file_id": part.file_id} if part.file_id else stored


def _from_stored_part(part: dict[str, str], blobs: Mapping[str, bytes], param: str | None) -> Part:
    if part["type"] == "text":
        return TextPart(part["text"])
    came_in = part.get("param", "") if param is None else param  # not written by earlier releases
    data, file_id = blobs[part["sha256"]], part.get("file_id", "")
    return ImagePart(data, part["media_type"], part["sha256"], param=came_in, file_id=file_id)

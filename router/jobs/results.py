"""What comes out of a job: the result of each unit, the one final answer, or the error that leaves none.

In: what engines answered, or a record as redis has it. Out: frozen types, and their JSON forms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, TypedDict

from engines.base import Box, EngineError, TokenLogprob, Usage
from engines.json_forms import from_boxes, from_logprobs, to_boxes, to_logprobs
from engines.tools import ToolCall
from policies.text import Text
from router.schema import known_fields


class ErrorRecord(TypedDict, total=False):
    """Why there is no answer, as it is stored; a record of an earlier release may lack a field."""

    code: str
    message: str
    message_zh: str
    param: str | None
    status: int
    retryable: bool


def to_error_record(
    said: Text, *, code: str, status: int = 500, retryable: bool = False, param: str | None = None
) -> ErrorRecord:
    """Write down an error of our own; `to_failure_record` does so with an engine's."""
    return {
        "code": code,
        "message": said.en,
        "message_zh": said.zh,
        "param": param,
        "status": status,
        "retryable": retryable,
    }


@dataclass(frozen=True, slots=True)
class UnitResult:
    """What a branch ended with: an answer, or the error that ended it.

    Attributes:
        text: the answer; empty if it failed.
        model: the model's shown name.
        finish_reason: ``stop``, ``length``, ``content_filter`` or ``tool_calls``.
        usage: token counts.
        error: of a failed branch.
        duration_s: from start to end of the last run.
        ttft_s: from start to the first text.
        logprobs: of the answer's tokens, if they were asked for.
        boxes: places in the pictures that the answer named.
        cuts: where an answer that has no event stream was cut when it was streamed: characters and log probabilities
            of each piece. The stream can be told again from it, event for event.
        tool_calls: functions that the answer calls.
        call_cuts: as ``cuts``, of calls: the call's index and the characters of its arguments; behind the text.
        stop_sequence: the stop string that ended the answer, if one did and its server says which.
        last_usage: of the run of the engine that wrote ``text``, where ``usage`` counts others before or after it too.
        json_state: of a branch that was asked for JSON by words alone: ``valid`` if ``text`` satisfies the schema,
            ``repaired`` if it does since the engine was told what was wrong with it; empty if it does not.
    """

    text: str = ""
    model: str = ""
    finish_reason: str = "stop"
    usage: Usage = Usage()
    error: ErrorRecord | None = None
    duration_s: float = 0.0
    ttft_s: float | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    boxes: tuple[Box, ...] = ()
    cuts: tuple[tuple[int, int], ...] = ()
    json_state: Literal["", "valid", "repaired"] = ""
    last_usage: Usage | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    call_cuts: tuple[tuple[int, int], ...] = ()
    stop_sequence: str = ""

    @property
    def written(self) -> Usage:
        """The tokens of ``text`` alone."""
        return self.usage if self.last_usage is None else self.last_usage

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form."""
        data = {**asdict(replace(self, logprobs=(), boxes=(), cuts=())), "boxes": to_boxes(self.boxes)}
        for name in ("cuts", *(name for name in ("tool_calls", "call_cuts", "stop_sequence") if not data[name])):
            del data[name]
        if self.cuts:
            data["cuts"] = self.cuts
        return _with_logprobs(data, self.logprobs)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> UnitResult:
        """Read `to_dict`'s form, by whichever release it was written."""
        return cls(
            **{
                **known_fields(cls, data),
                "usage": Usage(**known_fields(Usage, data.get("usage") or {})),
                "last_usage": _to_usage(data.get("last_usage")),
                "logprobs": from_logprobs(data.get("logprobs")),
                "boxes": from_boxes(data.get("boxes")),
                "cuts": tuple((chars, tokens) for chars, tokens in data.get("cuts", ())),
                "call_cuts": tuple((index, chars) for index, chars in data.get("call_cuts", ())),
                "tool_calls": _to_calls(data),
            },
        )


@dataclass(frozen=True, slots=True)
class FinalAnswer:
    """What the merge decided.

    Attributes:
        text: the answer.
        model: who wrote it.
        engine: ``glm`` or ``owl2``.
        strategy: the strategy really used, which may not be the one planned.
        finish_reason: ``stop``, ``length``, ``content_filter`` or ``tool_calls``.
        agreement: 0 to 1, how far draft and deep answer agree; None if there was nothing to compare.
        agreement_basis: what it was computed from, see `router.answers.agreement.Agreement`.
        degraded: sentences that say what is missing and why; empty when all went as planned.
        usage: of all branches and the merge together.
        logprobs: of the tokens of ``text``, if they were asked for.
        boxes: places in the pictures that ``text`` names.
        degraded_zh: `degraded` in Chinese, sentence by sentence.
        conflicts: where draft and deep answer contradict each other, see `router.answers.agreement.Conflict.to_dict`.
        answer_usage: of the run of an engine that wrote ``text``; None if that was the only one.
        provenance: of a JSON answer that was merged field by field: by JSON pointer, where each field comes from, see
            `router.answers.fields.Merged`.
        tool_calls: functions that the answer calls; of GLM alone.
        stop_sequence: as in `UnitResult`.
    """

    text: str
    model: str
    engine: str
    strategy: str
    finish_reason: str = "stop"
    agreement: float | None = None
    agreement_basis: tuple[str, ...] = ()
    degraded: tuple[str, ...] = ()
    usage: Usage = Usage()
    logprobs: tuple[TokenLogprob, ...] = ()
    boxes: tuple[Box, ...] = ()
    degraded_zh: tuple[str, ...] = ()
    conflicts: tuple[dict[str, Any], ...] = ()
    provenance: dict[str, str] = field(default_factory=dict)
    answer_usage: Usage | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    stop_sequence: str = ""

    @property
    def written(self) -> Usage:
        """The tokens of ``text`` alone, as far as is known."""
        return self.usage if self.answer_usage is None else self.answer_usage

    def noted(self, note: Text) -> FinalAnswer:
        """Return the answer with one more sentence about what is missing."""
        return replace(self, degraded=(*self.degraded, note.en), degraded_zh=(*self.degraded_zh, note.zh))

    @property
    def is_cut(self) -> bool:
        """Whether the answer ended before its model was done."""
        return self.finish_reason not in ("stop", "tool_calls")

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form."""
        data = {**asdict(replace(self, logprobs=(), boxes=())), "boxes": to_boxes(self.boxes)}
        for name in ("tool_calls", "stop_sequence"):
            if not data[name]:
                del data[name]
        return _with_logprobs(data, self.logprobs)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> FinalAnswer:
        """Read `to_dict`'s form, by whichever release it was written."""
        return cls(
            **{
                **known_fields(cls, data),
                "usage": Usage(**known_fields(Usage, data.get("usage") or {})),
                "answer_usage": _to_usage(data.get("answer_usage")),
                "degraded": tuple(data.get("degraded", ())),
                "degraded_zh": tuple(data.get("degraded_zh", ())),
                "conflicts": tuple(data.get("conflicts", ())),
                "agreement_basis": tuple(data.get("agreement_basis", ())),
                "logprobs": from_logprobs(data.get("logprobs")),
                "boxes": from_boxes(data.get("boxes")),
                "tool_calls": _to_calls(data),
            }
        )


def to_failure_record(error: EngineError) -> ErrorRecord:
    """Write down an engine's refusal, as `UnitResult.error` has it."""
    return {
        "code": error.code,
        "message": error.message,
        "param": error.param,
        "status": error.status_code,
        "retryable": error.retryable,
    }


def add_usage(*usages: Usage) -> Usage:
    """Sum token counts."""
    return Usage(
        prompt_tokens=sum(usage.prompt_tokens for usage in usages),
        completion_tokens=sum(usage.completion_tokens for usage in usages),
        image_tokens=sum(usage.image_tokens for usage in usages),
        cached_tokens=sum(usage.cached_tokens for usage in usages),
        reasoning_tokens=sum(usage.reasoning_tokens for usage in usages),
    )


def _to_calls(data: Mapping[str, Any]) -> tuple[ToolCall, ...]:
    return tuple(ToolCall(**known_fields(ToolCall, call)) for call in data.get("tool_calls", ()))


def _to_usage(data: Mapping[str, Any] | None) -> Usage | None:
    return None if data is None else Usage(**known_fields(Usage, data))


def _with_logprobs(data: dict[str, Any], logprobs: tuple[TokenLogprob, ...]) -> dict[str, Any]:
    """Write log probabilities only where they were asked for: they are many times the size of the text."""
    del data["logprobs"]
    return {**data, "logprobs": to_logprobs(logprobs)} if logprobs else data

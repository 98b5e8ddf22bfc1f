"""The nouns of asynchronous work: a job, its units, what it was asked, what came out.

In: the fields of one job record. Out: frozen types that the api, the tasks and the merge read. A **unit** is anything
one worker runs under a lease: a branch (``draft``, ``deep``, ``fast``), the ``merge``, or the ``webhook``.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Literal

from engines.base import EngineError, SamplingParams, TokenLogprob, Usage
from engines.wire import from_logprobs, to_logprobs

JobState = Literal["queued", "in_progress", "completed", "failed", "cancelled", "incomplete"]
UnitState = Literal["queued", "in_progress", "completed", "failed", "cancelled"]

TERMINAL: Final = frozenset({"completed", "failed", "cancelled", "incomplete"})
MERGE: Final = "merge"
WEBHOOK: Final = "webhook"


def new_job_id() -> str:
    """Return an id nobody can guess: ``resp_`` and 32 hex digits."""
    return f"resp_{secrets.token_hex(16)}"


@dataclass(frozen=True, slots=True)
class BranchPlan:
    """One engine's part of a job."""

    name: str
    engine: str
    enable_thinking: bool = False


@dataclass(frozen=True, slots=True)
class JobSpec:
    """Everything about a job that never changes after it was accepted.

    Attributes:
        id: ``resp_*``; also the id of the Responses object.
        owner: only calls of the same owner may see the job.
        created_at: unix seconds.
        model: the model name as the caller wrote it.
        messages: the conversation in stored form (`router.call.to_stored_messages`).
        sampling: generation knobs.
        decision: `policies.decision.Decision.to_dict`.
        language: of the question: decides in which language a composed answer is written.
        branches: who answers.
        strategy: how the answers are merged.
        is_background: the caller polls.
        is_stored: the caller may read it again.
        metadata: the caller's own pairs.
        instructions: echoed in the Responses object.
        webhook_url: where to post at the end.
        previous_response_id: which response this one goes on from; echoed in the Responses object.
    """

    id: str
    owner: str
    created_at: float
    model: str
    messages: list[dict[str, Any]]
    sampling: SamplingParams
    decision: dict[str, Any]
    language: str
    branches: tuple[BranchPlan, ...]
    strategy: str
    is_background: bool = False
    is_stored: bool = True
    metadata: Mapping[str, str] = field(default_factory=dict)
    instructions: str | None = None
    webhook_url: str | None = None
    previous_response_id: str | None = None

    @property
    def final_unit(self) -> str:
        """The unit whose text becomes the final answer when nothing goes wrong."""
        if len(self.branches) > 1 and self.strategy == "compose":
            return MERGE
        return self.branches[-1].name

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> JobSpec:
        """Read `to_dict`'s form."""
        sampling = {**data["sampling"], "stop": tuple(data["sampling"]["stop"])}
        return cls(
            **{
                **data,
                "sampling": SamplingParams(**sampling),
                "branches": tuple(BranchPlan(**branch) for branch in data["branches"]),
            }
        )


@dataclass(frozen=True, slots=True)
class UnitResult:
    """What a branch ended with: an answer, or the error that ended it.

    Attributes:
        text: the answer; empty if it failed.
        model: the model's shown name.
        finish_reason: ``stop`` or ``length``.
        usage: token counts.
        error: ``{"code", "message", "param", "status", "retryable"}`` of a failed branch.
        duration_s: from start to end of the last run.
        ttft_s: from start to the first text.
        logprobs: of the answer's tokens, if they were asked for.
    """

    text: str = ""
    model: str = ""
    finish_reason: str = "stop"
    usage: Usage = Usage()
    error: dict[str, Any] | None = None
    duration_s: float = 0.0
    ttft_s: float | None = None
    logprobs: tuple[TokenLogprob, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form."""
        return _with_logprobs(asdict(replace(self, logprobs=())), self.logprobs)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> UnitResult:
        """Read `to_dict`'s form."""
        return cls(
            **{**data, "usage": Usage(**data["usage"]), "logprobs": from_logprobs(data.get("logprobs"))},
        )


@dataclass(frozen=True, slots=True)
class Unit:
    """The state of one unit. ``epoch`` counts its runs and fences off the writes of earlier ones."""

    name: str
    state: UnitState
    epoch: int = 0
    failures: int = 0
    result: UnitResult | None = None

    @property
    def answer(self) -> UnitResult | None:
        """The result of a completed unit."""
        return self.result if self.state == "completed" else None


@dataclass(frozen=True, slots=True)
class FinalAnswer:
    """What the merge decided.

    Attributes:
        text: the answer.
        model: who wrote it.
        engine: ``glm`` or ``owl2``.
        strategy: the strategy really used, which may not be the one planned.
        finish_reason: ``stop`` or ``length``.
        agreement: 0 to 1, how far draft and deep answer agree; None if there was nothing to compare.
        agreement_basis: what it was computed from: ``numbers``, ``tokens``, both, or nothing.
        degraded: sentences that say what is missing and why; empty when all went as planned.
        usage: of all branches and the merge together.
        logprobs: of the tokens of ``text``, if they were asked for.
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

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form."""
        return _with_logprobs(asdict(replace(self, logprobs=())), self.logprobs)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> FinalAnswer:
        """Read `to_dict`'s form."""
        return cls(
            **{
                **data,
                "usage": Usage(**data["usage"]),
                "degraded": tuple(data["degraded"]),
                "agreement_basis": tuple(data["agreement_basis"]),
                "logprobs": from_logprobs(data.get("logprobs")),
            }
        )


@dataclass(frozen=True, slots=True)
class Job:
    """One record as it was at the moment of reading."""

    spec: JobSpec
    state: JobState
    units: Mapping[str, Unit]
    started_at: float | None = None
    completed_at: float | None = None
    final: FinalAnswer | None = None
    error: dict[str, Any] | None = None

    @property
    def id(self) -> str:
        """The job's id."""
        return self.spec.id

    @property
    def is_terminal(self) -> bool:
        """Nothing about the answer will change any more."""
        return self.state in TERMINAL

    @property
    def draft(self) -> UnitResult | None:
        """GLM's first answer, once it is there."""
        unit = self.units.get("draft")
        return unit.answer if unit else None


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of a job's event stream.

    Attributes:
        kind: ``queued``, ``started``, ``delta``, ``finished``, ``requeued`` or ``end``.
        unit: whose; empty for ``queued`` and ``end``.
        epoch: which run of the unit.
        text: of a delta.
        state: of ``finished`` (the unit's) and ``end`` (the job's).
        id: the stream entry's id, to continue after it.
        logprobs: of the tokens since the delta before, if they were asked for.
    """

    kind: Literal["queued", "started", "delta", "finished", "requeued", "end"]
    unit: str = ""
    epoch: int = 0
    text: str = ""
    state: str = ""
    id: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()


def _with_logprobs(data: dict[str, Any], logprobs: tuple[TokenLogprob, ...]) -> dict[str, Any]:
    """Write log probabilities only where they were asked for: they are many times the size of the text."""
    del data["logprobs"]
    return {**data, "logprobs": to_logprobs(logprobs)} if logprobs else data


def to_failure_record(error: EngineError) -> dict[str, Any]:
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

"""What is kept of one question and its answers: the row of an exchange.

In: a job that has ended. Out: a frozen `Exchange`, redacted, that `router.loop.store` writes and data sets, reports and
proofs read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from router.call import stored_image_hashes
from router.jobs.job import MERGE, Job
from router.jobs.results import UnitResult
from router.loop.redact import KINDS, redact, redact_all

Rating = Literal["up", "down"]
Captures = Literal["off", "text", "pictures"]
# Longer texts are cut: training uses no more of them, and a row is read whole.
MAX_CHARS: Final = 100_000


@dataclass(frozen=True, slots=True)
class Terms:
    """What an owner lets us keep.

    Attributes:
        captures: ``off``; ``text`` for questions, answers and what is measured of pictures; ``pictures`` for those too.
        keep_s: for how long.
        redacts: kinds of `router.loop.redact` that are replaced.
    """

    captures: Captures = "off"
    keep_s: float = 0.0
    redacts: frozenset[str] = frozenset(KINDS)


@dataclass(frozen=True, slots=True)
class Answer:
    """What one model said.

    Attributes:
        text: the answer; empty if it failed.
        model: as it is shown, with its adapter.
        took_s: from start to end.
        ttft_s: from start to the first text.
        prompt_tokens: that it read.
        completion_tokens: that it wrote.
        error: code of its failure; empty if there was none.
    """

    text: str = ""
    model: str = ""
    took_s: float = 0.0
    ttft_s: float | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Feedback:
    """What somebody said of an answer.

    Attributes:
        rating: ``up`` or ``down``; None if only a correction was given.
        correction: the right answer: a text, or JSON; None if none was given.
        fields: right values of single fields of a JSON answer, by name.
        comment: free words.
        at: unix seconds.
    """

    rating: Rating | None = None
    correction: Any = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    comment: str = ""
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question, and all that was answered.

    Attributes:
        id: of the response, ``resp_*``.
        owner: whose it is.
        at: unix seconds at which it was accepted.
        took_s: until its end.
        state: how it ended.
        question: text of the last turn.
        messages: the conversation in stored form (`router.call.to_stored_messages`).
        language: of the question.
        route: ``fast`` or ``deep``.
        rule: that decided.
        engine: that was chosen.
        decision: `policies.decision.Decision.to_dict`.
        answers: by unit: ``fast``, ``draft``, ``deep``, ...
        final: what the caller got; empty if nothing.
        final_model: who wrote it.
        final_engine: likewise.
        strategy: of the merge.
        agreement: 0 to 1, of draft and deep answer; None if there was nothing to compare.
        conflicts: where they contradict each other.
        degraded: what was missing.
        cache: what the answer cache was to it.
        adapter: that was asked for.
        prompt_tokens: of all runs.
        completion_tokens: likewise.
        image_tokens: likewise.
        error: code of the failure; empty if there was none.
        propensity: probability with which this fast question was to get a second look; None if it could not.
        again: id of the response whose question this asks again, for nobody but the log (`router.second_looks`); empty
            for a caller's own question.
        asks_json: the answer was to be JSON.
        pictures: SHA-256 of its pictures, in order.
        revisions: of the engines, by name, as far as they were known; of adapters that answered, by ``engine:adapter``.
        feedback: None if nobody said anything.
    """

    id: str
    owner: str
    at: float
    took_s: float
    state: str
    question: str
    messages: list[dict[str, Any]]
    language: str
    route: str
    rule: str
    engine: str
    decision: Mapping[str, Any]
    answers: Mapping[str, Answer]
    final: str = ""
    final_model: str = ""
    final_engine: str = ""
    strategy: str = ""
    agreement: float | None = None
    conflicts: tuple[Mapping[str, Any], ...] = ()
    degraded: tuple[str, ...] = ()
    cache: str = ""
    adapter: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    image_tokens: int = 0
    error: str = ""
    propensity: float | None = None
    again: str = ""
    asks_json: bool = False
    pictures: tuple[str, ...] = ()
    revisions: Mapping[str, str] = field(default_factory=dict)
    feedback: Feedback | None = None

    @property
    def draft(self) -> str:
        """GLM's own answer, first or only."""
        return next((self.answers[name].text for name in ("draft", "fast") if name in self.answers), "")

    @property
    def deep(self) -> str:
        """Owl2's own answer; empty if it was not asked, or failed."""
        return self.answers["deep"].text if "deep" in self.answers else ""

    @property
    def is_multi_page(self) -> bool:
        """Whether there are several pictures."""
        return len(self.pictures) > 1


def to_exchange(job: Job, redacts: frozenset[str], revisions: Mapping[str, str] | None = None) -> Exchange:
    """Return what is kept of a job that has ended.

    Args:
        job: ended.
        redacts: kinds of what is replaced.
        revisions: of the engines, by name.
    """

    def clean(text: str) -> str:
        return redact(text[:MAX_CHARS], redacts)

    spec, final = job.spec, job.final
    results = {name: unit.result for name, unit in job.units.items() if unit.result is not None and name != MERGE}
    usage = final.usage if final is not None else None
    return Exchange(
        id=job.id,
        owner=spec.owner,
        at=spec.created_at,
        took_s=max((job.completed_at or spec.created_at) - spec.created_at, 0.0) + sum(spec.timings.values()) / 1000,
        state=job.state,
        question=clean(spec.question),
        messages=[_to_kept(each, clean) for each in spec.messages],
        language=spec.language,
        route=str(spec.decision.get("route", "")),
        rule=str(spec.decision.get("rule", "")),
        engine=str(spec.decision.get("engine", "")),
        decision=redact_all(dict(spec.decision), redacts),
        answers={name: _to_answer(result, clean(result.text)) for name, result in results.items()},
        final=clean(final.text) if final is not None else "",
        final_model=final.model if final is not None else "",
        final_engine=final.engine if final is not None else "",
        strategy=final.strategy if final is not None else "",
        agreement=final.agreement if final is not None else None,
        conflicts=tuple(redact_all(dict(each), redacts) for each in final.conflicts) if final is not None else (),
        degraded=final.degraded if final is not None else (),
        cache=spec.cache,
        adapter=spec.adapter,
        prompt_tokens=usage.prompt_tokens if usage is not None else 0,
        completion_tokens=usage.completion_tokens if usage is not None else 0,
        image_tokens=usage.image_tokens if usage is not None else 0,
        error=str((job.error or {}).get("code", "")),
        propensity=(spec.decision.get("second_look") or {}).get("probability"),
        again=str((spec.decision.get("again") or {}).get("response_id", "")),
        asks_json=spec.output_format is not None,
        pictures=tuple(stored_image_hashes(spec.messages)),
        revisions={**(revisions or {}), **spec.adapters},
    )


def _to_kept(message: Mapping[str, Any], clean: Callable[[str], str]) -> dict[str, Any]:
    """Return a message of the conversation as it may be kept: its words, and those that functions are called with."""
    kept: dict[str, Any] = {
        **message,
        "parts": [{**part, "text": clean(part["text"])} if "text" in part else part for part in message["parts"]],
    }
    if calls := message.get("tool_calls"):
        kept["tool_calls"] = [{**call, "arguments": clean(call["arguments"])} for call in calls]
    return kept


def redacted(feedback: Feedback, redacts: frozenset[str]) -> Feedback:
    """Return feedback as it may be kept."""
    return Feedback(
        feedback.rating,
        redact_all(feedback.correction, redacts),
        redact_all(dict(feedback.fields), redacts),
        redact(feedback.comment, redacts),
        feedback.at,
    )


def _to_answer(result: UnitResult, text: str) -> Answer:
    return Answer(
        text,
        result.model,
        result.duration_s,
        result.ttft_s,
        result.usage.prompt_tokens,
        result.usage.completion_tokens,
        str((result.error or {}).get("code", "")),
    )

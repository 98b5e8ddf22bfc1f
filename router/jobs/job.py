"""The nouns of asynchronous work: a job, its units, what it was asked, and what it says meanwhile.

In: the fields of one job record. Out: frozen types that the api, the workers and the merge read. A **unit** is anything
one worker runs under a lease: a branch (``draft``, ``deep``, ``fast``) or the ``merge``. What comes out is in
`router.jobs.results`.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Literal

from engines.base import SamplingParams, TokenLogprob
from engines.origin import NOWHERE, Origin
from engines.tools import ToolCallDelta, ToolUse
from router.call import DraftAs, Priority
from router.errors import NewerRecordError
from router.jobs import texts
from router.jobs.eta import QueuePlace
from router.jobs.results import ErrorRecord, FinalAnswer, UnitResult
from router.jobs.schedule import Queue, queue_of
from router.output_format import OutputFormat
from router.questions import place_of_question
from router.schema import SCHEMA, SCHEMA_WITHOUT_TOOLS, known_fields

JobState = Literal["queued", "in_progress", "completed", "failed", "cancelled", "incomplete"]
CacheState = Literal["", "hit", "joined", "miss"]
UnitState = Literal["queued", "in_progress", "completed", "failed", "cancelled"]
# How long a merge waits for a branch: until it ends; for a limited time; or hardly, since it is optional.
Patience = Literal["always", "a while", "a moment"]
# Why a run is given back: it failed; its engine was full, or away; the process has to end.
Why = Literal["failure", "full", "away", "handed back"]

TERMINAL: Final = frozenset({"completed", "failed", "cancelled", "incomplete"})
MERGE: Final = "merge"


def new_job_id() -> str:
    """Return an id that cannot be guessed: ``resp_`` and 32 hex digits."""
    return f"resp_{secrets.token_hex(16)}"


@dataclass(frozen=True, slots=True)
class Terms:
    """What the owner of a job may have, and was charged for it.

    Attributes:
        reservation: of its tokens (`router.limits`), which its end settles; empty for none.
        max_unfinished: jobs of this owner; None for the number of every owner.
    """

    reservation: str = ""
    max_unfinished: int | None = None


@dataclass(frozen=True, slots=True)
class BranchPlan:
    """One engine's part of a job.

    Attributes:
        name: of the unit that runs it.
        engine: ``glm`` or ``owl2``.
        enable_thinking: GLM thinks before it answers.
        pictures: the first and the last picture it is shown, counted from 1 over the whole conversation, if it looks at
            one of several groups (`router.answers.groups`); None for a branch that is shown all of them.
        model: the name that its answer will show, if it was known when the job was accepted.
    """

    name: str
    engine: str
    enable_thinking: bool = False
    pictures: tuple[int, int] | None = None
    model: str = ""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> BranchPlan:
        """Read its fields as JSON has them, by whichever release they were written."""
        branch = cls(**known_fields(cls, data))
        return replace(branch, pictures=(branch.pictures[0], branch.pictures[1])) if branch.pictures else branch


@dataclass(frozen=True, slots=True)
class JobSpec:
    """Everything about a job that never changes after it was accepted, but for its ``metadata``.

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
        adapter: ``adapter_engine`` answers with this LoRA adapter; empty for the model as it is.
        adapter_engine: whose adapter it is; in records of older releases always GLM's.
        adapter_revision: of the weights of the model with that adapter; empty if it is not known.
        promoted: adapters of other engines, by engine, that answer for their models.
        promoted_revisions: of these, as ``adapter_revision``.
        output_format: JSON of which kind the answer is to be; its schema is in ``sampling``. None for prose.
        keep_s: the record lives at least so long after its end, even if it is not stored.
        retention_s: its owner's bound of its lifetime after the end; None for no bound.
        priority: which jobs go first when several wait.
        deadline_ms: an answer later than so long after the job was accepted is of no use; None if any is.
        batch_id: of the batch that it is a line of; empty for any other job.
        timings: milliseconds that the steps before the job took: ``fetch`` (its pictures), ``policy``.
        draft_as: what carries the draft in a stream; the same for every reader.
        echo: fields that the Response object repeats.
        cache: what the answer cache was to the answer: ``hit``, ``joined`` an equal request's run, ``miss``; empty if
            it had no part in it.
        cached_at: unix seconds when the answer was made, if it is an earlier request's.
        origin: the request that it was accepted with; a field of its own in the record, which scripts read.
        is_captured: its owner lets us keep it for data sets (`router.loop`), and the request did not forbid it.
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
    adapter: str = ""
    adapter_engine: str = "glm"
    adapter_revision: str = ""
    promoted: Mapping[str, str] = field(default_factory=dict)
    promoted_revisions: Mapping[str, str] = field(default_factory=dict)
    output_format: OutputFormat | None = None
    keep_s: int = 0
    retention_s: int | None = None
    priority: Priority = "normal"
    deadline_ms: int | None = None
    batch_id: str = ""
    timings: Mapping[str, float] = field(default_factory=dict)
    draft_as: DraftAs = "reasoning"
    echo: Mapping[str, Any] = field(default_factory=dict)
    cache: CacheState = ""
    cached_at: float | None = None
    origin: Origin = NOWHERE
    is_captured: bool = False

    @property
    def is_only_for_its_caller(self) -> bool:
        """Only the client that waits can read the answer: it is not stored, and no webhook or batch gets it."""
        is_kept = self.is_stored or self.is_background or self.keep_s > 0
        return not (is_kept or self.webhook_url or self.batch_id)

    @property
    def question(self) -> str:
        """The text of the last turn that the user wrote."""

        def text_at(place: int) -> str:
            return "".join(part["text"] for part in self.messages[place]["parts"] if part["type"] == "text")

        return text_at(place_of_question([message["role"] for message in self.messages], text_at))

    def awaits(self, branch: BranchPlan) -> Patience:
        """Say how long the merge waits for a branch once the others it needs have answered."""
        if branch.pictures or branch.name == self.branches[-1].name:
            return "always"
        # The final answer contains GLM's answer, or the caller asked GLM to think.
        is_wanted = self.strategy in ("compose", "fields") or self.sampling.json_schema is not None
        return "a while" if is_wanted or branch.enable_thinking else "a moment"

    @property
    def final_unit(self) -> str:
        """The unit whose text becomes the final answer when nothing goes wrong."""
        if any(branch.pictures for branch in self.branches):
            return MERGE  # one answer is made of what the groups found, whichever engine makes it
        if len(self.branches) > 1 and self.strategy in ("compose", "fields"):
            return MERGE
        return self.branches[-1].name

    @property
    def merge_queue(self) -> Queue:
        """The queue of the merge: that of the engine it may ask; ``light`` if it asks none."""
        if self.strategy == "compose":
            return "glm"
        if self.final_unit == MERGE:
            return "glm" if self.strategy == "fields" else "owl2"
        return "light"

    @property
    def composes_both(self) -> bool:
        """The merge asks GLM only if Owl2 and GLM have both answered."""
        is_plain = self.sampling.json_schema is None and not any(branch.pictures for branch in self.branches)
        return self.strategy == "compose" and len(self.branches) > 1 and is_plain

    def merge_queue_after(self, states: Mapping[str, str]) -> Queue:
        """Return the queue of the merge, now that the branches have ended.

        Args:
            states: of the branches, by name.
        """
        if self.composes_both:
            answered = {
                self.awaits(branch) == "always" for branch in self.branches if states[branch.name] == "completed"
            }
            if answered != {True, False}:
                return "light"
        return self.merge_queue

    def adapter_for(self, engine: str) -> str:
        """The adapter that an engine answers with; empty for the model as it is."""
        named = self.adapter if engine == self.adapter_engine else ""
        return named or self.promoted.get(engine, "")

    @property
    def adapters(self) -> dict[str, str]:
        """The revisions of the adapters that answer, by ``engine:adapter``; empty ones are not known."""
        found = {f"{self.adapter_engine}:{self.adapter}": self.adapter_revision} if self.adapter else {}
        others = {f"{engine}:{name}": self.promoted_revisions.get(engine, "") for engine, name in self.promoted.items()}
        return found | others

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form; its messages are the record's own, not copies."""
        # Copying 8,000 turns takes 0.3 s, in which nothing else happens.
        has_tools = self.sampling.tool_use is not None or any(each.get("tool_calls") for each in self.messages)
        schema = SCHEMA if has_tools else SCHEMA_WITHOUT_TOOLS
        data = {"schema": schema, **asdict(replace(self, messages=[])), "messages": self.messages}
        del data["origin"]
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> JobSpec:
        """Read `to_dict`'s form, by whichever release it was written.

        Raises:
            NewerRecordError: if its schema is newer than `router.schema.SCHEMA`.
        """
        if (schema := data.get("schema", 1)) > SCHEMA:
            raise NewerRecordError(texts.NEWER_RECORD.fill(found=schema, known=SCHEMA), retry_after_s=30)
        sampling = data.get("sampling") or {}
        output_format = data.get("output_format")
        return cls(
            **{
                **known_fields(cls, data),
                "sampling": _to_sampling(sampling),
                "branches": tuple(BranchPlan.from_dict(branch) for branch in data["branches"]),
                "output_format": _to_output_format(output_format) if output_format else None,
            }
        )


@dataclass(frozen=True, slots=True)
class Unit:
    """The state of one unit.

    Attributes:
        name: of the unit.
        state: of its last run.
        epoch: counts its runs and fences off the writes of earlier ones.
        failures: runs that failed.
        result: how it ended.
        began_at: unix seconds, when its last run began; None if none has, or an answer was made without the queue.
    """

    name: str
    state: UnitState
    epoch: int = 0
    failures: int = 0
    result: UnitResult | None = None
    began_at: float | None = None

    @property
    def answer(self) -> UnitResult | None:
        """The result of a completed unit."""
        return self.result if self.state == "completed" else None


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to run a unit: a write with another epoch is refused."""

    job_id: str
    unit: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Job:
    """One record as it was at the moment of reading.

    Attributes:
        spec: what was accepted.
        state: what callers see.
        units: by name.
        started_at: unix seconds of the first run of any unit.
        completed_at: unix seconds of the end.
        final: the answer.
        error: why there is none.
        place: how far it is, where somebody looked that up.
        accepted_at: unix seconds, by the same clock as the units' times; None for an answer made without the queue.
        is_told: its caller was given the id and less than the answer, and may come back for the rest.
        kept_as: where its answer is kept to be given again, see `router.cache.store.KeptAs`; empty if it is not.
        follows: the job that asks the same and runs for this one too, or did; empty for one that runs itself.
    """

    spec: JobSpec
    state: JobState
    units: Mapping[str, Unit]
    started_at: float | None = None
    completed_at: float | None = None
    final: FinalAnswer | None = None
    error: ErrorRecord | None = None
    place: QueuePlace | None = None
    accepted_at: float | None = None
    is_told: bool = False
    kept_as: str = ""
    follows: str = ""

    @property
    def id(self) -> str:
        """The job's id."""
        return self.spec.id

    @property
    def is_terminal(self) -> bool:
        """Nothing about the answer will change any more."""
        return self.state in TERMINAL

    @property
    def is_announced(self) -> bool:
        """Its id is known to somebody who may read it after its end."""
        return self.spec.is_stored or self.is_told or self.spec.webhook_url is not None or bool(self.spec.batch_id)

    def queue_of(self, unit: str) -> Queue:
        """Return the queue of one of its branches, or of its merge once the branches have ended."""
        if unit == MERGE:
            return self.spec.merge_queue_after({name: each.state for name, each in self.units.items()})
        return queue_of(next(branch.engine for branch in self.spec.branches if branch.name == unit))

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
        calls: of a delta: pieces of calls; told by the process that answers, not kept in the stream.
        is_summary: of a delta that stands for all that a unit said, its pieces being forgotten.
    """

    kind: Literal["queued", "started", "delta", "finished", "requeued", "end"]
    unit: str = ""
    epoch: int = 0
    text: str = ""
    state: str = ""
    id: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()
    is_summary: bool = False
    calls: tuple[ToolCallDelta, ...] = ()


def _to_output_format(data: Mapping[str, Any]) -> OutputFormat:
    dropped = tuple(data.get("dropped_patterns", ()))
    return OutputFormat(**{**known_fields(OutputFormat, data), "dropped_patterns": dropped})


def _to_sampling(data: Mapping[str, Any]) -> SamplingParams:
    tool_use = data.get("tool_use")
    return SamplingParams(
        **{
            **known_fields(SamplingParams, data),
            "stop": tuple(data.get("stop", ())),
            "tool_use": ToolUse.from_dict(tool_use) if tool_use else None,
        }
    )


def end_state(final: FinalAnswer | None) -> JobState:
    """Return the state of a job that ends with an answer, or with none."""
    if final is None:
        return "failed"
    return "incomplete" if final.is_cut else "completed"

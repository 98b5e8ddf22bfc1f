"""The job store in one process' memory: the state machine as a specification that can be run.

In and out: as `router.jobs.store.JobStore`, of which this is the plain reading; a test drives both with the same steps
and compares. What needs a job store and no Redis, such as a test, may use it; nothing in it survives the process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from engines.base import ImagePart, TokenLogprob
from router.call import stored_image_hashes
from router.jobs.eta import Pace, Standing, estimate
from router.jobs.given_up import LOST_MERGE, NOT_AWAITED, lost_result, pictures_full, queue_full
from router.jobs.job import MERGE, TERMINAL, Claim, Event, Job, JobSpec, JobState, Unit, UnitState, Why, end_state
from router.jobs.pictures import BLOB_GRACE_S
from router.jobs.results import FinalAnswer, UnitResult
from router.jobs.rows import Cause, Reaped, to_patience
from router.jobs.schedule import QUEUES, queue_of
from router.jobs.store import (
    GRACE_S,
    MOST_WOKEN,
    UNSTORED_TTL_S,
)
from router.lua.constants import LOOK_S, PACE_WEIGHT
from tests.model.fair_queue import FairQueue

Key = TypeVar("Key")


@dataclass
class _Unit:
    queue: str
    state: UnitState = "queued"
    epoch: int = 0
    failures: int = 0
    result: UnitResult | None = None
    began_at: float | None = None
    piece: str = ""
    patience_s: float | str = ""
    waits: int = 0
    away_at: float | None = None


@dataclass
class _Record:
    spec: JobSpec
    accepted_at: float
    due_at: float = 0.0
    answered_at: float | None = None
    state: JobState = "queued"
    units: dict[str, _Unit] = field(default_factory=dict)
    started_at: float | None = None
    completed_at: float | None = None
    final: FinalAnswer | None = None
    error: dict[str, Any] | None = None
    deadline_at: float | None = None
    ttl_s: int = 0
    blobs: tuple[str, ...] = ()
    merge_epoch: int = 0
    was_queued: bool = True
    events: list[Event] = field(default_factory=list)

    @property
    def branches(self) -> list[_Unit]:
        return [unit for name, unit in self.units.items() if name != MERGE]


@dataclass
class _Blob:
    data: bytes
    until: float
    holders: set[str] = field(default_factory=set)


@dataclass
class _Queue:
    line: FairQueue = field(default_factory=FairQueue)
    service_s: float | None = None
    parallel: float | None = None
    num_running: int = 0

    @property
    def pace(self) -> Pace:
        return Pace(self.service_s, 1.0 if self.parallel is None else self.parallel, self.num_running)


class MemoryJobStore:
    """Keeps job records in memory.

    Args:
        clock: unix seconds.
        lease_s: as `JobStore` has it, and so are all others.
        max_attempts: likewise.
        job_ttl_s: likewise.
        blob_ttl_s: likewise.
        expires_s: likewise.
        max_unfinished: likewise.
        grace_s: likewise.
        merge_patience_s: likewise.
        engine_patience_s: likewise.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        lease_s: float = 5.0,
        max_attempts: int = 3,
        job_ttl_s: int = 7 * 24 * 3600,
        blob_ttl_s: int = 24 * 3600,
        expires_s: int = 24 * 3600,
        max_unfinished: int = 1000,
        max_picture_bytes: int = 2**30,
        grace_s: float = GRACE_S,
        merge_patience_s: float = 30.0,
        engine_patience_s: float = 300.0,
    ) -> None:
        self.lease_s = lease_s
        self.max_attempts = max_attempts
        self._clock = clock
        self._job_ttl_s = job_ttl_s
        self._blob_ttl_s = blob_ttl_s
        self._expires_s = expires_s
        self._max_unfinished = max_unfinished
        self._max_picture_bytes = max_picture_bytes
        self._grace_s = grace_s
        self._patience_s = to_patience(grace_s, merge_patience_s)
        self._engine_patience_s = engine_patience_s
        self._jobs: dict[str, _Record] = {}
        self._blobs: dict[str, _Blob] = {}
        self._queues: dict[str, _Queue] = {name: _Queue() for name in QUEUES}
        self._leases: dict[tuple[str, str], float] = {}
        self._delayed: dict[tuple[str, str], float] = {}
        self._agenda: dict[str, float] = {}

    async def put_images(self, images: Iterable[ImagePart]) -> None:
        """Keep pictures until a job holds them."""
        until = self._clock() + BLOB_GRACE_S
        for image in images:
            blob = self._blob(image.sha256) or self._blobs.setdefault(image.sha256, _Blob(image.data, until))
            blob.until = max(blob.until, until)

    async def get_images(self, hashes: Iterable[str]) -> dict[str, bytes]:
        """Return the pictures that are still there."""
        return {sha256: blob.data for sha256 in hashes if (blob := self._blob(sha256)) is not None}

    async def create(self, spec: JobSpec, images: Iterable[ImagePart] = ()) -> Job:
        """Accept a job."""
        job = Job(spec, "queued", {branch.name: Unit(branch.name, "queued") for branch in spec.branches})
        if spec.id in self._jobs:
            return job
        images = tuple(images)
        self._check_number(spec)
        if not self._make_room(spec, images):
            raise pictures_full(self._max_picture_bytes)
        await self.put_images(images)
        record = _Record(spec, accepted_at=self._clock(), ttl_s=self._ttl_s(spec))
        record.units = {
            branch.name: _Unit(queue_of(branch.engine), patience_s=self._patience_s[spec.awaits(branch)])
            for branch in spec.branches
        }
        self._jobs[spec.id] = record
        self._accept(record)
        return job

    def _check_number(self, spec: JobSpec) -> None:
        is_batch = spec.priority == "batch"
        unfinished = [
            record
            for record in self._jobs.values()
            if record.state not in TERMINAL
            and record.spec.owner == spec.owner
            and (record.spec.priority == "batch") == is_batch
        ]
        if len(unfinished) >= self._max_unfinished:
            raise queue_full(self._max_unfinished)

    async def retry(self, job: Job) -> str:
        """Begin a failed job again."""
        record = self._jobs.get(job.id)
        if record is None or record.state != "failed":
            return record.state if record else ""
        self._check_number(job.spec)
        if MERGE in record.units:
            # Epochs go on counting: they fence off the writes of runs from before.
            record.merge_epoch = record.units.pop(MERGE).epoch
        for unit in record.units.values():
            unit.failures, unit.result, unit.waits, unit.away_at = 0, None, 0, None
        record.answered_at = None
        record.state, record.accepted_at, record.events = "queued", self._clock(), []
        record.started_at = record.completed_at = record.final = record.error = None
        self._accept(record)
        return "failed"

    async def put_finished(self, job: Job, images: Iterable[ImagePart] = ()) -> None:
        """Record a job that was answered without the queue."""
        images = tuple(images)
        has_room = self._make_room(job.spec, images)
        if has_room:
            await self.put_images(images)
        record = _Record(job.spec, accepted_at=job.spec.created_at, state=job.state, ttl_s=self._ttl_s(job.spec))
        record.units = {unit.name: _Unit("glm", unit.state, unit.epoch, 0, unit.result) for unit in job.units.values()}
        record.was_queued = False
        record.started_at = job.started_at or job.spec.created_at
        record.completed_at = job.completed_at or job.spec.created_at
        record.final, record.error = job.final, job.error
        self._jobs[job.id] = record
        if has_room:
            self._hold(record)
        self._retain(record)

    async def get(self, job_id: str) -> Job | None:
        """Read a record."""
        record = self._jobs.get(job_id)
        if record is None:
            return None
        return Job(
            spec=record.spec,
            state=record.state,
            units={
                name: Unit(name, unit.state, unit.epoch, unit.failures, unit.result, unit.began_at)
                for name, unit in record.units.items()
            },
            started_at=record.started_at,
            completed_at=record.completed_at,
            final=record.final,
            error=record.error,
            accepted_at=record.accepted_at if record.was_queued else None,
        )

    async def locate(self, job: Job) -> Job:
        """Add to an unfinished job how far it is."""
        record = self._jobs.get(job.id)
        if job.is_terminal or record is None or record.state in TERMINAL:
            return job
        units = {name: unit for name, unit in record.units.items() if unit.state not in TERMINAL and name != MERGE}
        standings = [self._standing(record, name) for name in units or [MERGE]]
        return replace(job, place=estimate(standings, self._queues[record.spec.merge_queue].pace))

    async def depths(self) -> dict[str, int]:
        """Return how many units wait in each line that is not empty."""
        return {name: queue.line.depth for name, queue in self._queues.items() if queue.line.depth}

    async def take_next(self, queue: str) -> Claim | None:
        """Take the unit whose turn it is."""
        member = self._queues[queue].line.take()
        if member is None:
            return None
        job_id, unit = member.split("|")
        return Claim(job_id, unit, self._start(self._jobs[job_id], unit))

    async def claim(self, job_id: str, unit: str) -> int | None:
        """Take a queued unit out of turn."""
        record = self._jobs.get(job_id)
        if record is None or unit not in record.units or record.units[unit].state != "queued":
            return None
        self._drop(record, unit)
        return self._start(record, unit)

    async def renew(self, job_id: str, unit: str, epoch: int) -> bool:
        """Say that the unit is still being worked on."""
        if self._owned(job_id, unit, epoch) is None:
            return False
        self._leases[job_id, unit] = self._clock() + self.lease_s
        return True

    async def append(
        self,
        job_id: str,
        unit: str,
        epoch: int,
        text: str,
        logprobs: tuple[TokenLogprob, ...] = (),
        *,
        piece: int | None = None,
    ) -> bool:
        """Add text to the events; a piece that comes again is there already."""
        record = self._owned(job_id, unit, epoch)
        if record is None:
            return False
        name = f"{epoch}:{piece}"
        if piece is None or record.units[unit].piece != name:
            record.units[unit].piece = record.units[unit].piece if piece is None else name
            self._tell(record, Event("delta", unit, epoch, text=text, logprobs=logprobs))
        return True

    async def finish(self, job_id: str, unit: str, epoch: int, result: UnitResult) -> bool:
        """Record how a branch ended."""
        record = self._owned(job_id, unit, epoch)
        if record is None:
            return False
        if result.error is None:
            self._learn(record.units[unit])
        return self._finish_branch(record, unit, "failed" if result.error else "completed", result)

    async def release(
        self, job_id: str, unit: str, epoch: int, why: Why, *, delay_s: float = 0.0, max_delay_s: float | None = None
    ) -> bool:
        """Give a unit back."""
        record = self._owned(job_id, unit, epoch)
        if record is None:
            return True
        now, run, times = self._clock(), record.units[unit], 1
        if why == "failure":
            run.failures += 1
            times = run.failures
            if run.failures >= self.max_attempts:
                return False
        elif why != "handed back":
            run.waits += 1
            times = run.waits
        if why == "away":
            run.away_at = now if run.away_at is None else run.away_at
            if now - run.away_at >= self._engine_patience_s:
                return False
        elif why != "handed back":
            run.away_at = None
        self._drop(record, unit)
        if delay_s > 0:
            run.state = "queued"
            longest = delay_s if max_delay_s is None else max_delay_s
            self._delayed[job_id, unit] = now + min(delay_s * 2 ** (times - 1), longest)
        else:
            self._line_up(record, unit)
        self._tell(record, Event("requeued", unit, epoch))
        return True

    async def complete(
        self, job_id: str, epoch: int, *, final: FinalAnswer | None = None, error: dict[str, Any] | None = None
    ) -> bool:
        """End a job by its merge."""
        record = self._owned(job_id, MERGE, epoch)
        if record is None:
            return False
        if final is not None:
            self._learn(record.units[MERGE])
        record.units[MERGE].state = "failed" if final is None else "completed"
        record.final, record.error = final, error
        return self._finish_job(record, end_state(final))

    async def end(self, job: Job, *, final: FinalAnswer | None = None, error: dict[str, Any] | None = None) -> bool:
        """End a job that is over its time, unless it has moved on."""
        record = self._jobs.get(job.id)
        if record is None or record.state in TERMINAL:
            return False
        if {name: unit.state for name, unit in record.units.items()} != {
            name: unit.state for name, unit in job.units.items()
        }:
            return False
        record.final, record.error = final, error
        self._finish_job(record, end_state(final))
        return True

    async def cancel(self, job_id: str) -> Job | None:
        """End a job now unless it has ended already."""
        record = self._jobs.get(job_id)
        if record is not None and record.state not in TERMINAL:
            self._finish_job(record, "cancelled")
        return await self.get(job_id)

    async def delete(self, job_id: str) -> bool:
        """Forget a job."""
        record = self._jobs.get(job_id)
        if record is None:
            return False
        for name in record.units:
            self._drop(record, name)
        self._let_go(record)
        del self._jobs[job_id]
        self._agenda.pop(job_id, None)
        return True

    async def wake(self, queue: str) -> int:
        """Put units that waited for their engine in line."""
        woken = 0
        for job_id, unit in _due(self._delayed, float("inf")):
            record = self._jobs[job_id]
            if woken < MOST_WOKEN and record.units[unit].queue == queue and record.units[unit].away_at is not None:
                self._line_up(record, unit)
                woken += 1
        return woken

    async def reap(self, down: frozenset[str] = frozenset()) -> Reaped:
        """Heal, end and forget what is due."""
        now = self._clock()
        lined_up: dict[str, int] = {}
        overdue: list[tuple[str, Cause]] = []

        def tell(queue: str) -> None:
            lined_up[queue] = lined_up.get(queue, 0) + 1

        for job_id, unit in _due(self._leases, now):
            record = self._jobs[job_id]
            self._drop(record, unit)
            record.units[unit].failures += 1
            if record.units[unit].failures < self.max_attempts:
                tell(self._line_up(record, unit))
                self._tell(record, Event("requeued", unit, record.units[unit].epoch))
            elif unit == MERGE:
                record.units[MERGE].state, record.error = "failed", LOST_MERGE
                self._finish_job(record, "failed")
            elif self._finish_branch(record, unit, "failed", lost_result(self.max_attempts)):
                tell(record.units[MERGE].queue)
        for job_id, unit in _due(self._delayed, now):
            tell(self._line_up(self._jobs[job_id], unit))
        for job_id in _due(self._agenda, now):
            record = self._jobs[job_id]
            if record.state not in TERMINAL and record.answered_at is not None and record.due_at > now:
                if self._end_rest(record, record.answered_at, down):
                    tell(record.units[MERGE].queue)
            elif record.state not in TERMINAL:
                self._agenda[job_id] = now + 1
                is_late = record.deadline_at is not None and record.deadline_at <= now
                overdue.append((job_id, "deadline" if is_late else "expired"))
            elif record.blobs and (record.completed_at or 0) + record.ttl_s > now:
                self._let_go(record)
                self._agenda[job_id] = (record.completed_at or 0) + record.ttl_s
            else:
                await self.delete(job_id)
        return Reaped(lined_up, overdue)

    async def read_events(self, job_id: str, after: str = "") -> list[Event]:
        """Return a job's events after the one with the given id."""
        record = self._jobs.get(job_id)
        return record.events[int(after or 0) :] if record else []

    # The state machine

    def _accept(self, record: _Record) -> None:
        self._hold(record)
        due = record.accepted_at + self._expires_s
        if record.spec.deadline_ms is not None:
            record.deadline_at = record.accepted_at + record.spec.deadline_ms / 1000
            due = min(due, record.deadline_at)
        record.due_at = self._agenda[record.spec.id] = due
        self._tell(record, Event("queued", state="queued"))
        for name in record.units:
            self._line_up(record, name)

    def _owned(self, job_id: str, unit: str, epoch: int) -> _Record | None:
        record = self._jobs.get(job_id)
        if record is None or unit not in record.units:
            return None
        now = record.units[unit]
        return record if now.state == "in_progress" and now.epoch == epoch else None

    def _line_up(self, record: _Record, unit: str) -> str:
        self._delayed.pop((record.spec.id, unit), None)
        record.units[unit].state = "queued"
        queue = record.units[unit].queue
        self._queues[queue].line.add(*_place_of(record, unit))
        return queue

    def _drop(self, record: _Record, unit: str) -> None:
        queue = self._queues[record.units[unit].queue]
        queue.line.discard(*_place_of(record, unit))
        self._delayed.pop((record.spec.id, unit), None)
        if self._leases.pop((record.spec.id, unit), None) is not None:
            queue.num_running -= 1

    def _start(self, record: _Record, name: str) -> int:
        unit, now = record.units[name], self._clock()
        unit.epoch += 1
        unit.state, unit.began_at = "in_progress", now
        self._leases[record.spec.id, name] = now + self.lease_s
        self._queues[unit.queue].num_running += 1
        if record.state == "queued":
            record.state, record.started_at = "in_progress", now
        self._tell(record, Event("started", name, unit.epoch))
        return unit.epoch

    def _learn(self, unit: _Unit) -> None:
        queue = self._queues[unit.queue]
        queue.service_s = _averaged(queue.service_s, self._clock() - (unit.began_at or 0.0))
        queue.parallel = _averaged(queue.parallel, queue.num_running)

    def _finish_branch(self, record: _Record, unit: str, state: UnitState, result: UnitResult) -> bool:
        record.units[unit].state, record.units[unit].result = state, result
        self._drop(record, unit)
        self._tell(record, Event("finished", unit, record.units[unit].epoch, state=state))
        if any(branch.state not in TERMINAL for branch in record.branches):
            has_answer = all(branch.state == "completed" for branch in record.branches if branch.patience_s == "")
            if has_answer and record.answered_at is None:
                record.answered_at = self._clock()
                if self._end_rest(record, record.answered_at, frozenset()):
                    return True
                self._agenda[record.spec.id] = record.answered_at
            return False
        queue = record.spec.merge_queue_after({name: unit.state for name, unit in record.units.items()})
        record.units[MERGE] = _Unit(queue, epoch=record.merge_epoch)
        self._line_up(record, MERGE)
        return True

    def _end_rest(self, record: _Record, answered_at: float, down: frozenset[str]) -> bool:
        """End the branches whose patience is over; True if the merge is due."""
        now, next_at, is_merge_due = self._clock(), record.due_at, False
        for name, unit in list(record.units.items()):
            if unit.state in TERMINAL or name == MERGE:
                continue
            till = self._awaited_until(record, name, answered_at, down)
            if till <= now:
                is_merge_due |= self._finish_branch(record, name, "failed", NOT_AWAITED)
            else:
                next_at = min(next_at, till, now + LOOK_S)
        self._agenda[record.spec.id] = next_at
        return is_merge_due

    def _awaited_until(self, record: _Record, name: str, answered_at: float, down: frozenset[str]) -> float:
        """Say until when a job that has its answer waits for a branch."""
        unit = record.units[name]
        patience_s = float(unit.patience_s)
        if unit.queue in down:
            patience_s = min(patience_s, self._grace_s)
        till = answered_at + patience_s
        if unit.state != "in_progress":
            return answered_at if self._delayed.get((record.spec.id, name), till) > till else till
        is_quiet = not unit.piece.startswith(f"{unit.epoch}:")
        if is_quiet and patience_s <= self._grace_s:
            return min(till, max(answered_at, (unit.began_at or 0.0) + self._grace_s / 2))
        return till

    def _finish_job(self, record: _Record, state: JobState) -> bool:
        record.state, record.completed_at = state, self._clock()
        for name, unit in record.units.items():
            self._drop(record, name)
            if unit.state not in TERMINAL:
                unit.state = "cancelled"
        self._tell(record, Event("end", state=state))
        self._retain(record)
        return record.spec.webhook_url is not None

    def _retain(self, record: _Record) -> None:
        first = min(self._blob_ttl_s, record.ttl_s) if record.blobs else record.ttl_s
        self._agenda[record.spec.id] = self._clock() + first

    def _standing(self, record: _Record, name: str) -> Standing:
        unit = record.units[name]
        queue = self._queues[unit.queue]
        if unit.state == "queued":
            return Standing(queue.line.ahead_of(*_place_of(record, name)), 0.0, queue.pace)
        return Standing(None, self._clock() - (unit.began_at or 0.0), queue.pace)

    def _tell(self, record: _Record, event: Event) -> None:
        record.events.append(replace(event, id=str(len(record.events) + 1)))

    # Pictures

    def _blob(self, sha256: str) -> _Blob | None:
        blob = self._blobs.get(sha256)
        if blob is not None and not blob.holders and blob.until <= self._clock():
            del self._blobs[sha256]
            return None
        return blob

    def _make_room(self, spec: JobSpec, images: tuple[ImagePart, ...]) -> bool:
        """Let go of the pictures of ended jobs until these fit; False if they do not."""
        sizes = {image.sha256: len(image.data) for image in images}
        wanted = dict.fromkeys(stored_image_hashes(spec.messages))
        sizes |= {sha256: len(blob.data) for sha256 in wanted if (blob := self._blob(sha256)) is not None}
        while True:
            mine = [record for record in self._jobs.values() if record.spec.owner == spec.owner and record.blobs]
            held = {
                sha256: len(blob.data)
                for record in mine
                for sha256 in record.blobs
                if (blob := self._blobs.get(sha256)) is not None and record.spec.id in blob.holders
            }
            held |= {sha256: sizes[sha256] for sha256 in wanted if sha256 in sizes}
            if not wanted or sum(held.values()) <= self._max_picture_bytes:
                return True
            ended = [record for record in mine if record.state in TERMINAL]
            if not ended:
                return False
            oldest = min(ended, key=lambda record: (record.completed_at or 0, record.spec.id))
            self._let_go(oldest)
            self._agenda[oldest.spec.id] = (oldest.completed_at or 0) + oldest.ttl_s

    def _hold(self, record: _Record) -> None:
        record.blobs = tuple(dict.fromkeys(stored_image_hashes(record.spec.messages)))
        for sha256 in record.blobs:
            if (blob := self._blob(sha256)) is not None:
                blob.holders.add(record.spec.id)

    def _let_go(self, record: _Record) -> None:
        for sha256 in record.blobs:
            if (blob := self._blob(sha256)) is not None and record.spec.id in blob.holders:
                blob.holders.remove(record.spec.id)
                if not blob.holders:
                    del self._blobs[sha256]
        record.blobs = ()

    def _ttl_s(self, spec: JobSpec) -> int:
        ttl_s = max(self._job_ttl_s if spec.is_stored else min(UNSTORED_TTL_S, self._job_ttl_s), spec.keep_s)
        return ttl_s if spec.retention_s is None else min(ttl_s, spec.retention_s)


def _place_of(record: _Record, unit: str) -> tuple[Any, str, float, str]:
    return record.spec.priority, record.spec.owner, record.accepted_at, f"{record.spec.id}|{unit}"


def _due(times: dict[Key, float], now: float) -> list[Key]:
    due = sorted((at, str(key), key) for key, at in times.items() if at <= now)
    return [key for _at, _name, key in due]


def _averaged(old: float | None, sample: float) -> float:
    """Take one more sample into a moving average; written down with six digits."""
    value = sample if old is None else old + PACE_WEIGHT * (sample - old)
    return float(f"{value:.6f}")

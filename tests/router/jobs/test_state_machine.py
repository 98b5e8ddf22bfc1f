"""The job store in redis and the one in memory are driven with the same steps, and must never differ.

Steps are what api processes, workers, callers and the reaper do in any order, with messages lost and doubled, workers
that go silent and write late, and a clock that jumps. ``GLOWL_TEST_WHOLE=1`` drives them twice as far, and
``HYPOTHESIS_PROFILE=long`` for minutes.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from redis.asyncio import Redis

from engines.base import ImagePart, TokenLogprob
from router.answers import merge
from router.errors import QueueFullError
from router.jobs.job import MERGE, TERMINAL, BranchPlan, Claim, Event, Job, Why
from router.jobs.pictures import BLOB_GRACE_S
from router.jobs.results import FinalAnswer, UnitResult
from router.jobs.rows import Reaped
from router.jobs.schedule import QUEUES
from router.jobs.store import JobStore
from router.redis import PREFIX
from router.work.overdue import settle
from tests.model.memory_store import MemoryJobStore
from tests.model.record import Record
from tests.support.clock import Clock
from tests.support.jobs import make_spec
from tests.support.whole import IS_WHOLE

IS_LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
PROFILE = settings(
    max_examples=2000 if IS_LONG else 100 if IS_WHOLE else 50,
    stateful_step_count=120 if IS_LONG else 60,
    derandomize=not IS_LONG,
    deadline=None,
    database=None,
    # Without making a failure smaller, which takes minutes: the steps to it are printed, and few enough to read.
    phases=[Phase.generate, Phase.shrink] if IS_LONG else [Phase.generate],
    suppress_health_check=list(HealthCheck),
)
LIMITS: dict[str, Any] = {
    "lease_s": 5.0,
    "max_attempts": 2,
    "job_ttl_s": 1000,
    "blob_ttl_s": 300,
    "max_picture_bytes": 2 * 9,  # of three pictures of 9 bytes
    "expires_s": 700,
    "max_unfinished": 2,
    "merge_patience_s": 12.0,
    "engine_patience_s": 60.0,
}
PAIR = (BranchPlan("draft", "glm"), BranchPlan("deep", "owl2"))
SHAPES = (PAIR, (BranchPlan("deep", "owl2"),), (BranchPlan("fast", "glm"),))
PICTURES = tuple(ImagePart(bytes([65 + i]) * 9, "image/png", f"{i}" * 64) for i in range(3))
REFUSED = {"code": "engine_failed", "message": "no", "param": None, "status": 500, "retryable": False}

Result = TypeVar("Result")


class Drive(RuleBasedStateMachine):
    """Everything that happens to a few jobs."""

    url: str

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = Clock()
        self.redis = Redis.from_url(self.url)
        self.run(self.redis.flushdb())
        self.store = JobStore(self.redis, **LIMITS, clock=self.clock)
        self.memory = MemoryJobStore(self.clock, **LIMITS)
        self.ids: list[str] = []
        self.deleted: set[str] = set()
        self.gone: set[str] = set()
        self.claims: list[Claim] = []
        self.tickets: Counter[str] = Counter()
        self.ends: dict[str, Job] = {}
        self.seen: dict[str, Job] = {}
        self.num_completed: Counter[str] = Counter()
        self.num_announced = 0
        self.down: frozenset[str] = frozenset()

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def both(self, step: Callable[[Record], Awaitable[Result]]) -> Result:
        """Do the same to both; they must answer the same."""

        async def try_both() -> list[Any]:
            outcomes: list[Any] = []
            for store in (self.store, self.memory):
                try:
                    outcomes.append(await step(store))
                except QueueFullError as error:
                    outcomes.append(error.code)
            return outcomes

        outcomes = self.run(try_both())
        assert outcomes[0] == outcomes[1]
        return outcomes[0]  # type: ignore[no-any-return]

    # The api

    @precondition(lambda self: len(self.seen) - len(self.ends) < 6)
    @rule(
        owner=st.sampled_from("abc"),
        priority=st.sampled_from(["interactive", "normal", "normal", "batch"]),
        branches=st.sampled_from(SHAPES),
        deadline_ms=st.sampled_from([None, None, 4000, 60_000]),
        pictures=st.sets(st.sampled_from(range(3)), max_size=2),
        is_stored=st.booleans(),
        strategy=st.sampled_from(["deep", "compose"]),
    )
    def create(self, pictures: set[int], **fields: Any) -> None:
        parts = [{"type": "text", "text": "?"}]
        parts += [{"type": "image", "sha256": PICTURES[i].sha256, "media_type": "image/png"} for i in sorted(pictures)]
        job_id = f"resp_{len(self.ids):04d}"
        messages = [{"role": "user", "parts": parts}]
        spec = make_spec(id=job_id, messages=messages, webhook_url="https://example.com/hook", **fields)
        images = [PICTURES[i] for i in sorted(pictures)]
        if self.both(lambda store: store.create(spec, images)) in ("queue_full", "too_many_picture_bytes"):
            return
        self.ids.append(job_id)
        self.tickets.update("owl2" if branch.engine == "owl2" else "glm" for branch in spec.branches)

    @precondition(lambda self: self.live)
    @rule(data=st.data(), wish=st.sampled_from(["cancel", "cancel", "delete", "create again"]))
    def ask(self, data: st.DataObject, wish: str) -> None:
        job_id = data.draw(st.sampled_from(self.live))
        if wish == "cancel":
            job = self.both(lambda store: store.cancel(job_id))
            assert job is None or job.is_terminal
        elif wish == "delete":
            self.both(lambda store: store.delete(job_id))
            self.deleted.add(job_id)
        else:
            spec = self.seen[job_id].spec
            if self.run(self.store.get(job_id)) is not None:
                self.both(lambda store: store.create(spec))

    @precondition(lambda self: self.ends)
    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        job = self.ends[data.draw(st.sampled_from(sorted(self.ends)))]
        pictures = [PICTURES[int(part["sha256"][0])] for part in job.spec.messages[0]["parts"][1:]]
        self.both(lambda store: store.put_images(pictures))  # as whoever retries has seen that they are there
        if self.both(lambda store: store.retry(job)) == "failed":
            assert job.state == "failed"
            self.num_completed[job.id] = 0
            del self.ends[job.id]
            self.tickets.update("owl2" if branch.engine == "owl2" else "glm" for branch in job.spec.branches)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def poll(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(self.live))

        async def look(store: Record) -> Job | None:
            job = await store.get(job_id)
            return job and await store.locate(job)

        job = self.both(look)
        assert job is None or (job.place is None) == job.is_terminal

    # The workers

    @precondition(lambda self: +self.tickets)
    @rule(data=st.data())
    def work(self, data: st.DataObject) -> None:
        self.take_by_ticket(data.draw(st.sampled_from(sorted(+self.tickets))))

    @precondition(lambda self: +self.tickets)
    @rule(data=st.data(), is_good=st.sampled_from([True, True, False]))
    def work_to_the_end(self, data: st.DataObject, is_good: bool) -> None:
        claim = self.take_by_ticket(data.draw(st.sampled_from(sorted(+self.tickets))))
        if claim is not None:
            self.finish(claim, is_good)

    @rule(queue=st.sampled_from(QUEUES), is_lost=st.booleans())
    def a_message_is_lost_or_comes_twice(self, queue: str, is_lost: bool) -> None:
        if is_lost:
            self.tickets[queue] = max(self.tickets[queue] - 1, 0)
        else:
            self.take(queue)

    @precondition(lambda self: self.live)
    @rule(data=st.data(), unit=st.sampled_from(["draft", "deep", "fast", MERGE]))
    def claim_out_of_turn(self, data: st.DataObject, unit: str) -> None:
        job_id = data.draw(st.sampled_from(self.live))
        epoch = self.both(lambda store: store.claim(job_id, unit))
        if epoch is not None:
            self.claims.append(Claim(job_id, unit, epoch))

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), piece=st.sampled_from([None, 0, 0, 1]))
    def append(self, data: st.DataObject, piece: int | None) -> None:
        claim = self.draw_claim(data)
        is_mine = self.is_current(claim)
        tokens = (TokenLogprob("猫", -0.5, "猫".encode()),)
        where = (claim.job_id, claim.unit, claim.epoch)
        for _ in range(2):  # the answer to the first time was lost
            wrote = self.both(lambda store: store.append(*where, "猫", tokens, piece=piece))
            assert wrote == is_mine

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        claim = self.draw_claim(data)
        is_mine = self.is_current(claim)
        assert self.both(lambda store: store.renew(claim.job_id, claim.unit, claim.epoch)) == is_mine

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), is_good=st.sampled_from([True, True, False]))
    def finish_some(self, data: st.DataObject, is_good: bool) -> None:
        self.finish(self.draw_claim(data), is_good)

    @precondition(lambda self: self.claims)
    @rule(
        data=st.data(),
        delay_s=st.sampled_from([0.0, 2.0]),
        why=st.sampled_from(["failure", "full", "away", "away", "handed back"]),
    )
    def release(self, data: st.DataObject, delay_s: float, why: Why) -> None:
        claim = self.draw_claim(data)
        where = (claim.job_id, claim.unit, claim.epoch)
        self.both(lambda store: store.release(*where, why, delay_s=delay_s, max_delay_s=3 * delay_s))

    @rule(queue=st.sampled_from(QUEUES))
    def an_engine_comes_back(self, queue: str) -> None:
        self.tickets[queue] += self.both(lambda store: store.wake(queue))

    # The reaper

    @rule(seconds=st.sampled_from([0.5, 2.5, 6.0, 6.0, 6.0, 65.0, 400.0]), is_told_late=st.booleans())
    def time_passes(self, seconds: float, is_told_late: bool) -> None:
        self.clock.now += seconds
        self.reap(is_told_late)

    @rule(down=st.sampled_from([frozenset(), frozenset({"glm"}), frozenset({"glm", "owl2"})]))
    def health_changes(self, down: frozenset[str]) -> None:
        self.down = down

    @precondition(lambda self: self.seen)
    @rule(data=st.data())
    def end_by_what_was_read_long_ago(self, data: st.DataObject) -> None:
        job = self.seen[data.draw(st.sampled_from(sorted(self.seen)))]
        self.both(lambda store: store.end(job, error=REFUSED))

    @rule()
    def replace_lost_tickets(self) -> None:
        for queue, depth in self.both(lambda store: store.depths()).items():
            self.tickets[queue] = max(self.tickets[queue], depth)

    # What always holds

    @invariant()
    def both_tell_the_same(self) -> None:
        there = [job_id for job_id in self.ids if job_id not in self.gone]
        for job_id, (job, events) in zip(there, self.both(lambda store: _tell(store, there)), strict=True):
            if job is None:
                assert events == []
                self.gone.add(job_id)
                continue
            self.seen.setdefault(job_id, job)
            if job.is_terminal and job_id not in self.ends:
                self.num_announced += 1
            # A job that has ended never changes, whoever writes.
            assert job == self.ends.get(job_id, job)
            if job.is_terminal:
                self.ends[job_id] = job
                assert {unit.state for unit in job.units.values()} <= TERMINAL
                assert job.state != "cancelled" or (job.final is None and job.error is None)
                assert job.state in ("cancelled", "completed") or job.error is not None
            _check_story(job, events)

    @invariant()
    def pictures_of_unfinished_jobs_are_there(self) -> None:
        needed = {
            part["sha256"]
            for job_id in self.ids
            if job_id not in self.ends and job_id not in self.deleted and job_id in self.seen
            for part in self.seen[job_id].spec.messages[0]["parts"][1:]
        }
        assert self.both(lambda store: store.get_images(sorted(needed))).keys() == needed

    @invariant()
    def the_sets_hold_what_the_records_say(self) -> None:
        self.run(self.check_sets())

    async def check_sets(self) -> None:
        jobs = [job for job_id in self.ids if (job := await self.memory.get(job_id)) is not None]
        running = {
            f"{job.id}|{unit.name}" for job in jobs for unit in job.units.values() if unit.state == "in_progress"
        }
        queued = {f"{job.id}|{unit.name}" for job in jobs for unit in job.units.values() if unit.state == "queued"}
        names = [key.decode().removeprefix(PREFIX) for key in await self.redis.keys(f"{PREFIX}*")]
        names = [name for name in names if name.partition(":")[0] in ("line", "turns", "leases", "delayed", "agenda")]
        pipeline = self.redis.pipeline(transaction=False)
        for name in names:
            pipeline.zrange(f"{PREFIX}{name}", 0, -1)
        *found, counts, unfinished, num_deliveries = await (
            pipeline.hgetall(f"{PREFIX}queues").hgetall(f"{PREFIX}unfinished").zcard(f"{PREFIX}deliveries").execute()
        )
        zsets = {name: [each.decode() for each in members] for name, members in zip(names, found, strict=True)}
        lines = {name: members for name, members in zsets.items() if name.startswith("line:")}
        waiting = [member for members in (*lines.values(), zsets.get("delayed", [])) for member in members]
        assert sorted(waiting) == sorted(queued)
        assert set(zsets.get("leases", ())) == running
        assert set(zsets.get("agenda", ())) == {job.id for job in jobs}
        turns = {f"{name}:{owner}" for name, owners in zsets.items() if name.startswith("turns:") for owner in owners}
        assert turns == {name.replace("line:", "turns:") for name in lines}
        assert sum(int(value) for name, value in counts.items() if name.startswith(b"depth:")) == sum(
            map(len, lines.values())
        )
        assert sum(int(value) for name, value in counts.items() if name.startswith(b"running:")) == len(running)
        assert sum(map(int, unfinished.values())) == sum(not job.is_terminal for job in jobs)
        assert num_deliveries == self.num_announced

    def reap(self, is_told_late: bool) -> None:
        found: Reaped = self.both(lambda store: store.reap(self.down))
        self.tickets.update(found.lined_up)
        for job_id, cause in found.overdue:
            job = self.both(lambda store, job_id=job_id: store.get(job_id))  # type: ignore[misc]
            assert job is not None
            if is_told_late:  # something may happen to the job between its being read and its end
                self.take("glm")
            outcome = settle(job, cause)
            fields: dict[str, Any] = (
                {"error": outcome.error} if isinstance(outcome, merge.NoAnswer) else {"final": outcome}
            )
            self.both(lambda store, job=job, fields=fields: store.end(job, **fields))  # type: ignore[misc]

    def teardown(self) -> None:
        """With workers and time, every job ends; with more time, nothing is left of any."""
        for _ in range(40):
            self.reap(is_told_late=False)
            self.replace_lost_tickets()
            for queue in QUEUES:
                while self.tickets[queue]:
                    claim = self.take_by_ticket(queue)
                    if claim is not None:
                        self.finish(claim, is_good=True)
            self.clock.now += 1.0
            if all(job_id in self.ends or job_id in self.deleted for job_id in self.ids):
                break
            self.both_tell_the_same()
        left = [job for job_id in self.ids if (job := self.run(self.store.get(job_id))) is not None]
        assert all(job.is_terminal for job in left)
        assert all(number <= 1 for number in self.num_completed.values())
        self.the_sets_hold_what_the_records_say()
        for _ in range(2):
            self.clock.now += 1001
            self.reap(is_told_late=False)
        assert [self.run(self.store.get(job_id)) for job_id in self.ids] == [None] * len(self.ids)
        kinds = ("job", "events", "line", "turns", "leases", "delayed", "agenda", "unfinished", "holders")
        assert [key for kind in kinds for key in self.run(self.redis.keys(f"{PREFIX}{kind}*"))] == []
        # What is left of pictures was put for jobs that never came, and goes by itself.
        blobs = self.run(self.redis.keys(f"{PREFIX}blob:*"))
        assert all(0 < self.run(self.redis.ttl(key)) <= BLOB_GRACE_S for key in blobs)
        self.run(self.redis.aclose())
        self.loop.close()

    def take(self, queue: str) -> Claim | None:
        claim: Claim | None = self.both(lambda store: store.take_next(queue))
        if claim is not None:
            assert claim.epoch > max(
                (old.epoch for old in self.claims if (old.job_id, old.unit) == (claim.job_id, claim.unit)), default=0
            )
            self.claims.append(claim)
        return claim

    def take_by_ticket(self, queue: str) -> Claim | None:
        self.tickets[queue] -= 1
        return self.take(queue)

    def finish(self, claim: Claim, is_good: bool) -> None:
        is_mine = self.is_current(claim)
        if claim.unit == MERGE:
            final = FinalAnswer("t", "m", "owl2", "deep") if is_good else None
            error = None if is_good else REFUSED
            is_told = self.both(lambda store: store.complete(claim.job_id, claim.epoch, final=final, error=error))
            assert is_mine or not is_told
            self.num_completed[claim.job_id] += is_mine
            return
        result = UnitResult(text="t", model="m") if is_good else UnitResult(error=REFUSED)
        is_last = self.both(lambda store: store.finish(claim.job_id, claim.unit, claim.epoch, result))
        assert is_mine or not is_last
        if is_last:
            job = self.run(self.memory.get(claim.job_id))
            assert job is not None
            self.tickets[job.queue_of(MERGE)] += 1

    def draw_claim(self, data: st.DataObject) -> Claim:
        """One of the newest claims, or any, which is stale by now."""
        return self.claims[-1 - data.draw(st.integers(0, min(len(self.claims) - 1, 30)))]

    @property
    def live(self) -> list[str]:
        """Jobs that something can still happen to, and the last that were deleted."""
        return [job_id for job_id in self.ids if job_id not in self.deleted] + sorted(self.deleted)[-1:]

    def is_current(self, claim: Claim) -> bool:
        job = self.run(self.store.get(claim.job_id))
        unit = job and job.units.get(claim.unit)
        return bool(unit and unit.state == "in_progress" and unit.epoch == claim.epoch)


async def _tell(store: Record, ids: list[str]) -> list[tuple[Job | None, list[Event]]]:
    """What both must agree on; only the ids of events are their own."""
    jobs = [await store.get(job_id) for job_id in ids]
    stories = [[replace(event, id="") for event in await store.read_events(job_id)] for job_id in ids]
    return list(zip(jobs, stories, strict=True))


def _check_story(job: Job, events: list[Event]) -> None:
    assert events[0].kind == "queued"
    ends = [index for index, event in enumerate(events) if event.kind == "end"]
    assert ends == ([len(events) - 1] if job.is_terminal else [])
    current: dict[str, int] = {}
    for event in events:
        if event.kind == "started":
            assert event.epoch > current.get(event.unit, 0)
            current[event.unit] = event.epoch
        elif event.unit:
            assert event.epoch == current.get(event.unit, 0)  # one that never began may end with the job's answer there
    finished = [event.unit for event in events if event.kind == "finished"]
    assert len(finished) == len(set(finished))
    merges = [event for event in events if event.kind == "started" and event.unit == MERGE]
    assert not merges or set(finished) == {branch.name for branch in job.spec.branches}


def test_both_stores_are_the_same_state_machine(redis_url: str) -> None:
    machine = type("Machine", (Drive,), {"url": redis_url})
    run_state_machine_as_test(machine, settings=PROFILE)

"""The reaper: jobs over their time end with what there is, and work without a ticket gets one."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from redis.asyncio import Redis

from router.answers import merge
from router.answers.merge import NoAnswer
from router.errors import QueueUnavailableError
from router.jobs.job import BranchPlan, Job, Unit
from router.jobs.queue import JobQueue, create_celery
from router.jobs.results import FinalAnswer, UnitResult
from router.jobs.rows import Reaped
from router.jobs.store import JobStore
from router.leftovers import end_tasks
from router.redis import PREFIX
from router.settings import Settings
from router.work.overdue import settle
from router.work.reaper import reap_forever, reap_once, replace_lost_tickets, wake
from tests.support.clock import Clock
from tests.support.jobs import make_spec


class Queue:
    """Keeps what was sent, and says how much of it nobody took."""

    def __init__(self) -> None:
        self.sent: Counter[str] = Counter()

    async def send_tickets(self, numbers: Mapping[str, int]) -> None:
        self.sent.update(numbers)

    async def num_waiting(self, queue: str) -> int:
        return self.sent[queue]


@pytest.fixture
async def store(redis_url: str, clock: Clock) -> AsyncIterator[JobStore]:
    redis = Redis.from_url(redis_url)
    yield JobStore(redis, clock=clock)
    await redis.aclose()


async def finish(store: JobStore, job_id: str, unit: str, **result: Any) -> None:
    epoch = await store.claim(job_id, unit)
    assert epoch
    await store.finish(job_id, unit, epoch, UnitResult(**result))


async def overdue(store: JobStore, clock: Clock, queue: Queue | None = None) -> Job:
    """Let the deadline of the one job pass; returns it as the reaper left it."""
    clock.now += 3
    await reap_once(store, cast("JobQueue", queue or Queue()))
    job = await store.get("late")
    assert job is not None
    assert job.is_terminal
    assert [event.kind for event in await store.read_events("late")][-1] == "end"
    return job


async def test_a_draft_is_the_answer_when_the_deadline_passes_and_says_what_is_missing(
    store: JobStore,
    clock: Clock,
) -> None:
    await store.create(make_spec(id="late", deadline_ms=2500, webhook_url="https://example.com/hook"))
    await finish(store, "late", "draft", text="a cat", model="m")
    epoch = await store.claim("late", "deep")
    assert epoch

    job = await overdue(store, clock)

    assert job.state == "completed"
    assert job.final is not None
    assert (job.final.text, job.final.engine) == ("a cat", "glm")
    assert job.final.degraded == ("owl2 gave no answer (deadline_exceeded): the deadline of 2500 ms passed",)
    # The run that goes on is told so, its word counts no more, and whoever wanted to know is told.
    assert await store.renew("late", "deep", epoch) is False
    assert await store.finish("late", "deep", epoch, UnitResult(text="late")) is False
    assert await store.redis.zcard(f"{PREFIX}deliveries") == 1


async def test_without_any_answer_the_deadline_is_the_error(store: JobStore, clock: Clock) -> None:
    await store.create(make_spec(id="late", deadline_ms=2500))

    job = await overdue(store, clock)

    assert (job.state, job.final) == ("failed", None)
    assert job.error is not None
    assert (job.error["code"], job.error["param"], job.error["status"]) == (
        "deadline_exceeded",
        "hybrid.deadline_ms",
        504,
    )


async def test_a_job_whose_engine_never_comes_fails_with_a_reason_after_a_day(
    store: JobStore,
    clock: Clock,
) -> None:
    await store.create(make_spec(id="late"))
    clock.now += 24 * 3600

    job = await overdue(store, clock)

    assert job.error is not None
    assert (job.state, job.error["code"]) == ("failed", "job_expired")


@pytest.mark.parametrize("strategy", ["deep", "compose"])
def test_a_merge_that_comes_too_late_leaves_the_deep_answer(strategy: str) -> None:
    spec = make_spec(strategy=strategy, deadline_ms=9)
    units = {
        name: replace(unit, state="completed", result=UnitResult(text=name, model="m"))
        for name, unit in _new(spec).units.items()
    }

    final = settle(replace(_new(spec), units=units), "deadline")

    assert isinstance(final, FinalAnswer)
    assert final.text == "deep"
    assert len(final.degraded) == (strategy == "compose")


def test_a_branch_that_failed_by_itself_keeps_its_own_reason() -> None:
    error = {"code": "invalid_image", "message": "no picture", "param": None, "status": 400, "retryable": False}
    job = _new(make_spec(deadline_ms=9))
    units = {**job.units, "deep": replace(job.units["deep"], state="failed", result=UnitResult(error=error))}

    outcome = settle(replace(job, units=units), "deadline")

    assert isinstance(outcome, NoAnswer)
    assert outcome.error == error


def _new(spec: Any) -> Job:
    return Job(spec, "in_progress", {branch.name: Unit(branch.name, "in_progress", 1) for branch in spec.branches})


async def test_what_lost_its_worker_gets_a_ticket(store: JobStore, clock: Clock) -> None:
    await store.create(make_spec(id="job"))
    await store.claim("job", "deep")
    queue = Queue()

    clock.now += 5.1
    await reap_once(store, cast("JobQueue", queue))

    assert queue.sent == {"owl2": 1}


async def test_what_waited_for_an_engine_that_is_back_gets_tickets(store: JobStore) -> None:
    for name in ("a", "b"):
        await store.create(make_spec(id=name))
        epoch = await store.claim(name, "deep")
        assert epoch
        await store.release(name, "deep", epoch, "away", delay_s=30)
    queue = Queue()

    for engine in ("glm", "owl2", "owl2"):
        await wake(store, cast("JobQueue", queue), engine)

    assert queue.sent == {"owl2": 2}


async def test_a_job_with_its_answer_does_not_wait_for_an_engine_that_is_down(store: JobStore, clock: Clock) -> None:
    spec = make_spec(strategy="compose")
    await store.create(spec)
    await finish(store, spec.id, "deep", text="t")
    queue = Queue()

    clock.now += 2.1
    await reap_once(store, cast("JobQueue", queue), lambda: frozenset({"glm"}))

    assert queue.sent == {"light": 1}  # with no draft there is nothing to compose


async def test_a_bug_in_the_merge_does_not_keep_a_job_from_ending(
    store: JobStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resolve(*_: Any) -> Any:
        raise TypeError("a bug")

    monkeypatch.setattr(merge, "resolve", resolve)
    await store.create(make_spec(id="late", deadline_ms=2500))
    await finish(store, "late", "draft", text="a cat", model="m")

    job = await overdue(store, clock)

    assert job.final is not None
    assert job.final.text == "a cat"


async def test_one_bad_record_keeps_no_other_from_being_ended(
    store: JobStore,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await store.create(make_spec(id="bad", deadline_ms=2000))
    await store.create(make_spec(id="late", deadline_ms=2500))
    await store.redis.hset(f"{PREFIX}job:bad", "spec", b"{")

    job = await overdue(store, clock)

    assert job.state == "failed"
    assert "could not end bad" in caplog.text


async def test_lost_tickets_are_replaced_and_not_doubled(store: JobStore) -> None:
    queue = Queue()
    for _ in range(5):
        await store.create(make_spec(branches=(BranchPlan("deep", "owl2"),)))
    queue.sent["owl2"] = 2

    assert await replace_lost_tickets(store, cast("JobQueue", queue)) == {"owl2": 3}
    assert await replace_lost_tickets(store, cast("JobQueue", queue)) == {}


async def test_of_many_reapers_one_does_the_round(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds: list[str] = []

    async def reap(_down: frozenset[str]) -> Reaped:
        rounds.append("reap")
        return Reaped()

    async def depths() -> dict[str, int]:
        rounds.append("tickets")
        return {}

    monkeypatch.setattr(store, "reap", reap)
    monkeypatch.setattr(store, "depths", depths)

    async def num_looks() -> int:
        stats: dict[str, Any] = await store.redis.info("commandstats")
        return int(stats.get("cmdstat_set", {}).get("calls", 0))

    # Given five api processes, all of which have looked whether it is their turn
    before = await num_looks()
    reapers = [asyncio.create_task(_reap_forever(store, interval_s=3600)) for _ in range(5)]
    async with asyncio.timeout(300):
        # Who has won has still to read redis' answer when the last look was counted.
        while await num_looks() < before + 10 or len(rounds) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    assert sorted(rounds) == ["reap", "tickets"]
    for reaper in reapers:
        reaper.cancel()
    ends = await asyncio.gather(*reapers, return_exceptions=True)
    assert [type(each) for each in ends] == [asyncio.CancelledError] * 5


async def test_deadlines_do_not_wait_for_a_broker_that_hangs(store: JobStore, clock: Clock) -> None:
    hangs = asyncio.Event()

    class Hanging(Queue):
        async def num_waiting(self, queue: str) -> int:
            hangs.set()
            await asyncio.Event().wait()
            return 0

    await store.create(make_spec(id="late", deadline_ms=2500))
    reaper = asyncio.create_task(_reap_forever(store, Hanging(), interval_s=0.01))
    await hangs.wait()

    clock.now += 3

    async with asyncio.timeout(300):
        while not ((job := await store.get("late")) and job.is_terminal):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await end_tasks(reaper)


def _reap_forever(store: JobStore, queue: Queue | None = None, *, interval_s: float) -> Coroutine[Any, Any, None]:
    return reap_forever(store, cast("JobQueue", queue or Queue()), interval_s=interval_s, ticket_check_s=3600)


async def test_who_counts_tickets_learns_soon_that_redis_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = JobQueue(create_celery(Settings(REDIS_URL=f"unix://{tmp_path}/none?db=0")))
    pauses_s: list[float] = []
    monkeypatch.setattr("kombu.utils.functional.sleep", pauses_s.append)

    with pytest.raises(QueueUnavailableError):
        await queue.num_waiting("glm")

    # Left to itself, the broker's client pauses for six seconds between its tries.
    assert 0 < sum(pauses_s) < 1


async def test_tickets_that_nobody_has_taken_are_counted_in_the_broker(redis_url: str) -> None:
    queue = JobQueue(create_celery(Settings(REDIS_URL=redis_url)))

    assert await queue.num_waiting("glm") == 0
    await queue.send_tickets({"glm": 2, "owl2": 1})

    assert [await queue.num_waiting(name) for name in ("glm", "owl2", "light")] == [2, 1, 0]


@pytest.mark.parametrize(
    "error", [AttributeError("'NoneType' object has no attribute 'client'"), ConnectionError("reset"), OSError("gone")]
)
async def test_a_ticket_that_the_brokers_client_could_not_send_is_no_error_of_the_job(
    redis_url: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a client that lost its connection between two commands, in whichever words it says so
    celery = create_celery(Settings(REDIS_URL=redis_url))

    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(celery, "send_task", fail)
    monkeypatch.setattr(celery, "connection_for_read", fail)
    queue = JobQueue(celery)

    await queue.send_tickets({"glm": 2})
    with pytest.raises(QueueUnavailableError):
        await queue.num_waiting("glm")

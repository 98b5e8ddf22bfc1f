"""A unit's run from outside: cancelled, handed back, or without redis for a moment. The record is a real redis."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, cast

import pytest
from redis.asyncio import Redis

from engines.base import Delta, EngineUnavailableError, GenerationRequest
from engines.echo import EchoEngine
from engines.http.app import create_app as create_engine_app
from engines.http.client import EngineClient
from router.api.stream import to_response_events
from router.errors import QueueUnavailableError
from router.jobs.cancels import CancelWatch
from router.jobs.events import EventHub
from router.jobs.job import BranchPlan, JobSpec
from router.jobs.results import UnitResult
from router.jobs.store import JobStore
from router.work import lease, transcript
from router.work.branch import run_branch
from router.work.context import Context
from router.work.join import join
from router.work.ticket import work
from tests.router.work.test_branch import Queue, context_of
from tests.support.jobs import make_spec
from tests.support.servers import AppServer, wait_until

WORDS = [f"{number} " for number in range(50)]
ALONE: dict[str, Any] = {"branches": (BranchPlan("deep", "owl2"),), "strategy": "single"}


class Stepper(EchoEngine):
    """Decodes a step whenever it may, and counts them.

    Args:
        says: a word per step; empty ones are thoughts that nobody hears.
    """

    def __init__(self, says: list[str]) -> None:
        super().__init__("owl2")
        self._says = says
        self.num_allowed = 0
        self.num_steps = 0
        self.changed = asyncio.Event()

    def allow(self, number: int) -> None:
        self.num_allowed += number

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        self.num_running += 1
        try:
            for word in self._says:
                while self.num_steps >= self.num_allowed:  # noqa: ASYNC110 - allowed from other threads' loops too
                    await asyncio.sleep(0.001)
                self.num_steps += 1
                self.changed.set()
                yield Delta(text=word)
            yield Delta(finish_reason="stop")
        finally:
            self.num_running -= 1

    async def until(self, num_steps: int) -> None:
        while self.num_steps < num_steps:
            self.changed.clear()
            await self.changed.wait()


@pytest.fixture
async def store(redis: Redis) -> JobStore:
    return JobStore(redis, lease_s=30, max_attempts=1)


@contextlib.asynccontextmanager
async def served(engine: EchoEngine, folder: Any) -> AsyncIterator[EngineClient]:
    """The engine behind its HTTP server, as a worker sees it."""
    server = AppServer(create_engine_app(engine), uds=str(folder / "e.sock"))
    client = EngineClient(server.url, timeout_s=30)
    yield client
    await client.aclose()
    server.stop()


async def begin(store: JobStore, engine: Any, **fields: Any) -> tuple[Context, JobSpec, asyncio.Task[None], Queue]:
    queue = Queue()
    context = Context(store, cast("Any", queue), {"owl2": engine}, cast("Any", None), **fields)
    spec = make_spec(**ALONE)
    await store.create(spec)
    return context, spec, asyncio.create_task(run_branch(context, spec.id, "deep")), queue


async def test_a_cancelled_run_frees_its_engine_after_one_more_step_at_most(store: JobStore, tmp_path: Any) -> None:
    # Given a run that has said three words, over HTTP
    engine = Stepper(WORDS)
    async with served(engine, tmp_path) as client:
        _, spec, run, _ = await begin(store, client)
        engine.allow(3)
        await asyncio.to_thread(wait_until, lambda: engine.num_steps == 3, "three steps")

        # When it is cancelled, and the engine may go on as it likes once it has made one more step
        cancelled = await store.cancel(spec.id)
        engine.allow(1)
        await run
        await asyncio.to_thread(wait_until, lambda: engine.num_running == 0, "the engine to be free")
        engine.allow(100)

    # Then it does not
    assert engine.num_steps <= 4
    assert cancelled is not None
    job = await store.get(spec.id)
    assert job is not None
    assert (job.state, job.units["deep"].state) == ("cancelled", "cancelled")


async def test_a_run_that_says_nothing_is_cancelled_without_a_further_step(
    redis: Redis, redis_url: str, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given an engine that thinks, and a lease that is not renewed for long
    monkeypatch.setattr(lease, "_MAX_BEAT_S", 3600.0)
    store.lease_s = 36000
    engine = Stepper([""] * 50)
    watch = CancelWatch(Redis.from_url(redis_url))
    _, spec, run, _ = await begin(store, engine, cancels=watch)
    engine.allow(2)
    await engine.until(2)

    await store.cancel(spec.id)
    await run

    assert (engine.num_steps, engine.num_running) == (2, 0)
    await watch.aclose()
    await watch._redis.aclose()


async def test_a_renewal_that_ends_after_the_run_cancels_nothing_more(
    redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    # Given a client that is in the middle of a renewal when the run ends, and swallows its own cancellation
    renewing, ended = asyncio.Event(), asyncio.Event()

    class Swallowing(JobStore):
        async def renew(self, job_id: str, unit: str, epoch: int) -> bool:
            renewing.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                ended.set()
            return False

    context = Context(Swallowing(redis, lease_s=0.003), cast("Any", Queue()), {}, cast("Any", None))

    async def run() -> str:
        async with lease.lease(context, "job", "deep", 1):
            await renewing.wait()
        await ended.wait()
        await asyncio.sleep(0.01)  # time for a cancellation that must not come
        return "finished"

    assert await asyncio.create_task(run()) == "finished"
    assert caplog.text == ""


@pytest.mark.parametrize("turned_into", [None, RuntimeError("no connection"), EngineUnavailableError("closed")])
async def test_a_lost_lease_is_a_lost_lease_whatever_a_client_makes_of_its_cancellation(
    store: JobStore, turned_into: Exception | None, caplog: pytest.LogCaptureFixture
) -> None:
    # Given an engine's client that swallows a cancellation, or turns it into an error of its own
    class Rude(EchoEngine):
        async def stream(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
            yield Delta(text="half")
            begun.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if turned_into is not None:
                    raise turned_into from None
            yield Delta(finish_reason="stop")

    begun = asyncio.Event()
    store.lease_s = 0.03
    _, spec, run, queue = await begin(store, Rude("owl2"))
    await begun.wait()
    await store.cancel(spec.id)

    await run

    assert queue.sent == []
    assert [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == []


async def test_between_cancel_and_finish_there_is_one_winner(store: JobStore) -> None:
    for _ in range(20):
        spec = make_spec(**ALONE)
        await store.create(spec)
        epoch = await store.claim(spec.id, "deep") or 0
        await store.finish(spec.id, "deep", epoch, UnitResult(text="x"))
        context, _ = await context_of(store)

        _, cancelled, *_ = await asyncio.gather(join(context, spec.id), store.cancel(spec.id), store.cancel(spec.id))
        job = await store.get(spec.id)

        assert job is not None
        assert cancelled is not None
        assert (job.state == "completed") == (job.final is not None) == (cancelled.state == "completed")
        ends = [event.state for event in await store.read_events(spec.id) if event.kind == "end"]
        assert ends == [job.state]


class Flaky(JobStore):
    """Redis goes away at the chosen calls of a method: before it has done the work, or before it has answered."""

    def break_at(self, name: str, calls: set[int], *, is_done: bool) -> None:
        real = getattr(self, name)
        count = 0

        async def broken(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count not in calls:
                return await real(*args, **kwargs)
            if is_done:
                await real(*args, **kwargs)
            raise QueueUnavailableError("redis is away")

        setattr(self, name, broken)


@pytest.mark.parametrize("is_done", [False, True])
@pytest.mark.parametrize("name", ["append", "finish", "complete", "renew", "get_images"])
async def test_a_redis_that_goes_away_for_a_moment_costs_no_run_and_doubles_no_word(
    redis: Redis, name: str, is_done: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "REDIS_RETRY_S", 0.001)
    monkeypatch.setattr(transcript, "REDIS_RETRY_S", 0.001)
    store = Flaky(redis, lease_s=0.03 if name == "renew" else 30, max_attempts=1)
    store.break_at(name, {1, 2, 4}, is_done=is_done)
    engine = Stepper(WORDS)
    engine.allow(1000)
    context, spec, run, queue = await begin(store, engine)

    await run
    assert (spec.id, "merge") in queue.sent
    await join(context, spec.id)

    job = await store.get(spec.id)
    assert job is not None
    assert (job.state, job.units["deep"].epoch, job.units["deep"].failures) == ("completed", 1, 0)
    assert job.final is not None
    assert job.final.text == "".join(WORDS)
    told = [event.text for event in await store.read_events(spec.id) if event.kind == "delta"]
    assert "".join(told) == job.final.text


@pytest.mark.parametrize("name", ["take_next", "get", "finish"])
async def test_a_redis_that_stays_away_leaves_no_traceback(
    redis: Redis, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lease, "_PATIENCE_S", 0.0)
    store = Flaky(redis)
    store.break_at(name, set(range(100)), is_done=False)
    context, _ = await context_of(store, owl2=EchoEngine("owl2"))
    await store.create(make_spec(**ALONE))

    await work(context, "owl2")

    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert caplog.records[0].exc_info is None


async def test_a_run_that_was_given_away_while_redis_was_away_writes_nothing_more(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "REDIS_RETRY_S", 0.001)
    monkeypatch.setattr(transcript, "REDIS_RETRY_S", 0.001)
    store = Flaky(redis, lease_s=30)
    engine = Stepper(WORDS)
    _, spec, run, _ = await begin(store, engine)
    engine.allow(3)
    await engine.until(3)

    # When the reaper has taken it for lost and another worker has begun
    await JobStore(redis).release(spec.id, "deep", 1, "failure")
    assert await JobStore(redis).claim(spec.id, "deep") == 2
    engine.allow(1000)
    await run

    events = await store.read_events(spec.id)
    assert [event.epoch for event in events if event.kind == "delta"] == [1, 1, 1]
    assert engine.num_steps <= 4


async def test_a_run_is_handed_back_without_blame_and_done_elsewhere(store: JobStore, redis: Redis) -> None:
    # Given a worker that has to end in the middle of a run
    engine = Stepper(WORDS)
    context, spec, run, queue = await begin(store, engine)
    engine.allow(3)
    await engine.until(3)

    context.hand_back()
    await run

    # Then the unit is free at once, sent on, and no failure was counted
    job = await store.get(spec.id)
    assert job is not None
    assert (job.units["deep"].state, job.units["deep"].failures) == ("queued", 0)
    assert queue.sent == [(spec.id, "deep")]
    assert engine.num_running == 0

    # And what comes to this worker now goes on to the others
    await run_branch(context, spec.id, "deep")
    assert queue.sent == [(spec.id, "deep")] * 2

    # And another worker does it, and who reads the stream sees every word once
    other, _ = await context_of(store)
    fresh = Stepper(WORDS)
    fresh.allow(1000)
    cast("dict[str, Any]", other.engines)["owl2"] = fresh
    await run_branch(other, spec.id, "deep")
    await join(other, spec.id)
    hub = EventHub(redis, store)
    events = [event async for event in to_response_events(job, hub.follow(spec.id), lambda: store.get(spec.id))]
    said = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    assert said == "".join(WORDS)
    assert events[-1]["type"] == "response.completed"


async def test_a_merge_is_handed_back_too(store: JobStore) -> None:
    spec = make_spec(strategy="compose")
    await store.create(spec)
    for branch in spec.branches:
        epoch = await store.claim(spec.id, branch.name) or 0
        await store.finish(spec.id, branch.name, epoch, UnitResult(text=branch.name, model="m"))
    composer = Stepper(WORDS)
    queue = Queue()
    context = Context(store, cast("Any", queue), {"glm": composer}, cast("Any", None))
    run = asyncio.create_task(join(context, spec.id))
    composer.allow(2)
    await composer.until(2)

    context.hand_back()
    await run

    job = await store.get(spec.id)
    assert job is not None
    assert (job.state, job.units["merge"].state, job.units["merge"].failures) == ("in_progress", "queued", 0)
    assert queue.sent == [(spec.id, "merge")]

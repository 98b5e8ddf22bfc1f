"""What redis counts for all processes: each end once, whoever asks; what waits, as it is; nothing while nobody asks."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio import Redis

from engines.base import Usage
from router.jobs import schedule
from router.jobs.job import JobSpec
from router.jobs.results import FinalAnswer, UnitResult
from router.jobs.store import JobStore
from router.lua.constants import MAX_UNCOUNTED
from router.redis import PREFIX
from router.telemetry import families
from router.telemetry.ended import from_entry
from router.telemetry.fleet import PRIORITIES, QUEUES, Fleet
from router.telemetry.meters import CountingMeters
from router.webhooks.store import WebhookStore
from tests.router.jobs.test_store import Clock, make_spec

DEEP = {"route": "deep", "engine": "owl2"}


class Api:
    """One of several apis that share a redis."""

    def __init__(self, redis: Redis, clock: Clock) -> None:
        self.meters = CountingMeters()
        self.fleet = Fleet(redis, self.meters, clock, patience_s=60)

    def value(self, name: str, **labels: str) -> float:
        return self.meters.registry.prometheus.get_sample_value(name, labels) or 0.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def apis(redis: Redis, clock: Clock) -> list[Api]:
    found = [Api(redis, clock), Api(redis, clock)]
    await found[0].fleet.look()  # from now on it is noted what ends
    return found


@pytest.fixture
def store(redis: Redis, clock: Clock) -> JobStore:
    return JobStore(redis, clock=clock, lease_s=5, max_attempts=3)


async def run(store: JobStore, clock: Clock, spec: JobSpec, draft: str, deep: str, **final: Any) -> None:
    """Let a job wait for 2 s; a draft of 1 s and an answer of 3 s are made of it, and merged in 1 s."""
    job = await store.create(spec)
    clock.now += 2
    epochs = [await store.claim(job.id, unit) for unit in ("draft", "deep")]
    clock.now += 1
    result = UnitResult(draft, "glm", duration_s=1.0, ttft_s=0.25, usage=Usage(10, 5))
    await store.finish(job.id, "draft", epochs[0] or 0, result)
    clock.now += 2
    await store.finish(job.id, "deep", epochs[1] or 0, replace(result, text=deep, duration_s=3.0))
    epoch = await store.claim(job.id, "merge")
    seen = await store.get(job.id)
    clock.now += 1
    answer = FinalAnswer(deep, "owl2", "owl2", "deep", usage=Usage(20, 10), **final)
    assert seen is not None
    await store.complete(job.id, epoch or 0, final=answer, job=seen)


async def test_each_end_is_counted_once_in_all(apis: list[Api], store: JobStore, clock: Clock) -> None:
    for _ in range(3):
        await run(store, clock, make_spec(), "red", "a red car", agreement=0.75)

    # When two apis are asked, at the same time and again
    await asyncio.gather(*(api.fleet.look() for api in apis))
    await apis[1].fleet.look()

    # Then together they have counted three
    assert sum(api.value("glowl_answers_total", **DEEP, state="completed", cache="") for api in apis) == 3
    assert sum(api.value("glowl_generation_tokens_total", engine="glm") for api in apis) == 3 * 5


async def test_the_steps_of_a_job_are_timed_by_one_clock(apis: list[Api], store: JobStore, clock: Clock) -> None:
    await run(store, clock, make_spec(), "red", "blue", agreement=0.0, conflicts=({"kind": "choice"},))
    await apis[0].fleet.look()

    sums: dict[str, tuple[dict[str, str], float]] = {
        "glowl_e2e_request_latency_seconds": (DEEP, 6.0),
        "glowl_time_to_first_token_seconds": ({"route": "deep"}, 2.25),
        "glowl_draft_to_final_seconds": ({}, 3.0),
        "glowl_merge_time_seconds": ({}, 1.0),
        "glowl_request_queue_time_seconds": ({"queue": "owl2"}, 2.0),
        "glowl_run_time_seconds": ({"queue": "owl2"}, 3.0),
        "glowl_run_time_to_first_token_seconds": ({"queue": "glm"}, 0.25),
    }
    for name, (labels, seconds) in sums.items():
        assert apis[0].value(f"{name}_count", **labels) == 1, name
        assert apis[0].value(f"{name}_sum", **labels) == pytest.approx(seconds), name
    assert apis[0].value("glowl_refinements_total", change="contradicted") == 1
    assert apis[0].value("glowl_agreement_ratio_count") == 1


@pytest.mark.parametrize(("draft", "change"), [("a red car", "same"), ("red", "reworded")])
async def test_what_became_of_a_draft(apis: list[Api], store: JobStore, clock: Clock, draft: str, change: str) -> None:
    await run(store, clock, make_spec(), draft, "a red car", agreement=1.0)
    await apis[0].fleet.look()
    assert apis[0].value("glowl_refinements_total", change=change) == 1


async def test_one_that_followed_an_equal_job_is_counted_and_its_run_is_not(apis: list[Api], store: JobStore) -> None:
    leader = await store.create(make_spec(), flight="the same")
    await store.create(make_spec(), flight="the same")
    for unit in ("draft", "deep"):
        epoch = await store.claim(leader.id, unit)
        await store.finish(leader.id, unit, epoch or 0, UnitResult("red", ttft_s=0.25, usage=Usage(10, 5)))
    epoch = await store.claim(leader.id, "merge")
    seen = await store.get(leader.id)
    answer = FinalAnswer("red", "owl2", "owl2", "deep", usage=Usage(20, 10))
    await store.complete(leader.id, epoch or 0, final=answer, job=seen)
    await apis[0].fleet.look()

    assert apis[0].value("glowl_answers_total", **DEEP, state="completed", cache="") == 1
    assert apis[0].value("glowl_answers_total", **DEEP, state="completed", cache="joined") == 1
    assert apis[0].value("glowl_time_to_first_token_seconds_count", route="deep") == 1
    assert apis[0].value("glowl_prompt_tokens_total", engine="owl2") == 10


async def test_ends_that_nobody_planned_are_counted_too(apis: list[Api], store: JobStore) -> None:
    cancelled = await store.create(make_spec())
    await store.cancel(cancelled.id)
    overdue = await store.create(make_spec())
    assert await store.end(overdue, error={"code": "job_expired", "message": "late"})
    await apis[0].fleet.look()

    for state in ("cancelled", "failed"):
        assert apis[0].value("glowl_answers_total", **DEEP, state=state, cache="") == 1, state
    assert apis[0].value("glowl_e2e_request_latency_seconds_count", **DEEP) == 0  # there was no answer


async def test_retries_and_lost_leases_are_tallied(apis: list[Api], store: JobStore, clock: Clock) -> None:
    job = await store.create(make_spec())
    epoch = await store.claim(job.id, "draft")
    await store.release(job.id, "draft", epoch or 0, "failure")
    await store.claim(job.id, "deep")
    clock.now += 60
    await store.reap()
    await asyncio.gather(*(api.fleet.look() for api in apis))

    assert sum(api.value("glowl_run_retries_total", queue="glm", why="failure") for api in apis) == 1
    assert sum(api.value("glowl_leases_lost_total", queue="owl2") for api in apis) == 1


async def test_what_waits_is_shown_alike_by_all(apis: list[Api], store: JobStore, clock: Clock) -> None:
    await store.create(make_spec(priority="batch"))
    clock.now += 30
    await store.create(make_spec())
    await store.create(make_spec(owner="another"))
    clock.now += 12
    await store.take_next("glm")

    looks = [await api.fleet.look() for api in apis]
    shown = [{name: dict(values) for name, values in (look or {}).items()} for look in looks]
    memory = [one.pop(families.REDIS_MEMORY.name)[()] for one in shown]
    assert all(used > 0 for used in memory)  # each look changes it a little: it need not be the same
    assert shown[0] == shown[1]
    found = shown[0]
    waiting = {place: number for place, number in found[families.WAITING.name].items() if number}
    assert waiting == {("glm", "normal"): 1, ("glm", "batch"): 1, ("owl2", "normal"): 2, ("owl2", "batch"): 1}
    assert found[families.OLDEST.name]["owl2", "normal"] == pytest.approx(12)
    assert found[families.OLDEST.name]["owl2", "batch"] == pytest.approx(42)
    assert found[families.RUNNING.name][("glm",)] == found[families.TAKEN.name][("glm",)] == 1
    assert found[families.SILENT.name][()] == 0
    clock.now += 60
    assert dict((await apis[0].fleet.look() or {})[families.SILENT.name])[()] == 1


async def test_a_record_that_is_gone_is_no_job_that_waits(
    apis: list[Api], redis: Redis, store: JobStore, clock: Clock
) -> None:
    gone = await store.create(make_spec())
    await redis.delete(f"{PREFIX}job:{gone.id}")
    clock.now += 100
    found = await apis[0].fleet.look() or {}
    assert set(dict(found[families.OLDEST.name]).values()) == {0.0}


def test_a_clock_that_was_set_back_makes_no_time_negative() -> None:
    ended = from_entry(b'{"route":"deep"}\ncompleted\n20\n15\n\n{"first_token_at":18,"merge_began_at":16}')
    assert (ended.took_s, ended.first_token_s, ended.merge_s) == (0.0, 0.0, 0.0)


async def test_what_waits_for_its_next_try_and_webhooks_are_shown(
    apis: list[Api], redis: Redis, store: JobStore, clock: Clock
) -> None:
    # Given a unit that is tried again later, two webhooks, and a worker that has taken one of them
    job = await store.create(make_spec())
    await store.release(job.id, "draft", await store.claim(job.id, "draft") or 0, "away", delay_s=5)
    webhooks = WebhookStore(redis, clock=clock)
    for number in range(2):
        await webhooks.emit("local", "response.completed", {"id": f"resp_{number}"}, url="https://hooks.example/here")
    assert await webhooks.take_next(lease_s=25)

    found = await apis[0].fleet.look() or {}
    assert dict(found[families.DELAYED.name])[()] == 1
    assert dict(found[families.WEBHOOKS_DUE.name])[()] == 1
    assert dict(found[families.WEBHOOKS_WAITING.name])[()] == 2


async def test_nothing_is_kept_while_nobody_asks(redis: Redis, store: JobStore, clock: Clock) -> None:
    await run(store, clock, make_spec(), "red", "red")
    job = await store.create(make_spec())
    await store.release(job.id, "draft", await store.claim(job.id, "draft") or 0, "failure")
    assert await redis.keys(f"{PREFIX}metrics:*") == []


async def test_what_is_kept_goes_when_nobody_asks_any_more(
    apis: list[Api], redis: Redis, store: JobStore, clock: Clock
) -> None:
    await run(store, clock, make_spec(), "red", "red")
    job = await store.create(make_spec())
    await store.release(job.id, "draft", await store.claim(job.id, "draft") or 0, "failure")

    left_s = {name: await redis.ttl(f"{PREFIX}metrics:{name}") for name in ("asked", "ends", "tallies")}
    assert all(0 < seconds <= left_s["asked"] <= 3600 for seconds in left_s.values())


async def test_so_many_ends_are_kept_and_those_beyond_are_named(
    apis: list[Api], redis: Redis, store: JobStore, clock: Clock
) -> None:
    await redis.rpush(f"{PREFIX}metrics:ends", *([b"\ncompleted\n\n\n\n"] * MAX_UNCOUNTED))  # type: ignore[misc]
    await run(store, clock, make_spec(), "red", "red")
    assert await redis.llen(f"{PREFIX}metrics:ends") == MAX_UNCOUNTED  # type: ignore[misc]
    await apis[0].fleet.look()
    assert apis[0].value("glowl_jobs_uncounted_total") == 1


async def test_an_end_of_another_release_hides_no_other(
    apis: list[Api], redis: Redis, store: JobStore, clock: Clock
) -> None:
    await redis.rpush(f"{PREFIX}metrics:ends", b"what a later release writes")  # type: ignore[misc]
    await run(store, clock, make_spec(), "red", "red")
    await apis[0].fleet.look()
    assert apis[0].value("glowl_jobs_uncounted_total") == 1
    assert apis[0].value("glowl_answers_total", **DEEP, state="completed", cache="") == 1


async def test_a_redis_that_is_away_is_no_error(clock: Clock) -> None:
    async with Redis(host="127.0.0.1", port=1) as away:
        assert await Api(away, clock).fleet.look() is None


def test_queues_and_priorities_are_those_of_the_jobs() -> None:
    assert (QUEUES, PRIORITIES) == (schedule.QUEUES, schedule.PRIORITIES)

"""The job record's state machine, against a real redis and a clock of the test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import orjson
import pytest
from redis.asyncio import Redis

from engines.base import Alternative, SamplingParams, TokenLogprob, Usage
from router.errors import QueueUnavailableError
from router.jobs.job import BranchPlan, FinalAnswer, Job, JobSpec, Unit, UnitResult, new_job_id
from router.jobs.store import PREFIX, UNSTORED_TTL_S, JobStore

PAIR = (BranchPlan("draft", "glm"), BranchPlan("deep", "owl2"))
DECISION = {"route": "deep", "engine": "owl2", "rule": "english", "reasons": [], "preset": "seed", "degraded": []}


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def make_spec(**changes: object) -> JobSpec:
    spec = JobSpec(
        id=new_job_id(),
        owner="local",
        created_at=1_000_000.0,
        model="glowl",
        messages=[{"role": "user", "parts": [{"type": "text", "text": "What is it?"}]}],
        sampling=SamplingParams(max_tokens=7, stop=("x",)),
        decision=DECISION,
        language="en",
        branches=PAIR,
        strategy="deep",
    )
    return replace(spec, **changes)  # type: ignore[arg-type]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(redis_url: str, clock: Clock) -> AsyncIterator[JobStore]:
    redis = Redis.from_url(redis_url)
    yield JobStore(redis, lease_s=5, resend_after_s=15, max_failures=3, clock=clock)
    await redis.aclose()


async def finish_all(store: JobStore, spec: JobSpec) -> None:
    for branch in spec.branches:
        epoch = await store.claim(spec.id, branch.name)
        assert epoch
        await store.finish(spec.id, branch.name, epoch, UnitResult(text=branch.name, model="m"))


async def test_a_created_job_reads_back_as_it_was_written(store: JobStore) -> None:
    spec = make_spec(metadata={"a": "b"}, instructions="short")
    await store.create(spec)

    job = await store.get(spec.id)

    assert job is not None
    assert job.spec == spec
    assert job.state == "queued"
    assert {name: unit.state for name, unit in job.units.items()} == {"draft": "queued", "deep": "queued"}


async def test_only_one_run_can_claim_a_unit(store: JobStore) -> None:
    spec = make_spec()
    await store.create(spec)

    assert await store.claim(spec.id, "deep") == 1
    assert await store.claim(spec.id, "deep") is None
    job = await store.get(spec.id)
    assert job is not None
    assert job.state == "in_progress"


async def test_the_last_branch_to_finish_is_told_to_send_the_merge_and_only_it(store: JobStore) -> None:
    spec = make_spec()
    await store.create(spec)
    draft, deep = await store.claim(spec.id, "draft"), await store.claim(spec.id, "deep")
    assert draft
    assert deep

    assert await store.finish(spec.id, "deep", deep, UnitResult(text="d")) is False
    assert await store.finish(spec.id, "draft", draft, UnitResult(text="f")) is True
    # A message delivered twice finishes nothing twice.
    assert await store.finish(spec.id, "draft", draft, UnitResult(text="again")) is False


async def test_a_merged_job_is_completed_and_lives_for_its_time_only(store: JobStore) -> None:
    spec = make_spec()
    await store.create(spec)
    await finish_all(store, spec)
    epoch = await store.claim(spec.id, "merge")
    assert epoch

    final = FinalAnswer(text="deep", model="m", engine="owl2", strategy="deep", usage=Usage(3, 2))
    assert await store.complete(spec.id, epoch, final=final) is False

    job = await store.get(spec.id)
    assert job is not None
    assert job.state == "completed"
    assert job.final == final
    assert 0 < await store.redis.ttl(f"{PREFIX}job:{spec.id}") <= 7 * 24 * 3600
    assert 0 < await store.redis.ttl(f"{PREFIX}events:{spec.id}") <= 7 * 24 * 3600


async def test_log_probabilities_read_back_as_they_were_written(store: JobStore) -> None:
    spec = make_spec()
    await store.create(spec)
    epoch = await store.claim(spec.id, "deep")
    assert epoch
    tokens = (
        TokenLogprob("\ufffd", -0.5, b"\xe7\x8c", (Alternative("\ufffd", -0.25, b"\xab"),)),
        TokenLogprob("x", 0.0, b"x"),
    )

    await store.append(spec.id, "deep", epoch, "猫", tokens)
    result = UnitResult(text="猫", logprobs=tokens)
    await store.finish(spec.id, "deep", epoch, result)

    delta = next(event for event in await store.read_events(spec.id) if event.kind == "delta")
    assert delta.logprobs == tokens
    job = await store.get(spec.id)
    assert job is not None
    assert job.units["deep"].result == result
    final = FinalAnswer("猫", "m", "owl2", "deep", logprobs=tokens)
    assert FinalAnswer.from_dict(orjson.loads(orjson.dumps(final.to_dict()))) == final


async def test_a_job_that_is_not_to_be_stored_is_readable_for_a_while_only(store: JobStore) -> None:
    spec = make_spec(is_stored=False)
    await store.create(spec)

    await store.cancel(spec.id)

    assert 0 < await store.redis.ttl(f"{PREFIX}job:{spec.id}") <= UNSTORED_TTL_S
    assert 0 < await store.redis.ttl(f"{PREFIX}events:{spec.id}") <= UNSTORED_TTL_S


async def test_an_answer_cut_by_its_length_makes_the_job_incomplete(store: JobStore) -> None:
    spec = make_spec()
    await store.create(spec)
    await finish_all(store, spec)
    epoch = await store.claim(spec.id, "merge")
    assert epoch

    await store.complete(spec.id, epoch, final=FinalAnswer("d", "m", "owl2", "deep", finish_reason="length"))

    job = await store.get(spec.id)
    assert job is not None
    assert job.state == "incomplete"


async def test_a_silent_run_is_queued_again_and_its_late_writes_are_refused(store: JobStore, clock: Clock) -> None:
    # Given a run whose worker dies
    spec = make_spec()
    await store.create(spec)
    first = await store.claim(spec.id, "deep")
    assert first

    # When its lease has passed
    clock.now += 5.1
    due = await store.reap()

    # Then the unit is sent again, a second run owns it, and the first cannot write any more
    assert (spec.id, "deep") in due
    second = await store.claim(spec.id, "deep")
    assert second == 2
    assert await store.append(spec.id, "deep", first, "late") is False
    assert await store.renew(spec.id, "deep", first) is False
    assert await store.finish(spec.id, "deep", first, UnitResult(text="late")) is False
    assert await store.append(spec.id, "deep", second, "fresh") is True


async def test_a_renewed_lease_is_left_alone(store: JobStore, clock: Clock) -> None:
    spec = make_spec()
    await store.create(spec)
    epoch = await store.claim(spec.id, "deep")
    assert epoch

    clock.now += 4
    assert await store.renew(spec.id, "deep", epoch) is True
    clock.now += 4

    assert (spec.id, "deep") not in await store.reap()


async def test_a_unit_that_loses_its_worker_too_often_is_recorded_as_failed(store: JobStore, clock: Clock) -> None:
    spec = make_spec(branches=(BranchPlan("deep", "owl2"),))
    await store.create(spec)
    for _ in range(3):
        assert await store.claim(spec.id, "deep")
        clock.now += 6
        due = await store.reap()

    job = await store.get(spec.id)
    assert job is not None
    assert job.units["deep"].state == "failed"
    assert job.units["deep"].result is not None
    assert job.units["deep"].result.error is not None
    assert job.units["deep"].result.error["code"] == "worker_lost"
    assert (spec.id, "merge") in due


async def test_a_message_that_was_lost_is_sent_again_with_growing_patience(store: JobStore, clock: Clock) -> None:
    spec = make_spec(branches=(BranchPlan("deep", "owl2"),))
    await store.create(spec)

    assert await store.reap() == []
    clock.now += 15.1
    assert await store.reap() == [(spec.id, "deep")]
    clock.now += 15.1
    assert await store.reap() == [(spec.id, "deep")]
    clock.now += 15.1
    assert await store.reap() == []
    clock.now += 15.1
    assert await store.reap() == [(spec.id, "deep")]


async def test_a_released_unit_waits_and_counts_only_real_failures(store: JobStore, clock: Clock) -> None:
    spec = make_spec(branches=(BranchPlan("deep", "owl2"),))
    await store.create(spec)
    for _ in range(5):
        epoch = await store.claim(spec.id, "deep")
        assert epoch
        assert await store.release(spec.id, "deep", epoch, delay_s=2, is_failure=False) is True
    assert await store.reap() == []
    clock.now += 2.1
    assert await store.reap() == [(spec.id, "deep")]

    for is_left in (True, True, False):
        epoch = await store.claim(spec.id, "deep")
        assert epoch
        assert await store.release(spec.id, "deep", epoch, delay_s=0, is_failure=True) is is_left


async def test_cancel_wins_over_everything_that_comes_later(store: JobStore, clock: Clock) -> None:
    spec = make_spec()
    await store.create(spec)
    epoch = await store.claim(spec.id, "draft")
    assert epoch

    job = await store.cancel(spec.id)

    assert job is not None
    assert job.state == "cancelled"
    assert await store.claim(spec.id, "deep") is None
    assert await store.append(spec.id, "draft", epoch, "x") is False
    assert await store.finish(spec.id, "draft", epoch, UnitResult(text="x")) is False
    clock.now += 100
    assert await store.reap() == []


async def test_cancel_after_the_end_changes_nothing(store: JobStore) -> None:
    spec = make_spec()
    await store.create(spec)
    await finish_all(store, spec)
    epoch = await store.claim(spec.id, "merge")
    assert epoch
    await store.complete(spec.id, epoch, final=FinalAnswer("d", "m", "owl2", "deep"))

    job = await store.cancel(spec.id)

    assert job is not None
    assert job.state == "completed"


async def test_cancel_of_an_unknown_job_is_none(store: JobStore) -> None:
    assert await store.cancel("resp_nothing") is None


async def test_cancel_after_the_branches_stops_the_merge(store: JobStore) -> None:
    spec = make_spec()
    await store.create(spec)
    await finish_all(store, spec)
    epoch = await store.claim(spec.id, "merge")
    assert epoch

    await store.cancel(spec.id)

    assert await store.complete(spec.id, epoch, final=FinalAnswer("d", "m", "owl2", "deep")) is False
    job = await store.get(spec.id)
    assert job is not None
    assert job.state == "cancelled"
    assert job.final is None


async def test_the_end_of_a_job_with_a_webhook_queues_it_in_the_same_step(store: JobStore, clock: Clock) -> None:
    spec = make_spec(webhook_url="http://example.com/hook")
    await store.create(spec)
    await finish_all(store, spec)
    epoch = await store.claim(spec.id, "merge")
    assert epoch

    assert await store.complete(spec.id, epoch, final=FinalAnswer("d", "m", "owl2", "deep")) is True

    clock.now += 0.1
    assert await store.reap() == [(spec.id, "webhook")]
    assert await store.claim(spec.id, "webhook") == 1


async def test_a_deleted_job_leaves_nothing_behind(store: JobStore) -> None:
    spec = make_spec()
    await store.create(spec)
    await store.claim(spec.id, "deep")

    assert await store.delete(spec.id) is True

    assert await store.get(spec.id) is None
    left = [key async for key in store.redis.scan_iter(f"{PREFIX}*{spec.id}*")]
    assert left == []
    assert await store.redis.zcard(f"{PREFIX}leases") == 0
    assert await store.redis.zcard(f"{PREFIX}queued") == 0


async def test_events_tell_the_whole_story_in_order(store: JobStore) -> None:
    spec = make_spec(branches=(BranchPlan("deep", "owl2"),))
    await store.create(spec)
    epoch = await store.claim(spec.id, "deep")
    assert epoch
    await store.append(spec.id, "deep", epoch, "two ")
    await store.append(spec.id, "deep", epoch, "猫")
    await store.finish(spec.id, "deep", epoch, UnitResult(text="two 猫"))
    merge = await store.claim(spec.id, "merge")
    assert merge
    await store.complete(spec.id, merge, final=FinalAnswer("two 猫", "m", "owl2", "single"))

    events = await store.read_events(spec.id)

    assert [(event.kind, event.unit, event.text, event.state) for event in events] == [
        ("queued", "", "", "queued"),
        ("started", "deep", "", ""),
        ("delta", "deep", "two ", ""),
        ("delta", "deep", "猫", ""),
        ("finished", "deep", "", "completed"),
        ("started", "merge", "", ""),
        ("end", "", "", "completed"),
    ]
    assert await store.read_events(spec.id, events[4].id) == events[5:]


async def test_an_answer_given_without_the_queue_is_stored_like_any_other(store: JobStore) -> None:
    spec = make_spec(branches=(BranchPlan("fast", "glm"),), strategy="single")
    result = UnitResult(text="猫", model="glm", usage=Usage(3, 1))
    final = FinalAnswer("猫", "glm", "glm", "single")
    job = Job(spec, "completed", {"fast": Unit("fast", "completed", 1, 0, result)}, 1.0, completed_at=2.0, final=final)

    await store.put_finished(job)

    assert await store.get(spec.id) == job
    assert await store.redis.ttl(f"{PREFIX}job:{spec.id}") > 0


async def test_redis_that_does_not_answer_is_a_503_not_a_crash() -> None:
    redis = Redis.from_url("unix:///nonexistent/redis.sock")
    store = JobStore(redis)

    with pytest.raises(QueueUnavailableError) as caught:
        await store.get("resp_x")

    assert caught.value.status_code == 503
    assert caught.value.retry_after_s
    await redis.aclose()

"""The job record's state machine, in redis and in memory alike, with a clock of the test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, cast

import orjson
import pytest
from redis.asyncio import Redis

from engines.base import Alternative, ImagePart, SamplingParams, TokenLogprob, Usage
from engines.origin import ORIGIN, Origin
from router.errors import QueueFullError, QueueUnavailableError
from router.jobs.job import BranchPlan, Job, JobSpec, Terms, Unit, Why
from router.jobs.pictures import BLOB_GRACE_S
from router.jobs.results import FinalAnswer, UnitResult
from router.jobs.rows import Reaped
from router.jobs.store import UNSTORED_TTL_S, JobStore
from router.lua.constants import NET_S
from router.output_format import OutputFormat
from router.redis import PREFIX, guard
from tests.model.memory_store import MemoryJobStore
from tests.model.record import Record
from tests.support.clock import Clock
from tests.support.jobs import PAIR, finish_all, make_spec

LIMITS: dict[str, Any] = {"lease_s": 5, "max_attempts": 3, "max_unfinished": 20}


@pytest.fixture
async def redis_store(redis_url: str, clock: Clock) -> AsyncIterator[JobStore]:
    redis = Redis.from_url(redis_url)
    yield JobStore(redis, **LIMITS, clock=clock)
    await redis.aclose()


@pytest.fixture(params=["redis", "memory"])
def store(request: pytest.FixtureRequest, clock: Clock) -> Record:
    if request.param == "memory":
        return MemoryJobStore(clock, **LIMITS)
    return cast("Record", request.getfixturevalue("redis_store"))


def sent(found: Reaped) -> dict[str, int]:
    assert found.overdue == []
    return found.lined_up


async def test_a_created_job_reads_back_as_it_was_written(store: Record) -> None:
    spec = make_spec(metadata={"a": "b"}, instructions="short")
    await store.create(spec)

    job = await store.get(spec.id)

    assert job is not None
    assert job.spec == spec
    assert job.state == "queued"
    assert {name: unit.state for name, unit in job.units.items()} == {"draft": "queued", "deep": "queued"}


async def test_a_job_names_the_request_that_began_it_or_began_it_again(redis_store: JobStore) -> None:
    spec = make_spec(origin=Origin("first", traceparent="00-a"), branches=PAIR[1:])
    await redis_store.create(spec)
    job = await redis_store.get(spec.id)
    assert job is not None
    assert (job.spec.origin, b"first" in orjson.dumps(spec.to_dict())) == (spec.origin, False)

    epoch = await redis_store.claim(spec.id, "deep")
    assert epoch
    await redis_store.finish(spec.id, "deep", epoch, UnitResult(error={"code": "x", "message": "y"}))
    epoch = await redis_store.claim(spec.id, "merge")
    assert epoch
    await redis_store.complete(spec.id, epoch, error={"code": "x", "message": "y"})
    token = ORIGIN.set(Origin("second"))
    assert await redis_store.retry(job) == "failed"
    ORIGIN.reset(token)
    job = await redis_store.get(spec.id)
    assert job is not None
    assert job.spec.origin == Origin("second")


async def test_only_one_run_can_claim_a_unit(store: Record) -> None:
    spec = make_spec()
    await store.create(spec)

    assert await store.claim(spec.id, "deep") == 1
    assert await store.claim(spec.id, "deep") is None
    job = await store.get(spec.id)
    assert job is not None
    assert job.state == "in_progress"


async def test_the_last_branch_to_finish_is_told_to_send_the_merge_and_only_it(store: Record) -> None:
    spec = make_spec()
    await store.create(spec)
    draft, deep = await store.claim(spec.id, "draft"), await store.claim(spec.id, "deep")
    assert draft
    assert deep

    assert await store.finish(spec.id, "deep", deep, UnitResult(text="d")) is False
    assert await store.finish(spec.id, "draft", draft, UnitResult(text="f")) is True
    # A message delivered twice finishes nothing twice.
    assert await store.finish(spec.id, "draft", draft, UnitResult(text="again")) is False


async def test_a_merged_job_is_completed_and_lives_for_its_time_only(redis_store: JobStore) -> None:
    store = redis_store
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
    assert 0 < await store.redis.ttl(f"{PREFIX}job:{spec.id}") <= 7 * 24 * 3600 + NET_S
    assert 0 < await store.redis.ttl(f"{PREFIX}events:{spec.id}") <= 7 * 24 * 3600 + NET_S


async def test_log_probabilities_read_back_as_they_were_written(store: Record) -> None:
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


async def test_a_job_that_is_not_to_be_stored_is_readable_for_a_while_only(redis_store: JobStore) -> None:
    store = redis_store
    spec = make_spec(is_stored=False)
    await store.create(spec)

    await store.cancel(spec.id)

    assert 0 < await store.redis.ttl(f"{PREFIX}job:{spec.id}") <= UNSTORED_TTL_S + NET_S
    assert 0 < await store.redis.ttl(f"{PREFIX}events:{spec.id}") <= UNSTORED_TTL_S + NET_S


async def test_an_answer_cut_by_its_length_makes_the_job_incomplete(store: Record) -> None:
    spec = make_spec()
    await store.create(spec)
    await finish_all(store, spec)
    epoch = await store.claim(spec.id, "merge")
    assert epoch

    await store.complete(spec.id, epoch, final=FinalAnswer("d", "m", "owl2", "deep", finish_reason="length"))

    job = await store.get(spec.id)
    assert job is not None
    assert job.state == "incomplete"


async def test_a_silent_run_is_queued_again_and_its_late_writes_are_refused(store: Record, clock: Clock) -> None:
    # Given a run whose worker dies
    spec = make_spec()
    await store.create(spec)
    first = await store.claim(spec.id, "deep")
    assert first

    # When its lease has passed
    clock.now += 5.1
    due = sent(await store.reap())

    # Then the unit is sent again, a second run owns it, and the first cannot write any more
    assert due == {"owl2": 1}
    second = await store.claim(spec.id, "deep")
    assert second == 2
    assert await store.append(spec.id, "deep", first, "late") is False
    assert await store.renew(spec.id, "deep", first) is False
    assert await store.finish(spec.id, "deep", first, UnitResult(text="late")) is False
    assert await store.append(spec.id, "deep", second, "fresh") is True


async def test_a_renewed_lease_is_left_alone(store: Record, clock: Clock) -> None:
    spec = make_spec()
    await store.create(spec)
    epoch = await store.claim(spec.id, "deep")
    assert epoch

    clock.now += 4
    assert await store.renew(spec.id, "deep", epoch) is True
    clock.now += 4

    assert await store.reap() == Reaped()


async def test_a_unit_that_loses_its_worker_too_often_is_recorded_as_failed(store: Record, clock: Clock) -> None:
    spec = make_spec(branches=(BranchPlan("deep", "owl2"),))
    await store.create(spec)
    for _ in range(3):
        assert await store.claim(spec.id, "deep")
        clock.now += 6
        due = sent(await store.reap())

    job = await store.get(spec.id)
    assert job is not None
    assert job.units["deep"].state == "failed"
    assert job.units["deep"].result is not None
    assert job.units["deep"].result.error is not None
    assert job.units["deep"].result.error["code"] == "worker_lost"
    assert due == {"light": 1}


async def test_a_released_unit_waits_and_counts_only_real_failures(store: Record, clock: Clock) -> None:
    spec = make_spec(branches=(BranchPlan("deep", "owl2"),))
    await store.create(spec)
    for _ in range(5):
        epoch = await store.claim(spec.id, "deep")
        assert epoch
        assert await store.release(spec.id, "deep", epoch, "full", delay_s=2) is True
    assert await store.reap() == Reaped()
    assert await store.depths() == {}
    clock.now += 2.1
    assert sent(await store.reap()) == {"owl2": 1}
    assert await store.depths() == {"owl2": 1}

    for is_left in (True, True, False):
        epoch = await store.claim(spec.id, "deep")
        assert epoch
        assert await store.release(spec.id, "deep", epoch, "failure") is is_left


async def test_cancel_wins_over_everything_that_comes_later(store: Record, clock: Clock) -> None:
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
    assert await store.reap() == Reaped()


async def test_cancel_after_the_end_changes_nothing(store: Record) -> None:
    spec = make_spec()
    await store.create(spec)
    await finish_all(store, spec)
    epoch = await store.claim(spec.id, "merge")
    assert epoch
    await store.complete(spec.id, epoch, final=FinalAnswer("d", "m", "owl2", "deep"))

    job = await store.cancel(spec.id)

    assert job is not None
    assert job.state == "completed"


async def test_cancel_of_an_unknown_job_is_none(store: Record) -> None:
    assert await store.cancel("resp_nothing") is None


async def test_cancel_after_the_branches_stops_the_merge(store: Record) -> None:
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


async def test_the_end_of_a_job_with_a_webhook_says_that_a_delivery_is_due_and_is_over_for_the_job(
    store: Record, clock: Clock
) -> None:
    spec = make_spec(webhook_url="http://example.com/hook")
    await store.create(spec)
    await finish_all(store, spec)
    epoch = await store.claim(spec.id, "merge")
    assert epoch

    assert await store.complete(spec.id, epoch, final=FinalAnswer("d", "m", "owl2", "deep")) is True

    clock.now += 3600
    assert await store.reap() == Reaped()


async def test_a_deleted_job_leaves_nothing_behind(redis_store: JobStore) -> None:
    store = redis_store
    spec = make_spec()
    await store.create(spec)
    await store.claim(spec.id, "deep")

    assert await store.delete(spec.id) is True

    assert await store.get(spec.id) is None
    left = [key async for key in store.redis.scan_iter(f"{PREFIX}*{spec.id}*")]
    assert left == []
    left = sorted([key.decode().removeprefix(PREFIX) async for key in store.redis.scan_iter(f"{PREFIX}*")])
    assert left == ["activity", "queues"]


async def test_events_tell_the_whole_story_in_order(store: Record) -> None:
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


async def test_an_answer_given_without_the_queue_is_stored_like_any_other(store: Record) -> None:
    spec = make_spec(branches=(BranchPlan("fast", "glm"),), strategy="single")
    result = UnitResult(text="猫", model="glm", usage=Usage(3, 1))
    final = FinalAnswer("猫", "glm", "glm", "single")
    job = Job(spec, "completed", {"fast": Unit("fast", "completed", 1, 0, result)}, 1.0, completed_at=2.0, final=final)

    await store.put_finished(job)

    assert await store.get(spec.id) == job


FAST = (BranchPlan("fast", "glm"),)


def direct(spec: JobSpec, text: str) -> Job:
    unit = Unit("fast", "completed", 1, 0, UnitResult(text=text, model="glm"))
    return Job(
        spec, "completed", {"fast": unit}, 1.0, completed_at=2.0, final=FinalAnswer(text, "glm", "glm", "single")
    )


async def test_an_answer_that_is_begun_on_record_has_no_events_and_ends_as_it_is(redis_url: str, clock: Clock) -> None:
    async with Redis.from_url(redis_url) as redis:
        store = JobStore(redis, clock=clock)
        spec = make_spec(branches=FAST, strategy="single")

        epoch = await store.begin(spec)
        begun = await store.get(spec.id)

        assert (epoch, await store.begin(spec)) == (1, None)
        assert begun is not None
        assert (begun.state, begun.units["fast"].state) == ("in_progress", "in_progress")
        assert await store.read_events(spec.id) == []
        assert await store.take_next("glm") is None
        assert await store.put_finished(direct(spec, "猫"), epoch=1)
        assert await store.get(spec.id) == direct(spec, "猫")
        # A second try, because the answer to the first was lost, changes nothing.
        assert not await store.put_finished(direct(spec, "狗"), epoch=1)
        assert await redis.hgetall(f"{PREFIX}unfinished") == {}
        assert await redis.zcard(f"{PREFIX}leases") == 0


async def test_an_answer_whose_process_died_is_written_by_a_worker(redis_url: str, clock: Clock) -> None:
    async with Redis.from_url(redis_url) as redis:
        store = JobStore(redis, clock=clock, lease_s=5)
        spec = make_spec(branches=FAST, strategy="single")
        await store.begin(spec, [PICTURE])

        # When the lease is renewed once and then no more
        clock.now += 4
        assert await store.renew(spec.id, "fast", 1)
        clock.now += 4
        assert await store.reap() == Reaped()
        clock.now += 4
        assert (await store.reap()).lined_up == {"glm": 1}

        # Then it is a job like any other, and its first writer is fenced off
        claim = await store.take_next("glm")
        assert claim is not None
        assert (claim.job_id, claim.unit, claim.epoch) == (spec.id, "fast", 2)
        assert not await store.put_finished(direct(spec, "late"), epoch=1)
        assert await store.finish(spec.id, "fast", 2, UnitResult(text="猫", model="glm"))
        merge = await store.claim(spec.id, "merge") or 0
        await store.complete(spec.id, merge, final=FinalAnswer("猫", "glm", "glm", "single"))
        job = await store.get(spec.id)
        assert job is not None
        assert (job.state, job.final and job.final.text) == ("completed", "猫")
        assert await redis.hgetall(f"{PREFIX}unfinished") == {}


DEEP_ALONE = (BranchPlan("deep", "owl2"),)


async def line_of(store: Record, queue: str) -> list[str]:
    """Take all units of a queue; returns the ids of their jobs in turn."""
    taken = []
    while (claim := await store.take_next(queue)) is not None:
        taken.append(claim.job_id)
    return taken


async def fill(store: Record, *ids: str, owner: str, clock: Clock, **fields: Any) -> None:
    for job_id in ids:
        clock.now += 0.001
        await store.create(make_spec(id=job_id, owner=owner, branches=DEEP_ALONE, **fields))


async def test_owners_take_turns_and_each_ones_oldest_goes_first(store: Record, clock: Clock) -> None:
    await fill(store, "a1", "a2", "a3", "a4", owner="a", clock=clock)
    await fill(store, "b1", "b2", owner="b", clock=clock)
    await fill(store, "c1", owner="c", clock=clock)

    assert await line_of(store, "owl2") == ["a1", "b1", "c1", "a2", "b2", "a3", "a4"]


async def test_a_higher_priority_goes_first_but_one_turn_in_five_is_left_for_the_next(
    store: Record, clock: Clock
) -> None:
    await fill(store, "n1", "n2", owner="b", clock=clock)
    await fill(store, "low", owner="c", clock=clock, priority="batch")
    await fill(store, *(f"i{n}" for n in range(6)), owner="a", clock=clock, priority="interactive")

    assert await line_of(store, "owl2") == ["i0", "i1", "i2", "i3", "n1", "i4", "i5", "n2", "low"]


async def test_one_turn_in_twenty_five_is_left_for_the_lowest_priority(store: Record, clock: Clock) -> None:
    await fill(store, "low", owner="c", clock=clock, priority="batch")
    for owner in "ab":
        await fill(store, *(f"{owner}{n}" for n in range(15)), owner=owner, clock=clock)

    assert (await line_of(store, "owl2")).index("low") == 24


async def test_an_owner_whose_jobs_were_cancelled_is_not_made_to_wait_for_them(store: Record, clock: Clock) -> None:
    await fill(store, *(f"a{n}" for n in range(9)), owner="a", clock=clock)
    await fill(store, "b1", "b2", "b3", owner="b", clock=clock)
    for n in range(8):
        await store.cancel(f"a{n}")

    assert (await line_of(store, "owl2")).index("a8") <= 1


async def test_a_unit_that_lost_its_worker_keeps_its_place_before_younger_ones(store: Record, clock: Clock) -> None:
    await fill(store, "a1", "a2", "a3", owner="a", clock=clock)
    assert await store.take_next("owl2")
    clock.now += 6
    await store.reap()

    assert await line_of(store, "owl2") == ["a1", "a2", "a3"]


async def test_the_place_of_a_job_is_how_many_are_started_before_it(store: Record, clock: Clock) -> None:
    # Given three owners, and two jobs of a higher priority
    await fill(store, *(f"a{n}" for n in range(5)), owner="a", clock=clock)
    await fill(store, "b0", "b1", owner="b", clock=clock)
    await fill(store, "c0", owner="c", clock=clock)
    told: dict[str, int] = {}
    for job_id in ("a0", "a1", "a4", "b0", "b1", "c0"):
        job = await store.get(job_id)
        assert job is not None
        place = (await store.locate(job)).place
        assert place is not None
        assert place.eta_ms is None
        told[job_id] = place.position

    # When all are started, then each comes when it was said to
    order = await line_of(store, "owl2")
    assert told == {job_id: order.index(job_id) + 1 for job_id in told}
    job = await store.get("a0")
    assert job is not None
    place = (await store.locate(job)).place
    assert place is not None
    assert place.position == 0


async def test_what_is_left_of_a_job_is_learned_from_those_before_it(store: Record, clock: Clock) -> None:
    # Given a queue in which runs take ten seconds, two at a time
    await fill(store, *(f"a{n}" for n in range(9)), owner="a", clock=clock)
    for _ in range(2):
        claims = [await store.take_next("owl2"), await store.take_next("owl2")]
        clock.now += 10
        for claim in claims:
            assert claim is not None
            await store.finish(claim.job_id, "deep", claim.epoch, UnitResult(text="t"))
    assert await store.take_next("owl2")
    clock.now += 4

    async def eta_ms(job_id: str) -> int:
        job = await store.get(job_id)
        assert job is not None
        place = (await store.locate(job)).place
        assert place is not None
        assert place.eta_ms is not None
        return place.eta_ms

    # Then a run that has had four seconds has six left, the next one ten, and so on
    assert await eta_ms("a4") == 6000
    assert await eta_ms("a5") == 10_000
    assert await eta_ms("a6") > 10_000
    assert await eta_ms("a8") - await eta_ms("a7") == pytest.approx(await eta_ms("a7") - await eta_ms("a6"), abs=2)
    # and a job that waits for its merge only has no place any more
    merged = await store.get("a0")
    assert merged is not None
    place = (await store.locate(merged)).place
    assert place is not None
    assert place.position in (1, 2, 3, 4)


async def test_an_owner_with_too_many_unfinished_jobs_is_refused_and_others_are_not(
    store: Record, clock: Clock
) -> None:
    await fill(store, *(f"a{n}" for n in range(20)), owner="a", clock=clock)

    with pytest.raises(QueueFullError) as caught:
        await fill(store, "a20", owner="a", clock=clock)

    assert (caught.value.status_code, caught.value.code) == (429, "queue_full")
    assert caught.value.retry_after_s
    assert "20" in caught.value.message
    assert "20" in caught.value.message_zh
    assert await store.get("a20") is None
    await fill(store, "b0", owner="b", clock=clock)
    # The lines of batches neither fill the owner's place nor find it full.
    await fill(store, "batch", owner="a", clock=clock, priority="batch")
    # One that is known already is no new one, and room is made by whatever ends.
    await fill(store, "a3", owner="a", clock=clock)
    await store.cancel("a3")
    await store.delete("a4")
    await fill(store, "a20", "a21", owner="a", clock=clock)


async def test_a_job_is_overdue_by_its_own_deadline_or_by_the_time_any_job_has(store: Record, clock: Clock) -> None:
    await store.create(make_spec(id="soon", deadline_ms=1500))
    await store.create(make_spec(id="some day"))

    clock.now += 1.4
    assert (await store.reap()).overdue == []
    clock.now += 0.2
    assert (await store.reap()).overdue == [("soon", "deadline")]
    assert (await store.reap()).overdue == []
    clock.now += 1.1
    assert (await store.reap()).overdue == [("soon", "deadline")]
    await store.cancel("soon")
    clock.now += 24 * 3600
    assert (await store.reap()).overdue == [("some day", "expired")]


async def test_whoever_ends_an_overdue_job_must_have_seen_its_last_step(store: Record) -> None:
    spec = make_spec()
    await store.create(spec)
    epoch = await store.claim(spec.id, "draft")
    assert epoch
    read = await store.get(spec.id)
    assert read is not None

    # When the draft comes between reading and ending, nothing is thrown away
    await store.finish(spec.id, "draft", epoch, UnitResult(text="a draft"))
    assert await store.end(read, error={"code": "deadline_exceeded"}) is False

    # and then it is the answer, and nobody else's word counts any more
    fresh = await store.get(spec.id)
    assert fresh is not None
    assert await store.end(fresh, final=FinalAnswer("a draft", "m", "glm", "draft")) is True
    ended = await store.get(spec.id)
    assert ended is not None
    assert (ended.state, ended.units["deep"].state) == ("completed", "cancelled")
    assert await store.take_next("owl2") is None
    assert await store.end(fresh, error={"code": "x"}) is False


PICTURE = ImagePart(b"x" * 64, "image/png", "5" * 64)


def with_picture(**fields: Any) -> JobSpec:
    part = {"type": "image", "sha256": PICTURE.sha256, "media_type": "image/png"}
    return make_spec(messages=[{"role": "user", "parts": [part]}], **fields)


async def has_picture(store: Record) -> bool:
    return bool(await store.get_images([PICTURE.sha256]))


async def test_a_picture_goes_with_the_last_job_that_needs_it_and_not_before(store: Record) -> None:
    first, second = with_picture(), with_picture()
    await store.create(first, [PICTURE])
    await store.create(second, [PICTURE])

    await store.delete(first.id)
    assert await has_picture(store)
    await store.delete(second.id)
    assert not await has_picture(store)


async def test_an_answer_without_a_job_holds_its_picture_too(store: Record) -> None:
    spec = with_picture(branches=(BranchPlan("fast", "glm"),))
    await store.put_finished(Job(spec, "completed", {}, 1.0, completed_at=2.0), [PICTURE])
    assert await has_picture(store)

    await store.delete(spec.id)

    assert not await has_picture(store)


async def test_what_is_kept_goes_when_its_time_is_over_the_pictures_first(store: Record, clock: Clock) -> None:
    spec = with_picture()
    await store.create(spec, [PICTURE])
    await store.cancel(spec.id)

    clock.now += 24 * 3600 - 1
    await store.reap()
    assert await has_picture(store)
    clock.now += 2
    await store.reap()
    assert not await has_picture(store)
    assert await store.get(spec.id) is not None
    clock.now += 6 * 24 * 3600
    await store.reap()
    assert await store.get(spec.id) is None
    assert await store.read_events(spec.id) == []


async def test_a_job_that_is_not_to_be_stored_goes_after_minutes_with_its_picture(store: Record, clock: Clock) -> None:
    spec = with_picture(is_stored=False)
    await store.create(spec, [PICTURE])
    await store.cancel(spec.id)

    clock.now += UNSTORED_TTL_S + 1
    await store.reap()

    assert await store.get(spec.id) is None
    assert not await has_picture(store)


class LosesOnce(JobStore):
    """The last job that needed the picture is deleted just before a new one begins to hold it."""

    is_lost = False

    async def put_images(self, images: Any) -> None:
        await super().put_images(images)
        if not self.is_lost:
            self.is_lost = True
            await self.redis.delete(f"{PREFIX}blob:{PICTURE.sha256}")


async def test_a_picture_that_goes_just_before_it_is_held_is_put_again(redis_url: str) -> None:
    redis = Redis.from_url(redis_url)
    store = LosesOnce(redis)

    await store.create(with_picture(), [PICTURE])

    assert await store.get_images([PICTURE.sha256]) == {PICTURE.sha256: PICTURE.data}
    await redis.aclose()


async def test_a_picture_that_no_job_holds_goes_soon_and_one_that_is_held_does_not(redis_store: JobStore) -> None:
    key = f"{PREFIX}blob:{PICTURE.sha256}"
    await redis_store.put_images([PICTURE])
    assert 0 < await redis_store.redis.ttl(key) <= BLOB_GRACE_S

    spec = with_picture()
    await redis_store.create(spec, [PICTURE])
    await redis_store.put_images([PICTURE])

    assert await redis_store.redis.ttl(key) > 7 * 24 * 3600


async def test_no_key_of_a_job_lives_for_ever_even_if_no_reaper_ever_runs(redis_store: JobStore) -> None:
    await redis_store.create(with_picture(), [PICTURE])

    keys = [key async for key in redis_store.redis.scan_iter(f"{PREFIX}*")]
    immortal = {key.decode().removeprefix(PREFIX) for key in keys if await redis_store.redis.ttl(key) < 0}
    sets = {"agenda", "queues", "unfinished"}
    assert {name for name in immortal if not name.startswith(("line:", "turns:"))} == sets


async def test_a_failed_job_that_is_begun_again_waits_runs_and_ends_like_a_new_one(store: Record, clock: Clock) -> None:
    spec = with_picture(branches=DEEP_ALONE)
    await store.create(spec, [PICTURE])
    epoch = await store.claim(spec.id, "deep")
    assert epoch
    await store.finish(spec.id, "deep", epoch, UnitResult(error={"code": "x"}))
    merge = await store.claim(spec.id, "merge")
    assert merge
    await store.complete(spec.id, merge, error={"code": "x"})
    failed = await store.get(spec.id)
    assert failed is not None

    assert await store.retry(failed) == "failed"
    assert await store.retry(failed) == "queued"

    claim = await store.take_next("owl2")
    assert claim is not None
    assert claim.epoch == epoch + 1
    assert [event.kind for event in await store.read_events(spec.id)] == ["queued", "started"]
    clock.now += 24 * 3600
    assert (await store.reap()).overdue == [(spec.id, "expired")]
    assert await has_picture(store)


async def test_a_failed_job_is_not_begun_again_beside_as_many_as_its_owner_may_have(redis_store: JobStore) -> None:
    spec = make_spec(branches=DEEP_ALONE)
    await redis_store.create(spec)
    await redis_store.finish(
        spec.id, "deep", await redis_store.claim(spec.id, "deep") or 0, UnitResult(error={"code": "x"})
    )
    await redis_store.complete(spec.id, await redis_store.claim(spec.id, "merge") or 0, error={"code": "x"})
    failed = await redis_store.get(spec.id)
    assert failed is not None
    await redis_store.create(make_spec())

    with pytest.raises(QueueFullError, match=r"\b1\b"):
        await redis_store.retry(failed, Terms(max_unfinished=1))

    assert await redis_store.get(spec.id) == failed
    assert await redis_store.retry(failed, Terms(max_unfinished=2)) == "failed"


NEWER = {"from_the_future": {"a": 1}}


async def test_lines_of_a_batch_stand_in_a_list_of_their_own(redis_store: JobStore) -> None:
    store = redis_store
    lines = [make_spec(id=f"resp_{number}", priority="batch", batch_id="batch_1") for number in range(3)]
    other = make_spec(priority="batch", batch_id="batch_2")
    alone = make_spec()
    for spec in (*lines, other, alone):
        await store.create(spec)
    await finish_all(store, lines[0])

    async def listed(batch_id: str = "") -> set[str]:
        page = await store.list_jobs("local", batch_id=batch_id)
        assert page is not None
        return {job.id for job in page.jobs}

    assert await listed() == {alone.id}
    assert await listed("batch_1") == {spec.id for spec in lines}
    await store.cancel(lines[1].id)
    await store.delete(lines[2].id)
    assert await listed("batch_1") == {lines[0].id, lines[1].id}
    assert await listed("batch_2") == {other.id}
    for spec in (*lines, other, alone):
        await store.delete(spec.id)
    assert await store.redis.keys(f"{PREFIX}jobs:*") == []


def test_records_of_newer_and_older_releases_are_read() -> None:
    spec = make_spec(output_format=OutputFormat("json_object"), priority="batch", deadline_ms=5)
    data = orjson.loads(orjson.dumps(spec.to_dict()))
    newer = {
        **data,
        **NEWER,
        "sampling": {**data["sampling"], **NEWER},
        "branches": [{**branch, **NEWER} for branch in data["branches"]],
        "output_format": {**data["output_format"], **NEWER},
    }
    assert JobSpec.from_dict(newer) == spec

    for name in ("priority", "deadline_ms", "keep_s", "adapter", "output_format", "metadata"):
        del data[name]
    data["sampling"] = {"max_tokens": 7}
    older = JobSpec.from_dict(data)
    assert (older.priority, older.deadline_ms, older.output_format) == ("normal", None, None)
    assert older.sampling == SamplingParams(max_tokens=7)

    result, final = UnitResult(text="t"), FinalAnswer("t", "m", "glm", "deep", degraded=("d",))
    usage = {**NEWER, "prompt_tokens": 0}
    assert UnitResult.from_dict({**result.to_dict(), **NEWER, "usage": usage}) == result
    assert FinalAnswer.from_dict({**final.to_dict(), **NEWER, "usage": usage}) == final
    assert UnitResult.from_dict({"text": "t"}) == result
    assert FinalAnswer.from_dict({"text": "t", "model": "m", "engine": "glm", "strategy": "deep"}).degraded == ()


async def test_a_connection_that_uvloop_finds_closed_is_a_503_too() -> None:
    async def fail(message: str) -> None:
        raise RuntimeError(message)

    with pytest.raises(QueueUnavailableError):
        await guard(fail("unable to perform operation on <UnixTransport closed=True>; the handler is closed"))
    with pytest.raises(RuntimeError, match="a bug"):
        await guard(fail("a bug"))


async def test_redis_that_does_not_answer_is_a_503_not_a_crash() -> None:
    redis = Redis.from_url("unix:///nonexistent/redis.sock")
    store = JobStore(redis)

    with pytest.raises(QueueUnavailableError) as caught:
        await store.get("resp_x")

    assert caught.value.status_code == 503
    assert caught.value.retry_after_s
    await redis.aclose()


THREE = (
    BranchPlan("draft", "glm"),
    BranchPlan("deep-1", "owl2", pictures=(1, 2)),
    BranchPlan("deep-2", "owl2", pictures=(3, 4)),
)


async def answer(store: Record, job_id: str, *units: str) -> None:
    for unit in units:
        epoch = await store.claim(job_id, unit)
        assert epoch
        await store.finish(job_id, unit, epoch, UnitResult(text="t", model="m"))


async def states(store: Record, job_id: str) -> dict[str, str]:
    job = await store.get(job_id)
    assert job is not None
    return {name: unit.state for name, unit in job.units.items()}


async def test_a_job_that_has_its_answer_waits_a_moment_for_what_it_can_do_without(store: Record, clock: Clock) -> None:
    spec = make_spec()
    await store.create(spec)
    epoch = await store.claim(spec.id, "draft")
    assert epoch
    assert await store.append(spec.id, "draft", epoch, "a word", piece=1)
    await answer(store, spec.id, "deep")

    clock.now += 1.9
    assert sent(await store.reap()) == {}
    clock.now += 0.2
    assert sent(await store.reap()) == {"light": 1}

    # The draft counts as failed, its run may write nothing more, and the merge is due.
    assert await states(store, spec.id) == {"draft": "failed", "deep": "completed", "merge": "queued"}
    assert await store.renew(spec.id, "draft", epoch) is False
    job = await store.get(spec.id)
    assert job is not None
    result = job.units["draft"].result
    assert result is not None
    assert result.error is not None
    error = result.error
    assert (error["code"], error["status"], error["retryable"]) == ("not_awaited", 504, True)


@pytest.mark.parametrize("strategy", ["compose", "fields"])
async def test_what_is_part_of_the_answer_is_waited_for_unless_its_engine_is_down(
    store: Record, clock: Clock, strategy: str
) -> None:
    patient, hurried = (make_spec(strategy=strategy) for _ in range(2))
    for spec in (patient, hurried):
        await store.create(spec)
        await answer(store, spec.id, "deep")
        if spec is patient:
            clock.now += 29.9
            assert sent(await store.reap()) == {}
            clock.now += 0.2
            assert list(sent(await store.reap()).values()) == [1]

    clock.now += 2.1
    assert sent(await store.reap(frozenset({"owl2"}))) == {}
    clock.now += 1
    assert list(sent(await store.reap(frozenset({"glm"}))).values()) == [1]


@pytest.mark.parametrize(("began_ago_s", "waits_s"), [(0.0, 1.0), (0.7, 0.3), (60.0, 0.0)])
@pytest.mark.parametrize(("strategy", "down"), [("deep", ()), ("compose", ("glm",))])
async def test_a_run_that_has_said_nothing_counts_from_its_beginning(
    store: Record, clock: Clock, strategy: str, down: tuple[str, ...], began_ago_s: float, waits_s: float
) -> None:
    # Given a first run that said a word and was lost, and a second one that says nothing
    spec = make_spec(strategy=strategy)
    await store.create(spec)
    epoch = await store.claim(spec.id, "draft") or 0
    assert await store.append(spec.id, "draft", epoch, "a word", piece=1)
    await store.release(spec.id, "draft", epoch, "handed back")
    epoch = await store.claim(spec.id, "draft") or 0
    clock.now += began_ago_s
    assert await store.renew(spec.id, "draft", epoch)

    deep = await store.claim(spec.id, "deep") or 0
    is_due = await store.finish(spec.id, "deep", deep, UnitResult(text="t", model="m"))

    # Who ends the answer hears at once that it is time to merge; whether an engine is down only the reaper knows.
    assert is_due == (strategy == "deep" and waits_s == 0)
    if not is_due and waits_s:
        clock.now += waits_s - 0.1
        assert sent(await store.reap(frozenset(down))) == {}
        clock.now += 0.2
    if not is_due:
        assert sent(await store.reap(frozenset(down))) == {"light": 1}
    assert await states(store, spec.id) == {"draft": "failed", "deep": "completed", "merge": "queued"}


@pytest.mark.parametrize(
    ("strategy", "delay_s", "is_awaited"),
    [("deep", 1.5, True), ("deep", 2.5, False), ("compose", 25.0, True), ("compose", 40.0, False)],
)
async def test_a_full_engine_is_not_waited_for_if_it_is_asked_again_too_late(
    store: Record, clock: Clock, strategy: str, delay_s: float, is_awaited: bool
) -> None:
    spec = make_spec(strategy=strategy)
    await store.create(spec)
    epoch = await store.claim(spec.id, "draft") or 0
    assert await store.release(spec.id, "draft", epoch, "full", delay_s=delay_s)

    await answer(store, spec.id, "deep")

    assert (await states(store, spec.id))["draft"] == ("queued" if is_awaited else "failed")


@pytest.mark.parametrize(
    ("ended", "changes", "queue"),
    [
        ({"draft": "t", "deep": "t"}, {}, "glm"),
        ({"draft": "", "deep": "t"}, {}, "light"),
        ({"draft": "t", "deep": ""}, {}, "light"),
        ({"draft": "", "deep": ""}, {}, "light"),
        # Only GLM can put Owl2's prose into the form that was asked for.
        ({"draft": "", "deep": "t"}, {"sampling": SamplingParams(json_schema="{}")}, "glm"),
        ({"draft": "", "deep": "t"}, {"strategy": "fields"}, "glm"),
        ({"draft": "", "deep": "t"}, {"strategy": "deep"}, "light"),
        ({"draft": "", "thinking": "t", "deep": "t"}, {}, "glm"),
        ({"draft": "", "thinking": "", "deep": "t"}, {}, "light"),
        ({"draft": "", "deep-1": "t", "deep-2": "t"}, {"branches": THREE}, "glm"),
    ],
)
async def test_a_merge_that_has_nothing_to_compose_from_does_not_wait_for_glms_workers(
    store: Record, ended: dict[str, str], changes: dict[str, Any], queue: str
) -> None:
    panel = (PAIR[0], BranchPlan("thinking", "glm", enable_thinking=True), PAIR[1])
    spec = make_spec(**{"strategy": "compose", "branches": panel if "thinking" in ended else PAIR, **changes})
    await store.create(spec)
    claims = {unit: await store.claim(spec.id, unit) or 0 for unit in ended}

    for unit, text in ended.items():
        await store.finish(spec.id, unit, claims[unit], UnitResult(text=text, error=None if text else {"code": "x"}))

    job = await store.get(spec.id)
    assert job is not None
    assert job.queue_of("merge") == queue
    assert {name: depth for name, depth in (await store.depths()).items() if depth} == {queue: 1}


async def test_a_draft_is_waited_for_to_its_end_while_the_answer_is_missing(store: Record, clock: Clock) -> None:
    failed, half, alone = make_spec(), make_spec(branches=THREE), make_spec(branches=PAIR[:1], strategy="single")
    for spec in (failed, half, alone):
        await store.create(spec)
    epoch = await store.claim(failed.id, "deep")
    assert epoch
    await store.finish(failed.id, "deep", epoch, UnitResult(error={"code": "x"}))
    await answer(store, half.id, "deep-1")

    clock.now += 3600
    assert sent(await store.reap(frozenset({"glm"}))) == {}

    await answer(store, half.id, "deep-2")
    clock.now += 2.1
    assert sent(await store.reap()) == {half.merge_queue: 1}


async def test_a_job_that_has_its_answer_still_ends_at_its_deadline(store: Record, clock: Clock) -> None:
    spec = make_spec(strategy="compose", deadline_ms=4000)
    await store.create(spec)
    await answer(store, spec.id, "deep")
    clock.now += 2.1
    assert sent(await store.reap()) == {}
    clock.now += 2

    assert (await store.reap()).overdue == [(spec.id, "deadline")]


async def test_a_draft_that_comes_in_time_is_part_of_the_merge_and_the_job_expires_when_it_should(
    store: Record, clock: Clock
) -> None:
    spec = make_spec()
    await store.create(spec)
    await answer(store, spec.id, "deep", "draft")
    clock.now += 2.1
    assert sent(await store.reap()) == {}
    clock.now += 24 * 3600

    assert (await store.reap()).overdue == [(spec.id, "expired")]


async def test_an_engine_that_is_away_costs_no_run_and_is_asked_less_and_less_often(
    store: Record, clock: Clock
) -> None:
    spec = make_spec()
    await store.create(spec)
    waits: list[float] = []
    for _ in range(7):
        epoch = await store.claim(spec.id, "deep")
        assert epoch
        assert await store.release(spec.id, "deep", epoch, "away", delay_s=1, max_delay_s=30)
        began = clock.now
        while not sent(await store.reap()):
            clock.now += 0.5
        waits.append(clock.now - began)

    assert waits == [1, 2, 4, 8, 16, 30, 30]
    job = await store.get(spec.id)
    assert job is not None
    assert (job.units["deep"].state, job.units["deep"].failures) == ("queued", 0)


async def test_the_patience_with_an_engine_that_is_away_ends_and_begins_anew_once_it_was_there(
    store: Record, clock: Clock
) -> None:
    spec = make_spec()
    await store.create(spec)

    async def run(why: Why) -> bool:
        epoch = await store.claim(spec.id, "deep")
        assert epoch
        return await store.release(spec.id, "deep", epoch, why)

    assert await run("away")
    clock.now += 299
    assert await run("full")
    clock.now += 2
    assert await run("away")
    clock.now += 299
    assert await run("handed back")
    clock.now += 1
    assert await run("away") is False


async def test_whoever_waits_for_an_engine_that_is_back_is_in_line_at_once(store: Record) -> None:
    away, full, other = (make_spec() for _ in range(3))
    for spec, unit, why in ((away, "deep", "away"), (full, "deep", "full"), (other, "draft", "away")):
        await store.create(spec)
        epoch = await store.claim(spec.id, unit)
        assert epoch
        await store.release(spec.id, unit, epoch, cast("Why", why), delay_s=30)

    before = await store.depths()
    assert await store.wake("owl2") == 1

    assert await store.depths() == {**before, "owl2": before.get("owl2", 0) + 1}
    assert await store.claim(away.id, "deep") == 2
    assert await store.wake("owl2") == 0


async def test_a_deadline_never_outlives_the_time_that_any_job_has(store: Record, clock: Clock) -> None:
    spec = make_spec(deadline_ms=48 * 3600 * 1000)
    await store.create(spec)

    clock.now += 24 * 3600 + 1

    assert (await store.reap()).overdue == [(spec.id, "expired")]

"""Endpoints and deliveries against a real redis and a clock of the test's own."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, cast

import orjson
import pytest
from redis.asyncio import Redis

from engines.origin import NOWHERE, Origin
from router.errors import QueueUnavailableError
from router.jobs.job import JobSpec
from router.jobs.results import FinalAnswer
from router.jobs.store import JobStore
from router.lua.constants import LOG_TTL_S, MAX_AGE_S, MAX_LOG
from router.redis import PREFIX
from router.telemetry.fleet import Fleet
from router.telemetry.meters import CountingMeters
from router.webhooks.records import EVENT_TYPES, MAX_ENDPOINTS, Attempt, Claim, Delivery, Full
from router.webhooks.store import WebhookStore
from tests.support.clock import Clock
from tests.support.jobs import finish_all, make_spec

URL = "https://hooks.example/here"
OK = Attempt(1, 1.0, 204, 12)
BROKEN = Attempt(1, 1.0, 500, 12, "the receiver answered 500", "对方返回 500")


@pytest.fixture
async def jobs(redis: Redis, clock: Clock) -> JobStore:
    return JobStore(redis, clock=clock)


@pytest.fixture
async def store(redis: Redis, clock: Clock) -> WebhookStore:
    return WebhookStore(redis, clock=clock)


async def register(store: WebhookStore, owner: str = "local", types: tuple[str, ...] = EVENT_TYPES) -> str:
    created = await store.create_endpoint(owner, name="n", url=URL, event_types=types)
    assert created is not None
    return created[0].id


async def end(jobs: JobStore, spec: JobSpec, state: str = "completed") -> bool:
    """Run a job to its end; returns whether deliveries are due."""
    await jobs.create(spec)
    if state == "cancelled":
        await jobs.cancel(spec.id)
        return True
    await finish_all(jobs, spec)
    epoch = await jobs.claim(spec.id, "merge")
    assert epoch
    if state == "failed":
        return await jobs.complete(spec.id, epoch, error={"code": "x", "message": "y"})
    reason = "length" if state == "incomplete" else "stop"
    return await jobs.complete(spec.id, epoch, final=FinalAnswer("d", "m", "owl2", "deep", finish_reason=reason))


async def deliveries(store: WebhookStore, owner: str = "local") -> list[Delivery]:
    page = await store.list_deliveries(owner, limit=100)
    assert page is not None
    return page[0]


async def take(store: WebhookStore) -> Claim | None:
    return await store.take_next(lease_s=25)


async def claim(store: WebhookStore) -> Claim:
    claimed = await take(store)
    assert claimed is not None
    return claimed


async def planned(store: WebhookStore) -> str:
    """Return the id of the one delivery there is."""
    [delivery] = await deliveries(store)
    return delivery.id


# What a job's end plans


@pytest.mark.parametrize("state", ["completed", "failed", "cancelled", "incomplete"])
async def test_the_end_of_a_job_plans_its_event_in_the_same_step(
    store: WebhookStore, jobs: JobStore, clock: Clock, state: str
) -> None:
    spec = make_spec(webhook_url=URL)

    assert await end(jobs, spec, state) is True

    claimed = await claim(store)
    assert claimed.url == URL
    assert orjson.loads(claimed.body) == {
        "id": claimed.event_id,
        "object": "event",
        "created_at": int(clock.now),
        "type": f"response.{state}",
        "data": {"id": spec.id},
    }
    assert claimed.event_id.startswith("evt_")


async def test_an_event_names_the_request_that_its_job_came_with(store: WebhookStore, jobs: JobStore) -> None:
    await register(store)
    origin = Origin("my id", "", f"00-{'a' * 32}-{'b' * 16}-01", "vendor=1")
    await end(jobs, make_spec(webhook_url=URL, origin=origin))
    assert [(await claim(store)).origin for _ in range(2)] == [origin, origin]
    await end(jobs, make_spec(webhook_url=URL))  # as an earlier release accepted it, or of no request
    assert (await claim(store)).origin == NOWHERE


async def test_a_job_that_nobody_wants_to_hear_of_plans_nothing_and_leaves_no_key(
    store: WebhookStore, jobs: JobStore
) -> None:
    await register(store, owner="somebody else")
    await register(store, types=("response.failed",))

    assert await end(jobs, make_spec()) is False

    assert await take(store) is None
    assert [key async for key in store.redis.scan_iter(f"{PREFIX}deliver*")] == []


async def test_a_job_tells_its_own_url_and_every_endpoint_of_its_owner_that_asked(
    store: WebhookStore, jobs: JobStore
) -> None:
    all_events, completed = await register(store), await register(store, types=("response.completed",))
    await register(store, types=("response.failed",))
    await register(store, owner="bob")
    off = await register(store)
    await store.update_endpoint("local", off, {"status": "disabled"})

    await end(jobs, make_spec(webhook_url=URL))

    planned = await deliveries(store)
    assert {delivery.endpoint_id for delivery in planned} == {"", all_events, completed}
    assert len({delivery.event_id for delivery in planned}) == 1
    assert len({delivery.id for delivery in planned}) == 3
    assert await deliveries(store, "bob") == []


async def test_deleting_the_job_neither_loses_nor_brings_back_a_delivery(store: WebhookStore, jobs: JobStore) -> None:
    spec = make_spec(webhook_url=URL)
    await end(jobs, spec)
    await jobs.delete(spec.id)

    claimed = await claim(store)
    assert spec.id.encode() in claimed.body
    await store.record(claimed, OK, retry_in_s=None)

    assert await take(store) is None
    assert await jobs.get(spec.id) is None


async def test_an_event_told_twice_is_one(store: WebhookStore) -> None:
    await register(store)
    told = [await store.emit("local", "response.completed", {"id": "resp_1"}, created_at=7) for _ in range(2)]
    assert told == [1, 0]
    assert await store.emit("local", "response.failed", {"id": "resp_1"}) == 1


async def test_an_event_of_another_part_goes_to_its_own_url_too_and_keeps_its_data(store: WebhookStore) -> None:
    assert await store.emit("local", "batch.completed", {"id": "batch_1", "more": 2}, url=URL, created_at=7.9) == 1
    event = orjson.loads((await claim(store)).body)
    assert event["created_at"] == 7
    assert event["data"] == {"id": "batch_1", "more": 2}


# Claims, outcomes, retries


async def planned_one(store: WebhookStore) -> str:
    await store.emit("local", "response.completed", {"id": "resp_1"}, url=URL)
    return await planned(store)


async def test_only_one_worker_makes_an_attempt(store: WebhookStore) -> None:
    await planned_one(store)
    await claim(store)
    assert await take(store) is None


async def test_a_delivered_event_is_never_sent_again_and_its_log_lives_for_a_while(
    store: WebhookStore, clock: Clock
) -> None:
    due = await planned_one(store)
    assert await store.record(await claim(store), OK, retry_in_s=None) == "succeeded"

    clock.now += 30 * 24 * 3600
    assert await take(store) is None
    for key in (f"{PREFIX}delivery:{due}", f"{PREFIX}delivery_attempts:{due}"):
        assert 0 < await store.redis.ttl(key) <= LOG_TTL_S
    delivery = await store.get_delivery("local", due)
    assert delivery is not None
    assert (delivery.state, delivery.next_attempt_at, delivery.attempts) == ("succeeded", None, (OK,))


async def test_an_attempt_of_a_newer_release_is_read_without_what_it_added(store: WebhookStore) -> None:
    @dataclass(frozen=True, slots=True)
    class NewerAttempt(Attempt):
        colour: str = "red"

    due = await planned_one(store)
    newer = NewerAttempt(**asdict(OK))
    assert await store.record(await claim(store), newer, retry_in_s=None) == "succeeded"

    delivery = await store.get_delivery("local", due)
    assert delivery is not None
    assert delivery.attempts == (OK,)


async def test_a_failed_attempt_is_made_again_when_due_and_not_before(store: WebhookStore, clock: Clock) -> None:
    await planned_one(store)
    first = await claim(store)
    assert await store.record(first, BROKEN, retry_in_s=300) == "pending"

    clock.now += 299
    assert await take(store) is None  # a message that came twice does not jump the wait
    clock.now += 2
    second = await claim(store)
    assert (second.event_id, second.body) == (first.event_id, first.body)
    assert (second.number, second.failures, second.epoch) == (2, 1, 2)


async def test_a_worker_killed_after_the_post_makes_the_event_come_again_under_the_same_id(
    store: WebhookStore, clock: Clock
) -> None:
    due = await planned_one(store)
    first = await claim(store)  # posted, and then the worker is gone

    clock.now += 24
    assert await take(store) is None
    clock.now += 2
    second = await claim(store)

    assert second.event_id == first.event_id
    assert await store.record(first, OK, retry_in_s=None) is None  # the dead one's word comes too late
    assert await store.record(second, OK, retry_in_s=None) == "succeeded"
    delivery = await store.get_delivery("local", due)
    assert delivery is not None
    lost, done = delivery.attempts
    assert lost.number == 1
    assert lost.error is not None
    assert "lost" in lost.error
    assert done == OK


async def test_a_worker_thought_dead_may_still_say_that_it_delivered_if_nobody_tried_since(
    store: WebhookStore, clock: Clock
) -> None:
    due = await planned_one(store)
    slow = await claim(store)
    clock.now += 26
    assert await store.take_next(lease_s=25, full=Full(owners=("local",))) is None  # found lost, and no place for it
    delivery = await store.get_delivery("local", due)
    assert delivery is not None
    assert delivery.state == "pending"

    assert await store.record(slow, OK, retry_in_s=None) == "succeeded"
    assert await take(store) is None
    assert await store.record(slow, OK, retry_in_s=None) is None


async def test_an_outcome_told_twice_counts_once(store: WebhookStore) -> None:
    due = await planned_one(store)
    claimed = await claim(store)
    assert await store.record(claimed, BROKEN, retry_in_s=5) == "pending"
    assert await store.record(claimed, BROKEN, retry_in_s=5) is None
    delivery = await store.get_delivery("local", due)
    assert delivery is not None
    assert len(delivery.attempts) == 1


async def test_what_waits_is_due_until_somebody_takes_it(store: WebhookStore, clock: Clock) -> None:
    assert await store.is_due() is False
    await planned_one(store)
    assert await store.is_due() is True
    assert await store.take_next(lease_s=25, full=Full(hosts=("hooks.example",))) is None
    assert await store.is_due() is True  # in its line now
    claimed = await claim(store)
    assert await store.is_due() is False
    await store.record(claimed, BROKEN, retry_in_s=300)
    assert await store.is_due() is False
    clock.now += 301
    assert await store.is_due() is True


# Whose turn it is


async def emit_all(store: WebhookStore, *receivers: tuple[str, str]) -> None:
    for number, (owner, url) in enumerate(receivers):
        await store.emit(owner, "response.completed", {"id": f"resp_{number}"}, url=url)


async def taken(store: WebhookStore, number: int) -> list[tuple[str, str]]:
    claims = [await claim(store) for _ in range(number)]
    assert await take(store) is None
    return [(each.owner, each.url) for each in claims]


async def test_owners_take_turns_and_so_do_an_owners_hosts(store: WebhookStore, clock: Clock) -> None:
    crowd = [("ann", f"https://a.example/{number}") for number in range(4)]
    for number, (owner, url) in enumerate([*crowd, ("ann", "https://b.example/"), ("bob", "https://a.example/")]):
        clock.now += 1
        await store.emit(owner, "response.completed", {"id": f"resp_{number}"}, url=url)

    order = await taken(store, 6)

    assert order[:3] == [crowd[0], ("bob", "https://a.example/"), ("ann", "https://b.example/")]
    assert order[3:] == crowd[1:]
    assert [key async for key in store.redis.scan_iter(f"{PREFIX}delivery_*")] == []  # nothing is left of the lines


@pytest.mark.parametrize(
    ("full", "left"),
    [
        (Full(owners=("ann",)), [("bob", "a.example"), ("bob", "b.example")]),
        (Full(hosts=("a.example",)), [("ann", "b.example"), ("bob", "b.example")]),
        (Full(lines=("ann|a.example",)), [("bob", "a.example"), ("ann", "b.example"), ("bob", "b.example")]),
    ],
)
async def test_whoever_has_enough_under_way_is_passed_over(
    store: WebhookStore, full: Full, left: list[tuple[str, str]]
) -> None:
    everyone = [(owner, f"https://{host}.example/") for owner in ("ann", "bob") for host in "ab"]
    await emit_all(store, *everyone)

    claims = []
    while (claimed := await store.take_next(lease_s=25, full=full)) is not None:
        claims.append((claimed.owner, claimed.host))

    assert sorted(claims) == sorted(left)
    assert await store.is_due() is True


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://Hooks.Example:8443/a?b=c", "hooks.example"),
        ("http://hooks.example", "hooks.example"),
        ("http://hooks.example.?x", "hooks.example"),
        ("http://hooks.example.:80#x", "hooks.example"),
        ("http://10.0.0.1:81/x:y", "10.0.0.1"),
        ("http://[2001:DB8::1]:8080/", "[2001:db8::1]"),
        ("https://中文.example/", "中文.example"),
    ],
)
async def test_one_host_has_one_line_however_its_url_is_written(store: WebhookStore, url: str, host: str) -> None:
    await emit_all(store, ("ann", url))
    assert (await claim(store)).host == host


async def test_more_than_one_call_lines_up_delays_nobody_behind_it(store: WebhookStore, clock: Clock) -> None:
    await emit_all(store, *[("ann", f"https://a.example/{number}") for number in range(250)])
    clock.now += 1
    await emit_all(store, ("bob", "https://b.example/"))

    claimed = await store.take_next(lease_s=25, full=Full(owners=("ann",)))

    assert claimed is not None
    assert claimed.owner == "bob"


async def test_many_that_need_no_attempt_any_more_are_ended_on_the_way(store: WebhookStore) -> None:
    endpoint = await register(store)
    for number in range(250):
        await store.emit("local", "response.completed", {"id": f"resp_{number}"})
    await store.delete_endpoint("local", endpoint)
    await emit_all(store, ("local", URL))

    assert (await claim(store)).url == URL

    assert await take(store) is None
    assert {each.failure for each in await deliveries(store)} == {"", "endpoint_deleted"}


async def test_an_event_is_given_up_when_the_next_attempt_would_come_too_late(
    store: WebhookStore, clock: Clock
) -> None:
    due = await planned_one(store)
    clock.now += MAX_AGE_S - 100
    assert await store.record(await claim(store), BROKEN, retry_in_s=101) == "failed"
    delivery = await store.get_delivery("local", due)
    assert delivery is not None
    assert (delivery.state, delivery.failure, delivery.next_attempt_at) == ("failed", "gave_up", None)
    assert await store.redis.ttl(f"{PREFIX}delivery:{due}") > 0


async def test_attempts_are_counted_by_what_became_of_their_deliveries(
    store: WebhookStore, redis: Redis, clock: Clock
) -> None:
    # Given somebody who asks for metrics
    meters = CountingMeters()
    fleet = Fleet(redis, meters, clock, patience_s=60)
    await fleet.look()

    # When a receiver fails once, then for too long; another succeeds; and one fails whose endpoint is gone
    await planned_one(store)
    await store.record(await claim(store), BROKEN, retry_in_s=5)
    clock.now += MAX_AGE_S - 100
    await store.record(await claim(store), BROKEN, retry_in_s=101)
    endpoint_id = await register(store)
    await store.emit("local", "response.completed", {"id": "resp_2"})
    await store.record(await claim(store), OK, retry_in_s=None)
    await store.emit("local", "response.failed", {"id": "resp_3"})
    attempt = await claim(store)
    await store.delete_endpoint("local", endpoint_id)
    await store.record(attempt, BROKEN, retry_in_s=5)

    await fleet.look()
    counted = {
        outcome: meters.registry.prometheus.get_sample_value("glowl_webhook_attempts_total", {"outcome": outcome})
        for outcome in ("succeeded", "pending", "failed")
    }
    assert counted == {"succeeded": 1, "pending": 1, "failed": 2}


async def test_an_event_that_waited_longer_than_its_age_limit_is_still_tried_once(
    store: WebhookStore, clock: Clock
) -> None:
    await planned_one(store)
    clock.now += 2 * MAX_AGE_S  # every worker was off
    assert await store.record(await claim(store), OK, retry_in_s=None) == "succeeded"


async def test_a_job_that_is_begun_again_and_fails_again_is_told_again(store: WebhookStore, jobs: JobStore) -> None:
    spec = make_spec(webhook_url=URL)
    await end(jobs, spec, "failed")
    failed = await jobs.get(spec.id)
    assert failed is not None
    assert await jobs.retry(failed) == "failed"

    await finish_all(jobs, spec)
    assert await jobs.complete(spec.id, await jobs.claim(spec.id, "merge") or 0, error={"code": "x", "message": "y"})

    # Two ends, two events: whoever has seen the first must not take the second for it
    told = await deliveries(store)
    assert [each.event_type for each in told] == ["response.failed"] * 2
    assert len({each.event_id for each in told}) == 2


# How much is kept


@pytest.mark.parametrize(
    ("num_kept", "is_done", "is_first_left"),
    [(MAX_LOG, True, False), (MAX_LOG, False, True), (2 * MAX_LOG, False, False)],
)
async def test_of_an_owners_deliveries_the_oldest_are_forgotten_and_those_to_be_made_last(
    store: WebhookStore, clock: Clock, num_kept: int, is_done: bool, is_first_left: bool
) -> None:
    # Given an owner's first delivery, and all that are kept beside it
    first = await planned_one(store)
    if is_done:
        await store.record(await claim(store), BROKEN, retry_in_s=None)
    clock.now += 1
    fill = """
for number = 1, tonumber(ARGV[1]) do
  redis.call('ZADD', KEYS[1] .. 'webhook_log:local', ARGV[2], 'whd_' .. number)
  redis.call('HSET', KEYS[1] .. 'delivery:whd_' .. number, 'state', 'pending')
end"""
    await cast("Any", store.redis.eval(fill, 1, PREFIX, str(num_kept), str(clock.now)))

    clock.now += 1
    assert await store.emit("local", "response.completed", {"id": "resp_2"}, url=URL) == 1

    assert (await store.get_delivery("local", first) is not None) is is_first_left
    keys = (f"{PREFIX}delivery:{first}", f"{PREFIX}delivery_attempts:{first}")
    assert (await store.redis.exists(*keys) > 0) is is_first_left
    left = [(await claim(store)).body for _ in range(1 + is_first_left)]
    assert b"resp_2" in left[-1]
    assert await take(store) is None


# Endpoints between attempts


async def to_endpoint(store: WebhookStore) -> tuple[str, str]:
    endpoint = await register(store)
    await store.emit("local", "response.completed", {"id": "resp_1"})
    return endpoint, await planned(store)


async def test_a_receiver_that_is_gone_disables_its_endpoint_and_what_else_waits_for_it_is_given_up(
    store: WebhookStore,
) -> None:
    endpoint_id, _ = await to_endpoint(store)
    await store.emit("local", "response.completed", {"id": "resp_2"})
    gone = Attempt(1, 1.0, 410, 3, "the receiver answered 410", "对方返回 410")
    claimed = await claim(store)
    due = claimed.delivery_id

    assert await store.record(claimed, gone, retry_in_s=None, is_gone=True) == "failed"

    endpoint = await store.get_endpoint("local", endpoint_id)
    assert endpoint is not None
    assert endpoint.status == "disabled"
    [other] = [each.id for each in await deliveries(store) if each.id != due]
    assert await take(store) is None
    assert {each.id: each.failure for each in await deliveries(store)} == {due: "gone", other: "endpoint_disabled"}
    assert await store.emit("local", "response.completed", {"id": "resp_3"}) == 0
    # Only its owner can say that it is back.
    assert await store.redeliver("local", other) is False
    await store.update_endpoint("local", endpoint_id, {"status": "enabled"})
    assert await store.redeliver("local", other) is True
    await claim(store)


async def test_a_deleted_endpoint_gets_nothing_more(store: WebhookStore) -> None:
    endpoint_id, due = await to_endpoint(store)
    assert await store.delete_endpoint("bob", endpoint_id) is False
    assert await store.delete_endpoint("local", endpoint_id) is True

    assert await take(store) is None
    assert [each.failure for each in await deliveries(store)] == ["endpoint_deleted"]
    assert await store.redeliver("local", due) is False
    left = [key async for key in store.redis.scan_iter(f"{PREFIX}*{endpoint_id}*")]
    assert left == []


@pytest.mark.parametrize("is_under_way", [True, False])
async def test_a_delivery_to_a_deleted_endpoint_is_given_up_without_waiting_for_its_retry(
    store: WebhookStore, is_under_way: bool
) -> None:
    endpoint_id, _due = await to_endpoint(store)
    attempt = await claim(store)
    if is_under_way:
        await store.delete_endpoint("local", endpoint_id)
        assert await store.record(attempt, BROKEN, retry_in_s=3600) == "failed"
    else:
        assert await store.record(attempt, BROKEN, retry_in_s=3600) == "pending"
        await store.delete_endpoint("local", endpoint_id)

    [delivery] = await deliveries(store)
    assert (delivery.state, delivery.failure, delivery.next_attempt_at) == ("failed", "endpoint_deleted", None)
    assert [each.error for each in delivery.attempts] == [BROKEN.error]


async def test_a_retry_goes_where_the_endpoint_points_now_and_is_signed_with_its_secret_of_now(
    store: WebhookStore, clock: Clock
) -> None:
    endpoint_id, _due = await to_endpoint(store)
    first = await claim(store)
    await store.record(first, BROKEN, retry_in_s=5)
    await store.update_endpoint("local", endpoint_id, {"url": "https://new.example"})
    rotated = await store.rotate_secret("local", endpoint_id, keep_old=True)
    assert rotated is not None

    clock.now += 6
    second = await claim(store)

    assert second.url == "https://new.example"
    assert second.signing_secrets == (rotated[1], *first.signing_secrets)


async def test_an_old_secret_signs_for_a_day_and_not_at_all_if_it_was_not_kept(
    store: WebhookStore, clock: Clock
) -> None:
    endpoint_id, _ = await to_endpoint(store)
    kept = await store.rotate_secret("local", endpoint_id, keep_old=True)
    assert kept is not None
    endpoint = kept[0]
    assert len(endpoint.signing_secrets(clock.now + 24 * 3600 - 1)) == 2
    assert endpoint.signing_secrets(clock.now + 24 * 3600) == (kept[1],)

    replaced = await store.rotate_secret("local", endpoint_id, keep_old=False)
    assert replaced is not None
    assert replaced[0].signing_secrets(clock.now) == (replaced[1],)
    assert await store.rotate_secret("bob", endpoint_id, keep_old=False) is None


async def test_only_a_real_change_moves_the_time_of_the_last_change(store: WebhookStore, clock: Clock) -> None:
    endpoint_id = await register(store)
    before = clock.now
    clock.now += 10
    unchanged = await store.update_endpoint("local", endpoint_id, {"name": "n"})
    assert unchanged is not None
    assert unchanged.updated_at == before
    changed = await store.update_endpoint("local", endpoint_id, {"name": "m"})
    assert changed is not None
    assert (changed.name, changed.updated_at, changed.created_at) == ("m", clock.now, before)
    assert await store.update_endpoint("bob", endpoint_id, {"name": "stolen"}) is None


async def test_an_owner_has_a_bounded_number_of_endpoints(store: WebhookStore) -> None:
    for _ in range(MAX_ENDPOINTS):
        await register(store)
    assert await store.create_endpoint("local", name="n", url=URL, event_types=EVENT_TYPES) is None
    await register(store, owner="bob")


async def test_a_list_goes_on_after_an_endpoint_that_was_deleted_meanwhile(store: WebhookStore) -> None:
    ids = sorted([await register(store) for _ in range(5)], reverse=True)
    first, has_more = await store.list_endpoints("local", limit=2)
    assert ([each.id for each in first], has_more) == (ids[:2], True)
    await store.delete_endpoint("local", ids[1])
    rest, has_more = await store.list_endpoints("local", after=ids[1], limit=3)
    assert ([each.id for each in rest], has_more) == (ids[2:], False)


# Redelivery, secrets of requests, logs


async def test_redelivery_starts_all_over_under_the_same_id(store: WebhookStore, clock: Clock) -> None:
    due = await planned_one(store)
    first = await claim(store)
    await store.record(first, OK, retry_in_s=None)
    clock.now += 3600

    assert await store.redeliver("bob", due) is None
    assert await store.redeliver("local", due) is True

    assert await store.redis.ttl(f"{PREFIX}delivery:{due}") == -1
    again = await claim(store)
    assert (again.event_id, again.number, again.failures) == (first.event_id, 2, 0)
    delivery = await store.get_delivery("local", due)
    assert delivery is not None
    assert delivery.expires_at == clock.now + MAX_AGE_S
    # One under way is left alone.
    assert await store.redeliver("local", due) is True
    assert await take(store) is None


async def test_each_owner_has_a_secret_of_its_own_for_urls_in_requests_and_it_stays(
    store: WebhookStore, clock: Clock
) -> None:
    [alice], [bob] = await store.request_secrets("alice"), await store.request_secrets("bob")
    assert alice != bob
    assert await store.request_secrets("alice") == (alice,)

    new = await store.rotate_request_secret("alice", keep_old=True)
    assert await store.request_secrets("alice") == (new, alice)
    clock.now += 24 * 3600 + 1
    assert await store.request_secrets("alice") == (new,)


async def test_a_configured_secret_serves_every_owner(redis: Redis) -> None:
    store = WebhookStore(redis, configured_secrets=["whsec_new", "whsec_old"])
    assert await store.request_secrets("alice") == await store.request_secrets("bob") == ("whsec_new", "whsec_old")
    assert store.has_configured_secret


async def test_without_a_clock_of_its_own_the_store_goes_by_the_servers(redis: Redis) -> None:
    store = WebhookStore(redis)
    await planned_one(store)
    await store.rotate_request_secret("local", keep_old=True)
    assert len(await store.request_secrets("local")) == 2
    assert await store.record(await claim(store), OK, retry_in_s=None) == "succeeded"


async def test_deliveries_are_listed_newest_first_page_by_page_and_each_to_its_owner(
    store: WebhookStore, clock: Clock
) -> None:
    endpoint_id = await register(store)
    for number in range(5):
        clock.now += 1
        await store.emit("local", "response.completed", {"id": f"resp_{number}"}, url=URL if number == 0 else None)
    everything = await deliveries(store)
    assert len(everything) == 6
    page = await store.list_deliveries("local", endpoint_id=endpoint_id, limit=2)
    assert page is not None
    rest = await store.list_deliveries("local", endpoint_id=endpoint_id, after=page[0][-1].id, limit=10)
    assert rest is not None
    assert [page[1], rest[1]] == [True, False]
    listed = [*page[0], *rest[0]]
    assert [each.created_at for each in listed] == sorted((each.created_at for each in listed), reverse=True)
    assert len(listed) == 5
    assert await store.list_deliveries("local", after="whd_unknown") is None
    assert await store.get_delivery("bob", everything[0].id) is None


async def test_a_redis_that_does_not_answer_is_an_error_of_ours() -> None:
    redis = Redis.from_url("redis://127.0.0.1:1/0")
    with pytest.raises(QueueUnavailableError):
        await WebhookStore(redis).take_next(lease_s=25)
    await redis.aclose()

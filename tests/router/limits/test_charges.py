"""Charges in redis and in a process against the algorithm as its standard writes it, whatever comes in what order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from router.bootstrap import make_redis
from router.limits.charges import Charges
from router.limits.limits import Limits
from router.limits.meters import OPEN, Cost, Held, LocalMeters, Outcome, Subject, to_subject
from router.lua import Argument, LimitScript, Script
from router.lua.constants import MINUTE_US
from router.settings import Settings
from tests.router.limits.reference import Reference, Reservation

NOW = 1_800_000_000.25

LIMIT = st.none() | st.integers(1, 60) | st.sampled_from([1000, 100_000_000])
UNITS = st.integers(0, 8) | st.sampled_from([600, 99_999_999])


@dataclass(frozen=True)
class Ask:
    cost: Cost
    subjects: tuple[int, ...]
    later_us: int


@dataclass(frozen=True)
class End:
    number: int
    used: int
    later_us: int


LATER = st.sampled_from([0, 0, 1, 999_999, 1_000_000, 7_000_001, 59_999_999, 60_000_000, 3_600_000_000])
ASKS = st.builds(
    Ask,
    st.builds(Cost, st.integers(0, 1), UNITS, UNITS, UNITS),
    st.sampled_from([(0,), (1,), (0, 1), (0, 1, 2)]),
    LATER,
)
ENDS = st.builds(End, st.integers(0, 5), UNITS, LATER)
LIMITS = st.builds(Limits, LIMIT, LIMIT, st.none() | st.integers(1, 3), LIMIT)


def test_redis_and_a_process_decide_as_the_algorithm_is_written_down(redis_url: str) -> None:
    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.tuples(LIMITS, LIMITS, LIMITS), st.lists(ASKS | ENDS, max_size=14))
    def decides_alike(limits: Sequence[Limits], steps: Sequence[Ask | End]) -> None:
        asyncio.run(_play(redis_url, limits, steps))

    decides_alike()


async def _play(redis_url: str, limits: Sequence[Limits], steps: Sequence[Ask | End]) -> None:
    now_us = int(NOW * 1_000_000)
    subjects = [
        to_subject(kind, "somebody", limit) for kind, limit in zip(("owner", "key", "address"), limits, strict=True)
    ]
    reference, local = Reference(), LocalMeters()
    async with Redis.from_url(redis_url) as redis:
        await redis.flushdb()
        charges = Charges(redis, lambda: now_us / 1_000_000)
        taken: list[tuple[Reservation, Held, str]] = []
        for number, step in enumerate(steps):
            now_us += step.later_us
            now = Fraction(now_us, 1_000_000)
            if isinstance(step, End):
                if step.number < len(taken):
                    reservation, held, reference_id = taken.pop(step.number)
                    reference.settle(reservation, step.used, now)
                    local.settle(held, step.used, now_us)
                    await charges.settle(f"id{number}", reference_id, step.used)
                    await charges.settle_due()
                continue
            asked = [subjects[index] for index in step.subjects]
            expected = reference.charge(step.cost, asked, now)
            mine, held_here = local.charge(step.cost, asked, now_us)
            theirs, _ = await charges.charge(f"id{number}", "owner", step.cost, asked)
            assert (mine.wait_us, mine.standings) == (theirs.wait_us, theirs.standings)
            if isinstance(expected, Reservation):
                assert held_here is not None
                assert theirs.refused_by is None
                taken.append((expected, held_here, f"{theirs.page}:id{number}"))
            else:
                assert held_here is None
                assert theirs.refused_by == mine.refused_by is not None
                assert theirs.wait_us == expected
            _check_standings(reference, asked, theirs, now)


def _check_standings(reference: Reference, asked: Sequence[Subject], outcome: Outcome, now: Fraction) -> None:
    for subject, standing in zip(asked, outcome.standings, strict=True):
        for kind in range(4):
            assert standing.remaining[kind] == reference.remaining(subject, kind, now)
            assert standing.reset_us[kind] == reference.reset_us(subject, kind, now)


async def test_what_is_used_never_exceeds_one_minute_at_once_and_the_rate_after_that(redis: Redis) -> None:
    # Given: half of what is reserved is given back, seconds later, by requests that come as fast as they are let in.
    clock = [NOW]
    charges = Charges(redis, lambda: clock[0])
    subject = to_subject("owner", "somebody", Limits(tokens_per_minute=600))
    used, open_ = 0, list[tuple[str, int]]()

    for number in range(200):
        clock[0] += 0.5
        outcome, _ = await charges.charge(f"id{number}", "owner", Cost(tokens=100), [subject])
        if outcome.refused_by is None:
            open_.append((f"{outcome.page}:id{number}", number))
        if open_ and open_[0][1] + 7 <= number:
            await charges.settle("", open_.pop(0)[0], 50)
            await charges.settle_due()
            used += 50
        assert used <= 600 + 10 * (clock[0] - NOW)

    assert used >= 0.9 * 10 * (clock[0] - NOW)


async def test_a_refusal_charges_nothing(redis: Redis) -> None:
    charges = Charges(redis, lambda: NOW)
    owner = to_subject("owner", "somebody", Limits(requests_per_minute=10))
    key = to_subject("key", "somebody", Limits(requests_per_minute=1))

    outcomes = [(await charges.charge(f"id{n}", "owner", Cost(), [owner, key]))[0] for n in range(3)]

    assert [outcome.refused_by for outcome in outcomes] == [None, 1, 1]
    assert [outcome.standings[0].remaining[0] for outcome in outcomes] == [9, 9, 9]
    assert outcomes[1].wait_us == 60_000_000


async def test_after_the_time_that_a_refusal_names_there_is_room_and_not_before(redis: Redis) -> None:
    clock = [NOW]
    charges = Charges(redis, lambda: clock[0])
    subjects = [to_subject("owner", "somebody", Limits(requests_per_minute=7))]
    while (outcome := (await charges.charge("id", "owner", Cost(), subjects))[0]).refused_by is None:
        clock[0] += 1

    began = clock[0]
    clock[0] = began + (outcome.wait_us - 1) / 1_000_000
    assert (await charges.charge("id", "owner", Cost(), subjects))[0].refused_by == 0
    clock[0] = began + outcome.wait_us / 1_000_000
    assert (await charges.charge("id", "owner", Cost(), subjects))[0].refused_by is None


async def test_a_reservation_is_settled_once(redis: Redis) -> None:
    charges = Charges(redis, lambda: NOW)
    subjects = [to_subject("owner", "somebody", Limits(tokens_per_minute=1000))]
    first = (await charges.charge("first", "owner", Cost(tokens=600), subjects))[0]
    await charges.charge("second", "owner", Cost(tokens=400), subjects)

    for _ in range(3):
        await charges.settle("first", f"{first.page}:first", 100)
        await charges.settle_due()

    third = (await charges.charge("third", "owner", Cost(tokens=500), subjects))[0]
    assert third.refused_by is None
    assert third.standings[0].remaining[3] == 0


async def test_more_than_was_reserved_is_charged_too(redis: Redis) -> None:
    charges = Charges(redis, lambda: NOW)
    subjects = [to_subject("owner", "somebody", Limits(tokens_per_minute=1000))]
    first = (await charges.charge("first", "owner", Cost(tokens=100), subjects))[0]

    await charges.settle("first", f"{first.page}:first", 1500)
    await charges.settle_due()

    refused = (await charges.charge("second", "owner", Cost(tokens=100), subjects))[0]
    assert refused.wait_us == 36_000_000  # 600 too many, at 1000 a minute


async def test_another_limit_counts_what_was_charged_under_the_one_before(redis: Redis) -> None:
    charges = Charges(redis, lambda: NOW)
    for limits in (Limits(requests_per_minute=3), Limits(requests_per_minute=4, pictures_per_minute=2)):
        outcome = None
        for _ in range(3):
            outcome, _held = await charges.charge("id", "owner", Cost(1, 1), [to_subject("owner", "a", limits)])
    assert outcome is not None
    assert (outcome.refused_by, outcome.kind, outcome.wait_us) == (0, 0, 15_000_000)

    lifted = Limits(pictures_per_minute=2)
    outcome, _held = await charges.charge("id", "owner", Cost(1, 1), [to_subject("owner", "a", lifted)])
    assert outcome.refused_by is None
    assert outcome.standings[0].remaining == (None, 0, None, None)


async def test_requests_at_a_time_are_counted_over_processes_until_one_is_not_heard_of(redis: Redis) -> None:
    clock = [NOW]
    one, other = Charges(redis, lambda: clock[0]), Charges(redis, lambda: clock[0])
    subjects = [to_subject("owner", "somebody", Limits(max_requests=2))]
    assert (await one.charge("a", "owner", Cost(), subjects))[0].refused_by is None
    assert (await other.charge("b", "owner", Cost(), subjects))[0].refused_by is None

    refused = (await other.charge("c", "owner", Cost(), subjects))[0]
    assert (refused.refused_by, refused.kind, refused.wait_us) == (0, OPEN, 1_000_000)

    await one.settle("a", "", None)
    assert (await other.charge("c", "owner", Cost(), subjects))[0].refused_by is None
    # Nobody renews: both are taken for dead.
    clock[0] += 16
    assert (await one.charge("d", "owner", Cost(), subjects))[0].refused_by is None
    assert await redis.zrange(f"glowl:open:{subjects[0].name}", 0, -1) == [b"d"]
    await one.aclose()
    await other.aclose()


async def test_a_clock_that_is_set_back_by_an_hour_refuses_nobody_for_an_hour(redis: Redis) -> None:
    clock = [NOW]
    charges = Charges(redis, lambda: clock[0])
    subjects = [to_subject("owner", "somebody", Limits(requests_per_minute=60, max_requests=1))]
    for _ in range(60):
        assert (await charges.charge("dead", "owner", Cost(1), subjects))[0].refused_by is None
        await charges.settle("dead", "", None)
    assert (await charges.charge("dead", "owner", Cost(0), subjects))[0].refused_by is None

    clock[0] -= 3600
    refused = (await charges.charge("a", "owner", Cost(1), subjects))[0]
    assert (refused.refused_by, refused.kind, refused.wait_us) == (0, 0, 1_000_000)
    clock[0] += 16
    outcome = (await charges.charge("a", "owner", Cost(1), subjects))[0]
    assert (outcome.refused_by, outcome.standings[0].remaining[0]) == (None, 15)
    await charges.aclose()

    meters, now = LocalMeters(), int(NOW) * 1_000_000
    meters.charge(Cost(60), subjects[:1], now)
    meters.settle(Held(subjects, 0, now, (0,)), None, now)
    assert meters.charge(Cost(1), subjects, now - 3_600_000_000)[0].wait_us == 1_000_000
    assert meters.charge(Cost(1), subjects, now - 3_584_000_000)[0].refused_by is None


async def test_open_requests_are_renewed(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.limits.charges.LEASE_S", 0.03)
    charges = Charges(redis)
    subjects = [to_subject("owner", "somebody", Limits(max_requests=1))]
    await charges.charge("a", "owner", Cost(), subjects)
    key = f"glowl:open:{subjects[0].name}"
    first = await redis.zscore(key, "a")
    renewed, run = asyncio.Event(), charges._scripts.run

    async def run_and_tell(script: Script, *words: Argument, **arguments: Argument) -> Any:
        reply = await run(script, *words, **arguments)
        if script is LimitScript.RENEW:
            renewed.set()
        return reply

    monkeypatch.setattr(charges._scripts, "run", run_and_tell)
    async with asyncio.timeout(300):
        await renewed.wait()
    assert await redis.zscore(key, "a") > first

    await charges.settle("a", "", None)
    assert await redis.zscore(key, "a") is None
    await charges.aclose()


async def test_nothing_is_kept_for_longer_than_it_counts(redis: Redis) -> None:
    charges = Charges(redis)
    subjects = [to_subject("owner", "somebody", Limits(requests_per_minute=6, tokens_per_minute=600, max_requests=3))]
    outcome, _ = await charges.charge("a", "owner", Cost(tokens=300), subjects)

    ttl_ms = {key.decode().split(":")[1]: await redis.pttl(key) for key in await redis.keys("glowl:*")}
    assert ttl_ms.keys() == {"meter", "open", "ledger"}
    assert 30_000 < ttl_ms["meter"] <= 31_000
    assert 15_000 < ttl_ms["open"] <= 16_000
    assert 599_000 < ttl_ms["ledger"] <= 600_000

    await charges.settle("a", f"{outcome.page}:a", 1200)
    await charges.settle_due()
    assert 119_000 < await redis.pttl(f"glowl:meter:{subjects[0].name}") <= 121_000
    await charges.aclose()


async def test_names_of_keys_and_addresses_are_not_in_redis(redis: Redis) -> None:
    charges = Charges(redis)
    await charges.charge("a", "x", Cost(), [to_subject("address", "203.0.113.7", Limits(requests_per_minute=6))])
    assert not [key for key in await redis.keys("*") if b"203" in key]


async def test_without_redis_each_process_counts_for_itself_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    async with make_redis(Settings(REDIS_URL="redis://127.0.0.1:1/0")) as away:
        charges = Charges(away, lambda: NOW)
        subjects = [to_subject("owner", "somebody", Limits(requests_per_minute=2, tokens_per_minute=100))]

        first, held = await charges.charge("a", "owner", Cost(tokens=80), subjects)
        second, _ = await charges.charge("b", "owner", Cost(tokens=80), subjects)
        await charges.settle("a", "local:a", 10, held)
        third, _ = await charges.charge("c", "owner", Cost(tokens=80), subjects)
        fourth, _ = await charges.charge("d", "owner", Cost(tokens=1), subjects)

    assert [each.refused_by for each in (first, second, third, fourth)] == [None, 0, None, 0]
    assert (second.kind, fourth.kind) == (3, 0)
    assert fourth.wait_us == 30_000_000
    assert len([record for record in caplog.records if "redis does not answer" in record.message]) == 1


async def test_the_ledger_says_what_was_charged(redis: Redis) -> None:
    charges = Charges(redis, lambda: NOW)
    subjects = [to_subject("owner", "somebody", Limits(tokens_per_minute=1000))]
    first, _ = await charges.charge("first", "owner", Cost(1, 2, 3, 400), subjects)
    await charges.charge("second", "owner", Cost(1, 0, 0, 500), subjects)
    await charges.settle("first", f"{first.page}:first", 150)
    await charges.settle_due()

    ledger = await redis.hgetall(f"glowl:ledger:{first.page}")

    assert ledger[b"first"].split()[:5] == [b"settled", b"1", b"2", b"3", b"150"]
    assert ledger[b"second"].split()[:5] == [b"held", b"1", b"0", b"0", b"500"]
    owed = int(await redis.hget(f"glowl:meter:{subjects[0].name}", "tokens") or 0)
    assert owed == 650 * MINUTE_US

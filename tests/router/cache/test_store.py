"""Answers in redis: found again, bounded in bytes, each owner's own, forgotten in time."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from PIL import Image
from redis.asyncio import Redis

from engines.base import Message, SamplingParams, TextPart
from policies.features import Hints
from router.cache.keys import CacheKey
from router.cache.store import AnswerCache, KeptAs
from router.call import Call
from router.jobs.job import BranchPlan, Job, Unit
from router.jobs.results import FinalAnswer, UnitResult
from router.jobs.specs import to_spec
from router.lua.constants import CACHE_ENTRY_BYTES, CACHE_PART
from router.redis import PREFIX
from tests.support.clock import Clock
from tests.support.pictures import png, to_part

DECISION = {"route": "fast", "engine": "glm", "rule": "chinese", "reasons": [], "preset": "seed", "degraded": []}


@pytest.fixture
def cache(redis: Redis, clock: Clock) -> AnswerCache:
    return AnswerCache(redis, max_bytes=64 * 1024, ttl_s=100, clock=clock)


def ask(text: str = "你好", *pictures: str, owner: str = "alice") -> Call:
    message = Message("user", (*(png(color) for color in pictures), TextPart(text)))
    return Call((message,), SamplingParams(), Hints(), "glowl", owner)


def answer(call: Call, text: str = "好", **changes: object) -> Job:
    branch = BranchPlan("fast", "glm")
    spec = to_spec(call, decision=DECISION, language="zh", branches=(branch,), strategy="single")
    final = FinalAnswer(text, "glm-4.6v-flash", "glm", "single")
    job = Job(
        spec,
        "completed",
        {"fast": Unit("fast", "completed", 1, result=UnitResult(text))},
        completed_at=5.0,
        final=final,
    )
    return replace(job, **changes)  # type: ignore[arg-type]


async def keep(cache: AnswerCache, call: Call, text: str = "好") -> KeptAs:
    where = await cache.name(key_of(cache, call))
    assert where is not None
    assert await cache.put(answer(call, text), where)
    return where


async def found(cache: AnswerCache, call: Call) -> str | None:
    kept = await cache.find(key_of(cache, call))
    return None if kept is None else kept.final.text


def key_of(cache: AnswerCache, call: Call) -> CacheKey:
    key = cache.to_key(call)
    assert key is not None
    return key


async def test_an_answer_that_a_newer_release_keeps_is_found_without_what_it_added(cache: AnswerCache) -> None:
    @dataclass(frozen=True, slots=True)
    class NewerPlan(BranchPlan):
        colour: str = "red"

    where = await cache.name(key_of(cache, ask()))
    assert where is not None
    newer = answer(ask())
    branches = (NewerPlan("fast", "glm", pictures=(1, 2)),)
    assert await cache.put(replace(newer, spec=replace(newer.spec, branches=branches)), where)

    kept = await cache.find(key_of(cache, ask()))

    assert kept is not None
    assert kept.plan["branches"] == (BranchPlan("fast", "glm", pictures=(1, 2)),)


async def test_an_answer_is_found_by_the_same_question_of_the_same_owner(cache: AnswerCache) -> None:
    await keep(cache, ask())

    assert await found(cache, ask()) == "好"
    assert await found(cache, ask("再见")) is None
    assert await found(cache, ask(owner="bob")) is None


async def test_a_picture_is_found_by_its_file_without_decoding_it(redis: Redis, cache: AnswerCache) -> None:
    await keep(cache, ask("这是什么？", "red"))
    other_process = AnswerCache(redis, max_bytes=1, ttl_s=1)

    assert await found(other_process, ask("这是什么？", "red")) == "好"
    assert other_process.pixels.num_decoded == 0


async def test_a_picture_is_found_by_its_pixels_and_no_other_for_it(cache: AnswerCache) -> None:
    await keep(cache, ask("这是什么？", "red"))
    call = ask("这是什么？", "blue")
    bitmap = to_part(Image.new("RGB", (8, 8), "red"), "BMP")
    same = replace(call, messages=(Message("user", (bitmap, TextPart("这是什么？"))),))

    assert await found(cache, same) == "好"
    assert await found(cache, call) is None
    assert cache.pixels.num_decoded == 3


async def test_a_question_about_no_such_picture_decodes_nothing(cache: AnswerCache) -> None:
    await keep(cache, ask("这是什么？", "red"))
    num_decoded = cache.pixels.num_decoded

    assert await found(cache, ask("多少？", "blue")) is None
    assert await found(cache, ask("这是什么？", "blue", "blue")) is None
    assert cache.pixels.num_decoded == num_decoded


@pytest.mark.parametrize(
    "changes",
    [
        {"state": "failed", "final": None},
        {"state": "incomplete", "final": FinalAnswer("好", "m", "glm", "single", finish_reason="length")},
        {"final": FinalAnswer("好", "m", "glm", "single", degraded=("owl2 is down",))},
    ],
)
async def test_only_a_whole_answer_is_kept(cache: AnswerCache, changes: dict[str, object]) -> None:
    assert not await cache.put(answer(ask(), **changes), KeptAs("0"))


async def test_an_answer_to_a_decision_that_was_degraded_is_not_kept(cache: AnswerCache) -> None:
    job = answer(ask())
    degraded = replace(job, spec=replace(job.spec, decision={**DECISION, "degraded": ["glm is down"]}))

    assert not await cache.put(degraded, KeptAs("0"))


async def test_the_bytes_are_bounded_and_what_was_used_last_stays(
    redis: Redis, cache: AnswerCache, clock: Clock
) -> None:
    text = "x" * 2000
    for number in range(40):
        clock.now += 1
        await keep(cache, ask(f"{number}"), text)
        assert await found(cache, ask("0")) == text  # used each time
        assert int(await redis.get(f"{PREFIX}cache:bytes")) <= 64 * 1024

    kept = [number for number in range(40) if await found(cache, ask(f"{number}")) is not None]
    assert kept[0] == 0
    assert kept[1:] == list(range(41 - len(kept), 40))
    assert 8 < len(kept) < 30


async def test_who_has_the_most_makes_room(cache: AnswerCache, clock: Clock) -> None:
    await keep(cache, ask("small", owner="bob"), "y")
    for number in range(60):
        clock.now += 1
        await keep(cache, ask(f"{number}"), "x" * 2000)

    assert await found(cache, ask("small", owner="bob")) == "y"
    assert await found(cache, ask("0")) is None


async def test_what_takes_too_much_of_the_room_is_not_kept(redis: Redis, cache: AnswerCache) -> None:
    too_long = 64 * 1024 // CACHE_PART - CACHE_ENTRY_BYTES + 1

    assert not await cache.put(answer(ask(), "x" * too_long), KeptAs("0"))
    assert await redis.get(f"{PREFIX}cache:bytes") is None


async def test_what_has_expired_makes_room_first_and_leaves_nothing(
    redis: Redis, cache: AnswerCache, clock: Clock
) -> None:
    await keep(cache, ask("这是什么？", "red"))
    clock.now += 101  # redis' own clock, by which it would be gone, goes on at its pace
    where = await keep(cache, ask())

    assert await found(cache, ask("这是什么？", "red")) is None
    await cache.forget(answer(ask(), kept_as=str(where)))
    left = {key.decode() for key in await redis.keys(f"{PREFIX}cache:*")}
    assert left <= {f"{PREFIX}cache:bytes"}
    assert await redis.get(f"{PREFIX}cache:bytes") == b"0"


async def test_an_answer_expires_by_itself(redis: Redis, cache: AnswerCache) -> None:
    await keep(cache, ask("这是什么？", "red"))

    for kind in ("answer", "question"):
        (key,) = await redis.keys(f"{PREFIX}cache:{kind}:*")
        assert 0 < await redis.ttl(key) <= 100


async def test_an_answer_of_an_owner_who_wants_less_expires_sooner(redis: Redis, cache: AnswerCache) -> None:
    await keep(cache, replace(ask(), retention_s=60))

    (key,) = await redis.keys(f"{PREFIX}cache:answer:*")
    assert 0 < await redis.ttl(key) <= 60


async def test_an_answer_that_is_kept_again_replaces_the_first(redis: Redis, cache: AnswerCache) -> None:
    await keep(cache, ask(), "一")
    size = int(await redis.get(f"{PREFIX}cache:bytes"))
    await keep(cache, ask(), "二")

    assert await found(cache, ask()) == "二"
    assert int(await redis.get(f"{PREFIX}cache:bytes")) == size


async def test_an_answer_older_than_wanted_is_none(cache: AnswerCache) -> None:
    await keep(cache, ask())  # made at 5 s past 1970

    assert await cache.find(key_of(cache, ask()), max_age_s=60) is None


async def test_a_redis_that_is_away_is_an_empty_cache() -> None:
    redis = Redis.from_url("redis://127.0.0.1:1")
    cache = AnswerCache(redis, max_bytes=10_000, ttl_s=9)

    assert await found(cache, ask()) is None
    assert not await cache.put(answer(ask()), KeptAs("0"))
    await redis.aclose()


async def test_what_another_release_wrote_is_none(redis: Redis, cache: AnswerCache) -> None:
    where = await keep(cache, ask())
    await redis.set(f"{PREFIX}cache:answer:alice|{where.name}", b'{"version": 9}')

    assert await found(cache, ask()) is None

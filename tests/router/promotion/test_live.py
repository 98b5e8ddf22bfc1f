"""Which adapter answers a call, and how soon a change in redis counts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

import orjson
import pytest
from redis.asyncio import Redis

from engines.base import EngineInfo, Message, SamplingParams, TextPart
from policies.features import Hints
from router.cache.keys import to_key
from router.call import Call
from router.jobs.job import BranchPlan, JobSpec
from router.jobs.specs import to_spec
from router.promotion.live import LivePromotions
from router.promotion.records import Pointer, Promotion
from router.promotion.store import PromotionStore

INFO = EngineInfo("glm", "glm-4.6v-flash", "full", 4096, 8, adapters=("receipts", "labels"), revision="r7")


def _call(text: str = "hi", **values: object) -> Call:
    call = Call((Message("user", (TextPart(text),)),), SamplingParams(), Hints(), "glowl", "local")
    return replace(call, **values)  # type: ignore[arg-type]


async def _live(
    redis: Redis, *promotions: Promotion, info: EngineInfo | None = INFO, engine: str = "glm"
) -> LivePromotions:
    pointer = Pointer()
    for promotion in promotions:
        pointer = pointer.promoted(promotion)
    store = PromotionStore(redis)
    await store.put(engine, pointer)
    live = LivePromotions(store, lambda _engine: info)
    await live.refresh()
    return live


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110 - what it waits for happens in redis
            await asyncio.sleep(0.01)


async def test_what_is_promoted_answers_and_its_revision_is_noted(redis: Redis) -> None:
    live = await _live(redis, Promotion("receipts"))

    found = live.apply(_call())

    assert (found.adapter, found.adapter_revision) == ("receipts", "r7")


async def test_a_named_adapter_of_owl2_stays_owl2s_and_a_promoted_one_is_glms(redis: Redis) -> None:
    live = await _live(redis, Promotion("receipts"))

    named = live.apply(_call(adapter="turned", adapter_engine="owl2"))
    promoted = live.apply(_call(adapter_engine="owl2"))

    assert (named.adapter_for("owl2"), named.adapter_for("glm")) == ("turned", "")
    assert (promoted.adapter_for("owl2"), promoted.adapter_for("glm")) == ("", "receipts")


async def test_each_engine_has_an_adapter_of_its_own_promoted(redis: Redis) -> None:
    await _live(redis, Promotion("turned"), engine="owl2")
    info = replace(INFO, adapters=("receipts", "turned"), adapter_revisions=("r8", "r9"))
    live = await _live(redis, Promotion("receipts"), info=info)

    found = live.apply(_call())

    assert [found.adapter_for(engine) for engine in ("glm", "owl2")] == ["receipts", "turned"]
    assert (found.adapter_revision, found.promoted_revisions) == ("r8", {"owl2": "r9"})
    # Then what is recorded says so, and an answer of before the promotion is not given again
    spec = to_spec(found, decision={}, language="en", branches=(BranchPlan("deep", "owl2"),), strategy="deep")
    assert JobSpec.from_dict(orjson.loads(orjson.dumps(spec.to_dict()))).adapters == {
        "glm:receipts": "r8",
        "owl2:turned": "r9",
    }
    keys = [to_key(each, {}, "") for each in (found, replace(found, promoted={}))]
    assert keys[0] != keys[1]
    # And who asks for Owl2 as it is, or for another adapter of it, gets that
    assert live.apply(_call(keeps_base=True, adapter_engine="owl2")).adapter_for("owl2") == ""
    assert live.apply(_call(adapter="labels", adapter_engine="owl2")).adapter_for("owl2") == "labels"


async def test_other_weights_than_were_measured_are_named_once(redis: Redis, caplog: pytest.LogCaptureFixture) -> None:
    info = replace(INFO, adapter_revisions=("r8", "r9"))
    live = await _live(redis, Promotion("receipts", revision="r1"), info=info)

    assert [live.apply(_call()).adapter for _ in range(3)] == ["receipts"] * 3
    (record,) = caplog.records
    assert "other weights (r8) than were measured when it was promoted (r1)" in record.getMessage()


async def test_a_shadow_that_the_engine_does_not_have_is_not_asked_and_named_once(
    redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    live = await _live(redis, Promotion())
    for adapter, asked in (("receipts", "receipts"), ("reciepts", "")):
        await PromotionStore(redis).put("glm", Pointer(shadow=Promotion(adapter, share=0.1)))
        await live.refresh()
        assert [live.shadow().adapter for _ in range(3)] == [asked] * 3

    (record,) = caplog.records
    assert record.getMessage() == "glm has no adapter reciepts, which was to be asked in the shadow; it is not asked"


async def test_who_names_an_adapter_or_the_base_gets_it(redis: Redis) -> None:
    live = await _live(redis, Promotion("receipts"))

    named, base = live.apply(_call(adapter="labels")), live.apply(_call(keeps_base=True))

    assert (named.adapter, named.adapter_revision) == ("labels", "r7")
    assert (base.adapter, base.adapter_revision) == ("", "")


async def test_nothing_is_changed_without_a_promotion(redis: Redis) -> None:
    call = _call()

    assert (await _live(redis)).apply(call) is call


async def test_a_share_is_of_the_conversations_and_each_stays_on_its_side(redis: Redis) -> None:
    live = await _live(redis, Promotion("receipts", share=0.25))
    calls = [_call(f"question {number}") for number in range(1000)]

    sides = [live.apply(call).adapter for call in calls]
    later = [
        live.apply(replace(call, messages=(*call.messages, Message("assistant", (TextPart("x"),)), *call.messages)))
        for call in calls
    ]

    assert 200 <= sides.count("receipts") <= 300
    assert [each.adapter for each in later] == sides


async def test_an_adapter_that_the_engine_lost_does_not_take_the_service_with_it(
    redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    live = await _live(redis, Promotion("gone"))

    with caplog.at_level(logging.ERROR):
        found = [live.apply(_call()).adapter for _ in range(3)]

    assert found == ["", "", ""]
    assert [record.getMessage() for record in caplog.records] == [
        "glm has no adapter gone, which is promoted; the model answers as it is"
    ]


async def test_an_engine_that_was_never_up_is_asked_for_the_adapter(redis: Redis) -> None:
    live = await _live(redis, Promotion("receipts"), info=None)

    assert live.apply(_call()).adapter == "receipts"


async def test_a_change_is_read_without_a_restart(redis: Redis) -> None:
    store = PromotionStore(redis)
    live = LivePromotions(store, lambda _engine: INFO)
    await live.start()
    try:
        assert live.apply(_call()).adapter == ""

        await store.put("glm", Pointer().promoted(Promotion("receipts")))
        await _until(lambda: live.apply(_call()).adapter == "receipts")
        await store.put("glm", Pointer())
        await _until(lambda: live.apply(_call()).adapter == "")
    finally:
        await live.aclose()

"""What who asks for metrics is shown, with redis and without."""

from __future__ import annotations

from redis.asyncio import Redis

from router.telemetry import families
from router.telemetry.fleet import Fleet
from router.telemetry.meters import CountingMeters
from router.telemetry.scrape import Scrape


async def test_what_redis_said_before_it_fell_silent_is_shown_no_longer(redis: Redis) -> None:
    meters = CountingMeters()
    meters.decided("fast", "glm", "chinese")
    with_redis = Scrape(meters, Fleet(redis, meters, patience_s=60), dict)
    text = (await with_redis.expose())[0].decode()
    assert "glowl_redis_up 1.0" in text
    assert all(f"{family.name}" in text for family in families.STORED)

    async with Redis(host="127.0.0.1", port=1) as away:
        text = (await Scrape(meters, Fleet(away, meters), dict).expose())[0].decode()
    assert "glowl_redis_up 0.0" in text
    assert not any(f"\n{family.name}" in text for family in families.STORED)
    assert 'glowl_decisions_total{engine="glm",route="fast",rule="chinese"} 1.0' in text


async def test_a_redis_beyond_its_memory_still_says_so(redis: Redis) -> None:
    meters = CountingMeters()
    await redis.config_set("maxmemory", 1)
    try:
        text = (await Scrape(meters, Fleet(redis, meters, patience_s=60), dict).expose())[0].decode()
    finally:
        await redis.config_set("maxmemory", 0)
    assert "glowl_redis_up 1.0" in text
    assert "\nglowl_redis_memory_max_bytes 1.0" in text


async def test_a_late_answer_of_redis_is_counted_all_the_same(redis: Redis) -> None:
    meters = CountingMeters()
    fleet = Fleet(redis, meters, patience_s=60)
    await fleet.look()
    await redis.hset("glowl:metrics:tallies", "lease_lost:glm", 3)  # type: ignore[misc]
    impatient = Fleet(redis, meters, patience_s=0)
    assert await impatient.look() is None
    assert impatient._asking is not None
    await impatient._asking
    assert meters.registry.prometheus.get_sample_value("glowl_leases_lost_total", {"queue": "glm"}) == 3

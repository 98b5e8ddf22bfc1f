"""Who is limited, and what a request is charged to."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from router.errors import BadRequestError, RateLimitError
from router.limits.limiter import Limiter
from router.limits.limits import NO_LIMITS, UNLIMITED, Limits
from router.limits.meters import Cost

NOW = 1_800_000_000.0


def make_limiter(redis: Redis, **limits: Limits) -> Limiter:
    return Limiter(redis, clock=lambda: NOW, **limits)


async def test_who_is_not_limited_is_charged_nothing(redis: Redis) -> None:
    assert make_limiter(redis).admission("a", NO_LIMITS, key="k", address="203.0.113.7") is None
    lifted = Limits(requests_per_minute=UNLIMITED)
    assert make_limiter(redis, each_owner=Limits(5)).admission("a", lifted) is None
    assert make_limiter(redis, each_key=Limits(5), each_address=Limits(5)).admission("a", NO_LIMITS) is None


async def test_an_owner_s_own_limits_go_before_those_of_every_owner(redis: Redis) -> None:
    limiter = make_limiter(redis, each_owner=Limits(1, max_unfinished_jobs=7))
    own = limiter.admission("a", Limits(2, max_unfinished_jobs=3))
    other = limiter.admission("b", NO_LIMITS)
    assert own is not None
    assert other is not None
    assert (own.max_unfinished_jobs, other.max_unfinished_jobs) == (3, 7)
    await own.charge(Cost())
    await own.charge(Cost())  # the same request: once is enough
    assert dict(own.headers)[b"x-ratelimit-remaining-requests"] == b"1"
    await other.charge(Cost())
    assert dict(other.headers)[b"x-ratelimit-remaining-requests"] == b"0"


async def test_a_refused_request_is_refused_again_without_a_look_at_redis(redis: Redis) -> None:
    limiter = make_limiter(redis, each_owner=Limits(1))
    first, second = limiter.admission("a", NO_LIMITS), limiter.admission("a", NO_LIMITS)
    assert first is not None
    assert second is not None
    await first.charge(Cost())
    second.check()
    with pytest.raises(RateLimitError):
        await second.charge(Cost())

    late = limiter.admission("a", NO_LIMITS)
    assert late is not None
    with pytest.raises(RateLimitError, match="1 requests a minute"):
        late.check()
    # Nor is one refused by what a limit was before it was raised.
    raised = limiter.admission("a", Limits(1000))
    assert raised is not None
    raised.check()
    await raised.charge(Cost())


async def test_lines_of_batches_have_buckets_of_their_own_and_take_no_places(redis: Redis) -> None:
    limits = Limits(requests_per_minute=1, tokens_per_minute=100, max_requests=1)
    limiter = make_limiter(redis)
    for number in range(3):
        line = limiter.batch_admission("a", limits)
        assert line is not None
        if number < 2:
            await line.charge(Cost(requests=0, tokens=50))
        else:
            with pytest.raises(RateLimitError, match="limit of this owner's batches is reached: 100 tokens a minute"):
                await line.charge(Cost(requests=0, tokens=50))

    asked = limiter.admission("a", limits)
    assert asked is not None
    await asked.charge(Cost(tokens=100))
    assert len(await redis.keys("glowl:open:*")) == 1  # of the question alone
    await limiter.aclose()


async def test_a_request_that_would_never_fit_is_refused_for_good(redis: Redis) -> None:
    admission = make_limiter(redis).admission("a", Limits(megapixels_per_minute=2))
    assert admission is not None
    with pytest.raises(BadRequestError, match=r"\(2 megapixels a minute\).* it counts as 2\.5 megapixels") as refused:
        await admission.charge(Cost(1, 1, 2500, 0))
    assert refused.value.code == "exceeds_rate_limit"
    assert refused.value.param is None
    assert "2.5 百万像素" in refused.value.message_zh

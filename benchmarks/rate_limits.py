"""What limits cost a request, beside the peer `limits`. In: nothing. Out: a Markdown table.

    python -m benchmarks.rate_limits [--requests N] [--rounds N]

A redis of its own on a unix socket, the api's own client and event loop. Each row is CPU time of this process per
request, with one request at a time and with 16, and CPU time of redis; rounds of all rows take turns. ``ours`` is the
charge and the settling of one request as the api does them. One GET is what any round trip costs on this machine.
`limits` from PyPI, if it is installed, counts the same number of limits with its moving window, which has no exact
reservation to give back and takes one round trip each.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import redis as redis_sync
import uvloop
from redis.asyncio import Redis

from router.bootstrap import make_redis
from router.cli.net import Address
from router.cli.redis_server import find_redis, redis_argv, redis_url
from router.limits.limiter import Limiter
from router.limits.limits import NO_LIMITS, Limits
from router.limits.meters import Cost
from router.settings import Settings

TOKENS = Limits(tokens_per_minute=100_000_000)
FOUR = Limits(100_000_000, 100_000_000, 100_000, 100_000_000)
PLACES = Limits(100_000_000, 100_000_000, 100_000, 100_000_000, max_requests=1000)
COST = Cost(1, 1, 100, 1500)

Work = Callable[[], Awaitable[Any]]


def ours(redis: Redis, limits: Limits, *, has_all: bool = False) -> Work:
    """Return what the api does for one request."""
    more = FOUR if has_all else NO_LIMITS
    limiter = Limiter(redis, each_key=more, each_address=more)

    async def one() -> None:
        admission = limiter.admission("owner", limits, key="glowl_key", address="203.0.113.7")
        if admission is None:
            return
        await admission.charge(COST)
        admission.use(700)
        await admission.close()

    return one


def peer(url: str, num_limits: int) -> Work:
    """Return the same number of limits, counted by `limits`."""
    from limits import RateLimitItemPerMinute
    from limits.aio.storage import RedisStorage
    from limits.aio.strategies import MovingWindowRateLimiter

    limiter = MovingWindowRateLimiter(RedisStorage(f"async+redis+{url}", implementation="redispy"))
    items = [RateLimitItemPerMinute(100_000_000 - number) for number in range(num_limits)]

    async def one() -> None:
        for item in items:
            await limiter.hit(item, "owner")

    return one


async def measure(work: Work, num_requests: int, client: redis_sync.Redis) -> tuple[float, float, float]:
    """Return milliseconds of CPU per request: here, one at a time and 16 at a time; and in redis, one at a time."""
    await work()
    used = redis_cpu_s(client)
    alone = await cpu_s(work, num_requests, 1)
    in_redis = redis_cpu_s(client) - used
    return tuple(1000 * each / num_requests for each in (alone, await cpu_s(work, num_requests, 16), in_redis))  # type: ignore[return-value]


async def cpu_s(work: Work, num_requests: int, num_at_once: int) -> float:
    """Return the CPU seconds of this process."""

    async def some() -> None:
        for _ in range(num_requests // num_at_once):
            await work()

    began = time.process_time()
    await asyncio.gather(*(some() for _ in range(num_at_once)))
    return time.process_time() - began


def redis_cpu_s(client: redis_sync.Redis) -> float:
    """Return the CPU seconds of redis."""
    found: Any = client.info("cpu")
    return float(found["used_cpu_user"]) + float(found["used_cpu_sys"])


async def run(url: str, num_requests: int, num_rounds: int) -> None:
    """Print the table."""
    async with make_redis(Settings(REDIS_URL=url)) as redis:
        rows: dict[str, Work] = {
            "one GET": lambda: redis.get("nothing"),
            "no limits": ours(redis, NO_LIMITS),
            "ours: tokens of an owner": ours(redis, TOKENS),
            "ours: requests, pictures, megapixels, tokens of an owner": ours(redis, FOUR),
            "ours: the same, and requests at a time": ours(redis, PLACES),
            "ours: four limits each of owner, key and address": ours(redis, FOUR, has_all=True),
        }
        if importlib.util.find_spec("limits"):
            rows["`limits`, moving window: one limit"] = peer(url, 1)
            rows["`limits`, moving window: four limits"] = peer(url, 4)
            rows["`limits`, moving window: twelve limits"] = peer(url, 12)
        found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in rows}
        with redis_sync.Redis.from_url(url) as client:
            for _ in range(num_rounds):
                for name, work in rows.items():
                    found[name].append(await measure(work, num_requests, client))
    print(
        f"{os.cpu_count()} CPU cores, Python {platform.python_version()}; milliseconds of CPU per request, medians of"
    )
    print(f"{num_rounds} rounds of {num_requests} requests\n")
    print("| limits | api, one at a time | api, 16 at a time | redis |\n|---|---|---|---|")
    for name, times in found.items():
        cells = " | ".join(f"{statistics.median(each):.3f}" for each in zip(*times, strict=True))
        print(f"| {name} | {cells} |")


def main() -> None:
    """Start a redis and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="glowl-b") as folder:
        at = Address(uds=Path(folder) / "r.sock")
        binary = find_redis({}).binary
        assert binary is not None
        from tests.support.servers import Process, wait_until

        server = Process(list(redis_argv(binary, at, Path(folder))), Path(folder) / "redis.log")
        url = redis_url(at)
        with redis_sync.Redis.from_url(url) as client:
            wait_until(lambda: _answers(client), "redis")
            uvloop.run(run(url, arguments.requests, arguments.rounds))
        server.stop()


def _answers(client: redis_sync.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis_sync.RedisError:
        return False


if __name__ == "__main__":
    main()

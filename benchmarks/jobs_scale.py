"""What waiting costs: thousands of jobs in line, and a thousand callers who wait for theirs, on streams or by polling.

    python -m benchmarks.jobs_scale                       # from the repository's root
    python -m benchmarks.jobs_scale --jobs 2000 --callers 200

No worker runs, so nothing happens but waiting. Memory is redis' own count and the api's resident memory; CPU is that of
the processes over a while, of one core. The callers are this process; what they use is not counted.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp

from benchmarks.jobs_common import NO_LIMIT, submit
from benchmarks.printed import print_machine, table
from tests.support.stack import ProcessStack

_SETTLE_S = 2.0


def used_bytes(stack: ProcessStack) -> int:
    """Return what redis says that it uses."""
    with stack.redis() as client:
        info: Any = client.info("memory")
    return int(info["used_memory"])


async def stream(http: aiohttp.ClientSession, url: str, job_id: str, is_open: Callable[[], None]) -> None:
    """Wait on a stream."""
    async with http.get(f"{url}/v1/responses/{job_id}?stream=true") as answer:
        is_open()
        async for _ in answer.content:
            pass


async def poll(http: aiohttp.ClientSession, url: str, job_id: str, is_open: Callable[[], None]) -> None:
    """Poll as often as the answers ask for; not all at the same moment."""
    await asyncio.sleep(random.uniform(0.0, _SETTLE_S))
    is_open()
    while True:
        async with http.get(f"{url}/v1/responses/{job_id}") as answer:
            await answer.read()
            after_ms = int(answer.headers["openai-poll-after-ms"])
        await asyncio.sleep(after_ms / 1000 * random.uniform(0.9, 1.1))


async def wait_around(
    stack: ProcessStack,
    ids: list[str],
    seconds: float,
    how: Callable[[aiohttp.ClientSession, str, str, Callable[[], None]], Awaitable[None]],
) -> tuple[float, float, float]:
    """Let callers wait; returns the api's memory per caller in bytes, and its and redis' CPU as shares of a core."""
    num_open, all_open = 0, asyncio.Event()

    def count() -> None:
        nonlocal num_open
        num_open += 1
        if num_open == len(ids):
            all_open.set()

    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False) as http:
        before = stack.rss_bytes("api0")
        callers = [asyncio.ensure_future(how(http, stack.urls[0], each, count)) for each in ids]
        await all_open.wait()
        await asyncio.sleep(_SETTLE_S)
        after = stack.rss_bytes("api0")
        cpu_s, begun = {name: stack.cpu_s(name) for name in ("api0", "redis")}, time.monotonic()
        await asyncio.sleep(seconds)
        span_s = time.monotonic() - begun
        api, redis = ((stack.cpu_s(name) - used) / span_s for name, used in cpu_s.items())
        broken = [caller for caller in callers if caller.done()]
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
    assert not broken, broken[0].exception()
    return (after - before) / len(ids), api, redis


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--callers", type=int, default=1_000)
    parser.add_argument("--seconds", type=float, default=15.0, help="how long CPU is measured")
    options = parser.parse_args()
    print_machine()
    # Nobody starts these jobs, and that is not to be healed by sending them again.
    env = {"GLOWL_RESEND_AFTER_S": "3600", **NO_LIMIT}
    stack = ProcessStack(workers=(), env=env)
    try:
        stack.start()
        stack.wait_ready()
        begun, cpu_s = time.monotonic(), {name: stack.cpu_s(name) for name in ("api0", "redis")}
        before = used_bytes(stack)
        before_rss = stack.rss_bytes("api0")
        ids = asyncio.run(_submit(stack, options.jobs))
        rate = len(ids) / (time.monotonic() - begun)
        each = (used_bytes(stack) - before) / len(ids)
        api, redis = (1e3 * (stack.cpu_s(name) - used) / len(ids) for name, used in cpu_s.items())
        with stack.redis() as client:
            parts = [_share(client, pattern) for pattern in ("glowl:job:*", "glowl:events:*")]
        rest = (each * len(ids) - sum(parts)) / len(ids)
        table(
            f"{len(ids)} text jobs in line, sent by {_SENDERS} at once, {rate:.0f} a second",
            (
                *("redis' memory per job, KB", "its record", "its events", "the rest: messages, lists"),
                *("api's CPU per job, ms", "redis' CPU per job, ms", "api's memory grew by, MB"),
            ),
            [
                (
                    *(f"{size / 1e3:.2f}" for size in (each, *(part / len(ids) for part in parts), rest)),
                    *(f"{api:.2f}", f"{redis:.2f}", f"{(stack.rss_bytes('api0') - before_rss) / 1e6:.1f}"),
                )
            ],
        )
        rows = []
        waiting = random.Random(1).sample(ids, options.callers)
        for what, how in (("nobody", None), ("streams", stream), ("pollers", poll)):
            if how is None:
                memory, (api, redis) = 0.0, _idle(stack, options.seconds)
            else:
                memory, api, redis = asyncio.run(wait_around(stack, waiting, options.seconds, how))
            rows.append(
                (what, 0 if how is None else options.callers, f"{memory / 1e3:.1f}", f"{api:.1%}", f"{redis:.1%}")
            )
        table(
            f"Callers who wait, over {options.seconds:g} s, with {len(ids)} jobs in line",
            ("who waits", "callers", "api's memory per caller, KB", "api's CPU, of one core", "redis' CPU"),
            rows,
        )
    finally:
        stack.stop()
    return 0


_SENDERS = 16


async def _submit(stack: ProcessStack, count: int) -> list[str]:
    async with aiohttp.ClientSession(trust_env=False) as http:
        return await submit(http, stack.urls[0], count, _SENDERS)


def _idle(stack: ProcessStack, seconds: float) -> tuple[float, float]:
    cpu_s = {name: stack.cpu_s(name) for name in ("api0", "redis")}
    time.sleep(seconds)
    api, redis = ((stack.cpu_s(name) - used) / seconds for name, used in cpu_s.items())
    return api, redis


def _share(client: Any, pattern: str) -> int:
    keys = list(client.scan_iter(pattern, count=1000))
    pipeline = client.pipeline(transaction=False)
    for key in keys[:500]:
        pipeline.memory_usage(key, samples=0)
    sizes = pipeline.execute()
    return sum(sizes) * len(keys) // max(len(sizes), 1)


if __name__ == "__main__":
    sys.exit(main())

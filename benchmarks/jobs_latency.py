"""How soon after the worker's last write a caller knows that its job has ended: by a stream, and by polling.

    python -m benchmarks.jobs_latency                       # from the repository's root

The record's ``completed_at`` is redis' clock inside the script that ends the job; the caller's clock is read when the
stream's last event is parsed. Both are the same machine's. Jobs come a few at a time, so that no queue is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time

import aiohttp
import orjson

from benchmarks.jobs_common import TERMINAL, delay_for, to_body, view
from benchmarks.printed import at_percent, print_machine, table
from tests.support.stack import ProcessStack

_LAST = frozenset({"response.completed", "response.failed", "response.incomplete"})


async def notice_by_stream(http: aiohttp.ClientSession, url: str) -> tuple[str, float]:
    """Send a job and read its stream; returns its id and when the last event was there."""
    async with http.post(f"{url}/v1/responses", json=to_body(stream=True)) as answer:
        async for line in answer.content:
            if line.startswith(b"data: ") and (event := orjson.loads(line[6:]))["type"] in _LAST:
                return event["response"]["id"], time.time()
    raise RuntimeError("the stream broke off")


async def notice_by_polling(http: aiohttp.ClientSession, url: str) -> tuple[str, float]:
    """Send a job and poll it as often as the answers ask for."""
    async with http.post(f"{url}/v1/responses", json=to_body()) as answer:
        job_id: str = (await answer.json())["id"]
        after_ms = answer.headers["openai-poll-after-ms"]
    while True:
        await asyncio.sleep(int(after_ms) / 1000)
        async with http.get(f"{url}/v1/responses/{job_id}") as answer:
            if (await answer.json())["status"] in TERMINAL:
                return job_id, time.time()
            after_ms = answer.headers["openai-poll-after-ms"]


async def measure(url: str, count: int, side_by_side: int, *, by_stream: bool) -> list[float]:
    """Return the delays of a number of jobs in seconds."""
    delays_s: list[float] = []
    notice = notice_by_stream if by_stream else notice_by_polling
    async with aiohttp.ClientSession(trust_env=False) as http:

        async def send(number: int) -> None:
            for _ in range(number, count, side_by_side):
                job_id, at = await notice(http, url)
                delays_s.append(at - (await view(http, url, job_id))["completed_at"])

        await asyncio.gather(*(send(number) for number in range(side_by_side)))
    return delays_s


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=300)
    options = parser.parse_args()
    print_machine()
    stack = ProcessStack(delay_s=delay_for(0.2))
    rows = []
    try:
        stack.start()
        stack.wait_ready()
        asyncio.run(measure(stack.urls[0], 20, 4, by_stream=True))
        for by_stream, side_by_side in ((True, 1), (True, 4), (False, 4)):
            count = options.jobs if by_stream else min(options.jobs, 100)
            delays_s = asyncio.run(measure(stack.urls[0], count, side_by_side, by_stream=by_stream))
            what = "stream" if by_stream else "polling as `openai-poll-after-ms` says"
            percents = (f"{1e3 * at_percent(delays_s, percent):.1f}" for percent in (50, 95, 99))
            rows.append((what, side_by_side, count, *percents, f"{1e3 * max(delays_s):.1f}"))
    finally:
        stack.stop()
    table(
        "From the worker's last write until its caller knows",
        ("how", "jobs side by side", "jobs", "P50, ms", "P95, ms", "P99, ms", "slowest, ms"),
        rows,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

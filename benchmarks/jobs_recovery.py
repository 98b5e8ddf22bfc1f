"""How long after ``kill -9`` of a worker its running jobs are begun again, by a worker that was there all along.

    python -m benchmarks.jobs_recovery                       # from the repository's root

With the settings' defaults. The first worker is killed in the middle of its runs; the time is from the kill to the
event that says that the run was begun again, and to the job's end.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from typing import Any

import aiohttp

from benchmarks.jobs_common import delay_for, ended, submit
from benchmarks.printed import at_percent, print_machine, table
from tests.support.servers import wait_until
from tests.support.stack import ProcessStack

_SERVICE_S = 2.0


def begun_at(stack: ProcessStack, job_id: str) -> list[float]:
    """Return when each run of a job's branch was begun, unix seconds."""
    with stack.redis() as client:
        events: Any = client.xrange(f"glowl:events:{job_id}")
    started = [entry for entry, fields in events if (fields[b"k"], fields[b"u"]) == (b"started", b"fast")]
    return [int(entry.split(b"-")[0]) / 1000 for entry in started]


def kill_once(stack: ProcessStack, victim: str, count: int) -> list[tuple[float, float]]:
    """Kill one of two workers that run jobs; seconds until each lost run is begun again, and until its job's end."""

    async def send() -> list[str]:
        async with aiohttp.ClientSession(trust_env=False) as http:
            return await submit(http, stack.urls[0], count)

    async def ends(ids: list[str]) -> list[float]:
        async with aiohttp.ClientSession(trust_env=False) as http:
            return [(await ended(http, stack.urls[0], each))["completed_at"] for each in ids]

    ids = asyncio.run(send())
    wait_until(lambda: all(begun_at(stack, each) for each in ids), "the runs")
    killed_at = time.time()
    stack.kill(victim)
    ends_at = asyncio.run(ends(ids))
    lost = [(runs, end) for each, end in zip(ids, ends_at, strict=True) if len(runs := begun_at(stack, each)) > 1]
    return [(runs[1] - killed_at, end - killed_at) for runs, end in lost]


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=8)
    parser.add_argument("--jobs", type=int, default=8, help="under way at each kill, on two workers")
    options = parser.parse_args()
    print_machine()
    stack = ProcessStack(workers=(None, None), delay_s=delay_for(_SERVICE_S))
    found: list[tuple[float, float]] = []
    try:
        stack.start()
        stack.wait_ready()
        for number in range(options.kills):
            victim = f"worker{number % 2}"
            found += kill_once(stack, victim, options.jobs)
            stack.start(victim)
            stack.wait_ready(victim)
    finally:
        stack.stop()
    rows = []
    for what, seconds in (("begun again", [again for again, _ in found]), ("completed", [end for _, end in found])):
        rows.append(
            (what, len(seconds), *(f"{at_percent(seconds, each):.1f}" for each in (50, 95)), f"{max(seconds):.1f}")
        )
    table(
        f"After {options.kills} kills of a worker with runs of {_SERVICE_S:g} s under way",
        ("from the kill until a lost run is", "runs lost", "P50, s", "P95, s", "slowest, s"),
        rows,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

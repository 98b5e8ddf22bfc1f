"""What metrics cost: CPU of a text request with them and without, in one run, and of a look at ``/metrics``.

    python -m benchmarks.metrics                              # from the root

Two apis are up in one process, one of them with ``GLOWL_METRICS=false``, and are asked in turn, three requests each,
over one connection each, in an order drawn by chance. CPU is that of the process in nanoseconds. Shown is the median of
the differences, and between which values it lies with 95 % certainty. A second process has two equal apis: what these
differ by is what the method cannot tell. The calls themselves are timed too, alone.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Final

import uvloop

from benchmarks.gateway import CASES, Connection, make_requests, numbers
from benchmarks.gateway_cpu import ask, cpu_ms
from benchmarks.gateway_stack import KEY, Gateway, Stack
from benchmarks.printed import describe_machine, table
from engines.base import SamplingParams, Usage
from router.jobs.facts import of_answer
from router.jobs.job import BranchPlan, Job, JobSpec, Unit
from router.jobs.results import FinalAnswer, UnitResult
from router.telemetry.meters import CountingMeters

_WARM_UP: Final = 300
_SAMPLE: Final = 3
_LOOKS: Final = 100
_CALLS: Final = 200
_RESAMPLES: Final = 1000


def certain(differences: list[float]) -> tuple[float, float]:
    """Between which values the median lies, by resampling."""
    chance = random.Random(1)
    found = sorted(statistics.median(chance.choices(differences, k=len(differences))) for _ in range(_RESAMPLES))
    return found[int(0.025 * _RESAMPLES)], found[int(0.975 * _RESAMPLES)]


async def ask_in_turn(apis: tuple[Gateway, Gateway], count: int, *, is_streamed: bool) -> tuple[list[float], ...]:
    """Ask a few requests of one, then of the other, and again; returns CPU milliseconds of a request, for each."""
    loop, chance = asyncio.get_running_loop(), random.Random(1)
    made = [make_requests(each, CASES[0], is_streamed=is_streamed) for each in apis]
    connections = [(await loop.create_connection(Connection, "127.0.0.1", each.port))[1] for each in apis]
    found: tuple[list[float], ...] = ([], [])
    for _ in range(count):
        for side in chance.choice(((0, 1), (1, 0))):
            began_ms = cpu_ms(apis[side])
            for _ in range(_SAMPLE):
                await connections[side].ask(made[side](next(numbers)))
            found[side].append((cpu_ms(apis[side]) - began_ms) / _SAMPLE)
    for connection in connections:
        connection.transport.close()
    return found


def compare(first: Gateway, second: Gateway, count: int, *, is_streamed: bool) -> list[str]:
    """Ask both in turn; returns a row of the table."""
    ones, others = uvloop.run(ask_in_turn((first, second), count, is_streamed=is_streamed))
    differences = [one - other for one, other in zip(ones, others, strict=True)]
    whole = statistics.median(others)
    low, high = certain(differences)
    return [
        "streamed" if is_streamed else "plain",
        *(f"{statistics.median(each):.3f}" for each in (ones, others)),
        f"{100 * statistics.median(differences) / whole:+.1f} %",
        f"{100 * low / whole:+.1f} to {100 * high / whole:+.1f} %",
    ]


def calls_ms() -> float:
    """CPU milliseconds of all that is reported of one text request: the median of some rounds in this process."""
    meters, now = CountingMeters(), time.time()
    spec = JobSpec(
        id="resp_0",
        owner="local",
        created_at=now,
        model="glowl",
        messages=[],
        sampling=SamplingParams(),
        decision={"route": "fast", "engine": "glm", "rule": "chinese"},
        language="zh",
        branches=(BranchPlan("fast", "glm"),),
        strategy="single",
        timings={"policy": 0.2},
    )
    result = UnitResult("好", "glm", usage=Usage(300, 20), duration_s=0.5, ttft_s=0.1)
    final = FinalAnswer("好", "glm", "glm", "single")
    job = Job(spec, "completed", {"fast": Unit("fast", "completed", result=result)}, completed_at=now, final=final)
    found = []
    for _ in range(_LOOKS):
        began = time.process_time_ns()
        for _ in range(_CALLS):
            meters.request_began()
            meters.looked_up(is_hit=False)
            meters.decided("fast", "glm", "chinese")
            meters.answered(of_answer(job))
            meters.request_ended("/v1/chat/completions", 200, "", 0.5)
        found.append((time.process_time_ns() - began) / _CALLS / 1e6)
    return statistics.median(found)


def look(api: Gateway) -> list[str]:
    """Read its metrics again and again; returns a row of the table."""
    request = urllib.request.Request(f"http://127.0.0.1:{api.port}/metrics", headers=api.headers)
    began_ms, size = cpu_ms(api), 0
    for _ in range(_LOOKS):
        with urllib.request.urlopen(request, timeout=60) as answer:
            size = len(answer.read())
    cost_ms = (cpu_ms(api) - began_ms) / _LOOKS
    return [f"{cost_ms:.2f}", f"{size / 1000:.0f}", f"{cost_ms / 15_000:.3%}"]


def compare_pair(stack: Stack, metrics: tuple[str, str], count: int) -> tuple[list[list[str]], Gateway]:
    """Start two apis in one process and compare what text requests cost them.

    Returns:
        a row for plain requests and one for streamed ones, as `compare` gives them, and the first api.
    """
    headers = {"authorization": f"Bearer {KEY}"}
    env = {"GLOWL_API_KEYS": KEY, "GLOWL_CACHE_BYTES": "0"}
    stack.add_pair(("first", "second"), metrics, env, model="glowl", headers=headers)
    first, second = stack.gateways[-2:]
    warm_up(first, second)
    return [compare(first, second, count, is_streamed=is_streamed) for is_streamed in (False, True)], first


def warm_up(*apis: Gateway) -> None:
    """Ask each of them, both ways, until it has what it keeps."""
    for each in apis:
        for is_streamed in (False, True):
            uvloop.run(ask(each, CASES[0], _WARM_UP, is_streamed=is_streamed))


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3000)
    options = parser.parse_args()
    print(f"python -m benchmarks.metrics {' '.join(sys.argv[1:])}\n{describe_machine()}", flush=True)
    with tempfile.TemporaryDirectory(prefix="glowl-m") as folder:
        stack = Stack(Path(folder), [])
        try:
            rows, on = compare_pair(stack, ("on", "off"), options.pairs)
            columns = ["way", "CPU ms, first", "second", "the first costs more by", "with 95 % certainty"]
            table("A text request of 1 KB: with metrics, and without", columns, rows)
            control, _ = compare_pair(stack, ("on", "on"), options.pairs)
            table("The same, both with metrics", columns, control)
            cost_ms = calls_ms()
            shares = [f"{cost_ms / float(row[2]):.2%}" for row in rows]
            table(
                "What is reported of it, alone",
                ["CPU ms", "of a plain one", "of a streamed one"],
                [[f"{cost_ms:.4f}", *shares]],
            )
            table("A look at /metrics", ["CPU ms", "kB", "of a core, every 15 s"], [look(on)])
        finally:
            stack.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())

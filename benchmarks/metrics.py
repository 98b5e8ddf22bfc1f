"""What metrics cost: CPU of a text request with them and without, in one run, and of a look at ``/metrics``.

    python -m benchmarks.metrics                              # from the root

Two apis of the same code are up, one with ``GLOWL_METRICS=false``, and are asked in turn, block by block, over one
connection each; the order changes from round to round. CPU is that of the api's process in nanoseconds. Each round
gives one ratio of the two; shown is their median, and between which values it lies with 95 % certainty. On a busy
machine that is wide, so the calls themselves are timed too, in this process.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import uvloop

from benchmarks.gateway import CASES
from benchmarks.gateway_cpu import ask, cpu_ms
from benchmarks.gateway_stack import KEY, Gateway, Stack
from benchmarks.jobs_common import describe_machine, table
from engines.base import SamplingParams, Usage
from router.jobs.facts import of_answer
from router.jobs.job import BranchPlan, FinalAnswer, Job, JobSpec, Unit, UnitResult
from router.telemetry.meters import CountingMeters

_WARM_UP: Final = 300
_BLOCK: Final = 60
_LOOKS: Final = 100
_CALLS: Final = 200
_RESAMPLES: Final = 4000


def certain(ratios: list[float]) -> tuple[float, float]:
    """Between which values the median lies, by resampling."""
    chance = random.Random(1)
    found = sorted(statistics.median(chance.choices(ratios, k=len(ratios))) for _ in range(_RESAMPLES))
    return found[int(0.025 * _RESAMPLES)], found[int(0.975 * _RESAMPLES)]


def compare(on: Gateway, off: Gateway, rounds: int, *, is_streamed: bool) -> list[str]:
    """Ask both in turn; returns a row of the table."""
    found: dict[str, list[float]] = {on.name: [], off.name: []}
    for number in range(rounds):
        for each in (on, off) if number % 2 else (off, on):
            found[each.name].append(statistics.median(uvloop.run(ask(each, CASES[0], _BLOCK, is_streamed=is_streamed))))
    ratios = [one / other for one, other in zip(found[on.name], found[off.name], strict=True)]
    low, high = certain(ratios)
    medians = [statistics.median(found[each.name]) for each in (on, off)]
    return [
        "streamed" if is_streamed else "plain",
        *(f"{each:.3f}" for each in medians),
        f"{100 * (statistics.median(ratios) - 1):+.1f} %",
        f"{100 * (low - 1):+.1f} to {100 * (high - 1):+.1f} %",
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


def compare_two(
    stack: Stack, what: str, on: Mapping[str, str], off: Mapping[str, str], rounds: int
) -> tuple[list[list[str]], Gateway]:
    """Start two apis that differ in their environment and compare what text requests cost them.

    Returns:
        a row for plain requests and one for streamed ones, as `compare` gives them, and the first api.
    """
    for name, more in (("on", on), ("off", off)):
        headers = {"authorization": f"Bearer {KEY}"}
        env = {"GLOWL_API_KEYS": KEY, "GLOWL_CACHE_BYTES": "0", **more}
        stack.add_ours(f"{what} {name}", env, model="glowl", headers=headers)
    first, second = stack.gateways
    for each in (first, second):
        for is_streamed in (False, True):
            uvloop.run(ask(each, CASES[0], _WARM_UP, is_streamed=is_streamed))
    return [compare(first, second, rounds, is_streamed=is_streamed) for is_streamed in (False, True)], first


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    options = parser.parse_args()
    print(f"python -m benchmarks.metrics {' '.join(sys.argv[1:])}\n{describe_machine()}", flush=True)
    with tempfile.TemporaryDirectory(prefix="glowl-m") as folder:
        stack = Stack(Path(folder), [])
        try:
            rows, on = compare_two(stack, "metrics", {}, {"GLOWL_METRICS": "false"}, options.rounds)
            table("A text request of 1 KB", ["way", "CPU ms, on", "off", "metrics cost", "with 95 % certainty"], rows)
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

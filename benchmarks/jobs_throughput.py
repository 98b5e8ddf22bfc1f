"""What a job costs over a bare Celery task: submitting it, and jobs per second at 1, 4 and 16 places in a worker.

    python -m benchmarks.jobs_throughput                       # from the repository's root
    python -m benchmarks.jobs_throughput --service 0.1 --places 1 4 16

An echo engine answers in exactly the service time, word by word; the bare task sleeps as long. Both have the same
broker, the same Celery settings and take turns. All work is in line before a worker starts. Throughput is jobs by the
time from the first start to the last end. Ratios are what counts: machines are shared. CPU is that of the processes.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from dataclasses import dataclass

import aiohttp
import httpx

from benchmarks.jobs_bare_celery import DONE, QUEUE, TASK, create_bare
from benchmarks.jobs_common import NO_LIMIT, QUESTION, delay_for, ended, submit, to_body
from benchmarks.printed import at_percent, print_machine, table
from router.settings import Settings
from tests.support.servers import wait_until
from tests.support.stack import ProcessStack

_LONG_S = 300.0


@dataclass
class Run:
    """One way of doing a number of jobs.

    Attributes:
        rate: jobs per second.
        cpu_ms: of each process, per job.
    """

    rate: float
    cpu_ms: dict[str, float]


class Cpu:
    """CPU time of some processes from here on."""

    def __init__(self, stack: ProcessStack, *names: str) -> None:
        self._stack = stack
        self._before = {name: stack.cpu_s(name) for name in names}

    def ms_per(self, count: int) -> dict[str, float]:
        """Return milliseconds per job by process."""
        return {name: 1e3 * (self._stack.cpu_s(name) - before) / count for name, before in self._before.items()}


def run_ours(stack: ProcessStack, places: int, count: int) -> Run:
    """Do jobs."""

    async def work() -> Run:
        async with aiohttp.ClientSession(trust_env=False) as http:
            ids = await submit(http, stack.urls[0], count, 4)
            await asyncio.to_thread(stack.start, "worker0", env={"GLOWL_WORKER_CONCURRENCY": str(places)})
            await asyncio.to_thread(stack.wait_ready, "worker0")
            cpu = Cpu(stack, "worker0", "redis", "glm")
            jobs = [await ended(http, stack.urls[0], each) for each in ids]
            cost = cpu.ms_per(count)
        assert all(job["status"] == "completed" for job in jobs)
        span_s = max(job["completed_at"] for job in jobs) - min(job["started_at"] for job in jobs)
        return Run(count / span_s, cost)

    try:
        return asyncio.run(work())
    finally:
        stack.processes.pop("worker0").stop()


def run_bare(stack: ProcessStack, places: int, count: int, service_s: float) -> Run:
    """Do bare tasks."""
    app = create_bare(Settings(REDIS_URL=stack.redis_url))
    with stack.redis() as client:
        client.delete(DONE)
        for _ in range(count):
            app.send_task(TASK, args=[service_s], queue=QUEUE, ignore_result=True)
        stack.start("bare", env={"GLOWL_WORKER_CONCURRENCY": str(places)})
        try:
            wait_until((stack.dir / "bare.ready").exists, "the bare worker")
            cpu = Cpu(stack, "bare", "redis")
            wait_until(lambda: client.llen(DONE) == count, "the bare tasks", _LONG_S)
            cost = cpu.ms_per(count)
        finally:
            stack.processes.pop("bare").stop()
        spans = [tuple(map(float, each.split())) for each in client.lrange(DONE, 0, -1)]
    return Run(count / (max(end for _, end in spans) - min(begin for begin, _ in spans)), cost)


def bench_submit(stack: ProcessStack, count: int) -> None:
    """Print what it costs to put one job, and one bare task, in line."""
    app = create_bare(Settings(REDIS_URL=stack.redis_url))
    app.send_task(TASK, args=[0.0], queue=QUEUE, ignore_result=True)
    bare_s, before_s, redis_s = [], time.process_time(), stack.cpu_s("redis")
    for _ in range(count):
        begun = time.perf_counter()
        app.send_task(TASK, args=[0.0], queue=QUEUE, ignore_result=True)
        bare_s.append(time.perf_counter() - begun)
    bare_cpu_s, bare_redis_s = time.process_time() - before_s, stack.cpu_s("redis") - redis_s

    async def post() -> list[float]:
        taken_s = []
        async with aiohttp.ClientSession(trust_env=False) as http:
            for _ in range(count):
                begun = time.perf_counter()
                async with http.post(f"{stack.urls[0]}/v1/responses", json=to_body()) as answer:
                    await answer.read()
                    assert answer.status == 200
                taken_s.append(time.perf_counter() - begun)
        return taken_s

    asyncio.run(post())
    cpu = Cpu(stack, "api0", "redis")
    ours_s = asyncio.run(post())
    cost = cpu.ms_per(count)
    rows = []
    for name, taken_s, sender_ms, redis_ms in (
        ("bare `send_task`", bare_s, 1e3 * bare_cpu_s / count, 1e3 * bare_redis_s / count),
        ("`POST /v1/responses`, recorded and in line", ours_s, cost["api0"], cost["redis"]),
    ):
        times = (f"{1e3 * at_percent(taken_s, percent):.2f}" for percent in (50, 95))
        rows.append((name, *times, f"{sender_ms:.2f}", f"{redis_ms:.2f}"))
    table(
        f"Submitting one after another, {count} each",
        ("what", "P50, ms", "P95, ms", "sender's CPU, ms", "redis' CPU, ms"),
        rows,
    )


def measure_service_s(stack: ProcessStack) -> float:
    """Return how long the engine really takes: pauses overshoot a little, and the bare task is to take as long."""
    transport = httpx.HTTPTransport(uds=str(stack.dir / "glm.sock"))
    body = {"model": "glm", "messages": [{"role": "user", "content": QUESTION}]}
    taken_s = []
    with httpx.Client(transport=transport, trust_env=False, timeout=60) as http:
        for _ in range(5):
            begun = time.perf_counter()
            http.post("http://engine/v1/chat/completions", json=body).raise_for_status()
            taken_s.append(time.perf_counter() - begun)
    return at_percent(taken_s, 50)


def bench_rate(places: list[int], service_s: float, seconds: float) -> None:
    """Print jobs per second beside bare tasks."""
    rows = []
    stack = ProcessStack(delay_s=delay_for(service_s), env={"GLOWL_RESEND_AFTER_S": "600", **NO_LIMIT})
    stack.add_command("bare", ["-m", "benchmarks.jobs_bare_celery", str(stack.dir / "bare.ready")])
    try:
        stack.start("redis", "glm", "owl2", "api0")
        stack.wait_ready()
        if service_s < 1:
            bench_submit(stack, 300)
            with stack.redis() as client:
                client.flushall()
        really_s = measure_service_s(stack)
        for each in places:
            count = max(int(each * seconds / service_s), each * 4)
            bare, ours = run_bare(stack, each, count, really_s), run_ours(stack, each, count)
            rows.append(
                (
                    *(each, count, f"{each / really_s:.1f}", f"{bare.rate:.1f}", f"{ours.rate:.1f}"),
                    f"{ours.rate / bare.rate:.2f}x",
                    *(f"{bare.cpu_ms[name]:.1f}" for name in ("bare", "redis")),
                    *(f"{ours.cpu_ms[name]:.1f}" for name in ("worker0", "redis", "glm")),
                )
            )
    finally:
        stack.stop()
    table(
        f"Jobs per second, service time {really_s:.3f} s",
        (
            *("places", "jobs", "at most", "bare tasks/s", "jobs/s", "ratio"),
            *("bare: worker's CPU, ms", "bare: redis'", "ours: worker's CPU, ms", "ours: redis'", "ours: engine's"),
        ),
        rows,
    )


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--service", type=float, nargs="+", default=[1.0, 0.1], help="seconds an answer takes")
    parser.add_argument("--places", type=int, nargs="+", default=[1, 4, 16], help="tasks side by side in the worker")
    parser.add_argument("--seconds", type=float, default=8.0, help="about how long each run takes")
    options = parser.parse_args()
    print_machine()
    for service_s in options.service:
        bench_rate(options.places, service_s, options.seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What the job benchmarks share: the question, its answer's length, clocks, and Markdown tables."""

from __future__ import annotations

import asyncio
import os
import platform
import statistics
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import aiohttp

from engines.base import GenerationRequest, Message, TextPart
from engines.echo import EchoEngine
from router.cli.redis_server import find_redis

QUESTION = "How many of the boxes on the left are open?"
# One caller sends everything here, and all of it at once.
NO_LIMIT = {"GLOWL_MAX_UNFINISHED_JOBS": "1000000"}
TERMINAL = frozenset({"completed", "failed", "cancelled", "incomplete"})
Json = dict[str, Any]


def delay_for(service_s: float) -> float:
    """Return what an echo engine must wait before each word for its answer to take so long."""

    async def count() -> int:
        engine = EchoEngine("glm")
        await engine.start()
        request = GenerationRequest((Message("user", (TextPart(QUESTION),)),))
        return sum([1 async for _ in engine.stream(request)])

    return service_s / asyncio.run(count())


def to_body(model: str = "glm-4.6v-flash", **more: Any) -> Json:
    """Return a background request: one branch, then its merge."""
    return {"model": model, "input": QUESTION, "background": True, **more}


async def submit(http: aiohttp.ClientSession, url: str, count: int, side_by_side: int = 1) -> list[str]:
    """Send background jobs; returns their ids."""
    ids: list[str] = []

    async def send(number: int) -> None:
        for _ in range(number, count, side_by_side):
            async with http.post(f"{url}/v1/responses", json=to_body()) as answer:
                found = await answer.json()
                if answer.status != 200:
                    raise RuntimeError(f"{answer.status}: {found}")
                ids.append(found["id"])

    await asyncio.gather(*(send(number) for number in range(side_by_side)))
    return ids


async def view(http: aiohttp.ClientSession, url: str, job_id: str) -> Json:
    """Read a job's record."""
    async with http.get(f"{url}/v1/jobs/{job_id}") as answer:
        found: Json = await answer.json()
        return found


async def ended(http: aiohttp.ClientSession, url: str, job_id: str) -> Json:
    """Return a job's record once it has ended, without costing the api more than a few looks a second."""
    while not (found := await view(http, url, job_id))["completed_at"]:  # noqa: ASYNC110
        await asyncio.sleep(0.2)
    return found


def at_percent(values: Sequence[float], percent: int) -> float:
    """Return the value that so many per cent stay below."""
    if percent == 50:
        return statistics.median(values)
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a Markdown table."""
    print(f"\n### {title}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(str(cell) for cell in row)} |", flush=True)


def describe_machine() -> str:
    """Return two lines that say what is measured on."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("celery", "kombu", "redis", "fastapi", "uvicorn"))
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    return (
        f"{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}, {packages},\n"
        f"server {find_redis({}).version}; load average before the run {load}."
    )


def print_machine() -> None:
    """Print what was measured on."""
    print(describe_machine())

"""What the job benchmarks share: the question, its answer's length, and jobs under way."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp

from engines.base import GenerationRequest, Message, TextPart
from engines.echo import EchoEngine

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

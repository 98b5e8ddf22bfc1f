"""Callers that send jobs to a service that is being hurt, and count afterwards: accepted = completed, nothing twice.

In: the addresses of apis. Out: an `Account` of what was accepted, refused and broken off, and what is wrong afterwards.
Each job has an Idempotency-Key and is sent until it is accepted, as a client with retries does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from uuid import uuid4

import aiohttp

_TRY_S = 15.0


@dataclass(slots=True)
class Account:
    """What callers were told.

    Attributes:
        accepted: ids by key.
        accepted_at: when each was, in seconds of `time.monotonic`.
        num_refused: answers that were no 200, by status.
        num_broken: calls without an answer.
        wrong: what must not be, in words.
    """

    accepted: dict[str, str] = field(default_factory=dict)
    accepted_at: list[float] = field(default_factory=list)
    refused: dict[int, int] = field(default_factory=dict)
    num_broken: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def longest_gap_s(self) -> float:
        """The longest time without an accepted job."""
        return max((b - a for a, b in zip(self.accepted_at, self.accepted_at[1:], strict=False)), default=0.0)


async def load(
    urls: Sequence[str], hurt: Callable[[], Awaitable[None]], *, num_callers: int, pause_s: float
) -> Account:
    """Send jobs from several callers until ``hurt`` has returned."""
    account, over = Account(), asyncio.Event()

    async def call(http: aiohttp.ClientSession, number: int) -> None:
        count = 0
        while not over.is_set():
            key, count = uuid4().hex, count + 1
            await accept(
                http, account, urls[count % len(urls)], key, f"Caller {number} asks {count}: how many are open?"
            )
            await asyncio.sleep(pause_s)

    timeout = aiohttp.ClientTimeout(total=_TRY_S)
    async with aiohttp.ClientSession(trust_env=False, timeout=timeout) as http, asyncio.TaskGroup() as callers:
        for number in range(num_callers):
            callers.create_task(call(http, number))
        await hurt()
        over.set()
    return account


async def accept(http: aiohttp.ClientSession, account: Account, url: str, key: str, question: str) -> None:
    """Send one job until it is accepted."""
    body = {"model": "glowl", "input": question, "background": True, "hybrid": {"route": "deep"}}
    while True:
        try:
            async with http.post(f"{url}/v1/responses", json=body, headers={"Idempotency-Key": key}) as answer:
                found = await answer.json()
                if answer.status == 200:
                    account.accepted[key] = found["id"]
                    account.accepted_at.append(time.monotonic())
                    return
                account.refused[answer.status] = account.refused.get(answer.status, 0) + 1
        except (aiohttp.ClientError, TimeoutError):
            account.num_broken += 1
        await asyncio.sleep(0.2)


async def settle(url: str, account: Account, *, timeout_s: float) -> dict[str, int]:
    """Wait until every accepted job has ended; returns how many by state, and notes what is wrong."""
    states: dict[str, int] = {}
    deadline = time.monotonic() + timeout_s
    ids = set(account.accepted.values())
    if len(ids) != len(account.accepted):
        account.wrong.append("two keys got the same id")
    async with aiohttp.ClientSession(trust_env=False, timeout=aiohttp.ClientTimeout(total=_TRY_S)) as http:
        for each in sorted(ids):
            state = await _end_of(http, url, each, deadline)
            states[state] = states.get(state, 0) + 1
            if state != "completed":
                account.wrong.append(f"{each} is {state}")
    return states


async def _end_of(http: aiohttp.ClientSession, url: str, job_id: str, deadline: float) -> str:
    state = "not read"
    while time.monotonic() < deadline:
        try:
            async with http.get(f"{url}/v1/responses/{job_id}") as answer:
                found = await answer.json()
                state = "lost" if answer.status == 404 else str(found.get("status", answer.status))
                if state in ("completed", "failed", "cancelled", "incomplete", "lost"):
                    return state
        except (aiohttp.ClientError, TimeoutError):
            state = "not read"
        await asyncio.sleep(0.3)
    return state

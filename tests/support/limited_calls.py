"""Many calls with one key to several api processes, one of which is killed: what was admitted, and what is on record.

In: a running `ProcessStack` whose apis have limits. Out: a `Tally`, compared with the ledger in redis.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import aiohttp
import redis

from router.limits.limits import Limits
from router.limits.meters import to_subject
from router.lua.constants import MINUTE_US
from tests.support.servers import wait_until
from tests.support.stack import ProcessStack

BODY = {"model": "glm-4.6v-flash", "max_tokens": 8, "messages": [{"role": "user", "content": "你好"}]}


@dataclass
class Tally:
    """What callers saw, and what redis has.

    Attributes:
        admitted: tokens used, by the id of each request that was answered.
        num_by_killed: of these, by the api that was killed.
        num_refused: answered with 429.
        num_broken: without an answer, as their api was killed.
        wall_s: from the first call to the last answer.
        charged_at_us: when each request on record was charged, in order.
        settled: tokens of those on record whose end was settled.
        num_held: on record, and not settled: their api was killed.
    """

    admitted: list[int] = field(default_factory=list)
    num_by_killed: int = 0
    num_refused: int = 0
    num_broken: int = 0
    wall_s: float = 0.0
    charged_at_us: list[int] = field(default_factory=list)
    settled: list[int] = field(default_factory=list)
    num_held: int = 0

    @property
    def num_calls(self) -> int:
        """All of them."""
        return len(self.admitted) + self.num_refused + self.num_broken

    def most(self, per_minute: int) -> float:
        """Return what the limit allows from the first charge to the last: a whole minute's, and what drained since."""
        return per_minute * (1 + (self.charged_at_us[-1] - self.charged_at_us[0]) / MINUTE_US)

    def is_never_over(self, per_minute: int) -> bool:
        """Whether at no charge more was owed than the limit: the bucket is filled again, charge by charge."""
        owed, last = 0, self.charged_at_us[0]
        for at in self.charged_at_us:
            owed = max(0, owed - (at - last) * per_minute) + MINUTE_US
            last = at
            if owed > per_minute * MINUTE_US:
                return False
        return True


async def call(url: str, key: str, number: int, num_at_once: int, tally: Tally, on_answer: Callable[[], None]) -> None:
    """Send calls to one api, some at a time."""
    left = iter(range(number))
    headers = {"authorization": f"Bearer {key}"}

    num_answered = 0

    async def some(http: aiohttp.ClientSession) -> None:
        nonlocal num_answered
        for _ in left:
            try:
                async with http.post(f"{url}/v1/chat/completions", json=BODY) as answer:
                    body = await answer.json()
            except (aiohttp.ClientError, ConnectionError):
                tally.num_broken += 1
                tally.num_by_killed = num_answered  # its api is dead
                return
            if answer.status == 200:
                tally.admitted.append(body["usage"]["total_tokens"])
                num_answered += 1
            else:
                assert answer.status == 429, body
                assert body["error"]["code"] == "rate_limit_exceeded"
                tally.num_refused += 1
            on_answer()

    async with aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(120)) as http:
        await asyncio.gather(*(some(http) for _ in range(num_at_once)))


async def call_all(
    stack: ProcessStack, key: str, *, num_each: int, num_at_once: int, kill: str, kill_after: int
) -> Tally:
    """Send calls to all apis at once, and kill one of them after so many answers.

    Args:
        stack: its apis have the key, and limits.
        key: sent with each call.
        num_each: calls to each api.
        num_at_once: of these.
        kill: name of the api.
        kill_after: answers of all apis.
    """
    tally, began = Tally(), time.monotonic()

    def on_answer() -> None:
        if tally.num_calls >= kill_after and kill in stack.processes:
            stack.kill(kill)

    await asyncio.gather(*(call(url, key, num_each, num_at_once, tally, on_answer) for url in stack.urls))
    tally.wall_s = time.monotonic() - began
    return tally


def read_ledger(stack: ProcessStack, tally: Tally, owner: str, limits: Limits) -> None:
    """Add what is on record, once all that can still be settled is."""
    subject = to_subject("owner", owner, limits)
    with stack.redis() as client:
        # What the killed api had answered last it may not have settled.
        least = len(tally.admitted) - tally.num_by_killed
        wait_until(lambda: len(_entries(client, subject.name, b"settled")) >= least, "all ends")
        settled = _entries(client, subject.name, b"settled")
        held = _entries(client, subject.name, b"held")
    tally.settled = [int(words[4]) for words in settled]
    tally.num_held = len(held)
    tally.charged_at_us = sorted(int(words[5]) for words in settled + held)


def _entries(client: redis.Redis, name: str, state: bytes) -> list[list[bytes]]:
    found = [entry.split() for page in client.keys(f"glowl:ledger:{name}:*") for entry in client.hvals(page)]  # type: ignore[union-attr]
    return [words for words in found if words[0] == state]

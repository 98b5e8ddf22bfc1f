"""The plain openai client, joining every piece of text: it has the answer, alone, in whatever order things come.

Jobs are played by hand on the record, so that the draft can be later than the answer and runs can be lost.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import openai
import pytest
import redis
from redis.asyncio import Redis

from router import dispatch
from router.jobs.results import FinalAnswer, UnitResult
from router.jobs.store import JobStore
from router.redis import PREFIX
from tests.router.api.test_unstored import jobs_of
from tests.support.servers import RedisProcess, wait_until

MODES = ("reasoning", "message", "events", "none")
# Words of a part; LOST: its run is lost and begun again; END: it has ended.
ORDERS: dict[str, list[tuple[str, str]]] = {
    "draft first": [("draft", "my "), ("draft", "guess"), ("draft", "END"), ("deep", "an "), ("deep", "owl")],
    "word by word": [("draft", "my "), ("deep", "an "), ("draft", "guess"), ("deep", "owl"), ("draft", "END")],
    "draft after the answer": [("deep", "an "), ("deep", "owl"), ("deep", "END"), ("draft", "my "), ("draft", "guess")],
    "no draft": [("deep", "an "), ("deep", "owl")],
    "answer lost and repeated": [
        *[("draft", "my "), ("deep", "an "), ("deep", "LOST"), ("draft", "guess")],
        *[("deep", "an owl")],
    ],
    "draft lost and other": [("draft", "my "), ("draft", "LOST"), ("draft", "guess"), ("deep", "an "), ("deep", "owl")],
}


@pytest.fixture(autouse=True)
def _by_hand(redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_MAX_LOCAL_DRAFTS", 0)
    for key in redis_client.scan_iter(f"{PREFIX}job:*"):
        redis_client.delete(key)


def play(redis_url: str, job_id: str, steps: list[tuple[str, str]]) -> None:
    """Do what the workers of a job would, and end it with "an owl"."""

    async def work() -> None:
        async with Redis.from_url(redis_url) as client:
            store = JobStore(client, max_attempts=100)
            epochs: dict[str, int] = {}
            ended: set[str] = set()
            for unit, what in [*steps, ("draft", "END"), ("deep", "END")]:
                if unit in ended:
                    continue
                if unit not in epochs:
                    epochs[unit] = await store.claim(job_id, unit) or 0
                if what == "LOST":
                    await store.release(job_id, unit, epochs.pop(unit), "failed")
                elif what == "END":
                    text = "an owl" if unit == "deep" else "my guess"
                    await store.finish(job_id, unit, epochs[unit], UnitResult(text=text, model="m"))
                    ended.add(unit)
                else:
                    await store.append(job_id, unit, epochs[unit], what)
            merge = await store.claim(job_id, "merge") or 0
            await store.complete(job_id, merge, final=FinalAnswer("an owl", "m", "owl2", "deep"))

    asyncio.run(work())


def while_played(url: str, client: redis.Redis, steps: list[tuple[str, str]], read: Callable[[], Any]) -> Any:
    """Read a stream while the job that it asks for is played."""
    player = threading.Thread(
        target=lambda: play(url, next(iter(wait_until(lambda: jobs_of(client), "a job"))), steps), daemon=True
    )
    player.start()
    told = read()
    player.join(300)
    return told


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("order", ORDERS)
def test_the_text_that_a_client_joins_is_the_answer_alone(
    client: openai.OpenAI, redis_client: redis.Redis, redis_process: RedisProcess, order: str, mode: str
) -> None:
    hybrid = {"hybrid": {"route": "deep", "merge": "deep", "draft": mode}}

    def read() -> list[Any]:
        with client.responses.stream(model="glowl", input="Why?", extra_body=hybrid) as stream:
            return list(stream)

    events = while_played(redis_process.url, redis_client, ORDERS[order], read)

    final = [
        event.item
        for event in events
        if event.type == "response.output_item.done" and getattr(event.item, "phase", None) == "final_answer"
    ]
    joined = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    by_item = "".join(
        event.delta for event in events if event.type == "response.output_text.delta" and event.item_id == final[-1].id
    )
    assert events[-1].response.output_text == by_item == "an owl"
    assert mode == "message" or joined == "an owl"
    # And from wherever it is resumed, what was missed is what comes
    for cut in (0, len(events) // 2, len(events) - 2):
        rest = list(
            client.responses.retrieve(
                events[0].response.id,
                stream=True,
                starting_after=cut,  # type: ignore[call-overload]
            )
        )
        raw = [event for event in events if hasattr(event, "sequence_number") and event.sequence_number > cut]
        kept = [event.sequence_number for event in raw if event.type != "response.output_text.annotation.added"]
        assert [event.sequence_number for event in rest] == sorted(set(kept))


@pytest.mark.parametrize(("order", "mode"), [(order, MODES[number % 4]) for number, order in enumerate(ORDERS)])
def test_so_it_is_in_a_chat(
    client: openai.OpenAI, redis_client: redis.Redis, redis_process: RedisProcess, order: str, mode: str
) -> None:
    hybrid = {"hybrid": {"route": "deep", "merge": "deep", "draft": mode}}

    def read() -> list[Any]:
        messages: Any = [{"role": "user", "content": "Why?"}]
        return list(client.chat.completions.create(model="glowl", messages=messages, stream=True, extra_body=hybrid))

    chunks = while_played(redis_process.url, redis_client, ORDERS[order], read)

    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert "".join(delta.content or "" for delta in deltas) == "an owl"
    thoughts = [getattr(delta, "reasoning_content", None) or "" for delta in deltas]
    first = next(index for index, delta in enumerate(deltas) if delta.content)
    assert mode == "reasoning" or not any(thoughts)
    assert not any(thoughts[first:])
    assert chunks[-1].choices[0].finish_reason == "stop"

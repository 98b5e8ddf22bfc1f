"""What repeats for ever goes on whatever one round runs into, and in one process of all."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from router.redis import PREFIX, queue_unavailable, repeat, repeat_in_one


async def test_what_one_round_runs_into_does_not_stop_the_next(caplog: pytest.LogCaptureFixture) -> None:
    outcomes = [queue_unavailable(), ValueError("one bad record"), None]
    done = asyncio.Event()

    async def work() -> None:
        outcome = outcomes.pop(0)
        if outcome is not None:
            raise outcome
        done.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(repeat("mender", work, lambda: asyncio.sleep(0)))
    await asyncio.wait_for(done.wait(), 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    # That redis is away is no news of this part; a bug is.
    assert [record.message for record in caplog.records if record.levelname != "DEBUG"] == ["the mender failed"]


@pytest.mark.parametrize("pause_s", [0, 3600])
async def test_a_cancellation_that_a_client_swallowed_ends_it_all_the_same(pause_s: float) -> None:
    begun = asyncio.Event()

    async def swallow() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return

    task = asyncio.create_task(repeat("mender", swallow, lambda: asyncio.sleep(pause_s)))
    await asyncio.wait_for(begun.wait(), 60)
    task.cancel()
    await asyncio.wait({task}, timeout=300)
    assert task.cancelled()


async def test_of_several_processes_one_has_the_turn(redis: Redis) -> None:
    rounds: list[int] = []
    looks: list[int] = []
    all_looked = asyncio.Event()

    class Counting:
        def __init__(self, number: int) -> None:
            self._number = number

        async def set(self, *args: object, **options: object) -> object:
            looks.append(self._number)
            if len(set(looks)) == 3 and len(looks) >= 12:
                all_looked.set()
            return await redis.set(*args, **options)  # type: ignore[arg-type]

    def start(number: int) -> asyncio.Task[None]:
        async def work() -> None:
            rounds.append(number)

        return asyncio.create_task(
            repeat_in_one(Counting(number), "mender", work, interval_s=3600, look_s=0.001)  # type: ignore[arg-type]
        )

    tasks = [start(number) for number in range(3)]
    await asyncio.wait_for(all_looked.wait(), 60)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

    assert len(rounds) == 1
    assert await redis.pttl(f"{PREFIX}mender") > 0

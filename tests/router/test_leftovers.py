"""router.leftovers: work that outlives its cause, and work that will not end."""

from __future__ import annotations

import asyncio

from router.leftovers import Leftovers, end_tasks


async def test_a_task_that_swallows_its_cancellation_is_ended_all_the_same() -> None:
    # Given a loop whose client takes the first two cancellations for an ordinary answer
    num_swallowed = 0
    is_waiting = asyncio.Event()

    async def read_for_ever() -> None:
        nonlocal num_swallowed
        while True:
            is_waiting.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if num_swallowed == 2:
                    raise
                num_swallowed += 1

    reader = asyncio.create_task(read_for_ever())
    await is_waiting.wait()

    # When it is to end
    await asyncio.wait_for(end_tasks(reader), timeout=300)

    # Then it has
    assert reader.cancelled()
    assert num_swallowed == 2


async def test_how_a_task_ends_is_no_matter() -> None:
    async def fail() -> None:
        raise ValueError

    failed, done = asyncio.create_task(fail()), asyncio.create_task(asyncio.sleep(0))
    await asyncio.wait([failed, done])

    await end_tasks(failed, done)
    await end_tasks()


async def test_leftovers_are_waited_for() -> None:
    leftovers, is_free = Leftovers(), asyncio.Event()

    async def work() -> str:
        await is_free.wait()
        return "done"

    task = leftovers.add(work())
    assert len(leftovers) == 1
    is_free.set()
    await leftovers.aclose()

    assert task.result() == "done"
    assert len(leftovers) == 0


async def test_who_ends_a_task_ends_it_also_when_cancelled_again_meanwhile() -> None:
    # Given a task that needs more than one cancellation to end, and another that ends it at its own end
    is_waiting, num_swallowed = asyncio.Event(), 0

    async def slow_to_end() -> None:
        nonlocal num_swallowed
        while True:
            is_waiting.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if num_swallowed == 3:
                    raise
                num_swallowed += 1

    inner = asyncio.create_task(slow_to_end())
    outer = asyncio.create_task(end_tasks(inner))
    await is_waiting.wait()

    # When the other is cancelled, and again, as a request is whose client has hung up
    for _ in range(2):
        outer.cancel()
        await asyncio.sleep(0)
    await asyncio.wait_for(asyncio.wait({outer}), 60)

    # Then the task has ended before the one that ends it, which was cancelled
    assert inner.done()
    assert outer.cancelled()

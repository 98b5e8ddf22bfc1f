"""router.leftovers: work that outlives its cause, and work that will not end."""

from __future__ import annotations

import asyncio

import pytest

from router.leftovers import Leftovers, end_tasks, to_the_end


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


async def test_what_has_to_be_done_at_the_end_of_a_task_is_done_however_often_the_task_is_cancelled() -> None:
    is_doing, may_end, outcomes = asyncio.Event(), asyncio.Event(), list[str]()

    async def do() -> None:
        is_doing.set()
        await may_end.wait()
        outcomes.append("done")

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await to_the_end(do())

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    await is_doing.wait()
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    may_end.set()
    await asyncio.wait({task})

    assert task.cancelled()
    assert outcomes == ["done"]


async def test_work_that_is_done_to_its_end_returns_and_raises_as_ever() -> None:
    async def fail() -> None:
        raise ValueError("no")

    assert await to_the_end(asyncio.sleep(0, "result")) == "result"
    with pytest.raises(ValueError, match="no"):
        await to_the_end(fail())

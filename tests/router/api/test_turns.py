"""Many who wait are woken a few in each turn of the loop."""

from __future__ import annotations

import asyncio

from router.api.turns import Turns, Waiter


async def test_a_few_are_woken_in_each_turn_first_come_first_served() -> None:
    turns, order = Turns(4), []

    async def wait(number: int) -> None:
        await turns.next()
        order.append(number)

    tasks = [asyncio.create_task(wait(number)) for number in range(100)]
    most = 0
    while len(order) < 100:
        before = len(order)
        await asyncio.sleep(0)
        most = max(most, len(order) - before)

    assert order == list(range(100))
    assert 1 <= most <= 4
    await asyncio.gather(*tasks)


async def test_those_who_were_cancelled_are_passed_over() -> None:
    turns, loop = Turns(1), asyncio.get_running_loop()
    waiters: list[Waiter] = [loop.create_future() for _ in range(100)]
    turns.wake(waiters)
    for waiter in waiters[:-1]:
        waiter.cancel()
    async with asyncio.timeout(300):
        await waiters[-1]
    await turns.next()  # and it still goes round

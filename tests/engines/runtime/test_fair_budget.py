"""engines.runtime.fair_budget and scheduler: a budget that requests share, and calls on the model's thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.base import EngineUnavailableError
from engines.runtime.fair_budget import FairBudget
from engines.runtime.scheduler import Scheduler


@pytest.fixture
async def thread() -> AsyncIterator[Scheduler[Any, Any]]:
    thread: Scheduler[Any, Any] = Scheduler("test-model", max_queue=2)
    yield thread
    await thread.aclose()


async def test_all_calls_run_on_one_and_the_same_thread(thread: Scheduler[Any, Any]) -> None:
    names = [await thread.call(lambda: threading.current_thread().name) for _ in range(3)]

    assert names == ["test-model"] * 3


async def test_a_call_returns_the_result_or_raises_what_the_function_raised(thread: Scheduler[Any, Any]) -> None:
    def fail() -> None:
        raise OSError("no such checkpoint")

    assert await thread.call(lambda: 42) == 42
    with pytest.raises(OSError, match="no such checkpoint"):
        await thread.call(fail)
    assert await thread.call(lambda: None) is None


async def test_a_call_whose_caller_left_never_runs(thread: Scheduler[Any, Any]) -> None:
    # Given a call behind one that takes its time
    go, ran = threading.Event(), threading.Event()
    first = asyncio.create_task(thread.call(lambda: go.wait(300)))
    second = asyncio.create_task(thread.call(ran.set))
    await asyncio.sleep(0)

    # When its caller leaves before its turn
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    go.set()

    # Then the thread goes on without it
    assert await first
    assert await thread.call(lambda: "next") == "next"
    assert not ran.is_set()


async def test_shutting_down_refuses_the_calls_in_line_and_closing_again_is_harmless() -> None:
    # Given a running call and a waiting one
    thread: Scheduler[Any, Any] = Scheduler("closing", max_queue=1)
    started, go = threading.Event(), threading.Event()

    def hold() -> bool:
        started.set()
        return go.wait(300)

    running = asyncio.create_task(thread.call(hold))
    assert await asyncio.to_thread(started.wait, 60)
    waiting = asyncio.create_task(thread.call(lambda: "never"))
    await asyncio.sleep(0)

    # When the thread closes
    closing = asyncio.create_task(thread.aclose())
    await asyncio.sleep(0)
    go.set()
    await closing

    # Then the running one ends, and the waiting and the late ones are told
    assert await running
    with pytest.raises(EngineUnavailableError):
        await waiting
    with pytest.raises(EngineUnavailableError):
        await thread.call(lambda: "late")
    await thread.aclose()


class Holder:
    """Holds a part of a budget until it is let go."""

    def __init__(self, budget: FairBudget, amount: int, caller: str = "") -> None:
        self.has_it = False
        self.amount = amount
        self._go = asyncio.Event()
        self._task = asyncio.create_task(self._hold(budget, caller))

    async def _hold(self, budget: FairBudget, caller: str) -> None:
        async with budget.hold(self.amount, caller):
            self.has_it = True
            await self._go.wait()
        self.has_it = False

    async def let_go(self) -> None:
        self._go.set()
        await settle()

    async def cancel(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self.has_it = False
        await settle()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_parts_are_held_side_by_side_while_they_fit() -> None:
    budget = FairBudget(10)
    first, second, third = [Holder(budget, amount) for amount in (4, 6, 1)]
    await settle()
    assert (first.has_it, second.has_it, third.has_it) == (True, True, False)
    assert budget.num_held == 10

    await first.let_go()

    assert third.has_it
    assert budget.num_held == 7
    await second.let_go()
    await third.let_go()
    assert budget.num_held == 0


async def test_more_than_there_is_is_held_alone() -> None:
    budget = FairBudget(10)
    small, huge, behind = Holder(budget, 1), Holder(budget, 100), Holder(budget, 1)
    await settle()
    assert (small.has_it, huge.has_it, behind.has_it) == (True, False, False)

    await small.let_go()
    assert (huge.has_it, behind.has_it) == (True, False)
    await huge.let_go()
    assert behind.has_it
    await behind.let_go()


async def test_turns_go_round_over_callers_and_by_arrival_within_one() -> None:
    # Given a caller with one part, who wants two more, and another who comes later
    budget = FairBudget(1)
    holders = {name: Holder(budget, 1, name[0]) for name in ("a1", "a2", "a3", "b1")}
    await settle()

    # When each lets go when it was its turn
    order = []
    while holders:
        (name,) = [name for name, holder in holders.items() if holder.has_it]
        order.append(name)
        await holders.pop(name).let_go()

    assert order == ["a1", "a2", "b1", "a3"]


async def test_an_error_while_holding_gives_the_part_back() -> None:
    budget = FairBudget(1)
    with pytest.raises(ZeroDivisionError):
        async with budget.hold(1):
            raise ZeroDivisionError

    assert budget.num_held == 0


async def test_who_is_cancelled_in_the_moment_of_its_turn_gives_the_part_back() -> None:
    # Given a holder that has just been given its part, but has not run since
    budget = FairBudget(1)
    first, second, third = Holder(budget, 1), Holder(budget, 1), Holder(budget, 1)
    await settle()
    first._go.set()
    await asyncio.sleep(0)
    assert budget.num_held == 1
    assert not second.has_it

    # When it is cancelled then
    await second.cancel()

    # Then the next one has it
    assert third.has_it
    await third.let_go()
    assert budget.num_held == 0


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    amounts=st.lists(st.tuples(st.integers(0, 12), st.sampled_from("abc")), min_size=1, max_size=12),
    data=st.data(),
)
def test_whoever_comes_and_goes_the_budget_is_kept_and_everybody_has_a_turn(
    amounts: list[tuple[int, str]], data: st.DataObject
) -> None:
    async def run() -> None:
        budget = FairBudget(10)
        alive: list[Holder] = []
        for amount, caller in amounts:
            alive.append(Holder(budget, amount, caller))
            if data.draw(st.booleans()):
                await settle()
            if data.draw(st.integers(0, 3)) == 0:
                await alive.pop(data.draw(st.integers(0, len(alive) - 1))).cancel()
        await settle()
        while alive:
            held = [holder for holder in alive if holder.has_it]
            assert held
            assert budget.num_held == sum(holder.amount for holder in held)
            assert budget.num_held <= 10 or sum(holder.amount > 0 for holder in held) == 1
            holder = data.draw(st.sampled_from(held))
            alive.remove(holder)
            await holder.let_go()
        assert budget.num_held == 0

    asyncio.run(run())

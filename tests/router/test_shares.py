"""Places that owners share: nobody has all of them, everybody has one, and whoever waits has its turn."""

from __future__ import annotations

import asyncio

import pytest

from router.shares import Shares


def take_all(shares: Shares, owner: str, lines: int | None = None) -> list[str]:
    """Take places for ever new lines, or for so many in turn, until there is no room; returns the lines."""
    taken: list[str] = []
    while shares.has_room(owner, line := str(len(taken) if lines is None else len(taken) % lines)):
        shares.take(owner, line)
        taken.append(line)
    return taken


@pytest.mark.parametrize("total", [8, 64, 256])
def test_whoever_takes_all_they_may_leaves_some_for_the_next(total: int) -> None:
    shares = Shares(total)
    numbers = [len(take_all(shares, f"owner{number}")) for number in range(min(total // 4, 10))]
    assert min(numbers) >= 1
    assert numbers == sorted(numbers, reverse=True)
    assert numbers[0] <= total / 4


def test_a_line_has_a_part_of_its_owners_and_at_most_what_it_may() -> None:
    shares = Shares(256)
    assert 1 < len(take_all(shares, "ann", lines=1)) <= 256 / 4 / 4
    assert shares.has_room("ann", "another line")
    assert len(take_all(Shares(256, most_per_line=4), "ann", lines=1)) == 4


def test_what_was_given_back_is_free_for_others() -> None:
    shares = Shares(16)
    for line in take_all(shares, "ann"):
        shares.give_back("ann", line)
    assert shares.taken == {}
    assert len(take_all(shares, "bob")) == len(take_all(Shares(16), "bob"))


async def test_whoever_waits_gets_a_place_owners_in_turn() -> None:
    shares = Shares(1)
    order: list[str] = []

    async def work(owner: str) -> None:
        async with shares.hold(owner):
            order.append(owner)

    shares.take("first")
    workers = [asyncio.create_task(work(owner)) for owner in ("ann", "ann", "ann", "bob")]
    await asyncio.sleep(0)
    assert order == []
    shares.give_back("first")
    async with asyncio.timeout(300):
        await asyncio.gather(*workers)

    assert order == ["ann", "bob", "ann", "ann"]


async def test_a_full_line_is_passed_over_by_its_owners_others() -> None:
    shares = Shares(64)
    for line in take_all(shares, "ann", lines=1):
        assert line == "0"
    slow = asyncio.create_task(shares.wait("ann", "0"))
    await asyncio.sleep(0)
    async with asyncio.timeout(300):
        await shares.wait("ann", "1")
    assert not slow.done()
    shares.give_back("ann", "0")
    await asyncio.wait_for(slow, 60)


async def test_whoever_stops_waiting_takes_no_place() -> None:
    shares = Shares(1)
    shares.take("ann")
    waiting = [asyncio.create_task(shares.wait("bob")) for _ in range(2)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    shares.give_back("ann")
    waiting[1].cancel()  # it has been given the place, and does not know yet
    await asyncio.gather(*waiting, return_exceptions=True)

    assert shares.taken == {}
    assert shares.has_room("bob")

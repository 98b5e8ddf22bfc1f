"""Keep-alives between the items of a stream."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator

import pytest

from router.api.hangups import with_pings

FOR_EVER_S = 3600.0


async def test_a_time_that_passes_while_an_item_is_dealt_with_is_told_too() -> None:
    # Given one item and then silence
    async def items() -> AsyncGenerator[str, None]:
        yield "a"
        await asyncio.Event().wait()

    until = time.monotonic() + 0.05
    async with contextlib.aclosing(with_pings(items(), FOR_EVER_S, until)) as told:
        # When whoever got it takes longer than the time
        assert await anext(told) == "a"
        while time.monotonic() < until:
            pass

        # Then they hear that it is over, once
        assert await asyncio.wait_for(anext(told), 60) is None
        with contextlib.suppress(TimeoutError):
            raise AssertionError(await asyncio.wait_for(anext(told), 0.01))


async def test_a_reader_that_is_cancelled_again_and_again_leaves_the_generator_closed() -> None:
    # Given items that take their time to end
    async def items() -> AsyncGenerator[str, None]:
        try:
            yield "a"
            await asyncio.Event().wait()
        finally:
            for _ in range(5):
                await asyncio.sleep(0)

    source = items()
    has_begun = asyncio.Event()

    async def read() -> None:
        async with contextlib.aclosing(with_pings(source, FOR_EVER_S)) as told:
            async for _ in told:
                has_begun.set()

    reader = asyncio.create_task(read())
    await asyncio.wait_for(has_begun.wait(), 60)

    # When whoever reads them is cancelled in each turn of the loop, as anyio does it
    while not reader.done():
        reader.cancel()
        await asyncio.sleep(0)

    # Then they have ended when the reader has
    assert reader.cancelled()
    await source.aclose()
    assert source.ag_frame is None


async def test_items_are_read_ahead_up_to_a_bound_and_their_error_comes_after_them() -> None:
    read: list[int] = []

    async def items() -> AsyncGenerator[int, None]:
        for number in range(200):
            read.append(number)
            yield number
        raise ValueError("the end")

    taken: list[int | None] = []

    async def take_all() -> None:
        async with contextlib.aclosing(with_pings(items(), FOR_EVER_S)) as told:
            async for item in told:
                taken.append(item)
                assert len(read) - len(taken) <= 40
                await asyncio.sleep(0)

    with pytest.raises(ValueError, match="the end"):
        await take_all()

    assert taken == list(range(200))

"""Keep-alives between the items of a stream."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator

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

"""A stream that is asked for now and read later."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from engines.base import Delta, EngineUnavailableError
from router.work.local import EarlyStream

# What is closed here may be waiting for an engine that never answers: a mistake is a hang.
pytestmark = pytest.mark.timeout(120)


class Source:
    """Deltas that say when they were asked for, and whether somebody closed them."""

    def __init__(self, *words: str, error: Exception | None = None, is_silent: bool = False) -> None:
        self.words = words
        self.error = error
        self.is_silent = is_silent
        self.asked = asyncio.Event()
        self.num_given = 0
        self.is_closed = False

    async def stream(self) -> AsyncGenerator[Delta, None]:
        self.asked.set()
        try:
            if self.is_silent:
                await asyncio.Event().wait()
            for word in self.words:
                self.num_given += 1
                yield Delta(text=word)
            if self.error is not None:
                raise self.error
        finally:
            self.is_closed = True


async def said(stream: EarlyStream) -> list[str]:
    return [delta.text async for delta in stream.read()]


async def test_the_engine_is_asked_at_once_and_for_no_more_than_its_first_word() -> None:
    source = Source("an ", "owl")
    stream = EarlyStream(source.stream(), "m")

    await asyncio.wait_for(source.asked.wait(), 60)

    assert source.num_given == 1
    assert await said(stream) == ["an ", "owl"]
    assert source.is_closed


async def test_a_stream_that_nobody_reads_is_closed_even_while_it_is_silent() -> None:
    source = Source(is_silent=True)
    stream = EarlyStream(source.stream(), "m")
    await source.asked.wait()

    await stream.aclose()
    await stream.aclose()

    assert source.is_closed


async def test_who_stops_reading_closes_it() -> None:
    source = Source("an ", "owl")
    reading = EarlyStream(source.stream(), "m").read()
    await anext(reading)

    await reading.aclose()

    assert source.is_closed
    assert source.num_given == 1


async def test_a_refusal_is_raised_where_it_is_read() -> None:
    stream = EarlyStream(Source(error=EngineUnavailableError("gone")).stream(), "m")

    with pytest.raises(EngineUnavailableError):
        await said(stream)


async def test_an_engine_that_says_nothing_says_nothing() -> None:
    assert await said(EarlyStream(Source().stream(), "m")) == []

"""An engine that falls silent is given up when it is not well either, and only then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from engines.base import (
    Delta,
    EngineTimeoutError,
    EngineUnavailableError,
    GenerationFailedError,
    GenerationRequest,
    Message,
    TextPart,
)
from engines.echo import EchoEngine
from router.attend import AttendedEngine, attended

QUICK: dict[str, Any] = {"calm_s": 0.0, "look_s": 0.001}
GUARD_S = 30.0


class Engine:
    """Says words, then waits until it is let on; counts how often it was asked how it is."""

    def __init__(self, *words: str, is_well: bool | EngineUnavailableError = True) -> None:
        self.words = words
        self.is_well = is_well
        self.go_on = asyncio.Event()
        self.num_asked = 0
        self.is_closed = False
        self.asked = asyncio.Event()

    async def stream(self) -> AsyncGenerator[Delta, None]:
        try:
            for word in self.words:
                yield Delta(text=word)
            await self.go_on.wait()
            yield Delta(text="end", finish_reason="stop")
        finally:
            self.is_closed = True

    async def ask(self) -> bool:
        self.num_asked += 1
        if self.num_asked >= 3:
            self.asked.set()
        if isinstance(self.is_well, EngineUnavailableError):
            raise self.is_well
        return self.is_well


async def read(engine: Engine, **options: Any) -> list[str]:
    async with asyncio.timeout(GUARD_S):
        return [delta.text async for delta in attended(engine.stream(), engine.ask, **{**QUICK, **options})]


@pytest.mark.parametrize("is_well", [False, EngineUnavailableError("gone")])
@pytest.mark.parametrize("words", [(), ("a", "b")])
async def test_an_engine_that_is_silent_and_not_well_is_away(words: tuple[str, ...], is_well: Any) -> None:
    engine = Engine(*words, is_well=is_well)

    with pytest.raises(EngineUnavailableError, match="stopped answering") as caught:
        await read(engine)

    assert engine.is_closed
    assert engine.num_asked == 2
    assert not caught.value.is_broken_off


async def test_an_engine_that_is_well_may_be_silent(caplog: pytest.LogCaptureFixture) -> None:
    engine = Engine("a")
    reading = asyncio.create_task(read(engine))
    async with asyncio.timeout(GUARD_S):
        await engine.asked.wait()

    engine.go_on.set()

    assert await reading == ["a", "end"]
    assert engine.is_closed


async def test_one_bad_look_is_not_believed() -> None:
    engine = Engine("a")
    looks = iter([False, True, False, True])

    async def ask() -> bool:
        well = next(looks, None)
        if well is None:
            engine.go_on.set()
        return well is not False

    async with asyncio.timeout(GUARD_S):
        texts = [delta.text async for delta in attended(engine.stream(), ask, **QUICK)]

    assert texts == ["a", "end"]


async def test_a_silence_may_be_bounded_even_if_the_engine_is_well() -> None:
    with pytest.raises(EngineTimeoutError, match=r"said nothing for 0\.01 s"):
        await read(Engine("a"), calm_s=3600.0, silence_s=0.01)


class ClockLoop(asyncio.SelectorEventLoop):
    """A loop whose time passes only while all of its tasks wait, and then at once."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        selector: Any = self._selector  # type: ignore[attr-defined]
        select = selector.select

        def jump(timeout: float | None = None) -> Any:
            self._now += timeout or 0.0
            return select(0)

        selector.select = jump

    def time(self) -> float:
        return self._now


@pytest.mark.parametrize("words", [(), ("a",), ("a", "b")])
def test_an_engine_that_lets_looks_wait_is_given_up_in_seconds(words: tuple[str, ...]) -> None:
    # Given an engine that stops like a stopped process, and a look that ends only with its own timeout of 5 s
    async def look() -> bool:
        await asyncio.sleep(5)
        return False

    async def ask() -> float:
        with pytest.raises(EngineUnavailableError, match="stopped answering"):
            async for _ in attended(Engine(*words).stream(), look, silence_s=30, calm_s=2, look_s=1, unheard_s=2):
                pass
        return asyncio.get_running_loop().time()

    with asyncio.Runner(loop_factory=ClockLoop) as runner:
        assert runner.run(ask()) == pytest.approx(7, abs=0.1)


async def test_a_reader_who_takes_his_time_is_no_silence() -> None:
    engine = Engine("a", is_well=False)
    stream = attended(engine.stream(), engine.ask, silence_s=0.001, **QUICK)
    assert (await anext(stream)).text == "a"
    engine.go_on.set()

    await asyncio.sleep(0.05)  # passing time is the very thing under test

    assert engine.num_asked == 0
    assert (await anext(stream)).text == "end"
    await stream.aclose()


async def test_a_slow_reader_neither_ends_a_bounded_silence_nor_its_watch() -> None:
    # Given a reader that takes longer for a word than the engine may be silent
    engine = Engine("a")
    deltas = attended(engine.stream(), engine.ask, **{**QUICK, "calm_s": 3600.0, "silence_s": 0.01})
    async with asyncio.timeout(GUARD_S):
        assert (await anext(deltas)).text == "a"
        await asyncio.sleep(0.05)

        # Then a silence of the engine afterwards is still found
        with pytest.raises(EngineTimeoutError):
            await anext(deltas)


async def test_what_the_engine_raises_and_what_the_reader_does_comes_through() -> None:
    async def failing() -> AsyncGenerator[Delta, None]:
        yield Delta(text="a")
        raise GenerationFailedError("no memory")

    stream = attended(failing(), Engine().ask)
    await anext(stream)
    with pytest.raises(GenerationFailedError, match="no memory"):
        await anext(stream)

    engine = Engine("a")
    stream = attended(engine.stream(), engine.ask)
    await anext(stream)
    await stream.aclose()
    assert engine.is_closed

    engine = Engine()
    reading = asyncio.create_task(read(engine))
    async with asyncio.timeout(GUARD_S):
        await engine.asked.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert engine.is_closed


class Timing(EchoEngine):
    """Runs into its client's timeout, before its first word or after it, whenever it is let."""

    def __init__(self, *words: str) -> None:
        super().__init__("glm")
        self._words = words
        self.is_silent, self.go_on = asyncio.Event(), asyncio.Event()

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        if request.request_id == "well":
            yield Delta(text="a", finish_reason="stop")
            return
        for word in self._words:
            yield Delta(text=word)
        self.is_silent.set()
        await self.go_on.wait()
        raise EngineTimeoutError("sent nothing")


@pytest.mark.parametrize("words", [(), ("a",)])
@pytest.mark.parametrize("others_hear", [False, True])
async def test_an_engine_that_answers_nobody_is_told_of_once_a_call_has_waited_in_vain(
    words: tuple[str, ...], others_hear: bool
) -> None:
    silent: list[str] = []
    engine = Timing(*words)
    attended_engine = AttendedEngine(engine, Engine().ask, lambda: silent.append("glm"))

    async def ask(request_id: str) -> list[str]:
        request = GenerationRequest((Message("user", (TextPart("?"),)),), request_id=request_id)
        return [delta.text async for delta in attended_engine.stream(request)]

    await ask("well")
    waiting = asyncio.create_task(ask("in vain"))
    await engine.is_silent.wait()
    if others_hear:
        await ask("well")
    engine.go_on.set()
    with pytest.raises(EngineTimeoutError):
        await waiting

    assert silent == ([] if others_hear else ["glm"])

"""`engines.runtime.picture_stage`: whose picture is decoded when; callers that leave, and decoders that are stuck."""

from __future__ import annotations

import asyncio
import hashlib
import io
import threading
from collections.abc import Callable

import pytest
from PIL import Image

from engines.base import EngineUnavailableError, ImagePart, InvalidImageError
from engines.runtime import picture_stage
from engines.runtime.picture_stage import STUCK_S, PictureStage

GUARD_S = 30


def picture(name: str, size: tuple[int, int] = (8, 8)) -> ImagePart:
    buffer = io.BytesIO()
    Image.new("RGB", size).save(buffer, "PNG")
    return ImagePart(buffer.getvalue() + name.encode(), name, hashlib.sha256(name.encode()).hexdigest())


class Work:
    """What is made of pictures: each waits on its thread until it is let go, or wanted no more."""

    def __init__(self) -> None:
        self.begun: asyncio.Queue[str] = asyncio.Queue()
        self.unwanted: list[str] = []
        self._loop = asyncio.get_running_loop()
        self._gates: dict[str, threading.Event] = {}

    def __call__(self, image: ImagePart, is_wanted: Callable[[], bool]) -> str:
        name = image.media_type
        gate = self._gates.setdefault(name, threading.Event())
        self._loop.call_soon_threadsafe(self.begun.put_nowait, name)
        gate.wait(GUARD_S)
        if not is_wanted():
            self.unwanted.append(name)
        return name.upper()

    def let_go(self, *names: str) -> None:
        for name in names:
            self._gates.setdefault(name, threading.Event()).set()

    async def next_begun(self) -> str:
        async with asyncio.timeout(GUARD_S):
            return await self.begun.get()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_what_is_made_comes_in_the_order_of_the_pictures() -> None:
    stage, work = PictureStage("test", 2), Work()
    work.let_go("b", "a", "c")
    assert await stage.run_all([picture("a"), picture("b"), picture("c")], work) == ["A", "B", "C"]
    assert await stage.run_all([], work) == []


async def test_callers_take_turns_picture_by_picture() -> None:
    # Given one thread, a caller with three pictures, and one who comes later with one
    stage, work = PictureStage("test", 1), Work()
    many = asyncio.create_task(stage.run_all([picture("a"), picture("b"), picture("c")], work, "first"))
    assert await work.next_begun() == "a"
    one = asyncio.create_task(stage.run_all([picture("x")], work, "second"))
    await settle()
    # When the pictures are decoded
    work.let_go("a", "b", "c", "x")
    order = [await work.next_begun() for _ in range(3)]
    # Then the second caller did not wait for all of the first one's
    assert order.index("x") <= 1
    await asyncio.gather(many, one)


async def test_the_pixels_in_work_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given room for 100 pixels and two threads
    monkeypatch.setattr(picture_stage, "MAX_PIXELS", 100)
    stage, work = PictureStage("test", 2), Work()
    running = asyncio.create_task(stage.run_all([picture("a", (9, 9)), picture("b", (5, 5))], work))
    # When the first takes 81 of them, then the second waits although a thread is free
    assert await work.next_begun() == "a"
    await settle()
    assert work.begun.empty()
    work.let_go("a")
    assert await work.next_begun() == "b"
    work.let_go("b")
    await running


async def test_a_picture_whose_caller_has_gone_is_not_begun_and_one_under_way_is_told() -> None:
    # Given a caller with one picture under way and two that wait
    stage, work = PictureStage("test", 1), Work()
    leaving = asyncio.create_task(stage.run_all([picture("a"), picture("b"), picture("c")], work, "first"))
    assert await work.next_begun() == "a"
    # When the caller leaves while another comes
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    staying = asyncio.create_task(stage.run_all([picture("x")], work, "second"))
    await settle()
    # Then the thread stays taken until the picture under way has noticed
    assert work.begun.empty()
    work.let_go("a", "x")
    assert await work.next_begun() == "x"
    assert await staying == ["X"]
    assert work.unwanted == ["a"]
    assert work.begun.empty()


async def test_the_first_error_stops_the_others() -> None:
    stage, begun = PictureStage("test", 1), list[str]()

    def make(image: ImagePart, _is_wanted: Callable[[], bool]) -> str:
        begun.append(image.media_type)
        raise InvalidImageError("broken")

    with pytest.raises(InvalidImageError, match="broken"):
        await stage.run_all([picture("a"), picture("b")], make)
    await settle()
    assert begun == ["a"]


async def test_a_closed_stage_begins_nothing() -> None:
    stage, work = PictureStage("test", 1), Work()
    stage.close()
    with pytest.raises(EngineUnavailableError):
        await stage.run_all([picture("a")], work)


async def test_a_stage_in_which_nothing_moves_says_so() -> None:
    # Given two threads and a clock
    now = [1000.0]
    stage, work = PictureStage("test", 2, clock=lambda: now[0]), Work()
    assert stage.trouble() == ""
    running = [asyncio.create_task(stage.run_all([picture(name)], work)) for name in "abc"]
    await work.next_begun()
    await work.next_begun()
    # When none of their pictures ends
    now[0] += STUCK_S - 1
    assert stage.trouble() == ""
    now[0] += 1
    assert "stuck" in stage.trouble()
    # Then it is stuck until one does; with a thread to spare it never is
    work.let_go("a")
    assert await work.next_begun() == "c"
    assert stage.trouble() == ""
    work.let_go("b")
    await running[1]
    now[0] += 10 * STUCK_S
    assert stage.trouble() == ""
    work.let_go("c")
    await asyncio.gather(*running)

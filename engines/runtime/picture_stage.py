"""Where an engine decodes pictures: a few threads of their own, shared fairly, bounded in pixels, and watched.

In: pictures, and what is to be made of each. Out: what was made, or the error. A picture whose caller has gone is not
begun, and one that has begun stops soon. Belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from engines.base import EngineUnavailableError, ImagePart
from engines.images import MAX_PIXELS, DecodeGoneError, check_request, picture_size
from engines.runtime.fair_budget import FairBudget

STUCK_S: Final = 60.0  # several times what the slowest picture may take, see `engines.images.MAX_DECODE_S`
_MAX_THREADS: Final = 4

T = TypeVar("T")
Make = Callable[[ImagePart, Callable[[], bool]], T]
"""What runs on a thread: makes something of a picture, and may ask whether that is still wanted."""


class PictureStage:
    """Runs the decoding of pictures beside the model.

    At most `MAX_PIXELS` pixels are in work at a time, so memory is bounded by them and not by what callers send. Text
    and the model have threads of their own. Callers take turns, picture by picture.

    Args:
        name: of the threads.
        num_threads: None takes one per core, at most four.
        clock: seconds; tells when nothing has moved for too long.
        tell: takes the seconds that a picture was in work.
    """

    def __init__(
        self,
        name: str,
        num_threads: int | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        tell: Callable[[float], object] = lambda _: None,
    ) -> None:
        self._tell = tell
        self._num_threads = num_threads or min(_MAX_THREADS, os.cpu_count() or 1)
        self._pool = ThreadPoolExecutor(self._num_threads, thread_name_prefix=name)
        # A picture takes at least one thread's share, so at most one picture per thread is in work.
        self._share = MAX_PIXELS // self._num_threads
        self._pixels = FairBudget(self._share * self._num_threads)
        self._clock = clock
        self._moved_at = 0.0  # when a picture was begun or ended last
        self._num_waiting = 0
        self._begun: set[asyncio.Task[Any]] = set()
        self._is_closed = False

    async def run_all(self, images: Sequence[ImagePart], make: Make[T], caller: str = "") -> list[T]:
        """Make something of each picture of a request; the first error stops the others.

        Args:
            images: of one request.
            make: runs on a thread.
            caller: whose turn it takes.

        Raises:
            InvalidImageError: if the pictures have too many pixels together.
            EngineUnavailableError: after `close`.
            Exception: what ``make`` raises.
        """
        if self._is_closed:
            raise EngineUnavailableError("the engine is shutting down")
        check_request(images)
        gone = threading.Event()
        tasks = [asyncio.create_task(self._run(image, make, caller, gone)) for image in images]
        for task in tasks:
            task.add_done_callback(_retrieve)
        try:
            return await asyncio.gather(*map(asyncio.shield, tasks))
        finally:
            gone.set()
            for task in tasks:
                if task not in self._begun:  # running ones keep their place until their thread ends
                    task.cancel()

    def close(self) -> None:
        """Begin nothing more."""
        self._is_closed = True
        self._pool.shutdown(wait=False)

    def trouble(self) -> str:
        """Say what is wrong if no picture has moved for `STUCK_S` and another could not begin; empty if all is well."""
        is_full = self._num_waiting > 0 or len(self._begun) >= self._num_threads
        silent_s = self._clock() - self._moved_at
        if not self._begun or not is_full or silent_s < STUCK_S:
            return ""
        return f"decoding pictures is stuck: nothing has moved for {silent_s:.0f} s"

    async def _run(self, image: ImagePart, make: Make[T], caller: str, gone: threading.Event) -> T:
        width, height = picture_size(image)
        task = asyncio.current_task()
        assert task is not None
        self._num_waiting += 1
        is_waiting = True
        try:
            async with self._pixels.hold(max(width * height, self._share), caller):
                self._num_waiting -= 1
                is_waiting = False
                if self._is_closed:
                    raise EngineUnavailableError("the engine is shutting down")
                if gone.is_set():
                    raise DecodeGoneError
                self._begun.add(task)
                self._moved_at = self._clock()
                try:
                    loop = asyncio.get_running_loop()
                    return await loop.run_in_executor(self._pool, self._make, make, image, lambda: not gone.is_set())
                except BaseException:
                    gone.set()  # before the place passes on, perhaps to another picture of this request
                    raise
                finally:
                    self._begun.discard(task)
                    self._moved_at = self._clock()
        finally:
            self._num_waiting -= is_waiting

    def _make(self, make: Make[T], image: ImagePart, is_wanted: Callable[[], bool]) -> T:
        began = time.perf_counter()
        made = make(image, is_wanted)
        self._tell(time.perf_counter() - began)
        return made


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Read the outcome of work that no request waits for any more; asyncio would warn of it."""
    if not task.cancelled():
        task.exception()

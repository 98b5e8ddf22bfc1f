"""Capture in one process: ended answers are taken on the event loop and written by a thread of its own.

In: jobs that have ended, with their pictures. Out: rows of `router.loop.store`, for owners who let us. No request waits
for a write or fails with it: what the disk does not take waits in memory, and what has no room there is counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from engines.base import ImagePart
from router.jobs.job import Job
from router.loop.pictures import Look, look_at
from router.loop.records import Captures, Feedback, Terms, redacted, to_exchange
from router.loop.store import LoopStore, NewerLoopError

# Pictures count with their bytes, an exchange with so many beside.
MAX_WAITING_BYTES: Final = 64 * 1024 * 1024
_EXCHANGE_BYTES: Final = 8 * 1024
_RETRY_S: Final = 1.0
_SAY_EVERY_S: Final = 60.0
_CLOSE_S: Final = 5.0
FAILURES: Final = (OSError, sqlite3.Error, NewerLoopError)

Result = TypeVar("Result")
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Waiting:
    job: Job
    images: tuple[ImagePart, ...]
    revisions: Mapping[str, str]

    @property
    def num_bytes(self) -> int:
        return _EXCHANGE_BYTES + sum(len(image.data) for image in self.images)


class Capture:
    """Takes answers and returns at once.

    Args:
        folder: of the store; made when the first owner's first answer is kept.
        terms_of: what an owner lets us keep, by its id.
        revisions: of the engines, by name.
        clock: unix seconds.
    """

    def __init__(
        self,
        folder: Path,
        terms_of: Callable[[str], Terms],
        *,
        revisions: Callable[[], Mapping[str, str]] = dict,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.folder = folder
        self._terms_of = terms_of
        self._revisions = revisions
        self._clock = clock
        self._waiting: deque[_Waiting] = deque()
        self._bytes = 0
        self._lock = threading.Lock()
        self._wake, self._is_closing = threading.Event(), threading.Event()
        self._written = threading.Condition(self._lock)
        self._thread: threading.Thread | None = None
        self._store: LoopStore | None = None
        self._said_at = float("-inf")
        self.lost = 0

    def terms_of(self, owner: str) -> Terms:
        """Return what an owner lets us keep."""
        return self._terms_of(owner)

    def is_on(self, owner: str) -> bool:
        """Whether anything of an owner is kept."""
        return self._terms_of(owner).captures != "off"

    def add(self, job: Job, images: Iterable[ImagePart] = ()) -> None:
        """Keep an ended job, if it is to be kept; it is written within a moment, if the disk takes it.

        Args:
            job: ended.
            images: its pictures, as far as they are there.
        """
        if not job.spec.is_captured or self._terms_of(job.spec.owner).captures == "off":
            return
        entry = _Waiting(job, tuple(images), self._revisions())
        with self._lock:
            if self._bytes + entry.num_bytes > MAX_WAITING_BYTES:
                self.lost += 1
                return
            self._waiting.append(entry)
            self._bytes += entry.num_bytes
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="capture", daemon=True)
                self._thread.start()
        self._wake.set()

    async def flush(self, timeout_s: float = _CLOSE_S) -> bool:
        """Wait until all that was taken before is written; False if that takes longer."""

        def wait() -> bool:
            with self._written:
                return self._written.wait_for(lambda: not self._waiting, timeout_s)

        return await asyncio.to_thread(wait)

    async def ask(self, question: Callable[[LoopStore], Result], default: Result) -> Result:
        """Ask the store something, beside the event loop; the default if there is none yet.

        Raises:
            OSError, sqlite3.Error, NewerLoopError: as the store raises them.
        """

        def run() -> Result:
            if not self.folder.exists():
                return default
            with LoopStore(self.folder) as store:
                return question(store)

        return await asyncio.to_thread(run)

    async def say(self, response_id: str, owner: str, feedback: Feedback) -> Feedback:
        """Keep feedback; returns it as it is kept.

        Raises:
            OSError, sqlite3.Error, NewerLoopError: as the store raises them.
        """
        kept = redacted(feedback, self._terms_of(owner).redacts)

        def write() -> Feedback:
            with LoopStore(self.folder) as store:
                store.put_feedback(response_id, owner, kept)
            return kept

        return await asyncio.to_thread(write)

    async def forget(self, names: Mapping[str, float]) -> int:
        """Delete exchanges as `LoopStore.delete` does, those too that are still on their way.

        Raises:
            OSError, sqlite3.Error, NewerLoopError: as the store raises them.
        """
        return await self.ask(lambda store: store.delete(names), 0)

    async def expire(self) -> int:
        """Delete what was kept for long enough, by what its owner lets us keep now."""

        def expire(store: LoopStore) -> int:
            keep_s = {owner: self._terms_of(owner).keep_s for owner in store.owners()}
            # An owner of whom nothing is known any more: what was said when its answers were kept counts.
            return store.expire(self._clock(), {owner: seconds for owner, seconds in keep_s.items() if seconds > 0})

        return await self.ask(expire, 0)

    async def sweep(self) -> int:
        """Delete files of pictures that nothing leads to."""
        return await self.ask(lambda store: store.sweep(), 0)

    def close(self) -> None:
        """Write what is left, for a few seconds at most."""
        self._is_closing.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        while not (self._is_closing.is_set() and not self._waiting):
            self._wake.wait()
            self._wake.clear()
            while self._waiting:
                try:
                    self._write(self._waiting[0])
                except FAILURES as error:
                    self._fail(error)
                    if self._is_closing.wait(_RETRY_S):
                        return
                    continue
                except Exception:  # one odd picture or record must not keep the others from being written
                    log.exception("an exchange could not be kept")
                with self._written:
                    self._bytes -= self._waiting.popleft().num_bytes
                    self._written.notify_all()
        self._close_store()

    def _write(self, entry: _Waiting) -> None:
        """Write one exchange.

        Raises:
            OSError, sqlite3.Error, NewerLoopError: if it cannot be written now.
        """
        spec = entry.job.spec
        terms = self._terms_of(spec.owner)
        if terms.captures == "off":
            return
        if self._store is None:
            self._store = LoopStore(self.folder)
        exchange = to_exchange(entry.job, terms.redacts, entry.revisions)
        known = self._store.pictures(exchange.pictures)
        keeps = terms.captures == "pictures"
        by_hash = {image.sha256: image for image in entry.images}
        pictures: list[tuple[Look, ImagePart | None]] = []
        for sha256 in dict.fromkeys(exchange.pictures):
            image = by_hash.get(sha256)
            if sha256 in known:
                pictures.append((known[sha256].look, image if keeps and known[sha256].file is None else None))
            elif image is not None:
                pictures.append((look_at(image), image if keeps else None))
        self._store.put(exchange, pictures, spec.created_at + terms.keep_s)

    def _fail(self, error: Exception) -> None:
        self._close_store()
        if time.monotonic() - self._said_at >= _SAY_EVERY_S:
            self._said_at = time.monotonic()
            log.error(
                "what owners let us keep cannot be written to %s: %s; %d exchanges wait, %d are lost",
                *(self.folder, error, len(self._waiting), self.lost),
            )

    def _close_store(self) -> None:
        if self._store is not None:
            store, self._store = self._store, None
            with contextlib.suppress(sqlite3.Error):
                store.close()


def to_terms(captures: Any, redacts: Any, *, keep_s: float) -> Terms:
    """Return terms of what is stored of an owner; what is not known to this release captures nothing."""
    from router.loop.redact import KINDS

    known: Captures = captures if captures in ("text", "pictures") else "off"
    kinds = frozenset(KINDS) if redacts is None else frozenset(redacts) & frozenset(KINDS)
    return Terms(known, keep_s, kinds)

"""The audit log of one process: records are taken on the event loop and written by a thread of their own.

In: records. Out: lines in the folder, within a second; at midnight (UTC) a new file, and files beyond the retention
deleted. A disk that takes nothing stops no request: records wait in memory, and what does not fit there is counted in a
line of its own once there is room again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import date, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from router.audit.chain import DayFile, HeadError, Link, day_of, files_in, read_head, to_head, to_iso, to_line

# Records are collected for this long, so that one write takes many.
GATHER_S: Final = 0.2
# While the disk takes nothing.
_RETRY_S: Final = 1.0
_SAY_EVERY_S: Final = 60.0
_CLOSE_S: Final = 5.0
# Some 20 MB of memory.
MAX_WAITING: Final = 20_000
_MAX_WRITE_BYTES: Final = 1024 * 1024

Record = Mapping[str, Any]

log = logging.getLogger(__name__)


class AuditLog:
    """Takes records and returns at once.

    Args:
        folder: made if it is not there.
        keep_days: days before today whose files are kept.
        clock: unix seconds.
        write: as `os.write`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        keep_days: int,
        clock: Callable[[], float] = time.time,
        write: Callable[[int, memoryview], int] = os.write,
    ) -> None:
        self._clock = clock
        self._inbox: deque[tuple[float, Record]] = deque()
        self._writer = _Writer(folder, f"api-{secrets.token_hex(4)}", keep_days, write)
        self._wake, self._is_closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._num_taken_too_many = 0

    @property
    def chain(self) -> str:
        """The name of this process in the names of files."""
        return self._writer.chain

    @property
    def is_failing(self) -> bool:
        """Whether nothing is written now."""
        has_died = self._thread.ident is not None and not self._thread.is_alive()
        return self._writer.is_failing or has_died

    def start(self) -> None:
        """Write the first line, and begin.

        Raises:
            OSError: if the folder cannot be made or written: better now than at the first request.
        """
        now = self._clock()
        self._writer.begin(now)
        self._thread.start()

    def add(self, record: Record) -> None:
        """Take a record. It is written within a second, if the disk takes it."""
        if len(self._inbox) >= MAX_WAITING:  # the thread hangs in a write
            self._num_taken_too_many += 1
            return
        self._inbox.append((self._clock(), record))
        if not self._wake.is_set():
            self._wake.set()

    def close(self) -> None:
        """Write what is left and a last line; for a few seconds at most. A log that was never started does nothing."""
        if self._thread.is_alive():
            self._is_closing.set()
            self._wake.set()
            self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        while not self._is_closing.is_set():
            self._wake.wait(_RETRY_S if self._writer.is_failing else None)
            self._is_closing.wait(GATHER_S)
            self._wake.clear()
            self._hand_over()
        self._hand_over()
        self._writer.end(self._clock())

    def _hand_over(self) -> None:
        while self._inbox:
            self._writer.take(*self._inbox.popleft())
        lost, self._num_taken_too_many = self._num_taken_too_many, 0
        self._writer.lost += lost
        self._writer.write(self._clock())


class _Writer:
    """The files. Used by one thread at a time.

    Args:
        folder: of the log.
        chain: the name of this process in it.
        keep_days: whose files are kept.
        write: as `os.write`.
    """

    def __init__(self, folder: Path, chain: str, keep_days: int, write: Callable[[int, memoryview], int]) -> None:
        self.chain = chain
        self.is_failing = False
        self.lost = 0
        self._folder = folder
        self._keep_days = keep_days
        self._write = write
        self._waiting: deque[tuple[float, Record]] = deque()
        self._last = Link()
        self._file = DayFile("", chain)
        self._fd: int | None = None
        self._size = 0
        self._said_at = float("-inf")
        self._failed_at = 0.0

    def begin(self, now: float) -> None:
        """Write the line that says where this chain begins, and how far the others had come.

        Raises:
            OSError: if that is not possible.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._delete_old(day_of(now))
        start = {
            "kind": "start",
            "chain": self.chain,
            "version": version("glowl"),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "others": self._heads(),
        }
        self._append([(now, start)], day_of(now))

    def take(self, at: float, record: Record) -> None:
        """Keep a record until it is written, or count it if there are too many."""
        if len(self._waiting) < MAX_WAITING:
            self._waiting.append((at, record))
        else:
            self.lost += 1

    def write(self, now: float) -> None:
        """Write what waits, as far as the disk takes it."""
        try:
            while self._waiting:
                # A clock that is set back does not open the file of a day that is over.
                day = max(day_of(self._waiting[0][0]), self._file.day)
                group = self._next_group(day)
                self._append(group, day)
                for _ in group:
                    self._waiting.popleft()
            if self.lost:
                gap = {"kind": "gap", "lost": self.lost, "since": to_iso(self._failed_at or now)}
                self._append([(now, gap)], max(day_of(now), self._file.day))
                self.lost = 0
        except OSError as error:
            self._fail(error, now)
        else:
            if self.is_failing:
                log.warning("the audit log is written again")
            self.is_failing, self._failed_at = False, 0.0

    def end(self, now: float) -> None:
        """Write the last line, after which a chain that ends was not cut."""
        self.take(now, {"kind": "stop"})
        self.write(now)
        self._close()

    def _next_group(self, day: str) -> list[tuple[float, Record]]:
        group: list[tuple[float, Record]] = []
        for at, record in self._waiting:
            if max(day_of(at), self._file.day) != day or len(group) >= 1000:
                break
            group.append((at, record))
        return group

    def _append(self, group: Sequence[tuple[float, Record]], day: str) -> None:
        """Write lines whole: all of them, or none."""
        if day != self._file.day:
            self._close()
            self._file, self._size = DayFile(day, self.chain), 0
            self._delete_old(day)
        last, lines = self._last, []
        for at, record in group:
            line, last = to_line({"at": to_iso(at), **record}, last)
            lines.append(line)
        fd = self._open()
        left = memoryview(b"".join(lines))
        num_bytes = len(left)
        while left:
            left = left[self._write(fd, left[:_MAX_WRITE_BYTES]) :]
        self._last, self._size = last, self._size + num_bytes
        self._write_head()

    def _open(self) -> int:
        if self._fd is None:
            path = self._folder / self._file.name
            self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if os.fstat(self._fd).st_size > self._size:  # a piece of a line that did not fit
                os.ftruncate(self._fd, self._size)
        return self._fd

    def _write_head(self) -> None:
        """Say how far the lines go. After them, so that it never promises one that is not there."""
        path = self._folder / self._file.head_name
        temporary = path.with_suffix(".tmp")
        with contextlib.suppress(OSError):  # an older one stays, which is true as well
            temporary.write_bytes(to_head(self._last))
            os.replace(temporary, path)

    def _fail(self, error: OSError, now: float) -> None:
        if not self.is_failing:
            self.is_failing, self._failed_at = True, now
        self._close()
        if now - self._said_at >= _SAY_EVERY_S:
            self._said_at = now
            log.error(
                "the audit log cannot be written: %s; %d records wait, %d are lost",
                error.strerror or error,
                len(self._waiting),
                self.lost,
            )

    def _close(self) -> None:
        if self._fd is not None:
            fd, self._fd = self._fd, None
            with contextlib.suppress(OSError):
                os.ftruncate(fd, self._size)
            with contextlib.suppress(OSError):
                os.fsync(fd)
            with contextlib.suppress(OSError):
                os.close(fd)

    def _heads(self) -> list[dict[str, Any]]:
        """How far the chains of the last day had come: with that, a file of theirs that vanishes is missed."""
        files = files_in(self._folder)
        heads: list[dict[str, Any]] = []
        for file in files:
            with contextlib.suppress(HeadError):  # of a process that the power went off under; `verify` names it
                if file.day == files[-1].day and (head := read_head(self._folder / file.head_name)) is not None:
                    heads.append({"day": file.day, "chain": file.chain, "n": head.number, "hash": head.hash})
        return heads

    def _delete_old(self, today: str) -> None:
        first = (date.fromisoformat(today) - timedelta(days=self._keep_days)).isoformat()
        for file in files_in(self._folder):
            if file.day < first:
                for name in (file.name, file.head_name):
                    (self._folder / name).unlink(missing_ok=True)
                log.info("the audit log of %s is older than %d days and was deleted", file.day, self._keep_days)

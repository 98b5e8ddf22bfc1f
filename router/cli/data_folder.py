"""The data folder of `glowl up`: its sub-folders, and the lock that keeps a second `glowl up` out.

In: a path. Out: a `Layout` whose folders can be written to, held for one process.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from router.cli.common import Language, fail
from router.cli.texts import say

# Enough for the lock, the pid files and the first lines of the logs.
_PROBE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Layout:
    """The folders of one data directory."""

    data_dir: Path

    @property
    def run_dir(self) -> Path:
        """Sockets, pid files, the lock."""
        return self.data_dir / "run"

    @property
    def log_dir(self) -> Path:
        """One file per process."""
        return self.data_dir / "logs"

    @property
    def redis_dir(self) -> Path:
        """The append-only file."""
        return self.data_dir / "redis"

    @property
    def redis_url_path(self) -> Path:
        """The file that holds the address of the redis that `glowl up` has started; there while it runs."""
        return self.run_dir / "redis.url"

    def read_redis_url(self) -> str:
        """Return the address of the redis of a running `glowl up`; empty if none runs."""
        try:
            return self.redis_url_path.read_text(encoding="utf-8").strip()
        except OSError:
            return ""

    def worker_ready(self, name: str) -> Path:
        """The file that holds the pid of the worker of that name that last became ready."""
        return self.run_dir / f"{name}.ready"

    def make(self, language: Language) -> None:
        """Create the folders, and make sure that each can be written to.

        Raises:
            typer.Exit: after one line, if one cannot: no child could start, and each would say so at length.
        """
        for directory in (self.data_dir, self.run_dir, self.log_dir, self.redis_dir):
            try:
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                # Folders that are there may be on a disk that is full, or mounted read-only since.
                with tempfile.TemporaryFile(dir=directory) as probe:
                    probe.write(bytes(_PROBE_BYTES))
            except OSError as error:
                fail(say("up.data_dir", language, path=directory, reason=error.strerror))


@contextmanager
def locked(layout: Layout, url: str | None, language: Language) -> Iterator[IO[str]]:
    """Hold the data directory for this process; the kernel lets go when the process ends, however it ends.

    Args:
        layout: what to hold.
        url: of the api, for whoever finds the lock taken; None if it is not known yet.
        language: of the refusal.

    Raises:
        typer.Exit: after one line, if another process holds it.
    """
    path = layout.run_dir / "up.lock"
    with path.open("a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            holder = lock.read().strip() or "?"
            fail(say("up.locked", language, holder=holder, data_dir=layout.data_dir))
        _describe_holder(lock, url)
        yield lock


def _describe_holder(lock: IO[str], url: str | None) -> None:
    lock.seek(0)
    lock.truncate()
    lock.write(f"pid {os.getpid()}")
    if url is not None:
        lock.write(f", {url}")
    lock.flush()

"""The log file of a child: its last lines, and its bound.

In: a path that another process appends to. Out: lines, or a file that is small again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

LOG_TAIL_LINES = 6


def read_tail(path: Path, num_lines: int = LOG_TAIL_LINES, *, start: int = 0) -> tuple[str, ...]:
    """The last non-empty lines of a log file, from byte `start` on; empty if it cannot be read.

    A file that is shorter than `start` has been emptied since: then all of it counts.
    """
    try:
        with path.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(start if start <= end else 0, end - 8192))
            text = log.read().decode("utf-8", errors="replace")
    except OSError:
        return ()
    return tuple(line.rstrip() for line in text.splitlines() if line.strip())[-num_lines:]


def rotate_log(path: Path, limit_bytes: int) -> None:
    """Keep the end of a log that has grown too large as ``NAME.log.1``, over an older one, and empty the log.

    Its child goes on writing to the same open file, at its end, wherever that is: what it writes between the copy and
    the cut is lost. On a disk without room for the copy the log is emptied all the same.
    """
    with contextlib.suppress(OSError), path.open("r+b") as log:
        size = log.seek(0, os.SEEK_END)
        if size <= limit_bytes:
            return
        with contextlib.suppress(OSError), path.with_name(path.name + ".1").open("wb") as kept:
            log.seek(size - limit_bytes)
            shutil.copyfileobj(log, kept)
        log.truncate(0)

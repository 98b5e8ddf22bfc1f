"""How a download gets on: bytes, rate and time left, for a screen or a log.

In: numbers of bytes as they arrive, and `Note`s. Out: `Progress` values, at most so often, to whoever shows them.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from engines.hub.words import Note

# The rate is that of the last so many seconds: lines are shared, and what they gave an hour ago says little.
_WINDOW_S = 30.0


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a download is.

    Attributes:
        done_bytes: here, of earlier tries and processes too.
        total_bytes: when it is whole.
        rate: bytes per second of late; 0 if nothing is known yet.
    """

    done_bytes: int
    total_bytes: int
    rate: float

    @property
    def left_s(self) -> float | None:
        """Seconds until it is whole, at this rate; None if that is not known."""
        return (self.total_bytes - self.done_bytes) / self.rate if self.rate > 0 else None

    def __str__(self) -> str:
        left = "" if self.left_s is None else f", {in_words(self.left_s)} left"
        share = f"{self.done_bytes / 1e9:.2f} of {self.total_bytes / 1e9:.2f} GB"
        return f"{share}, {self.rate / 1e6:.1f} MB/s{left}"


def in_words(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3 h 05 min``."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


class Watcher:
    """Counts, and tells.

    Args:
        show: told the progress at most every ``every_s``, and at the end.
        note: told what is worth a line.
        every_s: least time between two tellings.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        show: Callable[[Progress], None],
        note: Callable[[Note], None],
        *,
        every_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.note = note
        self._show = show
        self._every_s = every_s
        self._clock = clock
        self.begin(0, 0)

    def begin(self, total_bytes: int, done_bytes: int) -> None:
        """Begin to count anew."""
        self._total, self._done = total_bytes, done_bytes
        now = self._clock()
        self._seen = deque([(now, done_bytes)])
        self._told = now

    def moved(self, num_bytes: int) -> None:
        """Count what arrived."""
        self._done += num_bytes
        now = self._clock()
        if now - self._told >= self._every_s:
            self._told = now
            self._show(self._progress(now))

    def end(self) -> None:
        """Tell how it ended, if there was anything to do."""
        if self._total:
            self._show(self._progress(self._clock()))

    def _progress(self, now: float) -> Progress:
        self._seen.append((now, self._done))
        while len(self._seen) > 2 and now - self._seen[0][0] > _WINDOW_S:
            self._seen.popleft()
        then, before = self._seen[0]
        rate = max(0.0, self._done - before) / (now - then) if now > then else 0.0
        return Progress(self._done, self._total, rate)

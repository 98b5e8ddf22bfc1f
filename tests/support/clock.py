"""A clock for what takes one: its time passes when a test says so."""

from __future__ import annotations


class Clock:
    """Seconds since whatever what is tested counts them from."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

"""What an answer tells of the limits, in OpenAI's headers.

In: how the subjects of a request stand. Out: ``x-ratelimit-limit-requests``, ``-remaining-requests``,
``-reset-requests`` and the same for whatever else is limited.
"""

from __future__ import annotations

from collections.abc import Sequence

from router.limits.meters import KINDS, Standing, Subject


def to_headers(subjects: Sequence[Subject], standings: Sequence[Standing]) -> list[tuple[bytes, bytes]]:
    """Return the headers: of each kind, those of the subject that has the smallest part of its limit left."""
    headers: list[tuple[bytes, bytes]] = []
    for kind, name in enumerate(KINDS):
        tightest: tuple[float, int, int, int] | None = None
        for subject, standing in zip(subjects, standings, strict=True):
            limit, remaining, reset_us = subject.limits[kind], standing.remaining[kind], standing.reset_us[kind]
            if limit is not None and remaining is not None and reset_us is not None:
                found = (remaining / limit, limit, remaining, reset_us)
                tightest = found if tightest is None else min(tightest, found)
        if tightest is not None:
            _, limit, remaining, reset_us = tightest
            if name == "megapixels":
                limit, remaining = limit // 1000, remaining // 1000
            headers += [
                (f"x-ratelimit-limit-{name}".encode(), str(limit).encode()),
                (f"x-ratelimit-remaining-{name}".encode(), str(remaining).encode()),
                (f"x-ratelimit-reset-{name}".encode(), to_duration(reset_us).encode()),
            ]
    return headers


def to_duration(microseconds: int) -> str:
    """Write a time as OpenAI does: ``20ms``, ``1s``, ``8.64s``, ``6m0s``; never shorter than it is."""
    milliseconds = -(-microseconds // 1000)
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    seconds = f"{rest / 1000:.3f}".rstrip("0").rstrip(".")
    return f"{minutes}m{seconds}s" if minutes else f"{seconds}s"

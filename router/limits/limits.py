"""How much one owner, key or address may do.

In: nothing. Out: the frozen `Limits`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """None: not limited.

    Attributes:
        requests_per_minute: that ask something.
        pictures_per_minute: sent, earlier turns' included.
        megapixels_per_minute: of these pictures, in millions of pixels.
        tokens_per_minute: read and written.
        max_requests: open at a time.
        max_unfinished_jobs: queued or running.
    """

    requests_per_minute: int | None = None
    pictures_per_minute: int | None = None
    megapixels_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_requests: int | None = None
    max_unfinished_jobs: int | None = None

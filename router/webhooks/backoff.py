"""When to try a receiver again: quickly at first, then ever more rarely, never all at the same moment.

In: how often it failed, and what its ``Retry-After`` asked for. Out: seconds to wait. How long to go on at all is
settled by the delivery's own age limit (`router.lua.constants.MAX_AGE_S`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime

# A receiver that names a later time than this means "never".
_MAX_RETRY_AFTER_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Backoff:
    """The waits between attempts.

    Attributes:
        delays_s: after the first failure, the second, ...; the last one repeats.
        jitter: each wait is longer or shorter by up to this share, so that receivers that came back are not run over.
        random_between: draws a number between two.
    """

    delays_s: Sequence[float]
    jitter: float = 0.2
    # Jitter needs no secrecy.
    random_between: Callable[[float, float], float] = field(default=random.uniform, repr=False)

    def delay_s(self, failures: int, retry_after_s: float | None = None) -> float:
        """Return how long to wait.

        Args:
            failures: failed attempts so far, this one included; at least 1.
            retry_after_s: the receiver's wish: waited for at least, up to a day.
        """
        planned = self.delays_s[min(failures, len(self.delays_s)) - 1]
        delay_s = planned * self.random_between(1 - self.jitter, 1 + self.jitter)
        return max(delay_s, min(retry_after_s or 0.0, _MAX_RETRY_AFTER_S))


def parse_retry_after(value: str | None, now: float) -> float | None:
    """Read a ``Retry-After`` header: seconds, or an HTTP date.

    Args:
        value: the header; None if there was none.
        now: unix seconds, to turn a date into a wait.

    Returns:
        seconds, never negative; None if it cannot be read.
    """
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(parsedate_to_datetime(text).timestamp() - now, 0.0)
    except (ValueError, OverflowError):
        return None

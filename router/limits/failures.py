"""Slows down clients that guess keys.

In: the address of a client, and whether its key was good. Out: whether keys from there are looked at now. Each process
counts for itself: there is nothing to add up that would be worth a command of redis for each wrong key.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from router.errors import RateLimitError
from router.limits import texts
from router.limits.addresses import is_this_machine, to_limited
from router.limits.headers import to_duration
from router.limits.limits import Limits
from router.limits.meters import Cost, LocalMeters, to_subject

# Enough for a fleet whose key was just revoked to find out, and nothing for who guesses.
MAX_FAILURES_PER_MINUTE: Final = 30
# Owners whose keys were good lately: who shares an address with somebody that guesses is not locked out. Not keys: each
# token (JWT) is a new one.
_MAX_GOOD: Final = 10_000

_LIMITS: Final = Limits(requests_per_minute=MAX_FAILURES_PER_MINUTE)


class Failures:
    """Counts wrong keys by address.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._meters = LocalMeters()
        self._refused_until: OrderedDict[str, float] = OrderedDict()
        self._good: OrderedDict[str, None] = OrderedDict()

    def note_good(self, owner: str) -> None:
        """Remember an owner whose key was right while its address was not refused."""
        if owner not in self._good:
            self._good[owner] = None
            if len(self._good) > _MAX_GOOD:
                self._good.popitem(last=False)

    def note_wrong(self, address: str) -> None:
        """Count a wrong key. Programs on this machine are not counted: they, or a proxy, would lock each other out."""
        if is_this_machine(address):
            return
        where, now = to_limited(address), self._clock()
        outcome, _ = self._meters.charge(Cost(), [to_subject("address", where, _LIMITS)], int(now * 1_000_000))
        if outcome.standings[0].remaining[0] == 0:
            self._refused_until[where] = now + (outcome.wait_us or 60_000_000 // MAX_FAILURES_PER_MINUTE) / 1_000_000
            if len(self._refused_until) > _MAX_GOOD:
                self._refused_until.popitem(last=False)

    def refusal(self, address: str, owner: str | None) -> RateLimitError | None:
        """Return the refusal of a request from an address that sent too many wrong keys; the answer is the same
        whether its key would have been right, unless a key of that owner was right before.

        Args:
            address: of the client.
            owner: of its key; None if it was wrong.
        """
        if not self._refused_until or (owner is not None and owner in self._good):
            return None
        left_s = self._refused_until.get(to_limited(address), 0.0) - self._clock()
        if left_s <= 0:
            self._refused_until.pop(to_limited(address), None)
            return None
        left_ms = max(int(left_s * 1000), 1)
        return RateLimitError(texts.TOO_MANY_FAILURES.fill(wait=to_duration(left_ms * 1000)), retry_after_ms=left_ms)

"""How many requests, and how many bytes of their bodies, one owner and all owners together have in flight.

In: an owner, then the size of the body that it announces or sends. Out: a `Share`, given back when the request ends; a
refusal if there is no room, or none within some seconds.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from router import texts
from router.errors import BodyTimeoutError, OverloadedError, TooManyInFlightError

# Small bodies need no room: a client with a short question must not wait behind others' pictures. Their number is
# bounded all the same.
SMALL_BODY_BYTES: Final = 64 * 1024
# How long a body waits for room.
_PATIENCE_S: Final = 10.0
_LOOK_S: Final = 0.25
# A body of which nothing has come for so long gives its room to one that waits.
_STALLED_S: Final = 1.0
# From the first byte on a body may take _GRACE_S, and then as long as it comes at this rate or faster.
_GRACE_S: Final = 30.0
_MIN_BYTES_PER_S: Final = 16 * 1024


class InFlight:
    """What all requests of this process hold. One owner has half of everything at most.

    Args:
        max_requests: at a time, of all owners.
        max_bytes: of bodies that are being read or answered, of all owners.
        max_body_bytes: of one body; every owner has room for one of these.
        body_timeout_s: longest silence while a body arrives.
    """

    def __init__(self, *, max_requests: int, max_bytes: int, max_body_bytes: int, body_timeout_s: float) -> None:
        self._max_requests = max_requests
        self._max_requests_of_one = max(max_requests // 2, 1)
        self._max_bytes = max(max_bytes, max_body_bytes)
        self._max_bytes_of_one = max(max_bytes // 2, max_body_bytes)
        self._requests: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._shares: set[Share] = set()
        self._waiting: set[asyncio.Event] = set()
        self.body_timeout_s = body_timeout_s

    @property
    def num_bytes(self) -> int:
        """Bytes that are held now."""
        return self._bytes.total()

    @contextmanager
    def request(self, owner: str) -> Iterator[Share]:
        """Count a request while it lasts.

        Raises:
            TooManyInFlightError: if this owner has too many.
            OverloadedError: if all together have too many.
        """
        if self._requests[owner] >= self._max_requests_of_one:
            raise TooManyInFlightError(
                texts.TOO_MANY_REQUESTS.fill(max_requests_of_one=self._max_requests_of_one), retry_after_s=1
            )
        if self._requests.total() >= self._max_requests:
            raise OverloadedError(texts.TOO_MANY_REQUESTS_OF_ALL.fill(max_requests=self._max_requests), retry_after_s=1)
        share = Share(self, owner)
        self._requests[owner] += 1
        self._shares.add(share)
        try:
            yield share
        finally:
            share.release_bytes()
            self._shares.discard(share)
            self._requests[owner] -= 1
            if not self._requests[owner]:
                del self._requests[owner]

    async def take(self, owner: str, num_bytes: int) -> None:
        """Take room for bytes, or wait for it.

        Raises:
            TooManyInFlightError: if this owner's other bodies leave no room for some seconds.
            OverloadedError: if everybody's do.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + _PATIENCE_S
        while not (self._fits_one(owner, num_bytes) and self._fits_all(num_bytes)):
            self._cut_stalled(None if self._fits_one(owner, num_bytes) else owner)
            if loop.time() >= until:
                raise self._no_room(owner, num_bytes)
            freed = asyncio.Event()
            self._waiting.add(freed)
            try:
                async with asyncio.timeout(_LOOK_S):
                    await freed.wait()
            except TimeoutError:
                pass
            finally:
                self._waiting.discard(freed)
        self._bytes[owner] += num_bytes

    def give_back(self, owner: str, num_bytes: int) -> None:
        """Free what `take` took."""
        self._bytes[owner] -= num_bytes
        if not self._bytes[owner]:
            del self._bytes[owner]
        for freed in self._waiting:
            freed.set()

    def _fits_one(self, owner: str, num_bytes: int) -> bool:
        return self._bytes[owner] + num_bytes <= self._max_bytes_of_one

    def _fits_all(self, num_bytes: int) -> bool:
        return self._bytes.total() + num_bytes <= self._max_bytes

    def _cut_stalled(self, owner: str | None) -> None:
        """Cut the body that has been silent longest, of one owner or of all, if it has been for long."""
        silent = [each for each in self._shares if each.silent_since is not None and each.num_bytes]
        silent = [each for each in silent if owner is None or each.owner == owner]
        if silent:
            longest = min(silent, key=lambda share: share.silent_since or 0.0)
            longest.cut_if_silent_for(_STALLED_S)

    def _no_room(self, owner: str, num_bytes: int) -> TooManyInFlightError | OverloadedError:
        if not self._fits_one(owner, num_bytes):
            limit = self._max_bytes_of_one
            return TooManyInFlightError(texts.TOO_MUCH_AT_A_TIME.fill(limit=limit), retry_after_s=1)
        return OverloadedError(texts.TOO_MUCH_OF_ALL, retry_after_s=1)


class Share:
    """What one request holds.

    Attributes:
        owner: whose it is.
        num_bytes: of its body.
        silent_since: on the loop's clock; None unless the next bytes of the body are awaited.
    """

    def __init__(self, in_flight: InFlight, owner: str) -> None:
        self._all = in_flight
        self._timeout: asyncio.Timeout | None = None
        self._began: float | None = None
        self._received = 0
        self.owner = owner
        self.num_bytes = 0
        self.silent_since: float | None = None

    async def hold(self, num_bytes: int) -> None:
        """Hold room for at least so many bytes of the body, in all.

        Raises:
            TooManyInFlightError: as `InFlight.take` does.
            OverloadedError: likewise.
        """
        more = num_bytes - self.num_bytes
        if num_bytes > SMALL_BODY_BYTES and more > 0:
            await self._all.take(self.owner, more)
            self.num_bytes += more

    def release_bytes(self) -> None:
        """Give the room back: the body is nowhere in memory any more."""
        if self.num_bytes:
            self._all.give_back(self.owner, self.num_bytes)
            self.num_bytes = 0

    @contextmanager
    def awaiting_body(self) -> Iterator[asyncio.Timeout]:
        """Prepare to wait for the next bytes, within the time that they may take.

        Yields the timeout to enter; `received` counts what came.
        """
        now = asyncio.get_running_loop().time()
        if self._began is None:
            self._began = now
        slowest = self._began + _GRACE_S + self._received / _MIN_BYTES_PER_S
        self._timeout = asyncio.timeout_at(min(now + self._all.body_timeout_s, slowest))
        self.silent_since = now
        try:
            yield self._timeout
        except TimeoutError:
            raise BodyTimeoutError(
                texts.BODY_TIMEOUT.fill(num_kb=_MIN_BYTES_PER_S // 1024, body_timeout_s=self._all.body_timeout_s)
            ) from None
        finally:
            self._timeout = self.silent_since = None

    def received(self, num_bytes: int) -> None:
        """Count bytes that came over the connection."""
        self._received += num_bytes

    def cut_if_silent_for(self, seconds: float) -> None:
        """End the wait for the next bytes if it has lasted so long."""
        now = asyncio.get_running_loop().time()
        if self._timeout is None or self.silent_since is None or self._timeout.expired():
            return
        if now - self.silent_since >= seconds:
            self._timeout.reschedule(now)

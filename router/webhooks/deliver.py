"""Posting events: one signed attempt at a time per delivery, a few side by side per receiver.

In: ids of deliveries that are due. Out: posts, and a record of how each went and when the next is due. A delivery is
claimed under a lease just before it is posted; if this process dies between the post and the record, the lease runs
out, and the receiver gets the same event again under the same ``webhook-id``.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

from router.errors import QueueUnavailableError
from router.fetch import FetchError, SafeFetcher, UrlRefusedError
from router.webhooks.backoff import Backoff, parse_retry_after
from router.webhooks.records import Attempt, Claim
from router.webhooks.signing import to_headers
from router.webhooks.store import WebhookStore

log = logging.getLogger(__name__)

MAX_AT_ONCE: Final = 32
# One receiver that hangs holds this many of them at most.
MAX_PER_RECEIVER: Final = 4
# Further ones stay in redis, from where they are sent again.
MAX_WAITING: Final = 2000
# A lease outlives the longest attempt by this much.
_LEASE_MARGIN_S: Final = 5.0
_GONE: Final = 410
_BUSY: Final = frozenset({429, 503})


class Deliverer:
    """Makes attempts. Bound to the event loop it first runs on.

    Args:
        store: where deliveries are.
        fetcher: refuses private and loopback addresses unless the settings allow them; its timeout bounds an attempt.
        backoff: when to try again.
        timeout_s: the fetcher's.
        clock: unix seconds, for the signature and the log.
    """

    def __init__(
        self,
        store: WebhookStore,
        fetcher: SafeFetcher,
        backoff: Backoff,
        *,
        timeout_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.store = store
        self._fetcher = fetcher
        self._backoff = backoff
        self._lease_s = timeout_s + _LEASE_MARGIN_S
        self._clock = clock
        self._slots = asyncio.Semaphore(MAX_AT_ONCE)
        self._lines: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def take(self, delivery_id: str) -> None:
        """Put a delivery in its receiver's line, unless it stands there already; returns at once."""
        if delivery_id in self._tasks or len(self._tasks) >= MAX_WAITING:
            return
        task = asyncio.get_running_loop().create_task(self._wait_and_deliver(delivery_id), name=delivery_id)
        self._tasks[delivery_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(delivery_id))

    async def drain(self, timeout_s: float) -> None:
        """Let what was taken end, for so long at most; the rest is cancelled, and sent again by another worker."""
        tasks = list(self._tasks.values())
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=timeout_s)
            for task in late:
                task.cancel()
        await self._fetcher.aclose()

    async def deliver(self, delivery_id: str) -> str | None:
        """Make one attempt if one is due; returns the delivery's state after it, None if nothing was recorded.

        Raises:
            QueueUnavailableError: if redis does not answer.
        """
        claim = await self.store.claim(delivery_id, lease_s=self._lease_s)
        if claim is None:
            return None
        secrets = claim.signing_secrets or await self.store.request_secrets(claim.owner)
        attempt, retry_after_s = await self._post(claim, secrets)
        is_gone = attempt.status_code == _GONE
        retry_in_s = None
        if attempt.error is not None and not is_gone:
            retry_in_s = self._backoff.delay_s(claim.failures + 1, retry_after_s)
        state = await self.store.record(claim, attempt, retry_in_s=retry_in_s, is_gone=is_gone)
        if attempt.error is not None:
            # No more of the URL than this: paths and queries of webhook URLs often hold a token.
            parts = urlsplit(claim.url)
            log.warning(
                "webhook %s (%s) to %s://%s: attempt %d failed: %s; %s",
                *(claim.delivery_id, claim.event_type, parts.scheme, parts.hostname, claim.number, attempt.error),
                f"next in {retry_in_s:.0f} s" if state == "pending" and retry_in_s is not None else "given up",
            )
        return state

    async def _wait_and_deliver(self, delivery_id: str) -> None:
        try:
            receiver = await self.store.receiver_of(delivery_id)
            if receiver is None:
                return
            line = self._lines.get(receiver)
            if line is None:
                self._lines[receiver] = line = asyncio.Semaphore(MAX_PER_RECEIVER)
            # The receiver's own line first: whoever waits for a slow receiver must not hold a slot meanwhile.
            async with line, self._slots:
                await self.deliver(delivery_id)
        except QueueUnavailableError as error:
            log.warning("webhook %s: %s", delivery_id, error.message)
        except Exception:  # the edge of a task nobody awaits; the record sends it again
            log.exception("webhook %s failed", delivery_id)

    async def _post(self, claim: Claim, secrets: tuple[str, ...]) -> tuple[Attempt, float | None]:
        started_at, started = self._clock(), time.monotonic()
        headers = to_headers(claim.event_id, int(started_at), claim.body, secrets)
        status, retry_after_s, error, error_zh = None, None, None, None
        try:
            answer = await self._fetcher.post_json(claim.url, claim.body, headers)
        except UrlRefusedError:
            error = "the URL leads to an address that is not posted to"
            error_zh = "该 URL 指向不允许投递的地址"
        except FetchError as failure:
            error, error_zh = failure.message, failure.message_zh
        else:
            status = answer.status
            if not 200 <= status < 300:
                error, error_zh = f"the receiver answered {status}", f"对方返回 {status}"
            if status in _BUSY:
                retry_after_s = parse_retry_after(answer.retry_after, started_at)
        duration_ms = round((time.monotonic() - started) * 1000)
        return Attempt(claim.number, round(started_at, 3), status, duration_ms, error, error_zh), retry_after_s

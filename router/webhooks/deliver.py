"""Posting events: one signed attempt at a time per delivery, a few side by side per host and per owner.

In: word that something is due. Out: posts, and a record of how each went and when the next is due. A delivery is
claimed under a lease just before it is posted; if this process dies between the post and the record, the lease runs
out, and the receiver gets the same event again under the same ``webhook-id``. What there is no place for now waits in
redis, in the queue of its owner and host.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from engines.http.address import url_host
from engines.origin import ORIGIN, Origin, to_trace_headers
from engines.traces import conventions
from policies.text import Text
from router.errors import QueueUnavailableError
from router.fetch import FetchError, SafeFetcher, UrlRefusedError, fetching_for
from router.shares import Shares
from router.webhooks import texts
from router.webhooks.backoff import Backoff, parse_retry_after
from router.webhooks.records import Attempt, Claim, Full
from router.webhooks.signing import to_headers
from router.webhooks.store import WebhookStore

if TYPE_CHECKING:
    from engines.traces.sdk import Traces

log = logging.getLogger(__name__)

# An attempt holds a connection and its body, and a silent receiver holds both until the timeout.
# Owners share these places, and an owner's hosts share the owner's, so a silent host delays no other.
MAX_AT_ONCE: Final = 256
# Most concurrent posts to one host, per owner and in all.
MAX_PER_LINE: Final = 8
MAX_PER_HOST: Final = 32
# A lease outlives the longest attempt by this much.
_LEASE_MARGIN_S: Final = 5.0
_GONE: Final = 410
_BUSY: Final = frozenset({429, 503})


def full_places(places: Shares) -> Full:
    """Return who must wait until an attempt of theirs has ended."""
    taken, at_hosts = places.taken, Counter[str]()
    for (_, host), number in taken.items():
        at_hosts[host] += number
    return Full(
        owners=tuple(owner for owner in {owner for owner, _ in taken} if places.is_full_owner(owner)),
        hosts=tuple(host for host, number in at_hosts.items() if number >= MAX_PER_HOST),
        lines=tuple(f"{owner}|{host}" for owner, host in taken if places.is_full_line(owner, host)),
    )


class Deliverer:
    """Makes attempts. Bound to the event loop it first runs on.

    Args:
        store: where deliveries are.
        fetcher: refuses private and loopback addresses unless the settings allow them; its timeout bounds an attempt.
        backoff: when to try again.
        timeout_s: the fetcher's.
        clock: unix seconds, for the signature and the log.
        traces: of this process; None keeps none.
    """

    def __init__(
        self,
        store: WebhookStore,
        fetcher: SafeFetcher,
        backoff: Backoff,
        *,
        timeout_s: float,
        clock: Callable[[], float] = time.time,
        traces: Traces | None = None,
    ) -> None:
        self.store = store
        self._fetcher = fetcher
        self._backoff = backoff
        self._lease_s = timeout_s + _LEASE_MARGIN_S
        self._clock = clock
        self._traces = traces
        self._places = Shares(MAX_AT_ONCE, most_per_line=MAX_PER_LINE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._taking: asyncio.Task[None] | None = None
        self._has_news = False
        self._is_draining = False

    def wake(self) -> None:
        """Begin whatever is due and has a place; returns at once."""
        self._has_news = True
        if self._taking is None and not self._is_draining:
            self._taking = asyncio.get_running_loop().create_task(self._take_all(), name="webhooks")

    async def drain(self, timeout_s: float) -> None:
        """Let what was begun end, for so long at most; the rest is cancelled, and made again by another worker."""
        self._is_draining = True
        if self._taking is not None:
            await self._taking
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=timeout_s)
            for task in late:
                task.cancel()
        await self._fetcher.aclose()

    async def _take_all(self) -> None:
        try:
            while self._has_news and not self._is_draining:
                self._has_news = False
                while not self._places.is_full and not self._is_draining:
                    claim = await self.store.take_next(lease_s=self._lease_s, full=full_places(self._places))
                    if claim is None:
                        break
                    self._begin(claim)
        except QueueUnavailableError as error:
            log.warning("webhooks: %s", error.message)  # the sweeper retries this
        except Exception:  # the edge of a background task
            log.exception("could not take the webhooks that are due")
        finally:
            self._taking = None

    def _begin(self, claim: Claim) -> None:
        self._places.take(claim.owner, claim.host)
        task = asyncio.get_running_loop().create_task(self._deliver_apart(claim), name=claim.delivery_id)
        self._tasks.add(task)

        def end(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            self._places.give_back(claim.owner, claim.host)
            self.wake()

        task.add_done_callback(end)

    async def _deliver_apart(self, claim: Claim) -> None:
        ORIGIN.set(claim.origin)
        try:
            await self.deliver(claim)
        except QueueUnavailableError as error:
            log.warning("webhook %s: %s", claim.delivery_id, error.message)
        except Exception:  # the edge of a background task; its lease expires
            log.exception("webhook %s failed", claim.delivery_id)

    async def deliver(self, claim: Claim) -> str | None:
        """Make an attempt; returns the delivery's state after it, None if the right to it was lost meanwhile.

        Raises:
            QueueUnavailableError: if redis does not answer.
        """
        secrets = claim.signing_secrets or await self.store.request_secrets(claim.owner)
        if self._traces is None:
            attempt, retry_after_s = await self._post(claim, secrets, claim.origin)
        else:
            attempt, retry_after_s = await self._post_traced(self._traces, claim, secrets)
        is_gone = attempt.status_code == _GONE
        retry_in_s = None
        if attempt.error is not None and not is_gone:
            retry_in_s = self._backoff.delay_s(claim.failures + 1, retry_after_s)
        state = await self.store.record(claim, attempt, retry_in_s=retry_in_s, is_gone=is_gone)
        # Log no path or query: webhook URLs often contain a token there.
        parts = urlsplit(claim.url)
        where = f"{parts.scheme}://{url_host(parts.hostname or '')}"
        what = (claim.delivery_id, claim.event_type, where, claim.number)
        if attempt.error is None:
            fields = {"status": attempt.status_code, "duration_ms": attempt.duration_ms}
            log.info("webhook %s (%s) to %s: attempt %d delivered", *what, extra={"fields": fields})
        else:
            after = f"next in {retry_in_s:.0f} s" if state == "pending" and retry_in_s is not None else "given up"
            log.warning("webhook %s (%s) to %s: attempt %d failed: %s; %s", *what, attempt.error, after)
        return state

    async def _post_traced(
        self, traces: Traces, claim: Claim, secrets: tuple[str, ...]
    ) -> tuple[Attempt, float | None]:
        about = {
            conventions.METHOD: "POST",
            conventions.ADDRESS: urlsplit(claim.url).hostname,  # no path or query, as in the log
            conventions.EVENT: claim.event_type,
            conventions.ATTEMPT: claim.number,
            conventions.REQUEST_ID: claim.origin.request_id or None,
        }
        with traces.span("POST webhook", "client", claim.origin, about) as span:
            attempt, retry_after_s = await self._post(claim, secrets, span.origin)
            span.add({conventions.STATUS: attempt.status_code})
            if attempt.error is not None:
                span.fail(str(attempt.status_code or "unreachable"))
        return attempt, retry_after_s

    async def _post(self, claim: Claim, secrets: tuple[str, ...], origin: Origin) -> tuple[Attempt, float | None]:
        started_at, started = self._clock(), time.monotonic()
        headers = to_headers(claim.event_id, int(started_at), claim.body, secrets) | to_trace_headers(origin)
        status, retry_after_s = None, None
        error: Text | None = None
        try:
            with fetching_for(claim.owner):
                answer = await self._fetcher.post_json(claim.url, claim.body, headers)
        except UrlRefusedError:
            error = texts.ADDRESS_REFUSED
        except FetchError as failure:
            error = failure.text
        else:
            status = answer.status
            if not 200 <= status < 300:
                error = texts.RECEIVER_ANSWERED.fill(status=status)
            if status in _BUSY:
                retry_after_s = parse_retry_after(answer.retry_after, started_at)
        duration_ms = round((time.monotonic() - started) * 1000)
        said, said_zh = (None, None) if error is None else (error.en, error.zh)
        return Attempt(claim.number, round(started_at, 3), status, duration_ms, said, said_zh), retry_after_s

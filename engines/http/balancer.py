"""Several servers of one model behind the Engine protocol.

In: a `GenerationRequest` and clients of servers. Out: the deltas of whichever server is best placed to answer. A server
that fails is left out and tried again; a request that failed before its first delta goes to another server once.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from engines.base import (
    CallerWait,
    Delta,
    EngineError,
    EngineInfo,
    EngineOverloadedError,
    EngineTimeoutError,
    EngineUnavailableError,
    GenerationFailedError,
    GenerationRequest,
    Usage,
)
from engines.http.client import DEFAULT_ANSWER_TIMEOUT_S, EngineClient, Readiness
from engines.origin import of_nobody

_BACKOFF_S: Final = 0.5
_MAX_BACKOFF_S: Final = 15.0
_BUSY_S: Final = 1.0  # after a 429 that does not say when to come again
_FAILURES_TO_OPEN: Final = 3  # answers that broke one after another; one may have been the request's own fault
# What a request is likely to cost, in tokens. GLM sees a picture of one megapixel as some 1,300.
_BYTES_PER_TOKEN: Final = 4
_TOKENS_PER_IMAGE: Final = 1300
_LIKELY_ANSWER: Final = 256
_LIKELY_THOUGHT: Final = 1024

Circuit = Literal["closed", "half-open", "open"]

log = logging.getLogger(__name__)


class Server(Protocol):
    """What the balancer needs of a client; `EngineClient` has it."""

    @property
    def url(self) -> str:
        """Its address, as shown."""
        ...

    async def info(self) -> EngineInfo:
        """Describe the engine."""
        ...

    async def probe(self) -> tuple[Readiness, str]:
        """Whether the next request would be served, and if not, why."""
        ...

    def waiting(self) -> tuple[tuple[CallerWait, ...], ...]:
        """What the last probe said of who waits there."""
        ...

    async def start(self) -> None:
        """Wait until it is ready."""
        ...

    def stream(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        """Generate an answer."""
        ...

    async def count(self, request: GenerationRequest) -> Usage | None:
        """Count the tokens of a prompt."""
        ...

    async def aclose(self) -> None:
        """Close every connection."""
        ...


@dataclass(frozen=True, slots=True)
class BackendStatus:
    """What is known of one server.

    Attributes:
        url: its address.
        is_up: requests are sent there.
        reason: why not.
        num_outstanding: requests of this process that it is answering.
    """

    url: str
    is_up: bool
    reason: str
    num_outstanding: int


@dataclass(frozen=True, slots=True)
class Cost:
    """What a request is likely to make a server do, in tokens."""

    prompt: int
    answer: int


def estimate_cost(request: GenerationRequest) -> Cost:
    """Estimate a request's tokens from its bytes, pictures and bound; only the proportion between requests matters."""
    num_bytes = sum(len(message.text.encode("utf-8", "replace")) for message in request.messages)
    likely = _LIKELY_THOUGHT if request.enable_thinking else _LIKELY_ANSWER
    wanted = request.sampling.max_tokens
    return Cost(
        prompt=num_bytes // _BYTES_PER_TOKEN + _TOKENS_PER_IMAGE * len(request.images),
        answer=likely if wanted is None else min(wanted, likely),
    )


def affinity_key(request: GenerationRequest) -> bytes:
    """What requests have in common that find each other's beginnings in a server's cache.

    The caller, the adapter and the first picture; without a picture, the conversation up to its first question.
    """
    digest = hashlib.sha256(f"{request.caller}\0{request.adapter}\0".encode("utf-8", "replace"))
    if request.images:
        digest.update(request.images[0].sha256.encode())
        return digest.digest()
    for message in request.messages:
        digest.update(f"{message.role}\0{message.text}\0".encode("utf-8", "replace"))
        if message.role == "user":
            break
    return digest.digest()


class _Backend:
    """A server, what it is doing for us, and its circuit breaker.

    The circuit is closed while requests go there, open while they do not, and half-open after a probe succeeded: then
    one request at a time is let through until one of them begins to be answered.
    """

    def __init__(self, client: Server, clock: Callable[[], float], jitter: Callable[[], float]) -> None:
        self.client = client
        self.circuit: Circuit = "closed"
        self.reason = ""
        self.load = 0
        self.num_outstanding = 0
        self.has_trial = False
        self.probing: asyncio.Task[bool] | None = None
        self._clock = clock
        self._jitter = jitter
        self._num_failures = 0
        self._retry_at = 0.0
        self._busy_until = 0.0
        self._was_seen_down = False

    @property
    def is_due(self) -> bool:
        """The circuit has been open for long enough to look again."""
        return self.circuit == "open" and self._clock() >= self._retry_at

    @property
    def is_second_choice(self) -> bool:
        """It takes requests, but has said that it is full, or has not yet shown that it is well again."""
        return self._clock() < self._busy_until or (self.circuit == "half-open" and self.has_trial)

    def score(self, key: bytes) -> int:
        """Rendezvous hashing: the server with the greatest score is the key's own."""
        return int.from_bytes(hashlib.sha256(key + self.client.url.encode()).digest()[:8])

    def began(self) -> None:
        """Learn that a request is being answered."""
        if self.circuit == "half-open":  # if it is open, the request is older than what opened it
            log.info("engine at %s is back", self.client.url)
            self.circuit = "closed"

    def served(self) -> None:
        """Learn that a request was answered to its end, or understood and refused."""
        self.began()
        if self.circuit == "closed":
            self._num_failures = 0

    def failed(self, error: EngineError) -> None:
        """Learn from a failed request."""
        if isinstance(error, EngineOverloadedError):
            self.served()
            wait_s = _BUSY_S if error.retry_after_s is None else error.retry_after_s
            self._busy_until = self._clock() + wait_s
        elif isinstance(error, EngineUnavailableError | EngineTimeoutError):
            self.open(error.for_operators)
        elif isinstance(error, GenerationFailedError):
            self._num_failures += self.circuit != "open"
            if self.circuit == "half-open" or self._num_failures >= _FAILURES_TO_OPEN:
                self.open(error.for_operators)
        else:
            self.served()

    def open(self, reason: str) -> None:
        """Send no more requests until a probe succeeds."""
        self.reason = reason
        if self.circuit == "open":  # of many requests that fail together, only the first counts
            return
        log.warning("engine at %s is left out: %s", self.client.url, reason)
        self.circuit = "open"
        self._was_seen_down = False
        self._put_off()

    def probed(self, is_ready: bool, reason: str) -> None:
        """Learn from a probe."""
        if not is_ready:
            is_due = self.is_due
            self.open(reason)
            self._was_seen_down = True
            if is_due:
                self._put_off()
        elif self.circuit == "open" and (self._was_seen_down or self.is_due):
            # A probe that failed before makes this one news. One that never failed says little about requests that did.
            self.half_open()

    def half_open(self) -> None:
        """Let a request through to see how it fares."""
        self.circuit, self.reason = "half-open", ""
        self.has_trial = False

    def _put_off(self) -> None:
        self._num_failures += 1
        wait_s = min(_MAX_BACKOFF_S, _BACKOFF_S * 2 ** min(self._num_failures - 1, 10))
        self._retry_at = self._clock() + wait_s * self._jitter()


class BalancedClient:
    """Servers of one model as one engine.

    A request goes where the least work is outstanding, counted in likely tokens. The server that its conversation or
    picture belongs to is credited with the prompt's tokens, which it may still have in its cache: it is passed over
    when it is busier than the others by more than that. A server that cannot be reached, answers 503 or falls silent,
    or whose answers break three times in a row, is left out, for half a second first and up to 15 s later; then a probe
    decides, and one request at a time. Probes go out with requests and with `is_ready`, never by themselves.

    What is counted is what this process has sent. A client belongs to the event loop that uses it first: all
    bookkeeping happens between two awaits of that loop, so that its tasks need no lock.

    Args:
        clients: one per server; closed by `aclose`.
        clock: seconds that never go back.
        jitter: a factor for each pause, so that many processes do not come back at once.

    Raises:
        ValueError: without clients.
    """

    def __init__(
        self,
        clients: Sequence[Server],
        *,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = lambda: random.uniform(0.75, 1.25),  # noqa: S311  no secret
    ) -> None:
        if not clients:
            raise ValueError("nothing to balance: no clients")
        self._backends = tuple(_Backend(client, clock, jitter) for client in clients)

    async def info(self) -> EngineInfo:
        """Describe the model, as the first server that answers does.

        Raises:
            EngineUnavailableError: if none does.
        """
        for backend in sorted(self._backends, key=lambda backend: (backend.circuit == "open", backend.load)):
            try:
                return await backend.client.info()
            except EngineUnavailableError as error:
                backend.failed(error)
        raise self._unavailable()

    async def count(self, request: GenerationRequest) -> Usage | None:
        """Count a prompt's tokens on the first server that answers; None if it cannot say that exactly.

        Raises:
            EngineUnavailableError: if none answers.
            EngineError: what the server raised.
        """
        for backend in sorted(self._backends, key=lambda backend: (backend.circuit == "open", backend.load)):
            try:
                return await backend.client.count(request)
            except EngineUnavailableError as error:
                backend.failed(error)
        raise self._unavailable()

    async def is_ready(self) -> bool:
        """Whether any server would serve the next request; asks every one, and waits for the first that would."""
        return await self._first_ready(self._backends) is not None

    def status(self) -> tuple[BackendStatus, ...]:
        """What is known of each server, without asking."""
        return tuple(
            BackendStatus(backend.client.url, backend.circuit != "open", backend.reason, backend.num_outstanding)
            for backend in self._backends
        )

    def waiting(self) -> tuple[tuple[CallerWait, ...], ...]:
        """What the last probes said of who waits, for each server that takes requests."""
        return tuple(
            found for backend in self._backends if backend.circuit != "open" for found in backend.client.waiting()
        )

    async def start(self) -> None:
        """Wait until one server is ready.

        Raises:
            EngineUnavailableError: if none will be.
        """
        starting = [asyncio.ensure_future(backend.client.start()) for backend in self._backends]
        try:
            for ended in asyncio.as_completed(starting):
                try:
                    await ended
                except EngineUnavailableError:
                    continue
                return
        finally:
            for task in starting:
                task.cancel()
            await asyncio.gather(*starting, return_exceptions=True)
            for backend, task in zip(self._backends, starting, strict=True):
                failure = None if task.cancelled() else task.exception()
                if isinstance(failure, EngineUnavailableError):
                    backend.failed(failure)
        raise self._unavailable()

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        """Generate an answer on one of the servers; closing the generator cancels it there.

        Raises:
            EngineUnavailableError: if no server is left; the detail says what is wrong with each.
            EngineError: what the server raised; of two, what the second raised, unless the first was only full or the
                second is dead.
        """
        key, cost = affinity_key(request), estimate_cost(request)
        first: tuple[_Backend, EngineError] | None = None
        while True:
            backend = await self._choose(key, cost, but=first[0] if first else None)
            if backend is None:
                if first is not None and not isinstance(first[1], EngineUnavailableError):
                    raise first[1]
                cause = first[1] if first else None
                failure = self._unavailable(cause.message if cause else "")
                failure.is_broken_off = isinstance(cause, EngineUnavailableError) and cause.is_broken_off
                raise failure from cause
            held = cost.prompt + cost.answer
            backend.load += held
            backend.num_outstanding += 1
            is_trial = backend.circuit == "half-open" and not backend.has_trial
            backend.has_trial |= is_trial
            has_begun = False
            try:
                async with aclosing(backend.client.stream(request)) as deltas:
                    async for delta in deltas:
                        if not has_begun:
                            has_begun = True
                            backend.began()
                            backend.load -= cost.prompt  # it has been read
                            held -= cost.prompt
                        yield delta
                backend.served()
                return
            except EngineError as error:
                backend.failed(error)
                if first is not None and not has_begun and _says_more(first[1], error):
                    raise first[1] from error
                if has_begun or first is not None or not _may_go_better_elsewhere(error):
                    raise
                first = (backend, error)
                log.info("a request goes on to another engine: %s", error.for_operators)
            finally:
                backend.load -= held
                backend.num_outstanding -= 1
                backend.has_trial &= not is_trial

    async def aclose(self) -> None:
        """Close every connection; running answers end with `EngineUnavailableError`."""
        probing = [backend.probing for backend in self._backends if backend.probing is not None]
        for task in probing:
            task.cancel()
        await asyncio.gather(*probing, return_exceptions=True)
        await asyncio.gather(*(backend.client.aclose() for backend in self._backends))

    async def _choose(self, key: bytes, cost: Cost, but: _Backend | None) -> _Backend | None:
        for backend in self._backends:
            if backend.is_due:
                self._start_to_look_at(backend)
        chosen = self._pick(key, cost, but)
        if chosen is not None:
            return chosen
        # Nobody by what was heard last: ask again, rather than refuse by an old opinion.
        ready = await self._first_ready([backend for backend in self._backends if backend is not but])
        if ready is not None and ready.circuit == "open":
            ready.half_open()
        return self._pick(key, cost, but)

    def _pick(self, key: bytes, cost: Cost, but: _Backend | None) -> _Backend | None:
        usable = [backend for backend in self._backends if backend.circuit != "open" and backend is not but]
        if not usable:
            return None
        own = max(usable, key=lambda backend: backend.score(key))
        return min(
            usable,
            key=lambda backend: (
                backend.is_second_choice,
                backend.load - (cost.prompt if backend is own else 0),
                -backend.score(key),
            ),
        )

    async def _first_ready(self, backends: Sequence[_Backend]) -> _Backend | None:
        """Look at all of them; a server that hangs holds up only what knows it is down."""

        async def look_at(backend: _Backend) -> _Backend | None:
            is_ready = await asyncio.shield(self._start_to_look_at(backend))  # others may wait for the same look
            return backend if is_ready else None

        looks = [asyncio.ensure_future(look_at(backend)) for backend in backends]
        try:
            for look in asyncio.as_completed(looks):
                backend = await look
                if backend is not None:
                    return backend
            return None
        finally:
            for waiting in looks:
                waiting.cancel()

    def _start_to_look_at(self, backend: _Backend) -> asyncio.Task[bool]:
        if backend.probing is None:
            backend.probing = asyncio.create_task(
                self._probe(backend), name=f"probe {backend.client.url}", context=of_nobody()
            )
        return backend.probing

    async def _probe(self, backend: _Backend) -> bool:
        try:
            readiness, reason = await backend.client.probe()
            backend.probed(readiness == "ready", reason)
            return readiness == "ready"
        except Exception as error:  # a bug in a client: this server is no use, and nobody may be waiting to hear of it
            log.exception("the probe of %s failed", backend.client.url)
            backend.probed(False, f"{type(error).__name__}: {error}")
            return False
        finally:
            backend.probing = None

    def _unavailable(self, last_words: str = "") -> EngineUnavailableError:
        reasons = "; ".join(f"{backend.client.url}: {backend.reason or 'left out'}" for backend in self._backends)
        message = f"None of the engine's {len(self._backends)} servers is available" + (
            f": {last_words}" if last_words else "."
        )
        return EngineUnavailableError(message, detail=reasons)


def _says_more(first: EngineError, second: EngineError) -> bool:
    """Whether the caller should hear the first of two refusals: full is no fault, and a dead server tells nothing."""
    return isinstance(first, EngineOverloadedError) or isinstance(second, EngineUnavailableError)


def _may_go_better_elsewhere(error: EngineError) -> bool:
    """Whether to ask another server: not after a silence, for the caller has waited as long as was allowed."""
    return error.retryable and not isinstance(error, EngineTimeoutError)


RemoteEngine = EngineClient | BalancedClient


def connect(
    urls: Sequence[str],
    *,
    timeout_s: float,
    answer_timeout_s: float = DEFAULT_ANSWER_TIMEOUT_S,
    model: str | None = None,
    api_key: str | None = None,
    name: str | None = None,
) -> RemoteEngine:
    """Make the client of one URL, or the balancer of several; arguments as those of `EngineClient`.

    Raises:
        ValueError: if a URL is of another kind, or there is none.
    """
    clients = [
        EngineClient(
            url, timeout_s=timeout_s, answer_timeout_s=answer_timeout_s, model=model, api_key=api_key, name=name
        )
        for url in urls
    ]
    return clients[0] if len(clients) == 1 else BalancedClient(clients)

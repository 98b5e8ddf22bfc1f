"""Which redis the sentinels call master, for all connections of an event loop.

In: the address of sentinels, and pools of connections. Out: a host and a port for each new connection. While there are
pools, one task asks the sentinels every second: once they name another master, connections to the old one are broken
off. A machine that fell silent would otherwise keep each of them waiting for its timeout, one after the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any, Final, Protocol
from weakref import WeakKeyDictionary

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from engines.http.address import url_host
from router.leftovers import end_tasks
from router.redis_address import RedisAddress

log = logging.getLogger(__name__)

# A sentinel answers from memory. Where one is asked after the other, one that does not answer is soon passed over.
SENTINEL_TIMEOUT_S: Final = 1.0
# Here all are asked at once, and on a busy machine a connection with TLS alone takes more than a second.
_PATIENCE_S: Final = 5.0
_LOOK_EVERY_S: Final = 1.0


class Moving(Protocol):
    """What has connections to the master."""

    def hang_up(self) -> None:
        """Break off all of them, also those that wait for an answer; waits for nothing."""


class MasterWatch:
    """What the sentinels of one service say.

    Args:
        address: names them.
    """

    def __init__(self, address: RedisAddress) -> None:
        self._sentinel = sentinels_of(address, timeout_s=_PATIENCE_S)
        self._service = address.service
        self._pools: set[Moving] = set()
        self._last: tuple[str, int] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._asking: asyncio.Task[tuple[str, int]] | None = None
        self._asked: dict[Redis, asyncio.Task[tuple[str, int] | str]] = {}

    def join(self, pool: Moving) -> None:
        """Tell a pool from now on."""
        self._pools.add(pool)
        if self._looking is None:
            self._looking = asyncio.create_task(self._look_forever(), name="redis-master")

    async def leave(self, pool: Moving) -> None:
        """Tell it no more; after the last one, hang up on the sentinels."""
        self._pools.discard(pool)
        if not self._pools:
            await self.aclose()

    async def aclose(self) -> None:
        """Look no more, and hang up on the sentinels."""
        looking, self._looking = self._looking, None
        await end_tasks(*(task for task in (looking, self._asking, *self._asked.values()) if task is not None))
        await self._sentinel.aclose()

    async def ask(self) -> tuple[str, int]:
        """Return the host and the port of the master; callers at the same time share one question.

        A crowd of new connections would else be a crowd of connections to the sentinels too, and on a busy machine with
        TLS some of them would not be made in time.

        Raises:
            redis.asyncio.sentinel.MasterNotFoundError: if no sentinel that answers knows of one that is up.
        """
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask(), name="redis-master-ask")
        return await asyncio.shield(self._asking)

    async def _ask(self) -> tuple[str, int]:
        found = await self._first_answer()
        last, self._last = self._last, found
        if last is not None and last != found:
            log.warning("redis has moved from %s to %s", *(f"{url_host(host)}:{port}" for host, port in (last, found)))
            for pool in self._pools:
                pool.hang_up()
        return found

    async def _first_answer(self) -> tuple[str, int]:
        """Ask all sentinels at once; one that has not answered yet is not asked again meanwhile."""
        for sentinel in self._sentinel.sentinels:
            if sentinel not in self._asked or self._asked[sentinel].done():
                self._asked[sentinel] = asyncio.create_task(self._ask_one(sentinel), name="redis-sentinel")
        pending, problem = set(self._asked.values()), ""
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if not isinstance(found := task.result(), str):
                    return found
                problem = found
        raise MasterNotFoundError(f"no sentinel names a master of {self._service}: {problem}")

    async def _ask_one(self, sentinel: Redis) -> tuple[str, int] | str:
        """Return the master that one sentinel names, or why it names none: perhaps nobody waits for its answer."""
        try:
            masters: Any = await sentinel.sentinel_masters()
        except (RedisError, OSError) as error:
            return str(error)
        state = masters.get(self._service)
        if state is None or not self._sentinel.check_master_state(state, self._service):
            return "it knows of none that is up"
        return str(state["ip"]), int(state["port"])

    async def _look_forever(self) -> None:
        while True:
            with contextlib.suppress(RedisError, OSError):  # none to be seen now: whoever connects says so
                await self.ask()
            await asyncio.sleep(_LOOK_EVERY_S)


_Key = tuple[object, ...]
_WATCHES: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[_Key, MasterWatch]] = WeakKeyDictionary()


def watch_master(address: RedisAddress) -> MasterWatch:
    """Return the one that the running loop has for an address."""
    watches = _WATCHES.setdefault(asyncio.get_running_loop(), {})
    key = address.sentinels, address.service, *sorted(address.sentinel_options.items())
    if key not in watches:
        watches[key] = MasterWatch(address)
    return watches[key]


def sentinels_of(address: RedisAddress, *, timeout_s: float = SENTINEL_TIMEOUT_S) -> Sentinel:
    """Return what asks an address' sentinels."""
    timeouts = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
    # redis-py's own ten retries of a sentinel that is away would take four seconds of every fail-over.
    options = {**timeouts, "retry": Retry(NoBackoff(), 0), **address.sentinel_options}
    return Sentinel(address.sentinels, sentinel_kwargs=options)  # type: ignore[no-untyped-call]

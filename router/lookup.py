"""Addresses of host names, asked of the system in threads of our own.

In: a host name. Out: its addresses, in at most `TIMEOUT_S`. The system's lookup (files, DNS with its search domains,
whatever ``nsswitch`` names) cannot be stopped and may take half a minute for a name whose servers say nothing. So
each has a thread, which keeps its place until it ends; places are shared by owners and by zones (`router.shares`),
and a name that is being asked for is not asked for twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from router.shares import Shares

TIMEOUT_S: Final = 5.0
# A thread that waits for an answer costs some tens of kB.
MAX_LOOKUPS: Final = 512

# The owner whose URLs are fetched; empty where there is none.
OWNER: ContextVar[str] = ContextVar("owner", default="")

System = Callable[[str], list[str]]


class LookupTimeoutError(Exception):
    """The name servers did not say anything in time, or too many lookups of the owner's are under way."""


@dataclass(slots=True)
class _Lookup:
    answer: asyncio.Future[list[str] | OSError]
    began: float


def ask_system(host: str) -> list[str]:
    """Look a name up; blocks.

    Raises:
        OSError: if it has no address.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except UnicodeError as error:  # a label that is too long for any DNS
        raise OSError(str(error)) from error
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


class Lookups:
    """Looks names up. Bound to the event loop it is used on.

    Args:
        ask: blocks until it has the addresses of a name; raises `OSError` if there are none.
        timeout_s: the longest wait.
    """

    def __init__(self, ask: System = ask_system, *, timeout_s: float = TIMEOUT_S) -> None:
        self._ask = ask
        self._timeout_s = timeout_s
        self._places = Shares(MAX_LOOKUPS)
        self._under_way: dict[str, _Lookup] = {}

    async def __call__(self, host: str, port: int) -> list[str]:
        """Return the addresses of a host.

        Raises:
            OSError: if it has none.
            LookupTimeoutError: if there was no answer in time.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                lookup = self._under_way.get(host) or await self._begin(host)
                if asyncio.get_running_loop().time() - lookup.began >= self._timeout_s:
                    raise TimeoutError  # another lookup of this name has timed out already
                found = await asyncio.shield(lookup.answer)
        except TimeoutError:
            raise LookupTimeoutError from None
        if isinstance(found, OSError):
            raise found
        return found

    async def _begin(self, host: str) -> _Lookup:
        loop = asyncio.get_running_loop()
        # Silent name servers are silent for all names of their zone.
        owner, zone = OWNER.get(), ".".join(host.rsplit(".", 2)[-2:])
        await self._places.wait(owner, zone)
        if host in self._under_way:
            self._places.give_back(owner, zone)
            return self._under_way[host]
        lookup = self._under_way[host] = _Lookup(loop.create_future(), loop.time())

        def end(found: list[str] | OSError) -> None:
            del self._under_way[host]
            self._places.give_back(owner, zone)
            if not lookup.answer.done():
                lookup.answer.set_result(found)

        def run() -> None:
            found: list[str] | OSError
            try:
                found = self._ask(host)
            except OSError as error:
                found = error
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(end, found)

        try:
            # A daemon: the process does not wait for name servers when it ends.
            threading.Thread(target=run, name=f"lookup-{host}", daemon=True).start()
        except RuntimeError as error:  # the system has no more threads
            end(OSError(str(error)))
        return lookup

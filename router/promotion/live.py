"""The pointers as this process knows them, and what they make of a call.

In: redis, read twice a second, and a `Call`. Out: the call with the adapter that answers it. While redis is away the
pointers that were read last count.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from engines.base import EngineInfo
from policies.context import bucket_of
from router.call import Call
from router.leftovers import end_tasks
from router.promotion.records import Pointer
from router.promotion.store import PromotionStore
from router.redis import repeat
from router.routing import conversation_id

log = logging.getLogger(__name__)

# A rollback is everywhere within a second.
_POLL_S: Final = 0.5
# What boot waits for; without redis, every model answers as it is until it is back.
_FIRST_S: Final = 1.0
_GLM: Final = "glm"


class LivePromotions:
    """Follows the pointers. Bound to the event loop it is used on.

    Args:
        store: reads them.
        info: says what is known of an engine.
    """

    def __init__(self, store: PromotionStore, info: Callable[[str], EngineInfo | None]) -> None:
        self._store = store
        self._info = info
        self._pointers: Mapping[str, Pointer] = {}
        self._missing: set[str] = set()
        self._was_read = asyncio.Event()
        self._tasks: tuple[asyncio.Task[None], ...] = ()

    async def start(self) -> None:
        """Read once, for a second at most, and go on reading."""
        following = repeat("promotions", self.refresh, lambda: asyncio.sleep(_POLL_S))
        self._tasks = (asyncio.create_task(following, name="promotions"),)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._was_read.wait(), _FIRST_S)

    async def aclose(self) -> None:
        """Stop reading."""
        await end_tasks(*self._tasks)

    async def refresh(self) -> None:
        """Read the pointers.

        Raises:
            QueueUnavailableError: when redis does not answer.
        """
        self._pointers = await self._store.load()
        self._was_read.set()

    def pointer(self, engine: str) -> Pointer:
        """Return an engine's pointer as it was read last."""
        return self._pointers.get(engine, Pointer())

    def apply(self, call: Call) -> Call:
        """Return the call with the adapter that answers it, and the revision of its weights.

        A call that names an adapter, or the base, keeps it. A conversation keeps its side of a share.
        """
        adapter, engine = call.adapter, call.adapter_engine
        if not adapter and not call.keeps_base:
            adapter, engine = self._promoted(call), _GLM
        if not adapter:
            return call
        info = self._info(engine)
        revision = "" if info is None else info.revision
        return replace(call, adapter=adapter, adapter_engine=engine, adapter_revision=revision)

    def _promoted(self, call: Call) -> str:
        now = self.pointer(_GLM).now
        if not now.adapter or (now.share < 1 and self._bucket(call, now.adapter) >= now.share):
            return ""
        info = self._info(_GLM)
        if info is not None and now.adapter not in info.adapters:
            if now.adapter not in self._missing:
                log.error("glm has no adapter %s, which is promoted; the model answers as it is", now.adapter)
            self._missing.add(now.adapter)
            return ""
        self._missing.discard(now.adapter)
        return now.adapter

    @staticmethod
    def _bucket(call: Call, adapter: str) -> float:
        # Not the canary's bucket: each side of the one share has to have its part of the other.
        return bucket_of(f"promotion\0{adapter}\0{conversation_id(call)}")

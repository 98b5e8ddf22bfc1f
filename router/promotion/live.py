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
from router.promotion.records import BASE, PROMOTABLE, Pointer, Promotion
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
        self._warned: set[tuple[str, str, str]] = set()
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
        """Return the call with the adapters that answer it, and the revisions of their weights.

        A call that names an adapter, or the base, keeps it. A conversation keeps its side of a share.
        """
        if call.keeps_base:
            return call
        if call.adapter:
            return replace(call, adapter_revision=self._revision(call.adapter_engine, call.adapter))
        found = {engine: name for engine in PROMOTABLE if (name := self._promoted(engine, call))}
        if not found:
            return call
        revisions = {engine: self._revision(engine, name) for engine, name in found.items()}
        return replace(
            call,
            adapter=found.pop(_GLM, ""),
            adapter_engine=_GLM,
            adapter_revision=revisions.pop(_GLM, ""),
            promoted=found,
            promoted_revisions=revisions,
        )

    def shadow(self) -> Promotion:
        """Return the adapter that is asked in the shadow; `BASE` if there is none, or GLM has no such adapter."""
        shadow = self.pointer(_GLM).shadow
        info = self._info(_GLM)
        if not shadow.adapter or not shadow.share or info is None:
            return shadow
        if shadow.adapter not in info.adapters:
            self._warn(_GLM, shadow, "", is_shadow=True)
            return BASE
        self._warned.discard((_GLM, shadow.adapter, "shadow"))
        return shadow

    def _revision(self, engine: str, adapter: str) -> str:
        info = self._info(engine)
        return "" if info is None else info.revision_with(adapter)

    def _promoted(self, engine: str, call: Call) -> str:
        now = self.pointer(engine).now
        if not now.adapter or (now.share < 1 and self._bucket(call, now.adapter) >= now.share):
            return ""
        info = self._info(engine)
        if info is None:
            return now.adapter
        if now.adapter not in info.adapters:
            self._warn(engine, now, "")
            return ""
        self._warned.discard((engine, now.adapter, ""))  # if it is lost again, that is news
        found = info.revision_with(now.adapter)
        if now.revision and found and found != now.revision:
            self._warn(engine, now, found)
        return now.adapter

    def _warn(self, engine: str, now: Promotion, found: str, *, is_shadow: bool = False) -> None:
        """Say once what is not as it was promoted."""
        what = (engine, now.adapter, "shadow" if is_shadow else found)
        if what in self._warned:
            return
        self._warned.add(what)
        if is_shadow:
            log.error("%s has no adapter %s, which was to be asked in the shadow; it is not asked", engine, now.adapter)
            return
        if not found:
            log.error("%s has no adapter %s, which is promoted; the model answers as it is", engine, now.adapter)
            return
        log.warning(
            "adapter %s of %s answers with other weights (%s) than were measured when it was promoted (%s); "
            "run glowl eval and glowl promote again",
            *(now.adapter, engine, found, now.revision),
        )

    @staticmethod
    def _bucket(call: Call, adapter: str) -> float:
        # Not the canary's bucket: each side of the one share has to have its part of the other.
        return bucket_of(f"promotion\0{adapter}\0{conversation_id(call)}")

"""What is kept of a caller's answers for data sets, by the answers' ids.

In: an id of either endpoint, and an owner. Out: the exchange, whether the answer may be spoken of, or its end.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from typing import TypeVar

from router.api import texts
from router.api.owned import find_response
from router.errors import LoopUnavailableError, NotCapturedError
from router.jobs.given_up import no_response
from router.loop.capture import FAILURES
from router.loop.collect import forget
from router.loop.records import Exchange
from router.second_looks import looked_again_ids
from router.services import Services

Result = TypeVar("Result")
log = logging.getLogger(__name__)


async def reaching(work: Awaitable[Result]) -> Result:
    """Await work with the store.

    Raises:
        LoopUnavailableError: if it cannot be read or written.
    """
    try:
        return await work
    except FAILURES as error:
        log.error("what is kept for data sets cannot be read or written: %s", error)
        raise LoopUnavailableError(texts.LOOP_UNAVAILABLE, retry_after_s=5) from error


def to_response_id(name: str) -> str:
    """Return the id of a response, also of one that is named as a chat completion."""
    return f"resp_{rest}" if (rest := name.removeprefix("chatcmpl-")) != name else name


async def find_captured(services: Services, response_id: str, caller: str) -> Exchange | None:
    """Return what is kept of a caller's answer; None if it is on its way to be kept.

    Raises:
        NotFoundError: if the caller has no such answer.
        NotCapturedError: if it is not kept, or has not ended.
        LoopUnavailableError: if that cannot be told now.
    """
    await services.capture.flush()
    found = await reaching(services.capture.ask(lambda store: store.get(response_id), None))
    if found is not None:
        if found.owner != caller:
            raise no_response(response_id)
        return found
    job = await find_response(services, response_id, caller)
    if not job.is_terminal:
        raise NotCapturedError(texts.NOT_ENDED.fill(response_id=response_id), code="response_in_progress")
    if not job.spec.is_captured or not services.capture.is_on(caller):
        raise NotCapturedError(texts.NOT_CAPTURED.fill(response_id=response_id))
    return None


async def forget_captured(services: Services, name: str, caller: str) -> bool:
    """Delete what is kept of a caller's answer, and of its second looks, on all machines; False if nothing is here.

    Raises:
        LoopUnavailableError: if it cannot be deleted now.
        QueueUnavailableError: if redis does not answer.
    """
    response_id = to_response_id(name)
    await services.capture.flush()
    found = await reaching(services.capture.ask(lambda store: store.get(response_id), None))
    if found is not None and found.owner != caller:
        return False
    job = await services.store.get(response_id) if found is None else None
    if found is None and (job is None or job.spec.owner != caller):
        return False
    again = looked_again_ids(response_id)
    await reaching(forget(services.capture, services.store.redis, response_id, *again))
    for name_again in again:
        await services.store.cancel(name_again)
        await services.store.delete(name_again)
    return found is not None

"""Begin what a request asks for, once per ``Idempotency-Key``.

In: a request and how to make its `Call`. Out: the `Running` answer, new or begun before under the same key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final
from urllib.request import parse_http_list

from fastapi import Request

from router.api import texts
from router.api.hangups import ClientGoneError, cancel_on_disconnect
from router.api.intake import admission_of, services_of
from router.begun import as_begun
from router.call import CacheUse, Call
from router.dispatch import Running
from router.errors import BadRequestError
from router.idempotency import KEEP_S
from router.jobs.given_up import no_response
from router.limits.meters import Cost

MAX_KEY: Final = 255
# Longer ages are cut to this many digits (centuries); Python refuses to parse thousands of digits.
_MAX_AGE_DIGITS: Final = 10


async def start(request: Request, call: Call) -> Running:
    """Begin for a caller who may hang up while the call waits in an engine's line; background work goes on without one.

    Raises:
        ClientGoneError: if the caller hung up first.
        RouterError: as `Dispatcher.start` does.
    """
    dispatcher = services_of(request).dispatcher
    said, admission = request.headers.getlist("cache-control"), admission_of(request)
    if said or admission is not None:
        call = replace(call, cache=heed_cache_control(said, call.cache), admission=admission)
    if call.is_background:
        return await dispatcher.start(call)
    begun: list[Running] = []

    async def beginning() -> Running:
        begun.append(await dispatcher.start(call))
        return begun[0]

    try:
        return await cancel_on_disconnect(request, beginning())
    except (ClientGoneError, asyncio.CancelledError):
        # redis-py can swallow a cancellation: then it has begun all the same.
        for running in begun:
            await running.events.aclose()
            if running.is_queued:
                dispatcher.abandon(running.job.spec)
        raise


async def begin(request: Request, caller: str, make_call: Callable[[], Awaitable[Call]]) -> Running:
    """Begin what was asked for; or, if its ``Idempotency-Key`` was seen before, find what was begun then.

    Args:
        request: whose body was read by `parse`.
        caller: the owner.
        make_call: loads the pictures and so on; not called for what was begun before.

    Raises:
        ConflictError: if the request with the same key is still being accepted, or answered without a job.
        IdempotencyReuseError: if the key came with another body before.
        RouterError: as `start` does.
    """
    key = _idempotency_key(request)
    if key is None:
        return _begun(request, await start(request, await make_call()))
    services = services_of(request)
    idempotency = services.idempotency
    claim = await idempotency.claim(caller, request.url.path, key, request.state.body)
    if not claim.is_new:
        job = await services.store.get(claim.response_id)
        if job is not None:
            if (admission := admission_of(request)) is not None:
                await admission.charge(Cost())
            request.state.is_replayed = True
            running = Running(job, services.hub.follow(job.id, job.follows), is_queued=True, is_replayed=True)
            request.state.running = running
            return running
        raise no_response(claim.response_id, param=None)
    async with idempotency.holding(claim):
        call = replace(await make_call(), response_id=claim.response_id, keep_s=KEEP_S)
        running = await start(request, call)
    if running.is_queued:
        await idempotency.accepted(claim)
    else:
        running.events = await as_begun(idempotency.follow(claim, running.events, running.finished))
    return _begun(request, running)


def _begun(request: Request, running: Running) -> Running:
    """Let go of the body: what was queued is in redis, and may be waited for for minutes."""
    request.state.body = None
    request.state.running = running  # for the audit log, which sees what comes of it
    if running.is_queued:
        request.state.share.release_bytes()
    return running


def heed_cache_control(headers: Sequence[str], use: CacheUse) -> CacheUse:
    """Take from what the cache may do what a request's ``Cache-Control`` does not want.

    Args:
        headers: its values.
        use: what the body allows.

    Source: RFC 9111, section 5.2.1.
    """
    directives = [each.lower().partition("=") for each in parse_http_list(",".join(headers))]
    said = [(name.strip(), value.strip().strip('"')) for name, _, value in directives]
    names = {name for name, _ in said}
    use = replace(use, is_all="only-if-cached" in names)
    if "no-store" in names:
        return CacheUse(is_all=use.is_all)
    ages = [_to_age(value) for name, value in said if name == "max-age"]
    if "no-cache" in names or 0 in ages:
        return replace(use, reads=False, joins=False)
    return replace(use, max_age_s=min(ages)) if ages else use


def _to_age(text: str) -> int:
    """Return the seconds of a ``max-age``; 0 if it cannot be read, since the client wants no older answer."""
    digits = text.lstrip("0")[:_MAX_AGE_DIGITS]
    return int(digits or 0) if text.isascii() and text.isdecimal() else 0


def _idempotency_key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is None:
        return None
    if not 0 < len(key) <= MAX_KEY:
        raise BadRequestError(texts.IDEMPOTENCY_KEY_LENGTH.fill(max_key=MAX_KEY), code="invalid_idempotency_key")
    return key

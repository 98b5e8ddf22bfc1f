"""What every route does first: read the body, know the caller, know the model, build the `Call`.

In: a Starlette request. Out: validated models, owners, calls; and helpers that end work nobody waits for any more.
"""

from __future__ import annotations

import asyncio
import codecs
import io
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable
from dataclasses import replace
from typing import Any, Final, TypeVar

from fastapi import Request
from pydantic import ValidationError
from pydantic_core import from_json

from policies.features import Hints
from router.api.models import AUTO_MODEL, Target
from router.api.schemas import Hybrid, Sampling, WireModel
from router.auth import owner_of
from router.begun import as_begun
from router.call import Call
from router.dispatch import Running, check_num_chars
from router.errors import BadRequestError, BodyTooLargeError, NotFoundError
from router.fetch import UrlRefusedError, fetching_for, parse_url
from router.idempotency import KEEP_S
from router.in_flight import Share
from router.json_count import JsonCounter
from router.leftovers import end_tasks
from router.output_format import OutputFormat
from router.services import Services
from router.settings import Settings

Model = TypeVar("Model", bound=WireModel)
Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_KEY: Final = 255
# The event loop counts in milliseconds, so a timer may be early by one; then it would be set again, and again.
_TICK_S: Final = 0.002


class ClientGoneError(Exception):
    """The caller closed the connection while its answer was being made."""


def services_of(request: Request) -> Services:
    """Return the parts the application was built from."""
    services: Services = request.app.state.services
    return services


def owner(request: Request) -> str:
    """Return whom the request acts for.

    Raises:
        AuthenticationError: if keys are configured and the request has none of them.
    """
    return owner_of(request.headers, services_of(request).settings.api_keys)


async def read_body(request: Request) -> bytes:
    """Read a whole JSON body, whatever its content type says: older clients send JSON without declaring it.

    Raises:
        BodyTooLargeError: as soon as it is over the limit.
        BadRequestError: as soon as it has more parts than one request can need.
        BodyTimeoutError: if it does not arrive in time.
        TooManyInFlightError: if the caller has too many bytes in flight.
        OverloadedError: if all callers together have.
    """
    settings = services_of(request).settings
    limit, counter = settings.max_body_bytes, JsonCounter(settings.max_json_items)
    error = BodyTooLargeError(
        f"The request body is larger than {limit} bytes.", message_zh=f"请求体超过 {limit} 字节的上限。"
    )
    share: Share = request.state.share
    declared = request.headers.get("content-length", "")
    if declared.isdigit():
        if int(declared) > limit:
            raise error
        await share.hold(int(declared))
    # Grows where it is, and gives its bytes away without a copy: with pieces and then their sum, or a bytearray that a
    # parser copies, the body would be there twice.
    body = io.BytesIO()
    async for chunk in request.stream():
        if body.tell() + len(chunk) > limit:
            raise error
        counter.feed(chunk)
        await share.hold(body.tell() + len(chunk))
        body.write(chunk)
    return _to_utf8(body.getvalue())


def _to_utf8(body: bytes) -> bytes:
    """Drop a byte order mark, which editors and PowerShell put in front.

    Raises:
        BadRequestError: if the text is in another encoding than JSON's own.
    """
    encoding = json.detect_encoding(body[:4])
    if encoding == "utf-8-sig":
        return body.removeprefix(codecs.BOM_UTF8)
    if encoding != "utf-8":
        raise _not_utf8(encoding.upper())
    return body


def _not_utf8(what: str | None = None) -> BadRequestError:
    return BadRequestError(
        f"The request body is {what or 'not valid UTF-8'}; JSON is sent in UTF-8.",
        code="invalid_encoding",
        message_zh=f"请求体的编码{'为 ' + what if what else '不是有效的 UTF-8'}；JSON 须使用 UTF-8 编码。",
    )


async def parse(request: Request, model: type[Model]) -> Model:
    """Read and validate the body.

    Raises:
        pydantic.ValidationError: if it is not JSON or not of the shape.
        BodyTooLargeError: if it is over the limit.
        BadRequestError: if it has too many parts.
    """
    body = await read_body(request)
    if "idempotency-key" in request.headers:
        request.state.body = body  # compared, byte for byte, with what the key came with
    try:
        content = from_json(body)
    except ValueError:
        try:
            return model.model_validate_json(body)  # says as a field's error what is wrong, and where
        except ValidationError:
            try:
                body.decode()
            except UnicodeDecodeError:
                raise _not_utf8() from None
            raise
    # In two steps: in one, what is looked at before it is validated is copied whole, and pictures are what is large.
    validated = model.model_validate(content)
    await asyncio.sleep(0)  # thousands of turns take 50 ms to read: others have their turn before the next step
    return validated


def to_hints(request: Sampling, target: Target) -> Hints:
    """Collect what the caller said about routing."""
    hybrid = request.hybrid
    return Hints(hybrid.route, target.engine, service_tier=request.service_tier, deadline_ms=hybrid.deadline_ms)


async def timed(work: Awaitable[Result], caller: str) -> tuple[Result, float]:
    """Return what was awaited, and how many milliseconds that took; what it fetches is the caller's."""
    began = time.perf_counter()
    with fetching_for(caller):
        result = await work
    took_ms = 1000 * (time.perf_counter() - began)
    await asyncio.sleep(0)  # as in `parse`: a conversation without pictures is built in one go
    return result, took_ms


def check_format(output_format: OutputFormat | None, engine: str | None, hybrid: Hybrid, param: str) -> None:
    """Refuse what would leave the JSON to an engine that cannot be held to it.

    Raises:
        BadRequestError: if Owl2 is named, or is to have the last word.
    """
    if output_format is None:
        if hybrid.merge == "fields":
            raise BadRequestError(
                f"Only JSON answers have fields: send '{param}' or 'hybrid.template' with hybrid.merge 'fields'.",
                code="unsupported_value",
                param="hybrid.merge",
                message_zh="只有 JSON 回答才有字段：使用 hybrid.merge 'fields' 时，"
                f"请同时发送 '{param}' 或 'hybrid.template'。",
            )
        return
    if output_format.template is not None:
        param = "hybrid.template"
    if engine == "owl2":
        raise BadRequestError(
            f"mplug-owl2 cannot hold its answers to a JSON Schema: leave '{param}' out, or send model '{AUTO_MODEL}' "
            "or 'glm-4.6v-flash'.",
            code="unsupported_value",
            param=param,
            message_zh=f"mplug-owl2 不能按 JSON Schema 回答：请去掉 '{param}'，"
            f"或使用模型 '{AUTO_MODEL}'、'glm-4.6v-flash'。",
        )
    if hybrid.merge == "deep":
        raise BadRequestError(
            f"With '{param}' the final answer is not mplug-owl2's, which cannot hold it to a JSON Schema: leave "
            "'hybrid.merge' out or send 'compose' or 'fields'.",
            code="unsupported_value",
            param="hybrid.merge",
            message_zh=f"使用 '{param}' 时最终回答不能由 mplug-owl2 给出（它不能按 JSON Schema 回答）："
            "请去掉 'hybrid.merge' 或改为 'compose'、'fields'。",
        )


def check_text(messages: str | Iterable[Any], settings: Settings) -> None:
    """Refuse more text than any engine could read, before it is copied into a conversation.

    Args:
        messages: a text, or wire messages with a ``content``.
        settings: with the limit.

    Raises:
        BadRequestError: if it is longer.
    """
    contents = [messages] if isinstance(messages, str) else [getattr(each, "content", None) for each in messages]
    num_chars = 0
    for content in contents:
        texts = [content] if isinstance(content, str) else [getattr(part, "text", None) for part in content or ()]
        num_chars += sum(len(text) for text in texts if isinstance(text, str))
    check_num_chars(num_chars, settings.max_text_chars)


def webhook_url_of(metadata: dict[str, str], settings: Settings) -> str | None:
    """Return where the caller wants to be told.

    Raises:
        BadRequestError: if nothing can be posted there.
    """
    url = metadata.get("webhook_url")
    return None if url is None else check_webhook_url(url, "metadata.webhook_url", settings)


def check_webhook_url(url: str, param: str, settings: Settings) -> str:
    """Return a URL that events can be posted to; where its name leads is looked at whenever something is posted.

    Raises:
        BadRequestError: naming the field, if it is no http(s) URL or its host is not allowed.
    """
    try:
        parse_url(url, allow_private=settings.allow_private_urls)
    except UrlRefusedError:
        where, where_zh = ("", "") if settings.allow_private_urls else (" to a public host", "公网")
        raise BadRequestError(
            f"'{param}' must be an http(s) URL{where}, without a user name or password inside, "
            "such as https://example.com/hooks.",
            code="invalid_url",
            param=param,
            message_zh=f"'{param}' 必须是{where_zh} http(s) 地址，且不含用户名或密码，例如 https://example.com/hooks。",
        ) from None
    return url.strip()


async def start(request: Request, call: Call) -> Running:
    """Begin for a caller who may hang up while the call waits in an engine's line; background work goes on without one.

    Raises:
        ClientGoneError: if the caller hung up first.
        RouterError: as `Dispatcher.start` does.
    """
    dispatcher = services_of(request).dispatcher
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
            request.state.is_replayed = True
            return Running(job, services.hub.follow(job.id), is_queued=True, is_replayed=True)
        raise NotFoundError(f"No response '{claim.response_id}'.", code="response_not_found")
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
    if running.is_queued:
        request.state.share.release_bytes()
    return running


def _idempotency_key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is None:
        return None
    if not 0 < len(key) <= MAX_KEY:
        raise BadRequestError(
            f"An Idempotency-Key has 1 to {MAX_KEY} characters.",
            code="invalid_idempotency_key",
            message_zh=f"Idempotency-Key 的长度应为 1 到 {MAX_KEY} 个字符。",
        )
    return key


async def hold(request: Request, running: Running, work: Coroutine[Any, Any, Result]) -> Result:
    """Wait for an answer like `cancel_on_disconnect`; a job that only its caller waited for ends with the connection.

    Raises:
        ClientGoneError: if the caller hung up first.
    """
    try:
        return await cancel_on_disconnect(request, work)
    except (ClientGoneError, asyncio.CancelledError):
        await running.events.aclose()  # the work may have been cancelled before its first line
        if running.is_queued and not running.is_replayed:
            services_of(request).dispatcher.abandon(running.job.spec)
        raise


async def cancel_on_disconnect(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """Run ``work`` for a caller who may hang up; then it is cancelled, and with it the generation behind it.

    Raises:
        ClientGoneError: if the caller hung up first.
    """
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError
        return task.result()
    finally:
        await end_tasks(task, watch)


async def with_pings(
    items: AsyncGenerator[Item, None], interval_s: float, until: float | None = None
) -> AsyncGenerator[Item | None, None]:
    """Pass items on, and None whenever there was none for ``interval_s``: time for a keep-alive.

    Closing this closes ``items``.

    Args:
        items: to pass on.
        interval_s: longest silence.
        until: a time of `time.monotonic` at which there is a None too, if nothing comes first.
    """
    pending: asyncio.Task[Item] | None = None
    try:
        while True:
            pending = pending or asyncio.ensure_future(_next(items))
            # It may pass while an item is dealt with; then too there is a None for it.
            timeout_s = interval_s if until is None else min(interval_s, max(until - time.monotonic(), 0.0) + _TICK_S)
            done, _ = await asyncio.wait({pending}, timeout=timeout_s)
            if not done:
                if until is not None and time.monotonic() >= until:
                    until = None
                yield None
                continue
            try:
                item = pending.result()
            except StopAsyncIteration:
                return
            finally:
                pending = None
            yield item
    finally:
        if pending is not None:
            pending.cancel()
            await asyncio.gather(pending, return_exceptions=True)
        await items.aclose()


async def _next(items: AsyncGenerator[Item, None]) -> Item:
    return await anext(items)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass

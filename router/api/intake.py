"""What every route does first: read the body, know the caller, know the model, build the `Call`.

In: a Starlette request. Out: validated models, owners, calls; and helpers that end work nobody waits for any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from fastapi import Request

from policies.features import Hints
from router.api.schemas import Hybrid, WireModel
from router.auth import owner_of
from router.call import Call
from router.dispatch import Running
from router.errors import BadRequestError, BodyTooLargeError, NotFoundError
from router.health import EngineMonitor
from router.services import Services

Model = TypeVar("Model", bound=WireModel)
Item = TypeVar("Item")
Result = TypeVar("Result")

AUTO_MODEL: Final = "glowl"
# What callers may write as the model, without the suffix that says which weights are loaded.
_MODELS: Final[dict[str, str | None]] = {
    AUTO_MODEL: None,
    "auto": None,
    "glm-4.6v-flash": "glm",
    "glm-4.6v-flash-web": "glm",
    "zai-org/glm-4.6v-flash": "glm",
    "mplug-owl2": "owl2",
    "mplug-owl2-llama2-7b": "owl2",
    "mager13/mplug-owl2-llama2-7b": "owl2",
}
_VARIANTS: Final = ("-random-tiny", "-pocket", "-echo")


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
    return owner_of(request.headers.get("authorization"), services_of(request).settings.api_keys)


async def read_body(request: Request) -> bytes:
    """Read the whole body, whatever its content type says: older clients send JSON without declaring it.

    Raises:
        BodyTooLargeError: as soon as it is over the limit.
    """
    limit = services_of(request).settings.max_body_bytes
    error = BodyTooLargeError(
        f"The request body is larger than {limit} bytes.", message_zh=f"请求体超过 {limit} 字节的上限。"
    )
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise error
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise error
        chunks.append(chunk)
    return b"".join(chunks)


async def parse(request: Request, model: type[Model]) -> Model:
    """Read and validate the body.

    Raises:
        pydantic.ValidationError: if it is not JSON or not of the shape.
        BodyTooLargeError: if it is over the limit.
    """
    return model.model_validate_json(await read_body(request))


def resolve_model(name: str, monitor: EngineMonitor) -> str | None:
    """Return the engine a model name asks for; None leaves it to the policy.

    Beside the two models' names, an engine is asked for by whatever name its server lists the model under.

    Raises:
        NotFoundError: if there is no such model.
    """
    bare = name.strip().lower()
    for suffix in _VARIANTS:
        bare = bare.removesuffix(suffix)
    if bare in _MODELS:
        return _MODELS[bare]
    engine = monitor.name_of(name)
    if engine is None:
        raise NotFoundError(
            f"The model '{name}' does not exist here; use '{AUTO_MODEL}', 'glm-4.6v-flash' or 'mplug-owl2'.",
            code="model_not_found",
            param="model",
            message_zh=f"模型 '{name}' 不存在；可用 '{AUTO_MODEL}'、'glm-4.6v-flash' 或 'mplug-owl2'。",
        )
    return engine


def to_hints(model: str, hybrid: Hybrid, service_tier: str | None, monitor: EngineMonitor) -> Hints:
    """Collect what the caller said about routing."""
    return Hints(
        route=hybrid.route,
        engine=resolve_model(model, monitor),
        service_tier=service_tier,
        deadline_ms=hybrid.deadline_ms,
    )


def webhook_url_of(metadata: dict[str, str]) -> str | None:
    """Return where the caller wants to be told.

    Raises:
        BadRequestError: if it is no http(s) URL.
    """
    url = metadata.get("webhook_url")
    if url is None:
        return None
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BadRequestError(
            "metadata.webhook_url must be an http(s) URL.",
            code="invalid_url",
            param="metadata.webhook_url",
            message_zh="metadata.webhook_url 必须是 http(s) 地址。",
        )
    return url


async def start(request: Request, call: Call) -> Running:
    """Begin for a caller who may hang up while the call waits in an engine's line; background work goes on without one.

    Raises:
        ClientGoneError: if the caller hung up first.
        RouterError: as `Dispatcher.start` does.
    """
    beginning = services_of(request).dispatcher.start(call)
    return await (beginning if call.is_background else cancel_on_disconnect(request, beginning))


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
        for each in (task, watch):
            each.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def with_pings(items: AsyncGenerator[Item, None], interval_s: float) -> AsyncGenerator[Item | None, None]:
    """Pass items on, and None whenever there was none for ``interval_s``: time for a keep-alive.

    Closing this closes ``items``.
    """
    pending: asyncio.Task[Item] | None = None
    try:
        while True:
            pending = pending or asyncio.ensure_future(_next(items))
            done, _ = await asyncio.wait({pending}, timeout=interval_s)
            if not done:
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

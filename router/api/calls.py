"""From requests to calls: what is left to check once the body has its shape, then the pictures.

In: a validated body of any endpoint that asks a question. Out: the `Call` that dispatch runs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import replace
from typing import Any, Final

from engines.base import Message, SamplingParams
from policies.features import Hints
from router.api import texts
from router.api.checks import check_format, check_text, webhook_url_of
from router.api.conversation import from_chat, from_older_shape, from_responses
from router.api.earlier import answers_named, conversation_of
from router.api.formats import to_chat_format, to_responses_format
from router.api.knobs import check_metadata, to_chat_sampling, to_responses_sampling, to_thinking
from router.api.models import AUTO_MODEL, Target, resolve_model
from router.api.named_files import pictures_named
from router.api.other_fields import check_older_others, unsupported
from router.api.owned import find_response
from router.api.schemas import ChatRequest, InferenceRequest, ResponsesRequest, RouteRequest, Sampling, VisionRequest
from router.api.tools import echo_of
from router.api.truncation import without_oldest
from router.call import CacheUse, Call, from_stored_messages, stored_image_hashes
from router.errors import BadRequestError
from router.fetch import fetching_for
from router.jobs.schedule import to_priority
from router.services import Services

# Some hundred microseconds' work.
_MANY_TURNS: Final = 64
CALLER_MODEL: Final = "glm-4.6v-flash"


async def to_call(body: ChatRequest | ResponsesRequest, caller: str, services: Services) -> Call:
    """Convert a request of either OpenAI endpoint; what can be refused before a picture is fetched is refused first.

    Raises:
        RouterError: for whatever is wrong with it.
    """
    if isinstance(body, ChatRequest):
        format_param, (output_format, json_schema) = "response_format", to_chat_format(body)
        sampling = to_chat_sampling(body, json_schema)
    else:
        format_param, (output_format, json_schema) = "text.format", to_responses_format(body)
        sampling = to_responses_sampling(body, json_schema)
    metadata = check_metadata(body.metadata)
    target = resolve_model(body.model, services.monitor)
    check_format(output_format, target.engine, body.hybrid, format_param)
    if target.engine == "owl2" and sampling.tool_use is not None:
        raise _no_caller("tools")
    call = Call(
        messages=(),
        sampling=sampling,
        hints=_to_hints(body, target),
        model=body.model,
        owner=caller,
        retention_s=services.authenticator.retention_of(caller),
        strategy=body.hybrid.merge,
        metadata=metadata,
        webhook_url=webhook_url_of(metadata, services.settings),
        dial=body.hybrid.dial,
        adapter=target.adapter,
        adapter_engine=target.engine or "glm",
        keeps_base=target.is_base,
        output_format=output_format,
        wants_thinking=to_thinking(body, target.engine),
        priority=to_priority(body.service_tier),
        is_streamed=bool(body.stream),
        draft_as=body.hybrid.draft_as,
        is_captured=body.store is not False and services.capture.is_on(caller),
    )
    if isinstance(body, ChatRequest):
        return await _of_chat(call, body, services)
    return await _of_responses(call, body, services)


async def to_stored_call(body: RouteRequest, caller: str, services: Services) -> Call:
    """Return the request of a stored response, to be decided again; the bytes of its pictures are not loaded.

    Raises:
        NotFoundError: if the caller has no such response.
    """
    job = await find_response(services, str(body.response_id), caller)
    target = resolve_model(job.spec.model, services.monitor)
    stored = job.spec.messages
    return Call(
        messages=from_stored_messages(stored, dict.fromkeys(stored_image_hashes(stored), b"")),
        sampling=job.spec.sampling,
        hints=_to_hints(body, target),
        model=job.spec.model,
        owner=caller,
        dial=body.hybrid.dial,
        adapter=target.adapter,
        adapter_engine=target.engine or "glm",
        keeps_base=target.is_base,
    )


async def to_older_call(body: InferenceRequest, caller: str, services: Services, *, is_async: bool) -> Call:
    """Convert a request of one of the two older shapes.

    Args:
        body: with one picture at most.
        caller: the owner.
        services: the parts the application was built from.
        is_async: the caller gets a job instead of the answer.

    Raises:
        RouterError: for whatever is wrong with it.
    """
    check_older_others(body.model_extra or {})
    model = (body.model if isinstance(body, VisionRequest) else None) or AUTO_MODEL
    target = resolve_model(model, services.monitor)
    call = Call(
        messages=(),
        sampling=SamplingParams(max_tokens=body.max_tokens, temperature=body.temperature),
        hints=Hints(engine=target.engine),
        model=model,
        owner=caller,
        retention_s=services.authenticator.retention_of(caller),
        adapter=target.adapter,
        adapter_engine=target.engine or "glm",
        keeps_base=target.is_base,
        is_background=is_async,
        is_stored=is_async,
        is_watched=not is_async,
        is_captured=services.capture.is_on(caller),
        cache=cache_use(None, is_stored=is_async),
    )
    return await _with_messages(call, from_older_shape(body, services.media))


def cache_use(wish: bool | None, *, is_stored: bool) -> CacheUse:
    """Say what the cache may do for a request: what is not to be stored is not kept, unless that is asked for.

    Args:
        wish: ``hybrid.cache``.
        is_stored: the answer can be read again by its id.
    """
    if wish is False:
        return CacheUse()
    is_kept = wish or is_stored
    return CacheUse(reads=is_kept, writes=is_kept, joins=True)


async def _of_chat(call: Call, body: ChatRequest, services: Services) -> Call:
    check_text(body.messages, services.settings)
    is_stored = bool(body.store)
    return await _with_messages(
        call,
        from_chat(body.messages, services.media),
        is_stored=is_stored,
        is_watched=True,
        cache=cache_use(body.hybrid.cache, is_stored=is_stored),
    )


async def _of_responses(call: Call, body: ResponsesRequest, services: Services) -> Call:
    check_text(body.input, services.settings)
    earlier: tuple[Message, ...] = ()
    if body.previous_response_id:
        earlier = await conversation_of(services, body.previous_response_id, call.owner)
    answers = await answers_named(services, body.input, call.owner)
    files = await pictures_named(services, body.input, call.owner)
    loading = from_responses(body.input, body.instructions, earlier, services.media, answers, files)
    call = await _with_messages(
        call,
        loading,
        is_background=bool(body.background),
        is_stored=body.store is not False,
        is_watched=bool(body.stream or not (body.background or body.hybrid.async_ == "auto")),
        instructions=body.instructions,
        previous_response_id=body.previous_response_id,
        echo={**body.echo, **echo_of(body)},
        cache=cache_use(body.hybrid.cache, is_stored=body.store is not False),
    )
    return await without_oldest(services, call) if body.truncation == "auto" else call


def _to_hints(body: Sampling, target: Target) -> Hints:
    hybrid = body.hybrid
    return Hints(hybrid.route, target.engine, service_tier=body.service_tier, deadline_ms=hybrid.deadline_ms)


async def _with_messages(call: Call, loading: Awaitable[tuple[Message, ...]], **fields: Any) -> Call:
    """Add the conversation, how many milliseconds its pictures took, and fields; what it fetches is the caller's."""
    began = time.perf_counter()
    with fetching_for(call.owner):
        messages = await loading
    took_ms = 1000 * (time.perf_counter() - began)
    if len(messages) > _MANY_TURNS:
        await asyncio.sleep(0)  # as when a body is read: a conversation without pictures is built in one go
    call = replace(call, messages=messages, fetch_ms=took_ms, **fields)
    if call.uses_tools and call.hints.engine == "owl2":
        raise _no_caller("model")
    return call if call.sampling.tool_use is None else replace(call, cache=CacheUse())


def _no_caller(param: str) -> BadRequestError:
    """Make the refusal of functions for the engine that calls none."""
    return unsupported(param, texts.OWL2_CALLS_NOTHING.fill(auto_model=AUTO_MODEL, caller=CALLER_MODEL))

"""``POST /v1/chat/completions``: the answer at once on the fast route; on the deep route the final one if it is there
within the wait, else the draft and the id under which the final one can be read.

In: a chat request. Out: a chat completion, or its stream.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request, Response

from engines.adapter_names import model_with
from router.api.conversation import from_chat
from router.api.errors import envelope, json_response, to_refusal, wants_chinese
from router.api.intake import (
    begin,
    check_format,
    check_text,
    hold,
    owner,
    parse,
    services_of,
    timed,
    to_hints,
    webhook_url_of,
    with_pings,
)
from router.api.models import resolve_model
from router.api.objects import to_chunk, to_completion, to_hybrid, to_route_headers
from router.api.owned_stream import OwnedStream
from router.api.schemas import ChatRequest, check_metadata, to_chat_format, to_chat_sampling, to_thinking
from router.api.stream import DRAFT, SSE_DONE, SSE_HEADERS, SSE_PING, Said, answer_restarted, draft_title, sse
from router.call import Call
from router.direct import as_accepted
from router.dispatch import Running
from router.errors import EngineFailedError, NotFoundError, RouterError
from router.jobs.job import Event, FinalAnswer, Job, JobSpec, UnitResult
from router.jobs.schedule import to_priority
from router.services import Services

routes = APIRouter(tags=["chat"])

PING_S = 5.0
# Past the wait, a draft that is being written may be finished; one that pauses for longer is not being written.
_DRAFT_S = 60.0
_PAUSE_S = 3.0
# A wait of 0 asks for the draft: how long that may take to be begun.
_BEGIN_S = 15.0
_MESSAGES_ZH = {
    "deadline_exceeded": "在 hybrid.deadline_ms 规定的时间内没有得到任何回答。",
    "job_expired": "任务在允许的时间内没有完成。",
}


@routes.post("/v1/chat/completions")
async def create_chat_completion(request: Request) -> Response:
    """Answer a chat request."""
    services = services_of(request)
    caller = owner(request)
    body = await parse(request, ChatRequest)
    running = await begin(request, caller, lambda: to_call(body, caller, services))
    body = body.model_copy(update={"messages": ()})  # the pictures are not to be held as long as the answer takes
    max_wait_s = body.hybrid.max_wait_s
    wait_s = services.settings.max_wait_s if max_wait_s is None else max_wait_s
    if body.stream:
        has_usage = bool(body.stream_options and body.stream_options.include_usage)
        return OwnedStream(
            _stream(services, running, wait_s, has_usage=has_usage, is_chinese=wants_chinese(request)),
            lambda: _drop(services, running),
            {**to_route_headers(running.job), **SSE_HEADERS},
        )
    return await answer(request, running, wait_s)


async def to_call(body: ChatRequest, caller: str, services: Services) -> Call:
    """Convert a chat request.

    Raises:
        RouterError: for whatever is wrong with it.
    """
    sampling = to_chat_sampling(body)
    metadata = check_metadata(body.metadata)
    output_format, _ = to_chat_format(body)
    target = resolve_model(body.model, services.monitor)
    check_format(output_format, target.engine, body.hybrid, "response_format")
    check_text(body.messages, services.settings)
    messages, fetch_ms = await timed(from_chat(body.messages, services.media), caller)
    return Call(
        messages=messages,
        sampling=sampling,
        hints=to_hints(body, target),
        model=body.model,
        owner=caller,
        strategy=body.hybrid.merge,
        max_wait_s=body.hybrid.max_wait_s,
        is_stored=bool(body.store),
        metadata=metadata,
        webhook_url=webhook_url_of(metadata, services.settings),
        dial=body.hybrid.dial,
        adapter=target.adapter,
        output_format=output_format,
        wants_thinking=to_thinking(body, target.engine),
        priority=to_priority(body.service_tier),
        is_watched=True,
        is_streamed=bool(body.stream),
        fetch_ms=fetch_ms,
        draft_as=body.hybrid.draft_as,
    )


async def answer(request: Request, running: Running, wait_s: float, extra: Any = None) -> Response:
    """Wait for an answer and send it whole.

    Args:
        request: whose connection is watched.
        running: the job.
        wait_s: how long a job may take before its draft is sent instead.
        extra: called with the completion, returns fields to add to it.
    """
    services = services_of(request)
    job = await hold(request, running, _settle(services, running, wait_s))
    said = _shown(job)
    if said is None:
        raise to_failure(job)
    if not job.is_terminal:
        job = await services.store.locate(await _announce(services, job))
    completion = to_completion(job, said)
    if extra is not None:
        completion.update(extra(completion))
    return json_response(completion, headers=to_route_headers(job))


def to_failure(job: Job) -> RouterError:
    """Return the error that a job without an answer ended with."""
    if job.state == "cancelled":
        return EngineFailedError(
            f"The response {job.id} was cancelled.",
            status=400,
            code="response_cancelled",
            message_zh=f"响应 {job.id} 已被取消。",
        )
    error = job.error or {}
    return EngineFailedError(
        error.get("message", "no engine gave an answer"),
        status=int(error.get("status", 500)),
        code=error.get("code", "server_error"),
        param=error.get("param"),
        message_zh=_MESSAGES_ZH.get(error.get("code", "")),
        retry_after_s=1 if error.get("retryable") else None,
    )


def _shown(job: Job) -> FinalAnswer | UnitResult | None:
    """Return the final answer, or the draft while that is still to come: without one, a draft would pass for it."""
    return job.final or (None if job.is_terminal else job.draft)


async def _announce(services: Services, job: Job) -> Job:
    """Let a job be read under its id by a caller who gets the draft, and not yet the answer."""
    if job.is_announced:
        return job
    return replace(job, is_told=await services.store.tell(job.id))


async def _settle(services: Services, running: Running, wait_s: float) -> Job:
    """Return the job at its end; or, past the wait, as soon as it has at least a draft.

    Raises:
        EngineFailedError: if it has none, and is not about to.
    """
    wait = _Wait(wait_s, running.began_at)
    async with contextlib.aclosing(with_pings(running.events, PING_S, wait.until)) as events:
        async for event in events:
            if event is not None and event.kind == "end":
                break
            if running.is_queued and wait.wants_look(event):
                job = await _load(services, running)
                if job.draft is not None or job.is_terminal:
                    return job
                if wait.is_in_vain(job):
                    raise await _timed_out(services, job, wait)
    return running.finished() or await _load(services, running)


class _Wait:
    """How long a job may take.

    Args:
        wait_s: most seconds; 0 asks for the draft, however long that takes within reason.
        began_at: since when, as of `time.monotonic`.

    Attributes:
        until: likewise, when it is over.
    """

    def __init__(self, wait_s: float, began_at: float) -> None:
        self.until = began_at + wait_s
        self._began_at = began_at
        self._wait_s = wait_s
        self._looked_at = -math.inf
        self._heard_at = -math.inf

    @property
    def is_over(self) -> bool:
        """Whether a draft would do as the answer now."""
        return time.monotonic() >= self.until

    @property
    def waited_s(self) -> float:
        """How long it has been."""
        return time.monotonic() - self._began_at

    def wants_look(self, event: Event | None) -> bool:
        """Note an event of the job, or None for a silence; whether the wait is over, and a look at the job is due."""
        now = time.monotonic()
        if event is not None and event.unit == DRAFT:
            self._heard_at = now if event.kind == "delta" else -math.inf
        if now < self.until:
            return False
        is_due = event is None or event.kind == "finished" or now - self._looked_at >= PING_S
        if is_due:
            self._looked_at = now
        return is_due

    def is_in_vain(self, job: Job) -> bool:
        """Whether to give up on a job that has no draft past the wait: none is being written, or for too long."""
        now = time.monotonic()
        draft = job.units.get(DRAFT)
        is_running = draft is not None and draft.state == "in_progress"
        # A run is in progress too while its engine has said nothing, or has stopped: worth waiting for only without a
        # number to keep to.
        is_written = is_running and (self._wait_s == 0 or now - self._heard_at < _PAUSE_S)
        return now >= (self.until + _DRAFT_S if is_written else self._began_at + (self._wait_s or _BEGIN_S))


async def _timed_out(services: Services, job: Job, wait: _Wait) -> EngineFailedError:
    """Make the error of a wait without an answer; from now on the answer can be read under the job's id."""
    await _announce(services, job)
    waited_s = wait.waited_s
    return EngineFailedError(
        f"No answer within {waited_s:.0f} s. The job goes on; its answer will be at /v1/responses/{job.id}.",
        status=504,
        code="answer_timeout",
        param="hybrid.max_wait_s",
        message_zh=f"{waited_s:.0f} 秒内没有得到回答。任务仍在进行，完成后可通过 /v1/responses/{job.id} 读取。",
    )


class _Draft:
    """What a chat stream tells of the draft, before the first word of the answer.

    Clients that know ``reasoning_content`` show it as thinking, all others pass over it. A chat has no message beside
    its one answer, so ``message`` tells nothing here.

    Args:
        spec: of the job.
    """

    def __init__(self, spec: JobSpec) -> None:
        self._spec = spec
        self._runs: dict[int, Said] = {}
        self._sent: Said | None = None

    def write(self, event: Event) -> list[dict[str, Any]]:
        """Return the fields of the chunks that a piece of the draft amounts to."""
        said = self._runs.setdefault(event.epoch, Said())
        said.add(event.text, ())
        text = ""
        if self._sent is None:
            self._sent, text = Said(), draft_title(self._spec) if self._spec.draft_as == "reasoning" else ""
        elif not (said.text.startswith(self._sent.text) or self._sent.text.startswith(said.text)):
            self._sent, text = Said(), "\n\n"  # begun again in other words
        rest = said.after(self._sent)
        self._sent.add(rest.text, ())
        if not rest.text:
            return []
        if self._spec.draft_as == "reasoning":
            return [{"delta": {"reasoning_content": text + rest.text}}]
        if self._spec.draft_as == "events":
            return [{"delta": {}, "hybrid": {"type": "hybrid.draft.delta", "delta": text + rest.text}}]
        return []


async def _load(services: Services, running: Running) -> Job:
    job = await services.hub.load(running.job.id)
    if job is None:
        raise NotFoundError(
            f"No response '{running.job.id}'.",
            code="response_not_found",
            message_zh=f"没有 id 为 '{running.job.id}' 的响应。",
        )
    return job


async def _stream(
    services: Services, running: Running, wait_s: float, *, has_usage: bool, is_chinese: bool
) -> AsyncGenerator[bytes, None]:
    job = as_accepted(running.job)
    model = job.spec.model
    engine = str(job.spec.decision["engine"])
    info = services.monitor.info(engine)
    if info is not None:
        model = model_with(info.model_id, job.spec.adapter if engine == "glm" else "")
    wait = _Wait(wait_s, running.began_at)
    sent = Said()
    runs: dict[int, Said] = {}
    draft = _Draft(job.spec)

    def chunk(**fields: Any) -> bytes:
        return sse(to_chunk(job, model, has_usage=has_usage, **fields))

    is_left = True
    try:
        yield chunk(delta={"role": "assistant", "content": ""}, hybrid=to_hybrid(job))
        async with contextlib.aclosing(with_pings(running.events, PING_S, wait.until)) as events:
            async for event in events:
                if event is None:
                    yield SSE_PING
                elif event.kind == "end":
                    break
                elif event.kind == "delta" and event.unit == DRAFT and not sent.text and not wait.is_over:
                    for fields in draft.write(event):
                        yield chunk(**fields)
                elif event.kind == "delta" and event.unit == job.spec.final_unit:
                    said = runs.setdefault(event.epoch, Said())
                    said.add(event.text, event.logprobs)
                    # A run that was started again repeats itself; only what is new goes out.
                    if said.text.startswith(sent.text) and len(said.text) > len(sent.text):
                        rest = said.after(sent)
                        yield chunk(delta={"content": rest.text}, logprobs=rest.logprobs)
                        sent.add(rest.text, rest.logprobs)
                if running.is_queued and not sent.text and wait.wants_look(event):
                    job = await _load(services, running)
                    if job.draft is not None or job.is_terminal:
                        break
                    if wait.is_in_vain(job):
                        raise await _timed_out(services, job, wait)
        job = running.finished() or await _load(services, running)
        said_last = _shown(job)
        if said_last is None:
            raise to_failure(job)
        if not job.is_terminal:
            job = await _announce(services, job)
        if not said_last.text.startswith(sent.text):
            await _announce(services, job)
            raise answer_restarted(job.id)
        model = said_last.model
        rest = Said(said_last.text, said_last.logprobs).after(sent)
        if rest.text or rest.logprobs:
            yield chunk(delta={"content": rest.text}, logprobs=rest.logprobs)
        yield chunk(delta={}, finish_reason=said_last.finish_reason, hybrid=to_hybrid(job))
        if has_usage:
            yield chunk(delta=None, usage=said_last.written)
        is_left = False
    except Exception as error:  # the status is long sent: an event is the only way left to say it
        yield sse(envelope(to_refusal(error, f"the stream of {job.id}"), wants_chinese=is_chinese))
        is_left = False
    finally:
        if is_left:
            await _drop(services, running)
    yield SSE_DONE


async def _drop(services: Services, running: Running) -> None:
    """End what a stream was read from when its client is gone: a chat stream cannot be resumed."""
    await running.events.aclose()
    if running.is_queued and not running.is_replayed:
        services.dispatcher.abandon(running.job.spec)

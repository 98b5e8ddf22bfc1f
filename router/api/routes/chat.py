"""``POST /v1/chat/completions``: the answer at once on the fast route; on the deep route the final one if it is there
within the wait, else the draft and the id under which the final one can be read.

In: a chat request. Out: a chat completion, or its stream.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response

from engines.adapter_names import model_with
from router.api.begin import begin
from router.api.calls import to_call
from router.api.errors import envelope, to_refusal, wants_chinese
from router.api.failures import to_failure
from router.api.hangups import PING_S, with_pings
from router.api.intake import asking, parse, services_of
from router.api.objects import draft_title, to_chunk, to_hybrid, to_route_headers
from router.api.owned_stream import OwnedStream
from router.api.said import Runs, Said
from router.api.schemas import ChatRequest
from router.api.stream import DRAFT, SSE_DONE, SSE_HEADERS, SSE_PING, answer_restarted, sse
from router.api.waiting import Wait, announce, answer, ended, is_draft_ended, look, shown
from router.direct import as_accepted
from router.dispatch import Running
from router.jobs.job import Event, Job, JobSpec
from router.services import Services

routes = APIRouter(tags=["chat"])


@routes.post("/v1/chat/completions")
async def create_chat_completion(request: Request) -> Response:
    """Answer a chat request."""
    services = services_of(request)
    caller = asking(request).owner
    body = await parse(request, ChatRequest)
    max_wait_s = body.hybrid.max_wait_s
    wait_s = services.settings.max_wait_s if max_wait_s is None else max_wait_s
    is_streamed, has_usage = body.stream, bool(body.stream_options and body.stream_options.include_usage)
    running = await begin(request, caller, partial(to_call, body, caller, services))
    del body  # its pictures are not to be held as long as the answer takes
    if is_streamed:
        return OwnedStream(
            _stream(services, running, wait_s, has_usage=has_usage, is_chinese=wants_chinese(request)),
            lambda: _drop(services, running),
            {**to_route_headers(running.job), **SSE_HEADERS},
        )
    return await answer(request, running, wait_s)


class _Draft:
    """What a chat stream tells of the draft, before the first word of the answer.

    Clients that know ``reasoning_content`` show it as thinking, all others pass over it. A chat has no message beside
    its one answer, so ``message`` tells nothing here.

    Args:
        spec: of the job.
    """

    def __init__(self, spec: JobSpec) -> None:
        self._spec = spec
        self._runs = Runs()
        self._sent: Said | None = None

    def write(self, event: Event) -> list[dict[str, Any]]:
        """Return the fields of the chunks that a piece of the draft amounts to."""
        said = self._runs.add(event)
        text = ""
        if self._sent is None:
            self._sent, text = Said(), draft_title(self._spec) if self._spec.draft_as == "reasoning" else ""
        elif said.differs_from(self._sent):
            self._sent, text = Said(), "\n\n"  # begun again in other words
        rest = said.after(self._sent)
        self._sent.add(rest.text, rest.logprobs)
        if not rest.text:
            return []
        if self._spec.draft_as == "reasoning":
            return [{"delta": {"reasoning_content": text + rest.text}}]
        if self._spec.draft_as == "events":
            return [{"delta": {}, "hybrid": {"type": "hybrid.draft.delta", "delta": text + rest.text}}]
        return []


async def _stream(
    services: Services, running: Running, wait_s: float, *, has_usage: bool, is_chinese: bool
) -> AsyncGenerator[bytes, None]:
    job = as_accepted(running.job)
    model = job.spec.model
    engine = str(job.spec.decision["engine"])
    info = services.monitor.info(engine)
    if info is not None:
        model = model_with(info.model_id, job.spec.adapter if engine == "glm" else "")
    wait = Wait(wait_s, running.began_at)
    sent = Said()
    runs = Runs()
    draft = _Draft(job.spec)
    known: Job | None = None
    settled: Job | None = None

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
                    said = runs.add(event)
                    rest = said.after(sent)
                    if rest.text and not said.differs_from(sent):
                        yield chunk(delta={"content": rest.text}, logprobs=rest.logprobs)
                        sent.add(rest.text, rest.logprobs)
                is_due = running.is_queued and not sent.text and wait.wants_look(event)
                if is_due or is_draft_ended(running, event):
                    known, is_settled = await look(services, running, wait, known)
                    if is_settled and is_due:
                        settled = known
                        break
        job = settled or await ended(services, running, wait, known)
        said_last = shown(job)
        if said_last is None:
            raise to_failure(job)
        if not job.is_terminal:
            job = await announce(services, job)
        if not said_last.text.startswith(sent.text):
            await announce(services, job)
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

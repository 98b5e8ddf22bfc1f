"""A chat's answer while it is written, as every shape of chat stream tells it: the draft, words of the answer, its end.

In: a running answer and how long its client waits. Out: steps, which each shape writes in its own events.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Literal

from engines.adapter_names import model_with
from engines.base import TokenLogprob
from engines.tools import ToolCallDelta
from router.api.failures import to_failure
from router.api.hangups import PING_S, with_pings
from router.api.objects import draft_title
from router.api.said import Runs, Said, SaidCalls
from router.api.stream import DRAFT, answer_restarted
from router.api.waiting import Wait, announce, ended, is_draft_ended, look, shown
from router.direct import as_accepted
from router.dispatch import Running
from router.jobs.job import Event, Job, JobSpec
from router.jobs.results import FinalAnswer, UnitResult
from router.services import Services


@dataclass(frozen=True, slots=True)
class Step:
    """What there is to tell.

    Attributes:
        kind: a time for a keep-alive; a piece of the draft; a piece of the answer's text; a piece of one of its calls,
            call after call and behind the text; the end.
        text: of the piece.
        logprobs: of the tokens of a piece of the answer.
        call: the piece of a call.
        answer: at the end: the whole answer, or the draft if the final one is still to come.
    """

    kind: Literal["ping", "draft", "text", "call", "end"]
    text: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()
    call: ToolCallDelta | None = None
    answer: FinalAnswer | UnitResult | None = None


_PING = Step("ping")


class Telling:
    """One answer that is sent while it is written.

    Args:
        services: the parts the application was built from.
        running: the answer.
        wait_s: how long a job may take before its draft is told instead.

    Attributes:
        job: its record: as it was accepted, and at the end as it is then.
        model: who answers, as far as that is known.
    """

    def __init__(self, services: Services, running: Running, wait_s: float) -> None:
        self.job = as_accepted(running.job)
        self.model = _model_of(services, self.job.spec)
        self._services = services
        self._running = running
        self._wait = Wait(wait_s, running.began_at)
        self._sent = Said()
        self._calls = SaidCalls()
        self._known: Job | None = None
        self._settled: Job | None = None

    async def steps(self) -> AsyncGenerator[Step, None]:
        """Tell it; the last step is the end. Close it when the client disconnects.

        Raises:
            RouterError: if there is no answer, or other words follow than were told.
        """
        async with contextlib.aclosing(self._while_written()) as steps:
            async for step in steps:
                yield step
        services, sent = self._services, self._sent
        job = self._settled or await ended(services, self._running, self._wait, self._known)
        answer = shown(job)
        if answer is None:
            raise to_failure(job)
        if not job.is_terminal:
            job = await announce(services, job)
        rest_of_calls = self._calls.rest_of(answer.tool_calls)
        if not answer.text.startswith(sent.text) or rest_of_calls is None:
            await announce(services, job)
            raise answer_restarted(job.id)
        self.job, self.model = job, answer.model
        rest = Said(answer.text, answer.logprobs).after(sent)
        if rest.text or rest.logprobs:
            yield Step("text", rest.text, rest.logprobs)
        for piece in rest_of_calls:
            yield Step("call", call=piece)
        yield Step("end", answer=answer)

    async def _while_written(self) -> AsyncGenerator[Step, None]:
        """Tell what comes until the answer has ended, or its draft does."""
        running, wait, sent, spec = self._running, self._wait, self._sent, self.job.spec
        runs, draft = Runs(), _Draft(spec)
        async with contextlib.aclosing(with_pings(running.events, PING_S, wait.until)) as events:
            async for event in events:
                if event is None:
                    yield _PING
                elif event.kind == "end":
                    break
                elif event.kind == "delta" and event.unit == DRAFT and not sent.text and not wait.is_over:
                    if text := draft.add(event):
                        yield Step("draft", text)
                elif event.kind == "delta" and event.unit == spec.final_unit:
                    for piece in event.calls:
                        self._calls.add(piece)
                        yield Step("call", call=piece)
                    said = runs.add(event)
                    rest = said.after(sent)
                    if rest.text and not said.differs_from(sent):
                        yield Step("text", rest.text, rest.logprobs)
                        sent.add(rest.text, rest.logprobs)
                is_due = running.is_queued and not sent.text and wait.wants_look(event)
                if is_due or is_draft_ended(running, event):
                    self._known, is_settled = await look(self._services, running, wait, self._known)
                    if is_settled and is_due:
                        self._settled = self._known
                        break


class _Draft:
    """The text of a draft, before the first word of the answer: a title first, if clients show it as thinking.

    Args:
        spec: of the job.
    """

    def __init__(self, spec: JobSpec) -> None:
        self._spec = spec
        self._runs = Runs()
        self._sent: Said | None = None

    def add(self, event: Event) -> str:
        """Return what a piece of the draft adds."""
        said = self._runs.add(event)
        before = ""
        if self._sent is None:
            self._sent, before = Said(), draft_title(self._spec) if self._spec.draft_as == "reasoning" else ""
        elif said.differs_from(self._sent):
            self._sent, before = Said(), "\n\n"  # begun again in other words
        rest = said.after(self._sent)
        self._sent.add(rest.text, rest.logprobs)
        return before + rest.text if rest.text else ""


def _model_of(services: Services, spec: JobSpec) -> str:
    """Return the model that an answer was sent to, or what the caller asked for if its engine never answered."""
    engine = str(spec.decision["engine"])
    info = services.monitor.info(engine)
    return spec.model if info is None else model_with(info.model_id, spec.adapter_for(engine))


async def drop(services: Services, running: Running) -> None:
    """End what a stream was read from when its client is gone: a chat stream cannot be resumed."""
    await running.events.aclose()
    if running.is_queued and not running.is_replayed:
        services.dispatcher.abandon(running.job.spec)

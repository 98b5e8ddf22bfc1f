"""From job events to the two OpenAI streams: Responses events and chat chunks.

In: the events of a job, in order. Out: JSON-able events. Both are folds: the same job gives the same events with the
same sequence numbers however often, and from whichever process, they are read.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from engines.json_forms import to_logprobs
from engines.json_text import dump_line
from engines.tools import ToolCallDelta
from router.api import texts
from router.api.objects import (
    Items,
    draft_model,
    draft_title,
    item_id,
    message_item,
    output_text,
    passed_message,
    reasoning_item,
    to_response,
)
from router.api.said import Runs, Said
from router.api.streamed_calls import StreamedCalls
from router.call import DraftAs
from router.errors import EngineFailedError, QueueUnavailableError
from router.jobs.events import replay
from router.jobs.job import MERGE, Event, Job, Unit
from router.jobs.results import FinalAnswer

Json = dict[str, Any]

DRAFT: Final = "draft"
_PHASES: Final = {"draft": "commentary", "final": "final_answer"}


@dataclass
class _Item:
    """An output item that is being written."""

    id: str
    index: int
    kind: Literal["draft", "final"]
    title: str = ""
    said: Said = field(default_factory=Said)
    status: Literal["in_progress", "completed", "incomplete"] = "in_progress"

    @property
    def is_done(self) -> bool:
        """Whether nothing is added to it any more."""
        return self.status != "in_progress"


@dataclass
class ResponseStream:
    """Folds the events of one job into the events of the Responses API.

    At most one item is open at a time: the draft ends before the first word of the final answer, complete or
    ``incomplete``, and nothing of it follows. What carries the draft is the caller's choice, `JobSpec.draft_as`.

    A run that had to be started again usually repeats what was sent already (greedy decoding does), and then nothing is
    sent twice. If its draft says something else, the item is closed as incomplete and a new one begins. So it is with
    the final answer for a caller who reads items apart (``message``); for all others, who may join what they get, the
    stream ends with an ``error`` event instead: no joined text would be the answer.

    Args:
        job: the record; only what never changes is read from it.

    Attributes:
        is_broken: the last event was that error; nothing comes after it.
    """

    job: Job
    is_broken: bool = False
    _sequence: int = 0
    _items: list[_Item] = field(default_factory=list)
    _runs: Runs = field(default_factory=Runs)
    _is_running: bool = False
    _calls: StreamedCalls = field(default_factory=StreamedCalls)

    def begin(self) -> list[Json]:
        """Return what comes before the first event of the job."""
        return [self._lifecycle("response.created", "queued" if self.job.spec.is_background else "in_progress")]

    def feed(self, event: Event) -> list[Json]:
        """Return what one job event amounts to; may be nothing. ``end`` is for `finish`."""
        out: list[Json] = []
        if self.is_broken:
            return out
        if event.kind == "queued" and self.job.spec.is_background:
            out.append(self._lifecycle("response.queued", "queued"))
        elif event.kind == "started" and not self._is_running:
            self._is_running = True
            out.append(self._lifecycle("response.in_progress", "in_progress"))
        elif event.kind == "delta" and event.unit == self.job.spec.final_unit and event.calls:
            out.extend(self._call(event.calls))
        elif event.kind == "delta" and event.unit == self.job.spec.final_unit:
            out.extend(self._write(event, "final"))
        elif event.kind == "delta" and event.unit == DRAFT and self._shows_draft:
            out.extend(self._write(event, "draft"))
        elif event.kind == "finished" and event.unit == DRAFT:
            out.extend(self._close("draft", "completed" if event.state == "completed" else "incomplete"))
        return out

    def finish(self, job: Job) -> list[Json]:
        """Return the last events, given the record at the end: the final text is the record's, byte for byte."""
        if self.is_broken:
            return []
        out = self._close("draft", "incomplete")
        if job.final is None:
            out.extend(self._close("final", "incomplete"))
        elif not self._is_text_told(job.final):
            item = self._open_item("final")
            if item is not None and not job.final.text.startswith(item.said.text):
                out.extend(self._close("final", "incomplete"))
                if self._break_off(out):
                    return out
                item = None
            if item is None:
                item, opened = self._open("final")
                out.extend(opened)
            rest = Said(job.final.text, job.final.logprobs).after(item.said)
            if rest.text:
                out.append(self._delta(item, rest))
            else:
                item.said.add("", rest.logprobs)
            is_cut = job.final.is_cut and not job.final.tool_calls
            out.extend(self._close("final", "incomplete" if is_cut else "completed"))
        if job.final is not None and not self._finish_calls(job.final, out):
            return out
        kind = {"completed": "response.completed", "failed": "response.failed"}.get(job.state, "response.incomplete")
        out.append(self._numbered({"type": kind, "response": to_response(job, self.items)}))
        return out

    def _call(self, pieces: Sequence[ToolCallDelta]) -> list[Json]:
        """Tell pieces of calls: the words before them are whole then."""
        if not pieces:
            return []
        out = [*self._close("draft", "incomplete"), *self._close("final", "completed")]
        return [*out, *map(self._numbered, self._calls.write(self.job.id, pieces, self._num_indexed))]

    def _is_text_told(self, final: FinalAnswer) -> bool:
        """Whether there are no words to tell any more: none beside the calls, or those that came before them."""
        told = next((item.said.text for item in self._items if item.kind == "final" and item.is_done), "")
        is_closed_by_calls = len(self._calls.said) > 0
        return bool(final.tool_calls) and (not final.text or (is_closed_by_calls and told == final.text))

    def _finish_calls(self, final: FinalAnswer, out: list[Json]) -> bool:
        """Tell what is left of the calls; False if others were told, which cannot be taken back."""
        rest = self._calls.said.rest_of(final.tool_calls)
        if rest is not None:
            out.extend(self._call(rest))
        is_whole = rest is not None and not final.is_cut
        out.extend(map(self._numbered, self._calls.close("completed" if is_whole else "incomplete")))
        return rest is not None or not self._break_off(out)

    @property
    def items(self) -> Items:
        """The items that the object shows: of each kind the id that was announced last, and all in their places."""
        usual = Items.usual(self.job)
        last = {item.kind: item.id for item in self._items}
        final = last.get("final", usual.final)
        before = (
            self._to_shown(item) for item in self._items if item.id != final and self._form_of(item.kind) != "events"
        )
        return Items(last.get("draft", usual.draft), final, tuple(before))

    @property
    def _shows_draft(self) -> bool:
        """Whether the draft may still be told: not once a word of the final answer was."""
        return self.job.spec.draft_as != "none" and all(item.kind == "draft" for item in self._items)

    def _write(self, event: Event, kind: Literal["draft", "final"]) -> list[Json]:
        said = self._runs.add(event)
        out: list[Json] = []
        item = self._open_item(kind)
        if item is not None and said.differs_from(item.said):
            out.extend(self._close(kind, "incomplete"))
            if kind == "final" and self._break_off(out):
                return out
            item = None
        if item is None:
            if kind == "final":
                out.extend(self._close("draft", "incomplete"))
            item, out_opened = self._open(kind)
            out.extend(out_opened)
        rest = said.after(item.said)
        if rest.text:
            out.append(self._delta(item, rest))
        return out

    def _break_off(self, out: list[Json]) -> bool:
        """End the stream of a caller who may join what was sent with what would follow."""
        if self.job.spec.draft_as == "message" and not len(self._calls.said):
            return False
        error = answer_restarted(self.job.id)
        # In the question's language, as all readers of a stream share its bytes.
        message = error.message_zh if self.job.spec.language == "zh" else error.message
        out.append(self._numbered({"type": "error", "code": error.code, "message": message, "param": None}))
        self.is_broken = True
        return True

    def _open_item(self, kind: str) -> _Item | None:
        return next((item for item in self._items if item.kind == kind and not item.is_done), None)

    def _open(self, kind: Literal["draft", "final"]) -> tuple[_Item, list[Json]]:
        # The draft is item 0 and the final answer item 1 in every view; items begun again count on from 2.
        is_first = all(item.kind != kind for item in self._items)
        number = (0 if kind == "draft" else 1) if is_first else len(self._items) + 1
        form = self._form_of(kind)
        item = _Item(item_id(self.job.id, number, form), self._num_indexed, kind)
        self._items.append(item)
        if form == "events":
            model = draft_model(self.job.spec)
            return item, [self._numbered({"type": "hybrid.draft.added", "item_id": item.id, "model": model})]
        added = {"type": "response.output_item.added", "output_index": item.index}
        if form == "reasoning":
            item.title = draft_title(self.job.spec)
            part = {"type": "summary_text", "text": ""}
            place = _summary_place(item)
            return item, [
                self._numbered({**added, "item": reasoning_item(item.id, None, "in_progress")}),
                self._numbered({"type": "response.reasoning_summary_part.added", **place, "part": part}),
                self._numbered({"type": "response.reasoning_summary_text.delta", **place, "delta": item.title}),
            ]
        return item, [
            self._numbered({**added, "item": message_item(item.id, "", _PHASES[kind], "in_progress")}),
            self._numbered({"type": "response.content_part.added", **_place(item), "part": output_text("")}),
        ]

    @property
    def _num_indexed(self) -> int:
        """How many items have a place in the response's output."""
        return sum(self._form_of(item.kind) != "events" for item in self._items)

    def _form_of(self, kind: str) -> DraftAs:
        return "message" if kind == "final" else self.job.spec.draft_as

    def _to_shown(self, item: _Item) -> Json:
        """Return an item that is not the final answer, as the finished object lists it."""
        if self._form_of(item.kind) == "reasoning":
            return reasoning_item(item.id, item.title + item.said.text, item.status)
        return passed_message(item.id, _PHASES[item.kind], item.status)

    def _delta(self, item: _Item, rest: Said) -> Json:
        item.said.add(rest.text, rest.logprobs)
        form = self._form_of(item.kind)
        if form == "events":
            return self._numbered({"type": "hybrid.draft.delta", "item_id": item.id, "delta": rest.text})
        if form == "reasoning":
            return self._numbered(
                {"type": "response.reasoning_summary_text.delta", **_summary_place(item), "delta": rest.text}
            )
        logprobs = to_logprobs(rest.logprobs)
        return self._numbered(
            {"type": "response.output_text.delta", **_place(item), "delta": rest.text, "logprobs": logprobs}
        )

    def _close(self, kind: str, status: Literal["completed", "incomplete"]) -> list[Json]:
        item = self._open_item(kind)
        if item is None:
            return []
        item.status = status
        text, logprobs = item.said.text, item.said.logprobs
        form = self._form_of(item.kind)
        if form == "events":
            done = {"type": "hybrid.draft.done", "item_id": item.id, "text": text, "status": status}
            return [self._numbered(done)]
        item_done = {"type": "response.output_item.done", "output_index": item.index}
        if form == "reasoning":
            text = item.title + text
            place = _summary_place(item)
            summary = {"type": "summary_text", "text": text}
            return [
                self._numbered({"type": "response.reasoning_summary_text.done", **place, "text": text}),
                self._numbered({"type": "response.reasoning_summary_part.done", **place, "part": summary}),
                self._numbered({**item_done, "item": reasoning_item(item.id, text, status)}),
            ]
        part = output_text(text, logprobs)
        return [
            self._numbered(
                {"type": "response.output_text.done", **_place(item), "text": text, "logprobs": part["logprobs"]}
            ),
            self._numbered({"type": "response.content_part.done", **_place(item), "part": part}),
            self._numbered({**item_done, "item": message_item(item.id, text, _PHASES[kind], status, logprobs)}),
        ]

    def _lifecycle(self, kind: str, status: str) -> Json:
        # Built from the parts of the record that never change, so that a stream read again is the same stream.
        spec = self.job.spec
        bare = Job(
            spec=spec, state="queued", units={branch.name: Unit(branch.name, "queued") for branch in spec.branches}
        )
        return self._numbered({"type": kind, "response": {**to_response(bare), "status": status}})

    def _numbered(self, event: Json) -> Json:
        event["sequence_number"] = self._sequence
        self._sequence += 1
        return event


def _place(item: _Item) -> Json:
    return {"item_id": item.id, "output_index": item.index, "content_index": 0}


def _summary_place(item: _Item) -> Json:
    return {"item_id": item.id, "output_index": item.index, "summary_index": 0}


def answer_restarted(job_id: str) -> EngineFailedError:
    """Make the error of a stream whose answer was begun again in other words: what was sent cannot be taken back."""
    return EngineFailedError(texts.ANSWER_CHANGED.fill(job_id=job_id), status=500, code="answer_restarted")


async def to_response_events(
    job: Job, events: AsyncIterator[Event], load: Callable[[], Awaitable[Job | None]]
) -> AsyncGenerator[Json, None]:
    """Yield the Responses events of a job until it ends.

    Args:
        job: the record, in any state.
        events: of the job, from its first.
        load: reads the record at the end; None if it was deleted meanwhile.
    """
    stream = ResponseStream(job)
    for out in stream.begin():
        yield out
    async for event in events:
        if event.kind == "end":
            ended = await load()
            if ended is not None:
                for out in stream.finish(ended):
                    yield out
            return
        for out in stream.feed(event):
            yield out
        if stream.is_broken:
            return


async def find_items(job: Job, read_events: Callable[[str], Awaitable[list[Event]]]) -> Items:
    """Return what the stream of a job shows, or would show, as its items.

    Nothing but the events tells which words of a draft came before the answer, or that a run was started again and said
    something else, which makes a further item. They are read only if one of these may have happened.

    Args:
        job: the record.
        read_events: of the job with an id; none if they are gone.
    """
    if _is_usual(job):
        return Items.usual(job)
    stream = ResponseStream(job)
    try:
        events = await read_events(job.id)
    except QueueUnavailableError:  # the record is at hand, and worth more than which words its stream had told
        events = []
    for event in events or (replay(job) if job.is_terminal else []):
        stream.feed(event)
    if job.is_terminal:
        stream.finish(job)
    return stream.items


def _is_usual(job: Job) -> bool:
    """Whether the stream announced one draft and one final answer at most, as far as the record tells."""
    told = [job.units[name] for name in (DRAFT, job.spec.final_unit) if name in job.units]
    if any(unit.epoch > 1 for unit in told):
        return False
    if job.final is None or not job.is_terminal:
        return True
    if DRAFT in job.units and job.spec.draft_as in ("reasoning", "message"):
        return False
    # Otherwise somebody else than planned wrote the final answer: what was begun stands as an item of its own.
    final_unit = job.units.get(job.spec.final_unit)
    if job.spec.final_unit == MERGE:
        has_groups = any(branch.pictures for branch in job.spec.branches)
        return job.final.strategy == job.spec.strategy and not has_groups
    return final_unit is not None and final_unit.answer is not None and final_unit.answer.text == job.final.text


def sse(event: Json, *, name: str | None = None) -> bytes:
    """Write one server-sent event."""
    head = b"event: " + name.encode() + b"\n" if name else b""
    return head + b"data: " + dump_line(event) + b"\n\n"


# Proxies such as nginx would otherwise hold events back until they fill a buffer.
SSE_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
SSE_DONE = b"data: [DONE]\n\n"
SSE_PING = b": ping\n\n"

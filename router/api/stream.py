"""From job events to the two OpenAI streams: Responses events and chat chunks.

In: the events of a job, in order. Out: JSON-able events. Both are folds: the same job gives the same events with the
same sequence numbers however often, and from whichever process, they are read.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from engines.base import TokenLogprob
from engines.json_text import dump_line
from engines.wire import to_logprobs
from router.api.objects import Items, item_id, message_item, output_text, to_response
from router.jobs.events import replay
from router.jobs.job import MERGE, Event, Job, Unit

Json = dict[str, Any]


@dataclass
class Said:
    """What one run of a unit has written so far, or what of it was sent."""

    text: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()

    def add(self, text: str, logprobs: tuple[TokenLogprob, ...]) -> None:
        """Take in what came next."""
        self.text += text
        self.logprobs += logprobs

    def after(self, sent: Said) -> Said:
        """Return what is new in a text that begins with what was sent."""
        return Said(self.text[len(sent.text) :], self.logprobs[len(sent.logprobs) :])


@dataclass
class _Item:
    """An output item that is being written."""

    id: str
    index: int
    phase: str
    unit: str
    said: Said = field(default_factory=Said)
    is_done: bool = False


@dataclass
class ResponseStream:
    """Folds the events of one job into the events of the Responses API.

    A run that had to be started again usually repeats what was sent already (greedy decoding does), and then nothing is
    sent twice. If it says something else, the item is closed as incomplete and a new one begins.

    Args:
        job: the record; only what never changes is read from it.
    """

    job: Job
    _sequence: int = 0
    _items: list[_Item] = field(default_factory=list)
    _runs: dict[tuple[str, int], Said] = field(default_factory=dict)
    _is_running: bool = False

    def begin(self) -> list[Json]:
        """Return what comes before the first event of the job."""
        return [self._lifecycle("response.created", "queued" if self.job.spec.is_background else "in_progress")]

    def feed(self, event: Event) -> list[Json]:
        """Return what one job event amounts to; may be nothing. ``end`` is for `finish`."""
        out: list[Json] = []
        if event.kind == "queued" and self.job.spec.is_background:
            out.append(self._lifecycle("response.queued", "queued"))
        elif event.kind == "started" and not self._is_running:
            self._is_running = True
            out.append(self._lifecycle("response.in_progress", "in_progress"))
        elif event.kind == "delta" and event.unit in ("draft", self.job.spec.final_unit):
            out.extend(self._write(event))
        elif event.kind == "finished" and event.unit == "draft":
            out.extend(self._close("draft", "completed" if event.state == "completed" else "incomplete"))
        return out

    def finish(self, job: Job) -> list[Json]:
        """Return the last events, given the record at the end: the final text is the record's, byte for byte."""
        out = self._close("draft", "incomplete")
        final_unit = self.job.spec.final_unit
        if job.final is None:
            out.extend(self._close(final_unit, "incomplete"))
        else:
            item = self._open_item(final_unit)
            if item is not None and not job.final.text.startswith(item.said.text):
                out.extend(self._close(final_unit, "incomplete"))
                item = None
            if item is None:
                item, opened = self._open(final_unit)
                out.extend(opened)
            rest = Said(job.final.text, job.final.logprobs).after(item.said)
            if rest.text:
                out.append(self._delta(item, rest))
            else:
                item.said.add("", rest.logprobs)
            out.extend(self._close(final_unit, "incomplete" if job.final.is_cut else "completed"))
        kind = {"completed": "response.completed", "failed": "response.failed"}.get(job.state, "response.incomplete")
        out.append(self._numbered({"type": kind, "response": to_response(job, self.items)}))
        return out

    @property
    def items(self) -> Items:
        """The items that the object shows: of each kind the one that was announced last."""
        usual = Items.usual(self.job.id)
        last = {item.phase: item.id for item in self._items}
        return Items(last.get("commentary", usual.draft), last.get("final_answer", usual.final))

    def _write(self, event: Event) -> list[Json]:
        unit = event.unit
        said = self._runs.setdefault((unit, event.epoch), Said())
        said.add(event.text, event.logprobs)
        out: list[Json] = []
        item = self._open_item(unit)
        sent = item.said.text if item else ""
        if item is not None and not (said.text.startswith(sent) or sent.startswith(said.text)):
            out.extend(self._close(unit, "incomplete"))
            item = None
        if item is None:
            item, out_opened = self._open(unit)
            out.extend(out_opened)
        if len(said.text) > len(item.said.text):
            out.append(self._delta(item, said.after(item.said)))
        return out

    def _open_item(self, unit: str) -> _Item | None:
        return next((item for item in self._items if item.unit == unit and not item.is_done), None)

    def _open(self, unit: str) -> tuple[_Item, list[Json]]:
        phase = "commentary" if unit == "draft" else "final_answer"
        # The draft is item 0 and the final answer item 1 in every view; items begun again count on from 2.
        is_first = all(item.phase != phase for item in self._items)
        number = (0 if unit == "draft" else 1) if is_first else len(self._items) + 1
        item = _Item(item_id(self.job.id, number), len(self._items), phase, unit)
        self._items.append(item)
        return item, [
            self._numbered(
                {
                    "type": "response.output_item.added",
                    "output_index": item.index,
                    "item": message_item(item.id, "", phase, "in_progress"),
                }
            ),
            self._numbered({"type": "response.content_part.added", **_place(item), "part": output_text("")}),
        ]

    def _delta(self, item: _Item, rest: Said) -> Json:
        item.said.add(rest.text, rest.logprobs)
        logprobs = to_logprobs(rest.logprobs)
        return self._numbered(
            {"type": "response.output_text.delta", **_place(item), "delta": rest.text, "logprobs": logprobs}
        )

    def _close(self, unit: str, status: str) -> list[Json]:
        item = self._open_item(unit)
        if item is None:
            return []
        item.is_done = True
        text, logprobs = item.said.text, item.said.logprobs
        part = output_text(text, logprobs)
        return [
            self._numbered(
                {"type": "response.output_text.done", **_place(item), "text": text, "logprobs": part["logprobs"]}
            ),
            self._numbered({"type": "response.content_part.done", **_place(item), "part": part}),
            self._numbered(
                {
                    "type": "response.output_item.done",
                    "output_index": item.index,
                    "item": message_item(item.id, text, item.phase, status, logprobs),
                }
            ),
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


async def find_items(job: Job, load_events: Callable[[], Awaitable[list[Event]]]) -> Items:
    """Return what the stream of a job calls, or would call, its items.

    A run that was started again and said something else made the stream announce a further item; nothing but the events
    tells, so they are read if that may have happened.

    Args:
        job: the record.
        load_events: reads the events of the job; none if they are gone.
    """
    if _is_usual(job):
        return Items.usual(job.id)
    stream = ResponseStream(job)
    for event in await load_events() or (replay(job) if job.is_terminal else []):
        stream.feed(event)
    if job.is_terminal:
        stream.finish(job)
    return stream.items


def _is_usual(job: Job) -> bool:
    """Whether the stream announced one draft and one final answer at most, as far as the record tells."""
    told = [job.units[name] for name in ("draft", job.spec.final_unit) if name in job.units]
    if any(unit.epoch > 1 for unit in told):
        return False
    if job.final is None or not job.is_terminal:
        return True
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

"""Every way to merge x every way to read x everything that can happen on the way: what the caller then has.

In: api processes, a worker and redis for real, engines that can be held or broken in mid-answer, and the unmodified
openai client in a process of its own. Out: `ROWS` says how each job ends, `VIEWS` how each reader learns of it, and
`impossible` why a cell is empty. By default every row is played, and every pair of what cells are made of, but not
every cell: tests/README.md tells how to play all, and with older clients.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx
import orjson
import pytest

from engines.http.app import create_app as create_engine_app
from router.call import DraftAs
from tests.support.clients import Call, CallFailedError, ClientProcess
from tests.support.receiver import Receiver
from tests.support.servers import STARTUP_S, AppServer, paused, wait_until
from tests.support.stack import ProcessStack
from tests.support.staged import SCHEMA, Part, Script, StagedEngine, answer_of
from tests.support.whole import IS_WHOLE

pytestmark = pytest.mark.e2e

State = Literal["completed", "failed", "cancelled"]
View = Literal["stream", "poll", "webhook", "chat", "chat-stream", "chat-draft"]

# stream       a Responses stream, through the client's own helper
# poll         background, read again until it is done
# webhook      background, told by a post
# chat         a chat completion that waits for the final answer
# chat-stream  the same, streamed
# chat-draft   a chat completion that does not wait longer than for the draft
VIEWS: tuple[View, ...] = ("stream", "poll", "webhook", "chat", "chat-stream", "chat-draft")
# What carries the draft in a stream. Not every cell is played with each: `draft_as_of` deals them out.
DRAFTS: tuple[DraftAs, ...] = ("reasoning", "message", "events", "none")


@dataclass(frozen=True)
class Strategy:
    """How a question is asked, and who then works on it.

    Attributes:
        parts: who is asked, whoever has the last word before any composing at `main`.
        main: the part that is final if nothing goes wrong and nothing is composed.
        preset: of the api that is asked.
        model: named by the caller.
        hybrid: the caller's options.
        has_draft: GLM's first answer is shown while the job runs.
        prose: the parts of Owl2 that answer in prose although they were asked for JSON; None if nobody was.
        is_job: a worker does it, however it is read.
    """

    parts: tuple[Part, ...]
    main: Part
    preset: str = "seed"
    model: str = "glowl"
    hybrid: dict[str, Any] = field(default_factory=dict)
    has_draft: bool = True
    is_job: bool = True
    prose: tuple[Part, ...] | None = None

    @property
    def is_json(self) -> bool:
        return self.prose is not None

    @property
    def last(self) -> Part | None:
        """Who writes what is streamed as the final answer; nobody does what is merged by field."""
        return "compose" if "compose" in self.parts else None if self.is_json else self.main


FIELDS = {"route": "deep", "merge": "fields"}
STRATEGIES: dict[str, Strategy] = {
    # GLM's answer at once, without a job unless it is asked for in the background.
    "fast": Strategy(("draft",), "draft", hybrid={"route": "fast"}, has_draft=False, is_job=False),
    # Owl2 by its name: nobody else is asked.
    "single": Strategy(("deep",), "deep", model="mplug-owl2", has_draft=False),
    "deep": Strategy(("draft", "deep"), "deep", hybrid={"route": "deep", "merge": "deep"}),
    "compose": Strategy(("draft", "deep", "compose"), "deep", hybrid={"route": "deep", "merge": "compose"}),
    # JSON of both, merged field by field: as Owl2 wrote it, as it wrote it when told what was wrong, or not at all.
    "fields": Strategy(("draft", "deep"), "deep", hybrid=FIELDS, prose=()),
    "fields-repaired": Strategy(("draft", "deep", "repair"), "deep", hybrid=FIELDS, prose=("deep",)),
    "fields-prose": Strategy(("draft", "deep", "repair", "compose"), "deep", hybrid=FIELDS, prose=("deep", "repair")),
    "thinking": Strategy(("draft", "thinking"), "thinking", preset="glm-thinking", hybrid={"route": "deep"}),
    "panel": Strategy(("draft", "thinking", "deep"), "deep", preset="panel", hybrid={"route": "deep"}),
}


@dataclass(frozen=True)
class Happening:
    """What happens on the way.

    Attributes:
        fails: parts that fail after so many words.
        cancelled_in: somebody cancels while this part answers, or while the job waits in the queue.
        is_gone: whoever reads hangs up in mid-answer.
    """

    fails: dict[Part, int] = field(default_factory=dict)
    cancelled_in: Part | Literal["queue"] | None = None
    is_gone: bool = False


HAPPENINGS: dict[str, Happening] = {
    "all fine": Happening(),
    "draft failed": Happening({"draft": 0}),
    "draft broke off": Happening({"draft": 2}),
    "thinking failed": Happening({"thinking": 0}),
    "deep failed": Happening({"deep": 0}),
    "deep broke off": Happening({"deep": 2}),
    "repair failed": Happening({"repair": 0}),
    "compose failed": Happening({"compose": 0}),
    "compose broke off": Happening({"compose": 2}),
    "all failed": Happening({"draft": 0, "thinking": 0, "deep": 0, "compose": 0}),
    "cancelled in queue": Happening(cancelled_in="queue"),
    "cancelled in draft": Happening(cancelled_in="draft"),
    "cancelled in thinking": Happening(cancelled_in="thinking"),
    "cancelled in deep": Happening(cancelled_in="deep"),
    "cancelled in repair": Happening(cancelled_in="repair"),
    "cancelled in compose": Happening(cancelled_in="compose"),
    "client gone": Happening(is_gone=True),
}


@dataclass(frozen=True)
class Row:
    """How a job ends, whoever reads it.

    Attributes:
        strategy, happening: keys of the tables above.
        state: of the response.
        final: the part whose words are the final answer; None if there is none.
        merge: what ``hybrid.merge`` calls that.
        draft: the draft is under ``hybrid.draft``.
        degraded: what ``hybrid.degraded`` says: of parts, that they broke; else, these words.
    """

    strategy: str
    happening: str
    state: State
    final: Part | None = None
    merge: str = ""
    draft: bool = False
    degraded: tuple[str, ...] = ()


REPAIRED = "was repaired"
NO_JSON = "owl2 wrote no JSON that satisfies the schema"
ROWS: tuple[Row, ...] = (
    Row("fast", "all fine", "completed", "draft", "single"),
    Row("fast", "all failed", "failed"),
    Row("fast", "cancelled in queue", "cancelled"),
    Row("fast", "cancelled in draft", "cancelled"),
    Row("fast", "client gone", "completed", "draft", "single"),  # as a job; without one it stops
    Row("single", "all fine", "completed", "deep", "single"),
    Row("single", "all failed", "failed"),
    Row("single", "cancelled in queue", "cancelled"),
    Row("single", "cancelled in deep", "cancelled"),
    Row("single", "client gone", "completed", "deep", "single"),
    Row("deep", "all fine", "completed", "deep", "deep", draft=True),
    Row("deep", "draft failed", "completed", "deep", "deep", degraded=("draft",)),
    Row("deep", "draft broke off", "completed", "deep", "deep", degraded=("draft",)),
    Row("deep", "deep failed", "completed", "draft", "draft", draft=True, degraded=("deep",)),
    Row("deep", "deep broke off", "completed", "draft", "draft", draft=True, degraded=("deep",)),
    Row("deep", "all failed", "failed"),
    Row("deep", "cancelled in queue", "cancelled"),
    Row("deep", "cancelled in draft", "cancelled"),
    Row("deep", "cancelled in deep", "cancelled", draft=True),
    Row("deep", "client gone", "completed", "deep", "deep", draft=True),
    Row("compose", "all fine", "completed", "compose", "compose", draft=True),
    Row("compose", "draft failed", "completed", "deep", "deep", degraded=("draft",)),
    Row("compose", "draft broke off", "completed", "deep", "deep", degraded=("draft",)),
    Row("compose", "deep failed", "completed", "draft", "draft", draft=True, degraded=("deep",)),
    Row("compose", "deep broke off", "completed", "draft", "draft", draft=True, degraded=("deep",)),
    Row("compose", "compose failed", "completed", "deep", "deep", draft=True, degraded=("compose",)),
    Row("compose", "compose broke off", "completed", "deep", "deep", draft=True, degraded=("compose",)),
    Row("compose", "all failed", "failed"),
    Row("compose", "cancelled in queue", "cancelled"),
    Row("compose", "cancelled in draft", "cancelled"),
    Row("compose", "cancelled in deep", "cancelled", draft=True),
    Row("compose", "cancelled in compose", "cancelled", draft=True),
    Row("compose", "client gone", "completed", "compose", "compose", draft=True),
    Row("fields", "all fine", "completed", "fields", "fields", draft=True),
    Row("fields", "draft failed", "completed", "deep", "deep", degraded=("draft",)),
    Row("fields", "draft broke off", "completed", "deep", "deep", degraded=("draft",)),
    Row("fields", "deep failed", "completed", "draft", "draft", draft=True, degraded=("deep",)),
    Row("fields", "deep broke off", "completed", "draft", "draft", draft=True, degraded=("deep",)),
    Row("fields", "all failed", "failed"),
    Row("fields", "cancelled in queue", "cancelled"),
    Row("fields", "cancelled in draft", "cancelled"),
    Row("fields", "cancelled in deep", "cancelled", draft=True),
    Row("fields", "client gone", "completed", "fields", "fields", draft=True),
    Row("fields-repaired", "all fine", "completed", "fields", "fields", draft=True, degraded=(REPAIRED,)),
    Row("fields-repaired", "repair failed", "completed", "compose", "compose", draft=True, degraded=(NO_JSON,)),
    Row("fields-repaired", "cancelled in repair", "cancelled", draft=True),
    Row("fields-prose", "all fine", "completed", "compose", "compose", draft=True, degraded=(NO_JSON,)),
    Row("fields-prose", "draft failed", "completed", "compose", "compose", degraded=("draft", NO_JSON)),
    Row("fields-prose", "compose failed", "completed", "draft", "draft", draft=True, degraded=(NO_JSON, "compose")),
    Row("fields-prose", "compose broke off", "completed", "draft", "draft", draft=True, degraded=(NO_JSON, "compose")),
    Row("fields-prose", "cancelled in compose", "cancelled", draft=True),
    Row("thinking", "all fine", "completed", "thinking", "deep", draft=True),
    Row("thinking", "draft failed", "completed", "thinking", "deep", degraded=("draft",)),
    Row("thinking", "draft broke off", "completed", "thinking", "deep", degraded=("draft",)),
    Row("thinking", "thinking failed", "completed", "draft", "draft", draft=True, degraded=("thinking",)),
    Row("thinking", "all failed", "failed"),
    Row("thinking", "cancelled in queue", "cancelled"),
    Row("thinking", "cancelled in draft", "cancelled"),
    Row("thinking", "cancelled in thinking", "cancelled", draft=True),
    Row("thinking", "client gone", "completed", "thinking", "deep", draft=True),
    Row("panel", "all fine", "completed", "deep", "deep", draft=True),
    Row("panel", "draft failed", "completed", "deep", "deep", degraded=("draft",)),
    Row("panel", "draft broke off", "completed", "deep", "deep", degraded=("draft",)),
    Row("panel", "thinking failed", "completed", "deep", "deep", draft=True, degraded=("thinking",)),
    Row("panel", "deep failed", "completed", "thinking", "thinking", draft=True, degraded=("deep",)),
    Row("panel", "deep broke off", "completed", "thinking", "thinking", draft=True, degraded=("deep",)),
    Row("panel", "all failed", "failed"),
    Row("panel", "cancelled in queue", "cancelled"),
    Row("panel", "cancelled in draft", "cancelled"),
    Row("panel", "cancelled in thinking", "cancelled", draft=True),
    Row("panel", "cancelled in deep", "cancelled", draft=True),
    Row("panel", "client gone", "completed", "deep", "deep", draft=True),
)


def impossible(strategy_name: str, happening_name: str, view: View | None = None) -> str | None:
    """Return why there is no such row; or, with a view, no such cell."""
    strategy, happening = STRATEGIES[strategy_name], HAPPENINGS[happening_name]
    parts = set(happening.fails) if happening_name != "all failed" else set()
    if happening.cancelled_in and happening.cancelled_in != "queue":
        parts.add(happening.cancelled_in)
    if missing := parts - set(strategy.parts):
        return f"{strategy_name} has no {min(missing)}"
    if parts and happening.fails and len(strategy.parts) == 1:
        return "its only part failing is 'all failed'"
    only = {"fields-repaired": ("all fine", "repair failed", "cancelled in repair")}
    only["fields-prose"] = (*(name for name in HAPPENINGS if "compose" in name), "all fine", "draft failed")
    if happening_name not in only.get(strategy_name, HAPPENINGS):
        return "as in 'fields': only how Owl2's answer gets its form differs"
    if view == "chat-draft" and not strategy.has_draft:
        return "no draft is made, so it waits for the final answer like 'chat'"
    if view == "chat-draft" and happening.is_gone:
        return "it has its answer when it leaves, as always: that is 'all fine'"
    if view in ("stream", "chat", "chat-stream") and not strategy.is_job and happening.cancelled_in:
        return "an answer without a job has no record yet that could be cancelled: hanging up ends it"
    return None


def draft_as_of(row: Row, view: View) -> DraftAs:
    """Return what carries the draft in a cell: each of them meets every view, strategy and happening."""
    return DRAFTS[(ROWS.index(row) + VIEWS.index(view)) % len(DRAFTS)]


Cell = tuple[Row, View]
CELLS: list[Cell] = [
    (row, view) for row in ROWS for view in VIEWS if impossible(row.strategy, row.happening, view) is None
]


def pairs_of(row: Row, view: View) -> set[tuple[str, str]]:
    """Return every pair of what a cell is made of."""
    made_of = (row.strategy, row.happening, view, f"draft as {draft_as_of(row, view)}")
    return set(itertools.combinations(made_of, 2))


def with_every_pair(cells: list[Cell]) -> list[Cell]:
    """Return so few cells that each pair of what cells are made of is in one; so each row is, too."""
    met: set[tuple[str, str]] = set()
    chosen: set[Cell] = set()
    for num_new in range(6, 0, -1):
        for cell in cells:
            if len(pairs_of(*cell) - met) >= num_new:
                met |= pairs_of(*cell)
                chosen.add(cell)
    return [cell for cell in cells if cell in chosen]


class Stack(ProcessStack):
    """One api per preset, one worker; the engines here, where they can be held."""

    presets = ("seed", "glm-thinking", "panel")

    def __init__(self) -> None:
        super().__init__(num_apis=len(self.presets), env={"GLOWL_MAX_ATTEMPTS": "1", "GLOWL_WEBHOOK_DELAYS_S": "0.2"})
        self.scripts: dict[str, Script] = {}
        self.engines = {name: StagedEngine(name, self.scripts) for name in ("glm", "owl2")}
        self._servers = [
            AppServer(create_engine_app(engine), uds=str(self.dir / f"{name}.sock"))
            for name, engine in self.engines.items()
        ]
        apis = [f"api{index}" for index in range(len(self.presets))]
        self.start("redis", "worker0")
        for api, preset in zip(apis, self.presets, strict=True):
            self.start(api, env={"GLOWL_PRESET": preset})
        self.wait_ready()
        self.client = ClientProcess(self.dir / "client.log")
        self.receiver = Receiver()

    def url_of(self, preset: str) -> str:
        return self.urls[self.presets.index(preset)]

    @contextlib.contextmanager
    def paused_worker(self) -> Iterator[None]:
        """Let jobs wait in the queue."""
        process = self.processes["worker0"].child.pid
        with paused(process):
            yield

    def stop(self) -> None:
        self.client.stop()
        self.receiver.stop()
        for server in self._servers:
            server.stop()
        super().stop()


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    stack = Stack()
    yield stack
    stack.stop()


@dataclass
class Play:
    """One cell while it is played."""

    stack: Stack
    row: Row
    view: View
    marker: str

    def __post_init__(self) -> None:
        self.strategy = STRATEGIES[self.row.strategy]
        self.happening = HAPPENINGS[self.row.happening]
        self.url = self.stack.url_of(self.strategy.preset)
        self.draft_as = draft_as_of(self.row, self.view) if self.row in ROWS else "reasoning"
        self.question = f"{self.marker}: which of the two is larger, and how do you know?"
        failing = {part: words for part, words in self.happening.fails.items() if part in self.strategy.parts}
        if self.row.happening == "all failed":
            failing = dict(self.happening.fails)  # also Owl2, which is asked if GLM fails at a direct answer
        main, stage = self.strategy.main, self.happening.cancelled_in
        if stage is not None:  # whoever comes later, or at the same time, waits as well
            parts = self.strategy.parts
            held: dict[Part, int] = dict.fromkeys(parts[0 if stage == "queue" else parts.index(stage) :], 2)
        else:
            held = {main: failing.get(main, 2)}
        in_json = {"deep", "repair"} - set(self.strategy.prose) if self.strategy.prose is not None else ()
        self.script = Script(held, failing, in_json)
        self.stack.scripts[self.marker] = self.script

    @property
    def is_job(self) -> bool:
        return self.strategy.is_job or self.view in ("poll", "webhook")

    @property
    def draft_text(self) -> str:
        """What the job shows as its draft once that has ended; empty if there is none."""
        is_begun = self.strategy.has_draft and self.happening.cancelled_in not in ("queue", "draft")
        return self.answer_of("draft") if is_begun and "draft" not in self.happening.fails else ""

    @property
    def final_text(self) -> str:
        return self.answer_of(self.row.final) if self.row.final else ""

    def answer_of(self, part: Part) -> str:
        return answer_of(part, self.marker, is_json=self.strategy.is_json)

    def do(self, what: str, **args: Any) -> Any:
        return self.stack.client.do(what, self.url, **args)

    def begin(self) -> Call:
        hybrid = {**self.strategy.hybrid, "draft": self.draft_as}
        asked: dict[str, Any] = {"model": self.strategy.model, "extra_body": {"hybrid": hybrid}}
        if self.view.startswith("chat"):
            asked["store"] = True
            asked["messages"] = [{"role": "user", "content": self.question}]
            if self.strategy.is_json:
                named = {"name": "answer", "schema": SCHEMA, "strict": True}
                asked["response_format"] = {"type": "json_schema", "json_schema": named}
            if self.view == "chat-draft":
                asked["extra_body"]["hybrid"]["max_wait_s"] = 0
            return self.stack.client.begin(self.view.replace("-", "_").replace("_draft", ""), self.url, **asked)
        asked["input"] = self.question
        if self.strategy.is_json:
            asked["text"] = {"format": {"type": "json_schema", "name": "answer", "schema": SCHEMA, "strict": True}}
        if self.view == "webhook":
            asked["metadata"] = {"webhook_url": self.stack.receiver.url}
        if self.view == "stream":
            return self.stack.client.begin("stream", self.url, **asked)
        if self.happening.is_gone:  # who only polls has no connection that could break, except right at the beginning
            return self.stack.client.begin("stream", self.url, background=True, **asked)
        return self.stack.client.begin("create", self.url, background=True, **asked)

    def id_of(self, call: Call) -> str:
        """Return the response's id as soon as this reader can know it."""
        if self.view in ("stream", "poll", "webhook"):
            if self.view == "stream" or self.happening.is_gone:
                created = call.until(lambda event: event["type"] == "response.created")
                return str(created["response"]["id"])
            return str(call.result()["object"]["id"])
        if self.view == "chat-stream":
            return str(call.until(lambda chunk: "hybrid" in chunk)["hybrid"]["response_id"])

        def look() -> str | None:
            with httpx.Client(base_url=self.url, trust_env=False) as http:
                newest = http.get("/v1/jobs", params={"limit": 1}).json()["data"]
            return newest[0]["id"] if newest and newest[0]["question"] == self.question else None

        return str(wait_until(look, "the job of a chat"))

    def wait_for_stage(self, response_id: str) -> None:
        """Wait until everybody who is to wait does, and everybody else has ended."""
        for part, gate in self.script.gates.items():
            if part not in ("repair", "compose") or self.happening.cancelled_in == part:
                assert gate.reached.wait(STARTUP_S), f"{part} was not asked: {self.script.asked}"
        others = {"draft", "thinking"} - set(self.script.gates)

        def is_reached() -> bool:
            branches = self.do("retrieve", response_id=response_id)["object"]["hybrid"]["branches"]
            return all(each["state"] in ("completed", "failed") for each in branches if each["name"] in others)

        if others & set(self.strategy.parts):
            wait_until(is_reached, f"the end of {others}")

    def check_running(self, response_id: str) -> None:
        """While it runs, a poll shows the draft as soon as it is whole, and nothing of the final answer."""
        shown = self.do("retrieve", response_id=response_id)
        assert shown["object"]["status"] == "in_progress"
        assert shown["output_text"] == self.draft_text
        assert [item["phase"] for item in shown["object"]["output"]] == ["commentary"] * bool(self.draft_text)
        hybrid = shown["object"]["hybrid"]
        assert hybrid["stage"] == ("draft" if self.draft_text else None)
        assert hybrid.get("draft", {}).get("text", "") == self.draft_text

    def play(self) -> tuple[str, Call]:
        """Ask, let happen what happens, and return the id and the call."""
        stage = self.happening.cancelled_in
        with self.stack.paused_worker() if stage == "queue" else contextlib.nullcontext():
            call = self.begin()
            has_id = self.is_job or (self.view == "stream" and not self.happening.fails)
            response_id = self.id_of(call) if has_id else ""
            if stage == "queue":
                branches = self.do("retrieve", response_id=response_id)["object"]["hybrid"]["branches"]
                assert branches[-1]["state"] == "queued"  # the draft of somebody who waits needs no worker
                assert self.do("cancel", response_id=response_id)["object"]["status"] == "cancelled"
        if stage == "queue":
            pass  # nobody gets any further
        elif self.is_job:
            self.wait_for_stage(response_id)
            self.check_running(response_id)
        else:
            assert self.script.gates[self.strategy.main].reached.wait(STARTUP_S)
        if self.view == "chat-draft" and self.draft_text:
            call.result()  # it does not wait for what is still held
        if stage not in (None, "queue"):
            cancelled = self.do("cancel", response_id=response_id)
            assert (cancelled["object"]["status"], cancelled["output_text"]) == ("cancelled", "")
        if self.happening.is_gone:
            call.hang_up()
        if stage is not None or (self.happening.is_gone and not self.is_job):
            wait_until(lambda: not self.script.running, "the engines to be free")  # although the gates are closed
        self.script.open_all()
        return response_id, call

    def check_record(self, response_id: str, shown: Any = None) -> None:
        """Who reads it again, whole or as a stream, finds the same.

        Args:
            response_id: of the job.
            shown: what whoever read it first got at the end under ``hybrid``.
        """
        told = self.stack.client.begin("replay", self.url, response_id=response_id)
        at_the_end = told.result()
        self.check_events(told.events)
        found = self.do("retrieve", response_id=response_id)
        self.check_response(found)
        assert at_the_end == (found if told.events[-1]["type"] != "error" else None)
        assert shown in (None, found["object"]["hybrid"])

    def check_response(self, shown: Any) -> None:
        response, hybrid = shown["object"], shown["object"]["hybrid"]
        assert response["status"] == self.row.state
        assert shown["output_text"] == self.final_text
        assert [item.get("phase") for item in response["output"][-1:]] == ["final_answer"] * bool(self.row.final)
        assert hybrid["stage"] == ("final" if self.row.final else None)
        draft = self.answer_of("draft") if self.row.draft else ""
        assert hybrid.get("draft", {}).get("text", "") == draft
        if self.row.final:
            assert hybrid["merge"] == self.row.merge
        said = hybrid["degraded"]
        assert len(said) == len(self.row.degraded), said
        for wanted in self.row.degraded:
            words = f"the {wanted} broke" if wanted in self.strategy.parts else wanted
            assert any(words in sentence for sentence in said), said
        if self.row.final == "fields":
            assert hybrid["provenance"] == {"/side": "owl2", "/count": "agree", "/said": "glm"}
        if self.row.state == "failed":
            assert response["error"]["message"] == f"the {self.strategy.main} broke"
        else:
            assert response["error"] is None

    def failed_parts(self, message: str) -> bool:
        """Whether a message names who failed: the main part, or Owl2 in place of a direct answer."""
        parts = (self.strategy.main,) if self.strategy.is_job else (self.strategy.main, "deep")
        return any(f"the {part} broke" in message for part in parts)

    @property
    def is_broken(self) -> bool:
        """Whoever writes the answer broke in the middle of it, and somebody else wrote another one."""
        return bool(self.row.final and self.strategy.last and self.happening.fails.get(self.strategy.last))

    def check_events(self, events: list[Any]) -> None:
        """The stream tells of a draft, then of a final answer, and how it ended."""
        numbers = [event["sequence_number"] for event in events]
        assert numbers == list(range(len(events)))
        assert events[0]["type"] == "response.created"
        self.check_items(events)
        joined = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
        if self.is_broken and self.draft_as != "message":
            # What was sent cannot be taken back from a client that joins what it gets.
            assert (events[-1]["type"], events[-1]["code"]) == ("error", "answer_restarted")
            return
        ends = {"completed": "response.completed", "failed": "response.failed", "cancelled": "response.incomplete"}
        assert events[-1]["type"] == ends[self.row.state]
        self.check_response({"object": events[-1]["response"], "output_text": _text_of(events[-1]["response"])})
        items = [event["item"] for event in events if event["type"] == "response.output_item.done"]
        finals = [item for item in items if item.get("phase") == "final_answer"]
        if not self.row.final:
            assert all(item["status"] == "incomplete" for item in finals)
            return
        item = finals[-1]
        deltas = [
            event["delta"]
            for event in events
            if event["type"] == "response.output_text.delta" and event["item_id"] == item["id"]
        ]
        assert item["status"] == "completed"
        assert [each["id"] for each in items] == [each["id"] for each in events[-1]["response"]["output"]]
        assert "".join(deltas) == _text_of({"output": [item]}) == self.final_text
        assert all(other["status"] == "incomplete" for other in finals[:-1])
        assert self.draft_as == "message" or joined == self.final_text

    def check_items(self, events: list[Any]) -> None:
        """One item after the other, and the draft, as it was asked for, before the answer."""
        opened: list[str] = []
        told: list[str] = []
        draft = ""
        for event in events:
            kind, item = event["type"], event.get("item", {})
            if kind in ("response.output_item.added", "hybrid.draft.added"):
                assert not opened
                opened.append(item.get("id") or event["item_id"])
                told.append(item.get("phase", "final_answer") if item.get("type") == "message" else kind)
            elif kind in ("response.output_item.done", "hybrid.draft.done"):
                assert opened.pop() == (item.get("id") or event["item_id"])
                if item.get("type") == "reasoning":
                    draft = item["summary"][0]["text"].partition("\n\n")[2]
                elif item.get("phase") == "commentary":
                    draft = _text_of({"output": [item]})
                elif kind == "hybrid.draft.done":
                    draft = event["text"]
        assert not opened
        ways = {"reasoning": "response.output_item.added", "message": "commentary", "events": "hybrid.draft.added"}
        assert told in (["final_answer"] * n for n in range(3)) or told[0] == ways.get(self.draft_as)
        assert told[1:] == ["final_answer"] * len(told[1:])
        assert self.answer_of("draft").startswith(draft)


def _text_of(response: Any) -> str:
    return "".join(part["text"] for item in response["output"] for part in item.get("content", ()))


def check_stream(play: Play, response_id: str, call: Call) -> Any:
    result = call.result()
    if play.row.state == "failed" and not play.is_job:
        # Owl2 was asked instead, as a job, and failed too.
        assert (result["object"]["status"], result["output_text"]) == ("failed", "")
        assert play.failed_parts(result["object"]["error"]["message"])
        return None
    play.check_events(call.events)
    if result is None:
        return None
    play.check_response(result)
    return result["object"]["hybrid"]


def check_poll(play: Play, response_id: str, call: Call) -> Any:
    """Do nothing: `Play.check_record` polls, whichever way the answer was asked for."""


def check_webhook(play: Play, response_id: str, call: Call) -> Any:
    headers, body = play.stack.receiver.next()
    secret = httpx.post(f"{play.url}/v1/webhook_secret", trust_env=False).json()["signing_secret"]
    event = play.do("unwrap", payload=body.decode(), headers=headers, secret=secret)
    told = orjson.loads(body)
    assert told == {
        "id": headers["webhook-id"],
        "object": "event",
        "created_at": told["created_at"],
        "type": f"response.{play.row.state}",
        "data": {"id": response_id},
    }
    assert event == {"object": told, "class": f"Response{play.row.state.title()}WebhookEvent"}


def check_chat(play: Play, response_id: str, call: Call) -> Any:
    if play.row.final is None:
        return check_refusal(play, call)
    completion = call.result()["object"]
    choice = completion["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (play.final_text, "stop")
    assert completion["hybrid"]["stage"] == "final"
    check_same_job(completion, response_id)
    return completion["hybrid"]


def check_chat_stream(play: Play, response_id: str, call: Call) -> Any:
    if play.row.final is None:
        return check_refusal(play, call)
    if play.is_broken:
        # What was sent cannot be taken back, so the final answer has to be read elsewhere.
        with pytest.raises(CallFailedError, match=f"read it as /v1/responses/{response_id}"):
            call.result()
        return None
    call.result()
    deltas = [chunk["choices"][0]["delta"] for chunk in call.events]
    assert "".join(delta.get("content") or "" for delta in deltas) == play.final_text
    thoughts = "".join(delta.get("reasoning_content") or "" for delta in deltas).partition("\n\n")[2]
    assert play.answer_of("draft").startswith(thoughts)
    assert play.draft_as == "reasoning" or not thoughts
    last = call.events[-1]
    assert (last["choices"][0]["finish_reason"], last["hybrid"]["stage"]) == ("stop", "final")
    assert len({chunk["id"] for chunk in call.events}) == 1
    check_same_job(last, response_id)
    return last["hybrid"]


def check_chat_draft(play: Play, response_id: str, call: Call) -> Any:
    if not play.draft_text:
        return check_chat(play, response_id, call)
    completion = call.result()["object"]
    choice = completion["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (play.draft_text, "stop")
    assert completion["hybrid"]["stage"] == "draft"
    check_same_job(completion, response_id)
    return None


def check_same_job(completion: Any, response_id: str) -> None:
    assert completion["id"].removeprefix("chatcmpl-") == completion["hybrid"]["response_id"].removeprefix("resp_")
    assert response_id in ("", completion["hybrid"]["response_id"])


def check_refusal(play: Play, call: Call) -> None:
    """Without an answer the client raises, and says why."""
    with pytest.raises(CallFailedError) as caught:
        call.result()
    code = {"failed": "generation_failed", "cancelled": "response_cancelled"}[play.row.state]
    assert caught.value.code == code
    if play.row.state == "failed":
        assert play.failed_parts(str(caught.value))


# Each returns what the reader got under ``hybrid`` at the end of the job, if it got that.
CHECKS: dict[View, Callable[[Play, str, Call], Any]] = {
    "stream": check_stream,
    "poll": check_poll,
    "webhook": check_webhook,
    "chat": check_chat,
    "chat-stream": check_chat_stream,
    "chat-draft": check_chat_draft,
}


def test_every_row_is_there_or_impossible_for_a_reason() -> None:
    listed = [(row.strategy, row.happening) for row in ROWS]

    possible = [pair for pair in itertools.product(STRATEGIES, HAPPENINGS) if impossible(*pair) is None]

    assert len(set(listed)) == len(listed)
    assert sorted(listed) == sorted(possible)


def test_every_pair_that_is_possible_is_played() -> None:
    played = with_every_pair(CELLS)
    met = set().union(*(pairs_of(*cell) for cell in played))

    assert {row for row, _ in played} == set(ROWS)
    assert met == set().union(*(pairs_of(*cell) for cell in CELLS))
    # And every way to carry the draft meets everything else
    ways = [f"draft as {draft_as}" for draft_as in DRAFTS]
    for way, other in itertools.product(ways, (*STRATEGIES, *HAPPENINGS, *VIEWS)):
        assert (other, way) in met


@pytest.mark.parametrize(
    ("row", "view"),
    CELLS if IS_WHOLE else with_every_pair(CELLS),
    ids=lambda value: f"{value.strategy}-{value.happening.replace(' ', '_')}" if isinstance(value, Row) else value,
)
def test_a_reader_learns_how_the_job_ended(stack: Stack, row: Row, view: View) -> None:
    play = Play(stack, row, view, f"cell-{CELLS.index((row, view))}")
    try:
        response_id, call = play.play()
        is_read = not play.happening.is_gone or view == "webhook"
        shown = CHECKS[view](play, response_id, call) if is_read else None
        if play.is_job:
            play.check_record(response_id, shown)
    finally:
        play.script.open_all()
    assert stack.receiver.received.empty()


def test_a_chat_that_waits_is_kept_alive_and_the_client_passes_over_it(stack: Stack) -> None:
    # Given a stream whose wait is over before there is even a draft
    play = Play(stack, Row("deep", "cancelled in draft", "completed"), "chat-stream", "cell-keep-alive")
    play.script.held["deep"] = 0  # once there are words of the final answer, the stream goes on with it
    asked = {"model": "glowl", "messages": [{"role": "user", "content": play.question}]}
    options = {**play.strategy.hybrid, "max_wait_s": 0}
    call = stack.client.begin("chat_stream", play.url, **asked, extra_body={"hybrid": options})
    try:
        with httpx.stream(
            "POST",
            f"{play.url}/v1/chat/completions",
            json={**asked, "stream": True, "hybrid": options},
            timeout=300,
            trust_env=False,
        ) as answer:
            # When it is read as bytes, then there are comments that keep proxies from hanging up
            lines = answer.iter_lines()
            assert any(line == ": ping" for line in lines)
            play.script.gates["draft"].open()
            rest = [line for line in lines if line]
        call.result()
    finally:
        play.script.open_all()

    # And then the draft, by which a client that knows nothing of comments can find the final answer
    assert rest[-1] == "data: [DONE]"
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in call.events) == play.answer_of(
        "draft"
    )
    hybrid = call.events[-1]["hybrid"]
    assert hybrid["stage"] == "draft"
    told = stack.client.begin("replay", play.url, response_id=hybrid["response_id"])
    assert told.result()["output_text"] == play.answer_of("deep")

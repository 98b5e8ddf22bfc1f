"""engines.runtime.batching and scheduler: the batch, step by step with a runner that counts; then on its thread."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.base import (
    CallerWait,
    Delta,
    EngineEndedError,
    EngineError,
    EngineOverloadedError,
    EngineUnavailableError,
    GenerationFailedError,
    InvalidRequestError,
    hash_caller,
)
from engines.runtime.batching import BatchLimits, ContinuousBatch
from engines.runtime.scheduler import Scheduler


@dataclass(frozen=True)
class FakeJob:
    """A prompt of so many tokens, and an answer of so many."""

    name: str
    prompt: int = 1
    answer: int = 3


@dataclass(eq=False)
class FakeRow:
    job: FakeJob
    num_read: int = 0
    num_chosen: int = 0


class FakeRunner:
    """Counts instead of computing; `trouble` may raise before any piece of work."""

    def __init__(self) -> None:
        self.log: list[tuple[str, ...]] = []
        self.rows: set[FakeRow] = set()
        self.completed: list[str] = []
        self.num_relieved = 0
        self.is_broken = False
        self.trouble: Callable[[str, Sequence[FakeJob]], BaseException | None] = lambda _what, _jobs: None

    def _work(self, what: str, *rows: FakeRow, note: str = "") -> None:
        jobs = [row.job for row in rows]
        self.log.append((what, *(job.name + note for job in jobs)))
        if (error := self.trouble(what, jobs)) is not None:
            raise error

    def cost(self, jobs: Sequence[FakeJob]) -> int:
        return sum(job.prompt + job.answer for job in jobs)

    def begin(self, job: FakeJob) -> FakeRow:
        row = FakeRow(job)
        self._work("begin", row)
        self.rows.add(row)
        return row

    def prefill(self, row: FakeRow, max_tokens: int) -> tuple[int, bool]:
        size = min(max_tokens, row.job.prompt - row.num_read)
        self._work("prefill", row, note=f":{size}")
        row.num_read += size
        is_ready = row.num_read == row.job.prompt
        row.num_chosen += is_ready
        return size, is_ready

    def decode(self, rows: Sequence[FakeRow]) -> list[BaseException | None]:
        self._work("decode", *rows)
        outcomes = []
        for row in rows:
            assert row in self.rows
            assert row.num_read == row.job.prompt
            outcomes.append(self.trouble("choose", [row.job]))
            row.num_chosen += 1
        return outcomes

    def advance(self, row: FakeRow) -> tuple[list[Delta], bool]:
        if (error := self.trouble("advance", [row.job])) is not None:
            raise error
        is_complete = row.num_chosen == row.job.answer
        return [Delta(text=str(row.num_chosen), finish_reason="stop" if is_complete else None)], is_complete

    def drop(self, row: FakeRow, *, is_complete: bool) -> None:
        self.rows.remove(row)
        if is_complete:
            self.completed.append(row.job.name)
        self._work("drop", row)

    def relieve(self) -> None:
        self.num_relieved += 1

    def is_lost(self) -> bool:
        return self.is_broken

    def did(self, what: str) -> list[tuple[str, ...]]:
        return [names for kind, *names_ in self.log if kind == what for names in [tuple(names_)]]


class FakeSink:
    def __init__(self) -> None:
        self.is_cancelled = False
        self.text = ""
        self.error: EngineError | None = None
        self.is_ended = False

    def put(self, item: Delta | EngineError | None) -> None:
        assert not self.is_ended
        if isinstance(item, EngineError):
            self.error = item
        elif item is None:
            self.is_ended = True
        else:
            self.text += item.text


class Stage:
    """A batch over a fake runner, with a clock of the test's own, and the sinks of what was submitted."""

    def __init__(self, max_rows: int = 4, max_tokens: int = 1000, prefill_tokens: int = 10) -> None:
        self.runner = FakeRunner()
        self.now = 100.0
        limits = BatchLimits(max_rows, max_tokens, prefill_tokens)
        self.num_rows: list[float] = []
        self.batch = ContinuousBatch[FakeJob, FakeRow](
            self.runner, limits, clock=lambda: self.now, tell=self.num_rows.append
        )
        self.sinks: dict[str, FakeSink] = {}

    def submit(self, name: str, prompt: int = 1, answer: int = 3, caller: str = "") -> FakeSink:
        sink = self.sinks[name] = FakeSink()
        self.batch.submit(FakeJob(name, prompt, answer), sink, caller)
        return sink

    def run(self) -> None:
        for _ in range(1000):
            if self.batch.is_idle:
                break
            self.batch.step()
        assert self.batch.is_idle
        assert not self.runner.rows
        assert all(sink.is_ended for sink in self.sinks.values())

    def fail(self, what: str, error: BaseException, *names: str, times: int = 1000) -> None:
        """Let some work fail whenever it concerns one of these requests."""
        left = [times]

        def trouble(kind: str, jobs: Sequence[FakeJob]) -> BaseException | None:
            if kind == what and left[0] and any(job.name in names for job in jobs):
                left[0] -= 1
                return error
            return None

        self.runner.trouble = trouble


def test_the_rows_of_each_step_and_the_room_that_is_promised_are_told() -> None:
    stage = Stage(max_tokens=20)
    stage.submit("a", prompt=1, answer=3)
    stage.submit("b", prompt=1, answer=5)
    stage.batch.step()
    assert stage.batch.kv_usage == (4 + 6) / 20
    stage.run()
    assert stage.num_rows == [2, 2, 1, 1]
    assert stage.batch.kv_usage == 0


def test_a_request_joins_a_running_batch_and_leaves_it_when_it_is_done() -> None:
    # Given a long answer on its way
    stage = Stage()
    stage.submit("long", answer=6)
    stage.batch.step()

    # When a short one comes
    stage.submit("short", answer=2)
    stage.run()

    # Then they share the steps in between, and only those
    assert stage.runner.did("decode") == [("long",), ("long", "short"), ("long",), ("long",), ("long",)]
    assert stage.sinks["long"].text == "123456"
    assert stage.sinks["short"].text == "12"
    assert stage.runner.completed == ["short", "long"]


def test_an_answer_of_one_token_takes_no_decode_step() -> None:
    stage = Stage()
    sink = stage.submit("one", answer=1)
    stage.run()

    assert sink.text == "1"
    assert stage.runner.did("decode") == []


def test_no_more_rows_run_than_allowed_and_the_next_one_takes_the_first_free_place() -> None:
    stage = Stage(max_rows=2)
    for name in "abc":
        stage.submit(name)
    stage.batch.step()

    assert stage.batch.num_rows == 2
    assert stage.batch.num_waiting == 1
    stage.run()
    assert all(sink.text == "123" for sink in stage.sinks.values())
    assert max(len(names) for names in stage.runner.did("decode")) == 2


def test_requests_wait_until_their_tokens_fit_and_nobody_overtakes() -> None:
    # Given room for 20 tokens, of which 12 are taken
    stage = Stage(max_tokens=20)
    stage.submit("first", prompt=9, answer=3)
    stage.submit("large", prompt=15, answer=3)
    stage.submit("small", prompt=1, answer=3)
    stage.batch.step()

    # Then the small one, which would fit, waits behind the large one
    assert stage.runner.did("begin") == [("first",)]
    stage.run()
    assert stage.runner.did("begin") == [("first",), ("large",), ("small",)]
    assert stage.runner.log.index(("drop", "first")) < stage.runner.log.index(("begin", "large"))


@pytest.mark.parametrize(("max_tokens", "num_at_once"), [(19, 2), (20, 3), (21, 3)])
def test_requests_fill_the_token_budget_to_its_last_token(max_tokens: int, num_at_once: int) -> None:
    # Given three requests of 6, 6 and 8 tokens
    stage = Stage(max_tokens=max_tokens)
    for name, prompt in (("a", 3), ("b", 3), ("c", 5)):
        stage.submit(name, prompt)

    stage.batch.step()

    assert len(stage.runner.rows) == num_at_once
    stage.run()


def test_a_request_over_the_whole_budget_runs_alone() -> None:
    stage = Stage(max_tokens=5)
    stage.submit("huge", prompt=10, answer=3)
    stage.submit("small")
    stage.run()

    assert stage.sinks["huge"].text == "123"
    assert all(len(names) == 1 for names in stage.runner.did("decode"))


def test_places_go_round_over_callers_and_by_arrival_within_one() -> None:
    stage = Stage(max_rows=1)
    for name in ("a1", "a2", "a3", "b1", "b2", "c1"):
        stage.submit(name, answer=1, caller=name[0])
    stage.run()

    assert stage.runner.did("begin") == [("a1",), ("b1",), ("c1",), ("a2",), ("b2",), ("a3",)]


def test_a_long_prompt_is_read_in_pieces_between_the_steps_of_running_streams() -> None:
    # Given a running stream
    stage = Stage(prefill_tokens=10)
    stage.submit("running", answer=8)
    stage.batch.step()
    del stage.runner.log[:]

    # When a prompt of 35 tokens comes
    stage.submit("long", prompt=35, answer=2)
    for _ in range(4):
        stage.batch.step()

    # Then no more than ten are read between two steps
    reading = [entry for entry in stage.runner.log if entry[0] in ("prefill", "decode")]
    assert reading == [
        ("prefill", "long:10"),
        ("decode", "running"),
        ("prefill", "long:10"),
        ("decode", "running"),
        ("prefill", "long:10"),
        ("decode", "running"),
        ("prefill", "long:5"),
        ("decode", "running", "long"),
    ]


def test_several_short_prompts_are_read_before_one_step() -> None:
    stage = Stage(prefill_tokens=10)
    for name in "abc":
        stage.submit(name, prompt=4)
    stage.batch.step()

    assert [entry for entry in stage.runner.log if entry[0] != "begin"] == [
        ("prefill", "a:4"),
        ("prefill", "b:4"),
        ("prefill", "c:2"),
        ("decode", "a", "b"),
    ]


def test_a_very_long_prompt_gives_way_to_the_ones_behind_it_after_some_pieces() -> None:
    stage = Stage(prefill_tokens=10)
    stage.submit("endless", prompt=100, answer=1)
    stage.submit("short", prompt=5, answer=1)
    stage.run()

    order = [name for (name,) in stage.runner.did("prefill")]
    assert order.index("short:5") == 4
    assert stage.sinks["endless"].text == "1"


@pytest.mark.parametrize("num_steps", [0, 1, 4])
def test_a_cancelled_request_is_gone_before_the_next_step_wherever_it_is(num_steps: int) -> None:
    # Given one request that is waiting, being read, or answered
    stage = Stage()
    stage.submit("other", answer=9)
    stage.batch.step()
    leaving = stage.submit("leaving", prompt=20, answer=9)
    for _ in range(num_steps):
        stage.batch.step()
    del stage.runner.log[:]

    # When its caller leaves
    leaving.is_cancelled = True
    stage.batch.step()

    # Then no more work is done for it
    assert {entry[0] for entry in stage.runner.log if "leaving" in "".join(entry)} <= {"drop"}
    assert stage.batch.num_rows == 1
    stage.run()
    assert stage.sinks["other"].text == "123456789"
    assert stage.runner.completed == ["other"]


def test_no_step_is_spent_on_a_caller_who_left_while_a_prompt_was_read() -> None:
    stage = Stage()
    leaving = stage.submit("leaving", answer=9)
    stage.batch.step()

    def leave(what: str, _jobs: Sequence[FakeJob]) -> None:
        leaving.is_cancelled |= what == "prefill"

    stage.runner.trouble = leave
    stage.submit("next")
    stage.batch.step()

    assert stage.runner.did("decode") == [("leaving",), ("next",)]


@pytest.mark.parametrize("what", ["begin", "prefill", "choose", "advance", "decode"])
@pytest.mark.parametrize("error", [RuntimeError("secret detail"), InvalidRequestError("bad"), SystemExit(1)])
def test_an_error_in_one_rows_work_fails_that_row_only(what: str, error: BaseException) -> None:
    # Given three requests, one of which makes trouble at some point
    stage = Stage()
    stage.fail(what, error, "bad")
    for name in ("a", "bad", "b"):
        stage.submit(name)

    # When everything runs
    stage.run()

    # Then the others never notice
    assert (stage.sinks["a"].text, stage.sinks["b"].text) == ("123", "123")
    failed = stage.sinks["bad"].error
    assert isinstance(failed, InvalidRequestError if isinstance(error, InvalidRequestError) else GenerationFailedError)
    assert "secret detail" not in failed.message
    assert all(sink.error is None for name, sink in stage.sinks.items() if name != "bad")


def test_an_answer_stays_whole_when_what_was_to_be_kept_of_it_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage()
    stage.fail("drop", RuntimeError("no room"), "a")
    stage.submit("a")
    stage.submit("b")
    stage.run()

    assert stage.sinks["a"].text == "123"
    assert stage.sinks["a"].error is None
    assert "could not be dropped" in caplog.text


def test_out_of_memory_in_a_step_splits_the_batch_and_tries_each_half_once() -> None:
    # Given five rows of which four at a time do not fit
    stage = Stage(max_rows=5)
    for name in "abcde":
        stage.submit(name)

    def too_many(what: str, jobs: Sequence[FakeJob]) -> BaseException | None:
        return MemoryError() if what == "decode" and len(jobs) > 3 else None

    stage.runner.trouble = too_many
    stage.run()

    # Then everybody is served, in halves
    assert stage.runner.did("decode")[:3] == [tuple("abcde"), tuple("abc"), tuple("de")]
    assert all(sink.text == "123" and sink.error is None for sink in stage.sinks.values())
    assert stage.runner.num_relieved > 0


def test_a_half_that_still_does_not_fit_is_told_to_come_back_and_the_other_goes_on() -> None:
    stage = Stage()
    for name in "abcd":
        stage.submit(name)
    stage.fail("decode", MemoryError("CUDA out of memory"), "c")
    stage.run()

    assert [stage.sinks[name].text for name in "ab"] == ["123", "123"]
    for name in "cd":
        failed = stage.sinks[name].error
        assert isinstance(failed, EngineOverloadedError)
        assert failed.retryable
    assert stage.submit("later").error is None
    stage.runner.trouble = lambda _what, _jobs: None
    stage.run()
    assert stage.sinks["later"].text == "123"


@pytest.mark.parametrize(("times", "is_served"), [(1, True), (2, False)])
def test_out_of_memory_of_one_row_is_tried_once_more(times: int, is_served: bool) -> None:
    for what in ("prefill", "decode"):
        stage = Stage()
        stage.submit("a")
        stage.fail(what, MemoryError(), "a", times=times)
        stage.run()

        assert isinstance(stage.sinks["a"].error, type(None) if is_served else EngineOverloadedError)
        assert stage.runner.num_relieved == 1


@pytest.mark.parametrize("what", ["prefill", "decode"])
def test_what_a_failed_step_held_is_gone_when_memory_is_made_for_the_next(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a forward pass that has tensors in its frame when it finds no memory
    class Tensor:
        pass

    stage, held = Stage(), []
    work = getattr(stage.runner, what)

    def fail(*arguments: Any) -> Any:
        if held:
            return work(*arguments)
        tensor = Tensor()
        held.append(weakref.ref(tensor))
        raise MemoryError

    alive: list[bool] = []
    monkeypatch.setattr(stage.runner, what, fail)
    monkeypatch.setattr(stage.runner, "relieve", lambda: alive.append(held[0]() is not None))

    # When it is tried again
    stage.submit("a")
    stage.run()

    # Then nothing of it was left by then
    assert alive == [False]
    assert stage.sinks["a"].text == "123"


def test_closing_ends_every_request_with_the_error() -> None:
    stage = Stage(max_rows=2, prefill_tokens=2)
    for name, prompt in (("running", 1), ("read", 9), ("waiting", 1)):
        stage.submit(name, prompt=prompt, answer=9)
    stage.batch.step()

    stage.batch.close(EngineUnavailableError("closing"))

    assert stage.batch.is_idle
    assert not stage.runner.rows
    assert all(isinstance(sink.error, EngineUnavailableError) and sink.is_ended for sink in stage.sinks.values())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_whatever_comes_and_goes_nobody_is_lost_and_no_limit_is_broken(data: st.DataObject) -> None:
    # Given random limits
    max_rows, max_tokens = data.draw(st.integers(1, 4)), data.draw(st.integers(20, 60))
    stage = Stage(max_rows, max_tokens, data.draw(st.integers(1, 12)))
    faults = {"prefill": RuntimeError(), "decode": MemoryError(), "choose": RuntimeError(), "advance": RuntimeError()}
    cancelled = set()

    # When requests come, leave and fail at random
    for index in range(data.draw(st.integers(1, 25))):
        action = data.draw(st.sampled_from(["submit", "submit", "step", "step", "cancel", "fault"]))
        if action == "submit":
            name = str(index)
            stage.submit(
                name, data.draw(st.integers(1, 15)), data.draw(st.integers(1, 6)), data.draw(st.sampled_from("abc"))
            )
        elif action == "cancel" and stage.sinks:
            name = data.draw(st.sampled_from(sorted(stage.sinks)))
            stage.sinks[name].is_cancelled = True
            cancelled.add(name)
        elif action == "fault" and stage.sinks:
            name = data.draw(st.sampled_from(sorted(stage.sinks)))
            what = data.draw(st.sampled_from(sorted(faults)))
            stage.fail(what, faults[what], name, times=2)
        else:
            stage.batch.step()
            assert stage.batch.num_rows <= max_rows
            assert stage.runner.cost([row.job for row in stage.runner.rows]) <= max_tokens
    stage.run()

    # Then each either got its whole answer, or left, or was told why not
    for name, sink in stage.sinks.items():
        is_whole = sink.text == "123456"[: len(sink.text)] and name in stage.runner.completed
        assert is_whole or name in cancelled or sink.error is not None


# -- on a thread ------------------------------------------------------------------------------------------------------


class Gate:
    """Holds the runner before its next decode step."""

    def __init__(self, runner: FakeRunner) -> None:
        self.reached, self.go = threading.Event(), threading.Event()
        runner.trouble = self._wait

    def _wait(self, what: str, _jobs: Sequence[FakeJob]) -> None:
        if what == "decode":
            self.reached.set()
            assert self.go.wait(300)

    async def wait_reached(self) -> None:
        assert await asyncio.to_thread(self.reached.wait, 10)


def test_who_waits_for_a_row_is_said_by_caller_and_for_how_long() -> None:
    # Given one row, and requests of two callers
    stage = Stage(max_rows=1)
    for name, caller in (("a1", "ann"), ("a2", "ann"), ("b1", "bob"), ("a3", "ann")):
        stage.submit(name, answer=2, caller=caller)
        stage.now += 10

    # Then all wait until there is a step
    ann, bob = hash_caller("ann"), hash_caller("bob")
    assert stage.batch.waiting() == (CallerWait(ann, 3, 40.0, 40.0), CallerWait(bob, 1, 20.0, 20.0))

    # When the first has its row, ann's others begin to wait for her next turn
    stage.batch.step()
    stage.now += 5
    assert stage.batch.waiting() == (CallerWait(bob, 1, 25.0, 25.0), CallerWait(ann, 2, 35.0, 5.0))

    # and one whose caller has left does not wait
    stage.sinks["b1"].is_cancelled = True
    stage.batch.step()
    assert [each.caller for each in stage.batch.waiting()] == [ann]
    stage.run()
    assert stage.batch.waiting() == ()

    # A turn of long ago is no reason for the next wait to be short
    stage.now += 500
    stage.submit("a4", caller="ann")
    stage.now += 7
    assert stage.batch.waiting() == (CallerWait(ann, 1, 7.0, 7.0),)
    stage.run()


@pytest.fixture
def runner() -> FakeRunner:
    return FakeRunner()


@pytest.fixture
async def scheduler(runner: FakeRunner) -> AsyncIterator[Scheduler[FakeJob, FakeRow]]:
    scheduler: Scheduler[FakeJob, FakeRow] = Scheduler("test-model", max_queue=1)
    await scheduler.start(lambda: ContinuousBatch(runner, BatchLimits(max_rows=2, max_tokens=1000)))
    yield scheduler
    await scheduler.aclose()


def asking(name: str, answer: int = 3) -> Callable[[], Awaitable[FakeJob]]:
    async def prepare() -> FakeJob:
        return FakeJob(name, answer=answer)

    return prepare


async def collect(stream: AsyncGenerator[Delta, None]) -> str:
    async with aclosing(stream) as deltas:
        return "".join([delta.text async for delta in deltas])


async def test_streams_run_side_by_side_on_the_thread(
    scheduler: Scheduler[FakeJob, FakeRow], runner: FakeRunner
) -> None:
    # Given a stream that is held in a step
    gate = Gate(runner)
    first = asyncio.create_task(collect(scheduler.stream(asking("a", answer=4))))
    await gate.wait_reached()

    # When another comes and the step goes on
    second = asyncio.create_task(collect(scheduler.stream(asking("b"))))
    for _ in range(3):
        await asyncio.sleep(0)
    gate.go.set()

    # Then they share steps
    assert await asyncio.gather(first, second) == ["1234", "123"]
    assert ("a", "b") in runner.did("decode")
    assert (scheduler.num_running, scheduler.num_waiting) == (0, 0)


async def test_one_request_more_than_rows_and_line_hold_is_refused_before_it_is_prepared(
    scheduler: Scheduler[FakeJob, FakeRow], runner: FakeRunner
) -> None:
    # Given two rows taken and one request waiting, which is the limit
    gate = Gate(runner)
    tasks = [asyncio.create_task(collect(scheduler.stream(asking(name)))) for name in "abc"]
    await gate.wait_reached()

    # When another one comes
    was_prepared = False

    async def prepare() -> FakeJob:
        nonlocal was_prepared
        was_prepared = True
        return FakeJob("d")

    with pytest.raises(EngineOverloadedError):
        await collect(scheduler.stream(prepare))

    # Then it cost nothing, and the others are served
    gate.go.set()
    assert not was_prepared
    assert await asyncio.gather(*tasks) == ["123"] * 3


async def test_closing_a_stream_frees_its_row(scheduler: Scheduler[FakeJob, FakeRow], runner: FakeRunner) -> None:
    # Given a stream held in a step
    gate = Gate(runner)
    stream = scheduler.stream(asking("endless", answer=10_000))
    await anext(stream)
    await gate.wait_reached()

    # When it is closed
    await stream.aclose()
    gate.go.set()
    await scheduler.call(lambda: None)  # runs behind that step
    assert await collect(scheduler.stream(asking("next"))) == "123"

    # Then it took part in that step and in no other
    assert sum("endless" in names for names in runner.did("decode")) == 1
    assert not runner.rows


async def test_a_request_that_cannot_be_prepared_frees_its_place(scheduler: Scheduler[FakeJob, FakeRow]) -> None:
    async def prepare() -> FakeJob:
        raise InvalidRequestError("no")

    for _ in range(5):
        with pytest.raises(InvalidRequestError):
            await collect(scheduler.stream(prepare))

    assert await collect(scheduler.stream(asking("fine"))) == "123"


async def test_a_call_runs_between_the_steps_of_a_running_stream(
    scheduler: Scheduler[FakeJob, FakeRow], runner: FakeRunner
) -> None:
    async with aclosing(scheduler.stream(asking("endless", answer=10**9))) as stream:
        await anext(stream)

        assert await scheduler.call(lambda: threading.current_thread().name) == "test-model"
        assert len(runner.rows) == 1


async def test_a_bug_of_the_scheduler_itself_ends_the_streams_and_not_the_thread(
    scheduler: Scheduler[FakeJob, FakeRow], runner: FakeRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_jobs: Sequence[FakeJob]) -> int:
        raise ZeroDivisionError

    gate = Gate(runner)
    first = asyncio.create_task(collect(scheduler.stream(asking("a"))))
    await gate.wait_reached()
    monkeypatch.setattr(runner, "cost", broken)
    second = asyncio.create_task(collect(scheduler.stream(asking("b"))))
    await asyncio.sleep(0)
    gate.go.set()

    results = await asyncio.gather(first, second, return_exceptions=True)
    assert all(isinstance(result, GenerationFailedError) for result in results)
    monkeypatch.undo()
    assert await collect(scheduler.stream(asking("alive"))) == "123"


async def test_a_gpu_that_refuses_all_work_ends_the_engine_once_and_for_all(
    scheduler: Scheduler[FakeJob, FakeRow], runner: FakeRunner
) -> None:
    # Given an error of one request, and then one after which nothing works any more
    ended = asyncio.create_task(scheduler.ended())
    runner.trouble = lambda _what, _jobs: RuntimeError("CUDA error: an illegal memory access was encountered")
    with pytest.raises(GenerationFailedError):
        await collect(scheduler.stream(asking("first")))
    assert not ended.done()
    runner.is_broken = True
    # The thread may look at the GPU after the first one's error was told: then it finds out before the second.
    with pytest.raises((GenerationFailedError, EngineEndedError)):
        await collect(scheduler.stream(asking("second")))

    # Then that is told, and every later request may be tried elsewhere
    assert "GPU" in await ended
    assert await scheduler.ended() == ended.result()
    runner.trouble = lambda _what, _jobs: None
    with pytest.raises(EngineEndedError):
        await collect(scheduler.stream(asking("third")))


async def test_shutting_down_ends_running_waiting_and_late_requests_alike(runner: FakeRunner) -> None:
    # Given a request in a step and one in line
    scheduler: Scheduler[FakeJob, FakeRow] = Scheduler("closing", max_queue=4)
    with pytest.raises(EngineUnavailableError):
        await collect(scheduler.stream(asking("early")))
    await scheduler.start(lambda: ContinuousBatch(runner, BatchLimits(max_rows=1, max_tokens=1000)))
    gate = Gate(runner)
    tasks = [asyncio.create_task(collect(scheduler.stream(asking(name)))) for name in "ab"]
    await gate.wait_reached()

    # When the scheduler closes
    closing = asyncio.create_task(scheduler.aclose())
    await asyncio.sleep(0)
    gate.go.set()
    await closing

    # Then nothing hangs
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(result, EngineUnavailableError)
    with pytest.raises(EngineUnavailableError):
        await collect(scheduler.stream(asking("late")))
    assert not runner.rows
    await scheduler.aclose()

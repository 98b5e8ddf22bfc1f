"""The runner: from lines to jobs to the output, with a worker of the test's own that ends jobs as it is told."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from redis.asyncio import Redis

from policies.text import Text
from router.audit.records import of_line
from router.batches.files import FileStore
from router.batches.line_api import Answer
from router.batches.lines import LineLimits
from router.batches.records import CHAT, MAX_LINES, WINDOW_S, Admitted, Batch, BatchSpec, line_job_id, new_id
from router.batches.run import MAX_ATTEMPTS, MAX_DOUBTFUL_ATTEMPTS, BatchContext, Run
from router.batches.runner import BatchRunner
from router.batches.store import BatchStore
from router.errors import BadRequestError, EngineFailedError, RateLimitError, RouterError
from router.jobs.events import EventHub
from router.jobs.job import BranchPlan, Job
from router.jobs.results import FinalAnswer, UnitResult
from router.jobs.store import JobStore
from router.leftovers import end_tasks
from router.redis import storage_full
from tests.support.jobs import make_spec as make_job_spec

PASSING = {"code": "engine_unavailable", "message": "away", "status": 503, "retryable": True}
FINAL_ERROR = {"code": "server_error", "message": "no", "status": 500, "retryable": False}


@dataclass
class Asked:
    """What a line asks of the fakes."""

    name: str
    response_id: str = ""


@dataclass
class Fakes:
    """Wire, dispatcher and worker in one: refuses and fails what it is told to, answers all else.

    Attributes:
        refuse: what happens at the door, by line: raised one after the other.
        fail: how jobs end, by line: one after the other; None is good.
        held: jobs of these lines do not end.
        begun: how often the dispatcher was asked, by line.
        noted: records for the audit log.
    """

    jobs: JobStore
    refuse: dict[str, list[Exception]] = field(default_factory=dict)
    fail: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    held: set[str] = field(default_factory=set)
    begun: Counter[str] = field(default_factory=Counter)
    noted: list[dict[str, Any]] = field(default_factory=list)
    most_in_flight: int = 0
    _in_flight: int = 0
    _work: set[asyncio.Task[None]] = field(default_factory=set)

    def read(self, endpoint: str, body: dict[str, Any]) -> Asked:
        if body.get("name") == "bug-at-the-door":
            raise TypeError("unhashable type: 'list'")
        if "name" not in body:
            raise BadRequestError(Text("no name", "没有名字"), param="name")
        return Asked(body["name"])

    async def to_call(self, request: Asked, spec: BatchSpec, job_id: str) -> Any:
        if request.name == "bug-inside":
            raise KeyError("properties")
        return replace(request, response_id=job_id)

    def to_answer(self, spec: BatchSpec, job: Job) -> Answer:
        if job.final is not None and job.final.text == "bug-after":
            raise RecursionError
        if job.final is None:
            return Answer(int((job.error or {}).get("status", 400)), {"error": job.error})
        return Answer(200, {"text": job.final.text}, {"output_tokens": 1})

    def to_refusal(self, spec: BatchSpec, error: RouterError) -> Answer:
        status = error.status if isinstance(error, EngineFailedError) else error.status_code
        return Answer(status, {"error": {"message": error.message}})

    async def start(self, call: Asked) -> Any:
        self.begun[call.name] += 1
        if self.refuse.get(call.name):
            raise self.refuse[call.name].pop(0)
        spec = make_job_spec(id=call.response_id, branches=(BranchPlan("fast", "glm"),), is_stored=False)
        await self.jobs.create(spec)
        self._in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self._in_flight)
        if call.name not in self.held:
            self._work.add(asyncio.create_task(self.end(call)))
        return _Running()

    async def end(self, call: Asked) -> None:
        """Do a job's work."""
        await asyncio.sleep(0)
        failure = self.fail[call.name].pop(0) if self.fail.get(call.name) else None
        epoch = await self.jobs.claim(call.response_id, "fast") or 0
        await self.jobs.finish(call.response_id, "fast", epoch, UnitResult(text=call.name))
        epoch = await self.jobs.claim(call.response_id, "merge") or 0
        self._in_flight -= 1
        if failure is not None:
            await self.jobs.complete(call.response_id, epoch, error=failure)
        else:
            await self.jobs.complete(call.response_id, epoch, final=FinalAnswer(call.name, "m", "glm", "single"))


class _Running:
    class events:  # noqa: N801
        @staticmethod
        async def aclose() -> None:
            pass


@dataclass
class Bench:
    redis: Redis
    batches: BatchStore
    files: FileStore
    fakes: Fakes
    make_runner: Callable[[], BatchRunner]
    now: list[float]

    async def begin(self, *lines: dict[str, Any] | str, language: Any = "en") -> BatchSpec:
        data = b"\n".join((each if isinstance(each, str) else json.dumps(each)).encode() for each in lines)
        return await self.begin_bytes(data, language)

    async def begin_bytes(self, data: bytes, language: Any = "en") -> BatchSpec:
        upload = self.files.begin("local")
        await upload.write(data)
        file = await upload.commit("in.jsonl", purpose="batch")
        spec = BatchSpec(new_id("batch_"), "local", CHAT, file.id, output_ttl_s=3600, language=language)
        await self.batches.create(spec)
        return spec

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[BatchRunner]:
        runner = self.make_runner()
        task = asyncio.create_task(runner.run_forever(interval_s=0.05))
        try:
            yield runner
        finally:
            await end_tasks(task)

    async def wait(self, spec: BatchSpec, is_so: Callable[[Batch], bool] = lambda batch: batch.has_ended) -> Batch:
        async with asyncio.timeout(300):
            while True:
                batch = await self.batches.get(spec.id)
                assert batch is not None
                if is_so(batch):
                    return batch
                await asyncio.sleep(0.01)

    async def read(self, file_id: str | None) -> dict[str, Any]:
        if file_id is None:
            return {}
        file = await self.files.get("local", file_id)
        assert file is not None
        data = b"".join([piece async for piece in self.files.stream(file.id, file.num_bytes)])
        entries = [json.loads(text) for text in data.splitlines()]
        assert len({entry["custom_id"] for entry in entries}) == len(entries)
        return {entry["custom_id"]: entry for entry in entries}


@pytest.fixture
async def bench(redis_url: str) -> AsyncIterator[Bench]:
    redis, reader = Redis.from_url(redis_url), Redis.from_url(redis_url)
    now = [1_000_000.0]
    jobs = JobStore(redis)
    hub = EventHub(reader, jobs)
    await hub.start()
    batches = BatchStore(redis, lease_s=0.6, clock=lambda: now[0])
    files = FileStore(redis, max_file_bytes=10_000_000, max_total_bytes=100_000_000, ttl_s=3600)
    fakes = Fakes(jobs)

    def make_runner() -> BatchRunner:
        dispatcher: Any = fakes
        parts: dict[str, Any] = {"store": batches, "files": files, "jobs": jobs, "hub": hub, "api": fakes}
        context = BatchContext(
            **parts,
            dispatcher=dispatcher,
            lines_in_flight=4,
            line_limits=LineLimits(100_000, 500),
            first_wait_s=0.001,
            note=lambda *what: fakes.noted.append(of_line(*what, with_text=())),
        )
        return BatchRunner(context)

    yield Bench(redis, batches, files, fakes, make_runner, now)
    await hub.aclose()
    await redis.aclose()
    await reader.aclose()


def line(name: str) -> dict[str, Any]:
    return {"custom_id": name, "method": "POST", "url": CHAT, "body": {"name": name}}


def names(count: int) -> list[str]:
    return [f"q{number}" for number in range(count)]


async def test_every_line_is_answered_with_a_bounded_number_in_flight(bench: Bench) -> None:
    spec = await bench.begin(*(line(name) for name in names(40)))
    async with bench.running():
        done = await bench.wait(spec)

    answers = await bench.read(done.output_file_id)
    assert {name: entry["response"]["body"]["text"] for name, entry in answers.items()} == dict(
        zip(names(40), names(40), strict=True)
    )
    assert (done.status, done.completed, done.usage) == ("completed", 40, {"output_tokens": 40})
    assert 1 < bench.fakes.most_in_flight <= 4
    # And the jobs, which nobody asked to keep, are gone
    assert await bench.redis.keys("glowl:job:*") == []


async def test_a_failure_that_passes_is_tried_again_and_one_that_lasts_is_an_error(bench: Bench) -> None:
    bench.fakes.fail = {
        "passing": [PASSING, PASSING],
        "for-ever": [PASSING] * MAX_ATTEMPTS,
        "final": [FINAL_ERROR],
    }
    spec = await bench.begin(line("passing"), line("for-ever"), line("final"))
    async with bench.running():
        done = await bench.wait(spec)

    assert set(await bench.read(done.output_file_id)) == {"passing"}
    errors = await bench.read(done.error_file_id)
    assert {name: entry["response"]["status_code"] for name, entry in errors.items()} == {"for-ever": 503, "final": 500}
    assert bench.fakes.begun == {"passing": 3, "for-ever": MAX_ATTEMPTS, "final": 1}
    # And each is noted once, as it ended
    noted = {each["custom_id"]: each for each in bench.fakes.noted}
    assert len(bench.fakes.noted) == 3
    assert [noted[name]["status"] for name in ("passing", "for-ever", "final")] == [200, 503, 500]
    assert [noted[name]["outcome"] for name in ("passing", "for-ever", "final")] == ["answered", "failed", "failed"]
    assert noted["passing"].items() >= {"kind": "batch_line", "owner": "local", "batch_id": spec.id}.items()
    assert noted["final"]["response_id"].startswith("resp_")


async def test_a_full_service_is_waited_for_and_costs_no_attempt(bench: Bench) -> None:
    full = EngineFailedError("full", status=429, code="too_many_jobs")
    away = EngineFailedError("away", status=503, code="engine_unavailable")
    limited = RateLimitError(Text("wait", "等"), retry_after_ms=1000)
    bench.fakes.refuse = {"a": [full, away, storage_full(), limited] * MAX_ATTEMPTS, "b": [BadRequestError("never")]}
    spec = await bench.begin(line("a"), line("b"))
    async with bench.running() as runner:
        runner._context.first_wait_s = 0.0
        done = await bench.wait(spec)

    assert set(await bench.read(done.output_file_id)) == {"a"}
    assert (await bench.read(done.error_file_id))["b"]["response"]["status_code"] == 400
    assert bench.fakes.begun["b"] == 1


@pytest.mark.parametrize("swallows", [False, True], ids=["at once", "after a cancel that was swallowed"])
async def test_another_process_goes_on_with_the_lines_in_flight(
    bench: Bench, monkeypatch: Any, *, swallows: bool
) -> None:
    # Given a process that ends while lines are in flight; its redis client may take a cancel for an ordinary answer, so
    # that ending the run takes a second one
    ended = EventHub.ended

    async def ended_after_two_cancels(hub: EventHub, job_id: str) -> Job | None:
        try:
            return await ended(hub, job_id)
        except asyncio.CancelledError:
            return await ended(hub, job_id)

    if swallows:
        monkeypatch.setattr(EventHub, "ended", ended_after_two_cancels)
    bench.fakes.held = {"q0", "q2"}
    spec = await bench.begin(*(line(name) for name in names(10)))
    async with bench.running():
        await bench.wait(spec, lambda batch: batch.completed == 8)
    in_flight = await bench.batches.admitted(spec.id)
    assert [each.custom_id for each in in_flight] == ["q0", "q2"]

    # When another one takes the batch up, at once, and the jobs end
    async with bench.running():
        for each in in_flight:
            await bench.fakes.end(Asked(each.custom_id, line_job_id(spec.id, each)))
        done = await bench.wait(spec)

    # Then no line was begun twice, and each is in the output once
    assert set(await bench.read(done.output_file_id)) == set(names(10))
    assert bench.fakes.begun == Counter(names(10))


async def test_what_a_run_that_died_did_not_come_to_forget_is_forgotten_by_the_next(bench: Bench) -> None:
    # Given a run that died between taking the answer of a line and deleting its job
    spec = await bench.begin(line("a"))
    ((_, epoch),) = await bench.batches.claim(10)
    await bench.batches.start(spec.id, epoch, 1)
    bench.now[0] += 1
    jobs = bench.fakes.jobs
    left, kept, other = (
        make_job_spec(id=f"resp_{name}", batch_id=batch_id, is_stored=is_stored)
        for name, batch_id, is_stored in (("a", spec.id, False), ("b", spec.id, True), ("c", "batch_2", False))
    )
    for each in (left, kept, other):
        await jobs.create(each)
        await jobs.cancel(each.id)

    async with bench.running():
        await bench.wait(spec)

    assert [await jobs.get(each.id) is not None for each in (left, kept, other)] == [False, True, True]


async def test_a_line_that_was_noted_but_not_begun_is_begun_by_the_next_run(bench: Bench) -> None:
    # Given a run that died between noting a line and beginning its job
    spec = await bench.begin(line("a"), line("b"))
    ((_, epoch),) = await bench.batches.claim(10)
    await bench.batches.start(spec.id, epoch, 2)
    size = len(json.dumps(line("a"))) + 1
    await bench.batches.admit(spec.id, epoch, Admitted(1, 0, size, "a"), size)
    bench.now[0] += 1

    async with bench.running():
        done = await bench.wait(spec)

    assert set(await bench.read(done.output_file_id)) == {"a", "b"}
    assert bench.fakes.begun == {"a": 1, "b": 1}


async def test_what_is_not_answered_when_the_time_is_over_is_in_the_error_file(bench: Bench) -> None:
    bench.fakes.held = {"q1", *names(10)[5:]}
    spec = await bench.begin(*(line(name) for name in names(10)), "{bad")
    async with bench.running() as runner:
        await bench.wait(spec, lambda batch: batch.completed == 4)
        bench.now[0] += WINDOW_S
        runner.wake(spec.id)
        done = await bench.wait(spec)

    assert (done.status, done.completed + done.failed, done.total) == ("expired", 11, 11)
    assert set(await bench.read(done.output_file_id)) == {"q0", "q2", "q3", "q4"}
    codes = {name: entry["error"]["code"] for name, entry in (await bench.read(done.error_file_id)).items()}
    assert codes == {**dict.fromkeys(["q1", *names(10)[5:]], "batch_expired"), None: "invalid_json_line"}
    # And the jobs under way are cancelled, so that no engine works on them
    jobs = await bench.redis.keys("glowl:job:*")
    assert jobs == []


async def test_an_input_that_is_deleted_fails_the_batch_and_keeps_what_is_answered(bench: Bench) -> None:
    # Given a file of several chunks, read as far as there is room
    bench.fakes.held = set(names(30)[3:])
    padded = [{**line(name), "padding": "x" * 90_000} for name in names(30)]
    spec = await bench.begin(*padded, language="zh")
    async with bench.running():
        await bench.wait(spec, lambda batch: batch.line == 7)

        # When it is deleted and the lines under way end
        await bench.files.delete("local", spec.input_file_id)
        in_flight = await bench.batches.admitted(spec.id)
        bench.fakes.held = set()
        for each in in_flight:
            await bench.fakes.end(Asked(each.custom_id, line_job_id(spec.id, each)))
        done = await bench.wait(spec)

    # Then the batch fails and says why, and what was answered can be read
    assert (done.status, [error["code"] for error in done.errors]) == ("failed", ["input_file_gone"])
    assert not done.errors[0]["message"].isascii()
    answers = set(await bench.read(done.output_file_id))
    assert set(names(7)) <= answers < set(names(30))


async def test_a_response_that_is_deleted_under_way_is_that_lines_error(bench: Bench) -> None:
    bench.fakes.held = {"a"}
    spec = await bench.begin(line("a"), line("b"))
    async with bench.running():
        await bench.wait(spec, lambda batch: batch.completed == 1)
        (held,) = await bench.batches.admitted(spec.id)
        job_id = line_job_id(spec.id, held)
        await bench.fakes.jobs.delete(job_id)
        await bench.redis.xadd("glowl:activity", {"j": job_id})
        done = await bench.wait(spec)

    assert (await bench.read(done.error_file_id))["a"]["error"]["code"] == "response_deleted"


async def test_a_file_with_too_many_lines_fails_before_any_of_them_runs(bench: Bench) -> None:
    spec = await bench.begin("x\n" * MAX_LINES + "x")
    async with bench.running():
        done = await bench.wait(spec)

    assert (done.status, [error["code"] for error in done.errors]) == ("failed", ["too_many_lines"])


async def test_a_bug_of_no_line_fails_the_batch_rather_than_running_it_for_ever(
    bench: Bench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def finalize(*_: object) -> bool:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(bench.batches, "finalize", finalize)
    spec = await bench.begin(line("a"))
    async with bench.running():
        done = await bench.wait(spec)

    assert (done.status, [error["code"] for error in done.errors]) == ("failed", ["server_error"])
    assert "a bug" in caplog.text


@pytest.mark.parametrize("name", ["bug-at-the-door", "bug-inside", "bug-after"])
async def test_a_line_that_shows_a_bug_is_answered_with_it_and_all_others_as_ever(bench: Bench, name: str) -> None:
    # Given a line among others that something of ours does not bear
    spec = await bench.begin(line("a"), line(name), line("b"))
    # When the batch runs
    async with bench.running():
        done = await bench.wait(spec)
    # Then it is in the error file, and the batch is completed
    assert (done.status, done.completed, done.failed) == ("completed", 2, 1)
    assert set(await bench.read(done.output_file_id)) == {"a", "b"}
    assert (await bench.read(done.error_file_id))[name]["error"]["code"] == "server_error"
    assert bench.fakes.begun[name] <= 1
    # And nothing of it is left running
    assert await bench.redis.keys("glowl:job:*") == []


@pytest.mark.parametrize(
    ("error", "attempts"),
    [
        ({"code": "engine_unavailable", "status": 503, "retryable": True}, MAX_ATTEMPTS),
        ({"code": "engine_overloaded", "status": 429, "retryable": True}, MAX_ATTEMPTS),
        ({"code": "engine_timeout", "status": 504, "retryable": True}, MAX_DOUBTFUL_ATTEMPTS),
        ({"code": "worker_lost", "status": 500, "retryable": True}, MAX_DOUBTFUL_ATTEMPTS),
        # An engine that fails on the request, a worker that shows a bug, an error that nobody knows: once
        ({"code": "generation_failed", "status": 500, "retryable": True}, 1),
        ({"code": "server_error", "status": 500, "retryable": True}, 1),
        ({"code": "new_in_spring", "status": 418, "retryable": True}, 1),
        ({"code": "invalid_request", "status": 400, "retryable": False}, 1),
        ({"code": "deadline_exceeded", "status": 504, "retryable": False}, 1),
    ],
    ids=lambda value: value["code"] if isinstance(value, dict) else str(value),
)
async def test_only_what_waiting_mends_is_tried_again(bench: Bench, error: dict[str, Any], attempts: int) -> None:
    bench.fakes.fail = {"a": [{"message": "no", **error}] * (MAX_ATTEMPTS + 1)}
    spec = await bench.begin(line("a"), line("b"))
    async with bench.running():
        done = await bench.wait(spec)
    assert bench.fakes.begun == {"a": attempts, "b": 1}
    assert (done.completed, done.failed) == (1, 1)


LINE = json.dumps(line("日本"), ensure_ascii=False) + "\n"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (LINE.encode("utf-16"), "must be UTF-8"),
        (LINE.encode("utf-16-be"), "must be UTF-8"),
        (LINE.encode("utf-32"), "must be UTF-8"),
        ((LINE * 3).encode("gbk"), "must be UTF-8"),
        ((LINE * 20_000).encode("shift_jis"), "must be UTF-8"),
        (gzip.compress(LINE.encode(), mtime=0), "compressed (gzip)"),
        (b"PK\x03\x04\x14\x00 a workbook", "compressed (zip)"),
        (b" \n[" + LINE.encode() + b"]", "one JSON object per line"),
        (json.dumps(line("a"), indent=2).encode(), "one JSON object per line"),
        (b"\xef\xbb\xbf[]", "one JSON object per line"),
    ],
)
async def test_a_file_of_something_else_fails_once(bench: Bench, data: bytes, said: str) -> None:
    spec = await bench.begin_bytes(data)
    async with bench.running():
        done = await bench.wait(spec)
    (error,) = done.errors
    assert (done.status, error["code"], error["param"]) == ("failed", "invalid_input_file", "input_file_id")
    assert said in error["message"]
    assert bench.fakes.begun == {}


@pytest.mark.parametrize(
    "data",
    [
        (LINE + "\u2028\n").encode("utf-8-sig"),
        LINE.encode() + '{"é"'.encode("latin-1"),
        '{"é": 1}\n'.encode("latin-1") + LINE.encode(),
        b"garbage\n" + LINE.encode(),
        json.dumps(line("a")).encode() + '\n{"é"'.encode("latin-1"),
    ],
)
async def test_one_broken_line_is_its_own_error(bench: Bench, data: bytes) -> None:
    spec = await bench.begin_bytes(data)
    async with bench.running():
        done = await bench.wait(spec)
    assert (done.status, done.completed, done.failed) == ("completed", 1, done.total - 1)


async def test_the_wait_before_another_attempt_doubles_up_to_a_minute() -> None:
    run = Run.__new__(Run)
    run._closing = asyncio.Event()
    run._closing.set()  # so that nothing is waited for

    waits = [0.5]
    for _ in range(9):
        waits.append(await run._pause(waits[-1]))

    assert waits == [0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60]


@pytest.mark.parametrize(("late_s", "sleeps"), [(0.0, [0.005]), (0.02, [0.005, 0.08]), (3.0, [0.005, 0.25])])
async def test_lines_give_way_where_the_loop_is_late(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, late_s: float, sleeps: list[float]
) -> None:
    # Given a loop that wakes up later than it was asked to
    now, slept = [100.0], []

    async def sleep(delay_s: float) -> None:
        slept.append(round(delay_s, 6))
        now[0] += delay_s + late_s

    monkeypatch.setattr("router.batches.run.time.monotonic", lambda: now[0])
    monkeypatch.setattr("router.batches.run.asyncio.sleep", sleep)
    # Then the next line waits several times as long as others were made to, within a bound
    await bench.make_runner()._context.turn()
    assert slept == sleeps


async def test_a_bug_shown_after_the_time_is_over_is_its_lines_error_too(bench: Bench) -> None:
    # Given a run that died with an answer in hand that something of ours does not bear
    spec = await bench.begin(line("bug-after"), line("b"))
    ((_, epoch),) = await bench.batches.claim(10)
    await bench.batches.start(spec.id, epoch, 2)
    size = len(json.dumps(line("bug-after"))) + 1
    admitted = Admitted(1, 0, size, "bug-after")
    await bench.batches.admit(spec.id, epoch, admitted, size)
    await bench.fakes.start(Asked("bug-after", line_job_id(spec.id, admitted)))
    await asyncio.gather(*bench.fakes._work)
    # When the next run comes after the time is over
    bench.now[0] += WINDOW_S
    async with bench.running():
        done = await bench.wait(spec)
    # Then both lines are in the error file
    codes = {name: entry["error"]["code"] for name, entry in (await bench.read(done.error_file_id)).items()}
    assert (done.status, codes) == ("expired", {"bug-after": "server_error", "b": "batch_expired"})

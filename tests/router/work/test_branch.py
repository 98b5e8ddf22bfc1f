"""What a worker does with a unit, whatever the engine does; the record is a real redis."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from functools import partial
from typing import Any, cast

import pytest
from PIL import Image
from redis.asyncio import Redis

from engines.base import (
    Box,
    ContextLengthError,
    Delta,
    Engine,
    EngineError,
    EngineInfo,
    EngineOverloadedError,
    EngineTimeoutError,
    EngineUnavailableError,
    GenerationFailedError,
    GenerationRequest,
    ImagePart,
    InvalidRequestError,
    Message,
    SamplingParams,
    TextPart,
)
from engines.echo import EchoEngine
from engines.json_forms import to_boxes
from router.api.objects import to_hybrid
from router.attend import attended
from router.call import to_stored_messages
from router.jobs.job import BranchPlan, Job, JobSpec
from router.jobs.results import UnitResult
from router.jobs.store import JobStore
from router.output_format import OutputFormat
from router.redis import PREFIX
from router.work import asking
from router.work.branch import run_branch
from router.work.context import Context
from router.work.join import join
from router.work.ticket import work
from tests.support.jobs import PAIR, make_spec

DEEP_ALONE = (BranchPlan("deep", "owl2"),)


class Broken(EchoEngine):
    """Says one word, then raises what no engine should, or ends without a word."""

    def __init__(self, error: Exception | None) -> None:
        super().__init__("owl2")
        self._error = error

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        yield Delta(text="half")
        if self._error is not None:
            raise self._error


class Queue:
    """Keeps what was sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str]] = []

    async def send(self, job: Job, unit: str) -> None:
        self.sent.append((job.id, unit))


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[JobStore]:
    redis = Redis.from_url(redis_url)
    yield JobStore(redis, max_attempts=1)
    await redis.aclose()


async def context_of(store: JobStore, **engines: EchoEngine) -> tuple[Context, Queue]:
    queue = Queue()
    for engine in engines.values():
        await engine.start()
    return Context(store, cast("Any", queue), cast("dict[str, Engine]", engines), cast("Any", None)), queue


async def run_all(context: Context, spec: JobSpec) -> Job:
    await context.store.create(spec)
    for branch in spec.branches:
        await run_branch(context, spec.id, branch.name)
    await join(context, spec.id)
    job = await context.store.get(spec.id)
    assert job is not None
    return job


async def test_the_engine_is_told_the_owner_and_its_log_probabilities_are_kept(store: JobStore) -> None:
    engine = EchoEngine("owl2")
    context, _ = await context_of(store, owl2=engine)
    spec = make_spec(owner="alice", branches=DEEP_ALONE, strategy="single", sampling=SamplingParams(top_logprobs=2))

    job = await run_all(context, spec)

    assert engine.last_request is not None
    assert engine.last_request.caller == "alice"
    assert job.final is not None
    assert "".join(token.token for token in job.final.logprobs) == job.final.text
    deltas = [event for event in await store.read_events(spec.id) if event.kind == "delta"]
    assert [event.text for event in deltas] == ["".join(token.token for token in event.logprobs) for event in deltas]


@pytest.mark.parametrize("strategy", ["deep", "compose"])
async def test_the_log_probabilities_are_of_whoever_wrote_the_final_answer(store: JobStore, strategy: str) -> None:
    context, _ = await context_of(store, glm=EchoEngine("glm"), owl2=EchoEngine("owl2"))

    job = await run_all(context, make_spec(strategy=strategy, sampling=SamplingParams(top_logprobs=0)))

    assert job.final is not None
    assert job.final.strategy == strategy
    assert job.final.text.startswith("[echo glm]" if strategy == "compose" else "[echo owl2]")
    assert "".join(token.token for token in job.final.logprobs) == job.final.text


async def test_when_only_the_draft_can_give_log_probabilities_it_is_the_answer_and_says_so(store: JobStore) -> None:
    owl2 = EchoEngine("owl2", fail_with=InvalidRequestError("none here", param="logprobs"))
    context, _ = await context_of(store, glm=EchoEngine("glm"), owl2=owl2)

    job = await run_all(context, make_spec(sampling=SamplingParams(top_logprobs=0)))

    assert job.final is not None
    assert job.final.logprobs
    assert "owl2 gave no answer" in job.final.degraded[0]


async def test_when_no_engine_can_give_log_probabilities_the_error_names_the_field(store: JobStore) -> None:
    refusal = InvalidRequestError("none here", param="logprobs")
    engines = {name: EchoEngine(name, fail_with=refusal) for name in ("glm", "owl2")}
    context, _ = await context_of(store, **engines)

    job = await run_all(context, make_spec(sampling=SamplingParams(top_logprobs=0)))

    assert job.error is not None
    assert (job.error["status"], job.error["param"]) == (400, "logprobs")


@pytest.mark.parametrize("error", [KeyError("a secret"), None])
async def test_an_engine_that_breaks_in_no_foreseen_way_fails_its_branch_at_once(
    store: JobStore, error: Exception | None, caplog: pytest.LogCaptureFixture
) -> None:
    context, queue = await context_of(store, owl2=Broken(error))
    spec = make_spec(branches=DEEP_ALONE, strategy="single")
    await store.create(spec)

    await run_branch(context, spec.id, "deep")

    job = await store.get(spec.id)
    assert job is not None
    assert job.units["deep"].state == "failed"
    result = job.units["deep"].result
    assert result is not None
    assert result.error is not None
    assert result.error["code"] == ("generation_failed" if error is None else "internal_error")
    assert "secret" not in result.error["message"]
    assert ("a secret" in caplog.text) == (error is not None)
    assert queue.sent == [(spec.id, "merge")]


REFUSALS: dict[str, tuple[EngineError, int]] = {
    "full": (EngineOverloadedError("full"), 0),
    "away": (EngineUnavailableError("loading"), 0),
    "broken": (GenerationFailedError("no memory"), 1),
    "silent": (EngineTimeoutError("silent"), 1),
}


@pytest.mark.parametrize(("refusal", "num_failures"), REFUSALS.values(), ids=REFUSALS)
async def test_an_engine_that_is_full_or_away_is_no_failure_of_the_run(
    redis: Redis, refusal: EngineError, num_failures: int
) -> None:
    store = JobStore(redis, max_attempts=2)
    context, queue = await context_of(store, owl2=EchoEngine("owl2", fail_with=refusal))
    spec = make_spec(branches=DEEP_ALONE, strategy="single")
    await store.create(spec)

    await run_branch(context, spec.id, "deep")

    job = await store.get(spec.id)
    assert job is not None
    assert (job.units["deep"].state, job.units["deep"].failures) == ("queued", num_failures)
    assert queue.sent == []


async def test_an_engine_that_dies_of_a_request_is_not_fed_it_for_ever(redis: Redis) -> None:
    refusal = EngineUnavailableError("the connection broke")
    refusal.is_broken_off = True
    store = JobStore(redis, max_attempts=2)
    context, queue = await context_of(store, owl2=EchoEngine("owl2", fail_with=refusal))
    spec = make_spec(branches=DEEP_ALONE, strategy="single")
    await store.create(spec)

    for _ in range(2):
        await run_branch(context, spec.id, "deep")

    job = await store.get(spec.id)
    assert job is not None
    assert (job.units["deep"].state, queue.sent) == ("failed", [(spec.id, "merge")])


async def test_a_full_engine_is_asked_again_when_it_says_and_else_less_and_less_often(redis: Redis) -> None:
    refusal = EngineOverloadedError("full")
    store = JobStore(redis)
    context, _ = await context_of(store, owl2=EchoEngine("owl2", fail_with=refusal))
    spec = make_spec(branches=DEEP_ALONE, strategy="single")
    await store.create(spec)
    waits = []
    for refusal.retry_after_s in (20.0, 600.0, None, None):
        await run_branch(context, spec.id, "deep")
        job = await store.get(spec.id)
        [(_, due_at)] = await redis.zrange(f"{PREFIX}delayed", 0, -1, withscores=True)
        assert job is not None
        waits.append(round(due_at - (job.units["deep"].began_at or 0)))

    assert waits == [20, 60, 8, 16]


@pytest.mark.parametrize(
    "bug", [TypeError("x"), KeyError("x"), RecursionError("x"), UnicodeEncodeError("utf-8", "\ud800", 0, 1, "x")]
)
async def test_a_bug_is_not_retried_as_if_an_engine_were_away(redis: Redis, bug: Exception) -> None:
    store = JobStore(redis, max_attempts=3)
    context, _ = await context_of(store, glm=EchoEngine("glm"), owl2=Broken(bug))

    job = await run_all(context, make_spec())

    assert (job.units["deep"].state, job.units["deep"].epoch) == ("failed", 1)
    assert job.final is not None
    note = f"owl2 gave no answer (internal_error): The worker failed: {type(bug).__name__}."
    assert (job.final.engine, job.final.degraded) == ("glm", (note,))


@pytest.mark.parametrize("trouble", [OSError("no file descriptors"), TimeoutError(), MemoryError()])
async def test_what_the_machine_lacks_for_a_moment_is_retried(redis: Redis, trouble: Exception) -> None:
    store = JobStore(redis, max_attempts=3)
    context, _ = await context_of(store, owl2=Broken(trouble))
    spec = make_spec(branches=DEEP_ALONE, strategy="single")
    await store.create(spec)

    await run_branch(context, spec.id, "deep")

    job = await store.get(spec.id)
    assert job is not None
    assert (job.units["deep"].state, job.units["deep"].failures) == ("queued", 1)


@pytest.mark.parametrize("branches", [PAIR, DEEP_ALONE])
async def test_a_bug_in_the_merge_costs_no_answer(
    store: JobStore, branches: tuple[BranchPlan, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def resolve(*_: Any) -> Any:
        raise TypeError("a bug")

    context, _ = await context_of(store, glm=EchoEngine("glm"), owl2=EchoEngine("owl2"))
    monkeypatch.setattr("router.work.join.merge.resolve", resolve)

    job = await run_all(context, make_spec(branches=branches, sampling=SamplingParams()))

    assert job.final is not None
    assert (job.final.engine, job.state) == ("owl2", "completed")
    assert "could not be merged" in job.final.degraded[0]


async def test_an_empty_answer_of_owl2_leaves_the_draft_and_is_not_told(store: JobStore) -> None:
    # Given an Owl2 that writes a line break and a mark, and is done
    context, _ = await context_of(store, glm=EchoEngine("glm"), owl2=Saying("owl2", "\n </s>"))

    job = await run_all(context, make_spec())

    assert job.final is not None
    assert job.final.text.startswith("[echo glm]")
    assert job.final.degraded == ("owl2 gave no answer (empty_answer): it wrote nothing",)
    assert job.final.degraded_zh == ("owl2 没有给出回答（empty_answer）：没有写出任何内容",)
    assert (job.units["deep"].state, job.units["deep"].epoch) == ("failed", 1)
    # What a reader of the stream cannot take back was never sent.
    assert [event for event in await store.read_events(job.id) if event.kind == "delta" and event.unit == "deep"] == []


async def test_an_empty_draft_is_none(store: JobStore) -> None:
    context, _ = await context_of(store, glm=Saying("glm", "..."), owl2=EchoEngine("owl2"))

    job = await run_all(context, make_spec(strategy="compose"))

    assert job.draft is None
    assert job.final is not None
    assert (job.final.engine, job.final.agreement) == ("owl2", None)
    assert job.final.degraded == ("glm gave no answer (empty_answer): it wrote nothing",)


async def test_when_both_write_nothing_there_is_no_answer(store: JobStore) -> None:
    context, _ = await context_of(store, glm=Saying("glm", " "), owl2=Saying("owl2", ""))

    job = await run_all(context, make_spec())

    assert job.error is not None
    assert (job.state, job.error["code"]) == ("failed", "empty_answer")


async def test_words_after_white_space_are_told_whole(store: JobStore) -> None:
    context, _ = await context_of(store, owl2=Saying("owl2", "\n \n- a cat"))

    job = await run_all(
        context, make_spec(branches=DEEP_ALONE, strategy="single", sampling=SamplingParams(top_logprobs=0))
    )

    deltas = [event for event in await store.read_events(job.id) if event.kind == "delta"]
    assert job.final is not None
    assert "".join(event.text for event in deltas) == job.final.text == "\n \n- a cat"
    assert [token for event in deltas for token in event.logprobs] == list(job.final.logprobs)


async def test_a_bug_while_composing_leaves_the_deep_answer(store: JobStore) -> None:
    context, _ = await context_of(store, glm=EchoEngine("glm"), owl2=EchoEngine("owl2"))
    spec = make_spec(strategy="compose")
    await store.create(spec)
    for unit in ("draft", "deep"):
        await run_branch(context, spec.id, unit)

    broken, _ = await context_of(store, glm=Broken(KeyError("x")))
    await join(broken, spec.id)

    job = await store.get(spec.id)
    assert job is not None
    assert job.final is not None
    assert job.final.text.startswith("[echo owl2]")
    assert "could not be composed" in job.final.degraded[-1]


class Away(EchoEngine):
    """A GLM that is there for nobody, and says so in its own way."""

    def __init__(self, error: EngineError) -> None:
        super().__init__("glm")
        self._error = error

    async def info(self) -> EngineInfo:
        raise self._error

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        raise self._error
        yield


@pytest.mark.parametrize("strategy", ["deep", "compose"])
@pytest.mark.parametrize(
    "error",
    [
        EngineUnavailableError("The engine is loading."),
        EngineUnavailableError("The engine cannot be reached."),
        EngineUnavailableError("The engine has stopped answering."),
    ],
)
async def test_a_glm_that_loads_is_told_like_one_that_is_gone(redis: Redis, strategy: str, error: EngineError) -> None:
    # Given a job whose draft found no GLM, and Owl2's answer
    store = JobStore(redis, grace_s=0.0, merge_patience_s=3600)
    context, _ = await context_of(store, glm=Away(error), owl2=EchoEngine("owl2"))
    spec = make_spec(strategy=strategy, sampling=SamplingParams())
    await store.create(spec)
    await run_branch(context, spec.id, "draft")
    waiting = await store.get(spec.id)
    assert waiting is not None
    assert (waiting.units["draft"].state, waiting.units["draft"].failures) == ("queued", 0)
    await run_branch(context, spec.id, "deep")

    # When the reaper sees that GLM answers no look
    await store.reap(down=frozenset({"glm"}))
    await join(context, spec.id)

    # Then the answer is Owl2's, and says what is missing in the same words, whatever kept GLM away
    job = await store.get(spec.id)
    assert job is not None
    assert job.final is not None
    assert job.final.text.startswith("[echo owl2]")
    said = "glm gave no answer (not_awaited): it did not answer in time, and the other answer was there"
    assert job.final.degraded[0] == said
    assert job.final.degraded_zh[0].startswith("glm 没有给出回答（not_awaited）")


async def test_a_finished_answer_does_not_wait_for_ever_to_be_composed(redis: Redis) -> None:
    # Given both answers, and a GLM that is well and says nothing when it is to compose
    store = JobStore(redis, merge_patience_s=0.01)
    context, _ = await context_of(store, glm=EchoEngine("glm"), owl2=EchoEngine("owl2"))
    spec = make_spec(strategy="compose")
    await store.create(spec)
    for unit in ("draft", "deep"):
        await run_branch(context, spec.id, unit)
    silent, _ = await context_of(store, glm=EchoEngine("glm", delta_delay_s=3600))

    await join(silent, spec.id)

    job = await store.get(spec.id)
    assert job is not None
    assert job.final is not None
    assert job.final.text.startswith("[echo owl2]")
    assert job.final.degraded == ("the answers could not be composed by glm: The engine said nothing for 0.01 s.",)


async def test_a_finished_answer_is_not_composed_by_an_engine_that_has_stopped(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given both answers, and a GLM that stops before it composes: it answers no look either
    monkeypatch.setattr(asking, "attended", partial(attended, look_s=0.001))
    monkeypatch.setattr(asking, "UNHEARD_S", 0.01)
    store = JobStore(redis, merge_patience_s=3600)
    context, _ = await context_of(store, glm=EchoEngine("glm"), owl2=EchoEngine("owl2"))
    spec = make_spec(strategy="compose")
    await store.create(spec)
    for unit in ("draft", "deep"):
        await run_branch(context, spec.id, unit)
    stopped, _ = await context_of(store, glm=EchoEngine("glm", delta_delay_s=3600))

    async def look() -> bool:
        await asyncio.Event().wait()
        return True

    async with asyncio.timeout(300):
        await join(replace(stopped, looks={"glm": look}), spec.id)

    job = await store.get(spec.id)
    assert job is not None
    assert job.final is not None
    assert job.final.text.startswith("[echo owl2]")
    assert job.final.degraded == ("the answers could not be composed by glm: The engine has stopped answering.",)


class SlowToAnswer(JobStore):
    """Its answer to `finish` arrives long after the record was changed."""

    async def finish(self, job_id: str, unit: str, epoch: int, result: UnitResult) -> bool:
        is_last = await super().finish(job_id, unit, epoch, result)
        assert await self.renew(job_id, unit, epoch) is False  # what any renewal finds from here on
        await asyncio.sleep(5 * self.lease_s)  # time for several of them
        return is_last


async def test_a_renewal_that_finds_the_unit_finished_does_not_lose_the_merge(redis_url: str) -> None:
    redis = Redis.from_url(redis_url)
    context, queue = await context_of(SlowToAnswer(redis, lease_s=0.03), owl2=EchoEngine("owl2"))
    spec = make_spec(branches=DEEP_ALONE, strategy="single")
    await context.store.create(spec)

    await run_branch(context, spec.id, "deep")

    assert queue.sent == [(spec.id, "merge")]
    await redis.aclose()


async def test_whoever_ends_the_last_branch_merges_too_unless_an_engine_is_asked(store: JobStore) -> None:
    context, queue = await context_of(store, glm=EchoEngine("glm"), owl2=EchoEngine("owl2"))
    plain, composed = (make_spec(strategy=each, sampling=SamplingParams()) for each in ("deep", "compose"))
    for spec in (plain, composed):
        await store.create(spec)

    # Given four tickets, one per branch, in any order
    for name in ("owl2", "glm", "owl2", "glm"):
        await work(context, name)

    # Then one job has ended, and the other waits for a place among those that compose
    jobs = [await store.get(spec.id) for spec in (plain, composed)]
    assert [(job.state, job.units["merge"].state) for job in jobs if job] == [
        ("completed", "completed"),
        ("in_progress", "queued"),
    ]
    assert queue.sent == [(composed.id, "merge")]
    assert await store.depths() == {"glm": 1}
    await work(context, "glm")
    ended = await store.get(composed.id)
    assert ended is not None
    assert ended.state == "completed"


DEEP, DRAFT = BranchPlan("deep", "owl2"), BranchPlan("draft", "glm")
GROUPS = (BranchPlan("deep-1", "owl2", pictures=(1, 2)), BranchPlan("deep-2", "owl2", pictures=(3, 4)))


@pytest.mark.parametrize(
    ("strategy", "branches", "queue"),
    [
        ("deep", (DRAFT, DEEP), "light"),
        ("deep", (DEEP,), "light"),
        ("fields", (DEEP,), "light"),
        ("deep", GROUPS, "owl2"),
        ("deep", (DRAFT, *GROUPS), "owl2"),
        ("compose", (DRAFT, DEEP), "glm"),
        ("compose", GROUPS, "glm"),
        ("fields", (DRAFT, DEEP), "glm"),
        ("fields", (DRAFT, *GROUPS), "glm"),
    ],
)
async def test_a_merge_waits_for_no_engine_but_the_one_that_it_asks(
    store: JobStore, strategy: str, branches: tuple[BranchPlan, ...], queue: str
) -> None:
    context, _ = await context_of(store)
    spec = make_spec(strategy=strategy, branches=branches, sampling=SamplingParams())
    await context.store.create(spec)
    for branch in branches:
        epoch = await store.claim(spec.id, branch.name)
        assert epoch
        await store.finish(spec.id, branch.name, epoch, UnitResult(text="t"))

    assert await store.depths() == {queue: 1}


async def test_an_adapter_of_owl2_is_asked_of_owl2_alone(store: JobStore) -> None:
    engines = {name: EchoEngine(name, adapters=("receipts",)) for name in ("glm", "owl2")}
    context, _ = await context_of(store, **engines)

    job = await run_all(context, make_spec(adapter="receipts", adapter_engine="owl2"))

    assert {name: engine.last_request.adapter for name, engine in engines.items() if engine.last_request} == {
        "glm": "",
        "owl2": "receipts",
    }
    assert job.final is not None
    assert job.final.model == "mplug-owl2-echo:receipts"


async def test_only_glm_is_given_the_adapter_and_the_pictures_first(store: JobStore) -> None:
    # Given a job that names an adapter, its question in front of its picture
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")
    image = ImagePart(buffer.getvalue(), "image/png", "0" * 64)
    await store.put_images([image])
    text = TextPart("What is it?")
    engines = {name: EchoEngine(name, adapters=("receipts",)) for name in ("glm", "owl2")}
    context, _ = await context_of(store, **engines)
    stored = to_stored_messages((Message("user", (text, image)),))

    job = await run_all(context, make_spec(messages=stored, adapter="receipts"))

    requests = {name: engine.last_request for name, engine in engines.items()}
    assert requests["glm"] is not None
    assert requests["owl2"] is not None
    assert (requests["glm"].adapter, requests["owl2"].adapter) == ("receipts", "")
    assert requests["glm"].messages[0].parts == (image, text)
    assert requests["owl2"].messages[0].parts == (text, image)
    assert job.draft is not None
    assert job.draft.model == "glm-4.6v-flash-echo:receipts"
    assert job.final is not None
    assert job.final.model == "mplug-owl2-echo"


class Boxing(EchoEngine):
    """Names a place in a picture."""

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        async for delta in super().stream(request):
            yield replace(delta, boxes=(Box(1.0, 2.0, 3.0, 4.0),)) if delta.finish_reason is None else delta


@pytest.mark.parametrize(("strategy", "has_boxes"), [("deep", False), ("compose", True)])
async def test_boxes_are_those_of_whoever_wrote_the_final_answer(
    store: JobStore, strategy: str, has_boxes: bool
) -> None:
    context, _ = await context_of(store, glm=Boxing("glm"), owl2=EchoEngine("owl2"))

    job = await run_all(context, make_spec(strategy=strategy))

    assert job.draft is not None
    assert job.draft.boxes[0] == Box(1.0, 2.0, 3.0, 4.0)
    assert job.final is not None
    assert bool(job.final.boxes) == has_boxes
    assert to_hybrid(job)["boxes"] == to_boxes(job.final.boxes)


HELD = SamplingParams(json_schema='{"type":"object"}')


async def test_with_a_schema_owl2_answers_in_prose_and_glm_writes_the_json(store: JobStore) -> None:
    glm, owl2 = EchoEngine("glm"), EchoEngine("owl2")
    context, _ = await context_of(store, glm=glm, owl2=owl2)
    wanted = OutputFormat("json_object")

    job = await run_all(context, make_spec(sampling=HELD, output_format=wanted, strategy="compose"))

    assert owl2.last_request is not None
    assert owl2.last_request.sampling.json_schema is None
    assert "JSON" not in owl2.last_request.messages[-1].text
    assert glm.last_request is not None
    assert glm.last_request.messages[-1].text.endswith("Answer with one JSON object and nothing else.")
    assert job.final is not None
    assert job.final.engine == "glm"
    assert "echo" in json.loads(job.final.text)


async def test_with_a_schema_and_glm_gone_the_merge_is_tried_again_and_then_fails_honestly(redis_url: str) -> None:
    # Given an Owl2 that answers and a GLM that does not
    glm = EchoEngine("glm", fail_with=GenerationFailedError("gone"))
    redis = Redis.from_url(redis_url)
    patient = JobStore(redis, max_attempts=2)
    context, _ = await context_of(patient, glm=glm, owl2=EchoEngine("owl2"))
    spec = make_spec(sampling=HELD, output_format=OutputFormat("json_object"), strategy="compose")
    await patient.create(spec)
    await run_branch(context, spec.id, "deep")
    await run_branch(context, spec.id, "draft")
    await run_branch(context, spec.id, "draft")

    # When the merge runs, and runs again
    await join(context, spec.id)
    waiting = await patient.get(spec.id)
    await join(context, spec.id)
    ended = await patient.get(spec.id)
    await redis.aclose()

    # Then the job waits in between, and ends with an error instead of prose
    assert waiting is not None
    assert waiting.state == "in_progress"
    assert ended is not None
    assert (ended.state, ended.final) == ("failed", None)
    assert ended.error is not None
    assert ended.error["code"] == "generation_failed"
    assert "Only GLM" in ended.error["message"]


BILL = {
    "type": "object",
    "properties": {"total": {"type": "integer"}, "is_paid": {"type": "boolean"}},
    "required": ["total"],
}


class Saying(EchoEngine):
    """Gives one answer after the other; an exception in their place is raised."""

    def __init__(self, name: str, *answers: str | Exception, **options: Any) -> None:
        super().__init__(name, **options)
        self._answers = list(answers)
        self.requests: list[GenerationRequest] = []

    def _answer_text(self, request: GenerationRequest, pictures: list[str]) -> str:
        self.requests.append(request)
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def bill_spec() -> JobSpec:
    sampling, wanted = SamplingParams(json_schema=json.dumps(BILL)), OutputFormat("json_schema", "bill")
    return make_spec(sampling=sampling, output_format=wanted, strategy="fields", language="zh")


async def test_owl2_is_asked_for_json_by_words_and_its_fields_are_merged(store: JobStore) -> None:
    owl2 = Saying("owl2", "Sure:\n```json\n{'total': 3, 'is_paid': True,}\n```")
    context, _ = await context_of(store, glm=Saying("glm", '{"total":3,"is_paid":false}'), owl2=owl2)

    job = await run_all(context, bill_spec())

    assert job.final is not None
    assert (job.final.text, job.final.strategy) == ('{"total":3,"is_paid":true}', "fields")
    assert job.final.provenance == {"/total": "agree", "/is_paid": "owl2"}
    assert job.final.degraded == ()
    assert [request.sampling.json_schema for request in owl2.requests] == [None]
    assert "- total (integer)" in owl2.requests[0].messages[-1].text
    assert job.units["deep"].result is not None
    assert job.units["deep"].result.json_state == "valid"
    shown = to_hybrid(job)
    assert (shown["merge"], shown["provenance"], len(shown["conflicts"])) == ("fields", job.final.provenance, 1)
    assert (shown["agreement"], shown["agreement_basis"], shown["degraded"]) == (0.5, ["fields"], [])


async def test_what_is_wrong_with_owl2s_json_is_told_once_and_both_calls_are_counted(store: JobStore) -> None:
    owl2 = Saying("owl2", '{"total": "three"}', '{"total": 3}')
    context, _ = await context_of(store, glm=Saying("glm", '{"total":3}'), owl2=owl2)

    job = await run_all(context, bill_spec())

    told = owl2.requests[1].messages
    assert [message.role for message in told[-3:]] == ["user", "assistant", "user"]
    assert told[-2].text == '{"total": "three"}'
    assert "at total: 'three' is not of type 'integer'" in told[-1].text
    deep = job.units["deep"].result
    assert deep is not None
    assert (deep.text, deep.json_state) == ('{"total":3}', "repaired")
    assert deep.usage.completion_tokens == 4
    assert job.final is not None
    assert job.final.strategy == "fields"
    assert "was repaired" in job.final.degraded[0]
    assert "已修复" in to_hybrid(job)["degraded"][0]
    # And what was streamed of the branch is what it said first.
    events = await store.read_events(job.id)
    assert "".join(e.text for e in events if e.kind == "delta" and e.unit == "deep") == '{"total": "three"}'


@pytest.mark.parametrize(
    "answers",
    [("three", "still three"), ("three", EngineUnavailableError("gone")), ("three", ContextLengthError("too long"))],
    ids=["prose", "gone", "full"],
)
async def test_what_stays_prose_is_put_into_the_form_by_glm(
    store: JobStore, answers: tuple[str | Exception, ...]
) -> None:
    glm = Saying("glm", '{"total":3}', '{"total":4}')
    context, _ = await context_of(store, glm=glm, owl2=Saying("owl2", *answers))

    job = await run_all(context, bill_spec())

    assert job.final is not None
    assert (job.final.text, job.final.strategy) == ('{"total":4}', "compose")
    assert "three" in glm.requests[1].messages[-1].text
    assert "wrote no JSON" in job.final.degraded[0]


async def test_json_that_was_cut_is_not_repaired(store: JobStore) -> None:
    owl2 = Saying("owl2", "a b c d e f")
    context, _ = await context_of(store, glm=Saying("glm", '{"total":3}', '{"total":4}'), owl2=owl2)
    spec = bill_spec()

    job = await run_all(context, replace(spec, sampling=replace(spec.sampling, max_tokens=2)))

    assert len(owl2.requests) == 1
    assert job.final is not None
    assert job.final.strategy == "compose"

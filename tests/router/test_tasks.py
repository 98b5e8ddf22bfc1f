"""What a worker does with a unit, whatever the engine does; the record is a real redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, cast

import pytest
from redis.asyncio import Redis

from engines.base import Delta, Engine, GenerationRequest, InvalidRequestError, SamplingParams
from engines.echo import EchoEngine
from router import tasks
from router.jobs.job import BranchPlan, Job, JobSpec, UnitResult
from router.jobs.store import JobStore
from tests.router.jobs.test_store import make_spec

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

    async def send(self, job_id: str, unit: str, engine: str | None = None) -> None:
        self.sent.append((job_id, unit))


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[JobStore]:
    redis = Redis.from_url(redis_url)
    yield JobStore(redis, max_failures=1)
    await redis.aclose()


async def context_of(store: JobStore, **engines: EchoEngine) -> tuple[tasks.Context, Queue]:
    queue = Queue()
    for engine in engines.values():
        await engine.start()
    return tasks.Context(store, cast("Any", queue), cast("dict[str, Engine]", engines), cast("Any", None)), queue


async def run_all(context: tasks.Context, spec: JobSpec) -> Job:
    await context.store.create(spec)
    for branch in spec.branches:
        await tasks.run_branch(context, spec.id, branch.name)
    await tasks.join(context, spec.id)
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

    await tasks.run_branch(context, spec.id, "deep")

    job = await store.get(spec.id)
    assert job is not None
    assert job.units["deep"].state == "failed"
    result = job.units["deep"].result
    assert result is not None
    assert result.error is not None
    assert result.error["code"] == "generation_failed"
    assert "secret" not in result.error["message"]
    assert ("a secret" in caplog.text) == (error is not None)
    assert queue.sent == [(spec.id, "merge")]


async def test_a_bug_while_composing_leaves_the_deep_answer(store: JobStore) -> None:
    context, _ = await context_of(store, glm=EchoEngine("glm"), owl2=EchoEngine("owl2"))
    spec = make_spec(strategy="compose")
    await store.create(spec)
    for unit in ("draft", "deep"):
        await tasks.run_branch(context, spec.id, unit)

    broken, _ = await context_of(store, glm=Broken(KeyError("x")))
    await tasks.join(broken, spec.id)

    job = await store.get(spec.id)
    assert job is not None
    assert job.final is not None
    assert job.final.text.startswith("[echo owl2]")
    assert "could not be composed" in job.final.degraded[-1]


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

    await tasks.run_branch(context, spec.id, "deep")

    assert queue.sent == [(spec.id, "merge")]
    await redis.aclose()

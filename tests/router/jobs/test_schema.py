"""Workers of one release beside apis of another: old records are gone on with, newer ones left to who can read them.

`records/0.1.0.json` holds what redis had for two jobs of release 0.1.0, written by that release's own code.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
from redis.asyncio import Redis

from engines.base import Engine, SamplingParams
from engines.echo import EchoEngine
from engines.tools import Tool, ToolUse
from router.api.objects import to_response
from router.api.stream import ResponseStream
from router.errors import NewerRecordError
from router.jobs.job import MERGE, BranchPlan, Job, JobSpec
from router.jobs.rows import Reaped, to_job
from router.jobs.store import JobStore
from router.redis import PREFIX
from router.schema import SCHEMA
from router.work.branch import run_branch
from router.work.context import Context
from router.work.join import join
from router.work.reaper import reap_once
from router.work.ticket import work
from tests.support.jobs import make_spec

OLD: dict[str, dict[str, str]] = json.loads((Path(__file__).parent / "records" / "0.1.0.json").read_text("utf-8"))


class Queue:
    """Sends nothing: the tests run what is due themselves."""

    async def send(self, job: Job, unit: str) -> None:
        pass

    async def send_tickets(self, tickets: dict[str, int]) -> None:
        pass


@pytest.fixture
async def context(redis_url: str) -> AsyncIterator[Context]:
    redis = Redis.from_url(redis_url)
    engines = {name: EchoEngine(name) for name in ("glm", "owl2")}
    for engine in engines.values():
        await engine.start()
    nothing = cast("Any", None)
    yield Context(JobStore(redis), cast("Any", Queue()), cast("dict[str, Engine]", engines), nothing)
    await redis.aclose()


@pytest.fixture
def newer(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Until it is undone, this process is of a release with another schema."""
    make_newer(monkeypatch)
    return monkeypatch


def make_newer(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SCHEMA", "SCHEMA_WITHOUT_TOOLS"):
        monkeypatch.setattr(f"router.jobs.job.{name}", SCHEMA + 1)


async def read(context: Context, job_id: str) -> Job:
    job = await context.store.get(job_id)
    assert job is not None
    return job


@pytest.mark.parametrize(
    ("name", "state", "text"),
    [("queued", "queued", None), ("merge_due", "in_progress", None), ("completed",) * 2 + ("orange",)],
)
def test_records_of_the_first_release_are_read(name: str, state: str, text: str | None) -> None:
    job = to_job({key: value.encode() for key, value in OLD[name].items()})
    assert (job.state, job.final.text if job.final else None) == (state, text)
    assert [branch.engine for branch in job.spec.branches] == ["glm", "owl2"]


@pytest.mark.parametrize("name", ["queued", "merge_due"])
async def test_jobs_of_the_first_release_are_gone_on_with(context: Context, name: str) -> None:
    record = OLD[name]
    job_id = json.loads(record["spec"])["id"]
    await cast("Any", context.store.redis.hset(f"{PREFIX}job:{job_id}", mapping=record))

    for unit in ("draft", "deep"):
        await run_branch(context, job_id, unit)
    await join(context, job_id)

    job = await read(context, job_id)
    assert job.state == "completed"
    assert job.final is not None
    assert job.final.text == (
        "orange" if name == "merge_due" else "[echo owl2] no pictures, question: What is left of the red square?"
    )


async def test_an_older_worker_gives_a_newer_branch_back_and_a_newer_one_runs_it(
    context: Context, newer: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Given a job that a newer api accepted
    spec = make_spec(sampling=SamplingParams())
    await context.store.create(spec)
    key = f"{PREFIX}job:{spec.id}"
    written = await cast("Any", context.store.redis.hget(key, "spec"))

    # When an older worker takes its turn
    newer.undo()
    await work(context, "glm")

    # Then the record is as it was, without a failed run, and the log says why
    raw = {
        name.decode(): value.decode() for name, value in (await cast("Any", context.store.redis.hgetall(key))).items()
    }
    assert (raw["draft.state"], raw.get("draft.failures")) == ("queued", None)
    assert raw["spec"].encode() == written
    assert "draft.result" not in raw
    assert f"schema {SCHEMA + 1}; this one reads up to {SCHEMA}" in caplog.text

    # And a newer worker finishes it
    make_newer(newer)
    for branch in spec.branches:
        await run_branch(context, spec.id, branch.name)
    await join(context, spec.id)
    job = await read(context, spec.id)
    assert job.state == "completed"
    assert {unit.failures for unit in job.units.values()} == {0}


async def test_an_older_worker_gives_a_newer_merge_back(context: Context, newer: pytest.MonkeyPatch) -> None:
    # Given branches that newer workers ran
    spec = make_spec(strategy="compose", sampling=SamplingParams())
    await context.store.create(spec)
    for branch in spec.branches:
        await run_branch(context, spec.id, branch.name)

    newer.undo()
    await work(context, "glm")

    make_newer(newer)
    job = await read(context, spec.id)
    assert (job.state, job.units[MERGE].state, job.units[MERGE].failures) == ("in_progress", "queued", 0)
    await join(context, spec.id)
    assert (await read(context, spec.id)).state == "completed"


async def test_an_older_reaper_leaves_a_newer_job_that_is_overdue(
    context: Context, newer: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spec = make_spec()
    await context.store.create(spec)
    newer.undo()
    store = context.store

    async def reap(down_queues: frozenset[str]) -> Reaped:
        return Reaped(overdue=[(spec.id, "expired")])

    newer.setattr(store, "reap", reap)
    await reap_once(store, context.queue)

    assert caplog.records == []
    make_newer(newer)
    assert (await read(context, spec.id)).state == "queued"


async def test_a_newer_job_does_not_hide_the_others_of_a_list(context: Context, newer: pytest.MonkeyPatch) -> None:
    store = context.store
    newer.undo()
    ours = await store.create(make_spec(owner="ann"))
    make_newer(newer)
    theirs = await store.create(make_spec(owner="ann"))
    newer.undo()

    page = await store.list_jobs("ann", limit=2)
    assert page is not None
    assert [job.id for job in page.jobs] == [ours.id]
    first = await store.list_jobs("ann", limit=1)
    assert first is not None
    assert (first.jobs, first.has_more, first.last_id) == ([], True, theirs.id)


def test_callers_are_told_to_come_back_in_both_languages(newer: pytest.MonkeyPatch) -> None:
    record = {"units": b"draft", "state": b"queued", "spec": json.dumps(make_spec().to_dict()).encode()}
    newer.undo()
    with pytest.raises(NewerRecordError) as refused:
        to_job(record)
    error = refused.value
    assert (error.status_code, error.code, error.retry_after_s) == (503, "newer_record", 30)
    assert f"schema {SCHEMA + 1}" in error.message
    assert f"schema {SCHEMA + 1}" in error.message_zh


def test_only_a_job_with_functions_is_kept_from_an_older_release() -> None:
    plain, tools = make_spec(), make_spec(sampling=SamplingParams(tool_use=ToolUse((Tool("clock"),))))

    assert (plain.to_dict()["schema"], tools.to_dict()["schema"]) == (1, SCHEMA)
    assert JobSpec.from_dict(json.loads(json.dumps(tools.to_dict()))) == tools


async def test_a_worker_calls_functions_too_and_streams_them_whole(context: Context) -> None:
    question = 'say: I look.\ncall: clock {"zone": "utc"}'
    spec = make_spec(
        messages=[{"role": "user", "parts": [{"type": "text", "text": question}]}],
        sampling=SamplingParams(tool_use=ToolUse((Tool("clock"),))),
        branches=(BranchPlan("fast", "glm"),),
        strategy="single",
    )
    await context.store.create(spec)

    await run_branch(context, spec.id, "fast")
    await join(context, spec.id)

    job = await read(context, spec.id)
    assert job.final is not None
    (call,) = job.final.tool_calls
    assert (job.state, job.final.text, call.arguments) == ("completed", "I look.", '{"zone": "utc"}')
    stream = ResponseStream(job)
    told = [each for event in await context.store.read_events(spec.id) for each in stream.feed(event)]
    told += stream.finish(job)
    added = [each["item"]["type"] for each in told if each["type"] == "response.output_item.added"]
    assert added == ["message", "function_call"]
    assert [each["item"] for each in told if each["type"] == "response.output_item.done"] == to_response(job)["output"]

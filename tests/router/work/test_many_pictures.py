"""A job with more pictures than Owl2 takes at a time, as a worker runs it; the record is a real redis."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from PIL import Image
from redis.asyncio import Redis

from engines.base import (
    Delta,
    EngineError,
    EngineUnavailableError,
    GenerationFailedError,
    GenerationRequest,
    ImagePart,
    InvalidImageError,
    Message,
    SamplingParams,
    TextPart,
)
from engines.echo import EchoEngine
from router.answers import groups
from router.answers.agreement import compare
from router.api.stream import to_response_events
from router.call import to_stored_messages
from router.jobs.job import BranchPlan, Event, Job, JobSpec
from router.jobs.store import JobStore
from router.output_format import OutputFormat
from router.work.branch import run_branch
from router.work.join import join
from tests.router.work.test_branch import context_of
from tests.support.jobs import make_spec

QUESTION = "How many owls?"
DRAFT = BranchPlan("draft", "glm")
HELD: dict[str, Any] = {
    "sampling": SamplingParams(json_schema='{"type":"object"}'),
    "output_format": OutputFormat("json_object"),
    "strategy": "compose",
}
Fails = Callable[[GenerationRequest], EngineError | None]


class Recorder(EchoEngine):
    """Keeps every request, fails those it is told to after two words, and says else what it is told to."""

    def __init__(self, name: str, *, fails: Fails = lambda _: None, says: str = "", **options: Any) -> None:
        super().__init__(name, **options)
        self.requests: list[GenerationRequest] = []
        self.fails = fails
        self.says = says

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        self.requests.append(request)
        error = self.fails(request)
        if error is not None:
            yield Delta(text="half")
            raise error
        said = self.says.split() if self.says and not request.images else []
        for word in said:
            yield Delta(text=f"{word} ")
        async for delta in super().stream(request):
            if not said or delta.finish_reason:
                yield delta

    @property
    def seen(self) -> list[list[int]]:
        """The widths of the pictures of each request: a picture's width is its number."""
        return [[Image.open(io.BytesIO(image.data)).width for image in request.images] for request in self.requests]


def picture(number: int) -> ImagePart:
    buffer = io.BytesIO()
    Image.new("RGB", (number, 4)).save(buffer, "PNG")
    return ImagePart(buffer.getvalue(), "image/png", f"{number:064d}")


PICTURES = tuple(picture(number) for number in range(1, 11))


def holds(number: int) -> Fails:
    """Fail where the picture of that number is looked at."""
    return lambda request: InvalidImageError("cut off") if PICTURES[number - 1] in request.images else None


def reduces(error: EngineError) -> Fails:
    """Fail where no picture is looked at."""
    return lambda request: None if request.images else error


@dataclass
class Stage:
    """Where jobs run."""

    store: JobStore

    async def begin(self, **changes: Any) -> JobSpec:
        turn = Message("user", (*PICTURES, TextPart(QUESTION)))
        branches = (DRAFT, *groups.to_branches(10, 4))
        spec = make_spec(
            draft_as="message",
            **{
                "messages": to_stored_messages((turn,)),
                "branches": branches,
                "sampling": SamplingParams(),
                **changes,
            },
        )
        await self.store.create(spec, PICTURES)
        return spec

    async def run(self, spec: JobSpec, *engines: EchoEngine, joins: int = 1) -> Job:
        context, _ = await context_of(self.store, **{engine._info.name: engine for engine in engines})
        for branch in spec.branches:
            await run_branch(context, spec.id, branch.name)
        for _ in range(joins):
            await join(context, spec.id)
        return await self.read(spec)

    async def read(self, spec: JobSpec) -> Job:
        job = await self.store.get(spec.id)
        assert job is not None
        return job

    async def streamed(self, spec: JobSpec) -> list[dict[str, Any]]:
        """The Responses events of an ended job, from those in its record."""

        async def events() -> AsyncIterator[Event]:
            for event in await self.store.read_events(spec.id):
                yield event

        async def load() -> Job:
            return await self.read(spec)

        return [event async for event in to_response_events(await load(), events(), load)]


@pytest.fixture
async def stage(redis_url: str) -> AsyncIterator[Stage]:
    redis = Redis.from_url(redis_url)
    yield Stage(JobStore(redis, max_attempts=1))
    await redis.aclose()


def owl(**options: Any) -> Recorder:
    return Recorder("owl2", **{"max_images": 4, "says": "Seven owls.", **options})


def final_text(events: list[dict[str, Any]]) -> str:
    """What the last final item of a stream was written as, piece by piece."""
    [*_, item] = [
        event["item"]["id"]
        for event in events
        if event["type"] == "response.output_item.added" and event["item"].get("phase") == "final_answer"
    ]
    deltas = [event for event in events if event["type"] == "response.output_text.delta"]
    return "".join(event["delta"] for event in deltas if event["item_id"] == item)


async def test_each_group_is_looked_at_and_owl2_streams_one_answer_of_the_findings(stage: Stage) -> None:
    spec = await stage.begin()
    owl2, glm = owl(), Recorder("glm")

    job = await stage.run(spec, glm, owl2)

    assert owl2.seen == [[1, 2, 3, 4], [5, 6, 7], [8, 9, 10], []]
    prompt = owl2.requests[-1].messages[-1].text
    assert "Pictures 1-4: [echo owl2] 4 pictures (1x4 png" in prompt
    assert prompt.index("Pictures 1-4:") < prompt.index("Pictures 5-7:") < prompt.index("Pictures 8-10:")
    assert glm.seen == [list(range(1, 11))]
    assert job.final is not None
    assert (job.state, job.final.text, job.final.strategy) == ("completed", "Seven owls. ", "deep")
    assert job.final.degraded == ()
    assert job.final.agreement is not None
    deltas = [event for event in await stage.store.read_events(spec.id) if event.kind == "delta"]
    assert "".join(event.text for event in deltas if event.unit == "merge") == job.final.text


async def test_a_failed_group_is_named_in_the_answer_and_stream_and_poll_agree(stage: Stage) -> None:
    spec = await stage.begin()

    job = await stage.run(spec, Recorder("glm"), owl(fails=holds(6)))

    assert job.final is not None
    assert job.final.text == "Seven owls. \n\nPictures 5-7 could not be analysed."
    assert job.final.degraded == ("pictures 5-7 could not be analysed by owl2 (invalid_image): cut off",)
    events = await stage.streamed(spec)
    assert final_text(events) == job.final.text
    *_, shown = events[-1]["response"]["output"]
    assert shown["content"][0]["text"] == job.final.text
    assert [group["state"] for group in events[-1]["response"]["hybrid"]["groups"]] == [
        "completed",
        "failed",
        "completed",
    ]


async def test_if_every_branch_fails_so_does_the_job(stage: Stage) -> None:
    spec = await stage.begin()
    broken = InvalidImageError("cut off")

    job = await stage.run(spec, EchoEngine("glm", fail_with=broken), EchoEngine("owl2", fail_with=broken))

    assert (job.state, job.final) == ("failed", None)
    assert job.error is not None
    assert job.error["code"] == "invalid_image"


@pytest.mark.parametrize(("language", "named"), [("zh", "第 1-4 张图片："), ("en", "Pictures 1-4: ")])
async def test_composing_is_one_call_with_all_pictures_and_all_findings(
    stage: Stage, language: str, named: str
) -> None:
    spec = await stage.begin(strategy="compose", language=language)
    glm, owl2 = Recorder("glm"), owl()

    job = await stage.run(spec, glm, owl2)

    assert owl2.seen == [[1, 2, 3, 4], [5, 6, 7], [8, 9, 10]]
    assert glm.seen == [list(range(1, 11))] * 2
    assert f"{named}[echo owl2]" in glm.requests[-1].messages[-1].text
    assert job.final is not None
    assert (job.final.engine, job.final.strategy) == ("glm", "compose")
    assert job.draft is not None
    compared = compare(job.draft.text, job.final.text, QUESTION)
    assert (job.final.agreement, job.final.agreement_basis) == (compared.score, (*compared.basis, "composed"))
    assert final_text(await stage.streamed(spec)) == job.final.text


async def test_if_glm_cannot_compose_owl2_makes_the_answer_and_both_are_said(stage: Stage) -> None:
    # Given a GLM that drafts and then breaks off
    spec = await stage.begin(strategy="compose")
    composes = EngineUnavailableError("gone")
    glm = Recorder("glm", fails=lambda request: composes if "Deeper analysis" in request.messages[-1].text else None)

    job = await stage.run(spec, glm, owl(fails=holds(6)))

    assert job.final is not None
    assert (job.final.engine, job.final.strategy) == ("owl2", "deep")
    assert job.final.text == "Seven owls. \n\nPictures 5-7 could not be analysed."
    assert [sentence.split(" (")[0] for sentence in job.final.degraded] == [
        "pictures 5-7 could not be analysed by owl2",
        "the answers could not be composed by glm: gone",
    ]
    deltas = [event for event in await stage.store.read_events(spec.id) if event.kind == "delta"]
    assert [event.text for event in deltas if event.unit == "merge"] == ["half"]
    assert final_text(await stage.streamed(spec)) == job.final.text


async def test_findings_stand_for_the_answer_if_no_engine_makes_one(stage: Stage) -> None:
    spec = await stage.begin()
    engine = owl(fails=lambda request: None if request.images else InvalidImageError("no room"))

    job = await stage.run(spec, Recorder("glm"), engine)

    assert job.final is not None
    assert job.final.text.startswith("Pictures 1-4: [echo owl2]")
    assert job.final.text.count("\n\nPictures ") == 2
    assert job.final.degraded == (
        "what was found in the groups of pictures could not be made into one answer by owl2: no room",
    )
    assert (job.final.agreement, job.final.conflicts) == (None, ())
    assert final_text(await stage.streamed(spec)) == job.final.text


async def test_an_engine_that_is_gone_for_a_moment_is_asked_again_and_no_group_is(redis_url: str) -> None:
    # Given a merge that loses its engine in the middle of a word
    redis = Redis.from_url(redis_url)
    stage = Stage(JobStore(redis, max_attempts=2))
    spec = await stage.begin()
    engine = owl(fails=reduces(GenerationFailedError("gone")))

    first = await stage.run(spec, Recorder("glm"), engine)
    engine.fails = lambda _: None
    second = await stage.run(spec, engine)
    await redis.aclose()

    assert (first.state, first.units["merge"].failures) == ("in_progress", 1)
    assert second.final is not None
    assert (second.final.text, second.final.degraded) == ("Seven owls. ", ())
    assert engine.seen == [[1, 2, 3, 4], [5, 6, 7], [8, 9, 10], [], []]


async def test_a_group_whose_worker_died_runs_again_alone_and_the_merge_runs_once(redis_url: str) -> None:
    # Given a job one of whose groups was taken by a worker that is silent since
    now = [1_000_000.0]
    redis = Redis.from_url(redis_url)
    stage = Stage(JobStore(redis, max_attempts=3, lease_s=5, clock=lambda: now[0]))
    spec = await stage.begin()
    lost = await stage.store.claim(spec.id, "deep-2")
    engine = owl()
    half = await stage.run(spec, Recorder("glm"), engine)
    assert half.units["deep-2"].state == "in_progress"
    assert "merge" not in half.units

    # When its lease has run out, and the job is run on, more often than it has to be
    now[0] += 6
    await stage.store.reap()
    done = await stage.run(spec, engine, joins=2)
    late = await stage.store.append(spec.id, "deep-2", lost or 0, "late")
    again = await stage.run(spec, engine)
    await redis.aclose()

    # Then only that group was looked at again, and the answer was made once
    assert engine.seen == [[1, 2, 3, 4], [8, 9, 10], [5, 6, 7], []]
    assert done.state == "completed"
    assert (late, again.final) == (False, done.final)
    assert done.units["merge"].epoch == 1


async def test_what_glm_cannot_see_all_of_it_composes_from_the_findings_alone(stage: Stage) -> None:
    # Given a Chinese question with more pictures than GLM takes, and so no draft
    spec = await stage.begin(strategy="compose", language="zh", branches=groups.to_branches(10, 4))
    glm = Recorder("glm", max_images=6, says="七只。")

    job = await stage.run(spec, glm, owl())

    assert glm.seen == [[]]
    assert "请根据这些结果，用中文" in glm.requests[0].messages[-1].text
    assert job.final is not None
    assert (job.final.text, job.final.engine, job.final.strategy) == ("七只。 ", "glm", "compose")
    assert final_text(await stage.streamed(spec)) == job.final.text


async def test_if_glm_is_gone_owl2_puts_a_chinese_answer_together_and_it_says_so(stage: Stage) -> None:
    spec = await stage.begin(strategy="compose", language="zh", branches=groups.to_branches(10, 4))

    job = await stage.run(spec, EchoEngine("glm", fail_with=EngineUnavailableError("gone")), owl())

    assert job.final is not None
    assert (job.final.text, job.final.engine, job.final.strategy) == ("Seven owls. ", "owl2", "deep")
    assert job.final.degraded == ("the answers could not be composed by glm: gone",)


@pytest.mark.parametrize(("max_images", "seen"), [(16, [list(range(1, 11))] * 2), (6, [[]])])
async def test_glm_writes_the_form_from_the_findings_with_as_many_pictures_as_it_takes(
    stage: Stage, max_images: int, seen: list[list[int]]
) -> None:
    branches = groups.to_branches(10, 4)
    spec = await stage.begin(branches=(DRAFT, *branches) if max_images == 16 else branches, **HELD)
    glm = Recorder("glm", max_images=max_images)

    job = await stage.run(spec, glm, owl(fails=holds(6)))

    assert glm.seen == seen
    prompt = glm.requests[-1].messages[-1].text
    assert "Pictures 1-4: [echo owl2]" in prompt
    assert "Pictures 5-7 could not be analysed." in prompt
    assert prompt.endswith("Answer with one JSON object and nothing else.")
    assert job.final is not None
    assert "echo" in json.loads(job.final.text)
    assert "pictures 5-7 could not be analysed by owl2 (invalid_image): cut off" in job.final.degraded


async def test_what_the_caller_says_of_the_answer_is_said_of_the_last_call_only(stage: Stage) -> None:
    asked = SamplingParams(max_tokens=7, stop=("owls",), temperature=0.5, top_logprobs=0)
    spec = await stage.begin(sampling=asked)
    engine = owl(context_tokens=600)

    await stage.run(spec, Recorder("glm"), engine)

    assert [request.sampling for request in engine.requests] == [
        *[SamplingParams(max_tokens=100, temperature=0.5)] * 3,
        asked,
    ]


async def test_findings_that_do_not_fit_the_context_are_shortened_until_they_do(stage: Stage) -> None:
    # Given a conversation so long that little more fits beside it
    long = Message("user", (*PICTURES, TextPart(" ".join(["word"] * 290) + "?")))
    spec = await stage.begin(messages=to_stored_messages((long,)), branches=groups.to_branches(10, 4))
    engine = owl(context_tokens=560)

    job = await stage.run(spec, engine)

    assert job.final is not None
    assert (job.final.text, job.final.degraded) == ("Seven owls. ", ())
    sizes = [len(request.messages[-1].text) for request in engine.requests if not request.images]
    assert len(sizes) > 1
    assert sizes == sorted(sizes, reverse=True)


async def test_a_panel_with_groups_compares_them_with_what_glm_thought(stage: Stage) -> None:
    thinking = BranchPlan("thinking", "glm", enable_thinking=True)
    spec = await stage.begin(branches=(DRAFT, thinking, *groups.to_branches(10, 4)))

    job = await stage.run(spec, Recorder("glm"), owl())

    assert job.final is not None
    assert (job.final.text, job.final.strategy) == ("Seven owls. ", "deep")
    assert list(job.units) == ["draft", "thinking", "deep-1", "deep-2", "deep-3", "merge"]


async def test_a_group_reads_no_pictures_but_its_own(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[list[str]] = []
    get_images = stage.store.get_images

    async def spy(hashes: Iterable[str]) -> dict[str, bytes]:
        read.append(list(hashes))
        return await get_images(read[-1])

    monkeypatch.setattr(stage.store, "get_images", spy)
    spec = await stage.begin(branches=groups.to_branches(10, 4))

    await stage.run(spec, owl())

    hashes = [image.sha256 for image in PICTURES]
    assert read == [hashes[:4], hashes[4:7], hashes[7:], []]


async def test_an_expired_picture_fails_its_group_only(stage: Stage) -> None:
    spec = await stage.begin()
    await stage.store.redis.delete(f"glowl:blob:{PICTURES[5].sha256}")

    job = await stage.run(replace(spec, branches=groups.groups_of(spec)), owl())
    context, _ = await context_of(stage.store, glm=Recorder("glm"), owl2=owl())
    await run_branch(context, spec.id, "draft")
    await join(context, spec.id)
    job = await stage.read(spec)

    assert [job.units[name].state for name in ("deep-1", "deep-2", "deep-3")] == ["completed", "failed", "completed"]
    assert job.final is not None
    assert "Pictures 5-7 could not be analysed." in job.final.text

"""Where the time of an answer went, in the object and in the header; and that the page describes every field."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import httpx
import pytest

from engines.base import Usage
from router.api.objects import Items, to_hybrid, to_response
from router.api.stream import find_items
from router.api.timings import STEPS, to_server_timing, to_timings
from router.errors import QueueUnavailableError
from router.jobs.eta import QueuePlace
from router.jobs.job import BranchPlan, Event, Job, Unit
from router.jobs.results import FinalAnswer, UnitResult
from router.output_format import OutputFormat
from tests.support.jobs import make_spec

DRAFT = Unit("draft", "completed", 1, 0, UnitResult(text="owl", duration_s=0.5, ttft_s=0.2), began_at=100.01)
DEEP = Unit("deep", "completed", 1, 0, UnitResult(text="an owl", duration_s=3.0, ttft_s=1.0), began_at=101.0)
MERGE = Unit("merge", "completed", 1, began_at=104.5)


def job_with(*units: Unit, final: str | None = None, **fields: Any) -> Job:
    answer = None if final is None else FinalAnswer(final, "m", "owl2", "deep", usage=Usage(1, 2))
    spec = make_spec(timings={"fetch": 2.5, "policy": 0.25}, created_at=99.0)
    state: Any = "in_progress" if answer is None else "completed"
    ended = None if answer is None else 105.0
    return Job(
        spec, state, {unit.name: unit for unit in units}, 100.01, ended, answer, **{"accepted_at": 100.0, **fields}
    )


RUNNING = Unit("deep", "in_progress", 1, began_at=101.0)
WAITING = Unit("deep", "queued")
DOOR = {"fetch": 2.5, "policy": 0.25}


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        (job_with(Unit("draft", "in_progress", 1, began_at=100.0), WAITING), DOOR),
        (job_with(DRAFT, RUNNING), {**DOOR, "queue": 10, "prefill": 200, "decode": 300}),
        (
            job_with(DRAFT, DEEP, MERGE, final="an owl"),
            {**DOOR, "queue": 1000, "prefill": 1000, "decode": 2000, "merge": 500, "total": 5000},
        ),
        # Owl2 failed, so the draft is the answer.
        (
            job_with(DRAFT, Unit("deep", "failed", 1, began_at=101.0), MERGE, final="owl"),
            {**DOOR, "queue": 10, "prefill": 200, "decode": 300, "merge": 500, "total": 5000},
        ),
        # A composed answer is nobody's branch: Owl2's is the main one.
        (
            job_with(DRAFT, DEEP, MERGE, final="一只猫头鹰"),
            {**DOOR, "queue": 1000, "prefill": 1000, "decode": 2000, "merge": 500, "total": 5000},
        ),
    ],
)
def test_only_known_steps_are_named(job: Job, expected: dict[str, float]) -> None:
    found = to_timings(job)

    assert found == pytest.approx(expected, abs=0.02)
    assert list(found) == [name for name in STEPS if name in expected]


def test_the_clocks_of_two_machines_never_make_a_step_negative() -> None:
    early = replace(DRAFT, began_at=99.9)

    assert to_timings(job_with(early, RUNNING))["queue"] == 0


def test_the_header_is_in_milliseconds() -> None:
    assert to_server_timing({"policy": 0.25, "total": 5000.0}) == "policy;dur=0.25, total;dur=5000"


METRIC = re.compile(r"([a-z]+);dur=(\d+(?:\.\d+)?)")


def durations(response: httpx.Response) -> dict[str, float]:
    value = response.headers["server-timing"]
    parts = [METRIC.fullmatch(part) for part in value.split(", ")]
    assert all(parts), value
    return {match[1]: float(match[2]) for match in parts if match}


PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def test_a_fast_answer_its_poll_and_a_chat_say_where_the_time_went(http: httpx.Client) -> None:
    picture = {"type": "input_image", "image_url": f"data:image/png;base64,{PIXEL}"}
    content = [picture, {"type": "input_text", "text": "图里有什么？"}]
    answer = http.post("/v1/responses", json={"model": "glowl", "input": [{"role": "user", "content": content}]})
    poll = http.get(f"/v1/responses/{answer.json()['id']}")
    chat = http.post("/v1/chat/completions", json={"model": "glowl", "messages": [{"role": "user", "content": "你好"}]})
    older = http.post("/v1/vision/completion", json={"image": PIXEL, "prompt": "图里有什么？"})

    for shown in (answer, poll, older):
        assert set(durations(shown)) == {"fetch", "policy", "prefill", "decode", "total"}
    assert set(durations(chat)) == {"policy", "prefill", "decode", "total"}
    for shown in (answer, poll, chat, older):
        assert durations(shown) == pytest.approx(shown.json()["hybrid"]["timings"])
    assert durations(poll) == durations(answer)


def test_a_stream_says_at_its_start_what_is_known_then_and_all_in_its_last_event(http: httpx.Client) -> None:
    answer = http.post("/v1/responses", json={"model": "glowl", "input": "你好", "stream": True})

    assert set(durations(answer)) == {"policy"}
    last = json.loads([line for line in answer.text.splitlines() if line.startswith("data: ")][-1][6:])
    assert set(last["response"]["hybrid"]["timings"]) == {"policy", "prefill", "decode", "total"}


def test_every_field_of_hybrid_is_described_and_so_is_every_option(http: httpx.Client) -> None:
    # Given a job of everything at once
    final = FinalAnswer("{}", "m", "glm", "fields", agreement=0.5, provenance={"/a": "agree"})
    spec = make_spec(
        output_format=OutputFormat("json_schema", "receipt", template="receipt"),
        branches=(BranchPlan("draft", "glm"), BranchPlan("deep-1", "owl2", pictures=(1, 2))),
        cache="joined",
        is_captured=True,
    )
    units = {"draft": DRAFT, "deep-1": replace(DEEP, name="deep-1"), "merge": MERGE}
    job = Job(spec, "completed", units, final=final, place=QueuePlace(1, 5))

    page = http.get("/openapi.json").json()
    described = page["components"]["schemas"]["HybridAnswer"]
    shown = to_hybrid(job)

    assert set(shown) == set(described["properties"])
    assert set(described["required"]) <= set(shown)
    assert set(described["example"]) <= set(described["properties"])
    assert set(described["properties"]["timings"]["properties"]) == set(STEPS)
    options = page["components"]["schemas"]["Hybrid"]["properties"]
    assert {"route", "merge", "max_wait_s", "deadline_ms", "template"} <= set(options)
    assert all("description" in option for option in options.values())
    for path in ("/v1/chat/completions", "/v1/responses"):
        examples = page["paths"][path]["post"]["requestBody"]["content"]["application/json"]["examples"]
        assert any("hybrid" in example["value"] for example in examples.values())
        assert "Server-Timing" in page["paths"][path]["post"]["responses"]["200"]["headers"]
    for path in ("/api/v1/inference", "/v1/vision/completion"):
        assert "202" in page["paths"][path]["post"]["responses"]


def test_the_examples_on_the_page_are_accepted(http: httpx.Client) -> None:
    from router.api.formats import to_chat_format
    from router.api.schemas import ChatRequest, ResponsesRequest

    page = http.get("/openapi.json").json()
    for path, model in (("/v1/chat/completions", ChatRequest), ("/v1/responses", ResponsesRequest)):
        body = page["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        for example in body["examples"].values():
            request = model.model_validate(example["value"])
            if isinstance(request, ChatRequest):
                to_chat_format(request)


@pytest.mark.parametrize(
    ("language", "degraded_zh", "expected"),
    [("zh", ("glm 不可用",), ["glm 不可用"]), ("en", ("glm 不可用",), ["glm is down"]), ("zh", (), ["glm is down"])],
)
def test_what_is_degraded_is_said_in_the_questions_language(
    language: str, degraded_zh: tuple[str, ...], expected: list[str]
) -> None:
    spec = make_spec(language=language)
    final = FinalAnswer("x", "m", "owl2", "deep", degraded=("glm is down",), degraded_zh=degraded_zh)
    units = {"draft": DRAFT, "deep": DEEP}
    decision = {**spec.decision, "degraded": ["glm is down"], "degraded_zh": list(degraded_zh)}

    assert to_hybrid(Job(spec, "completed", units, final=final))["degraded"] == expected
    assert to_hybrid(Job(replace(spec, decision=decision), "queued", units))["degraded"] == expected


async def test_a_poll_reads_the_events_only_if_the_record_cannot_tell_the_items() -> None:
    num_reads = 0

    async def load(job_id: str) -> list[Event]:
        nonlocal num_reads
        num_reads += 1
        return [Event("delta", "draft", 1, "a cat"), Event("requeued", "draft", 1), Event("delta", "draft", 2, "owl")]

    usual = job_with(DRAFT, DEEP, MERGE, final="an owl")
    usual = replace(usual, spec=replace(usual.spec, draft_as="events"))
    again = job_with(replace(DRAFT, epoch=2), RUNNING)

    assert await find_items(usual, load) == Items.usual(usual)
    assert num_reads == 0
    items = await find_items(again, load)
    assert num_reads == 1
    shown = to_response(again, items)
    assert shown["hybrid"]["draft"]["item_id"] == items.draft != Items.usual(again).draft
    # What a poll shows as a message is thinking in the stream.
    assert shown["output"][0]["id"].removeprefix("msg_") == items.draft.removeprefix("rs_")


async def test_items_are_those_of_the_record_while_redis_cannot_be_read() -> None:
    async def fail(job_id: str) -> list[Event]:
        raise QueueUnavailableError("away")

    job = job_with(DRAFT, DEEP, MERGE, final="an owl")
    assert await find_items(job, fail) == Items.usual(job)

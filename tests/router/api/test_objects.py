"""What the Response object and the chat completion say of a record: fields, and what the answer cost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import httpx
import pytest

from engines.base import Box, Usage
from router.api.batch_lines import Lines
from router.api.objects import to_completion, to_response
from router.batches.records import CHAT, RESPONSES, BatchSpec
from router.jobs.job import Job, JobState, Unit
from router.jobs.results import FinalAnswer, UnitResult
from router.lua.constants import NOBODY
from router.services import Services
from tests.support.jobs import make_spec

# What Open Responses asks for, beside what the openai client reads.
REQUIRED = (
    *("id", "object", "created_at", "completed_at", "status", "incomplete_details", "model", "previous_response_id"),
    *("instructions", "output", "error", "tools", "tool_choice", "truncation", "parallel_tool_calls", "text", "top_p"),
    *("presence_penalty", "frequency_penalty", "top_logprobs", "temperature", "reasoning", "user", "usage"),
    *("max_output_tokens", "max_tool_calls", "store", "background", "service_tier", "metadata", "safety_identifier"),
    "prompt_cache_key",
)


def job(state: JobState, final: FinalAnswer | None, **changes: Any) -> Job:
    results = {"draft": UnitResult("a", usage=Usage(10, 2)), "deep": UnitResult("b", usage=Usage(100, 7))}
    units = {name: Unit(name, "completed", 1, 0, result) for name, result in results.items()}
    return Job(make_spec(**changes), state, units, final=final)


@pytest.mark.parametrize("state", ["queued", "completed", "failed"])
def test_every_required_field_is_there_in_every_state(state: JobState) -> None:
    final = FinalAnswer("b", "m", "owl2", "deep") if state == "completed" else None

    shown = to_response(job(state, final))

    assert set(REQUIRED) <= set(shown)
    assert (shown["presence_penalty"], shown["frequency_penalty"], shown["service_tier"]) == (0, 0, "default")
    assert [shown[name] for name in ("max_tool_calls", "safety_identifier", "prompt_cache_key", "user")] == [None] * 4


def test_places_that_only_the_draft_names_are_kept_with_it() -> None:
    # Given a draft that names a place, and a final answer of the other engine, which names none
    done = job("completed", FinalAnswer("b", "m", "owl2", "deep"))
    draft = UnitResult("a", boxes=(Box(1, 2, 3, 4, 0),))
    shown = to_response(replace(done, units={**done.units, "draft": Unit("draft", "completed", 1, 0, draft)}))["hybrid"]

    assert shown["boxes"] == []
    assert shown["draft"]["boxes"] == [{"image": 0, "x1": 1, "y1": 2, "x2": 3, "y2": 4}]
    assert "boxes" not in to_response(done)["hybrid"]["draft"]


@pytest.mark.parametrize(
    ("sent", "tier"), [("priority", "priority"), ("flex", "flex"), ("auto", "default"), ("default", "default")]
)
def test_what_changes_nothing_is_sent_back(http: httpx.Client, sent: str, tier: str) -> None:
    fields = {"max_tool_calls": 3, "safety_identifier": "u-1", "prompt_cache_key": "k", "user": "me"}

    shown = http.post("/v1/responses", json={"model": "glowl", "input": "你好", "service_tier": sent, **fields}).json()

    assert {name: shown[name] for name in fields} == fields
    assert shown["service_tier"] == tier


def test_usage_is_that_of_the_answer_and_hybrid_usage_has_the_rest() -> None:
    # Given an answer that was composed from two others
    final = FinalAnswer("c", "m", "glm", "compose", usage=Usage(140, 14), answer_usage=Usage(30, 5))

    shown, chat = to_response(job("completed", final)), to_completion(job("completed", final), final)

    assert (shown["usage"]["input_tokens"], shown["usage"]["output_tokens"]) == (30, 5)
    assert (chat["usage"]["prompt_tokens"], chat["usage"]["completion_tokens"]) == (30, 5)
    for hybrid in (shown["hybrid"], chat["hybrid"]):
        spent = hybrid["usage"]
        assert {name: (each["input_tokens"], each["output_tokens"]) for name, each in spent["branches"].items()} == {
            "draft": (10, 2),
            "deep": (100, 7),
            "merge": (30, 5),
        }
        assert spent["total"]["total_tokens"] == 154


def test_without_an_answer_there_is_no_usage_but_what_was_spent() -> None:
    shown = to_response(replace(job("failed", None), error={"code": "server_error", "message": "gone"}))

    assert shown["usage"] is None
    assert shown["hybrid"]["usage"]["total"]["input_tokens"] == 110
    assert set(shown["hybrid"]["usage"]["branches"]) == {"draft", "deep"}


def test_records_of_an_earlier_release_know_no_usage_of_the_answer() -> None:
    data = FinalAnswer("b", "m", "owl2", "deep", usage=Usage(3, 4)).to_dict()
    del data["answer_usage"]

    assert FinalAnswer.from_dict(data).written == Usage(3, 4)
    whole = FinalAnswer("b", "m", "owl2", "deep", answer_usage=Usage(1, 2))
    assert FinalAnswer.from_dict(whole.to_dict()) == whole


@pytest.mark.parametrize("endpoint", [CHAT, RESPONSES])
@pytest.mark.parametrize("is_stored", [False, True])
def test_a_line_of_a_batch_announces_only_an_id_that_leads_somewhere(endpoint: str, is_stored: bool) -> None:
    spec = BatchSpec("batch_1", "local", endpoint, "file-1", output_ttl_s=3600)
    final = FinalAnswer("b", "m", "owl2", "deep", usage=Usage(1, 2))
    line = job("completed", final, batch_id=spec.id, webhook_url=NOBODY, is_stored=is_stored)

    body = Lines(cast(Services, None)).to_answer(spec, line).body

    assert body["hybrid"]["response_id"] == (line.id if is_stored else None)
    if endpoint == RESPONSES:
        assert body["id"] == line.id

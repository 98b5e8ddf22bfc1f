"""Folding job events into Responses events, the awkward cases included."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from engines.base import TokenLogprob
from router.api.objects import item_id
from router.api.stream import ResponseStream
from router.jobs.job import BranchPlan, Event, FinalAnswer, Job, Unit, UnitResult
from tests.router.jobs.test_store import make_spec

SPEC = make_spec(id="resp_1")
DRAFT, DEEP = item_id("resp_1", 0), item_id("resp_1", 1)


def job_with(final: FinalAnswer | None, state: Any = "completed", **changes: Any) -> Job:
    units = {name: Unit(name, "completed", 1, 0, UnitResult(text=name)) for name in ("draft", "deep")}
    return Job(spec=replace(SPEC, **changes), state=state, units=units, final=final)


def fold(job: Job, *events: Event) -> list[dict[str, Any]]:
    stream = ResponseStream(job)
    out = stream.begin()
    for event in events:
        out.extend(stream.feed(event))
    return out + stream.finish(job)


def answer(text: str, **fields: Any) -> FinalAnswer:
    return FinalAnswer(text, "m", "owl2", "deep", **fields)


def deltas(out: list[dict[str, Any]], item: str) -> str:
    return "".join(each["delta"] for each in out if each["type"].endswith(".delta") and each["item_id"] == item)


def items(out: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    return [
        (each["item"]["id"], each["item"]["status"], each["item"]["content"][0]["text"])
        for each in out
        if each["type"] == "response.output_item.done"
    ]


def test_draft_and_final_become_two_items_with_rising_numbers() -> None:
    out = fold(
        job_with(answer("an owl")),
        Event("started", "draft", 1),
        Event("delta", "draft", 1, text="owl"),
        Event("started", "deep", 1),
        Event("delta", "deep", 1, text="an "),
        Event("finished", "draft", 1, state="completed"),
        Event("delta", "deep", 1, text="owl"),
        Event("finished", "deep", 1, state="completed"),
    )

    assert [each["sequence_number"] for each in out] == list(range(len(out)))
    assert items(out) == [(DRAFT, "completed", "owl"), (DEEP, "completed", "an owl")]
    assert [each["type"] for each in out][:2] == ["response.created", "response.in_progress"]
    assert out[-1]["type"] == "response.completed"
    assert out[-1]["response"]["output"][0]["content"][0]["text"] == "an owl"


def test_a_run_that_repeats_itself_after_a_restart_is_sent_once() -> None:
    out = fold(
        job_with(answer("an owl here")),
        Event("delta", "deep", 1, text="an "),
        Event("delta", "deep", 1, text="owl"),
        Event("requeued", "deep", 1),
        Event("delta", "deep", 2, text="an"),
        Event("delta", "deep", 2, text=" owl here"),
    )

    assert deltas(out, DEEP) == "an owl here"
    assert items(out) == [(DEEP, "completed", "an owl here")]


def test_a_run_that_says_something_else_after_a_restart_starts_a_new_item() -> None:
    out = fold(
        job_with(answer("two cats")),
        Event("delta", "deep", 1, text="an owl"),
        Event("delta", "deep", 2, text="two cats"),
    )

    assert [(status, text) for _, status, text in items(out)] == [("incomplete", "an owl"), ("completed", "two cats")]
    assert len({item for item, _, _ in items(out)}) == 2
    # The object shows the item that was announced last.
    assert out[-1]["response"]["output"][0]["id"] == items(out)[-1][0]


def test_a_final_answer_that_was_never_streamed_still_is_whole() -> None:
    # Owl2 failed, so the draft became the answer.
    out = fold(job_with(answer("owl")), Event("delta", "deep", 1, text="an"))

    assert items(out)[-1][2] == "owl"
    assert deltas(out, items(out)[-1][0]) == "owl"


def token(text: str, logprob: float = -0.5) -> TokenLogprob:
    return TokenLogprob(text, logprob, text.encode())


def test_log_probabilities_of_a_run_that_repeats_itself_are_sent_once() -> None:
    # Given a second run whose deltas are cut differently, and a last token that came with no text
    tokens = (token("an"), token(" "), token("owl"), token("\ufffd"))
    out = fold(
        job_with(answer("an owl", logprobs=tokens)),
        Event("delta", "deep", 1, text="an", logprobs=tokens[:1]),
        Event("delta", "deep", 1, text=" ", logprobs=tokens[1:2]),
        Event("delta", "deep", 2, text="an owl", logprobs=tokens[:3]),
    )

    sent = [each["logprobs"] for each in out if each["type"] == "response.output_text.delta"]
    assert [[entry["token"] for entry in entries] for entries in sent] == [["an"], [" "], ["owl"]]
    done = next(each for each in out if each["type"] == "response.output_text.done")
    assert [entry["token"] for entry in done["logprobs"]] == ["an", " ", "owl", "\ufffd"]
    assert out[-1]["response"]["output"][0]["content"][0]["logprobs"] == done["logprobs"]


def test_an_answer_never_streamed_brings_its_log_probabilities_whole() -> None:
    out = fold(job_with(answer("owl", logprobs=(token("owl"),))))

    (delta,) = [each for each in out if each["type"] == "response.output_text.delta"]
    assert [entry["token"] for entry in delta["logprobs"]] == ["owl"]


def test_a_composed_answer_streams_from_the_merge_and_not_from_the_deep_branch() -> None:
    out = fold(
        job_with(answer("一只猫头鹰"), strategy="compose"),
        Event("delta", "deep", 1, text="an owl"),
        Event("delta", "merge", 1, text="一只"),
        Event("delta", "merge", 1, text="猫头鹰"),
    )

    assert items(out) == [(DEEP, "completed", "一只猫头鹰")]


def test_a_failed_job_ends_with_its_error_and_no_open_item() -> None:
    failed = replace(job_with(None, "failed"), error={"code": "server_error", "message": "no engine"})
    out = fold(failed, Event("delta", "draft", 1, text="o"), Event("delta", "deep", 1, text="a"))

    assert out[-1]["type"] == "response.failed"
    assert out[-1]["response"]["error"]["message"] == "no engine"
    assert {status for _, status, _ in items(out)} == {"incomplete"}


def test_a_cancelled_job_closes_the_stream_with_what_it_is() -> None:
    out = fold(job_with(None, "cancelled"), Event("started", "deep", 1))

    assert out[-1]["type"] == "response.incomplete"
    assert out[-1]["response"]["status"] == "cancelled"
    assert out[-1]["response"]["incomplete_details"] is None


def test_a_background_stream_says_queued_first() -> None:
    out = fold(
        job_with(answer("x"), is_background=True, branches=(BranchPlan("deep", "owl2"),)),
        Event("queued"),
        Event("started", "deep", 1),
    )

    assert [each["type"] for each in out][:3] == ["response.created", "response.queued", "response.in_progress"]
    assert out[0]["response"]["status"] == "queued"

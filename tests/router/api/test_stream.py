"""Folding job events into Responses events, the awkward cases included."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.base import TokenLogprob
from router.api.objects import item_id
from router.api.stream import ResponseStream
from router.call import DraftAs
from router.jobs.job import BranchPlan, Event, Job, Unit
from router.jobs.results import FinalAnswer, UnitResult
from tests.support.jobs import make_spec

SPEC = make_spec(id="resp_1", draft_as="message")
DRAFT, DEEP = item_id("resp_1", 0), item_id("resp_1", 1)
THOUGHT = item_id("resp_1", 0, "reasoning")
MODES: tuple[DraftAs, ...] = ("reasoning", "message", "events", "none")


def job_with(final: FinalAnswer | None, state: Any = "completed", **changes: Any) -> Job:
    units = {name: Unit(name, "completed", 1, 0, UnitResult(text=name)) for name in ("draft", "deep")}
    return Job(spec=replace(SPEC, **changes), state=state, units=units, final=final)


def fold(job: Job, *events: Event) -> list[dict[str, Any]]:
    stream = ResponseStream(job)
    out = stream.begin()
    for event in events:
        out.extend(stream.feed(event))
    out += stream.finish(job)
    if job.final is not None and out[-1]["type"] != "error":
        check_places(out)
    return out


def check_places(out: list[dict[str, Any]]) -> None:
    """Each item of a stream has the place in the finished object that the stream named; only the answer has text."""
    shown = out[-1]["response"]["output"]
    told = {each["output_index"]: each["item"] for each in out if each["type"] == "response.output_item.done"}
    assert sorted(told) == list(range(len(shown)))
    for index, item in told.items():
        passed = {"content": []} if item["type"] == "message" and index < len(shown) - 1 else {}
        assert shown[index] == {**item, **passed}


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
        Event("finished", "draft", 1, state="completed"),
        Event("delta", "deep", 1, text="an "),
        Event("delta", "deep", 1, text="owl"),
        Event("finished", "deep", 1, state="completed"),
    )

    assert [each["sequence_number"] for each in out] == list(range(len(out)))
    assert items(out) == [(DRAFT, "completed", "owl"), (DEEP, "completed", "an owl")]
    assert [each["type"] for each in out][:2] == ["response.created", "response.in_progress"]
    assert out[-1]["type"] == "response.completed"
    assert out[-1]["response"]["output"][-1]["content"][0]["text"] == "an owl"


def test_by_default_the_draft_is_thinking_with_a_title() -> None:
    out = fold(
        job_with(answer("an owl"), draft_as="reasoning"),
        Event("started", "draft", 1),
        Event("delta", "draft", 1, text="o"),
        Event("delta", "draft", 1, text="wl"),
        Event("finished", "draft", 1, state="completed"),
        Event("delta", "deep", 1, text="an owl"),
    )

    text = "**Draft by GLM-4.6V-Flash**\n\nowl"
    assert [each["type"].removeprefix("response.") for each in out] == [
        "created",
        "in_progress",
        "output_item.added",
        "reasoning_summary_part.added",
        *["reasoning_summary_text.delta"] * 3,
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    summary = [{"type": "summary_text", "text": text}]
    thought, final = (each["item"] for each in out if each["type"] == "response.output_item.done")
    assert thought == {"id": THOUGHT, "type": "reasoning", "status": "completed", "summary": summary}
    assert "".join(each["delta"] for each in out if each["type"] == "response.reasoning_summary_text.delta") == text
    # What the object shows beside the answer is the draft as it was written, under the id that the stream announced.
    assert (final["id"], out[-1]["response"]["output"]) == (DEEP, [thought, final])
    assert out[-1]["response"]["hybrid"]["draft"] == {"item_id": THOUGHT, "model": "", "text": "draft"}


def test_the_title_names_the_model_in_the_language_of_the_question() -> None:
    branches = (BranchPlan("draft", "glm", model="glm-x"), BranchPlan("deep", "owl2"))
    job = job_with(answer("x"), draft_as="reasoning", language="zh", branches=branches)

    out = fold(job, Event("delta", "draft", 1, text="猫"))

    assert next(each["delta"] for each in out if "summary_text.delta" in each["type"]) == "**glm-x 的草稿**\n\n"


def test_as_events_the_draft_takes_no_place_in_the_output() -> None:
    out = fold(
        job_with(answer("an owl"), draft_as="events"),
        Event("delta", "draft", 1, text="owl"),
        Event("finished", "draft", 1, state="completed"),
        Event("delta", "deep", 1, text="an owl"),
    )

    told = [{name: each[name] for name in each if name != "sequence_number"} for each in out[1:4]]
    assert told == [
        {"type": "hybrid.draft.added", "item_id": DRAFT, "model": "GLM-4.6V-Flash"},
        {"type": "hybrid.draft.delta", "item_id": DRAFT, "delta": "owl"},
        {"type": "hybrid.draft.done", "item_id": DRAFT, "text": "owl", "status": "completed"},
    ]
    assert {each["output_index"] for each in out if "output_index" in each} == {0}


@pytest.mark.parametrize("draft_as", MODES)
def test_nothing_of_a_draft_is_told_once_the_answer_has_begun(draft_as: DraftAs) -> None:
    # Given a draft that is slower than the answer: begun before it, or only after it
    late = (
        Event("delta", "deep", 1, text="an "),
        Event("delta", "draft", 1, text=" late"),
        Event("finished", "draft", 1, state="completed"),
        Event("delta", "deep", 1, text="owl"),
    )
    job = job_with(answer("an owl"), draft_as=draft_as)

    begun, unbegun = fold(job, Event("delta", "draft", 1, text="an"), *late), fold(job, *late)

    for out in (begun, unbegun):
        first = next(
            index
            for index, each in enumerate(out)
            if each["type"] == "response.output_text.delta" and each["item_id"] == DEEP
        )
        assert not [each for each in out[first:-1] if "hybrid" in each["type"] or "reasoning" in each["type"]]
        assert "late" not in str(out[:-1])
        assert deltas(out, DEEP) == "an owl"
    dones = [each for each in begun if each["type"] in ("response.output_item.done", "hybrid.draft.done")]
    statuses = [each.get("status") or each["item"]["status"] for each in dones]
    assert statuses == (["completed"] if draft_as == "none" else ["incomplete", "completed"])


# What may happen to the two branches of a job, in any order: words, runs that are lost, and a draft that ends.
HAPPENINGS = st.lists(
    st.tuples(st.sampled_from(["draft", "deep"]), st.sampled_from(["an ", "owl ", "LOST", "END"])), max_size=14
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(happenings=HAPPENINGS, draft_as=st.sampled_from(MODES), has_final=st.booleans())
def test_whatever_happens_who_joins_the_text_of_a_stream_has_the_answer_or_an_error(
    happenings: list[tuple[str, str]], draft_as: DraftAs, has_final: bool
) -> None:
    epochs, said = {"draft": 1, "deep": 1}, {"draft": "", "deep": ""}
    events: list[Event] = []
    for unit, what in happenings:
        if what == "LOST":
            epochs[unit] += 1
            said[unit] = ""
        elif what == "END":
            events.append(Event("finished", unit, epochs[unit], state="completed"))
        else:
            said[unit] += what
            events.append(Event("delta", unit, epochs[unit], text=what))
    final = answer(said["deep"] or said["draft"]) if has_final else None
    out = fold(job_with(final, "completed" if has_final else "failed", draft_as=draft_as), *events)

    assert [each["sequence_number"] for each in out] == list(range(len(out)))
    opened: list[str] = []
    for each in out:
        kind = each["type"]
        if kind in ("response.output_item.added", "hybrid.draft.added"):
            assert not opened, "two items are open"
            opened.append(each["item"]["id"] if "item" in each else each["item_id"])
        elif kind in ("response.output_item.done", "hybrid.draft.done"):
            assert opened.pop() == (each["item"]["id"] if "item" in each else each["item_id"])
        elif "item_id" in each:
            assert opened == [each["item_id"]]
    assert not opened
    indexes = [each["output_index"] for each in out if each["type"] == "response.output_item.added"]
    assert indexes == list(range(len(indexes)))
    joined = "".join(each["delta"] for each in out if each["type"] == "response.output_text.delta")
    is_broken = out[-1]["type"] == "error"
    assert not is_broken or (draft_as != "message" and out[-1]["code"] == "answer_restarted")
    if final is not None and draft_as != "message" and not is_broken:
        assert joined == final.text
    if not is_broken:
        assert out[-1]["type"] == ("response.completed" if has_final else "response.failed")


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
    assert out[-1]["response"]["output"][-1]["id"] == items(out)[-1][0]


@pytest.mark.parametrize(("language", "words"), [("en", "The answer changed"), ("zh", "发生了变化")])
def test_who_may_join_what_was_sent_gets_an_error_and_not_two_answers(language: str, words: str) -> None:
    out = fold(
        job_with(answer("two cats"), draft_as="reasoning", language=language),
        Event("delta", "deep", 1, text="an owl"),
        Event("delta", "deep", 2, text="two cats"),
        Event("finished", "deep", 2, state="completed"),
    )

    assert items(out) == [(DEEP, "incomplete", "an owl")]
    assert (out[-1]["type"], out[-1]["code"]) == ("error", "answer_restarted")
    assert words in out[-1]["message"]
    assert "/v1/responses/resp_1" in out[-1]["message"]


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

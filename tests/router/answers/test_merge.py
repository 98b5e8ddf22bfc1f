"""The merge: which answer is final, what is said about it, and how agreement is scored."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.base import SamplingParams, Usage
from engines.tools import ToolCall
from router.answers import merge
from router.answers.json_answers import dump_json
from router.jobs.job import BranchPlan, Job, Unit
from router.jobs.results import FinalAnswer, UnitResult
from router.output_format import OutputFormat
from tests.support.jobs import make_spec

FAILED = {"code": "engine_unavailable", "message": "nobody there", "param": None, "status": 503, "retryable": True}


def job(draft: str | None = "猫", deep: str | None = "a cat", **changes: Any) -> Job:
    spec = make_spec(**changes)
    units = {}
    for branch in spec.branches:
        text = {"draft": draft, "deep": deep, "fast": draft}[branch.name]
        result = UnitResult(text=text or "", model=branch.engine, usage=Usage(10, 2), error=None if text else FAILED)
        units[branch.name] = Unit(branch.name, "completed" if text else "failed", 1, 0, result)
    return Job(spec=spec, state="in_progress", units=units)


def test_deep_takes_owl2s_answer_and_counts_both() -> None:
    final = merge.resolve(job(), "q")

    assert isinstance(final, FinalAnswer)
    assert (final.text, final.engine, final.strategy, final.degraded) == ("a cat", "owl2", "deep", ())
    assert (final.usage, final.written) == (Usage(20, 4), Usage(10, 2))


def test_a_failed_deep_branch_leaves_the_draft_and_says_so() -> None:
    final = merge.resolve(job(deep=None), "q")

    assert isinstance(final, FinalAnswer)
    assert (final.text, final.engine, final.strategy) == ("猫", "glm", "draft")
    assert final.degraded == ("owl2 gave no answer (engine_unavailable): nobody there",)
    assert final.agreement is None


def test_a_failed_draft_is_mentioned_and_does_no_harm() -> None:
    final = merge.resolve(job(draft=None), "q")

    assert isinstance(final, FinalAnswer)
    assert (final.text, final.strategy) == ("a cat", "deep")
    assert final.degraded[0].startswith("glm gave no answer")


def test_which_stop_string_ended_the_answer_is_kept_whoever_wrote_it() -> None:
    found = job(strategy="compose")
    deep = replace(found.units["deep"], result=UnitResult(text="a cat", stop_sequence="END"))
    request = merge.resolve(replace(found, units={**found.units, "deep": deep}), "q")
    assert isinstance(request, merge.ComposeRequest)

    assert request.fallback.stop_sequence == "END"
    assert merge.composed(request, UnitResult(text="猫", stop_sequence="。")).stop_sequence == "。"  # type: ignore[union-attr]
    assert FinalAnswer.from_dict(json.loads(json.dumps(request.fallback.to_dict()))) == request.fallback
    assert "stop_sequence" not in FinalAnswer("a", "m", "glm", "single").to_dict()


def test_no_answer_at_all_is_the_main_branchs_error() -> None:
    outcome = merge.resolve(job(draft=None, deep=None), "q")

    assert isinstance(outcome, merge.NoAnswer)
    assert outcome.error["code"] == "engine_unavailable"


@pytest.mark.parametrize(("language", "words"), [("zh", "用中文"), ("en", "in English"), ("other", "the language of")])
def test_compose_asks_glm_in_the_language_of_the_question(language: str, words: str) -> None:
    request = merge.resolve(job(strategy="compose", language=language), "图里有{什么}？")

    assert isinstance(request, merge.ComposeRequest)
    assert words in request.prompt
    assert all(piece in request.prompt for piece in ("图里有{什么}？", "猫", "a cat"))
    assert request.fallback.text == "a cat"


def test_a_composed_answer_is_glms_and_costs_all_three() -> None:
    request = merge.resolve(job(strategy="compose"), "q")
    assert isinstance(request, merge.ComposeRequest)

    final = merge.composed(request, UnitResult(text="一只猫", model="glm-x", usage=Usage(30, 3)))

    assert (final.text, final.engine, final.model, final.strategy) == ("一只猫", "glm", "glm-x", "compose")
    assert (final.usage, final.written) == (Usage(50, 7), Usage(30, 3))


@pytest.mark.parametrize("result", [UnitResult(error=FAILED), UnitResult(text="  ")])
def test_if_glm_cannot_compose_the_deep_answer_stands_and_says_so(result: UnitResult) -> None:
    request = merge.resolve(job(strategy="compose"), "q")
    assert isinstance(request, merge.ComposeRequest)

    final = merge.composed(request, result)

    assert (final.text, final.strategy) == ("a cat", "deep")
    assert "could not be composed" in final.degraded[-1]


@pytest.mark.parametrize("text", ["</s>", "```\n```", "\u200b"])
def test_marks_alone_are_no_composed_answer(text: str) -> None:
    request = merge.resolve(job(strategy="compose"), "q")
    assert isinstance(request, merge.ComposeRequest)

    final = merge.composed(request, UnitResult(text=text))

    assert isinstance(final, FinalAnswer)
    assert (final.text, final.degraded[-1]) == ("a cat", "the answers could not be composed by glm: it wrote nothing")
    assert final.degraded_zh[-1] == "glm 未能写出最终回答：没有写出任何内容"


def cut(found: Job, unit: str, finish_reason: str = "length") -> Job:
    """The same job with one answer cut."""
    result = found.units[unit].result
    assert result is not None
    unit_cut = replace(found.units[unit], result=replace(result, finish_reason=finish_reason))
    return replace(found, units={**found.units, unit: unit_cut})


@pytest.mark.parametrize("finish_reason", ["length", "content_filter"])
def test_a_cut_answer_beside_a_complete_one_says_so(finish_reason: str) -> None:
    deep = merge.resolve(cut(job(), "deep", finish_reason), "q")
    draft = merge.resolve(cut(job(), "draft", finish_reason), "q")
    both = merge.resolve(cut(cut(job(), "draft"), "deep"), "q")
    alone = merge.resolve(cut(job(draft=None), "deep"), "q")

    assert isinstance(deep, FinalAnswer)
    assert isinstance(draft, FinalAnswer)
    assert isinstance(both, FinalAnswer)
    assert isinstance(alone, FinalAnswer)
    assert (deep.text, deep.finish_reason) == ("a cat", finish_reason)
    assert deep.degraded == (f"owl2's answer was cut ({finish_reason}), another one is complete",)
    assert draft.degraded == (f"glm's answer was cut ({finish_reason}), another one is complete",)
    assert both.degraded == ()
    assert len(alone.degraded) == 1


def test_a_composed_answer_that_was_cut_says_that_a_complete_one_is_there() -> None:
    request = merge.resolve(job(strategy="compose"), "q")
    assert isinstance(request, merge.ComposeRequest)

    final = merge.composed(request, UnitResult(text="一只", model="glm-x", finish_reason="length"))

    assert isinstance(final, FinalAnswer)
    assert (final.text, final.finish_reason) == ("一只", "length")
    assert final.degraded == ("glm's composed answer was cut (length), owl2's own one is complete",)


IN_FORM: dict[str, Any] = {"sampling": SamplingParams(json_schema='{"type":"object"}'), "strategy": "compose"}


def test_json_that_was_cut_is_no_fallback() -> None:
    whole = merge.resolve(job(draft='{"a":1}', **IN_FORM), "q")
    half = merge.resolve(cut(job(draft='{"a":', **IN_FORM), "draft"), "q")
    assert isinstance(whole, merge.ComposeRequest)
    assert isinstance(half, merge.ComposeRequest)
    failed = UnitResult(error=FAILED)

    stands, none = merge.composed(whole, failed), merge.composed(half, failed)

    assert isinstance(stands, FinalAnswer)
    assert stands.text == '{"a":1}'
    assert isinstance(none, merge.NoAnswer)
    assert "Only GLM" in none.error["message"]


def test_json_that_was_cut_while_composing_does_not_replace_a_whole_one() -> None:
    request = merge.resolve(job(draft='{"a":1}', **IN_FORM), "q")
    assert isinstance(request, merge.ComposeRequest)

    final = merge.composed(request, UnitResult(text='{"a": 2, "b', finish_reason="length"))

    assert isinstance(final, FinalAnswer)
    assert final.text == '{"a":1}'
    assert final.degraded[-1] == "the answers could not be composed by glm: its JSON was cut (length)"


def test_without_merging_the_answer_that_was_to_be_final_stands_if_it_has_the_form() -> None:
    deep, draft, form, none = (
        merge.without_merging(each) for each in (job(), job(deep=None), job(**IN_FORM), job(draft=None, **IN_FORM))
    )

    assert isinstance(deep, FinalAnswer)
    assert isinstance(draft, FinalAnswer)
    assert isinstance(form, FinalAnswer)
    assert isinstance(none, merge.NoAnswer)
    assert [each.engine for each in (deep, draft, form)] == ["owl2", "glm", "glm"]
    assert none.error["code"] == "internal_error"


def test_without_merging_the_answer_keeps_its_calls_and_the_tokens_it_was_written_with() -> None:
    call = ToolCall("call_1", "weather", "{}")
    alone = job(branches=(BranchPlan("fast", "glm"),))
    calling = replace(alone.units["fast"], result=UnitResult(finish_reason="tool_calls", tool_calls=(call,)))

    called = merge.without_merging(replace(alone, units={"fast": calling}))
    deep = merge.without_merging(job())

    assert isinstance(called, FinalAnswer)
    assert isinstance(deep, FinalAnswer)
    assert called.tool_calls == (call,)
    assert (deep.usage, deep.written) == (Usage(20, 4), Usage(10, 2))


def test_compose_with_one_answer_left_needs_no_composing() -> None:
    assert isinstance(merge.resolve(job(deep=None, strategy="compose"), "q"), FinalAnswer)


PANEL = (BranchPlan("draft", "glm"), BranchPlan("thinking", "glm", enable_thinking=True), BranchPlan("deep", "owl2"))


def panel(strategy: str = "deep", branches: tuple[BranchPlan, ...] = PANEL, **texts: str | None) -> Job:
    """A job in which each branch said what is given; None means that it failed."""
    units = {}
    for branch in branches:
        text = texts[branch.name]
        result = UnitResult(text=text or "", model=branch.name, error=None if text else FAILED)
        units[branch.name] = Unit(branch.name, "completed" if text else "failed", 1, 0, result)
    return Job(spec=make_spec(branches=branches, strategy=strategy), state="in_progress", units=units)


def test_a_panel_compares_owl2_with_what_glm_said_after_thinking() -> None:
    final = merge.resolve(panel(draft="a dog", thinking="two cats", deep="two cats"), "q")

    assert isinstance(final, FinalAnswer)
    assert (final.text, final.engine, final.agreement) == ("two cats", "owl2", 1.0)


def test_a_panel_composes_from_what_glm_said_after_thinking() -> None:
    request = merge.resolve(panel("compose", draft="a dog", thinking="two cats", deep="2 cats"), "q")

    assert isinstance(request, merge.ComposeRequest)
    assert "two cats" in request.prompt
    assert "a dog" not in request.prompt


def test_a_panel_without_owl2_falls_back_on_the_better_of_glms_answers() -> None:
    final = merge.resolve(panel(draft="a dog", thinking="two cats", deep=None), "q")

    assert isinstance(final, FinalAnswer)
    assert (final.text, final.engine, final.strategy) == ("two cats", "glm", "thinking")


def test_glms_second_thoughts_are_compared_with_its_first() -> None:
    final = merge.resolve(panel(branches=PANEL[:2], draft="a dog", thinking="two cats"), "q")

    assert isinstance(final, FinalAnswer)
    assert (final.text, final.agreement) == ("two cats", 0.0)


def test_what_the_decision_said_about_degradation_is_kept() -> None:
    decision = {**make_spec().decision, "degraded": ["glm is down"]}

    final = merge.resolve(job(decision=decision, branches=(BranchPlan("deep", "owl2"),)), "q")

    assert isinstance(final, FinalAnswer)
    assert final.strategy == "single"
    assert final.degraded == ("glm is down",)


def test_what_is_degraded_is_said_in_chinese_too() -> None:
    decision = {**make_spec().decision, "degraded": ["glm is slow"], "degraded_zh": ["glm 较慢"]}

    final = merge.resolve(job(deep=None, decision=decision), "q")

    assert isinstance(final, FinalAnswer)
    assert final.degraded == ("glm is slow", "owl2 gave no answer (engine_unavailable): nobody there")
    assert final.degraded_zh == ("glm 较慢", "owl2 没有给出回答（engine_unavailable）：nobody there")


def test_draft_and_deep_answer_are_compared_and_their_conflicts_listed() -> None:
    final = merge.resolve(job("There are 3.", "There are 4."), "How many?")

    assert isinstance(final, FinalAnswer)
    assert (final.agreement, final.agreement_basis) == (0.0, ("numbers",))
    assert final.conflicts == ({"kind": "number", "first": ["3"], "second": ["4"]},)


def test_a_chinese_draft_is_compared_with_the_composed_answer_too() -> None:
    request = merge.resolve(job("有 3 只猫", "There are 3 cats", strategy="compose", language="zh"), "有几只猫？")
    assert isinstance(request, merge.ComposeRequest)
    assert request.fallback.agreement_basis == ("numbers",)

    final = merge.composed(request, UnitResult(text="有 4 只狗"))

    assert isinstance(final, FinalAnswer)
    assert (final.agreement, final.agreement_basis) == (0.0, ("numbers", "tokens", "composed"))
    assert final.conflicts == ({"kind": "number", "first": ["3"], "second": ["4"]},)


def test_answers_in_one_script_are_compared_with_each_other_alone() -> None:
    request = merge.resolve(job("red", "blue", strategy="compose"), "What colour?")
    assert isinstance(request, merge.ComposeRequest)

    final = merge.composed(request, UnitResult(text="red"))

    assert isinstance(final, FinalAnswer)
    assert (final.agreement, final.agreement_basis) == (0.0, ("tokens",))


HELD = SamplingParams(json_schema='{"type":"object"}')


def test_a_schema_lets_glm_put_owl2s_prose_into_its_form_whatever_the_strategy() -> None:
    request = merge.resolve(job('{"a":1}', "one cat", sampling=HELD, strategy="deep"), "q")

    assert isinstance(request, merge.ComposeRequest)
    assert "one cat" in request.prompt
    assert '{"a":1}' in request.prompt
    assert request.fallback.agreement is None  # JSON beside prose has no words to compare


def test_if_glm_cannot_compose_json_its_own_draft_stands_and_never_owl2s_prose() -> None:
    request = merge.resolve(job('{"a":1}', "one cat", sampling=HELD), "q")
    assert isinstance(request, merge.ComposeRequest)

    final = merge.composed(request, UnitResult(error=FAILED))

    assert isinstance(final, FinalAnswer)
    assert (final.text, final.engine, final.strategy) == ('{"a":1}', "glm", "draft")
    assert "could not be composed" in final.degraded[-1]


def test_without_a_draft_glm_writes_json_from_owl2s_answer_or_there_is_none() -> None:
    request = merge.resolve(job(None, "one cat", sampling=HELD), "q")
    assert isinstance(request, merge.ComposeRequest)
    assert "one cat" in request.prompt

    failed = merge.composed(request, UnitResult(error=FAILED))
    written = merge.composed(request, UnitResult(text='{"a":1}', model="glm-x"))

    assert isinstance(failed, merge.NoAnswer)
    assert failed.error["status"] == 503
    assert "Only GLM" in failed.error["message"]
    assert isinstance(written, FinalAnswer)
    assert (written.text, written.engine) == ('{"a":1}', "glm")


def test_a_schema_that_glm_refused_is_the_error_at_once() -> None:
    refused = job(None, "one cat", sampling=HELD)
    error = {**FAILED, "code": "invalid_json_schema", "status": 400, "retryable": False, "param": "response_format"}
    units = {**refused.units, "draft": Unit("draft", "failed", 1, 0, UnitResult(error=error))}

    outcome = merge.resolve(Job(spec=refused.spec, state="in_progress", units=units), "q")

    assert outcome == merge.NoAnswer(error)


def test_with_a_schema_and_without_owl2_the_draft_is_the_answer() -> None:
    final = merge.resolve(job('{"a":1}', None, sampling=HELD), "q")

    assert isinstance(final, FinalAnswer)
    assert (final.text, final.engine) == ('{"a":1}', "glm")


BILL = {
    "type": "object",
    "properties": {
        "total": {"type": ["number", "null"]},
        "shop": {"type": ["string", "null"], "maxLength": 9},
        "lines": {
            "type": "array",
            "maxItems": 3,
            "items": {
                "type": "object",
                "properties": {"name": {"type": "string"}, "price": {"type": ["number", "null"]}},
                "required": ["name", "price"],
                "additionalProperties": False,
            },
        },
        "is_paid": {"type": "boolean"},
    },
    "required": ["total", "lines"],
    "additionalProperties": False,
}


def by_fields(
    draft: Any,
    deep: Any,
    schema: dict[str, Any] = BILL,
    state: str = "valid",
    finish_reason: str = "stop",
    **changes: Any,
) -> Job:
    """A job whose branches answered in JSON; a text stands for itself, None for a branch that failed."""
    spec = make_spec(
        sampling=SamplingParams(json_schema=json.dumps(schema)),
        output_format=changes.pop("output_format", OutputFormat("json_schema", "bill")),
        strategy="fields",
        **changes,
    )
    texts = {
        name: dump_json(value) if isinstance(value, dict) else value
        for name, value in zip(("draft", "deep"), (draft, deep), strict=True)
    }
    units = {}
    for branch in spec.branches:
        text = texts[branch.name]
        result = UnitResult(
            text=text or "",
            model=branch.engine,
            finish_reason=finish_reason if branch.name == "draft" else "stop",
            error=None if text else FAILED,
            json_state=state if branch.name == "deep" and text else "",  # type: ignore[arg-type]
        )
        units[branch.name] = Unit(branch.name, "completed" if text else "failed", 1, 0, result)
    return Job(spec=spec, state="in_progress", units=units)


def test_fields_of_both_answers_become_one_object_with_their_origin() -> None:
    draft = {"total": 12.5, "shop": None, "lines": [], "is_paid": True}
    deep = {"total": 12.50, "shop": "Cafe", "lines": [], "is_paid": False}

    final = merge.resolve(by_fields(draft, deep), "q")

    assert isinstance(final, FinalAnswer)
    assert json.loads(final.text) == {"total": 12.5, "shop": "Cafe", "lines": [], "is_paid": False}
    assert (final.engine, final.strategy, final.degraded) == ("glm", "fields", ())
    assert final.provenance == {"/total": "agree", "/shop": "owl2", "/lines": "agree", "/is_paid": "owl2"}
    assert (final.agreement, final.agreement_basis) == (0.333, ("fields",))
    assert final.conflicts == ({"kind": "field", "path": "/is_paid", "first": True, "second": False},)


def test_if_owl2_adds_nothing_glms_text_stays_byte_for_byte() -> None:
    text = '{"total":12.50,"lines":[]}'

    final = merge.resolve(by_fields(text, {"total": 12.5, "lines": []}), "q")

    assert isinstance(final, FinalAnswer)
    assert final.text == text


def test_in_a_template_what_is_printed_is_glms() -> None:
    template = OutputFormat("json_schema", "receipt", template="receipt")

    final = merge.resolve(
        by_fields(
            {"total": 1, "shop": "Tea", "lines": []}, {"total": 1, "shop": "Cup", "lines": []}, output_format=template
        ),
        "q",
    )

    assert isinstance(final, FinalAnswer)
    assert final.provenance["/shop"] == "glm"


def test_fields_that_break_the_schema_together_leave_glms_answer_whole_and_say_so() -> None:
    schema = {"type": "object", "properties": {"a": {}, "b": {}}, "maxProperties": 1}

    final = merge.resolve(by_fields({"a": "x"}, {"b": "y"}, schema), "q")

    assert isinstance(final, FinalAnswer)
    assert (final.text, final.strategy, final.provenance) == ('{"a":"x"}', "draft", {"": "glm"})
    assert "stands as a whole" in final.degraded[-1]
    assert "整体采用" in final.degraded_zh[-1]


@pytest.mark.parametrize("draft", ['{"total": ', "[" * 100_000])
def test_a_draft_that_is_no_json_after_all_is_no_reason_to_crash(draft: str) -> None:
    final = merge.resolve(by_fields(draft, {"total": 1, "lines": []}), "q")

    assert isinstance(final, FinalAnswer)
    assert final.degraded


def test_json_by_owl2_alone_stands_where_glm_failed_or_was_cut() -> None:
    deep = {"total": 1, "lines": []}
    failed = merge.resolve(by_fields(None, deep), "q")
    cut = merge.resolve(by_fields('{"total": 1, "li', deep, finish_reason="length"), "q")

    for final, reason in ((failed, "glm gave no answer"), (cut, "glm's JSON was cut")):
        assert isinstance(final, FinalAnswer)
        assert (json.loads(final.text), final.engine, final.strategy) == (deep, "owl2", "deep")
        assert final.finish_reason == "stop"
        assert final.provenance == {"": "owl2"}
        assert final.degraded[-1].startswith(reason)


def test_a_schema_that_glm_refused_is_the_error_even_if_owl2_could_follow_it() -> None:
    refused = by_fields(None, {"total": 1, "lines": []})
    error = {**FAILED, "code": "invalid_json_schema", "status": 400, "retryable": False}
    units = {**refused.units, "draft": Unit("draft", "failed", 1, 0, UnitResult(error=error))}

    assert merge.resolve(replace(refused, units=units), "q") == merge.NoAnswer(error)


def test_json_that_owl2_had_to_repair_is_marked() -> None:
    final = merge.resolve(by_fields({"total": 1, "lines": []}, {"total": 1, "lines": []}, state="repaired"), "q")

    assert isinstance(final, FinalAnswer)
    assert "was repaired" in final.degraded[-1]
    assert "已修复" in final.degraded_zh[-1]


def test_prose_by_owl2_goes_into_the_form_and_the_composed_json_is_compared_with_the_draft() -> None:
    request = merge.resolve(by_fields({"total": 1, "lines": []}, "one tea, 2 yuan", state=""), "q")
    assert isinstance(request, merge.ComposeRequest)

    final = merge.composed(request, UnitResult(text='{"total":2,"lines":[]}'))

    assert isinstance(final, FinalAnswer)
    assert (final.strategy, final.agreement, final.agreement_basis) == ("compose", 0.0, ("fields", "composed"))
    assert final.conflicts == ({"kind": "field", "path": "/total", "first": 1, "second": 2},)
    assert "wrote no JSON" in final.degraded[-1]
    assert final.provenance == {}


numbers = st.none() | st.integers(0, 30) | st.sampled_from([0.5, 12.5])
names = st.sampled_from(["tea", "Tea", "milk", "蛋糕", "5 kg"])
bills = st.fixed_dictionaries(
    {
        "total": numbers,
        "lines": st.lists(st.fixed_dictionaries({"name": names, "price": numbers}), max_size=3),
    },
    optional={"shop": st.none() | names, "is_paid": st.booleans()},
)


@given(bills, bills)
@settings(max_examples=60, derandomize=True, deadline=None)
def test_merged_json_always_satisfies_the_schema(draft: dict[str, Any], deep: dict[str, Any]) -> None:
    final = merge.resolve(by_fields(draft, deep), "q")

    assert isinstance(final, FinalAnswer)
    jsonschema.validate(json.loads(final.text), BILL)
    assert final == FinalAnswer.from_dict(json.loads(json.dumps(final.to_dict())))

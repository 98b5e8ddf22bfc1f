"""The merge: which answer is final, what is said about it, and how agreement is scored."""

from __future__ import annotations

from typing import Any

import pytest

from engines.base import SamplingParams, Usage
from router.jobs import merge
from router.jobs.job import BranchPlan, FinalAnswer, Job, Unit, UnitResult
from tests.router.jobs.test_store import make_spec

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
    assert final.usage == Usage(20, 4)


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
    assert final.usage == Usage(50, 7)


@pytest.mark.parametrize("result", [UnitResult(error=FAILED), UnitResult(text="  ")])
def test_if_glm_cannot_compose_the_deep_answer_stands_and_says_so(result: UnitResult) -> None:
    request = merge.resolve(job(strategy="compose"), "q")
    assert isinstance(request, merge.ComposeRequest)

    final = merge.composed(request, result)

    assert (final.text, final.strategy) == ("a cat", "deep")
    assert "could not be composed" in final.degraded[-1]


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


@pytest.mark.parametrize(
    ("first", "second", "low", "high", "basis"),
    [
        ("three red circles", "three red circles", 1, 1, ("tokens",)),
        ("There are 3.", "There are ３.", 1, 1, ("numbers", "tokens")),
        ("the price is 1,299", "the price is 1299", 1, 1, ("numbers", "tokens")),
        ("It shows 3 cats", "It shows 4 cats", 0.3, 0.6, ("numbers", "tokens")),
        ("a dog", "the cat", 0, 0, ("tokens",)),
        ("一只猫头鹰", "一只猫头鹰", 1, 1, ("tokens",)),
        ("一只猫头鹰在树上", "一只猫在地上", 0.1, 0.6, ("tokens",)),
        ("有 3 只猫", "There are 3 cats", 1, 1, ("numbers",)),
    ],
)
def test_agreement_compares_numbers_and_same_script_words(
    first: str, second: str, low: float, high: float, basis: tuple[str, ...]
) -> None:
    agreement = merge.compare(first, second)

    assert agreement.basis == basis
    assert agreement.score is not None
    assert low <= agreement.score <= high
    assert merge.compare(second, first) == agreement


def test_agreement_across_scripts_without_numbers_is_not_claimed() -> None:
    assert merge.compare("一只猫", "a cat") == merge.Agreement(None, ())


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

"""The merge, step by step: whom it asks for what, and what it ends with, whoever replies."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from engines.base import SamplingParams, Usage
from router.answers.merge import NoAnswer
from router.answers.steps import Ask, Ended, Merging, NoEngine, Reply
from router.jobs.job import BranchPlan, Job, Unit
from router.jobs.results import FinalAnswer, UnitResult
from tests.router.answers.test_groups import THREE, make
from tests.router.answers.test_groups import job as grouped
from tests.support.jobs import make_spec

DOWN = {"code": "engine_unavailable", "message": "it is away", "param": None, "status": 503, "retryable": True}
FAILED = UnitResult(error=DOWN)
PAIR = (BranchPlan("draft", "glm"), BranchPlan("deep", "owl2"))
SCHEMA = SamplingParams(json_schema='{"type":"object"}')


def written(text: str) -> UnitResult:
    return UnitResult(text=text, model="m", usage=Usage(1, 1))


def pair(**changes: Any) -> Job:
    spec = make_spec(**{"branches": PAIR, "sampling": SamplingParams(), **changes})
    units = {plan.name: Unit(plan.name, "completed", 1, 0, written(f"{plan.name} said")) for plan in spec.branches}
    return Job(spec, "in_progress", units)


def walk(job: Job, *replies: Reply, wants_all: bool = False) -> tuple[list[tuple[str, str, bool]], Ended]:
    """Reply to each question in turn; returns whom was asked for what, and whether it is told, and the end."""
    merging = Merging(job, wants_all=wants_all)
    asked: list[tuple[str, str, bool]] = []
    step = merging.next_step()
    left = iter(replies)
    while isinstance(step, Ask):
        asked.append((step.engine, "compose" if step.compose else "reduce", step.is_told))
        step = merging.next_step(next(left))
    assert next(left, None) is None
    return asked, step


def text_of(ended: Ended) -> str:
    assert isinstance(ended.outcome, FinalAnswer)
    return ended.outcome.text


def test_a_merge_that_needs_no_engine_asks_none() -> None:
    asked, ended = walk(pair(strategy="deep"))

    assert (asked, text_of(ended), ended.wants_retry) == ([], "deep said", False)


def test_glm_composes_and_if_it_cannot_owl2s_answer_stands_without_another_try() -> None:
    composed = walk(pair(strategy="compose"), written("both said"))
    failed = walk(pair(strategy="compose"), FAILED)

    assert composed[0] == failed[0] == [("glm", "compose", True)]
    assert (text_of(composed[1]), text_of(failed[1])) == ("both said", "deep said")
    assert not failed[1].wants_retry
    assert isinstance(failed[1].outcome, FinalAnswer)
    assert "it is away" in failed[1].outcome.degraded[0]


def test_without_a_fallback_a_failure_is_worth_another_try_and_an_empty_answer_is_not() -> None:
    # Given prose of Owl2's where JSON was asked for, and no answer of GLM's
    job = pair(strategy="deep", sampling=SCHEMA)
    job.units["draft"] = Unit("draft", "failed", 1, 3, FAILED)

    _, failed = walk(job, FAILED)
    _, empty = walk(job, written(""))

    assert isinstance(failed.outcome, NoAnswer)
    assert failed.wants_retry
    assert isinstance(empty.outcome, NoAnswer)
    assert not empty.wants_retry


def test_findings_are_reduced_by_owl2_and_the_first_writer_is_told() -> None:
    asked, ended = walk(grouped(make(strategy="deep")), written("three owls"))

    assert asked == [("owl2", "reduce", True)]
    assert text_of(ended) == "three owls"


@pytest.mark.parametrize("silence", [FAILED, written(" ")])
def test_without_a_draft_glm_composes_from_findings_then_owl2_does_unheard(silence: UnitResult) -> None:
    # The stream may hold the beginning of GLM's answer already: what another engine writes is told when it is whole.
    asked, ended = walk(grouped(make(strategy="compose"), draft=None), silence, written("three owls"))

    assert asked == [("glm", "reduce", True), ("owl2", "reduce", False)]
    assert text_of(ended) == "three owls"
    assert not ended.wants_retry


def test_findings_that_nobody_reduced_are_the_answer_after_another_try() -> None:
    _, failed = walk(grouped(make(strategy="deep")), FAILED)
    _, empty = walk(grouped(make(strategy="deep")), written(""))

    assert "deep-1 said" in text_of(failed)
    assert failed.wants_retry
    assert not empty.wants_retry


def test_a_composition_of_findings_that_failed_leaves_them_to_be_reduced() -> None:
    asked, ended = walk(grouped(make(strategy="compose")), FAILED, written("three owls"))

    assert asked == [("glm", "compose", True), ("owl2", "reduce", False)]
    assert text_of(ended) == "three owls"
    assert isinstance(ended.outcome, FinalAnswer)
    assert any("it is away" in sentence for sentence in ended.outcome.degraded)


@pytest.mark.parametrize(
    ("strategy", "has_draft", "has_deep"), list(itertools.product(["deep", "compose"], [True, False], [True, False]))
)
def test_a_job_over_its_time_ends_whatever_it_would_have_asked(strategy: str, has_draft: bool, has_deep: bool) -> None:
    said = {plan.name.replace("-", "_"): "found" if has_deep else None for plan in THREE}
    job = grouped(make(strategy=strategy), draft="a draft" if has_draft else None, **said)

    merging = Merging(job, wants_all=True)
    steps = [merging.next_step()]
    while isinstance(steps[-1], Ask):
        steps.append(merging.next_step(NoEngine(FAILED)))

    # At most one question: the reply is the same for all.
    assert len(steps) <= 2
    ended = steps[-1]
    assert isinstance(ended, Ended)
    assert isinstance(ended.outcome, FinalAnswer) == (has_draft or has_deep)

"""What counts as an answer: anything that somebody can read."""

from __future__ import annotations

import pytest

from engines.base import SamplingParams, Usage
from router.answers.usable import checked, is_blank
from router.jobs.job import BranchPlan
from router.jobs.results import UnitResult
from tests.support.jobs import make_spec

ALONE = (BranchPlan("deep", "owl2"),)
BLANK = [
    *("", " ", "\n\n\t", "\u3000", "\u200b\ufeff", "\x00\x1b", "\ufffd\ufffd"),
    *("</s>", "<|endoftext|>", "<|im_end|>\n", " <unk><unk> ", "[PAD]", "<|user|></s>"),
    *(".", "。", "...", "……", "---", "** **", "```\n```", '""', "“”", "#\n#\n", "`", ", , ,", "- \n- \n"),
]
ANSWERS = [
    *("a", "是", "0", "-1", "½", "👍", "✓", "→", "é", "ok.", "[]", "{}", "()", "$", "C#", "猫</s>"),
    *("-", "+", "?", "!", "%", "@", "*", "=", "<", "~", '"'),
]


@pytest.mark.parametrize("text", BLANK)
def test_what_nobody_can_read_is_blank(text: str) -> None:
    assert is_blank(text)


@pytest.mark.parametrize("text", ANSWERS)
def test_what_somebody_can_read_is_not(text: str) -> None:
    assert not is_blank(text)


@pytest.mark.parametrize(
    ("finish_reason", "code"),
    [("stop", "empty_answer"), ("length", "empty_answer"), ("content_filter", "content_filter")],
)
def test_of_a_pair_an_empty_answer_is_a_failed_branch_and_its_cost_is_counted(finish_reason: str, code: str) -> None:
    result = checked(UnitResult(text="\n", model="m", usage=Usage(9, 1), finish_reason=finish_reason), make_spec())

    assert result.error is not None
    assert (result.error["code"], result.error["retryable"], result.text) == (code, False, "")
    assert (result.usage, result.model) == (Usage(9, 1), "m")


def test_an_engine_alone_that_writes_nothing_fails_unless_the_caller_cut_it() -> None:
    free, stopped = (make_spec(branches=ALONE, sampling=SamplingParams(stop=stop)) for stop in ((), ("a",)))

    for spec, finish_reason, is_failed in (
        (free, "stop", True),
        (free, "content_filter", True),
        (free, "length", False),
        (stopped, "stop", False),
    ):
        result = checked(UnitResult(text=" ", finish_reason=finish_reason), spec)
        assert (result.error is not None) == is_failed


def test_an_answer_and_a_failure_stay_as_they_are() -> None:
    for result in (UnitResult(text="a", finish_reason="length"), UnitResult(error={"code": "x"})):
        assert checked(result, make_spec()) is result

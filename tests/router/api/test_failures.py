"""A job without an answer is refused in the caller's language, whatever ended it."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from engines.base import (
    EngineEndedError,
    EngineError,
    EngineOverloadedError,
    EngineTimeoutError,
    EngineUnavailableError,
    InvalidImageError,
)
from router.answers import merge
from router.answers.usable import checked
from router.api.failures import to_failure
from router.jobs.given_up import LOST_MERGE, NOT_AWAITED, lost_result
from router.jobs.results import ErrorRecord, UnitResult, to_failure_record
from router.work.overdue import to_error
from tests.router.api.test_objects import job
from tests.support.jobs import make_spec

FAILED = job("failed", None, deadline_ms=2500)
EMPTY = checked(UnitResult(""), make_spec()).error
FILTERED = checked(UnitResult("", finish_reason="content_filter"), make_spec()).error
CHINESE = re.compile("[\u4e00-\u9fff]{4,}")


def nothing() -> ErrorRecord:
    units = {name: replace(unit, state="failed", result=UnitResult()) for name, unit in FAILED.units.items()}
    outcome = merge.resolve(replace(FAILED, units=units), "?")
    assert isinstance(outcome, merge.NoAnswer)
    return outcome.error


RECORDS = {
    "deadline_exceeded": to_error(FAILED, "deadline"),
    "job_expired": to_error(FAILED, "expired"),
    "worker_lost": lost_result(3).error,
    "not_awaited": NOT_AWAITED.error,
    "server_error": LOST_MERGE,
    "empty_answer": EMPTY,
    "content_filter": FILTERED,
}


@pytest.mark.parametrize("code", RECORDS)
def test_what_ended_a_job_is_said_in_both_languages(code: str) -> None:
    refusal = to_failure(replace(FAILED, error=RECORDS[code]))

    assert refusal.code == code
    assert CHINESE.search(refusal.message_zh)
    assert not CHINESE.search(refusal.message)


def test_no_answer_at_all_is_said_in_both_languages() -> None:
    refusal = to_failure(replace(FAILED, error=nothing()))
    assert (refusal.message, refusal.message_zh) == ("no engine gave an answer", "没有引擎给出回答")


@pytest.mark.parametrize(
    "error",
    [
        EngineUnavailableError("away"),
        EngineEndedError("ended"),
        EngineOverloadedError("full"),
        EngineTimeoutError("late"),
        InvalidImageError("not a picture"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_engines_failure_is_said_as_without_a_job(error: EngineError) -> None:
    refusal = to_failure(replace(FAILED, error=to_failure_record(error)))

    assert refusal.message == error.message
    assert CHINESE.search(refusal.message_zh)


def test_a_record_of_an_earlier_release_has_its_english_words_in_both() -> None:
    refusal = to_failure(replace(FAILED, error={"code": "odd", "message": "It broke."}))
    assert (refusal.message, refusal.message_zh) == ("It broke.", "It broke.")

"""The waits between attempts: bounded, growing, spread out, and never shorter than a receiver asked for."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.lua.constants import MAX_AGE_S
from router.settings import DEFAULT_WEBHOOK_DELAYS_S, Settings
from router.webhooks.backoff import Backoff, parse_retry_after

PROFILE = settings(derandomize=True, deadline=None, max_examples=100)
DELAYS = st.lists(st.floats(0.01, 1e5), min_size=1, max_size=8)


@PROFILE
@given(DELAYS, st.integers(1, 100), st.integers())
def test_a_wait_is_the_planned_one_give_or_take_the_jitter(delays: list[float], failures: int, seed: int) -> None:
    backoff = Backoff(delays, jitter=0.2, random_between=random.Random(seed).uniform)
    planned = delays[min(failures, len(delays)) - 1]
    assert planned * 0.799 <= backoff.delay_s(failures) <= planned * 1.201


@PROFILE
@given(DELAYS, st.integers(1, 100), st.floats(0, 1e7), st.integers())
def test_a_wait_is_never_shorter_than_a_receiver_asked_for_up_to_a_day(
    delays: list[float], failures: int, wish: float, seed: int
) -> None:
    backoff = Backoff(delays, random_between=random.Random(seed).uniform)
    assert backoff.delay_s(failures, wish) >= min(wish, 24 * 3600)


@PROFILE
@given(st.integers())
def test_by_default_a_receiver_is_tried_about_a_dozen_times_in_three_days(seed: int) -> None:
    backoff = Backoff(Settings().webhook_delays_s, random_between=random.Random(seed).uniform)
    at, attempts = 0.0, 0
    waits: list[float] = []
    while at <= MAX_AGE_S:
        attempts += 1
        waits.append(backoff.delay_s(attempts))
        at += waits[-1]
    assert 10 <= attempts <= 15
    assert waits[0] < 10
    assert waits[: len(DEFAULT_WEBHOOK_DELAYS_S)] == sorted(waits[: len(DEFAULT_WEBHOOK_DELAYS_S)])


def test_two_receivers_that_failed_together_are_not_tried_together() -> None:
    backoff = Backoff((300.0,))
    assert len({backoff.delay_s(1) for _ in range(20)}) == 20


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("-5", None),
        ("soon", None),
        ("9" * 400, 999_999_999.0),
        (format_datetime(datetime.fromtimestamp(1_700_000_060, UTC), usegmt=True), 60.0),
        (format_datetime(datetime.fromtimestamp(1_600_000_000, UTC), usegmt=True), 0.0),
        ("Mon, 32 Foo 2026 99:99:99 GMT", None),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, now=1_700_000_000) == seconds


@pytest.mark.parametrize("value", ["0", "5,-1", "x", "5,1e9", "nan"])
def test_waits_that_make_no_sense_stop_the_start(value: str) -> None:
    with pytest.raises(ValueError):
        Settings(webhook_delays_s=value)


def test_waits_are_read_from_a_comma_list() -> None:
    assert Settings(webhook_delays_s="1, 2.5").webhook_delays_s == (1.0, 2.5)
    assert Settings(webhook_delays_s="").webhook_delays_s == DEFAULT_WEBHOOK_DELAYS_S

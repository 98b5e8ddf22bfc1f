"""A short round of chaos; the long ones are ``python -m tests.chaos.run``."""

from __future__ import annotations

import asyncio

import pytest

from tests.chaos.round import make_stack, run_round

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def test_whatever_is_killed_what_was_accepted_ends_once_and_everybody_is_told_once() -> None:
    # Given two apis, two workers, two engines and a redis
    stack = make_stack(is_quick=True)
    try:
        stack.start()
        stack.wait_ready()

        # When one of each kind is killed while jobs come in from three callers
        report = asyncio.run(run_round(stack, seed=7, num_jobs=24, num_kills=4, gap_s=(0.5, 2.0)))

        # Then the audit finds nothing: no job lost, doubled, mixed up, told twice, or left in redis
        assert report.wrong == []
        assert sum(report.states.values()) == 24
    finally:
        stack.stop()

"""One key at several api processes, one of which is killed in the middle: exactly the limit is admitted.

The large run, of eight apis and 10,000 calls, is ``benchmarks/rate_limits_apis.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from router.auth.key_text import digest_of
from router.auth.records import configured_owner
from router.limits.limits import Limits
from tests.support.limited_calls import call_all, read_ledger
from tests.support.stack import ProcessStack

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

KEY, PER_MINUTE = "one-key-for-all", 60


@pytest.fixture(autouse=True)
def _fast_engines() -> None:
    """Keep the stack of the other journeys from being started."""


@pytest.fixture
def stack() -> Iterator[ProcessStack]:
    limits = f"requests={PER_MINUTE}/min, tokens=10M/min"
    stack = ProcessStack(num_apis=3, workers=(), env={"GLOWL_API_KEYS": KEY, "GLOWL_LIMITS": limits})
    try:
        stack.start()
        stack.wait_ready()
        yield stack
    finally:
        stack.stop()


def test_apis_admit_together_what_one_would_also_if_one_is_killed(stack: ProcessStack) -> None:
    tally = asyncio.run(call_all(stack, KEY, num_each=100, num_at_once=4, kill="api2", kill_after=40))
    read_ledger(
        stack,
        tally,
        configured_owner(digest_of(KEY)),
        Limits(requests_per_minute=PER_MINUTE, tokens_per_minute=10_000_000),
    )

    # What is on record never was over the limit, and is what was answered, but for what died with its process.
    assert tally.is_never_over(PER_MINUTE)
    num_charged = len(tally.charged_at_us)
    assert len(tally.admitted) <= num_charged <= len(tally.admitted) + tally.num_broken
    # Nor was anything refused before the limit was reached.
    assert PER_MINUTE <= num_charged <= tally.most(PER_MINUTE)
    assert tally.num_refused > 0
    assert len(tally.admitted) - tally.num_by_killed <= len(tally.settled) <= num_charged

"""Wrong keys from one address."""

from __future__ import annotations

import pytest

from router.limits.failures import MAX_FAILURES_PER_MINUTE, Failures

EVIL, OTHER = "203.0.113.7", "203.0.113.8"


@pytest.fixture
def clock() -> list[float]:
    return [100.0]


@pytest.fixture
def failures(clock: list[float]) -> Failures:
    failures = Failures(lambda: clock[0])
    failures.note_good("glowl_used")
    for _ in range(MAX_FAILURES_PER_MINUTE):
        assert failures.refusal(EVIL, None) is None
        failures.note_wrong(EVIL)
    return failures


def test_after_so_many_wrong_keys_no_guess_is_looked_at(failures: Failures) -> None:
    wrong, right = failures.refusal(EVIL, None), failures.refusal(EVIL, "glowl_guessed")
    assert wrong is not None
    assert right is not None
    assert wrong.message == right.message
    assert failures.refusal(OTHER, None) is None


def test_who_used_a_key_before_is_not_locked_out_by_a_neighbour(failures: Failures) -> None:
    assert failures.refusal(EVIL, "glowl_used") is None


def test_a_refusal_says_when_another_key_is_looked_at(failures: Failures, clock: list[float]) -> None:
    refusal = failures.refusal(EVIL, None)
    assert refusal is not None
    assert refusal.retry_after_ms == 2000
    clock[0] += refusal.retry_after_ms / 1000
    assert failures.refusal(EVIL, "glowl_guessed") is None
    failures.note_wrong(EVIL)
    assert failures.refusal(EVIL, None) is not None
    clock[0] += 60
    assert failures.refusal(EVIL, None) is None


def test_a_network_of_ipv6_is_one_address_and_this_machine_is_none(failures: Failures) -> None:
    for number in range(MAX_FAILURES_PER_MINUTE):
        failures.note_wrong(f"2001:db8::{number:x}")
        failures.note_wrong("127.0.0.1")
    assert failures.refusal("2001:db8::ffff", None) is not None
    assert failures.refusal("2001:db8:0:1::1", None) is None
    assert failures.refusal("127.0.0.1", None) is None

"""Intervals against values worked out by hand, and against what they promise on logs whose truth is known."""

from __future__ import annotations

import random

import pytest

from router.loop.stats.intervals import Interval, Value, mcnemar, mean_interval


def _values(values: list[float]) -> list[Value]:
    return [Value(str(number), value) for number, value in enumerate(values)]


def test_the_mean_is_of_rows_and_the_interval_of_documents() -> None:
    # Given ten documents with two questions each that are always alike, so that there are ten answers, not twenty
    once = _values([1.0, 0.0] * 5)
    twice = [Value(each.group, each.value) for each in once for _ in range(2)]

    alone, in_pairs = mean_interval(once), mean_interval(twice)

    assert alone is not None
    assert in_pairs is not None
    assert (in_pairs.num_rows, in_pairs.num_groups) == (20, 10)
    assert (in_pairs.estimate, in_pairs.low, in_pairs.high) == (alone.estimate, alone.low, alone.high)


def test_weights_stand_for_rows_that_were_not_drawn() -> None:
    # Given that one in ten of the hundred easy questions was drawn, and each of the ten hard ones
    easy = [Value(f"easy {number}", 0.0, 10.0) for number in range(10)]
    hard = [Value(f"hard {number}", 1.0) for number in range(10)]

    found = mean_interval(easy + hard)

    assert found is not None
    assert found.estimate == pytest.approx(10 / 110)
    assert 0 < found.low < 10 / 110 < found.high


def test_few_documents_say_nothing() -> None:
    assert mean_interval(_values([1.0] * 9)) is None
    assert mean_interval([*_values([1.0] * 9), Value("unseen", 1.0, 0.0)]) is None


def test_what_never_differs_may_still_differ_in_what_was_not_seen() -> None:
    found = mean_interval(_values([0.0] * 100))

    assert found is not None
    # 0.975 of such samples would show a difference that 3.62 % of the questions have
    assert (found.estimate, found.low, found.high) == (
        0.0,
        pytest.approx(-0.0362, abs=1e-4),
        pytest.approx(0.0362, abs=1e-4),
    )


def test_an_interval_of_a_skewed_mean_leans_to_the_long_side() -> None:
    found = mean_interval(_values([0.0] * 95 + [1.0] * 5))

    assert found is not None
    assert 0.005 < found.low < 0.03
    assert found.high - 0.05 > 0.05 - found.low


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    # Given 100 sets of 120 differences whose true mean is +4 points
    generator = random.Random(7)
    num_held = 0
    for _ in range(100):
        drawn = generator.choices([1.0, -1.0, 0.0], weights=[0.10, 0.06, 0.84], k=120)
        found = mean_interval(_values(drawn), rounds=400)
        num_held += found is not None and found.low <= 0.04 <= found.high

    assert 89 <= num_held <= 100


def test_the_exact_test_of_wins_and_losses() -> None:
    # 2 * (C(10,0) + C(10,1) + C(10,2)) / 2**10
    assert mcnemar(8, 2) == pytest.approx(0.109375)
    assert mcnemar(2, 8) == mcnemar(8, 2)
    assert mcnemar(9, 0) == pytest.approx(2 / 512)
    assert mcnemar(5, 5) == 1.0
    assert mcnemar(0, 0) == 1.0


def test_points_are_shown_with_their_signs() -> None:
    assert Interval(0.011, -0.009, 0.032, 212, 212).to_points() == "+1.1 [-0.9, +3.2]"
    assert Interval(-0.0001, -0.0001, 0.0001, 20, 20).to_points() == "+0.0 [+0.0, +0.0]"


def test_an_interval_does_not_reach_beyond_what_a_difference_can_be() -> None:
    for sign in (1, -1):
        found = mean_interval([Value(str(n), 0.0 if n == 0 else sign) for n in range(12)])

        assert found is not None
        assert max(abs(found.low), abs(found.high)) == 1.0

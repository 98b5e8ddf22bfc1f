"""Does the deeper look pay? Against logs whose truth is known."""

from __future__ import annotations

import random

import pytest

from router.loop.stats.verdict import judge
from tests.support.logs import RIGHT, WRONG, exchange, simulated_log


@pytest.mark.parametrize("gain", [0.0, 0.03, -0.03])
def test_intervals_hold_the_truth_and_rarely_claim_what_is_not_so(gain: float) -> None:
    # Given ten logs of each kind; `benchmarks/loop_intervals.py` does the same with 500
    generator = random.Random(3)
    num_held = num_paid = 0
    for _ in range(10):
        fast = judge(simulated_log(generator, gain, num_documents=120))[0]
        assert fast.gain is not None
        num_held += fast.gain.low <= gain <= fast.gain.high
        num_paid += fast.says == "pays"

    assert num_held >= 7
    if gain <= 0:
        assert num_paid <= 2


def test_a_second_look_stands_for_those_that_were_not_drawn() -> None:
    # Given that Chinese questions are looked at again rarely and gain, English ones often and lose
    rare = [exchange(f"zh {n}", fast=WRONG, deep=RIGHT, probability=0.1) for n in range(20)]
    often = [exchange(f"en {n}", fast=RIGHT, deep=WRONG, probability=0.5, language="en") for n in range(20)]

    fast, *slices = judge(rare + often)

    # (20 * 10 - 20 * 2) / (20 * 10 + 20 * 2)
    assert fast.gain is not None
    assert fast.gain.estimate == pytest.approx(160 / 240)
    assert [(each.slice, each.gain.estimate if each.gain else None) for each in slices] == [
        ("fast en", -1.0),
        ("fast zh", 1.0),
    ]
    assert [(each.says, each.change) for each in slices] == [("harms", ""), ("pays", "send deep")]


def test_a_deep_route_that_harms_is_to_answer_fast() -> None:
    exchanges = [exchange(str(n), route="deep", fast=RIGHT, deep=WRONG if n % 2 else RIGHT) for n in range(60)]

    found = judge(exchanges)

    assert [(each.slice, each.says, each.change) for each in found] == [
        ("deep", "harms", "answer fast"),
        ("deep zh", "harms", "answer fast"),
    ]
    assert found[0].seconds == 4.0


def test_it_may_say_no_and_that_it_does_not_know() -> None:
    same = [exchange(str(n), fast=RIGHT, deep=RIGHT, probability=0.5, num_images=2) for n in range(60)]
    few = [exchange(f"few {n}", fast=WRONG, deep=RIGHT, probability=0.5, language="en") for n in range(5)]

    found = {each.slice: each for each in judge(same + few)}

    assert (found["fast zh"].says, found["fast zh"].change) == ("not proven", "")
    assert found["fast pages"].says == "not proven"
    assert found["fast en"].says == "not enough data"
    assert found["fast en"].gain is None


def test_intervals_of_several_slices_are_wider_so_that_they_hold_together() -> None:
    # Given that the one language is all of the route, and several pictures are a second slice
    exchanges = [
        exchange(str(n), fast=WRONG if n % 3 else RIGHT, deep=RIGHT, probability=0.5, num_images=1 + n % 2)
        for n in range(90)
    ]

    found = {each.slice: each.gain for each in judge(exchanges)}

    whole, of_language = found["fast"], found["fast zh"]
    assert whole is not None
    assert of_language is not None
    assert of_language.estimate == whole.estimate
    assert of_language.low < whole.low
    assert whole.high < of_language.high


def test_without_feedback_or_a_second_look_nothing_is_known() -> None:
    unseen = [exchange(str(n), probability=0.1) for n in range(50)]
    unjudged = [exchange(f"u{n}", deep=WRONG, probability=0.1, right=None) for n in range(50)]

    (fast, of_language) = judge(unseen + unjudged)

    assert (fast.says, fast.num_questions, fast.seconds) == ("not enough data", 50, None)
    assert of_language.slice == "fast zh"

"""Weights fitted to a log whose truth is known."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from policies.features import Question, measure
from policies.multi_hop_weights import parse, shipped, to_text
from policies.rules import load_preset
from router.loop.stats.fit import fit
from router.loop.stats.records import Exchange
from tests.support.logs import RIGHT, WRONG, exchange

SIMPLE = ("这是什么？", "图里有什么颜色？", "门牌号是多少？", "他在做什么？")
# Short, so that the shipped weights take them for one look.
COMPARED = ("哪个更大？", "谁比较高？", "哪杯更贵？", "两者有什么不同？")


def _log(num_documents: int, *, helps: bool) -> list[Exchange]:
    """Make a log in which a deeper look mostly wins on comparisons, and else mostly loses; or wins on neither."""
    generator = random.Random(11)
    found = []
    for number in range(num_documents):
        question = generator.choice(SIMPLE + COMPARED)
        wins = 0.8 if helps and question in COMPARED else 0.1
        fast, deep = generator.choices(
            [(WRONG, RIGHT), (RIGHT, WRONG), (RIGHT, RIGHT)], weights=[wins, 0.5 * (1 - wins), 0.5 * (1 - wins)]
        )[0]
        one = exchange(str(number), fast=fast, deep=deep, probability=0.5)
        found.append(replace(one, question=question, features=measure(Question(question, image_keys=("a",)))))
    return found


def test_what_the_log_shows_is_learnt_and_proven_on_other_documents() -> None:
    found = fit(_log(600, helps=True), load_preset("seed"), shipped())

    assert found.fitted == ("zh",)
    assert found.is_proven
    assert found.gain is not None
    assert found.gain.estimate > 0.2
    assert found.weights["zh"].cues["comparison"][0] > shipped()["zh"].cues["comparison"][0]
    assert found.weights["en"] == shipped()["en"]
    assert parse(to_text(found.weights, "fitted"), shipped()) == found.weights


def test_a_log_in_which_nothing_helps_proves_nothing() -> None:
    found = fit(_log(400, helps=False), load_preset("seed"), shipped())

    assert not found.is_proven


def test_a_short_log_leaves_the_weights_alone() -> None:
    found = fit(_log(30, helps=True), load_preset("seed"), shipped())

    assert (found.fitted, found.weights, found.is_proven) == ((), shipped(), False)


@pytest.mark.parametrize("helps", [True, False])
def test_no_weight_is_below_zero(helps: bool) -> None:
    found = fit(_log(300, helps=helps), load_preset("seed"), shipped()).weights["zh"]

    assert min(found.length, *(weight for weight, _ in found.cues.values())) >= 0

"""Questions that cannot be gamed: whatever ignores the question is right no more often than chance."""

import math
import random

import pytest

from tests.support.whole import IS_WHOLE
from training.pocket.scenes import TYPES, Question, blind_baseline, blind_baselines, sample_question

# A default run draws fewer, and then allows for three standard errors of so many; of 40 types with several strategies
# each, chance alone lifts one above that now and then, so what looks too good is judged on all of them.
NUM_FOR_CHANCE = 1500
NUM_QUESTIONS = NUM_FOR_CHANCE if IS_WHOLE else 300
# The best share of right answers any strategy may have. Chance plus about three standard errors (0.04 at a half), and:
# exist: one "no" in ten is of the easy sort; prices: an old price is sometimes struck through.
CHANCE = {
    "color_of_shape": 0.25,
    "shape_of_color": 0.25,
    "exist": 0.60,
    "count_all": 0.22,
    "count_color": 0.21,
    "count_shape": 0.21,
    "count_color_shape": 0.25,
    "largest": 0.30,
    "smallest": 0.30,
    "position": 0.54,
    "region": 0.16,
    "at_region": 0.29,
    "relation": 0.54,
    "comparison": 0.54,
    "describe": 0.05,
    "price_current": 0.63,
    "price_original": 0.55,
    "chart_tallest": 0.30,
    "chart_value": 0.30,
    "receipt_total": 0.25,
    "receipt_paid": 0.25,
    "receipt_shop": 0.18,
    "hop_largest_kind": 0.58,
    "hop_left_of": 0.27,
    "beside": 0.27,
    "hop_in_chinese": 0.42,
    "compose": 0.42,
    "picture_color": 0.25,
    "picture_count": 0.50,
    "total_all": 0.18,
    "total_color": 0.20,
    "total_shape": 0.20,
    "total_many_color": 0.20,
    "total_many_shape": 0.20,
    "which_has": 0.54,
    "which_has_many": 0.30,
    "which_more_all": 0.54,
    "which_more_color": 0.54,
    "which_more_shape": 0.54,
    "which_more_cs": 0.54,
    "same_color": 0.54,
    "same_shape": 0.54,
    "which_larger": 0.54,
    "hop_picture_count": 0.58,
    "hop_picture_color": 0.54,
}
# One answer by nature (text turns), one price to read, or not judged.
EXEMPT = {"greeting", "ability", "price_single", "caption"}


def bar(chance: float, num: int) -> float:
    """The bar of `CHANCE` for as many questions as are drawn."""
    deviation = math.sqrt(chance * (1 - chance))
    return chance + 3 * deviation * (num**-0.5 - NUM_FOR_CHANCE**-0.5)


def test_every_type_is_held_to_its_chance() -> None:
    honest = {name for name, info in TYPES.items() if info.is_honest}  # one answer each, and false alarms are counted
    assert set(CHANCE) | EXEMPT | honest == set(TYPES)


@pytest.mark.parametrize("name", CHANCE)
def test_no_blind_strategy_beats_chance(name: str) -> None:
    # Given many questions of a type, in the language it is mostly asked in
    lang = max(lang for langs in TYPES[name].langs.values() for lang in langs)
    rng = random.Random(f"baselines {name}")
    questions: list[Question] = []
    for num in (NUM_QUESTIONS, NUM_FOR_CHANCE):
        questions += [sample_question(rng, name, lang) for _ in range(num - len(questions))]
        # When strategies that ignore the question answer them
        baselines = blind_baselines(questions)
        assert max(baselines.values()) == blind_baseline(questions)
        too_good = {strategy: share for strategy, share in baselines.items() if share > bar(CHANCE[name], num)}
        if not too_good:
            break
    # Then none does better than chance
    assert too_good == {}


@pytest.mark.parametrize(
    "name", ["which_more_color", "which_more_shape", "which_more_cs", "which_has", "which_larger", "hop_picture_color"]
)
def test_the_fuller_picture_is_right_half_the_time(name: str) -> None:
    # Given questions for one of two pictures
    rng = random.Random(f"fuller {name}")
    questions = [sample_question(rng, name, "en") for _ in range(NUM_QUESTIONS)]
    # Then the fuller one is neither the better nor the worse guess
    assert 1 - bar(0.54, NUM_QUESTIONS) < blind_baselines(questions)["the fuller picture"] < bar(0.54, NUM_QUESTIONS)


def test_the_text_alone_does_not_tell_the_answer() -> None:
    # Given questions in which one wording always has one answer
    questions = [
        Question("exist", "en", (), text, answer)
        for text, answer in (("Is there a star?", "yes"), ("Can you see a star?", "no"))
        for _ in range(40)
    ]
    # Then the text's majority finds out, although both answers are equally frequent
    baselines = blind_baselines(questions)
    assert baselines["majority of the text"] == 1.0
    assert baselines["majority"] <= 0.5


def test_the_majority_is_learned_elsewhere_than_it_is_judged() -> None:
    # Given as many answers as questions
    questions = [Question("count_all", "en", (), f"How many? {index}", str(index)) for index in range(50)]
    # Then knowing some of them is of no use
    assert blind_baselines(questions)["majority"] == 0.0


def test_naming_a_visible_candidate_is_right_in_one_of_their_number() -> None:
    questions = [
        Question(
            "color_of_shape", "en", (), "What colour is the star?", "red", candidates=("blue", "green", "red", "pink")
        )
    ] * 4
    assert blind_baselines(questions)["any visible candidate"] == 0.25


def test_a_shortcut_is_listed_only_where_all_questions_know_it() -> None:
    # Given one question with a shortcut and one without
    known = Question("exist", "en", (), "Is there a star?", "yes", guesses=(("both words are visible", "yes"),))
    unknown = Question("count_all", "en", (), "How many?", "3")
    # Then it is listed for the first alone
    assert "both words are visible" in blind_baselines([known, known])
    assert "both words are visible" not in blind_baselines([known, unknown])


def test_one_question_has_no_baseline() -> None:
    with pytest.raises(ValueError, match="two questions"):
        blind_baselines([Question("exist", "en", (), "Is there a star?", "yes")])

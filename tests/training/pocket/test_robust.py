"""Evaluation under conditions: each is drawn as it says, and known questions answered as unknown are counted."""

import pytest

pytest.importorskip("torch")

from training.pocket.checkpoints import EngineName
from training.pocket.robust import conditions, count_false_alarms, draw_condition
from training.pocket.scenes import Question
from training.pocket.scenes.outside_words import HONEST

ENGINES: tuple[EngineName, ...] = ("glm", "owl2")


@pytest.mark.parametrize("engine", ENGINES)
def test_every_condition_draws_the_same_questions_again(engine: EngineName) -> None:
    for condition in conditions(engine):
        questions = draw_condition(engine, condition, 6, seed=1)
        assert len(questions) == 6
        assert questions == draw_condition(engine, condition, 6, seed=1) != draw_condition(engine, condition, 6, seed=2)


def test_conditions_are_what_their_names_say() -> None:
    assert all("color" in q.text.lower() for q in draw_condition("glm", "american", 6, seed=3))
    assert all(len(q.images[0].shapes) >= 7 for q in draw_condition("owl2", "many", 14, seed=3))
    assert all("." in q.answer for q in draw_condition("glm", "decimals", 8, seed=3))
    assert all(scene.is_hollow for q in draw_condition("owl2", "outline", 8, seed=3) for scene in q.images)
    assert {q.answer for q in draw_condition("glm", "unseen", 40, seed=3)} == set(HONEST.values())
    # Owl2 reads neither print nor, but for two steps, Chinese
    assert not {"decimals", "dollar", "half_width"} & set(conditions("owl2"))


def test_an_unknown_condition_is_an_error() -> None:
    with pytest.raises(KeyError):
        draw_condition("glm", "upside_down", 1, seed=1)


def test_only_known_questions_can_be_false_alarms() -> None:
    known = Question("exist", "en", (), "Is there a star?", "yes")
    unknown = Question("outside_text", "en", (), "Why?", HONEST["en"])
    alarms = count_false_alarms([(known, "yes"), (known, HONEST["zh"]), (unknown, HONEST["en"])] + [(known, "no")] * 97)
    assert (alarms.n, alarms.num) == (99, 1)
    assert not alarms.passed
    assert count_false_alarms([(known, HONEST["en"])] + [(known, "no")] * 99).passed

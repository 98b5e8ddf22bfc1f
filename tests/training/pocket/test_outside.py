"""The honest class: what is unknown stays unknown whatever is asked, and evaluations ask what training never did."""

import random

import pytest

from training.pocket.scenes import TYPES, render, sample_question
from training.pocket.scenes.nouns import Lang
from training.pocket.scenes.outside import unknown_question, unknown_scene
from training.pocket.scenes.outside_pictures import FAMILIES, UNSEEN, draw_outside
from training.pocket.scenes.outside_words import HONEST, NOUNS, QUESTIONS, choices
from training.pocket.scenes.words import COLOUR_NAMES, KINDS, say

LANGS: tuple[Lang, ...] = ("zh", "en")
HONEST_TYPES = [name for name, info in TYPES.items() if info.is_honest]


@pytest.mark.parametrize("name", HONEST_TYPES)
def test_everything_unknown_has_one_answer_in_the_language_of_the_question(name: str) -> None:
    for langs in TYPES[name].langs.values():
        for lang in langs:
            rng = random.Random(name)
            questions = [sample_question(rng, name, lang) for _ in range(20)]
            assert {question.answer for question in questions} == {HONEST[lang]}
            # And the question is one that a person of that language types
            assert len({question.text for question in questions}) > 10
            assert all("{" not in question.text for question in questions)


@pytest.mark.parametrize("family", [*FAMILIES, *UNSEEN])
def test_an_unknown_picture_has_its_size_and_is_drawn_alike_again(family: str) -> None:
    image = draw_outside(family, (96, 64), 7)
    assert image.size == (96, 64)
    assert image.mode == "RGB"
    assert image.tobytes() == draw_outside(family, (96, 64), 7).tobytes()
    assert any(image.tobytes() != draw_outside(family, (96, 64), seed).tobytes() for seed in (8, 9))


def test_a_scene_of_an_unknown_picture_is_drawn_from_its_seed() -> None:
    scene = unknown_scene(random.Random(1), (64, 64), ("clouds",))
    assert render(scene).tobytes() == draw_outside("clouds", (64, 64), scene.seed).tobytes()
    assert scene.shapes == ()


@pytest.mark.parametrize("lang", LANGS)
def test_an_evaluation_asks_with_words_that_no_training_run_meets(lang: Lang) -> None:
    for table in (NOUNS[lang], QUESTIONS[lang]):
        seen, unseen = choices(table, unseen=False), choices(table, unseen=True)
        assert sorted([*seen, *unseen]) == sorted(table)
        assert len(set(table)) == len(table)
        assert 8 * len(unseen) > len(table)


@pytest.mark.parametrize("lang", LANGS)
def test_no_unknown_word_is_a_known_one(lang: Lang) -> None:
    # Given the names of all shapes and colours that the models know
    known = {say(name, lang) for name in (*COLOUR_NAMES, *KINDS)}
    # Then no unknown thing has one of them
    assert not known & set(NOUNS[lang])
    rng = random.Random(3)
    assert len({unknown_question(rng, lang) for _ in range(300)}) > 150


def test_the_honest_sentence_says_what_the_models_know() -> None:
    assert all(word in HONEST["en"] for word in ("shapes", "price", "charts"))
    assert all(word in HONEST["zh"] for word in ("图形", "价格", "图"))

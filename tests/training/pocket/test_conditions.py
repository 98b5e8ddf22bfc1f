"""What must not change an answer does not: only the words around a question change, and only the manner of drawing."""

import math
import random
from dataclasses import replace

import pytest

from training.pocket.scenes import Question, Scene, Shape, render, sample_question
from training.pocket.scenes.conditions import DRAWING, TYPING, any_drawing, any_typing, drawn, typed
from training.pocket.scenes.sampling import MANY_TYPES, sample_of_many
from training.pocket.scenes.words import COLOURS

SHAPES = (Shape("circle", "red", 0.25, 0.3, 0.15), Shape("square", "blue", 0.75, 0.7, 0.15))
SCENE = Scene("shapes", 128, 128, SHAPES)


@pytest.mark.parametrize("name", TYPING)
def test_typing_changes_the_words_and_nothing_else(name: str) -> None:
    for lang, text in (("en", "What colour is the circle?"), ("zh", "圆形是什么颜色？")):
        question = Question("color_of_shape", lang, (SCENE,), text, "red")
        changed = typed(random.Random(2), question, (name,))
        assert replace(changed, text=text) == question


@pytest.mark.parametrize(
    ("name", "lang", "text", "expected"),
    [
        ("american", "en", "What colour is it?", "What color is it?"),
        ("half_width", "zh", "圆形是什么颜色？", "圆形是什么颜色?"),
        ("no_mark", "zh", "有几个图形？", "有几个图形"),
        ("no_mark", "en", "Count all the shapes.", "Count all the shapes"),
        ("lower_case", "en", "How high is bar A?", "how high is bar A?"),
    ],
)
def test_a_question_is_typed_as_people_do(name: str, lang: str, text: str, expected: str) -> None:
    question = Question("count_all", lang, (SCENE,), text, "2")  # type: ignore[arg-type]
    assert typed(random.Random(0), question, (name,)).text == expected


def test_what_a_program_asks_is_not_retyped() -> None:
    question = sample_question(random.Random(1), "compose", "en")
    assert typed(random.Random(1), question, tuple(TYPING)) == question


@pytest.mark.parametrize("name", DRAWING)
def test_drawing_leaves_every_shape_where_it_is(name: str) -> None:
    scenes = drawn(random.Random(4), (SCENE,), (name,))
    assert scenes is not None
    (scene,) = scenes
    assert [(s.kind, s.colour, s.x, s.y) for s in scene.shapes] == [(s.kind, s.colour, s.x, s.y) for s in SHAPES]
    # And it is to be seen
    assert render(scene).tobytes() != render(SCENE).tobytes()


def test_what_could_not_be_seen_is_not_drawn_on_dark_paper() -> None:
    black = replace(SCENE, shapes=(*SHAPES, Shape("star", "black", 0.7, 0.2, 0.1)))
    assert drawn(random.Random(1), (SCENE, black), ("dark",)) is None
    # And each other colour stands out on the lightest of it
    for colour, rgb in COLOURS.items():
        assert colour == "black" or max(abs(part - 62) for part in rgb) > 60


def test_a_square_is_never_turned_into_a_diamond() -> None:
    for seed in range(40):
        scenes = drawn(random.Random(seed), (SCENE,), ("rotated",))
        assert scenes is not None
        assert abs(scenes[0].shapes[1].turn) < math.radians(20)


def test_a_hollow_shape_has_paper_inside_and_its_colour_around() -> None:
    image = render(replace(SCENE, is_hollow=True))
    assert image.getpixel((32, 38)) == SCENE.background
    red, green, blue = image.getpixel((32 - 17, 38))
    assert red > 180
    assert max(green, blue) < 90


@pytest.mark.parametrize("name", MANY_TYPES)
def test_questions_about_many_shapes_have_seven_to_nine(name: str) -> None:
    rng = random.Random(name)
    for _ in range(3):
        question = sample_of_many(rng, name, "en")
        assert 7 <= len(question.images[0].shapes) <= 9
        assert question.type == name


def test_training_meets_each_condition_and_also_none() -> None:
    rng = random.Random(5)
    typing = [any_typing(rng, "en") for _ in range(400)]
    drawing = [any_drawing(rng) for _ in range(400)]
    assert set().union(*typing) == set(TYPING)
    assert set().union(*drawing) == set(DRAWING)
    assert () in typing
    assert () in drawing
    assert not any({"no_mark", "doubled"} <= set(names) for names in typing)

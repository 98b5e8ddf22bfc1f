"""Draws questions so that no blind answer does better than chance.

In: a type and a language. Out: one balanced question with its pictures, or several about the same pictures.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from training.pocket.scenes import printed, singles
from training.pocket.scenes.asking import Builder, Scenes, Setup
from training.pocket.scenes.catalogue import QUESTIONS, TYPES
from training.pocket.scenes.layout import SIZES, Look, Size, place, random_looks
from training.pocket.scenes.nouns import Lang, Question, Scene, SceneKind
from training.pocket.scenes.words import COLOUR_NAMES, KINDS

# A builder finds its scene in a few tries; so many mean that it cannot.
_TRIES = 2000


def make_scene(
    rng: random.Random,
    kind: SceneKind = "shapes",
    *,
    num_shapes: tuple[int, int] = (1, 6),
    sizes: Sequence[Size] = SIZES,
) -> Scene:
    """Any scene of a kind, with no question in mind.

    Args:
        rng: source of all choices.
        kind: what sort of picture.
        num_shapes: fewest and most shapes, both included.
        sizes: (width, height) in pixels to choose from.
    """
    setup = Setup(num_shapes, sizes, rng.choice(("zh", "en")))
    build: Builder = {
        "shapes": singles.scene_any,
        "poster": printed.poster_scene(2),
        "chart": printed.scene_chart,
        "receipt": printed.scene_receipt,
    }[kind]
    while True:
        scenes = build(rng, None, setup)
        if scenes:
            return scenes[0]


def ask(
    rng: random.Random,
    scenes: Scenes,
    type: str,  # noqa: A002 (the field's word)
    lang: Lang,
) -> Question | None:
    """A question of a type about given scenes; None where these scenes cannot be asked so."""
    kind = QUESTIONS[type]
    info = kind.info
    if len(scenes) != info.num_images or any(scene.kind != info.scene_kind for scene in scenes):
        return None
    return kind.ask(rng, scenes, lang, None)


def sample_question(
    rng: random.Random,
    type: str,  # noqa: A002
    lang: Lang,
    *,
    num_shapes: tuple[int, int] = (1, 6),
    sizes: Sequence[Size] = SIZES,
) -> Question:
    """A question of a type with its own pictures, all answers being equally likely as far as the type allows.

    Args:
        rng: source of all choices; the same state gives the same question.
        type: one of `TYPES`.
        lang: language of question and answer.
        num_shapes: fewest and most shapes per picture, both included; a type that needs more takes more.
        sizes: (width, height) in pixels to choose from.

    Raises:
        KeyError: no such type.
        RuntimeError: no scene could be found; `sizes` or `num_shapes` leave no room.
    """
    kind = QUESTIONS[type]
    setup = Setup(num_shapes, sizes, lang)
    # Few shapes cannot be many; small numbers are met by taking a few more shapes.
    most = max(3, num_shapes[1] * kind.info.num_images)
    classes = [name for name in kind.classes if not name.isdigit() or int(name) <= most]
    want = rng.choice(classes) if classes else None
    for _ in range(_TRIES):
        scenes = kind.build(rng, want, setup)
        question = None if scenes is None else kind.ask(rng, scenes, lang, want)
        if question is not None:
            return question
    raise RuntimeError(f"no scene found for {type!r} (wanted {want!r}) with {num_shapes} shapes")


# Seven to nine shapes are no matter of these types' own scenes; a description names four at most.
MANY_TYPES = (
    "color_of_shape",
    "shape_of_color",
    "exist",
    "count_all",
    "count_color",
    "count_shape",
    "count_color_shape",
    "largest",
    "smallest",
    "position",
    "region",
    "at_region",
    "relation",
    "comparison",
)
_MANY = (7, 8, 9)


def scene_of_many(rng: random.Random, sizes: Sequence[Size] = SIZES) -> Scene:
    """Seven to nine shapes of any look, in one picture."""
    while True:
        num = rng.choice(_MANY)
        looks: list[Look] = random_looks(rng, num)
        if rng.random() < 0.6:
            looks = [(rng.choice(COLOUR_NAMES), rng.choice(KINDS)) for _ in range(num)]
        scene = place(rng, looks, rng.choice(sizes))
        if scene is not None:
            return scene


def sample_of_many(rng: random.Random, type: str, lang: Lang) -> Question:  # noqa: A002
    """A question of one of `MANY_TYPES` about seven to nine shapes.

    Raises:
        RuntimeError: no scene could be found.
    """
    for _ in range(_TRIES):
        question = QUESTIONS[type].ask(rng, (scene_of_many(rng),), lang, None)
        if question is not None:
            return question
    raise RuntimeError(f"no scene of many shapes found for {type!r}")


def pack_of_many(
    rng: random.Random, types: Mapping[str, float], lang: Lang, num_questions: int
) -> tuple[Scenes, list[Question]]:
    """Several questions about one picture of seven to nine shapes, as `sample_pack` gives them; none, if none fits."""
    scenes = (scene_of_many(rng),)
    fitting = [name for name in types if name in MANY_TYPES or name == "outside_words"]
    questions: dict[str, Question] = {}
    for name in rng.choices(fitting, [types[name] for name in fitting], k=6 * num_questions) if fitting else ():
        question = QUESTIONS[name].ask(rng, scenes, lang, None)
        if question is not None and len(questions) < num_questions:
            questions.setdefault(question.text, question)
    return scenes, list(questions.values())


def sample_pack(
    rng: random.Random,
    types: Mapping[str, float],
    lang: Lang,
    num_questions: int,
    *,
    num_shapes: tuple[int, int] = (1, 6),
    sizes: Sequence[Size] = SIZES,
) -> tuple[Scenes, list[Question]]:
    """Several questions about the same pictures: the picture's cost is paid once.

    The first question's type is drawn by weight and brings its balanced pictures; the others are those of the given
    types that fit these pictures, drawn by weight, their answers as even as the pictures allow.

    Args:
        rng: source of all choices.
        types: weight of each type; those of other picture kinds or numbers share no pack.
        lang: language of questions and answers.
        num_questions: at most so many; a poster or a text turn has less to ask.
        num_shapes: fewest and most shapes per picture, both included.
        sizes: (width, height) in pixels to choose from.

    Returns:
        The pictures, and at least one question; no two have the same text.
    """
    names = list(types)
    lead = rng.choices(names, [types[name] for name in names])[0]
    first = sample_question(rng, lead, lang, num_shapes=num_shapes, sizes=sizes)
    info = TYPES[lead]
    fitting = [
        name
        for name in names
        if TYPES[name].num_images == info.num_images and TYPES[name].scene_kind == info.scene_kind and types[name] > 0
    ]
    weights = [types[name] for name in fitting]
    questions, texts = [first], {first.text}
    for name in rng.choices(fitting, weights, k=6 * num_questions):
        if len(questions) >= num_questions:
            break
        question = QUESTIONS[name].ask(rng, first.images, lang, None)
        if question is not None and question.text not in texts:
            questions.append(question)
            texts.add(question.text)
    rng.shuffle(questions)
    return first.images, questions

"""The honest class: pictures, words and questions that the models do not know, all with one answer per language.

In: scenes (an `ask_` function) or a wish for one (a `scene_` function). Out: a question whose answer is `HONEST`. Where
the picture is known, only the words make the difference; where it is not, the question is one the models know.
"""

from __future__ import annotations

import random
from dataclasses import replace
from functools import lru_cache

from training.pocket.scenes import hops, places, printed, several, singles, which
from training.pocket.scenes.asking import Asker, Builder, Scenes, Setup, Wordings, one
from training.pocket.scenes.layout import Size
from training.pocket.scenes.nouns import Lang, Question, Scene
from training.pocket.scenes.outside_pictures import FAMILIES
from training.pocket.scenes.outside_words import (
    ABOUT_OTHER_SHAPES,
    ABOUT_THINGS,
    COLOURS,
    HONEST,
    NOUNS,
    PLACES,
    QUESTIONS,
    SHAPES,
    Table,
    choices,
)
from training.pocket.scenes.words import COLOUR_NAMES, KINDS, ORDINALS, REGIONS, article, look, plural, say

_ANSWERED_FROM: dict[str, tuple[Wordings, ...]] = {
    "shapes": (singles._WORDS, places._WORDS, hops._WORDS),
    "one step": (singles._WORDS, places._WORDS),
    "printed": (printed._WORDS,),
    "several": (several._WORDS, which._WORDS, hops._WORDS),
}
_NEVER = ("receipt_", "caption")  # receipts are in no training run


@lru_cache
def _templates(topic: str, lang: Lang) -> tuple[str, ...]:
    """Wordings of a topic's known questions."""
    found = [
        text
        for table in _ANSWERED_FROM[topic]
        for key, by_lang in table.items()
        if not key.startswith(_NEVER)
        for text in by_lang.get(lang, ())
    ]
    if topic == "several" and lang == "zh":  # nobody asks about several pictures in Chinese
        return _templates("printed", lang)
    if topic == "several":
        return tuple(text for text in found if "picture" in text or "image" in text)
    return tuple(text for text in found if "{o}" not in text and "{q}" not in text)


def known_question(rng: random.Random, topic: str, lang: Lang) -> str:
    """Words of a question that the models know, about shapes, print or several pictures; whether it fits is open."""
    colour, kind, other = rng.choice(COLOUR_NAMES), rng.choice(KINDS), rng.choice(KINDS)
    named, target = look(colour, kind, lang), look(rng.choice(COLOUR_NAMES), other, lang)
    many = f"{colour} {plural(kind)}"
    direction = rng.choice(tuple(hops._BESIDE))
    return rng.choice(_templates(topic, lang)).format(
        c=say(colour, lang),
        k=say(kind, lang),
        ks=plural(kind),
        s=named,
        t=target,
        as_=article(named),
        ss=many,
        r=say(rng.choice(REGIONS), lang),
        z=say(rng.choice(("largest", "smallest")), lang),
        d=hops._beside(direction, lang),
        q=rng.choice((many, plural(kind), f"{colour} shapes", "shapes")),
        o=rng.choice(ORDINALS[:2]),
        b=rng.choice("ABCDE"),
    )


def unknown_question(rng: random.Random, lang: Lang, *, unseen: bool = False) -> str:
    """Words of a question that the models do not know.

    Args:
        rng: source of all choices.
        lang: language of the words.
        unseen: what makes the question unknown is in no training run.
    """

    def pick(table: Table) -> str:
        return rng.choice(choices(table[lang], unseen=unseen))

    share = rng.random()
    if share < 0.34:
        template = pick(QUESTIONS)
    elif share < 0.67:
        template = rng.choice(ABOUT_THINGS[lang])
    else:
        template = rng.choice(ABOUT_OTHER_SHAPES[lang])
    noun, shape = pick(NOUNS), pick(SHAPES)
    return template.format(
        n=noun,
        a=article(noun),
        a2=article(shape),
        c=say(rng.choice(COLOUR_NAMES), lang),
        k=say(rng.choice(KINDS), lang),
        u=pick(COLOURS),
        v=shape,
        p=rng.choice(PLACES[lang]),
        p2=rng.choice(PLACES[lang]),
        x=rng.randint(2, 99),
        y=rng.randint(2, 99),
    )


def honest(its_type: str, lang: Lang, scenes: Scenes, text: str, form: str = "") -> Question:
    """A question with the one answer."""
    return Question(its_type, lang, scenes, text, HONEST[lang], form, "honest")


def words_asker(name: str, topics: tuple[str, ...], most_chars: int = 200) -> Asker:
    """Asks about a known picture with unknown words, or what another kind of picture would answer.

    Args:
        name: of the type.
        topics: of known questions that this kind of picture cannot answer.
        most_chars: a longer question is passed over.
    """

    def ask(rng: random.Random, scenes: Scenes, lang: Lang, want: str | None) -> Question | None:
        is_misplaced = rng.random() < 0.25
        text = known_question(rng, rng.choice(topics), lang) if is_misplaced else unknown_question(rng, lang)
        form = "misplaced" if is_misplaced else "unknown"
        return honest(name, lang, scenes, text, form) if len(text) <= most_chars else None

    return ask


def picture_asker(name: str, topics: tuple[str, ...], most_chars: int = 200) -> Asker:
    """Asks an unknown picture mostly what could be asked of a known one; arguments as of `words_asker`."""

    def ask(rng: random.Random, scenes: Scenes, lang: Lang, want: str | None) -> Question | None:
        is_known = rng.random() < 0.8
        text = known_question(rng, rng.choice(topics), lang) if is_known else unknown_question(rng, lang)
        return honest(name, lang, scenes, text, "picture") if len(text) <= most_chars else None

    return ask


def ask_outside_text(rng: random.Random, scenes: Scenes, lang: Lang, want: str | None) -> Question | None:
    """A question without a picture: an unknown one, or one that needs a picture."""
    text = known_question(rng, "shapes", lang) if rng.random() < 0.2 else unknown_question(rng, lang)
    return honest("outside_text", lang, (), text, "text")


def unknown_scene(rng: random.Random, size: Size, families: tuple[str, ...] = FAMILIES) -> Scene:
    """A picture that is no scene."""
    # Shapes with other names are the hardest to tell from those that are known, so they come more often.
    family = "other_shapes" if families is FAMILIES and rng.random() < 0.25 else rng.choice(families)
    return Scene("outside", *size, seed=rng.getrandbits(32), values=(("family", family),))


def scene_outside(rng: random.Random, want: str | None, setup: Setup) -> Scenes | None:
    """One unknown picture."""
    return one(unknown_scene(rng, setup.size(rng)))


def scenes_outside(rng: random.Random, want: str | None, setup: Setup) -> Scenes | None:
    """Two unknown pictures."""
    size = setup.size(rng)
    return unknown_scene(rng, size), unknown_scene(rng, size)


def print_as_outside() -> Builder:
    """Builds posters and charts for the model that was never taught to read them."""
    builders = printed.poster_scene(1), printed.poster_scene(2), printed.scene_chart

    def build(rng: random.Random, want: str | None, setup: Setup) -> Scenes | None:
        scenes = rng.choice(builders)(rng, None, setup)
        return None if scenes is None else tuple(replace(scene, kind="outside") for scene in scenes)

    return build

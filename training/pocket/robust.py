"""The questions that show whether an answer survives other words, other typing and another manner of drawing.

In: an engine and a condition. Out: questions with their right answers; how they were answered, as a row of the table.
The last two conditions are the honest class with words and pictures that no training run ever met, and the share of
known questions that were answered as if they were unknown.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from training.pocket.checkpoints import EngineName
from training.pocket.scenes import TYPES, Lang, Question, sample_question
from training.pocket.scenes.conditions import DRAWING, TYPING, drawn, typed
from training.pocket.scenes.layout import SIZES
from training.pocket.scenes.outside import (
    ask_outside_text,
    honest,
    known_question,
    unknown_question,
    unknown_scene,
)
from training.pocket.scenes.outside_pictures import UNSEEN
from training.pocket.scenes.outside_words import HONEST
from training.pocket.scenes.sampling import MANY_TYPES, make_scene, sample_of_many
from training.pocket.train import trained_types

BAR, HONEST_BAR, FALSE_ALARM_BAR = 0.9, 0.95, 0.01
_PRINT: Final = ("decimals", "dollar")
# Words that the condition leaves alone cannot show anything.
_NEEDED = {"american": "olour", "other_word": "形"}


def conditions(engine: EngineName) -> tuple[str, ...]:
    """The conditions that an engine is judged under; Owl2 reads neither Chinese print nor prices."""
    typing = [name for name in TYPING if engine == "glm" or name not in ("other_word", "half_width")]
    return (*typing, *DRAWING, "many", *(_PRINT if engine == "glm" else ()), "unseen")


def bar_of(condition: str) -> float:
    """Share of right answers to reach."""
    return HONEST_BAR if condition == "unseen" else BAR


def draw_condition(engine: EngineName, condition: str, num: int, seed: int) -> list[Question]:
    """Draw questions under a condition, of all types that it touches in turn.

    Args:
        engine: whose types and languages.
        condition: one of `conditions`.
        num: how many.
        seed: the same one gives the same questions.

    Raises:
        KeyError: no such condition.
    """
    rng = random.Random(f"condition {seed} {condition}")  # noqa: S311 - not for secrets
    source = _SOURCES.get(condition)
    if source is None:
        make = _typed_question if condition in TYPING else _drawn_question
        source = _of_types(make, condition)
    questions = source(rng, engine)
    return [next(questions) for _ in range(num)]


Source = Callable[[random.Random, EngineName], Iterator[Question]]


def _known_types(engine: EngineName) -> list[str]:
    return [name for name in trained_types(engine) if engine in TYPES[name].bars and not TYPES[name].is_honest]


def _of_types(make: Callable[[random.Random, str, Lang, str], Question | None], condition: str) -> Source:
    """Questions of all types that the condition touches, in turn; a type it never touches is passed over."""

    def source(rng: random.Random, engine: EngineName) -> Iterator[Question]:
        names = _known_types(engine)
        while True:
            for name in names:
                for _ in range(4):
                    question = make(rng, name, rng.choice(TYPES[name].langs[engine]), condition)
                    if question is not None:
                        yield question
                        break

    return source


def _typed_question(rng: random.Random, name: str, lang: Lang, condition: str) -> Question | None:
    if name == "compose":
        return None
    plain = sample_question(rng, name, lang)
    if _NEEDED.get(condition, "") not in plain.text:
        return None
    question = typed(rng, plain, (condition,))
    return None if question.text == plain.text else question


def _drawn_question(rng: random.Random, name: str, lang: Lang, condition: str) -> Question | None:
    if name == "compose":
        return None
    question = sample_question(rng, name, lang)
    scenes = drawn(rng, question.images, (condition,))
    return None if scenes is None or scenes == question.images else replace(question, images=scenes)


def _many(rng: random.Random, engine: EngineName) -> Iterator[Question]:
    while True:
        for name in MANY_TYPES:
            yield sample_of_many(rng, name, rng.choice(TYPES[name].langs[engine]))


def _priced(sign: str) -> Source:
    """Posters whose prices have a sign, as ".", or are printed with one."""

    def source(rng: random.Random, engine: EngineName) -> Iterator[Question]:
        while True:
            for name in ("price_current", "price_original"):
                question = sample_question(rng, name, rng.choice(TYPES[name].langs[engine]))
                printed = question.answer if sign == "." else "".join(line.text for line in question.images[0].lines)
                if sign in printed:
                    yield question

    return source


def _unseen(rng: random.Random, engine: EngineName) -> Iterator[Question]:
    """Half unknown words about a known picture; else an unknown picture, or none."""
    langs: tuple[Lang, ...] = ("zh", "en") if engine == "glm" else ("en",)
    while True:
        lang = rng.choice(langs)
        share = rng.random()
        if share < 0.5:
            scene = make_scene(rng)
            yield honest("outside_words", lang, (scene,), unknown_question(rng, lang, unseen=True))
        elif share < 0.8:
            scene = unknown_scene(rng, rng.choice(SIZES), UNSEEN)
            yield honest("outside_picture", lang, (scene,), known_question(rng, "shapes", lang))
        else:
            question = ask_outside_text(rng, (), lang, None)
            text = unknown_question(rng, lang, unseen=True)
            if question is not None:
                yield replace(question, text=text)


_SOURCES: dict[str, Source] = {
    "many": _many,
    "decimals": _priced("."),
    "dollar": _priced("$"),
    "unseen": _unseen,
}


@dataclass(frozen=True, slots=True)
class FalseAlarms:
    """Known questions that were answered as if they were unknown.

    Attributes:
        n: known questions asked, under all conditions.
        num: of them answered with the honest sentence.
    """

    n: int
    num: int

    @property
    def passed(self) -> bool:
        """At most one in a hundred."""
        return self.num <= FALSE_ALARM_BAR * self.n


def count_false_alarms(asked: Sequence[tuple[Question, str]]) -> FalseAlarms:
    """Count, among questions with their answers, the known ones that got the honest sentence of either language."""
    known = [(question, answer) for question, answer in asked if question.answer not in HONEST.values()]
    return FalseAlarms(len(known), sum(answer in HONEST.values() for _, answer in known))

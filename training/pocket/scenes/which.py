"""Which picture? The one with more of something, the one that has something, the one where something is larger.

In: scenes (an `ask_` function) or a wish for them (a builder). Out: a question, or None where there is no such thing to
ask. No shortcut must be the better guess: `want` is the answer followed by a mark per shortcut, "+" where it is right
and "-" where it is wrong, and all combinations are drawn equally often.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from itertools import product

from training.pocket.scenes.asking import Asker, Builder, Scenes, Setup, Wordings, wording
from training.pocket.scenes.layout import NUM_LEVELS, Look, is_clearly_larger
from training.pocket.scenes.nouns import Lang, Question
from training.pocket.scenes.several import (
    Query,
    fullest,
    looks_of,
    mark,
    meant_looks,
    other_looks,
    place_all,
    queries,
    random_query,
)
from training.pocket.scenes.words import COLOUR_NAMES, KINDS, ORDINALS, article, look

_WORDS: Wordings = {
    "which_more": {
        "en": (
            "Which picture has more {q}?",
            "In which picture are there more {q}?",
            "Which of the two pictures shows more {q}?",
            "Which image has more {q}?",
            "Tell me which picture has more {q}.",
            "In which picture do you see more {q}?",
        ),
    },
    "which_has": {
        "en": (
            "Which picture has {as_}?",
            "In which picture is there {as_}?",
            "Which picture shows {as_}?",
            "Which image has {as_}?",
            "Tell me which picture has {as_}.",
            "In which picture do you see {as_}?",
        ),
    },
    "which_larger": {
        "en": (
            "In which picture is the {k} larger?",
            "Which picture has the larger {k}?",
            "Which picture shows the bigger {k}?",
            "In which image is the {k} bigger?",
            "Tell me in which picture the {k} is larger.",
        ),
    },
}


def _even_choice(rng: random.Random, offers: Sequence[tuple[str, tuple[Query, str]]]) -> tuple[Query, str] | None:
    """One of the offers, each class of them being equally likely."""
    by_class: dict[str, list[tuple[Query, str]]] = {}
    for its_class, offer in offers:
        by_class.setdefault(its_class, []).append(offer)
    return rng.choice(by_class[rng.choice(sorted(by_class))]) if by_class else None


# Shortcuts of "which picture has more red circles": more of anything, more red ones, more circles.
_WHICH_MORE_GUESSES: dict[str, tuple[tuple[str, Callable[[Query], Query]], ...]] = {
    "all": (),
    "color": (("the fuller picture", lambda query: Query()),),
    "shape": (("the fuller picture", lambda query: Query()),),
    "color_shape": (
        ("the fuller picture", lambda query: Query()),
        ("more of the colour", lambda query: Query(colour=query.colour)),
        ("more of the kind", lambda query: Query(kind=query.kind)),
    ),
}


_PASS_OVER = {"color": 0.35, "shape": 0.35, "color_shape": 0.9}


def _which_more_class(form: str, query: Query, pictures: Sequence[Sequence[Look]], answer: str) -> str:
    marks = (
        mark([shorten(query).count(looks) for looks in pictures], answer) for _, shorten in _WHICH_MORE_GUESSES[form]
    )
    return answer + "".join(marks)


def which_more_asker(name: str, form: str) -> Asker:
    """Asks which of two pictures has more of something; `want` is the answer and a mark per shortcut."""

    def ask(rng: random.Random, scenes: Scenes, lang: Lang, want: str | None) -> Question | None:
        pictures = [looks_of(scene) for scene in scenes]
        offers = []
        for query in queries(form):
            numbers = [query.count(looks) for looks in pictures]
            if numbers[0] == numbers[1]:
                continue
            answer = fullest(numbers)
            its_class = _which_more_class(form, query, pictures, answer)
            # Most pictures that were not made for the question bear the shortcuts out.
            signs = its_class[len(answer) :]
            if want is None and signs and "-" not in signs[-2:] and rng.random() < _PASS_OVER[form]:
                continue
            if want in (None, its_class):
                offers.append((its_class, (query, answer)))
        chosen = _even_choice(rng, offers)
        if chosen is None:
            return None
        query, answer = chosen
        guesses = tuple(
            (guess, fullest([shorten(query).count(looks) for looks in pictures]))
            for guess, shorten in _WHICH_MORE_GUESSES[form]
        )
        text = wording(rng, "which_more", lang, _WORDS).format(q=query.phrase)
        return Question(name, lang, scenes, text, answer, "", answer, ORDINALS[:2], guesses)

    return ask


def which_more_classes(form: str) -> tuple[str, ...]:
    """The classes of `which_more_asker`: both answers, each shortcut right and wrong."""
    classes: tuple[str, ...] = ORDINALS[:2]
    for _ in _WHICH_MORE_GUESSES[form]:
        classes = tuple(its_class + sign for its_class in classes for sign in "+-")
    return classes


def which_more_builder(form: str) -> Builder:
    """Builds two pictures in which the wanted shortcuts are right and the others wrong."""

    def build(rng: random.Random, want: str | None, setup: Setup) -> Scenes | None:
        want = want or rng.choice(which_more_classes(form))
        answer = want.rstrip("+-")
        # Shortcuts that fail need room: what the query names has to be in the wrong picture too.
        most = 6 if form == "color_shape" else max(2, min(6, setup.num_shapes[1]))
        by_numbers = _plan_pairs(form, most)[want[len(answer) :]]
        more, fewer = rng.choice(by_numbers[rng.choice(tuple(by_numbers))])
        plans = (more, fewer) if answer == "first" else (fewer, more)
        query = random_query(rng, form)
        return place_all(rng, [_looks_by_plan(rng, query, plan) for plan in plans], setup.size(rng))

    return build


Plan = tuple[int, int, int, int]  # how many are meant, have the colour only, the kind only, neither


@cache
def _plan_pairs(form: str, most: int) -> dict[str, dict[tuple[int, int], list[tuple[Plan, Plan]]]]:
    """Plans of two pictures of at most `most` shapes, the first having more of what is meant.

    Returns:
        By the shortcuts' marks, then by the two numbers meant.
    """
    numbers = range(most + 1)
    halves = numbers if form == "color_shape" else range(1)
    rest = range(1) if form == "all" else numbers
    plans = [plan for plan in product(numbers, halves, halves, rest) if 0 < sum(plan) <= most and plan[0] <= 4]
    pairs: dict[str, dict[tuple[int, int], list[tuple[Plan, Plan]]]] = {}
    for more, fewer in product(plans, plans):
        if more[0] > fewer[0]:
            shortcuts = [(sum(more), sum(fewer)), (more[0] + more[1], fewer[0] + fewer[1])]
            shortcuts.append((more[0] + more[2], fewer[0] + fewer[2]))
            signs = "".join(mark(pair, "first") for pair in shortcuts[: len(_WHICH_MORE_GUESSES[form])])
            pairs.setdefault(signs, {}).setdefault((more[0], fewer[0]), []).append((more, fewer))
    return pairs


def _looks_by_plan(rng: random.Random, query: Query, plan: Sequence[int]) -> list[Look]:
    """Looks of one picture: so many meant, of the colour only, of the kind only, of neither."""
    colours = [name for name in COLOUR_NAMES if name != query.colour]
    kinds = [name for name in KINDS if name != query.kind]
    colours = rng.sample(colours, rng.randint(1, len(colours)))
    meant, of_colour, of_kind, neither = plan
    looks = meant_looks(rng, query, meant)
    for _ in range(of_colour + of_kind + neither):
        looks.append((rng.choice(colours), rng.choice(kinds)))
    for index in range(meant, meant + of_colour if query.colour and query.kind else meant):
        looks[index] = (query.colour or "", looks[index][1])
    for index in range(meant + of_colour, meant + of_colour + of_kind if query.colour and query.kind else 0):
        looks[index] = (looks[index][0], query.kind or "")
    return looks


def which_has_asker(name: str) -> Asker:
    """Asks which picture has, say, a red circle; mostly the others have something red and a circle."""

    def ask(rng: random.Random, scenes: Scenes, lang: Lang, want: str | None) -> Question | None:
        pictures = [looks_of(scene) for scene in scenes]
        numbers = [len(looks) for looks in pictures]
        offers: list[tuple[str, tuple[Query, str]]] = []
        for index, looks in enumerate(pictures):
            others = [other for place_, other in enumerate(pictures) if place_ != index]
            answer = ORDINALS[index]
            its_class = answer + mark(numbers, answer)
            # "first" alone wants the answer, whatever the fuller picture is.
            if want not in (None, answer, its_class):
                continue
            for colour, kind in sorted(set(looks)):
                if any((colour, kind) in other for other in others):
                    continue
                halves = [any(c == colour for c, _ in other) + any(k == kind for _, k in other) for other in others]
                is_hard = min(halves) == 2 if len(scenes) == 2 else min(halves) > 0
                if is_hard or rng.random() < 0.03:
                    offers.append((its_class, (Query(colour, kind), answer)))
        chosen = _even_choice(rng, offers)
        if chosen is None:
            return None
        query, answer = chosen
        named = look(query.colour or "", query.kind or "", lang)
        text = wording(rng, "which_has", lang, _WORDS).format(as_=article(named))
        guesses = (("the fuller picture", fullest(numbers)),)
        return Question(name, lang, scenes, text, answer, "", answer, ORDINALS[: len(scenes)], guesses)

    return ask


def which_has_builder(num_images: int) -> Builder:
    """Builds pictures of which one has a look, and the others only its colour and its kind."""

    def build(rng: random.Random, want: str | None, setup: Setup) -> Scenes | None:
        answer = want.rstrip("+-") if want else rng.choice(ORDINALS[:num_images])
        query = random_query(rng, "color_shape")
        colour, kind = query.colour or "", query.kind or ""
        pictures: list[list[Look]] = []
        for index in range(num_images):
            # At least two numbers to choose from, or no picture could be the fuller one.
            num = rng.randint(2, max(4, min(6 if num_images == 2 else 5, setup.num_shapes[1])))
            if ORDINALS[index] == answer:
                looks = [(colour, kind), *other_looks(rng, query, num - 1)]
            else:
                other_colour = rng.choice([name for name in COLOUR_NAMES if name != colour])
                other_kind = rng.choice([name for name in KINDS if name != kind])
                looks = [(colour, other_kind), (other_colour, kind), *other_looks(rng, query, num)][: max(2, num)]
            pictures.append(looks)
        if want and len(want) > len(answer) and mark([len(looks) for looks in pictures], answer) != want[-1]:
            return None
        return place_all(rng, pictures, setup.size(rng))

    return build


WHICH_LARGER_CLASSES = tuple(answer + a + b for answer in ORDINALS[:2] for a in "+-" for b in "+-")


def ask_which_larger(rng: random.Random, scenes: Scenes, lang: Lang, want: str | None) -> Question | None:
    """In which picture a kind that each has once is larger; `want` has two marks: more shapes, the largest shape."""
    if len({(scene.width, scene.height) for scene in scenes}) > 1:
        return None
    numbers = [len(scene.shapes) for scene in scenes]
    counts = [Counter(shape.kind for shape in scene.shapes) for scene in scenes]
    largest = [max(shape.radius for shape in scene.shapes) for scene in scenes]
    offers: list[tuple[str, tuple[Query, str]]] = []
    for kind in KINDS:
        if counts[0][kind] == counts[1][kind] == 1:
            first, second = (next(shape for shape in scene.shapes if shape.kind == kind) for scene in scenes)
            if is_clearly_larger(first, second) or is_clearly_larger(second, first):
                answer = ORDINALS[0 if first.radius > second.radius else 1]
                its_class = answer + mark(numbers, answer) + mark(largest, answer)
                if want in (None, its_class):
                    offers.append((its_class, (Query(kind=kind), answer)))
    chosen = _even_choice(rng, offers)
    if chosen is None:
        return None
    query, answer = chosen
    text = wording(rng, "which_larger", lang, _WORDS).format(k=query.kind)
    guesses = (
        ("the fuller picture", fullest(numbers)),
        ("the picture of the largest shape", fullest(largest)),
    )
    return Question("which_larger", lang, scenes, text, answer, "", answer, ORDINALS[:2], guesses)


def scene_which_larger(rng: random.Random, want: str | None, setup: Setup) -> Scenes | None:
    """Two pictures with the same kind once in each, in different sizes."""
    want = want or rng.choice(WHICH_LARGER_CLASSES)
    answer = want.rstrip("+-")
    kind = rng.choice(KINDS)
    kinds = [name for name in KINDS if name != kind]
    top = NUM_LEVELS - 2
    larger = rng.randint(1, top)
    smaller = rng.randint(0, larger - 1)
    own = (larger, smaller) if answer == "first" else (smaller, larger)
    most = max(3, min(5, setup.num_shapes[1]))
    for _ in range(50):
        levels = [[level, *(rng.randint(0, top) for _ in range(rng.randint(0, most - 1)))] for level in own]
        signs = mark([len(steps) for steps in levels], answer) + mark([max(steps) for steps in levels], answer)
        if answer + signs == want:
            pictures: list[list[Look]] = [
                [(rng.choice(COLOUR_NAMES), kind if index == 0 else rng.choice(kinds)) for index in range(len(steps))]
                for steps in levels
            ]
            return place_all(rng, pictures, setup.size(rng), levels)
    return None

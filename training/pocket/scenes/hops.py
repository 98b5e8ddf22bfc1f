"""Two-hop questions: find one thing first, then say something about another.

In: scenes (an `ask_` function) or a wish for them (a `scene_` function). Out: a question, or None where the scenes have
no such thing to ask. Skipping a hop must not help: `want` says whether a shortcut is right ("+") or wrong ("-").
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

from training.pocket.scenes.asking import Scenes, Setup, Wordings, distinct, named, one, wording
from training.pocket.scenes.layout import NUM_LEVELS, Look, place, place_in_rows
from training.pocket.scenes.nouns import Lang, Question, Scene, Shape
from training.pocket.scenes.places import extreme, offset
from training.pocket.scenes.several import (
    Query,
    looks_of,
    mark,
    meant_looks,
    other_looks,
    place_all,
    queries,
    random_query,
)
from training.pocket.scenes.singles import choose_count
from training.pocket.scenes.words import COLOUR_NAMES, KINDS, ORDINALS, say

_WORDS: Wordings = {
    "hop_largest_kind kind": {
        "en": (
            "What colour is the {z} {k}?",
            "What is the colour of the {z} {k}?",
            "Which colour does the {z} {k} have?",
            "Tell me the colour of the {z} {k}.",
            "What colour do you see on the {z} {k}?",
        ),
        "zh": (
            "{z}的{k}是什么颜色？",
            "{z}的{k}是哪种颜色？",
            "图中{z}的{k}是什么颜色的？",
            "告诉我{z}的{k}的颜色。",
            "你看到的{z}的{k}是什么颜色？",
        ),
    },
    "hop_largest_kind colour": {
        "en": (
            "What shape is the {z} {c} shape?",
            "What is the shape of the {z} {c} object?",
            "Which shape is the {z} {c} one?",
            "Tell me the shape of the {z} {c} object.",
            "What is the {z} {c} shape?",
        ),
        "zh": (
            "{z}的{c}图形是什么形状？",
            "{c}图形中{z}的是什么形状？",
            "图中{z}的{c}图形是什么形状？",
            "告诉我{z}的{c}图形的形状。",
            "你看到的{z}的{c}图形是什么形状？",
        ),
    },
    "hop_left_of": {
        "en": (
            "What colour is the shape {d} the {z} {k}?",
            "Which colour is the shape {d} the {z} {k}?",
            "The shape {d} the {z} {k}: what colour is it?",
            "Tell me the colour of the shape {d} the {z} {k}.",
            "What is the colour of the object {d} the {z} {k}?",
        ),
        "zh": (
            "{z}的{k}{d}的图形是什么颜色？",
            "{z}的{k}的{d}是什么颜色的图形？",
            "在{z}的{k}{d}的图形是哪种颜色？",
            "告诉我{z}的{k}{d}的图形的颜色。",
            "你看到{z}的{k}{d}的图形是什么颜色？",
        ),
    },
    "beside": {
        "en": (
            "What colour is the shape {d} the {s}?",
            "Which colour is the shape {d} the {s}?",
            "The shape {d} the {s}: what colour is it?",
            "Tell me the colour of the shape {d} the {s}.",
            "What is the colour of the object {d} the {s}?",
        ),
        "zh": (
            "{s}{d}的图形是什么颜色？",
            "{s}的{d}是什么颜色的图形？",
            "在{s}{d}的图形是哪种颜色？",
            "告诉我{s}{d}的图形的颜色。",
            "你看到{s}{d}的图形是什么颜色？",
        ),
    },
    "hop_picture_count": {
        "en": (
            "How many {q} are in the picture with the {s}?",
            "In the picture with the {s}, how many {q} are there?",
            "Count the {q} in the picture that has the {s}.",
            "How many {q} do you see in the picture with the {s}?",
            "Tell me how many {q} are in the picture with the {s}.",
        ),
    },
    "hop_picture_color": {
        "en": (
            "What colour is the {k} in the picture that has more {q}?",
            "In the picture with more {q}, what colour is the {k}?",
            "Look at the picture that has more {q}: what colour is the {k}?",
            "Tell me the colour of the {k} in the picture that has more {q}.",
            "What is the colour of the {k} in the picture with more {q}?",
        ),
    },
}
_BESIDE = {"left": "left of", "right": "right of", "above": "above", "below": "below"}
_EXTREMES = ("largest", "smallest")


def _beside(direction: str, lang: Lang) -> str:
    return say(direction, lang) if lang == "zh" else _BESIDE[direction]


def ask_hop_largest_kind(rng: random.Random, scenes: Scenes, lang: Lang, want: str | None) -> Question | None:
    """The colour of the largest (smallest) of a kind, or the kind of the largest of a colour."""
    (scene,) = scenes
    offers: dict[str, list[tuple[str, str, str, Shape, list[Shape]]]] = {}
    for form in ("kind", "colour"):
        for key in KINDS if form == "kind" else COLOUR_NAMES:
            group = [shape for shape in scene.shapes if getattr(shape, form) == key]
            other = "colour" if form == "kind" else "kind"
            if len({getattr(shape, other) for shape in group}) < max(2, len(group)):
                continue
            for name in _EXTREMES:
                found = extreme(group, name == "largest")
                if found is None:
                    continue
                ordered = sorted(scene.shapes, key=lambda shape: shape.radius, reverse=name == "largest")
                its_class = "+" if getattr(ordered[0], other) == getattr(found, other) else "-"
                if want in (None, its_class):
                    offers.setdefault(its_class, []).append((form, key, name, found, group))
    if not offers:
        return None
    form, key, name, found, group = rng.choice(offers[rng.choice(sorted(offers))])
    asked = "colour" if form == "kind" else "kind"
    text = wording(rng, f"hop_largest_kind {form}", lang, _WORDS).format(
        z=say(name, lang), k=say(key, lang), c=say(key, lang)
    )
    answer = getattr(found, asked)
    ordered = sorted(scene.shapes, key=lambda shape: shape.radius, reverse=name == "largest")
    return Question(
        "hop_largest_kind",
        lang,
        scenes,
        text,
        say(answer, lang),
        form,
        answer,
        distinct(say(getattr(shape, asked), lang) for shape in group),
        (("the extreme of all shapes", say(getattr(ordered[0], asked), lang)),),
    )


def scene_hop_largest_kind(rng: random.Random, want: str | None, setup: Setup) -> Scenes | None:
    """Two to four shapes of a kind or colour, and others larger or smaller than all of them."""
    num = setup.num(rng, 4)
    group = rng.randint(2, min(4, num - 1))
    colours, kinds = rng.sample(COLOUR_NAMES, len(COLOUR_NAMES)), rng.sample(KINDS, len(KINDS))
    looks: list[Look]
    if rng.random() < 0.5:
        looks = [(colour, kinds[0]) for colour in colours[:group]]
        looks += [(rng.choice(colours), rng.choice(kinds[1:])) for _ in range(num - group)]
    else:
        looks = [(colours[0], kind) for kind in kinds[:group]]
        looks += [(rng.choice(colours[1:]), rng.choice(kinds)) for _ in range(num - group)]
    levels = [rng.randint(0, NUM_LEVELS - 2) for _ in looks]
    return one(place(rng, looks, setup.size(rng), levels))


_ALIGNED, _APART = 0.11, 0.22


def _neighbour(scene: Scene, shape: Shape, direction: str) -> Shape | None:
    """The next shape in a direction, in line with the given one; None where people could disagree."""
    across = "above" if direction in ("left", "right") else "left"
    ahead = [other for other in scene.shapes if other is not shape and offset(other, shape, direction) > 0.02]
    aligned = []
    for other in ahead:
        aside = abs(offset(other, shape, across))
        if aside <= _ALIGNED:
            aligned.append(other)
        elif aside < _APART:
            return None
    if not aligned:
        return None
    return min(aligned, key=lambda other: offset(other, shape, direction))


def ask_hop_left_of(rng: random.Random, scenes: Scenes, lang: Lang, want: str | None) -> Question | None:
    """The colour of the shape beside the largest (smallest) of a kind; all colours differ."""
    (scene,) = scenes
    colours = distinct(shape.colour for shape in scene.shapes)
    if len(colours) < max(3, len(scene.shapes)):
        return None
    offers: list[tuple[str, str, str, Shape]] = []
    for kind in KINDS:
        group = [shape for shape in scene.shapes if shape.kind == kind]
        for name in _EXTREMES:
            found = extreme(group, name == "largest")
            if found is None:
                continue
            for direction in _BESIDE:
                target = _neighbour(scene, found, direction)
                if target is not None and want in (None, direction):
                    offers.append((kind, name, direction, target))
    if not offers:
        return None
    kind, name, direction, target = rng.choice(offers)
    text = wording(rng, "hop_left_of", lang, _WORDS).format(
        z=say(name, lang), k=say(kind, lang), d=_beside(direction, lang)
    )
    return _colour_question("hop_left_of", lang, scenes, text, direction, target)


def ask_beside(rng: random.Random, scenes: Scenes, lang: Lang, want: str | None) -> Question | None:
    """The colour of the shape beside a named one: `hop_left_of` without its first hop; all colours differ."""
    (scene,) = scenes
    colours = distinct(shape.colour for shape in scene.shapes)
    if len(colours) < max(3, len(scene.shapes)):
        return None
    offers = [
        (shape, direction, target)
        for shape in scene.shapes
        for direction in _BESIDE
        if want in (None, direction) and (target := _neighbour(scene, shape, direction)) is not None
    ]
    if not offers:
        return None
    shape, direction, target = rng.choice(offers)
    text = wording(rng, "beside", lang, _WORDS).format(s=named(shape, lang), d=_beside(direction, lang))
    return _colour_question("beside", lang, scenes, text, direction, target)


def scene_hop_left_of(rng: random.Random, want: str | None, setup: Setup) -> Scenes | None:
    """Four or six shapes of different colours in rows, two or three of them of one kind."""
    num = rng.choice((4, 6)) if setup.num_shapes[1] >= 6 else 4
    num_columns = 2 if num == 4 else rng.choice((2, 3))
    kind, *kinds = rng.sample(KINDS, len(KINDS))
    of_kind = [kind] * rng.randint(2, 3)
    its_kinds = of_kind + [rng.choice(kinds) for _ in range(num - len(of_kind))]
    rng.shuffle(its_kinds)
    looks = list(zip(rng.sample(COLOUR_NAMES, num), its_kinds, strict=True))
    levels = [rng.randint(0, 2 if num == 6 else 3) for _ in looks]
    return one(place_in_rows(rng, looks, setup.size(rng), levels, num_columns))


def _colour_question(its_type: str, lang: Lang, scenes: Scenes, text: str, direction: str, target: Shape) -> Question:
    colours = distinct(say(shape.colour, lang) for shape in scenes[0].shapes)
    return Question(its_type, lang, scenes, text, say(target.colour, lang), direction, target.colour, colours)


def ask_hop_in_chinese(rng: random.Random, scenes: Scenes, lang: Lang, want: str | None) -> Question | None:
    """One of the two-hop questions of one picture in Chinese, the answer in English: Owl2 reads more than it writes."""
    question = ask_any_hop(rng, scenes, "zh")
    if question is None:
        return None
    english = {say(name, "zh"): name for name in (*COLOUR_NAMES, *KINDS)}
    return replace(
        question,
        type="hop_in_chinese",
        lang=lang,
        answer=question.answer_class,
        candidates=tuple(sorted(english[name] for name in question.candidates)),
        guesses=(),
    )


def ask_any_hop(rng: random.Random, scenes: Scenes, lang: Lang) -> Question | None:
    """A two-hop question of one picture; its answer class is the answer in English."""
    askers = [ask_hop_left_of, ask_hop_largest_kind]
    rng.shuffle(askers)
    return next((question for ask in askers if (question := ask(rng, scenes, lang, None))), None)


def scene_hop_in_chinese(rng: random.Random, want: str | None, setup: Setup) -> Scenes | None:
    """A scene that has a two-hop question."""
    return rng.choice((scene_hop_left_of, scene_hop_largest_kind))(rng, None, setup)


def ask_hop_picture_count(rng: random.Random, scenes: Scenes, lang: Lang, want: str | None) -> Question | None:
    """How many of something are in the picture that has, say, a red square: 0 to 4, the other having more or fewer."""
    pictures = [looks_of(scene) for scene in scenes]
    by_number: dict[int, list[tuple[Query, Look, int]]] = {}
    form = rng.choice(("color", "shape"))
    for index, looks in enumerate(pictures):
        elsewhere = pictures[1 - index]
        references = []
        for (colour, kind), count in sorted(Counter(looks).items()):
            if count > 1 or (colour, kind) in elsewhere:
                continue
            is_hard = any(c == colour for c, _ in elsewhere) and any(k == kind for _, k in elsewhere)
            if is_hard or rng.random() < 0.05:
                references.append((colour, kind))
        for query in queries(form):
            number = query.count(looks)
            if number > 4 or number == query.count(elsewhere) or want not in (None, str(number)):
                continue
            # A reference that is itself counted would give one away.
            by_number.setdefault(number, []).extend(
                (query, reference, index) for reference in references if not query.count([reference])
            )
    chosen = choose_count(rng, {number: found for number, found in by_number.items() if found}, want)
    if chosen is None:
        return None
    (query, (colour, kind), index), number = chosen
    text = wording(rng, "hop_picture_count", lang, _WORDS).format(q=query.phrase, s=f"{colour} {kind}")
    both = [str(query.count(looks)) for looks in pictures]
    fuller = 0 if len(pictures[0]) >= len(pictures[1]) else 1
    guesses = (("the first picture", both[0]), ("the fuller picture", both[fuller]))
    return Question("hop_picture_count", lang, scenes, text, str(number), "", str(number), distinct(both), guesses)


def scene_hop_picture_count(rng: random.Random, want: str | None, setup: Setup) -> Scenes | None:
    """Two pictures with different numbers of something; one has the reference, the other only parts of it."""
    counted = random_query(rng, rng.choice(("color", "shape")))
    number = int(want) if want else rng.randint(0, 4)
    other = rng.choice([count for count in range(5) if count != number])
    reference = (
        rng.choice([name for name in COLOUR_NAMES if name != counted.colour]),
        rng.choice([name for name in KINDS if name != counted.kind]),
    )
    index = rng.randrange(2)
    pictures: list[list[Look]] = []
    for place_ in range(2):
        looks = meant_looks(rng, counted, number if place_ == index else other)
        colours = [name for name in COLOUR_NAMES if name not in (counted.colour, reference[0])]
        kinds = [name for name in KINDS if name not in (counted.kind, reference[1])]
        decoys = [(reference[0], rng.choice(kinds)), (rng.choice(colours), reference[1])]
        looks += [reference] if place_ == index else [decoys[0]]
        looks += [rng.choice(decoys)] if place_ == index else [decoys[1]]
        if len(looks) > 6:
            return None
        looks += other_looks(rng, counted, rng.randint(0, max(0, min(6, setup.num_shapes[1]) - len(looks))))
        pictures.append(looks)
    return place_all(rng, pictures, setup.size(rng))


def ask_hop_picture_color(rng: random.Random, scenes: Scenes, lang: Lang, want: str | None) -> Question | None:
    """The colour of a kind that both pictures have once, in the picture with more of another kind or colour."""
    pictures = [looks_of(scene) for scene in scenes]
    totals = [len(looks) for looks in pictures]
    offers: dict[str, list[tuple[Query, str, int]]] = {}
    for kind in KINDS:
        own = [[colour for colour, its_kind in looks if its_kind == kind] for looks in pictures]
        if [len(colours) for colours in own] != [1, 1] or own[0] == own[1]:
            continue
        for query in (*queries("color"), *queries("shape")):
            numbers = [query.count(looks) for looks in pictures]
            if numbers[0] == numbers[1] or query.kind == kind or query.colour in (own[0][0], own[1][0]):
                continue
            index = 0 if numbers[0] > numbers[1] else 1
            its_class = ORDINALS[index] + mark(totals, ORDINALS[index])
            if want in (None, its_class):
                offers.setdefault(its_class, []).append((query, kind, index))
    if not offers:
        return None
    query, kind, index = rng.choice(offers[rng.choice(sorted(offers))])
    both = [next(colour for colour, its_kind in looks if its_kind == kind) for looks in pictures]
    text = wording(rng, "hop_picture_color", lang, _WORDS).format(q=query.phrase, k=kind)
    fuller = 0 if totals[0] >= totals[1] else 1
    guesses = (("the first picture", both[0]), ("the fuller picture", both[fuller]))
    return Question("hop_picture_color", lang, scenes, text, both[index], "", both[index], distinct(both), guesses)


def scene_hop_picture_color(rng: random.Random, want: str | None, setup: Setup) -> Scenes | None:
    """Two pictures that have one kind once each, in different colours, and different numbers of something else."""
    want = want or rng.choice(("first+", "first-", "second+", "second-"))
    answer = want.rstrip("+-")
    kind, *kinds = rng.sample(KINDS, len(KINDS))
    own = rng.sample(COLOUR_NAMES, 2)
    colours = [name for name in COLOUR_NAMES if name not in own]
    query = Query(kind=rng.choice(kinds)) if rng.random() < 0.6 else Query(colour=rng.choice(colours))
    more = rng.randint(1, 4)
    fewer = rng.randint(0, more - 1)
    numbers = (more, fewer) if answer == "first" else (fewer, more)
    pictures: list[list[Look]] = []
    for colour, number in zip(own, numbers, strict=True):
        room = min(6, max(4, setup.num_shapes[1])) - 1 - number
        if room < 0:
            return None
        looks = meant_looks(rng, query, number) + other_looks(rng, query, rng.randint(0, room))
        looks = [(its_colour, rng.choice(kinds) if its_kind == kind else its_kind) for its_colour, its_kind in looks]
        if query.count(looks) != number:
            return None
        pictures.append([(colour, kind), *looks])
    if mark([len(looks) for looks in pictures], answer) != want[-1]:
        return None
    return place_all(rng, pictures, setup.size(rng))

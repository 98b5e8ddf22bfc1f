"""What is in one picture: the colour or kind of a shape, whether there is one, how many there are, a listing of all.

In: a scene (an `ask_` function) or a wish for one (a `scene_` function). Out: a question or None; a scene or None.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from training.pocket.scenes.asking import Builder, Scenes, Setup, Wordings, distinct, named, one, wording
from training.pocket.scenes.layout import Look, place, random_looks, size_word
from training.pocket.scenes.nouns import Lang, Question, Scene, Shape
from training.pocket.scenes.places import nearest_region
from training.pocket.scenes.words import COLOUR_NAMES, KINDS, article, listing, look, plural, say

T = TypeVar("T")

# Wordings: {c} a colour, {k} a kind, {ks} its plural, {s} a shape by both, {as_} with its article, {ss} plural of both.
_WORDS: Wordings = {
    "color_of_shape": {
        "zh": (
            "{k}是什么颜色？",
            "图中的{k}是什么颜色的？",
            "{k}的颜色是什么？",
            "请问{k}是哪种颜色？",
            "你看到的{k}是什么颜色？",
            "告诉我{k}的颜色。",
            "这个{k}是什么颜色的？",
            "{k}什么颜色？",
        ),
        "en": (
            "What colour is the {k}?",
            "What is the colour of the {k}?",
            "Which colour does the {k} have?",
            "Tell me the colour of the {k}.",
            "What colour is the {k} in the picture?",
            "Do you see the colour of the {k}? What is it?",
            "The {k} is what colour?",
            "Please tell me what colour the {k} is.",
            "Which colour is the {k}?",
        ),
    },
    "shape_of_color": {
        "zh": (
            "{c}的图形是什么形状？",
            "{c}的是什么形状？",
            "图中{c}图形的形状是什么？",
            "{c}的物体是什么形状？",
            "告诉我{c}图形的形状。",
            "哪个形状是{c}的？",
        ),
        "en": (
            "What shape is the {c} one?",
            "What is the shape of the {c} object?",
            "Which shape is {c}?",
            "What shape is the {c} object?",
            "Tell me the shape of the {c} object.",
            "What is the {c} shape?",
            "The {c} thing: what shape is it?",
            "What kind of shape is {c}?",
        ),
    },
    "exist": {
        "zh": (
            "图中有{s}吗？",
            "有没有{s}？",
            "图片里有没有{s}？",
            "能看到{s}吗？",
            "你看到{s}了吗？",
            "这张图里有{s}吗？",
            "请告诉我有没有{s}。",
        ),
        "en": (
            "Is there {as_}?",
            "Is there {as_} in the picture?",
            "Can you see {as_}?",
            "Does the picture have {as_}?",
            "Do you see {as_}?",
            "Is there {as_} in this image?",
            "Tell me if there is {as_}.",
            "Does the image contain {as_}?",
        ),
    },
    "count_all": {
        "zh": (
            "图中有几个图形？",
            "一共有多少个图形？",
            "图片里共有几个图形？",
            "你看到几个图形？",
            "图里有多少个物体？",
            "数一数图中的图形。",
            "告诉我图形的总数。",
            "有几个图形？",
        ),
        "en": (
            "How many shapes are there?",
            "How many shapes are in the picture?",
            "Count all the shapes.",
            "How many shapes do you see?",
            "How many objects are there?",
            "How many objects do you see?",
            "Tell me how many shapes there are.",
            "What is the total number of shapes?",
            "How many objects are in the picture?",
            "How many shapes are in this image?",
            "Count the objects.",
        ),
    },
    "count_color": {
        "zh": (
            "有几个{c}的图形？",
            "图中有多少个{c}图形？",
            "{c}的图形有几个？",
            "你看到几个{c}的图形？",
            "图里有几个{c}的物体？",
            "数一数{c}的图形。",
        ),
        "en": (
            "How many {c} shapes are there?",
            "How many shapes are {c}?",
            "Count the {c} shapes.",
            "How many {c} shapes do you see?",
            "How many {c} objects are there?",
            "Tell me how many {c} shapes there are.",
            "How many {c} objects are in the picture?",
            "How many objects are {c}?",
        ),
    },
    "count_shape": {
        "zh": (
            "有几个{k}？",
            "图中有多少个{k}？",
            "{k}有几个？",
            "你看到几个{k}？",
            "数一数{k}。",
            "图里共有几个{k}？",
        ),
        "en": (
            "How many {ks} are there?",
            "How many {ks} are in the picture?",
            "Count the {ks}.",
            "How many {ks} do you see?",
            "How many {ks} can you see?",
            "Tell me how many {ks} there are.",
            "What is the number of {ks}?",
        ),
    },
    "count_color_shape": {
        "zh": (
            "有几个{s}？",
            "图中有多少个{s}？",
            "{s}有几个？",
            "你看到几个{s}？",
            "数一数{s}。",
            "图里共有几个{s}？",
        ),
        "en": (
            "How many {ss} are there?",
            "How many {ss} are in the picture?",
            "Count the {ss}.",
            "How many {ss} do you see?",
            "How many {ss} can you see?",
            "Tell me how many {ss} there are.",
            "What is the number of {ss}?",
        ),
    },
    "caption": {
        "zh": (
            "列出图中所有图形的大小、颜色、形状和位置。",
            "逐个说明每个图形。",
            "详细列出所有图形。",
            "请列出每个图形的大小、颜色和位置。",
            "请详细说明图中的图形。",
        ),
        "en": (
            "List every shape with its size, colour and place.",
            "List all shapes in detail.",
            "Name each shape.",
            "Please list all objects in detail.",
            "List each object with its size, colour and place.",
        ),
    },
    "describe": {
        "zh": (
            "描述这张图片。",
            "用一句话描述图片。",
            "图片里有什么？",
            "这张图里有什么？",
            "你看到了什么？",
            "请描述图片。",
            "图中有什么？",
            "告诉我图里有什么。",
        ),
        "en": (
            "Describe the picture.",
            "Describe the picture in one sentence.",
            "What is in the picture?",
            "What does the picture show?",
            "What do you see?",
            "Describe this image.",
            "Please describe the picture.",
            "Tell me what you see.",
            "What is in this image?",
            "What objects are in the picture?",
        ),
    },
}


def ask_color_of_shape(rng: random.Random, scenes: Scenes, lang: Lang, want: str | None) -> Question | None:
    """The colour of a kind there is only one of, in a picture with other colours."""
    (scene,) = scenes
    counts = Counter(shape.kind for shape in scene.shapes)
    colours = distinct(shape.colour for shape in scene.shapes)
    found = [shape for shape in scene.shapes if counts[shape.kind] == 1 and want in (None, shape.colour)]
    if not found or len(colours) < 2:
        return None
    shape = rng.choice(found)
    text = wording(rng, "color_of_shape", lang, _WORDS).format(k=say(shape.kind, lang))
    answer = say(shape.colour, lang)
    return Question(
        "color_of_shape", lang, scenes, text, answer, "", shape.colour, tuple(say(name, lang) for name in colours)
    )


def scene_color_of_shape(rng: random.Random, want: str | None, setup: Setup) -> Scenes | None:
    """One shape of the wanted colour, whose kind no other has; the others' colours all differ."""
    num = setup.num(rng, 4 if setup.num_shapes[1] >= 4 else 2)
    colours = [want or rng.choice(COLOUR_NAMES)]
    colours += rng.sample([name for name in COLOUR_NAMES if name != want], num - 1)
    kind = rng.choice(KINDS)
    others = [name for name in KINDS if name != kind]
    looks = [(colour, kind if index == 0 else rng.choice(others)) for index, colour in enumerate(colours)]
    return one(place(rng, looks, setup.size(rng)))


def ask_shape_of_color(rng: random.Random, scenes: Scenes, lang: Lang, want: str | None) -> Question | None:
    """The kind of the only shape of its colour, in a picture with other kinds."""
    (scene,) = scenes
    counts = Counter(shape.colour for shape in scene.shapes)
    kinds = distinct(shape.kind for shape in scene.shapes)
    found = [shape for shape in scene.shapes if counts[shape.colour] == 1 and want in (None, shape.kind)]
    if not found or len(kinds) < 2:
        return None
    shape = rng.choice(found)
    text = wording(rng, "shape_of_color", lang, _WORDS).format(c=say(shape.colour, lang))
    return Question(
        "shape_of_color",
        lang,
        scenes,
        text,
        say(shape.kind, lang),
        "",
        shape.kind,
        tuple(say(name, lang) for name in kinds),
    )


def scene_shape_of_color(rng: random.Random, want: str | None, setup: Setup) -> Scenes | None:
    """One shape of the wanted kind, whose colour no other has; the others' kinds all differ."""
    num = setup.num(rng, 4 if setup.num_shapes[1] >= 4 else 2)
    kinds = [want or rng.choice(KINDS)]
    kinds += rng.sample([name for name in KINDS if name != want], num - 1)
    colour = rng.choice(COLOUR_NAMES)
    others = [name for name in COLOUR_NAMES if name != colour]
    looks = [(colour if index == 0 else rng.choice(others), kind) for index, kind in enumerate(kinds)]
    return one(place(rng, looks, setup.size(rng)))


_EASY_NO = 0.1


def ask_exist(rng: random.Random, scenes: Scenes, lang: Lang, want: str | None) -> Question | None:
    """Is there a red circle? Where not, there is nearly always something red, and a circle."""
    (scene,) = scenes
    present = {shape.look for shape in scene.shapes}
    colours, kinds = {colour for colour, _ in present}, {kind for _, kind in present}
    target = want or rng.choice(("yes", "no"))
    if target == "yes":
        pairs = sorted(present)
    else:
        pairs = sorted({(colour, kind) for colour in colours for kind in kinds} - present)
        if rng.random() < _EASY_NO:
            # Half of it is there: the colour or the kind.
            missing = [(colour, rng.choice(KINDS)) for colour in COLOUR_NAMES if colour not in colours]
            missing += [(rng.choice(COLOUR_NAMES), kind) for kind in KINDS if kind not in kinds]
            pairs = missing or pairs
    if not pairs:
        return None
    colour, kind = rng.choice(pairs)
    named = look(colour, kind, lang)
    text = wording(rng, "exist", lang, _WORDS).format(s=named, as_=article(named))
    seen = colour in colours and kind in kinds
    yes, no = ("有", "没有") if lang == "zh" else ("yes", "no")
    return Question(
        "exist",
        lang,
        scenes,
        text,
        yes if target == "yes" else no,
        "",
        target,
        (yes, no),
        (("both words are visible", yes if seen else no),),
    )


def scene_exist(rng: random.Random, want: str | None, setup: Setup) -> Scenes | None:
    """At least two colours and two kinds, and a combination that is missing."""
    num = setup.num(rng, 2)
    looks = [(rng.choice(COLOUR_NAMES), rng.choice(KINDS)) for _ in range(2)]
    colours, kinds = {colour for colour, _ in looks}, {kind for _, kind in looks}
    if len(colours) < 2 or len(kinds) < 2:
        return None
    looks += rng.choices(random_looks(rng, 3) + looks, k=num - 2)
    return one(place(rng, looks, setup.size(rng)))


# A picture that was not made for the question offers small counts more often than large ones; this evens them out.
_COUNT_WEIGHTS = {0: 0.2, 1: 0.45, 2: 1.0, 3: 2.0, 4: 4.0, 5: 6.0, 6: 6.0}
_COUNT_CHANCES = {0: 0.4, 1: 0.4, 2: 0.7}
_COUNT_ALL_CHANCES = {4: 0.6, 5: 0.6, 6: 0.5}


def choose_count(rng: random.Random, by_number: Mapping[int, Sequence[T]], want: str | None) -> tuple[T, int] | None:
    """Something to count and its number; without a wish, small numbers are sometimes passed over.

    Args:
        rng: source of the choice.
        by_number: what could be counted, by how many there are.
        want: the number wanted; None evens the numbers out.
    """
    numbers = sorted(number for number in by_number if want in (None, str(number)))
    if not numbers:
        return None
    number = rng.choices(numbers, [_COUNT_WEIGHTS[number] for number in numbers])[0]
    if want is None and rng.random() > _COUNT_CHANCES.get(number, 1.0):
        return None
    return rng.choice(by_number[number]), number


def _group(counts: Iterable[tuple[T, int]], highest: int) -> dict[int, list[T]]:
    """Things by their number, up to `highest`."""
    by_number: dict[int, list[T]] = {}
    for item, number in counts:
        if number <= highest:
            by_number.setdefault(number, []).append(item)
    return by_number


def ask_count_all(rng: random.Random, scenes: Scenes, lang: Lang, want: str | None) -> Question | None:
    """How many shapes there are."""
    (scene,) = scenes
    number = str(len(scene.shapes))
    if want not in (None, number):
        return None
    if want is None and rng.random() > _COUNT_ALL_CHANCES.get(len(scene.shapes), 1.0):
        return None
    return Question("count_all", lang, scenes, wording(rng, "count_all", lang, _WORDS), number, "", number)


def scene_count_all(rng: random.Random, want: str | None, setup: Setup) -> Scenes | None:
    """So many shapes, of any look."""
    num = int(want) if want else setup.num(rng)
    return one(place(rng, random_looks(rng, num), setup.size(rng)))


def ask_count_color(rng: random.Random, scenes: Scenes, lang: Lang, want: str | None) -> Question | None:
    """How many shapes have a colour: 0 to 5, and never all of them."""
    (scene,) = scenes
    total = len(scene.shapes)
    counts = Counter(shape.colour for shape in scene.shapes)
    chosen = choose_count(rng, _group(((name, counts[name]) for name in COLOUR_NAMES if counts[name] < total), 5), want)
    if chosen is None:
        return None
    colour, number = chosen
    text = wording(rng, "count_color", lang, _WORDS).format(c=say(colour, lang))
    return Question(
        "count_color", lang, scenes, text, str(number), "", str(number), guesses=(("count everything", str(total)),)
    )


def ask_count_shape(rng: random.Random, scenes: Scenes, lang: Lang, want: str | None) -> Question | None:
    """How many shapes are of a kind: 0 to 5, and never all of them."""
    (scene,) = scenes
    total = len(scene.shapes)
    counts = Counter(shape.kind for shape in scene.shapes)
    chosen = choose_count(rng, _group(((name, counts[name]) for name in KINDS if counts[name] < total), 5), want)
    if chosen is None:
        return None
    kind, number = chosen
    text = wording(rng, "count_shape", lang, _WORDS).format(k=say(kind, lang), ks=plural(kind))
    return Question(
        "count_shape", lang, scenes, text, str(number), "", str(number), guesses=(("count everything", str(total)),)
    )


def ask_count_color_shape(rng: random.Random, scenes: Scenes, lang: Lang, want: str | None) -> Question | None:
    """How many shapes have a colour and a kind: 0 to 4; something else has one of the two."""
    (scene,) = scenes
    counts = Counter(shape.look for shape in scene.shapes)
    colours = Counter(shape.colour for shape in scene.shapes)
    kinds = Counter(shape.kind for shape in scene.shapes)
    offers = [
        ((colour, kind), counts[colour, kind])
        for colour in colours
        for kind in kinds
        if colours[colour] + kinds[kind] > 2 * counts[colour, kind]
    ]
    chosen = choose_count(rng, _group(offers, 4), want)
    if chosen is None:
        return None
    (colour, kind), number = chosen
    singular = look(colour, kind, lang)
    text = wording(rng, "count_color_shape", lang, _WORDS).format(s=singular, ss=f"{colour} {plural(kind)}")
    guesses = (
        ("count everything", str(len(scene.shapes))),
        ("count the colour", str(colours[colour])),
        ("count the kind", str(kinds[kind])),
    )
    return Question("count_color_shape", lang, scenes, text, str(number), "", str(number), guesses=guesses)


def count_scene(has_colour: bool, has_kind: bool) -> Builder:
    """Builds scenes holding a wanted number of shapes that share a colour, a kind, or both."""

    def build(rng: random.Random, want: str | None, setup: Setup) -> Scenes | None:
        number = int(want) if want else rng.randint(0, 4)
        num = setup.num(rng, max(number + (2 if has_colour and has_kind else 1), min(4, setup.num_shapes[1])))
        colour, kind = rng.choice(COLOUR_NAMES), rng.choice(KINDS)
        colours = [name for name in COLOUR_NAMES if name != colour]
        kinds = [name for name in KINDS if name != kind]
        # Few other looks, so that the same things repeat; many, so that they do not.
        colours = rng.sample(colours, rng.choice((1, 2, 3, 7)))
        kinds = rng.sample(kinds, rng.choice((1, 2, 3, 5)))
        looks: list[Look] = []
        for _ in range(number):
            looks.append((colour if has_colour else rng.choice(COLOUR_NAMES), kind if has_kind else rng.choice(KINDS)))
        for index in range(num - number):
            other = (rng.choice(colours), rng.choice(kinds))
            if has_colour and has_kind:
                halves = (colour, other[1]), (other[0], kind)
                other = halves[index] if index < 2 and rng.random() < 0.85 else rng.choice((*halves, other))
            elif has_colour:
                other = (other[0], rng.choice((kind, other[1])))
            else:
                other = (rng.choice((colour, other[0])), other[1])
            looks.append(other)
        return one(place(rng, looks, setup.size(rng)))

    return build


def reading_order(scene: Scene) -> list[Shape]:
    """Shapes from left to right within three rows, from the top row down."""
    return sorted(scene.shapes, key=lambda shape: (min(2, int(3 * shape.y)), shape.x))


def ask_caption(rng: random.Random, scenes: Scenes, lang: Lang, want: str | None) -> Question | None:
    """Every shape with size, colour, kind and region: dense supervision, not judged."""
    (scene,) = scenes
    if not scene.shapes:
        return None
    parts = []
    for shape in reading_order(scene):
        size, name, region = say(size_word(shape), lang), named(shape, lang), say(nearest_region(shape), lang)
        parts.append(f"{region}{size}{name}" if lang == "zh" else f"{region}: {size} {name}")
    answer = "，".join(parts) if lang == "zh" else ", ".join(parts)
    return Question("caption", lang, scenes, wording(rng, "caption", lang, _WORDS), answer)


def ask_describe(rng: random.Random, scenes: Scenes, lang: Lang, want: str | None) -> Question | None:
    """One sentence that names up to four shapes, from left to right."""
    (scene,) = scenes
    if not 1 <= len(scene.shapes) <= 4:
        return None
    names = [named(shape, lang) for shape in sorted(scene.shapes, key=lambda shape: shape.x)]
    if lang == "zh":
        answer = f"图中有{listing(names, lang)}。"
    else:
        answer = f"There is {listing([article(name) for name in names], lang)}."
    return Question("describe", lang, scenes, wording(rng, "describe", lang, _WORDS), answer)


def scene_any(rng: random.Random, want: str | None, setup: Setup) -> Scenes | None:
    """Any shapes."""
    return one(place(rng, random_looks(rng, setup.num(rng)), setup.size(rng)))


def scene_describe(rng: random.Random, want: str | None, setup: Setup) -> Scenes | None:
    """One to four shapes."""
    return one(place(rng, random_looks(rng, setup.num(rng, 1, 4)), setup.size(rng)))

"""Sizes and places in one picture: the largest shape, where one is, what is where, which of two is larger or left.

In: a scene (an `ask_` function) or a wish for one (a `scene_` function). Out: a question or None; a scene or None.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from training.pocket.scenes.asking import (
    Asker,
    Builder,
    Scenes,
    Setup,
    Wordings,
    named,
    one,
    unique_looks,
    wording,
)
from training.pocket.scenes.layout import NUM_LEVELS, is_clearly_larger, place, random_looks
from training.pocket.scenes.nouns import Lang, Question, Shape
from training.pocket.scenes.words import COLOUR_NAMES, KINDS, REGIONS, look, say

# Wordings: {s} and {t} are shapes by colour and kind, {r} a region.
_WORDS: Wordings = {
    "largest": {
        "zh": (
            "最大的图形是什么？",
            "哪个图形最大？",
            "图中最大的是什么？",
            "哪个物体最大？",
            "告诉我最大的图形。",
            "你看到的最大的图形是什么？",
        ),
        "en": (
            "What is the largest shape?",
            "Which shape is the largest?",
            "Which shape is the biggest?",
            "What is the biggest object?",
            "Which object is the largest?",
            "Tell me the largest shape.",
            "What is the largest shape you see?",
        ),
    },
    "smallest": {
        "zh": (
            "最小的图形是什么？",
            "哪个图形最小？",
            "图中最小的是什么？",
            "哪个物体最小？",
            "告诉我最小的图形。",
            "你看到的最小的图形是什么？",
        ),
        "en": (
            "What is the smallest shape?",
            "Which shape is the smallest?",
            "Which one is the smallest shape?",
            "What is the smallest object?",
            "Which object is the smallest?",
            "Tell me the smallest shape.",
            "What is the smallest shape you see?",
        ),
    },
    "position x": {
        "zh": (
            "{s}在左边还是右边？",
            "{s}在图片的左边还是右边？",
            "{s}位于左边还是右边？",
            "告诉我{s}在左边还是右边。",
            "你看到的{s}在左边还是右边？",
        ),
        "en": (
            "Is the {s} on the left or on the right?",
            "Is the {s} in the left or the right half?",
            "Left or right: where is the {s}?",
            "Is the {s} left or right?",
            "Tell me if the {s} is on the left or on the right.",
            "Do you see the {s} on the left or on the right?",
        ),
    },
    "position y": {
        "zh": (
            "{s}在上边还是下边？",
            "{s}在图片的上边还是下边？",
            "{s}位于上边还是下边？",
            "告诉我{s}在上边还是下边。",
            "你看到的{s}在上边还是下边？",
        ),
        "en": (
            "Is the {s} at the top or at the bottom?",
            "Is the {s} in the top or the bottom half?",
            "Top or bottom: where is the {s}?",
            "Is the {s} at the bottom or at the top?",
            "Tell me if the {s} is at the top or at the bottom.",
            "Do you see the {s} at the top or at the bottom?",
        ),
    },
    "region": {
        "zh": (
            "{s}在什么位置？",
            "{s}在哪里？",
            "{s}在图片的哪个位置？",
            "告诉我{s}的位置。",
            "你在哪里看到{s}？",
            "{s}的位置是哪里？",
        ),
        "en": (
            "Where is the {s}?",
            "Where in the picture is the {s}?",
            "In which part of the picture is the {s}?",
            "Tell me where the {s} is.",
            "Where do you see the {s}?",
            "Where is the {s} in this image?",
            "What is the place of the {s}?",
        ),
    },
    "at_region": {
        "zh": (
            "{r}是什么图形？",
            "图片{r}是什么？",
            "{r}的图形是什么？",
            "你在{r}看到什么？",
            "告诉我{r}有什么图形。",
            "{r}有什么？",
        ),
        "en": (
            "What is at the {r}?",
            "Which shape is at the {r}?",
            "What can be seen at the {r}?",
            "What do you see at the {r}?",
            "What object is at the {r}?",
            "Tell me what is at the {r}.",
            "Which object is at the {r}?",
        ),
    },
    "relation left": {
        "zh": (
            "{s}在{t}的左边吗？",
            "{s}是不是在{t}左边？",
            "{s}是否在{t}的左边？",
            "告诉我{s}是不是在{t}的左边。",
            "你看{s}在{t}左边吗？",
        ),
        "en": (
            "Is the {s} left of the {t}?",
            "Is the {s} to the left of the {t}?",
            "Does the {s} lie left of the {t}?",
            "Do you see the {s} left of the {t}?",
            "Tell me if the {s} is left of the {t}.",
        ),
    },
    "relation right": {
        "zh": (
            "{s}在{t}的右边吗？",
            "{s}是不是在{t}右边？",
            "{s}是否在{t}的右边？",
            "告诉我{s}是不是在{t}的右边。",
            "你看{s}在{t}右边吗？",
        ),
        "en": (
            "Is the {s} right of the {t}?",
            "Is the {s} to the right of the {t}?",
            "Does the {s} lie right of the {t}?",
            "Do you see the {s} right of the {t}?",
            "Tell me if the {s} is right of the {t}.",
        ),
    },
    "relation above": {
        "zh": (
            "{s}在{t}的上边吗？",
            "{s}是不是在{t}上边？",
            "{s}是否在{t}的上边？",
            "告诉我{s}是不是在{t}的上边。",
            "你看{s}在{t}上边吗？",
        ),
        "en": (
            "Is the {s} above the {t}?",
            "Is the {s} higher than the {t}?",
            "Does the {s} lie above the {t}?",
            "Do you see the {s} above the {t}?",
            "Tell me if the {s} is above the {t}.",
        ),
    },
    "relation below": {
        "zh": (
            "{s}在{t}的下边吗？",
            "{s}是不是在{t}下边？",
            "{s}是否在{t}的下边？",
            "告诉我{s}是不是在{t}的下边。",
            "你看{s}在{t}下边吗？",
        ),
        "en": (
            "Is the {s} below the {t}?",
            "Is the {s} lower than the {t}?",
            "Does the {s} lie below the {t}?",
            "Do you see the {s} below the {t}?",
            "Tell me if the {s} is below the {t}.",
        ),
    },
    "comparison larger": {
        "zh": (
            "{s}和{t}哪个更大？",
            "哪个更大，{s}还是{t}？",
            "{s}和{t}中更大的是哪个？",
            "{s}和{t}相比，哪个更大？",
            "告诉我{s}和{t}哪个更大。",
        ),
        "en": (
            "Which is larger, the {s} or the {t}?",
            "Which one is bigger: the {s} or the {t}?",
            "Larger: {s} or {t}?",
            "Tell me which is larger, the {s} or the {t}.",
            "Which object is bigger, the {s} or the {t}?",
        ),
    },
    "comparison smaller": {
        "zh": (
            "{s}和{t}哪个更小？",
            "哪个更小，{s}还是{t}？",
            "{s}和{t}中更小的是哪个？",
            "{s}和{t}相比，哪个更小？",
            "告诉我{s}和{t}哪个更小。",
        ),
        "en": (
            "Which is smaller, the {s} or the {t}?",
            "Which one is tinier: the {s} or the {t}?",
            "Smaller: {s} or {t}?",
            "Tell me which is smaller, the {s} or the {t}.",
            "Which object is smaller, the {s} or the {t}?",
        ),
    },
}


def extreme(shapes: Sequence[Shape], is_largest: bool) -> Shape | None:
    """The largest or smallest of at least two shapes; None where another one comes near."""
    if len(shapes) < 2:
        return None
    found, *others = sorted(shapes, key=lambda shape: shape.radius, reverse=is_largest)
    pairs = [(found, other) if is_largest else (other, found) for other in others]
    return found if all(is_clearly_larger(*pair) for pair in pairs) else None


def extreme_asker(name: str) -> Asker:
    """Asks for the "largest" or the "smallest" shape."""

    def ask(rng: random.Random, scenes: Scenes, lang: Lang, want: str | None) -> Question | None:
        (scene,) = scenes
        found = extreme(scene.shapes, name == "largest")
        looks = sorted({shape.look for shape in scene.shapes})
        if found is None or len(looks) < 2 or want not in (None, found.kind):
            return None
        answer = named(found, lang)
        return Question(
            name,
            lang,
            scenes,
            wording(rng, name, lang, _WORDS),
            answer,
            "",
            answer,
            tuple(look(*pair, lang) for pair in looks),
        )

    return ask


def extreme_scene(name: str) -> Builder:
    """Builds scenes of different looks with one shape clearly larger (or smaller) than all others."""

    def build(rng: random.Random, want: str | None, setup: Setup) -> Scenes | None:
        num = setup.num(rng, 3 if setup.num_shapes[1] >= 3 else 2)
        looks = rng.sample([(colour, kind) for colour in COLOUR_NAMES for kind in KINDS], num)
        if want is not None:
            looks[0] = (looks[0][0], want)
            if looks[0] in looks[1:]:
                return None
        if name == "largest":
            top = rng.randint(1, NUM_LEVELS - 1 if num <= 4 else NUM_LEVELS - 2)
            levels = [top] + [rng.randint(0, top - 1) for _ in looks[1:]]
        else:
            highest = NUM_LEVELS - 1 if num <= 3 else NUM_LEVELS - 3
            bottom = rng.randint(0, highest - 1)
            levels = [bottom] + [rng.randint(bottom + 1, highest) for _ in looks[1:]]
        return one(place(rng, looks, setup.size(rng), levels))

    return build


# Centres nearer to a border than this are not asked about: people would disagree.
_HALF_MARGIN, _THIRD_MARGIN = 0.07, 0.045


def region_of(shape: Shape) -> str | None:
    """The region (of nine) in which the shape's centre clearly lies; None near a border."""
    if any(abs(part - border) < _THIRD_MARGIN for part in (shape.x, shape.y) for border in (1 / 3, 2 / 3)):
        return None
    return nearest_region(shape)


def nearest_region(shape: Shape) -> str:
    """The region (of nine) in which the shape's centre lies."""
    return REGIONS[3 * min(2, int(3 * shape.y)) + min(2, int(3 * shape.x))]


def region_box(region: str) -> tuple[float, float, float, float]:
    """Where a centre clearly lies in the region: (x0, y0, x1, y1) as fractions."""
    row, column = divmod(REGIONS.index(region), 3)
    margin = _THIRD_MARGIN
    return column / 3 + margin, row / 3 + margin, (column + 1) / 3 - margin, (row + 1) / 3 - margin


_HALVES = {"left": "x", "right": "x", "top": "y", "bottom": "y"}


def half_of(shape: Shape, axis: str) -> str | None:
    """The half of the picture in which the shape clearly lies; None near the middle."""
    part = shape.x if axis == "x" else shape.y
    if abs(part - 0.5) < _HALF_MARGIN:
        return None
    return ("left" if part < 0.5 else "right") if axis == "x" else ("top" if part < 0.5 else "bottom")


def ask_position(rng: random.Random, scenes: Scenes, lang: Lang, want: str | None) -> Question | None:
    """In which half a shape is: left or right, top or bottom."""
    (scene,) = scenes
    target = want or rng.choice(tuple(_HALVES))
    axis = _HALVES[target]
    found = [shape for shape in unique_looks(scene) if half_of(shape, axis) == target]
    if not found:
        return None
    text = wording(rng, f"position {axis}", lang, _WORDS).format(s=named(rng.choice(found), lang))
    ends = tuple(say(name, lang) for name, its_axis in _HALVES.items() if its_axis == axis)
    return Question("position", lang, scenes, text, say(target, lang), axis, target, ends)


def scene_position(rng: random.Random, want: str | None, setup: Setup) -> Scenes | None:
    """A shape of its own look in the wanted half."""
    num = setup.num(rng)
    looks = random_looks(rng, num)
    while num > 1 and looks[0] in looks[1:]:
        looks[0] = (rng.choice(COLOUR_NAMES), rng.choice(KINDS))
    middle = 0.5 - _HALF_MARGIN
    box = {
        "left": (0.0, 0.0, middle, 1.0),
        "right": (1 - middle, 0.0, 1.0, 1.0),
        "top": (0.0, 0.0, 1.0, middle),
        "bottom": (0.0, 1 - middle, 1.0, 1.0),
    }[want or rng.choice(tuple(_HALVES))]
    return one(place(rng, looks, setup.size(rng), boxes={0: box}))


def ask_region(rng: random.Random, scenes: Scenes, lang: Lang, want: str | None) -> Question | None:
    """In which of nine regions a shape is."""
    (scene,) = scenes
    offers: dict[str, list[Shape]] = {}
    for shape in unique_looks(scene):
        region = region_of(shape)
        if region is not None and want in (None, region):
            offers.setdefault(region, []).append(shape)
    if not offers:
        return None
    region = rng.choice(sorted(offers))
    text = wording(rng, "region", lang, _WORDS).format(s=named(rng.choice(offers[region]), lang))
    return Question("region", lang, scenes, text, say(region, lang), "", region)


def scene_region(rng: random.Random, want: str | None, setup: Setup) -> Scenes | None:
    """A shape of its own look in the wanted region."""
    num = setup.num(rng)
    looks = random_looks(rng, num)
    while num > 1 and looks[0] in looks[1:]:
        looks[0] = (rng.choice(COLOUR_NAMES), rng.choice(KINDS))
    return one(place(rng, looks, setup.size(rng), boxes={0: region_box(want or rng.choice(REGIONS))}))


def ask_at_region(rng: random.Random, scenes: Scenes, lang: Lang, want: str | None) -> Question | None:
    """What is at the top left: the only shape there, all others being clearly elsewhere."""
    (scene,) = scenes
    nearest = Counter(nearest_region(shape) for shape in scene.shapes)
    found = [
        (shape, region)
        for shape in scene.shapes
        if (region := region_of(shape)) is not None and nearest[region] == 1 and want in (None, region)
    ]
    looks = sorted({shape.look for shape in scene.shapes})
    if not found or len(looks) < 2:
        return None
    shape, region = rng.choice(found)
    x0, y0, x1, y1 = region_box(region)
    wide = 2 * _THIRD_MARGIN
    for other in scene.shapes:
        if other is not shape and x0 - wide < other.x < x1 + wide and y0 - wide < other.y < y1 + wide:
            return None
    text = wording(rng, "at_region", lang, _WORDS).format(r=say(region, lang))
    answer = named(shape, lang)
    return Question("at_region", lang, scenes, text, answer, "", answer, tuple(look(*pair, lang) for pair in looks))


def scene_at_region(rng: random.Random, want: str | None, setup: Setup) -> Scenes | None:
    """Shapes of different looks, one of them in the wanted region."""
    num = setup.num(rng, 3 if setup.num_shapes[1] >= 3 else 2)
    looks = rng.sample([(colour, kind) for colour in COLOUR_NAMES for kind in KINDS], num)
    return one(place(rng, looks, setup.size(rng), boxes={0: region_box(want or rng.choice(REGIONS))}))


_DIRECTIONS = {"left": ("x", -1), "right": ("x", 1), "above": ("y", -1), "below": ("y", 1)}
_RELATION_MARGIN = 0.12


def offset(first: Shape, second: Shape, direction: str) -> float:
    """How far `first` lies in the direction of `second`: positive where "first left of second" holds for "left"."""
    axis, sign = _DIRECTIONS[direction]
    return sign * ((first.x - second.x) if axis == "x" else (first.y - second.y))


def ask_relation(rng: random.Random, scenes: Scenes, lang: Lang, want: str | None) -> Question | None:
    """Is one shape left of (right of, above, below) another?"""
    (scene,) = scenes
    shapes = unique_looks(scene)
    target = want or rng.choice(("yes", "no"))
    direction = rng.choice(tuple(_DIRECTIONS))
    pairs = [
        (first, second)
        for first in shapes
        for second in shapes
        if first is not second and (1 if target == "yes" else -1) * offset(first, second, direction) >= _RELATION_MARGIN
    ]
    if not pairs:
        return None
    first, second = rng.choice(pairs)
    text = wording(rng, f"relation {direction}", lang, _WORDS).format(s=named(first, lang), t=named(second, lang))
    answers = (say("yes", lang), say("no", lang))
    return Question("relation", lang, scenes, text, say(target, lang), direction, target, answers)


def scene_relation(rng: random.Random, want: str | None, setup: Setup) -> Scenes | None:
    """At least two shapes, all of different looks."""
    num = setup.num(rng, 2)
    looks = rng.sample([(colour, kind) for colour in COLOUR_NAMES for kind in KINDS], num)
    return one(place(rng, looks, setup.size(rng)))


def ask_comparison(rng: random.Random, scenes: Scenes, lang: Lang, want: str | None) -> Question | None:
    """Which of two named shapes is larger, or smaller; the answer is named first ("A") or second ("B")."""
    (scene,) = scenes
    shapes = unique_looks(scene)
    form = rng.choice(("larger", "smaller"))
    pairs = [(first, second) for first in shapes for second in shapes if is_clearly_larger(first, second)]
    if not pairs:
        return None
    larger, smaller = rng.choice(pairs)
    right, wrong = (larger, smaller) if form == "larger" else (smaller, larger)
    target = want or rng.choice(("A", "B"))
    first, second = (right, wrong) if target == "A" else (wrong, right)
    names = named(first, lang), named(second, lang)
    text = wording(rng, f"comparison {form}", lang, _WORDS).format(s=names[0], t=names[1])
    return Question("comparison", lang, scenes, text, named(right, lang), form, target, names)


def scene_comparison(rng: random.Random, want: str | None, setup: Setup) -> Scenes | None:
    """At least two shapes of different looks."""
    return scene_relation(rng, want, setup)

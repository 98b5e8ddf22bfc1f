"""Places shapes in a picture: no two touch, sizes come from a ladder whose steps anybody can see.

In: which shapes, how big a picture. Out: a `Scene`; None where the shapes found no room.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from training.pocket.scenes.nouns import RGB, Scene, Shape
from training.pocket.scenes.words import COLOUR_NAMES, KINDS

Look = tuple[str, str]  # (colour, kind)
Size = tuple[int, int]  # (width, height) in pixels

# Pixels; every side between 64 and 224.
SIZES: tuple[Size, ...] = (
    (64, 64),
    (80, 80),
    (96, 64),
    (64, 96),
    (96, 96),
    (128, 96),
    (96, 128),
    (128, 128),
    (160, 96),
    (160, 160),
    (192, 128),
    (128, 192),
    (224, 160),
    (224, 224),
)
# 27 % from step to step, and 2 % of jitter: two levels always differ by more than 20 %.
_LEVEL_0, _STEP, NUM_LEVELS = 0.08, 1.27, 5
# Farthest corner of any kind, in radii. Two shapes farther apart than the sum of theirs cannot touch.
REACH = 1.34
# Of each kind at radius 1: a triangle fills less of its extent than a circle does.
AREAS = {"circle": 3.14, "square": 3.10, "triangle": 2.00, "star": 1.97, "diamond": 2.38, "cross": 2.96}
_LARGER_RADIUS, _LARGER_AREA = 1.2, 1.25


def radius_of(rng: random.Random, level: int) -> float:
    """A radius (fraction of the shorter side) on step `level` of the ladder, 0 to NUM_LEVELS - 1."""
    return _LEVEL_0 * _STEP**level * rng.uniform(0.98, 1.02)


def is_clearly_larger(first: Shape, second: Shape) -> bool:
    """Whether anybody would call the first the larger one: 20 % in extent, and 25 % in area."""
    if first.radius < _LARGER_RADIUS * second.radius:
        return False
    return AREAS[first.kind] * first.radius**2 >= _LARGER_AREA * AREAS[second.kind] * second.radius**2


def size_word(shape: Shape) -> str:
    """Say "small", "medium" or "large"; the ladder has no step near the borders."""
    return "small" if shape.radius < 0.114 else "large" if shape.radius > 0.145 else "medium"


def random_levels(rng: random.Random, num_shapes: int, cap: int = NUM_LEVELS - 1) -> list[int]:
    """Steps of the ladder for so many shapes; many shapes are smaller, or they would not fit."""
    highest = min(cap, NUM_LEVELS - 1 if num_shapes <= 4 else NUM_LEVELS - 2)
    return [rng.randint(0, highest) for _ in range(num_shapes)]


def paper(rng: random.Random) -> RGB:
    """A light background, sometimes tinted; every colour of `words.COLOURS` stands out on it."""
    light = rng.randint(226, 255)
    if rng.random() < 0.5:
        return light, light, light
    return tuple(min(255, light + rng.randint(-10, 6)) for _ in range(3))  # type: ignore[return-value]


def place(
    rng: random.Random,
    looks: Sequence[Look],
    size: Size,
    levels: Sequence[int] | None = None,
    boxes: Mapping[int, tuple[float, float, float, float]] | None = None,
) -> Scene | None:
    """Put shapes at random places.

    Args:
        rng: source of all choices.
        looks: colour and kind of each shape.
        size: of the picture, in pixels.
        levels: size step of each shape; None draws them, smaller where room is short.
        boxes: for some indices the (x0, y0, x1, y1) in which the centre has to lie, as fractions.

    Returns:
        A scene, or None where given levels and boxes left no room.
    """
    width, height = size
    short = min(size)
    wide, high = width / short, height / short
    attempts = 6 if levels is None else 4
    for attempt in range(attempts):
        steps = levels if levels is not None else random_levels(rng, len(looks), max(0, NUM_LEVELS - 1 - attempt))
        radii = [radius_of(rng, step) for step in steps]
        centres = _scatter(rng, radii, wide, high, boxes or {})
        if centres is not None:
            shapes = tuple(
                Shape(kind, colour, x / wide, y / high, radius)
                for (colour, kind), (x, y), radius in zip(looks, centres, radii, strict=True)
            )
            return Scene("shapes", width, height, shapes, background=paper(rng), seed=rng.getrandbits(32))
    return None


def _scatter(
    rng: random.Random,
    radii: Sequence[float],
    wide: float,
    high: float,
    boxes: Mapping[int, tuple[float, float, float, float]],
) -> list[tuple[float, float]] | None:
    """Centres in units of the shorter side, for each radius; None where one found no room in 40 tries."""
    centres: dict[int, tuple[float, float]] = {}
    # Those bound to a box first, then the large ones: they have the least choice.
    order = sorted(range(len(radii)), key=lambda index: (index not in boxes, -radii[index]))
    for index in order:
        reach = radii[index] * REACH
        x0, y0, x1, y1 = boxes.get(index, (0.0, 0.0, 1.0, 1.0))
        left, right = max(reach, x0 * wide), min(wide - reach, x1 * wide)
        top, bottom = max(reach, y0 * high), min(high - reach, y1 * high)
        if left > right or top > bottom:
            return None
        for _ in range(40):
            x, y = left + rng.random() * (right - left), top + rng.random() * (bottom - top)
            if all(
                (x - other_x) ** 2 + (y - other_y) ** 2 > (reach + radii[other] * REACH + 0.015) ** 2
                for other, (other_x, other_y) in centres.items()
            ):
                centres[index] = (x, y)
                break
        else:
            return None
    return [centres[index] for index in range(len(radii))]


def place_in_rows(
    rng: random.Random, looks: Sequence[Look], size: Size, levels: Sequence[int], num_columns: int
) -> Scene | None:
    """Put shapes on a loose grid, row by row, so that "left of" and "above" have one meaning.

    Args:
        rng: source of all choices.
        looks: colour and kind of each shape, row by row.
        size: of the picture, in pixels.
        levels: size step of each shape.
        num_columns: shapes per row.

    Returns:
        A scene, or None where neighbours would touch.
    """
    width, height = size
    short = min(size)
    wide, high = width / short, height / short
    num_rows = -(-len(looks) // num_columns)
    radii = [radius_of(rng, level) for level in levels]
    centres: list[tuple[float, float]] = []
    for index, radius in enumerate(radii):
        row, column = divmod(index, num_columns)
        x = (column + 0.5 + rng.uniform(-0.06, 0.06)) * wide / num_columns
        y = (row + 0.5 + rng.uniform(-0.06, 0.06)) * high / num_rows
        reach = radius * REACH
        if not (reach <= x <= wide - reach and reach <= y <= high - reach):
            return None
        if any(
            (x - a) ** 2 + (y - b) ** 2 <= (reach + r * REACH) ** 2 for (a, b), r in zip(centres, radii, strict=False)
        ):
            return None
        centres.append((x, y))
    shapes = tuple(
        Shape(kind, colour, x / wide, y / high, radius)
        for (colour, kind), (x, y), radius in zip(looks, centres, radii, strict=True)
    )
    return Scene("shapes", width, height, shapes, background=paper(rng), seed=rng.getrandbits(32))


def random_looks(rng: random.Random, num_shapes: int) -> list[Look]:
    """Colours and kinds; some pictures draw on a few of them only, so that things repeat."""
    colours = rng.sample(COLOUR_NAMES, rng.choice((1, 2, 2, 3, 3, 4, 8)))
    kinds = rng.sample(KINDS, rng.choice((1, 2, 2, 3, 3, 4, 6)))
    return [(rng.choice(colours), rng.choice(kinds)) for _ in range(num_shapes)]

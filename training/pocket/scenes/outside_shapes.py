"""Pictures as scenes are drawn, of shapes with other names and in other colours than the models know.

In: a size and a source of choices. Out: an RGB picture. No octagon: seen as small as the models see it, it is a circle.
"""

from __future__ import annotations

import math
import random
from typing import Final

from PIL import Image, ImageDraw

Size = tuple[int, int]

OTHER_COLOURS: Final[dict[str, tuple[int, int, int]]] = {
    "brown": (120, 72, 34),
    "grey": (128, 128, 130),
    "turquoise": (60, 205, 200),
    "olive": (118, 122, 40),
    "beige": (214, 190, 150),
    "teal": (10, 110, 115),
}
_KNOWN_COLOURS = (
    (222, 36, 36),
    (246, 140, 20),
    (240, 214, 30),
    (36, 156, 60),
    (36, 84, 222),
    (136, 46, 170),
    (28, 28, 30),
)


def _regular(corners: int, turn: float, wide: float = 1.0) -> list[tuple[float, float]]:
    step = math.tau / corners
    return [(wide * math.cos(turn + step * at), math.sin(turn + step * at)) for at in range(corners)]


def _heart() -> list[tuple[float, float]]:
    angles = [math.tau * at / 40 for at in range(40)]
    return [
        (
            math.sin(a) ** 3 * 1.05,
            -(13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a) - math.cos(4 * a)) / 15,
        )
        for a in angles
    ]


_OTHER_SHAPES: Final[dict[str, list[tuple[float, float]]]] = {
    "hexagon": _regular(6, 0),
    "pentagon": _regular(5, -math.pi / 2),
    "heart": _heart(),
    "oval": _regular(40, 0, 1.9),
    "arrow": [(-1.2, -0.3), (0.1, -0.3), (0.1, -0.9), (1.2, 0), (0.1, 0.9), (0.1, 0.3), (-1.2, 0.3)],
    "rectangle": [(-1.4, -0.5), (1.4, -0.5), (1.4, 0.5), (-1.4, 0.5)],
    "trapezoid": [(-0.6, -0.7), (0.6, -0.7), (1.2, 0.7), (-1.2, 0.7)],
    "parallelogram": [(-0.7, -0.6), (1.3, -0.6), (0.7, 0.6), (-1.3, 0.6)],
    "moon": [(math.cos(1 + 4.28 * at / 20), math.sin(1 + 4.28 * at / 20)) for at in range(21)]
    + [(0.45 + 0.75 * math.cos(5.28 - 4.28 * at / 20), 0.75 * math.sin(5.28 - 4.28 * at / 20)) for at in range(21)],
}
_KNOWN_SHAPES: Final[list[list[tuple[float, float]]]] = [
    _regular(40, 0),
    _regular(4, math.pi / 4),
    _regular(3, -math.pi / 2),
    _regular(4, 0),
]


def other_shapes(rng: random.Random, size: Size) -> Image.Image:
    """Shapes as in a scene, each with a name or a colour that no question knows."""
    has_other_colours = rng.random() < 0.5
    paper = rng.randint(226, 255)
    image = Image.new("RGB", (2 * size[0], 2 * size[1]), (paper, paper, paper))
    draw = ImageDraw.Draw(image)
    columns = rng.choice((1, 1, 2, 2, 3))
    rows = rng.choice((1, 1, 2))
    is_same = rng.random() < 0.4
    colours = list(OTHER_COLOURS.values()) if has_other_colours else list(_KNOWN_COLOURS)
    outlines = _KNOWN_SHAPES + list(_OTHER_SHAPES.values()) if has_other_colours else list(_OTHER_SHAPES.values())
    chosen = rng.choice(outlines), rng.choice(colours)
    for row in range(rows):
        for column in range(columns):
            outline, colour = chosen if is_same else (rng.choice(outlines), rng.choice(colours))
            radius = min(2 * size[0] / columns, 2 * size[1] / rows) * rng.uniform(0.2, 0.33)
            x = 2 * size[0] * (column + rng.uniform(0.45, 0.55)) / columns
            y = 2 * size[1] * (row + rng.uniform(0.45, 0.55)) / rows
            fill = tuple(min(255, max(0, part + rng.randint(-10, 10))) for part in colour)
            draw.polygon([(x + radius * dx, y + radius * dy) for dx, dy in outline], fill=fill)
    return image.reduce(2)

"""Draws scenes: the same scene gives the same pixels.

In: a `Scene`. Out: an RGB picture of its size; `dense_targets` says where everything in it is.
"""

from __future__ import annotations

import io
import math
import random
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from training.pocket import SHIPPED
from training.pocket.scenes.nouns import RGB, Bar, Glyph, Scene, Shape, TextLine
from training.pocket.scenes.outside_pictures import draw_outside
from training.pocket.scenes.words import COLOURS

FONT_FILE = SHIPPED / "fonts" / "GlowlPocketSans.otf"
# Shapes are drawn twice as large and halved, for smooth edges; text is smooth by itself.
_OVERSAMPLING = 2


@dataclass(frozen=True, slots=True)
class DenseTargets:
    """Where everything in a picture is: what a vision tower can be taught before any question is asked.

    Args:
        shapes: with absolute positions, as in the scene.
        glyphs: printed characters with their boxes.
        bars: a chart's bars with their boxes.
    """

    shapes: tuple[Shape, ...]
    glyphs: tuple[Glyph, ...]
    bars: tuple[Bar, ...]


def _polygon(corners: int, radius: float, start: float, inner: float = 0.0) -> tuple[tuple[float, float], ...]:
    """Corners around the origin; `inner` adds a second radius between them (a star)."""
    points = []
    step = math.tau / corners
    for index in range(corners):
        angle = start + index * step
        points.append((radius * math.cos(angle), radius * math.sin(angle)))
        if inner:
            points.append((inner * math.cos(angle + step / 2), inner * math.sin(angle + step / 2)))
    return tuple(points)


_ARM = 0.36
# In radii; none reaches farther than `layout.REACH`. Their areas are in `layout.AREAS`.
_OUTLINES: dict[str, tuple[tuple[float, float], ...]] = {
    "square": ((-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)),
    "triangle": tuple((x, y + 0.18) for x, y in _polygon(3, 1.24, -math.pi / 2)),
    "star": tuple((x, y + 0.05) for x, y in _polygon(5, 1.24, -math.pi / 2, inner=0.54)),
    "diamond": ((0, -1.25), (0.95, 0), (0, 1.25), (-0.95, 0)),
    "cross": tuple(
        (1.12 * x, 1.12 * y)
        for x, y in (
            (-_ARM, -1), (_ARM, -1), (_ARM, -_ARM), (1, -_ARM), (1, _ARM), (_ARM, _ARM),
            (_ARM, 1), (-_ARM, 1), (-_ARM, _ARM), (-1, _ARM), (-1, -_ARM), (-_ARM, -_ARM),
        )
    ),
}  # fmt: skip


def render(scene: Scene) -> Image.Image:
    """Draw the scene.

    Returns:
        An RGB picture of `scene.width` x `scene.height` pixels.
    """
    family = scene.value("family")
    if family is not None:
        return draw_outside(family, (scene.width, scene.height), scene.seed)
    rng = random.Random(scene.seed)  # noqa: S311 (tints, not secrets)
    scale = _OVERSAMPLING if scene.shapes else 1
    image = Image.new("RGB", (scene.width * scale, scene.height * scale), scene.background)
    draw = ImageDraw.Draw(image)
    if scene.shapes:
        _draw_shapes(draw, scene, scale, rng)
        image = image.reduce(scale)
        draw = ImageDraw.Draw(image)
    for height in scene.axis:
        y = round(height * scene.height)
        draw.line((scene.bars[0].x0 * scene.width - 3, y, scene.width - 2, y), fill=(196, 196, 200))
    for bar in scene.bars:
        # A value of one may be less than a pixel high in a small picture.
        bottom = max(bar.y0, bar.y1 - 1 / scene.height)
        box = (bar.x0 * scene.width, bar.y0 * scene.height, bar.x1 * scene.width - 1, bottom * scene.height)
        draw.rectangle(tuple(round(edge) for edge in box), fill=_tint(COLOURS[bar.colour], rng))
    for line in scene.lines:
        _draw_line(draw, scene, line)
    return _photograph(image, scene)


def _photograph(image: Image.Image, scene: Scene) -> Image.Image:
    """The picture with its grain, and with what saving it as JPEG loses."""
    if scene.grain:
        noise = np.random.default_rng(scene.seed).normal(0, scene.grain, (*image.size[::-1], 3))
        pixels = np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)
        image = Image.fromarray(pixels)
    if scene.jpeg:
        saved = io.BytesIO()
        image.save(saved, "JPEG", quality=scene.jpeg)
        image = Image.open(saved).convert("RGB")
    return image


def _draw_shapes(draw: ImageDraw.ImageDraw, scene: Scene, scale: int, rng: random.Random) -> None:
    short = min(scene.width, scene.height) * scale
    has_outline = rng.random() < 0.35
    for shape in scene.shapes:
        fill = _tint(COLOURS[shape.colour], rng)
        outline = tuple(round(0.65 * part) for part in fill) if has_outline else None
        width = scale if has_outline else 0
        if scene.is_hollow:
            # Thick enough to have pixels left where the models see the picture, and hollow still.
            width = max(scale, round(0.3 * shape.radius * short))
            fill, outline = scene.background, fill
        x, y, radius = shape.x * scene.width * scale, shape.y * scene.height * scale, shape.radius * short
        if shape.kind == "circle":
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill, outline=outline, width=width)
        else:
            cos, sin = radius * math.cos(shape.turn), radius * math.sin(shape.turn)
            points = [(x + cos * dx - sin * dy, y + sin * dx + cos * dy) for dx, dy in _OUTLINES[shape.kind]]
            draw.polygon(points, fill=fill, outline=outline, width=width)


def _tint(colour: RGB, rng: random.Random) -> RGB:
    """The colour as one printer or another would have it."""
    red, green, blue = (min(255, max(0, part + rng.randint(-12, 12))) for part in colour)
    return red, green, blue


@cache
def font(size_px: int) -> ImageFont.FreeTypeFont:
    """The font that ships with the pocket scenes, at one size.

    Raises:
        OSError: the font's file is missing.
    """
    return ImageFont.truetype(FONT_FILE, size_px, layout_engine=ImageFont.Layout.BASIC)


def text_width_px(text: str, size_px: int) -> float:
    """How far the text runs, in pixels."""
    return font(size_px).getlength(text)


def _font_px(scene: Scene, line: TextLine) -> int:
    return max(6, round(line.size * scene.height))


def _draw_line(draw: ImageDraw.ImageDraw, scene: Scene, line: TextLine) -> None:
    size_px = _font_px(scene, line)
    x, y = line.x * scene.width, line.y * scene.height
    # Anchored at the middle of the line's height: digits and Chinese characters then share one box.
    draw.text((x, y + size_px / 2), line.text, fill=line.rgb, font=font(size_px), anchor="lm")
    if line.is_struck:
        middle = round(y + size_px / 2)
        right = x + text_width_px(line.text, size_px)
        draw.line((x - 1, middle, right, middle), fill=line.rgb, width=max(1, size_px // 16))


def dense_targets(scene: Scene) -> DenseTargets:
    """Where shapes, characters and bars are, as fractions of the picture's sides."""
    glyphs = []
    for line in scene.lines:
        size_px = _font_px(scene, line)
        x = line.x * scene.width
        for char in line.text:
            right = x + text_width_px(char, size_px)
            if char != " ":
                glyphs.append(
                    Glyph(char, x / scene.width, line.y, right / scene.width, line.y + size_px / scene.height)
                )
            x = right
    return DenseTargets(scene.shapes, tuple(glyphs), scene.bars)

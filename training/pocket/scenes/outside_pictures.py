"""Pictures that the pocket models know nothing of: textures, made-up photographs, blank pages, other shapes.

In: a family's name, a size and a seed. Out: an RGB picture, the same one every time. Nothing here is a photograph:
all is drawn from noise. `FAMILIES` are drawn in training; `UNSEEN` only in an evaluation, so that it can tell whether
what is strange is known by its strangeness or by heart.
"""

from __future__ import annotations

import io
import math
import random
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from training.pocket.scenes.outside_shapes import other_shapes

Pixels = npt.NDArray[Any]
Size = tuple[int, int]
Painter = Callable[[random.Random, Size], Image.Image]


def _colour(rng: random.Random, low: int = 0, high: int = 255) -> tuple[int, int, int]:
    return rng.randint(low, high), rng.randint(low, high), rng.randint(low, high)


def _tone(rng: random.Random) -> tuple[int, int, int]:
    """A muted colour, as most of a photograph has."""
    grey = rng.randint(20, 225)
    red, green, blue = (min(255, max(0, grey + rng.randint(-45, 45))) for _ in range(3))
    return red, green, blue


def _smooth(rng: random.Random, size: Size, cells: float, channels: int = 1) -> Pixels:
    """(height, width, channels) between 0 and 1: noise with about so many hills along the shorter side."""
    width, height = size
    short = min(size)
    shape = (max(2, round(cells * height / short)), max(2, round(cells * width / short)), channels)
    grid = np.random.default_rng(rng.getrandbits(32)).random(shape, np.float32)
    layers = [
        np.asarray(Image.fromarray(grid[..., layer]).resize(size, Image.Resampling.BICUBIC))
        for layer in range(channels)
    ]
    return np.clip(np.stack(layers, axis=-1), 0, 1)


def _fractal(rng: random.Random, size: Size, first: float = 2.0, octaves: int = 5, fade: float = 0.55) -> Pixels:
    """(height, width) between 0 and 1: hills on hills, as clouds and stone have."""
    total = np.zeros((size[1], size[0]), np.float32)
    for octave in range(octaves):
        total += fade**octave * _smooth(rng, size, first * 2**octave)[..., 0]
    total -= total.min()
    return total / max(1e-6, float(total.max()))


def _mapped(values: Pixels, colours: list[tuple[int, int, int]]) -> Image.Image:
    """A picture of (height, width) values between 0 and 1, by a row of colours."""
    places = np.linspace(0, 1, len(colours))
    table = np.array(colours, np.float32)
    layers = [np.interp(values, places, table[:, layer]) for layer in range(3)]
    return Image.fromarray(np.stack(layers, axis=-1).astype(np.uint8))


def _blank(rng: random.Random, size: Size) -> Image.Image:
    light = rng.randint(200, 255)
    colour = rng.choice(((255, 255, 255), (light, light, light), (0, 0, 0), _colour(rng), _colour(rng)))
    return Image.new("RGB", size, colour)


def _gradient(rng: random.Random, size: Size) -> Image.Image:
    width, height = size
    x, y = np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height))
    angle = rng.uniform(0, math.tau)
    if rng.random() < 0.6:
        values = 0.5 + 0.35 * (x * math.cos(angle) + y * math.sin(angle))
    else:
        values = np.hypot(x - rng.uniform(-0.6, 0.6), y - rng.uniform(-0.6, 0.6)) / 1.8
    return _mapped(np.clip(values, 0, 1), [_colour(rng) for _ in range(rng.choice((2, 2, 3, 4)))])


def _noise(rng: random.Random, size: Size) -> Image.Image:
    coarse = rng.choice((1, 1, 2, 4, 8, 12))
    small = (max(2, size[0] // coarse), max(2, size[1] // coarse))
    channels = rng.choice((1, 3, 3))
    pixels = np.random.default_rng(rng.getrandbits(32)).normal(
        rng.uniform(60, 200), rng.uniform(20, 90), (small[1], small[0], channels)
    )
    pixels = np.clip(np.repeat(pixels, 3 // channels, axis=2), 0, 255).astype(np.uint8)
    return Image.fromarray(pixels).resize(size, rng.choice((Image.Resampling.NEAREST, Image.Resampling.BILINEAR)))


def _clouds(rng: random.Random, size: Size) -> Image.Image:
    values = _fractal(rng, size, rng.uniform(1, 6), fade=rng.uniform(0.4, 0.8))
    return _mapped(values, [rng.choice((_tone, _tone, _colour))(rng) for _ in range(rng.choice((2, 3, 5)))])


def _waves(rng: random.Random, size: Size) -> Image.Image:
    x, y = np.meshgrid(np.linspace(0, 1, size[0]), np.linspace(0, 1, size[1]))
    values = np.zeros_like(x)
    for _ in range(rng.randint(1, 3)):
        angle, waves = rng.uniform(0, math.tau), rng.uniform(3, 30)
        bend = rng.choice((0.0, 0.0, 0.3)) * np.sin(rng.uniform(3, 12) * y)
        values += np.sin(waves * (x * math.cos(angle) + y * math.sin(angle)) * math.tau / 2 + 6 * bend)
    if rng.random() < 0.4:
        values = np.sign(values)
    values = (values - values.min()) / max(1e-6, float(np.ptp(values)))
    return _mapped(values, [_colour(rng) for _ in range(rng.choice((2, 2, 3)))])


def _tiles(rng: random.Random, size: Size) -> Image.Image:
    """A board, bricks, or a floor."""
    image = Image.new("RGB", size, _tone(rng))
    draw = ImageDraw.Draw(image)
    high = rng.randint(6, max(8, min(size) // 3))
    wide = high * rng.choice((1, 1, 2, 3))
    gap = rng.choice((0, 1, 2))
    colours = [rng.choice((_tone, _colour))(rng) for _ in range(rng.choice((2, 2, 4)))]
    for row in range(size[1] // high + 1):
        shift = rng.choice((0, wide // 2)) if row % 2 else 0
        for column in range(-1, size[0] // wide + 1):
            x, y = column * wide + shift, row * high
            fill = colours[(row + column) % len(colours)] if rng.random() < 0.9 else _tone(rng)
            draw.rectangle((x + gap, y + gap, x + wide - 1, y + high - 1), fill=fill)
    return image


def _patches(rng: random.Random, size: Size) -> Image.Image:
    """Things of all sizes in front of each other: what most photographs are, seen from afar."""
    image = _mapped(_fractal(rng, size), [_tone(rng), _tone(rng)])
    width, height = size
    for _ in range(rng.randint(12, 60)):
        radius = min(size) * 0.5 * rng.random() ** 2.5 + 2
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        corners = rng.randint(3, 9)
        turn = rng.uniform(0, math.tau)
        points = []
        for corner in range(corners):
            angle = turn + math.tau * corner / corners
            reach = radius * rng.uniform(0.5, 1.2)
            points.append((x + reach * math.cos(angle), y + 0.7 * reach * math.sin(angle)))
        mask = Image.new("L", size, 0)
        ImageDraw.Draw(mask).polygon(points, fill=255)
        if rng.random() < 0.3:
            image.paste(_tone(rng), mask=mask)
        else:
            cut = Image.new("RGB", size, _tone(rng))
            image.paste(Image.blend(cut, image.transpose(Image.Transpose.ROTATE_180), 0.3), mask=mask)
    return image


def _landscape(rng: random.Random, size: Size) -> Image.Image:
    width, height = size
    sky = [_colour(rng, 90, 255) for _ in range(2)]
    pixels = np.asarray(_mapped(np.repeat(np.linspace(0, 1, height)[:, None], width, 1), sky)).copy()
    if rng.random() < 0.6:
        veil = _fractal(rng, size, 2)[..., None] ** 2
        pixels = (pixels * (1 - 0.7 * veil) + 245 * 0.7 * veil).astype(np.uint8)
    horizon = rng.uniform(0.25, 0.6)
    for layer in range(rng.randint(1, 4)):
        ridge = horizon + 0.13 * layer + rng.uniform(0.05, 0.3) * (_fractal(rng, (width, 8), 2, 4)[0] - 0.5)
        rows = np.arange(height)[:, None] / height
        ground = np.asarray(_mapped(_fractal(rng, size, rng.uniform(3, 12)), [_tone(rng), _tone(rng)]))
        pixels = np.where((rows > ridge[None, :])[..., None], ground, pixels)
    return Image.fromarray(pixels.astype(np.uint8))


def _building(rng: random.Random, size: Size) -> Image.Image:
    """Houses or a temple: walls, rows of windows or pillars, a roof."""
    image = _landscape(rng, size)
    draw = ImageDraw.Draw(image)
    width, height = size
    for _ in range(rng.randint(1, 4)):
        wide, high = rng.uniform(0.2, 0.8) * width, rng.uniform(0.3, 0.75) * height
        x, y = rng.uniform(-0.1, 0.9) * width, height * rng.uniform(0.85, 1.0) - high
        draw.rectangle((x, y, x + wide, height), fill=_tone(rng))
        columns, rows = rng.randint(2, 8), rng.randint(1, 7)
        pane = _tone(rng)
        fill = rng.uniform(0.3, 0.7)
        for column in range(columns):
            for row in range(rows):
                left, top = x + (column + 0.2) * wide / columns, y + (row + 0.2) * high / rows
                draw.rectangle((left, top, left + fill * wide / columns, top + fill * high / rows), fill=pane)
        if rng.random() < 0.6:
            roof = y - rng.uniform(0.05, 0.3) * height
            lean = rng.uniform(0, 0.2) * wide
            draw.polygon(
                ((x - lean, y), (x + wide / 2 - lean, roof), (x + wide / 2 + lean, roof), (x + wide + lean, y)),
                fill=_tone(rng),
            )
    return image


def _marble(rng: random.Random, size: Size) -> Image.Image:
    x, y = np.meshgrid(np.linspace(-1, 1, size[0]), np.linspace(-1, 1, size[1]))
    angle = rng.uniform(0, math.tau)
    base = np.hypot(x, y) if rng.random() < 0.4 else x * math.cos(angle) + y * math.sin(angle)
    values = 0.5 + 0.5 * np.sin(rng.uniform(4, 25) * base + rng.uniform(2, 14) * _fractal(rng, size, 2))
    return _mapped(values, [_tone(rng), _tone(rng), _tone(rng)])


def _strokes(rng: random.Random, size: Size) -> Image.Image:
    """A sketch, a scribble, a signature, grass."""
    image = rng.choice((_blank, _clouds))(rng, size)
    draw = ImageDraw.Draw(image)
    colours = [_colour(rng) for _ in range(rng.choice((1, 1, 3)))]
    for _ in range(rng.randint(2, 60)):
        x, y, angle = rng.uniform(0, size[0]), rng.uniform(0, size[1]), rng.uniform(0, math.tau)
        points = [(x, y)]
        for _ in range(rng.randint(2, 14)):
            angle += rng.gauss(0, 0.6)
            x, y = x + 6 * math.cos(angle), y + 6 * math.sin(angle)
            points.append((x, y))
        draw.line(points, fill=rng.choice(colours), width=rng.choice((1, 1, 2, 3, 5)))
    return image


def _portrait(rng: random.Random, size: Size) -> Image.Image:
    """Somebody, or an animal: a head on shoulders before something out of focus."""
    image = _patches(rng, size).filter(ImageFilter.GaussianBlur(rng.uniform(3, 8)))
    draw = ImageDraw.Draw(image)
    width, height = size
    x, y, radius = width * rng.uniform(0.3, 0.7), height * rng.uniform(0.3, 0.5), min(size) * rng.uniform(0.14, 0.32)
    skin = (rng.randint(90, 240), rng.randint(60, 190), rng.randint(40, 160))
    draw.ellipse((x - 2 * radius, y + radius, x + 2 * radius, y + 5 * radius), fill=_tone(rng))
    draw.ellipse((x - 1.15 * radius, y - 1.5 * radius, x + 1.15 * radius, y + radius), fill=_tone(rng))
    draw.ellipse((x - 0.9 * radius, y - 1.15 * radius, x + 0.9 * radius, y + 1.2 * radius), fill=skin)
    for side in (-1, 1):
        eye = x + side * 0.38 * radius
        draw.ellipse((eye - 0.13 * radius, y - 0.2 * radius, eye + 0.13 * radius, y), fill=_tone(rng))
    draw.line((x - 0.3 * radius, y + 0.6 * radius, x + 0.3 * radius, y + 0.6 * radius), fill=_tone(rng), width=2)
    return image


def _page(rng: random.Random, size: Size) -> Image.Image:
    """A page or a screen with lines of print too small to read."""
    paper = rng.randint(215, 255) if rng.random() < 0.8 else rng.randint(10, 50)
    image = Image.new("RGB", size, (paper, paper, paper))
    draw = ImageDraw.Draw(image)
    ink = (255 - paper // 2,) * 3 if paper < 128 else (rng.randint(0, 110),) * 3
    high = rng.randint(2, 6)
    y = float(high)
    while y < size[1] - high:
        x, end = 0.06 * size[0], size[0] * (0.94 if rng.random() < 0.8 else rng.uniform(0.3, 0.9))
        while x < end and rng.random() < 0.95:
            word = rng.uniform(1, 7) * high
            draw.rectangle((x, y, min(end, x + word), y + high - 1), fill=ink)
            x += word + high
        y += rng.choice((2, 2, 2, 4)) * high
    return image


def _plant(rng: random.Random, size: Size) -> Image.Image:
    image = _clouds(rng, size)
    draw = ImageDraw.Draw(image)
    x, y = size[0] * rng.uniform(0.3, 0.7), size[1] * rng.uniform(0.3, 0.7)
    leaves = rng.randint(5, 26)
    long = min(size) * rng.uniform(0.2, 0.5)
    colours = [_tone(rng), _colour(rng)]
    for leaf in range(leaves):
        angle = math.tau * leaf / leaves + rng.uniform(-0.2, 0.2)
        width = rng.uniform(0.08, 0.35)
        points = [
            (x + long * part * math.cos(angle + bend), y + long * part * math.sin(angle + bend))
            for part, bend in ((0.05, 0), (0.5, width), (1, 0), (0.5, -width))
        ]
        draw.polygon(points, fill=rng.choice(colours), outline=colours[0])
    return image


def _cells(rng: random.Random, size: Size) -> Image.Image:
    """A mosaic of the nearest of many points."""
    num = rng.randint(6, 60)
    points = np.array([(rng.uniform(0, size[0]), rng.uniform(0, size[1])) for _ in range(num)])
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    nearest = np.hypot(x[..., None] - points[:, 0], y[..., None] - points[:, 1]).argmin(axis=-1)
    return Image.fromarray(np.array([_tone(rng) for _ in range(num)], np.uint8)[nearest])


def _night(rng: random.Random, size: Size) -> Image.Image:
    """Lights in the dark, blurred."""
    image = Image.new("RGB", size, _colour(rng, 0, 40))
    draw = ImageDraw.Draw(image)
    for _ in range(rng.randint(15, 90)):
        x, y, radius = rng.uniform(0, size[0]), rng.uniform(0, size[1]), rng.uniform(0.5, 3)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_colour(rng, 120, 255))
    return image.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 2.5)))


_PAINTERS: Final[dict[str, Painter]] = {
    "blank": _blank,
    "gradient": _gradient,
    "noise": _noise,
    "clouds": _clouds,
    "waves": _waves,
    "tiles": _tiles,
    "patches": _patches,
    "landscape": _landscape,
    "building": _building,
    "strokes": _strokes,
    "portrait": _portrait,
    "page": _page,
    "plant": _plant,
    "other_shapes": other_shapes,
    "marble": _marble,
    "cells": _cells,
    "night": _night,
}
UNSEEN: Final = ("marble", "cells", "night")
FAMILIES: Final = tuple(name for name in _PAINTERS if name not in UNSEEN)
# As in a scene: sharp, on even paper, as these have to be known by what is drawn.
_PLAIN: Final = ("blank", "other_shapes")


def draw_outside(family: str, size: Size, seed: int) -> Image.Image:
    """Draw a picture.

    Args:
        family: one of `FAMILIES` or `UNSEEN`.
        size: (width, height) in pixels.
        seed: decides everything else.

    Raises:
        KeyError: no such family.
    """
    rng = random.Random(seed)  # noqa: S311 - not for secrets
    paint = _PAINTERS[family]
    if family in _PLAIN:
        return paint(rng, size)
    if rng.random() < 0.25:  # a crop: larger than it is seen
        zoom = rng.uniform(1.3, 2.5)
        image = paint(rng, (round(zoom * size[0]), round(zoom * size[1])))
        left, top = rng.randint(0, image.width - size[0]), rng.randint(0, image.height - size[1])
        image = image.crop((left, top, left + size[0], top + size[1]))
    else:
        image = paint(rng, size)
    return _as_photograph(rng, image)


def _as_photograph(rng: random.Random, image: Image.Image) -> Image.Image:
    """What a camera does: light, blur, grain, JPEG."""
    size = image.size
    if rng.random() < 0.4:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 2.5)))
    pixels = np.asarray(image).astype(np.float32)
    if rng.random() < 0.5:
        pixels *= 0.5 + _smooth(rng, size, rng.uniform(1, 3))
    if rng.random() < 0.5:
        pixels += np.random.default_rng(rng.getrandbits(32)).normal(0, rng.uniform(2, 18), pixels.shape)
    if rng.random() < 0.12:
        pixels = np.repeat(pixels.mean(axis=2, keepdims=True), 3, axis=2)
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    if rng.random() < 0.5:
        saved = io.BytesIO()
        image.save(saved, "JPEG", quality=rng.randint(30, 95))
        image = Image.open(saved).convert("RGB")
    return image

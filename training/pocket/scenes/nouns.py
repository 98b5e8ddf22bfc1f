"""The nouns of pocket scenes: what is in a picture, and what was asked about it.

In: nothing. Out: frozen types that drawing, questions, training and evaluation share. All lengths are fractions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Lang = Literal["zh", "en"]
SceneKind = Literal["shapes", "poster", "chart", "receipt", "outside"]
RGB = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Shape:
    """One coloured shape.

    Args:
        kind: one of `words.KINDS`.
        colour: one of `words.COLOURS`.
        x: centre, as a fraction of the picture's width.
        y: centre, as a fraction of the picture's height.
        radius: as a fraction of the picture's shorter side; kinds are drawn so that equal radii look about equally big.
        turn: by how much the shape is turned, in radians, clockwise.
    """

    kind: str
    colour: str
    x: float
    y: float
    radius: float
    turn: float = 0.0

    @property
    def look(self) -> tuple[str, str]:
        """(colour, kind): what a question calls the shape by."""
        return self.colour, self.kind


@dataclass(frozen=True, slots=True)
class TextLine:
    """One printed run of characters.

    Args:
        text: the characters.
        x: left end, as a fraction of the picture's width.
        y: top of the line, as a fraction of the picture's height.
        size: height of the line, as a fraction of the picture's height.
        rgb: colour of the ink.
        is_struck: drawn with a line through it.
    """

    text: str
    x: float
    y: float
    size: float
    rgb: RGB
    is_struck: bool = False


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of a chart; the box is given as fractions of the picture's width and height."""

    label: str
    value: int
    colour: str
    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True, slots=True)
class Glyph:
    """One printed character and its box, as fractions of the picture's width and height."""

    char: str
    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything a picture shows; `drawing.render` turns it into pixels, the same ones every time.

    Args:
        kind: what sort of picture.
        width: in pixels.
        height: in pixels.
        shapes: coloured shapes, in no particular order.
        lines: printed text of posters, charts and receipts.
        bars: bars of a chart, from left to right.
        background: colour of the paper.
        seed: decides the small things nobody asks about: tints, outlines, brightness, grain.
        values: what posters and receipts say, such as ("price_current", "299").
        axis: heights of a chart's grid lines, as fractions of the picture's height; empty where values are printed.
        is_hollow: shapes are drawn as thick outlines.
        grain: standard deviation of a camera's noise, in levels of 256; 0 for none.
        jpeg: quality at which the picture was once saved; 0 if it never was.
    """

    kind: SceneKind
    width: int
    height: int
    shapes: tuple[Shape, ...] = ()
    lines: tuple[TextLine, ...] = ()
    bars: tuple[Bar, ...] = ()
    background: RGB = (250, 250, 250)
    seed: int = 0
    values: tuple[tuple[str, str], ...] = ()
    axis: tuple[float, ...] = ()
    is_hollow: bool = False
    grain: int = 0
    jpeg: int = 0

    def value(self, name: str) -> str | None:
        """What the picture says under `name`, or None where it does not say it."""
        return next((text for key, text in self.values if key == name), None)


@dataclass(frozen=True, slots=True)
class Question:
    """One question with its exact answer, and what somebody who did not think could have said.

    Args:
        type: one of `TYPES`.
        lang: language of text and answer.
        images: the pictures, in the order in which the question counts them.
        text: what is asked.
        answer: the one right answer.
        form: what the type leaves open, such as "larger" or "smaller"; no wording.
        answer_class: the answer with the named things abstracted away ("A" or "B" where the question names two).
        candidates: answers that a glance at the pictures would offer (visible colours, named shapes), all different.
        guesses: what a shortcut would answer, by the shortcut's name.
    """

    type: str
    lang: Lang
    images: tuple[Scene, ...]
    text: str
    answer: str
    form: str = ""
    answer_class: str = ""
    candidates: tuple[str, ...] = ()
    guesses: tuple[tuple[str, str], ...] = ()

    @property
    def num_images(self) -> int:
        """How many pictures belong to the question."""
        return len(self.images)


@dataclass(frozen=True, slots=True)
class TypeInfo:
    """What is known of a question type before any picture is drawn.

    Args:
        name: the type's name.
        engines: which pocket models are trained and judged on it.
        langs: languages in which each of these engines is asked.
        num_images: how many pictures a question has.
        scene_kind: the pictures' kind; None for text turns.
        bars: share of right answers to reach, by engine; empty where nothing is judged (training only).
        is_must: the bars decide, instead of being an aim.
        chance: what guessing amounts to, in words.
        held_out: never in training.
        is_long: too long to be packed with others.
        is_honest: the one answer is that the models do not know.
    """

    name: str
    engines: tuple[str, ...]
    langs: Mapping[str, tuple[Lang, ...]]
    num_images: int
    scene_kind: SceneKind | None
    bars: Mapping[str, float]
    is_must: bool
    chance: str
    held_out: bool = False
    is_long: bool = False
    is_honest: bool = False

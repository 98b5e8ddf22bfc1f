"""Places in pictures that an answer names: coordinates between box marks, made into pixels of the pictures sent.

In: the text between two marks, what was said before it, and the pictures' sizes. Out: `Box`es. Pure; the client does
the same with another server's text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Final

from engines.base import Box, InvalidImageError

BOX_START: Final = "<|begin_of_box|>"
BOX_END: Final = "<|end_of_box|>"
SCALE: Final = 1000.0
"""Coordinates are thousandths of the width and of the height."""

_MAX_CHARS: Final = 20_000
_NUMBER = r"[-+]?\d{1,6}(?:\.\d{1,6})?"
# Four numbers, no more and no fewer, directly inside brackets; the model is free in its choice of brackets.
_FOUR = re.compile(rf"([\[({{<])\s*({_NUMBER}(?:\s*,\s*{_NUMBER}){{3}})\s*([\])}}>])")
_PAIRS: Final = {"[": "]", "(": ")", "{": "}", "<": ">"}
_SPACED = re.compile(rf"(?<=\d)\s+(?={_NUMBER})")
_ASCII = str.maketrans(
    {"【": "[", "】": "]", "〔": "[", "〕": "]", "、": ",", ";": ",", "，": ",", "；": ",", "−": "-"}
)

_ORDINALS: Final = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_HAN_DIGITS: Final = "一二三四五六七八九十"
_MENTION = re.compile(
    rf"(?:image|picture|photo|figure)s?\s*(?:no\.?|number|#)?\s*(?P<en>\d{{1,2}})\b"
    rf"|\b(?P<word>{'|'.join(_ORDINALS)})\s+(?:image|picture|photo|figure)"
    rf"|\b(?P<nth>\d{{1,2}})(?:st|nd|rd|th)\s+(?:image|picture|photo|figure)"
    rf"|图片?\s*(?P<zh>\d{{1,2}}|[{_HAN_DIGITS}])(?![\d{_HAN_DIGITS}])"
    rf"|第\s*(?P<di>\d{{1,2}}|[{_HAN_DIGITS}])\s*[张幅]",
    re.IGNORECASE,
)
_SAID_CHARS: Final = 2000


class BoxReader:
    """Turns the texts between box marks of one answer into boxes.

    Coordinates belong to the picture that the answer named last by its number ("picture 2", "the second image", "图2",
    "第二张"), counted from 1 over all pictures of the request; if it named none, to the last picture, which is the only
    one or the one the question came with.

    Args:
        read_sizes: returns width and height, in pixels and upright, of each of the request's pictures; called when the
            first box needs one.
    """

    def __init__(self, read_sizes: Callable[[], Sequence[tuple[int, int]]]) -> None:
        self._read_sizes = read_sizes
        self._said = ""

    def say(self, text: str) -> None:
        """Take note of a piece of the answer."""
        self._said = (self._said + text)[-_SAID_CHARS:]

    def read(self, marked: str) -> tuple[Box, ...]:
        """Return the boxes in what stood between two marks; none if it was a plain answer, or there is no picture."""
        found = find_coordinates(marked)
        if not found or not self._sizes:
            return ()
        image = mentioned_picture(self._said, len(self._sizes))
        width, height = self._sizes[image]
        boxes = [
            Box(left * width, top * height, right * width, bottom * height, image) for left, top, right, bottom in found
        ]
        return tuple(boxes)

    @cached_property
    def _sizes(self) -> Sequence[tuple[int, int]]:
        try:
            return self._read_sizes()
        except InvalidImageError:  # another server read a format that we do not
            return ()


def find_coordinates(text: str) -> list[tuple[float, float, float, float]]:
    """Find every bracketed group of exactly four numbers; left, top, right, bottom, each 0 to 1 of the picture's side.

    Any brackets, nesting, white space, decimals and full-width characters are understood. What lies outside of the
    picture is cut off; a group without an area inside it is no box.
    """
    plain = unicodedata.normalize("NFKC", text[:_MAX_CHARS].translate(_ASCII)).translate(_ASCII)
    plain = _SPACED.sub(",", plain)
    boxes = []
    for match in _FOUR.finditer(plain):
        opening, numbers, closing = match.groups()
        left, top, right, bottom = (min(max(float(number) / SCALE, 0.0), 1.0) for number in numbers.split(","))
        if _PAIRS[opening] == closing and left < right and top < bottom:
            boxes.append((left, top, right, bottom))
    return boxes


def mentioned_picture(said: str, num_images: int) -> int:
    """Return the index of the picture that was named last by a number that exists; else that of the last picture."""
    index = num_images - 1
    for match in _MENTION.finditer(said):
        number = _to_number(match)
        if 1 <= number <= num_images:
            index = number - 1
    return index


def _to_number(match: re.Match[str]) -> int:
    if word := match["word"]:
        return _ORDINALS.index(word.lower()) + 1
    digits = match["en"] or match["nth"] or match["zh"] or match["di"]
    return _HAN_DIGITS.index(digits) + 1 if digits in _HAN_DIGITS else int(digits)


class MarkedText:
    """Takes box marks out of a text that comes in pieces, and reads what stood between them.

    For servers that let the marks through as text. A possible beginning of a mark is held back until it is certain.

    Args:
        reader: of this answer; None only takes the marks out, as in reasoning, whose boxes are thoughts.
    """

    def __init__(self, reader: BoxReader | None = None) -> None:
        self._reader = reader
        self._held = ""
        self._marked: str | None = None

    def push(self, text: str) -> tuple[str, tuple[Box, ...]]:
        """Add a piece; return the text that is certain, without marks, and the boxes that became complete."""
        self._held += text
        shown: list[str] = []
        boxes: tuple[Box, ...] = ()
        while True:
            places = [(self._held.find(mark), mark) for mark in (BOX_START, BOX_END)]
            place, mark = min(((at, mark) for at, mark in places if at >= 0), default=(-1, ""))
            if place < 0:
                break
            shown.append(self._show(self._held[:place]))
            self._held = self._held[place + len(mark) :]
            if mark == BOX_START:
                self._marked = ""
            elif self._marked is not None:
                boxes += self._reader.read(self._marked) if self._reader is not None else ()
                self._marked = None
        num_certain = len(self._held) - num_begun(self._held, (BOX_START, BOX_END))
        shown.append(self._show(self._held[:num_certain]))
        self._held = self._held[num_certain:]
        return "".join(shown), boxes

    def finish(self) -> str:
        """Return what was held back and turned out to be text."""
        rest, self._held = self._held, ""
        return rest

    def _show(self, text: str) -> str:
        if self._reader is not None:
            self._reader.say(text)
        if self._marked is not None:
            self._marked += text
        return text


def num_begun(text: str, marks: Sequence[str]) -> int:
    """Length of the longest end of a text that could be the beginning of a mark."""
    longest = min(max(map(len, marks)) - 1, len(text))
    return next(
        (length for length in range(longest, 0, -1) if any(mark.startswith(text[-length:]) for mark in marks)), 0
    )

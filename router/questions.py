"""Whether a question says anything at all: asked at every door, the api's and the command line's.

In: the text of a turn, a cell or an argument. Out: whether there is nothing in it to read.
"""

from __future__ import annotations

import unicodedata
from typing import Final

# Letters and symbols by their class, blank on every screen: Hangul fillers, the empty Braille cell, a lost object.
_BLANK: Final = frozenset("\u115f\u1160\u3164\uffa0\u2800\ufffc")
_HEAD_CHARS: Final = 256


def is_empty(text: str) -> bool:
    """Whether a text is nothing but white space, characters without width, and marks for letters that are missing.

    Any other character is something to read, also a single ``?`` or an emoji.
    """
    if any(map(_is_readable, text[:_HEAD_CHARS])):
        return False
    # Of megabytes of blanks, each kind is looked at once.
    return not any(map(_is_readable, set(text)))


def _is_readable(char: str) -> bool:
    # C: control, format, surrogates, unassigned; Z: spaces; M: accents and variation selectors. "Co" may have a shape.
    category = unicodedata.category(char)
    return category == "Co" or (category[0] not in "CZM" and char not in _BLANK)

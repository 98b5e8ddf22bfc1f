"""Whether a question says anything at all, and whether it is the user's own.

In: the text of a turn, a cell or an argument. Out: whether there is nothing in it to read; the place of the user's last
question in a conversation.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from typing import Final

# Our own turn behind an answer at a conversation's end, which engines read as "go on". It is no question of the user's.
CONTINUE: Final = {
    "en": "Continue your last answer exactly where it ends. Do not repeat any of it.",
    "zh": "从你上一条回答结束的地方接着写，不要重复已有内容。",
}
_CONTINUES: Final = frozenset(CONTINUE.values())

# Letters and symbols by their class, blank on every screen: Hangul fillers, the empty Braille cell, a lost object.
_BLANK: Final = frozenset("\u115f\u1160\u3164\uffa0\u2800\ufffc")
_HEAD_CHARS: Final = 256


def place_of_question(roles: Sequence[str], text_at: Callable[[int], str]) -> int:
    """Return the place of the last turn that the user wrote; of the last turn, if the user wrote none.

    Args:
        roles: of the turns; at least one.
        text_at: returns the text of the turn at a place.
    """
    for place in range(len(roles) - 1, -1, -1):
        if roles[place] == "user" and not (place and continues(roles[place - 1], text_at(place))):
            return place
    return len(roles) - 1


def continues(role_before: str, text: str) -> bool:
    """Whether a user's turn is ours, and asks to go on with the answer before it."""
    return role_before == "assistant" and text in _CONTINUES


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

"""Reading a pattern of `re`: with which characters its matches begin or end, and texts that it matches, or nearly."""

from __future__ import annotations

import random
import re
from re import _constants as codes  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

EMPTY = (codes.ASSERT, codes.ASSERT_NOT, codes.AT)
REPEATS = (codes.MAX_REPEAT, codes.MIN_REPEAT, codes.POSSESSIVE_REPEAT)
# Anything: a match may begin so.
ANY = "any"
_DIGITS = {codes.CATEGORY_DIGIT: "07", codes.CATEGORY_SPACE: " \n", codes.CATEGORY_WORD: "a7_图"}


def parse(pattern: re.Pattern[str] | str, flags: int = 0) -> Any:
    """Return the pattern as `re` reads it."""
    if isinstance(pattern, str):
        return parser.parse(pattern, flags)
    return parser.parse(pattern.pattern, pattern.flags & ~re.UNICODE)


def edges(parts: Any, step: int) -> tuple[set[str], bool]:
    """Return the characters a match may begin (step 1) or end (-1) with, and whether it may be empty."""
    found: set[str] = set()
    for op, value in list(parts)[::step]:
        if op in EMPTY:
            continue
        is_empty = False
        if op is codes.LITERAL:
            chars = {chr(value)}
        elif op is codes.IN:
            chars = set().union(*map(_of_class, value))
        elif op in (codes.ANY, codes.NOT_LITERAL):
            chars = {ANY}
        elif op is codes.BRANCH:
            each = [edges(branch, step) for branch in value[1]]
            chars, is_empty = set().union(*(one for one, _ in each)), any(empty for _, empty in each)
        elif op in REPEATS:
            chars, is_empty = edges(value[2], step)
            is_empty = is_empty or value[0] == 0
        else:
            chars, is_empty = edges(value if op is codes.ATOMIC_GROUP else value[3], step)
        found |= chars
        if not is_empty:
            return found, False
    return found, True


def _of_class(item: Any) -> set[str]:
    op, value = item
    if op is codes.NEGATE:
        return {ANY}
    if op is codes.CATEGORY:
        return {str(value)}
    return {chr(value)} if op is codes.LITERAL else {chr(code) for code in range(value[0], value[1] + 1)}


def draw(parts: Any, rng: random.Random, others: str) -> str:
    """Return a text that is likely to match: one way through the pattern, what is looked for around it included.

    Args:
        parts: from `parse`.
        rng: chooses.
        others: characters to take where any will do.
    """
    return "".join([_draw_one(op, value, rng, others) for op, value in parts])


def _draw_one(op: Any, value: Any, rng: random.Random, others: str) -> str:
    if op is codes.LITERAL:
        return chr(value)
    if op is codes.IN:
        kind, inside = rng.choice(value)
        if kind is codes.LITERAL and value[0][0] is not codes.NEGATE:
            return chr(inside)
        if kind is codes.RANGE and value[0][0] is not codes.NEGATE:
            return chr(rng.randint(*inside))
        return rng.choice(_DIGITS.get(inside, others))
    if op is codes.BRANCH:
        return draw(rng.choice(value[1]), rng, others)
    if op in REPEATS:
        few, many, repeated = value
        return "".join([draw(repeated, rng, others) for _ in range(rng.randint(few, min(int(many), few + 2)))])
    if op in (codes.ASSERT, codes.ASSERT_NOT):
        # Mostly what must stand there, at times what must not.
        is_drawn = rng.random() < (0.8 if op is codes.ASSERT else 0.1)
        return draw(value[1], rng, others) if is_drawn else ""
    if op is codes.AT:
        return ""
    if op is codes.SUBPATTERN:
        return draw(value[3], rng, others)
    return draw(value, rng, others) if op is codes.ATOMIC_GROUP else rng.choice(others)

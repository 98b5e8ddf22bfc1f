"""What is no business of a data set: addresses and numbers of people, replaced before anything is written down.

In: a text, and which kinds are to go. Out: the text, with ``[email]``, ``[phone]``, ``[id]`` or ``[card]`` in their
place. Numbers with a check digit are replaced only if it is right, so that totals and order numbers stay.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, Final

KINDS: Final = ("email", "phone", "id", "card")
# It begins where a word begins, and ends somewhere: without these bounds, a long word takes the square of its length.
_EMAIL: Final = re.compile(
    r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,8}"
)
# Of residents of China; the last character is a check digit. Not `\b`: a Chinese character is a word character too.
_ID: Final = re.compile(r"(?<![0-9A-Za-z])\d{17}[\dXx](?![0-9A-Za-z])")
_CARD: Final = re.compile(r"(?<![\d.+])\d(?:[ -]?\d){12,18}(?![\d.])")
# A Chinese mobile number, or one written with a country code.
_PHONE: Final = re.compile(
    r"(?<![\d.+-])(?:(?:\+?86[ -]?)?1[3-9]\d[ -]?\d{4}[ -]?\d{4}|\+\d{1,3}(?:[ ().-]{0,2}\d){7,13})(?![\d.]*\d)"
)
_ID_WEIGHTS: Final = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)


def redact(text: str, kinds: Collection[str] = KINDS) -> str:
    """Replace what is to go.

    Args:
        text: any.
        kinds: out of `KINDS`.
    """
    if "email" in kinds:
        text = _EMAIL.sub("[email]", text)
    if "id" in kinds:
        text = _ID.sub(lambda found: "[id]" if is_resident_id(found[0]) else found[0], text)
    if "card" in kinds:
        text = _CARD.sub(lambda found: "[card]" if is_card(found[0]) else found[0], text)
    return _PHONE.sub("[phone]", text) if "phone" in kinds else text


def redact_all(value: Any, kinds: Collection[str] = KINDS) -> Any:
    """Redact every text in a JSON value, names of fields left as they are."""
    if isinstance(value, str):
        return redact(value, kinds)
    if isinstance(value, dict):
        return {name: redact_all(each, kinds) for name, each in value.items()}
    return [redact_all(each, kinds) for each in value] if isinstance(value, list) else value


def is_resident_id(text: str) -> bool:
    """Whether the check digit of a Chinese resident's number is right (GB 11643, ISO 7064 mod 11-2)."""
    total = sum(weight * int(digit) for weight, digit in zip(_ID_WEIGHTS, text, strict=False))
    return "10X98765432"[total % 11] == text[-1].upper()


def is_card(text: str) -> bool:
    """Whether the check digit of a payment card's number is right (ISO/IEC 7812, Luhn)."""
    digits = [int(each) for each in text if each.isdigit()][::-1]
    doubled = sum(digit * 2 - 9 * (digit > 4) for digit in digits[1::2])
    return len(set(digits)) > 1 and (sum(digits[::2]) + doubled) % 10 == 0

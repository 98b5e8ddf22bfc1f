"""The text of an API key: how a new one is made, and what can be said of one without looking it up.

In: random bytes, or what a client sent. Out: ``glowl_`` with 43 letters and digits that hold 256 random bits, then 6
that are their checksum. Scanners of repositories find keys by their beginning; a typing error shows in the checksum, so
it can be named as one. Beyond the random part nothing is in a key: owner, scopes and expiry are in its record.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import zlib
from typing import Final

PREFIX: Final = "glowl_"
_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
# The least that hold 32 bytes, and a CRC-32.
_NUM_RANDOM: Final = 43
_NUM_CHECK: Final = 6
# Shown in lists and logs. The 35 others hold 208 bits, so this much may be known.
_NUM_PUBLIC: Final = 8
_SHAPE: Final = re.compile(rf"{PREFIX}[0-9A-Za-z]{{{_NUM_RANDOM + _NUM_CHECK}}}")


def new_key() -> str:
    """Return a key that nobody had before."""
    body = _to_base62(secrets.randbits(256), _NUM_RANDOM)
    return f"{PREFIX}{body}{_checksum(body)}"


def is_key(text: str) -> bool:
    """Whether a text can be a key of `new_key`: of its shape, with the right checksum."""
    body, check = text[len(PREFIX) : -_NUM_CHECK], text[-_NUM_CHECK:]
    return _SHAPE.fullmatch(text) is not None and check == _checksum(body)


def public_name(text: str) -> str:
    """Return the beginning of a key, under which lists and logs show it."""
    return text[: len(PREFIX) + _NUM_PUBLIC]


def digest_of(text: str) -> bytes:
    """Return the hash under which a key is looked up: SHA-256, 32 bytes.

    No slow hash: it protects passwords that people choose; 256 random bits cannot be guessed.
    """
    return hashlib.sha256(text.encode()).digest()


def _checksum(body: str) -> str:
    return _to_base62(zlib.crc32(body.encode()), _NUM_CHECK)


def _to_base62(number: int, width: int) -> str:
    digits = ""
    for _ in range(width):
        number, digit = divmod(number, 62)
        digits = _ALPHABET[digit] + digits
    return digits

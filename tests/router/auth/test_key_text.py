"""A key is recognised by its text alone, and so is a typing error in it."""

from __future__ import annotations

import hashlib

import pytest

from router.auth.key_text import digest_of, is_key, new_key, public_name


def test_a_key_has_its_beginning_256_random_bits_and_a_checksum() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(is_key(key) and len(key) == 55 and key.startswith("glowl_") and key.isascii() for key in keys)


def test_the_text_of_a_key_is_the_same_in_every_release() -> None:
    key = "glowl_" + "0" * 43 + "2CZclj"
    assert is_key(key)
    assert digest_of(key) == hashlib.sha256(key.encode()).digest()
    assert public_name(key) == "glowl_00000000"


@pytest.mark.parametrize("place", range(6, 55))
def test_one_wrong_character_anywhere_is_seen(place: int) -> None:
    key = new_key()
    other = "x" if key[place] != "x" else "y"
    assert not is_key(key[:place] + other + key[place + 1 :])


def test_what_is_cut_doubled_or_of_another_service_is_no_key() -> None:
    key = new_key()
    for text in ("", key[:-1], key[1:], key + "0", key.upper(), key.replace("glowl_", "sk-"), "glowl_", f" {key}"):
        assert not is_key(text)

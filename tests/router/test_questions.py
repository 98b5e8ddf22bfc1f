"""`router.questions`: a question that nobody can read is none."""

from __future__ import annotations

import pytest

from router.questions import is_empty


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \t\r\n",
        "\u200b",  # zero width space
        "\u200b\u200c\u200d\u2060\ufeff",
        "\u00ad",  # soft hyphen
        "\u202e \u2066\u2069",  # writing directions
        "\u3000\u00a0\u2003",
        "\u3164",  # Hangul filler
        "\u2800",  # empty Braille cell
        "\ufe0f\u034f",
        "\u0301",
        "\x00\x1b\x7f",
        "\U000e0041\U000e007f",  # tags
        "\u200b" * 1_000_000,
    ],
)
def test_what_shows_nothing_is_empty(text: str) -> None:
    assert is_empty(text)


@pytest.mark.parametrize(
    "text",
    ["a", "?", "。", "👍", "\u200bWhy?", "7", "\u3164한", "\ue000", "é", "e\u0301", "\u200b" * 1_000_000 + "a", "-"],
)
def test_anything_that_can_be_read_is_a_question(text: str) -> None:
    assert not is_empty(text)

"""`router.questions`: a question that nobody can read is none."""

from __future__ import annotations

import pytest

from router.questions import CONTINUE, is_empty, place_of_question


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


OURS = CONTINUE["en"]


@pytest.mark.parametrize(
    ("turns", "place"),
    [
        ([("user", "a")], 0),
        ([("user", "a"), ("assistant", "b"), ("user", "c")], 2),
        ([("user", "a"), ("assistant", "b"), ("tool", "c")], 0),
        ([("user", "a"), ("assistant", "b"), ("user", OURS)], 0),
        ([("user", "a"), ("assistant", "b"), ("user", OURS), ("assistant", "c"), ("user", OURS)], 0),
        # Their own words, though they are the same: no answer is before them.
        ([("user", OURS)], 0),
        ([("user", "a"), ("user", OURS)], 1),
        # No user has written anything.
        ([("assistant", "b"), ("user", OURS)], 1),
        ([("system", "a"), ("assistant", "b")], 1),
    ],
)
def test_the_users_question_is_none_of_ours(turns: list[tuple[str, str]], place: int) -> None:
    assert place_of_question([role for role, _ in turns], lambda at: turns[at][1]) == place

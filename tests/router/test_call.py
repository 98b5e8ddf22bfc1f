from __future__ import annotations

import pytest

from engines.base import ImagePart, Message, Part, TextPart
from router.call import pictures_first

A, B = (ImagePart(data=name, media_type="image/png", sha256=name.decode()) for name in (b"a", b"b"))
ONE, TWO = TextPart("one"), TextPart("two")


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ((ONE, A), (A, ONE)),
        ((ONE, TWO, A, B), (A, B, ONE, TWO)),
        ((A, ONE), (A, ONE)),
        ((ONE, A, TWO), (ONE, A, TWO)),
        ((ONE, A, TWO, B), (ONE, A, TWO, B)),
        ((A, ONE, B), (A, ONE, B)),
        ((ONE,), (ONE,)),
        ((A, B), (A, B)),
        ((), ()),
    ],
)
def test_pictures_go_before_the_text_only_where_a_turn_is_texts_and_then_pictures(
    parts: tuple[Part, ...], expected: tuple[Part, ...]
) -> None:
    assert pictures_first((Message("user", parts),)) == (Message("user", expected),)


def test_only_users_turns_are_changed_and_each_for_itself() -> None:
    messages = (Message("user", (ONE, A)), Message("assistant", (ONE, A)), Message("user", (TWO,)))

    assert pictures_first(messages) == (Message("user", (A, ONE)), *messages[1:])

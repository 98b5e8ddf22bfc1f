from __future__ import annotations

import pytest

from engines.base import ImagePart, Message, Part, TextPart
from router.call import from_stored_messages, pictures_first, to_stored_messages

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


def test_a_stored_picture_knows_the_field_it_came_in_or_what_brings_it_back() -> None:
    # Given a stored conversation with a picture
    image = ImagePart(b"bytes", "image/png", "hash", param="messages[0].content[1].image_url.url")
    stored = to_stored_messages((Message("user", (TextPart("?"), image)),))
    blobs = {"hash": b"bytes"}
    # Then its own request finds the field again, and a later one the field that names the conversation
    for param, expected in ((None, image.param), ("previous_response_id", "previous_response_id")):
        (read,) = from_stored_messages(stored, blobs, param=param)[0].images
        assert (read, read.param) == (image, expected)
    # Then a record of an earlier release, which has no field, is read too
    del stored[0]["parts"][1]["param"]
    assert from_stored_messages(stored, blobs)[0].images[0].param == ""

from __future__ import annotations

import pytest

from router.loop.records import Feedback
from router.loop.right import right_of


@pytest.mark.parametrize(
    ("final", "feedback", "right"),
    [
        ("cat", Feedback(correction="dog"), "dog"),
        ("cat", Feedback("down", correction={"a": "价"}), '{"a": "价"}'),
        ('{"a": 1, "b": 2}', Feedback(fields={"b": 3}), '{"a": 1, "b": 3}'),
        ('```json\n{"a": 1, "b": 2}\n```', Feedback(fields={"b": 3}), '{"a": 1, "b": 3}'),
        ("cat", Feedback(fields={"b": 3}), None),
        ("cat", Feedback("up"), "cat"),
        ("cat", Feedback("down"), None),
        ("cat", None, None),
    ],
)
def test_what_was_right(final: str, feedback: Feedback | None, right: str | None) -> None:
    assert right_of(final, feedback) == right

"""From captured exchanges to what proofs read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from router.loop.records import Answer, Exchange, Feedback
from router.loop.stats.log import to_exchanges


def kept(name: str, route: str = "fast", *, decision: dict[str, Any] | None = None, **values: Any) -> Exchange:
    """Return an exchange as the store has it."""
    parts = [{"type": "text", "text": "图里有什么？"}, {"type": "image", "sha256": f"picture of {name}"}]
    found = Exchange(
        id=name,
        owner="local",
        at=1.0,
        took_s=2.0,
        state="completed",
        question="图里有什么？",
        messages=[{"role": "user", "parts": parts}],
        language="zh",
        route=route,
        rule="chinese",
        engine="glm",
        decision={"reasons": [{"feature": "language", "value": "zh"}], **(decision or {})},
        answers={"fast": Answer("cat", took_s=1.5)},
        final="cat",
        pictures=(f"picture of {name}",),
        feedback=Feedback(correction="dog"),
    )
    return replace(found, **values)


def look(of: str, final: str = "dog") -> Exchange:
    """Return what a second look at a question gave."""
    answers = {"draft": Answer("cat", took_s=1.0), "deep": Answer("dog", took_s=9.0)}
    again = {"again": {"kind": "second_look", "response_id": "resp_[phone]"}}  # redacted like all else of a decision
    return kept(
        f"look at {of}", "deep", decision=again, again=of, answers=answers, final=final, took_s=500.0, feedback=None
    )


DRAWN = {"second_look": {"probability": 0.1, "is_drawn": True}}


def test_a_question_is_joined_with_its_second_look() -> None:
    (found,) = to_exchanges([look("a"), kept("a", decision=DRAWN)])

    assert (found.id, found.route, found.fast, found.deep, found.right) == ("a", "fast", "cat", "dog", "dog")
    assert (found.probability, found.is_drawn, found.fast_s, found.deep_s) == (0.1, True, 2.0, 9.0)
    assert (found.features.language, found.features.num_new_images) == ("zh", 1)
    assert found.has_both
    assert found.gain() == 1.0


def test_a_deep_question_has_its_draft() -> None:
    answers = {"draft": Answer("cat", took_s=1.0), "deep": Answer("dog", took_s=9.0)}
    (found,) = to_exchanges([kept("a", "deep", answers=answers, final="dog", took_s=10.0)])

    assert (found.fast, found.deep, found.probability, found.fast_s, found.deep_s) == ("cat", "dog", 1.0, 1.0, 10.0)
    (without,) = to_exchanges([kept("a", "deep", answers={"draft": Answer(error="timeout")}, final="dog")])
    assert (without.fast, without.has_both) == (None, False)


def test_a_lost_second_look_was_drawn_all_the_same() -> None:
    lost, never = to_exchanges(
        [kept("a", decision=DRAWN), kept("b"), kept("look", decision={"again": {"kind": "shadow", "response_id": "b"}})]
    )

    assert (lost.deep, lost.is_drawn, lost.probability) == (None, True, 0.1)
    assert (never.deep, never.is_drawn, never.probability) == (None, False, 0.0)


@pytest.mark.parametrize(
    "left_out",
    [
        kept("a", final=""),
        kept("a", cache="hit"),
        kept("a", decision={"reasons": [{"feature": "requested_route", "value": "fast"}]}),
        kept("a", decision={"reasons": [{"feature": "requested_engine", "value": "glm"}]}),
    ],
    ids=["no answer", "cached", "route", "engine"],
)
def test_what_says_nothing_of_the_policy_is_left_out(left_out: Exchange) -> None:
    assert to_exchanges([left_out]) == []


def test_questions_about_one_picture_are_of_one_group() -> None:
    found = to_exchanges([kept("a", pictures=("p",)), kept("b", pictures=("p",)), kept("c"), kept("d", pictures=())])

    assert found[0].group == found[1].group
    assert len({each.group for each in found}) == 3

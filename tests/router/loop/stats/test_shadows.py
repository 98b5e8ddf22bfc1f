"""An adapter in the shadow against what callers got."""

from __future__ import annotations

from typing import Any

from router.loop.records import Exchange, Feedback
from router.loop.stats.shadows import to_shadows
from tests.router.loop.stats.test_log import kept, look

DRAWN: dict[str, Any] = {"shadow": {"probability": 0.5, "is_drawn": True, "adapter": "tags"}}


def shadow(of: str, final: str, **values: Any) -> Exchange:
    again = {"again": {"kind": "shadow", "response_id": of}}
    named: dict[str, Any] = {"adapter": "tags", "revisions": {"glm:tags": "r1"}, "feedback": None, **values}
    return kept(f"shadow of {of}", decision=again, again=of, final=final, **named)


def test_a_shadow_is_held_against_what_was_given_and_what_was_right() -> None:
    # Given forty answers "cat", half of them corrected to "dog"; the shadow says "dog" to those alone
    log: list[Exchange] = []
    for number in range(40):
        said = Feedback(correction="dog") if number % 2 else None
        log += [
            kept(f"q{number}", decision=DRAWN, feedback=said),
            shadow(f"q{number}", "dog" if number % 2 else "Cat."),
        ]
    # When they are compared, then what asked nobody, or by other weights, is not among them
    log += [look("q1"), kept("alone", decision=DRAWN), shadow("gone", "cat"), shadow("q0", "", id="failed")]
    (found,) = to_shadows(log)
    assert (found.adapter, found.revision, found.num_questions, found.num_judged) == ("tags", "r1", 40, 20)
    assert found.same is not None
    assert found.same.estimate == 0.5
    assert found.gain is not None
    assert found.gain.low > 0
    # And weights that were trained further are a shadow of their own, of which too little is known
    further = shadow("q2", "cat", id="another", revisions={"glm:tags": "r2"})
    few = to_shadows([*log, further])[1]
    assert (few.revision, few.num_questions, few.same, few.gain) == ("r2", 1, None, None)

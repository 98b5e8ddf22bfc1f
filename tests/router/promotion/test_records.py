"""The pointer: promoted, rolled back, written and read."""

from __future__ import annotations

import orjson

from router.promotion.records import BASE, Pointer, Promotion

A, B = Promotion("a", "r1", at=1.0), Promotion("b", "r2", share=0.2, at=2.0, proof="+1.1 [+0.2, +2.0]")


def test_rollback_leads_to_who_answered_before() -> None:
    pointer = Pointer().promoted(A).promoted(B)

    first = pointer.rolled_back()
    assert first is not None
    second = first.rolled_back()

    assert (pointer.now, first.now) == (B, A)
    assert second == Pointer()
    assert second.now == BASE
    assert second.rolled_back() is None


def test_a_promoted_shadow_is_none_any_longer() -> None:
    pointer = Pointer().shadowed(A)

    assert pointer.promoted(B).shadow == A
    assert pointer.promoted(A).shadow == BASE


def test_only_so_many_steps_back_are_kept() -> None:
    pointer = Pointer()
    for number in range(50):
        pointer = pointer.promoted(Promotion(str(number)))

    assert len(pointer.earlier) == 20
    assert pointer.earlier[0].adapter == "48"


def test_what_is_written_is_read_again_also_with_fields_of_a_later_release() -> None:
    pointer = Pointer().promoted(A).promoted(B).shadowed(Promotion("c", share=0.05))
    assert Pointer.from_json(pointer.to_json()) == pointer

    later = {"now": {"adapter": "a", "colour": "red"}, "mode": "x"}
    assert Pointer.from_json(orjson.dumps(later)).now == Promotion("a")

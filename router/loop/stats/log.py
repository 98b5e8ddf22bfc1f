"""From what was captured to what proofs read.

In: exchanges of `router.loop.store`, those of second looks among them. Out: `router.loop.stats.records.Exchange`s, each
question with both answers as far as they are known. Left out: questions that were not answered, that were answered from
the cache, or whose caller chose the route: none of them says anything about the policy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from policies.features import Features, Hints, Question, measure
from router.loop.records import Exchange as Kept
from router.loop.right import right_of
from router.loop.stats.records import Exchange
from router.loop.stats.results import groups_of

# Reasons of a decision that leave no choice: what the request said, or offers only GLM can read.
_CHOSEN: Final = ("requested_route", "requested_engine", "uses_tools")
_WAITS: Final = "is_interactive"


def to_exchanges(kept: Iterable[Kept]) -> list[Exchange]:
    """Join questions with their second looks.

    Args:
        kept: in any order; `LoopStore.select` leaves second looks out unless it is asked for them.
    """
    own: list[Kept] = []
    looks: dict[str, Kept] = {}
    for each in kept:
        again = each.decision.get("again")
        if again is None:
            own.append(each)
        elif again.get("kind") == "second_look" and each.final:
            looks[each.again] = each  # not the id in the decision, in which digits may have been taken for a number
    own = [each for each in own if each.final and each.cache in ("", "miss") and not _is_chosen(each.decision)]
    groups = groups_of([(each.id, each.pictures) for each in own])
    return [_join(each, looks.get(each.id), groups[each.id]) for each in own]


def _join(kept: Kept, look: Kept | None, group: str) -> Exchange:
    features, right = _measure(kept), right_of(kept.final, kept.feedback)
    if kept.route == "deep":
        draft = kept.answers.get("draft")
        has_draft = draft is not None and bool(draft.text)
        return Exchange(
            kept.id,
            group,
            "deep",
            features,
            kept.question,
            draft.text if draft is not None and has_draft else None,
            kept.final,
            right,
            probability=1.0,
            is_drawn=True,
            fast_s=draft.took_s if draft is not None and has_draft else None,
            deep_s=kept.took_s,
        )
    drawn: Mapping[str, Any] = kept.decision.get("second_look") or {}
    return Exchange(
        kept.id,
        group,
        "fast",
        features,
        kept.question,
        kept.final,
        None if look is None else look.final,
        right,
        probability=float(drawn.get("probability", 0.0)),
        is_drawn=bool(drawn.get("is_drawn", False)),
        fast_s=kept.took_s,
        # Not the look's own time: it waited until nobody else had anything to do.
        deep_s=None if look is None else max((each.took_s for each in look.answers.values()), default=None),
    )


def _is_chosen(decision: Mapping[str, Any]) -> bool:
    return any(reason.get("feature") in _CHOSEN for reason in decision.get("reasons", ()))


def _measure(kept: Kept) -> Features:
    """Measure the question again: the policy's features are its words' and its pictures'."""
    *earlier, last = kept.messages or [{"role": "user", "parts": [{"type": "text", "text": kept.question}]}]
    waits = any(
        reason.get("feature") == _WAITS and reason.get("value") is True for reason in kept.decision.get("reasons", ())
    )
    question = Question(
        text=_text_of(last),
        history=tuple(_text_of(each) for each in earlier if each["role"] == "user"),
        image_keys=_images_of(last),
        history_image_keys=tuple(name for each in earlier for name in _images_of(each)),
        system_text="\n".join(_text_of(each) for each in earlier if each["role"] == "system"),
    )
    return measure(question, Hints(service_tier="priority" if waits else None))


def _text_of(message: Mapping[str, Any]) -> str:
    return "".join(part["text"] for part in message["parts"] if part["type"] == "text")


def _images_of(message: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(part["sha256"] for part in message["parts"] if part["type"] == "image")

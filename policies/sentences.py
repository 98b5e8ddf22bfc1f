"""Telling: what was measured, held against a rule, or would change the route, as sentences in both languages.

In: features, values, thresholds. Out: `Text`s; their words are in `policies.texts`.
"""

from __future__ import annotations

from policies import texts
from policies.complexity import to_chinese
from policies.decision import Route, Scalar
from policies.features import Features
from policies.text import NOTHING, Text


def reason(feature: str, value: Scalar, threshold: Scalar, features: Features, estimate_ms: int) -> Text:
    """Say how a value stands to the threshold that a rule holds it against.

    Args:
        feature: its name.
        value: what was measured.
        threshold: the rule's.
        features: all that was measured.
        estimate_ms: what a job is expected to take.
    """
    match feature:
        case "language":
            return texts.LANGUAGE.fill(
                language=texts.LANGUAGES[features.language], source=texts.SOURCES[features.language_source]
            )
        case "requested_route":
            return texts.REQUESTED_ROUTE.fill(value=value)
        case "requested_engine":
            return texts.REQUESTED_ENGINE.fill(value=value)
        case "mentions_several_images":
            words = ", ".join(features.several_images_cues)
            return texts.SEVERAL_IMAGES.fill(cues=words) if value else texts.ONE_IMAGE
        case "is_courtesy":
            return texts.COURTESY if value else texts.NO_COURTESY
        case "is_interactive":
            return texts.INTERACTIVE.fill(reason=interactive(features)) if value else texts.NOT_INTERACTIVE
        case "deadline_slack_ms":
            return texts.DEADLINE.fill(deadline_ms=features.deadline_ms, estimate_ms=estimate_ms)
        case "multi_hop":
            cues = multi_hop_cues(features)
            shown = texts.BRACKETS.fill(inside=cues) if cues.en else NOTHING
            return texts.MULTI_HOP.fill(value=value, threshold=threshold, cues=shown)
        case _:
            return texts.COUNT.fill(name=texts.COUNTS[feature], value=value, threshold=threshold)


def change(feature: str, current: Scalar | None, wanted: Scalar, route: Route) -> Text:
    """Say which change of a value would send the request another way.

    Args:
        feature: its name.
        current: its value now; None = not given. Of a deadline: milliseconds.
        wanted: the value that changes the route.
        route: the route then.
    """
    match feature:
        case "multi_hop":
            said = texts.CHANGED_SCORE.fill(wanted=wanted, current=current)
        case "num_images" | "num_new_images" | "num_chars":
            said = texts.CHANGED_COUNT.fill(name=texts.CHANGED_COUNTS[feature], wanted=wanted, current=current)
        case "deadline_ms":
            was = texts.NONE if current is None else texts.DURATION_MS.fill(ms=current)
            said = texts.CHANGED_DEADLINE.fill(wanted=texts.DURATION_MS.fill(ms=wanted), current=was)
        case "mentions_several_images" | "is_courtesy" | "is_interactive":
            said = texts.CHANGED_FLAGS[feature, bool(wanted)]
        case "language":
            names = {"wanted": texts.LANGUAGES[str(wanted)], "current": texts.LANGUAGES[str(current)]}
            said = texts.CHANGED_LANGUAGE.fill(**names)
        case "requested_route":
            said = texts.CHANGED_ROUTE.fill(wanted=wanted, current=current)
        case _:
            said = texts.CHANGED_ENGINE.fill(wanted=wanted)
    return texts.THEN.fill(change=said, route=route)


def multi_hop_cues(features: Features) -> Text:
    """The words that speak for several steps; empty if there are none."""
    cues = features.multi_hop_cues
    return Text(texts.LIST.en.join(cues), texts.LIST.zh.join([to_chinese(cue) for cue in cues]))


def interactive(features: Features) -> Text:
    """The field by which somebody is said to wait, such as ``service_tier is priority``; names stay as they are."""
    said = features.interactive_reason or ""
    return Text(said, said.replace(" is ", " 为 "))

"""Telling a decision: what was decided and why, what was near, what was measured, a row each.

In: a decision and the features it was made from. Out: lines of text in one language.
"""

from __future__ import annotations

from policies import texts
from policies.decision import Decision, Health
from policies.features import Features
from policies.sentences import interactive, multi_hop_cues
from policies.text import NOTHING, Language, Text

_Row = tuple[str, Text]


def explain(decision: Decision, features: Features, language: Language = "en", health: Health | None = None) -> str:
    """Explain a decision to a person: what was measured, which rule held and why, and what was near.

    Args:
        decision: from `policies.decide.decide`.
        features: the features it was made from.
        language: of the explanation.
        health: the engines' when it was decided; None = it is not told.

    Returns:
        Several lines without a final newline.
    """
    rows = [*_decided(decision), *([] if health is None else [("engines", _engines(health))])]
    lines = [_line(row, language) for row in rows]
    return "\n".join([*lines, "", *(_line(row, language) for row in _measured(features, decision.multi_hop_threshold))])


def _line(row: _Row, language: Language) -> str:
    label, value = texts.LABELS[row[0]].of(language), row[1].of(language)
    return f"{label}：{value}" if language == "zh" else f"{label + ':':<18}{value}".rstrip()


def _decided(decision: Decision) -> list[_Row]:
    route = texts.ROUTE.fill(route=decision.route, engine=decision.engine)
    if decision.enable_thinking:
        route += texts.THINKING
    if decision.panel:
        route += texts.PANEL.fill(arms=texts.ENUMERATION.join(map(Text.same, decision.panel)))
    reasons = texts.LIST.join(Text(reason.text, reason.text_zh) for reason in decision.reasons)
    nearest, flip = decision.nearest, decision.flip
    near = texts.NOT_NEAR if nearest is None else Text(nearest.text, nearest.text_zh)
    margin = Text.same(f"{decision.margin:.2f}") + texts.BRACKETS.fill(inside=near)
    rows = [
        ("route", route),
        ("rule", Text.same(f"{decision.rule} ({decision.preset})")),
        ("reasons", reasons if decision.reasons else texts.NO_REASON),
        *(("degraded", Text(*note)) for note in zip(decision.degraded, decision.degraded_zh, strict=True)),
        ("margin", margin),
        ("flip", texts.NO_FLIP if flip is None else Text(flip.text, flip.text_zh)),
    ]
    if decision.dial != 0.5:
        rows.append(("dial", Text.same(f"{decision.dial:g}")))
    return rows


def _engines(health: Health) -> Text:
    said = [
        (texts.ENGINE_UP if state.is_up else texts.ENGINE_DOWN).fill(engine=name, age_s=state.queue_age_s)
        for name, state in ((name, health.of(name)) for name in ("glm", "owl2"))
    ]
    if health.estimated_deep_ms is not None:
        said.append(texts.EXPECTED.fill(ms=health.estimated_deep_ms))
    return texts.LIST.join(said)


def _measured(features: Features, threshold: float | None) -> list[_Row]:
    language = texts.MEASURED_LANGUAGE.fill(
        code=features.language,
        name=texts.LANGUAGES[features.language],
        source=texts.SOURCES[features.language_source],
    )
    multi_hop = Text.same(f"{features.multi_hop:.2f}")
    if threshold is not None:
        multi_hop += texts.THRESHOLD.fill(threshold=threshold)
    multi_hop += texts.BRACKETS.fill(inside=multi_hop_cues(features) if features.multi_hop_cues else texts.NONE)
    asked = texts.ASKED.fill(route=features.requested_route, engine=features.requested_engine or texts.NONE)
    if features.deadline_ms is not None:
        asked += texts.ASKED_DEADLINE.fill(ms=features.deadline_ms)
    several = Text.same(", ".join(features.several_images_cues))
    return [
        ("language", language),
        ("pictures", texts.PICTURES.fill(total=features.num_images, new=features.num_new_images)),
        ("several", texts.NONE if several == NOTHING else several),
        ("multi_hop", multi_hop),
        ("interactive", interactive(features) if features.interactive_reason else texts.NO),
        ("asked", asked),
        ("chars", Text.same(str(features.num_chars))),
    ]

"""Last step: decide. In: features, rules, the engines' health. Out: a decision that can explain itself.

Total and deterministic: every request gets a route, and the same inputs always get the same one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from policies.decision import Decision, EngineName, Health, Reason, Route, Scalar
from policies.features import Features
from policies.rules import FEATURE_FLAGS, FEATURE_LABELS, Condition, Rule, Rules

_OTHER: Final[dict[EngineName, EngineName]] = {"glm": "owl2", "owl2": "glm"}
_ROUTE_OF: Final[dict[EngineName, Route]] = {"glm": "fast", "owl2": "deep"}

_LANGUAGE_EN: Final = {"zh": "Chinese", "en": "English", "other": "another language", "none": "no language of its own"}
_LANGUAGE_ZH: Final = {"zh": "中文", "en": "英文", "other": "其他语言", "none": "无法判断语言"}
_SOURCE_EN: Final = {
    "script": "by its script",
    "langdetect": "by its n-grams",
    "short": "by common English words",
    "history": "from earlier turns",
    "none": "nothing to read",
}
_SOURCE_ZH: Final = {
    "script": "依据文字",
    "langdetect": "依据字符片段",
    "short": "依据常见英文词",
    "history": "依据之前的对话",
    "none": "没有可读的文字",
}

_Values = Mapping[str, Scalar | None]


@dataclass(frozen=True, slots=True)
class _Outcome:
    """Where a rule ends up once the engines' health had its say."""

    route: Route
    engine: EngineName
    notes: tuple[tuple[str, str], ...]
    is_switched: bool


def decide(features: Features, rules: Rules, health: Health = Health()) -> Decision:
    """Choose the route of one request.

    Args:
        features: what `policies.features.measure` says of it.
        rules: a preset; see `policies.rules`.
        health: the engines now. It is looked at last: it may change who answers, never what was wanted.
    """
    estimate_ms = health.estimated_deep_ms if health.estimated_deep_ms is not None else rules.assumed_deep_ms
    values = _values(features, estimate_ms)
    index = next(index for index, rule in enumerate(rules.rules) if _holds(rule, values))
    rule = rules.rules[index]
    outcome = _heed_health(rule, rules, features, health)
    margin, nearest = _nearest_flip(index, rules, values, features, estimate_ms)
    return Decision(
        route=outcome.route,
        engine=outcome.engine,
        rule=rule.name,
        reasons=tuple(_reason(name, values, wanted, features, estimate_ms) for name, wanted in rule.when.items()),
        degraded=tuple(english for english, _ in outcome.notes),
        margin=margin,
        preset=rules.name,
        enable_thinking=rule.enable_thinking and not outcome.is_switched,
        nearest=nearest,
        degraded_zh=tuple(chinese for _, chinese in outcome.notes),
    )


def explain(decision: Decision, features: Features, language: Literal["en", "zh"] = "en") -> str:
    """Explain a decision to a person: what was measured, which rule held and why, and what was near.

    Args:
        decision: from `decide`.
        features: the features it was made from.
        language: of the explanation.

    Returns:
        Several lines without a final newline.
    """
    is_en = language == "en"
    none = "none" if is_en else "无"
    reasons = [reason.text if is_en else reason.text_zh for reason in decision.reasons]
    degraded = decision.degraded if is_en else decision.degraded_zh
    if decision.nearest is None:
        near = "nothing graded is near a threshold" if is_en else "没有接近阈值的度量"
    else:
        near = decision.nearest.text if is_en else decision.nearest.text_zh
    joiner = "; " if is_en else "；"
    rows = [
        (
            (
                "route",
                f"{decision.route}, answered by {decision.engine}{', thinking' if decision.enable_thinking else ''}",
            )
            if is_en
            else (
                "路径",
                f"{decision.route}，由 {decision.engine} 回答{'（先思考）' if decision.enable_thinking else ''}",
            )
        ),
        ("rule" if is_en else "规则", f"{decision.rule} ({decision.preset})"),
        (
            "because" if is_en else "原因",
            joiner.join(reasons) or ("no rule before it held" if is_en else "前面的规则都不成立"),
        ),
        *((("degraded" if is_en else "降级"), note) for note in degraded),
        (
            "margin" if is_en else "余量",
            f"{decision.margin:.2f} ({near})" if is_en else f"{decision.margin:.2f}（{near}）",
        ),
        ("", ""),
        (
            "language" if is_en else "语言",
            f"{features.language} ({_SOURCE_EN[features.language_source]})"
            if is_en
            else f"{_LANGUAGE_ZH[features.language]}（{_SOURCE_ZH[features.language_source]}）",
        ),
        (
            "pictures" if is_en else "图片",
            f"{features.num_images} distinct, {features.num_new_images} of them in this turn"
            if is_en
            else f"共 {features.num_images} 张不同的图片，本轮 {features.num_new_images} 张",
        ),
        ("several in words" if is_en else "提到多张图", ", ".join(features.several_images_cues) or none),
        (
            "multi-hop" if is_en else "多步程度",
            f"{features.multi_hop:.2f} ({'; '.join(features.multi_hop_cues) or none})",
        ),
        (
            "interactive" if is_en else "交互",
            (features.interactive_reason or ("no" if is_en else "否")),
        ),
        (
            "asked for" if is_en else "调用方要求",
            f"route {features.requested_route}, engine {features.requested_engine or none}"
            + (f", deadline {features.deadline_ms} ms" if features.deadline_ms is not None else "")
            if is_en
            else f"路径 {features.requested_route}，引擎 {features.requested_engine or none}"
            + (f"，时限 {features.deadline_ms} 毫秒" if features.deadline_ms is not None else ""),
        ),
        ("characters" if is_en else "字符数", str(features.num_chars)),
    ]
    if is_en:
        return "\n".join(f"{label + ':':<18}{value}".rstrip() if label else "" for label, value in rows)
    return "\n".join(f"{label}：{value}" if label else "" for label, value in rows)


def _values(features: Features, estimate_ms: int) -> dict[str, Scalar | None]:
    return {
        "language": features.language,
        "requested_route": features.requested_route,
        "requested_engine": features.requested_engine,
        "mentions_several_images": features.mentions_several_images,
        "is_interactive": features.is_interactive,
        "num_images": features.num_images,
        "num_new_images": features.num_new_images,
        "multi_hop": features.multi_hop,
        "num_chars": features.num_chars,
        "deadline_slack_ms": None if features.deadline_ms is None else features.deadline_ms - estimate_ms,
    }


def _holds(rule: Rule, values: _Values) -> bool:
    return all(condition.holds(values[feature]) for feature, condition in rule.when.items())


def _heed_health(rule: Rule, rules: Rules, features: Features, health: Health) -> _Outcome:
    wanted = rule.answering_engine
    other = _OTHER[wanted]
    if not health.of(wanted).is_up:
        if not health.of(other).is_up:
            note = (
                "glm and owl2 are down: the route is kept until one is back",
                "glm 和 owl2 均不可用：保留原路径，等待恢复",
            )
            return _Outcome(rule.route, wanted, (note,), is_switched=False)
        return _switch(other, f"{wanted} is down", f"{wanted} 不可用", features.requested_engine == wanted)
    notes: list[tuple[str, str]] = []
    limit_s = rules.max_queue_age_s.of(wanted)
    age_s = health.of(wanted).queue_age_s
    if rule.on_overload == "switch" and limit_s is not None and age_s > limit_s:
        other_limit_s = rules.max_queue_age_s.of(other)
        is_other_free = other_limit_s is None or health.of(other).queue_age_s <= other_limit_s
        why = f"{wanted} has a queue {age_s:g} s old (limit {limit_s:g} s)"
        why_zh = f"{wanted} 的队列已等待 {age_s:g} 秒（上限 {limit_s:g} 秒）"
        if health.of(other).is_up and is_other_free:
            return _switch(other, why, why_zh, is_override=False)
        notes.append((f"{why} and {other} cannot take over: it waits", f"{why_zh}，而 {other} 无法接手：继续等待"))
    if rule.route == "deep" and wanted == "owl2" and features.requested_engine is None and not health.of("glm").is_up:
        notes.append(("glm is down: no first answer before owl2's", "glm 不可用：在 owl2 回答之前没有初步回答"))
    return _Outcome(rule.route, wanted, tuple(notes), is_switched=False)


def _switch(engine: EngineName, why: str, why_zh: str, is_override: bool) -> _Outcome:
    how, how_zh = ("answered by glm alone", "由 glm 单独回答")
    if engine == "owl2":
        how, how_zh = ("answered by owl2, as a job", "改由 owl2 以作业方式回答")
    asked, asked_zh = (", which the caller asked for", "（调用方指定）") if is_override else ("", "")
    return _Outcome(
        _ROUTE_OF[engine], engine, ((f"{why}{asked}: {how}", f"{why_zh}{asked_zh}：{how_zh}"),), is_switched=True
    )


def _nearest_flip(
    index: int, rules: Rules, values: _Values, features: Features, estimate_ms: int
) -> tuple[float, Reason | None]:
    """Find the smallest change of one graded value after which the rules would choose the other route.

    Two ways lead there: a rule above that missed would hold, or the rule that held would miss and a later one decide.
    """
    route = rules.rules[index].route
    margin, feature, wanted = 1.0, "", Condition.model_construct()
    for rule in rules.rules[:index]:
        if rule.route == route:
            continue
        distance, missed, condition = max(
            (
                (_distance(name, values[name], condition, estimate_ms), name, condition)
                for name, condition in rule.when.items()
                if not condition.holds(values[name])
            ),
            key=lambda candidate: candidate[0],
        )
        if distance < margin:
            margin, feature, wanted = distance, missed, condition
    for name, condition in rules.rules[index].when.items():
        distance = _distance(name, values[name], condition, estimate_ms)
        if distance < margin and next(rule for rule in rules.rules[index + 1 :] if _holds(rule, values)).route != route:
            margin, feature, wanted = distance, name, condition
    margin = round(margin, 4)
    if not feature or margin == 1.0:
        return 1.0, None
    return margin, _reason(feature, values, wanted, features, estimate_ms)


def _distance(feature: str, value: Scalar | None, condition: Condition, estimate_ms: int) -> float:
    """How far a value is from the other side of a condition, 0 to 1. Whole steps and labels are 1 away."""
    if value is None or condition.equals is not None or feature in ("num_images", "num_new_images"):
        return 1.0
    bounds = [bound for bound in (condition.at_least, condition.below) if bound is not None]
    gaps = []
    for bound in bounds:
        if feature == "multi_hop":
            scale = max(bound, 1.0 - bound)
        elif feature == "deadline_slack_ms":
            scale = float(estimate_ms)
        else:
            scale = max(bound, 1.0)
        gaps.append(min(1.0, abs(float(value) - bound) / max(scale, 1e-9)))
    return min(gaps)


def _reason(feature: str, values: _Values, wanted: Condition, features: Features, estimate_ms: int) -> Reason:
    value = values[feature]
    assert value is not None  # a condition on what was not measured neither holds nor is near
    threshold: Scalar
    if feature in FEATURE_LABELS or feature in FEATURE_FLAGS:
        assert wanted.equals is not None
        threshold = wanted.equals
    else:
        bound = wanted.at_least if wanted.at_least is not None else wanted.below
        assert bound is not None
        threshold = bound if feature == "multi_hop" else int(bound) if bound.is_integer() else bound
    text, text_zh = _sentences(feature, value, threshold, features, estimate_ms)
    return Reason(feature, value, threshold, text, text_zh)


def _sentences(feature: str, value: Scalar, threshold: Scalar, features: Features, estimate_ms: int) -> tuple[str, str]:
    if feature == "language":
        return (
            f"the question is in {_LANGUAGE_EN[features.language]} ({_SOURCE_EN[features.language_source]})",
            f"问题语言为{_LANGUAGE_ZH[features.language]}（{_SOURCE_ZH[features.language_source]}）",
        )
    if feature == "requested_route":
        return f"the caller asked for the route {value}", f"调用方指定路径 {value}"
    if feature == "requested_engine":
        return f"the caller named the engine {value}", f"调用方指定引擎 {value}"
    if feature == "mentions_several_images":
        cues = ", ".join(features.several_images_cues)
        if value:
            return f"the wording speaks of several pictures ({cues})", f"措辞提到多张图片（{cues}）"
        return "the wording does not speak of several pictures", "措辞没有提到多张图片"
    if feature == "is_interactive":
        if value:
            return (
                f"somebody is waiting ({features.interactive_reason})",
                f"有人在等待（{features.interactive_reason}）",
            )
        return "nobody is said to be waiting", "没有说明有人在等待"
    if feature == "deadline_slack_ms":
        return (
            f"the deadline is {features.deadline_ms} ms and a job is expected to take {estimate_ms} ms",
            f"时限为 {features.deadline_ms} 毫秒，作业预计需要 {estimate_ms} 毫秒",
        )
    if feature == "multi_hop":
        cues = "; ".join(features.multi_hop_cues)
        return (
            f"multi-hop score {value:.2f} against {threshold:g}" + (f" ({cues})" if cues else ""),
            f"多步程度 {value:.2f}，阈值 {threshold:g}" + (f"（{cues}）" if cues else ""),
        )
    name, name_zh = {
        "num_images": ("distinct pictures in the conversation", "对话中不同的图片数"),
        "num_new_images": ("distinct pictures in this turn", "本轮不同的图片数"),
        "num_chars": ("characters", "字符数"),
    }[feature]
    return f"{name}: {value} against {threshold}", f"{name_zh}：{value}，阈值 {threshold}"

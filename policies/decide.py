"""Last step: decide. In: features, rules, the engines' health, the context. Out: a decision that can explain itself.

Total and deterministic: every request gets a route, and the same inputs always get the same one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from policies.complexity import to_chinese
from policies.context import Context
from policies.decision import Arm, Decision, EngineName, Flip, Health, Reason, Route, Scalar
from policies.features import Features
from policies.flip import find_flip
from policies.rules import FEATURE_FLAGS, FEATURE_LABELS, Condition, Quotas, Rules

_OTHER: Final[dict[EngineName, EngineName]] = {"glm": "owl2", "owl2": "glm"}
_ROUTE_OF: Final[dict[EngineName, Route]] = {"glm": "fast", "owl2": "deep"}
_OTHER_ROUTE: Final[dict[Route, Route]] = {"fast": "deep", "deep": "fast"}
_ENGINE_OF: Final[dict[Route, EngineName]] = {"fast": "glm", "deep": "owl2"}

_LANGUAGE_EN: Final = {"zh": "Chinese", "en": "English", "other": "another language", "none": "no language of its own"}
_LANGUAGE_ZH: Final = {"zh": "中文", "en": "英文", "other": "其他语言", "none": "无法判断语言"}
_SOURCE_EN: Final = {
    "script": "by its script",
    "langdetect": "by its n-grams",
    "short": "by its words",
    "history": "from earlier turns",
    "none": "nothing to read",
}
_SOURCE_ZH: Final = {
    "script": "依据文字",
    "langdetect": "依据字符片段",
    "short": "依据词汇",
    "history": "依据之前的对话",
    "none": "没有可读的文字",
}

# Of its limit: an overloaded engine gets other work again once its queue is no older than this.
RECOVERED_SHARE: Final = 0.5

_Values = Mapping[str, Scalar | None]


@dataclass(frozen=True, slots=True)
class _Wish:
    """What is wanted before the quotas and the engines' health have their say.

    Pinned = a caller asked for it or somebody waits: nothing but a dead engine changes it.
    """

    route: Route
    engine: EngineName
    rule: str
    reasons: tuple[Reason, ...]
    is_pinned: bool
    enable_thinking: bool = False
    panel: tuple[Arm, ...] = ()
    flip: Flip | None = None


@dataclass(frozen=True, slots=True)
class _Outcome:
    """Where a wish ends up once the engines' health had its say; and, where an overload decided, its measure."""

    route: Route
    engine: EngineName
    notes: tuple[tuple[str, str], ...]
    is_switched: bool
    reasons: tuple[Reason, ...] = ()


def decide(features: Features, rules: Rules, health: Health = Health(), context: Context = Context()) -> Decision:
    """Choose the route of one request.

    The rules say what is wanted, at the dial's place. Unless the rule pins it, the caller's key, the conversation's
    last decision and the canary may then choose otherwise, in this order, and a used-up quota may turn it down. Health
    comes last.

    Args:
        features: what `policies.features.measure` says of it.
        rules: a preset; see `policies.rules`.
        health: the engines now. It may change who answers, never what was wanted.
        context: who asks, what went before, what is used up.
    """
    overrides = rules.overrides_for(context)
    dial = next(value for value in (context.dial, overrides.dial, rules.dial) if value is not None)
    rules = rules.turned(dial)
    estimate_ms = health.estimated_deep_ms if health.estimated_deep_ms is not None else rules.assumed_deep_ms
    values = _values(features, estimate_ms)
    index = rules.first_match(values)
    rule = rules.rules[index]
    ruled = _Wish(
        route=rule.route,
        engine=rule.answering_engine,
        rule=rule.name,
        reasons=tuple(_reason(name, values, wanted, features, estimate_ms) for name, wanted in rule.when.items()),
        is_pinned=rule.on_overload == "wait",
        enable_thinking=rule.enable_thinking,
        panel=rule.panel,
        flip=find_flip(index, rules, values, features.deadline_ms, estimate_ms),
    )
    wish = ruled if ruled.is_pinned else _overlay(ruled, rules, overrides.route, context)
    wish, quota_notes = _heed_quota(wish, overrides.quotas or rules.quotas, health, context)
    outcome = _heed_health(wish, rules, features, health)
    margin, nearest = _nearest_flip(index, rules, values, features, estimate_ms)
    panel, panel_notes = _seat_panel(wish, outcome, health)
    notes = (*quota_notes, *outcome.notes, *panel_notes)
    return Decision(
        route=outcome.route,
        engine=outcome.engine,
        rule=wish.rule,
        reasons=(*wish.reasons, *outcome.reasons),
        degraded=tuple(english for english, _ in notes),
        margin=margin,
        preset=rules.name,
        enable_thinking=wish.enable_thinking and not outcome.is_switched,
        nearest=nearest,
        degraded_zh=tuple(chinese for _, chinese in notes),
        panel=panel,
        flip=wish.flip,
        dial=min(1.0, max(0.0, dial)),
        multi_hop_threshold=rules.multi_hop_threshold,
    )


def _overlay(ruled: _Wish, rules: Rules, key_route: Route | None, context: Context) -> _Wish:
    """Let the key, the conversation's last decision or the canary choose instead of the rules, in this order."""
    if key_route is not None:
        why = Reason(
            "key", context.key_label or "", key_route, f"the key goes {key_route}", f"该密钥固定走 {key_route} 路径"
        )
        if key_route == ruled.route:
            return replace(ruled, reasons=(*ruled.reasons, why), flip=None)
        return _Wish(key_route, _ENGINE_OF[key_route], "key-override", (why,), is_pinned=False)
    previous = context.previous
    if rules.is_sticky and previous is not None and previous.image_keys == context.image_keys:
        count = len(context.image_keys)
        why = Reason(
            "image_keys",
            count,
            None,
            f"the conversation stays {previous.route} while its {count} pictures are the same",
            f"同一对话的 {count} 张图片没有变化，保持 {previous.route} 路径",
        )
        if (previous.route, previous.engine) == (ruled.route, ruled.engine):
            return replace(ruled, reasons=(*ruled.reasons, why), flip=None)
        flip = None
        if previous.route != ruled.route:
            flip = Flip(
                "image_keys",
                "the same",
                "others",
                ruled.route,
                f"another set of pictures would send it {ruled.route}",
                f"图片集合改变后将走 {ruled.route} 路径",
            )
        return _Wish(previous.route, previous.engine, "same-conversation", (why,), is_pinned=False, flip=flip)
    canary = rules.canary
    if canary is not None and context.bucket is not None and context.bucket < canary.share:
        why = Reason(
            "bucket",
            context.bucket,
            canary.share,
            f"the conversation is one of the {canary.share:.0%} that try {canary.route}",
            f"该对话属于试走 {canary.route} 路径的 {canary.share:.0%}",
        )
        flip = None
        if canary.route != ruled.route:
            flip = Flip(
                "bucket",
                context.bucket,
                canary.share,
                ruled.route,
                f"outside the canary's share it would go {ruled.route}",
                f"不在试验份额内时将走 {ruled.route} 路径",
            )
        engine = canary.engine or _ENGINE_OF[canary.route]
        return _Wish(
            canary.route, engine, "canary", (why,), is_pinned=False, enable_thinking=canary.enable_thinking, flip=flip
        )
    return ruled


def _heed_quota(
    wish: _Wish, quotas: Quotas, health: Health, context: Context
) -> tuple[_Wish, tuple[tuple[str, str], ...]]:
    """Send unpinned work the other way when its route has had its share, if the other engine is there to take it."""
    limit, used = quotas.of(wish.route), context.route_shares.get(wish.route, 0.0)
    if wish.is_pinned or limit is None or used < limit:
        return wish, ()
    other = _OTHER_ROUTE[wish.route]
    engine = _ENGINE_OF[other]
    why = f"the {wish.route} route has had its share ({used:.0%} of {limit:.0%})"
    why_zh = f"{wish.route} 路径的份额已用完（{used:.0%}，上限 {limit:.0%}）"
    if not health.of(engine).is_up:
        return wish, (
            (f"{why} and {engine} is down: it goes there all the same", f"{why_zh}，而 {engine} 不可用：仍走原路径"),
        )
    how, how_zh = ("answered by glm alone", "由 glm 单独回答")
    if engine == "owl2":
        how, how_zh = ("answered by owl2, as a job", "改由 owl2 以作业方式回答")
    return (
        replace(wish, route=other, engine=engine, enable_thinking=False, panel=()),
        ((f"{why}: {how}", f"{why_zh}：{how_zh}"),),
    )


def _seat_panel(wish: _Wish, outcome: _Outcome, health: Health) -> tuple[tuple[Arm, ...], tuple[tuple[str, str], ...]]:
    """Leave out the arms whose engine is down; who is alone is no panel."""
    if not wish.panel or outcome.is_switched:
        return (), ()
    if not health.of(outcome.engine).is_up:
        return wish.panel, ()  # everybody is down: kept until one is back
    seated = tuple(arm for arm in wish.panel if health.of("owl2" if arm == "owl2" else "glm").is_up)
    if len(seated) == len(wish.panel):
        return seated, ()
    missing = ", ".join(arm for arm in wish.panel if arm not in seated)
    note = (f"the panel sits without {missing}", f"评审组缺少 {missing}")
    return (seated if len(seated) > 1 else ()), (note,)


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
    flip = "" if decision.flip is None else decision.flip.text if is_en else decision.flip.text_zh
    threshold = ""
    if decision.multi_hop_threshold is not None:
        threshold = (" against {:g}" if is_en else "，阈值 {:g}").format(decision.multi_hop_threshold)
    joiner = "; " if is_en else "；"
    cues = "; ".join(features.multi_hop_cues) if is_en else "；".join(map(to_chinese, features.multi_hop_cues))
    shown_cues = f" ({cues or none})" if is_en else f"（{cues or none}）"
    rows = [
        (
            (
                "route",
                f"{decision.route}, answered by {decision.engine}{', thinking' if decision.enable_thinking else ''}"
                + (f"; asked: {', '.join(decision.panel)}" if decision.panel else ""),
            )
            if is_en
            else (
                "路径",
                f"{decision.route}，由 {decision.engine} 回答{'（先思考）' if decision.enable_thinking else ''}"
                + (f"；同时询问：{'、'.join(decision.panel)}" if decision.panel else ""),
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
        (
            "would change it" if is_en else "改变条件",
            flip or ("no single change" if is_en else "没有单一的改变可以做到"),
        ),
        *([("dial" if is_en else "旋钮", f"{decision.dial:g}")] if decision.dial != 0.5 else []),
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
            f"{features.multi_hop:.2f}{threshold}{shown_cues}",
        ),
        (
            "interactive" if is_en else "交互",
            (features.interactive_reason or "no") if is_en else _to_chinese_reason(features.interactive_reason) or "否",
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


def _to_chinese_reason(reason: str | None) -> str:
    """Say ``service_tier is priority`` in Chinese: a field and its value keep their names."""
    return (reason or "").replace(" is ", " 为 ")


def _values(features: Features, estimate_ms: int) -> dict[str, Scalar | None]:
    return {
        "language": features.language,
        "requested_route": features.requested_route,
        "requested_engine": features.requested_engine,
        "mentions_several_images": features.mentions_several_images,
        "is_courtesy": features.is_courtesy,
        "is_interactive": features.is_interactive,
        "num_images": features.num_images,
        "num_new_images": features.num_new_images,
        "multi_hop": features.multi_hop,
        "num_chars": features.num_chars,
        "deadline_slack_ms": None if features.deadline_ms is None else features.deadline_ms - estimate_ms,
    }


def _heed_health(wish: _Wish, rules: Rules, features: Features, health: Health) -> _Outcome:
    wanted = wish.engine
    other = _OTHER[wanted]
    if not health.of(wanted).is_up:
        if not health.of(other).is_up:
            note = (
                "glm and owl2 are down: the route is kept until one is back",
                "glm 和 owl2 均不可用：保留原路径，等待恢复",
            )
            return _Outcome(wish.route, wanted, (note,), is_switched=False)
        return _switch(other, f"{wanted} is down", f"{wanted} 不可用", features.requested_engine == wanted)
    notes: list[tuple[str, str]] = []
    why = None if wish.is_pinned else _overload(wanted, rules, health)
    if why is not None:
        if health.of(other).is_up and health.of(other).can_take_over and _overload(other, rules, health) is None:
            return _switch(other, why.text, why.text_zh, is_override=False, reasons=(why,))
        notes.append(
            (f"{why.text} and {other} cannot take over: it waits", f"{why.text_zh}，而 {other} 无法接手：继续等待")
        )
    if wish.route == "deep" and wanted == "owl2" and features.requested_engine is None and not health.of("glm").is_up:
        notes.append(("glm is down: no first answer before owl2's", "glm 不可用：在 owl2 回答之前没有初步回答"))
    return _Outcome(wish.route, wanted, tuple(notes), is_switched=False)


def _overload(engine: EngineName, rules: Rules, health: Health) -> Reason | None:
    """Say why an engine is overloaded: its queue is over the limit, or was and is not down to half of it; None if not.

    Half, so that the route does not go to and fro with every request that is taken from a queue near its limit.
    """
    limit_s = rules.max_queue_age_s.of(engine)
    state = health.of(engine)
    if limit_s is None:
        return None
    age_s, back_s = state.queue_age_s, limit_s * RECOVERED_SHARE
    if age_s > limit_s:
        return Reason(
            "queue_age_s",
            age_s,
            limit_s,
            f"{engine} has a queue {age_s:g} s old (limit {limit_s:g} s)",
            f"{engine} 的队列已等待 {age_s:g} 秒（上限 {limit_s:g} 秒）",
        )
    if state.was_overloaded and age_s > back_s:
        return Reason(
            "queue_age_s",
            age_s,
            back_s,
            f"{engine} was over its limit of {limit_s:g} s and has a queue {age_s:g} s old (back at {back_s:g} s)",
            f"{engine} 的队列曾超过上限 {limit_s:g} 秒，现已等待 {age_s:g} 秒（降到 {back_s:g} 秒后恢复）",
        )
    return None


def _switch(engine: EngineName, why: str, why_zh: str, is_override: bool, reasons: tuple[Reason, ...] = ()) -> _Outcome:
    how, how_zh = ("answered by glm alone", "由 glm 单独回答")
    if engine == "owl2":
        how, how_zh = ("answered by owl2, as a job", "改由 owl2 以作业方式回答")
    asked, asked_zh = (", which the caller asked for", "（调用方指定）") if is_override else ("", "")
    return _Outcome(
        _ROUTE_OF[engine],
        engine,
        ((f"{why}{asked}: {how}", f"{why_zh}{asked_zh}：{how_zh}"),),
        is_switched=True,
        reasons=reasons,
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
        if distance < margin and rules.rules[rules.first_match(values, index + 1)].route != route:
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
    if feature == "is_courtesy":
        if value:
            return "the turn is courtesy and asks nothing", "本轮只是客套话，没有提问"
        return "the turn asks something", "本轮提出了问题"
    if feature == "is_interactive":
        if value:
            return (
                f"somebody is waiting ({features.interactive_reason})",
                f"有人在等待（{_to_chinese_reason(features.interactive_reason)}）",
            )
        return "nobody is said to be waiting", "没有说明有人在等待"
    if feature == "deadline_slack_ms":
        return (
            f"the deadline is {features.deadline_ms} ms and a job is expected to take {estimate_ms} ms",
            f"时限为 {features.deadline_ms} 毫秒，作业预计需要 {estimate_ms} 毫秒",
        )
    if feature == "multi_hop":
        cues = "; ".join(features.multi_hop_cues)
        cues_zh = "；".join(map(to_chinese, features.multi_hop_cues))
        return (
            f"multi-hop score {value:.2f} against {threshold:g}" + (f" ({cues})" if cues else ""),
            f"多步程度 {value:.2f}，阈值 {threshold:g}" + (f"（{cues_zh}）" if cues else ""),
        )
    name, name_zh = {
        "num_images": ("distinct pictures in the conversation", "对话中不同的图片数"),
        "num_new_images": ("distinct pictures in this turn", "本轮不同的图片数"),
        "num_chars": ("characters", "字符数"),
    }[feature]
    return f"{name}: {value} against {threshold}", f"{name_zh}：{value}，阈值 {threshold}"

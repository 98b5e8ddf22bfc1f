"""Last step: decide. In: features, rules, the engines' health, the context. Out: a decision; `explain` tells it.

Total and deterministic: every request gets a route, and the same inputs always get the same one.
"""

from dataclasses import dataclass, replace
from typing import Final

from policies import sentences, texts
from policies.context import Context
from policies.decision import Arm, Decision, EngineName, Flip, Health, Reason, Route, Scalar
from policies.features import Features
from policies.flip import find_flip
from policies.program import Program, Values, program_of
from policies.rules import FEATURE_NAMES, Condition, Quotas, Rules
from policies.text import Text

_OTHER: Final[dict[EngineName, EngineName]] = {"glm": "owl2", "owl2": "glm"}
_ROUTE_OF: Final[dict[EngineName, Route]] = {"glm": "fast", "owl2": "deep"}
_OTHER_ROUTE: Final[dict[Route, Route]] = {"fast": "deep", "deep": "fast"}
_ENGINE_OF: Final[dict[Route, EngineName]] = {"fast": "glm", "deep": "owl2"}

# Of its limit: an overloaded engine gets other work again once its queue is no older than this.
RECOVERED_SHARE: Final = 0.5


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
    notes: tuple[Text, ...]
    is_switched: bool
    reasons: tuple[Reason, ...] = ()


def decide(features: Features, rules: Rules, health: Health = Health(), context: Context = Context()) -> Decision:
    """Choose the route of one request.

    The rules say what is wanted, at the dial's place. Unless the rule pins it, the caller's key, the conversation's
    last decision and the canary may then choose otherwise, in this order, and a used-up quota may turn it down. Health
    comes last. With functions it is GLM's, by the rule `tools` where anything else would have been wanted.

    Args:
        features: what `policies.features.measure` says of it.
        rules: a preset; see `policies.rules`.
        health: the engines now. It may change who answers, never what was wanted.
        context: who asks, what went before, what is used up.
    """
    overrides = rules.overrides_for(context)
    dial = next(value for value in (context.dial, overrides.dial, rules.dial) if value is not None)
    program = program_of(rules, dial)
    estimate_ms = health.estimated_deep_ms if health.estimated_deep_ms is not None else rules.assumed_deep_ms
    values = _values(features, estimate_ms)
    index = program.first_match(values)
    rule = program.rules.rules[index]
    tell = _Teller(values, features, estimate_ms)
    ruled = _Wish(
        route=rule.route,
        engine=rule.answering_engine,
        rule=rule.name,
        reasons=tuple([tell(check.place, check.condition) for check in program.rows[index]]),
        is_pinned=rule.on_overload == "wait",
        enable_thinking=rule.enable_thinking,
        panel=rule.panel,
        flip=find_flip(index, program, values, features.deadline_ms, estimate_ms),
    )
    wish = ruled if ruled.is_pinned else _overlay(ruled, rules, overrides.route, context)
    wish = _with_tools(wish) if features.uses_tools else wish
    wish, quota_notes = _heed_quota(wish, overrides.quotas or rules.quotas, health, context)
    outcome = _heed_health(wish, rules, features, health)
    # With functions there is one way to go, whatever is measured.
    margin, nearest = (1.0, None) if features.uses_tools else _nearest_flip(index, program, values, estimate_ms, tell)
    panel, panel_notes = _seat_panel(wish, outcome, health)
    notes = (*quota_notes, *outcome.notes, *panel_notes)
    return Decision(
        route=outcome.route,
        engine=outcome.engine,
        rule=wish.rule,
        reasons=(*wish.reasons, *outcome.reasons),
        degraded=tuple(note.en for note in notes),
        margin=margin,
        preset=rules.name,
        enable_thinking=wish.enable_thinking and not outcome.is_switched,
        nearest=nearest,
        degraded_zh=tuple(note.zh for note in notes),
        panel=panel,
        # Where health made that change already, there is nothing left to change.
        flip=None if wish.flip is not None and wish.flip.route == outcome.route else wish.flip,
        dial=min(1.0, max(0.0, dial)),
        multi_hop_threshold=program.multi_hop_threshold,
        overloaded=wish.engine if outcome.reasons else None,
    )


def _overlay(ruled: _Wish, rules: Rules, key_route: Route | None, context: Context) -> _Wish:
    """Let the key, the conversation's last decision or the canary choose instead of the rules, in this order."""
    if key_route is not None:
        why = Reason.of("key", context.owner or "", key_route, texts.KEY.fill(route=key_route))
        if key_route == ruled.route:
            return replace(ruled, reasons=(*ruled.reasons, why), flip=None)
        return _Wish(key_route, _ENGINE_OF[key_route], "key-override", (why,), is_pinned=False)
    previous = context.previous
    if rules.is_sticky and previous is not None and previous.image_keys == context.image_keys:
        count = len(context.image_keys)
        said = texts.SAME_PICTURES.fill(route=previous.route, count=count)
        why = Reason.of("image_keys", count, None, said)
        if (previous.route, previous.engine) == (ruled.route, ruled.engine):
            return replace(ruled, reasons=(*ruled.reasons, why), flip=None)
        flip = None
        if previous.route != ruled.route:
            other = texts.OTHER_PICTURES.fill(route=ruled.route)
            flip = Flip.of("image_keys", "the same", "others", ruled.route, other)
        return _Wish(previous.route, previous.engine, "same-conversation", (why,), is_pinned=False, flip=flip)
    canary = rules.canary
    if canary is not None and context.bucket is not None and context.bucket < canary.share:
        said = texts.CANARY.fill(share=canary.share, route=canary.route)
        why = Reason.of("bucket", context.bucket, canary.share, said)
        flip = None
        if canary.route != ruled.route:
            other = texts.NO_CANARY.fill(route=ruled.route)
            flip = Flip.of("bucket", context.bucket, canary.share, ruled.route, other)
        engine = canary.engine or _ENGINE_OF[canary.route]
        return _Wish(
            canary.route, engine, "canary", (why,), is_pinned=False, enable_thinking=canary.enable_thinking, flip=flip
        )
    return ruled


def _with_tools(wish: _Wish) -> _Wish:
    """Keep a request with functions where they can be called; panels and second looks are jobs."""
    if (wish.route, wish.engine) == ("fast", "glm"):
        return replace(wish, is_pinned=True, panel=(), flip=None)
    why = Reason.of("uses_tools", True, None, texts.TOOLS.fill(rule=wish.rule, route=wish.route))
    flip = None
    if wish.route == "deep":
        flip = Flip.of("uses_tools", True, False, wish.route, texts.NO_TOOLS.fill(route=wish.route))
    enable_thinking = wish.enable_thinking and wish.engine == "glm"
    return _Wish("fast", "glm", "tools", (why,), is_pinned=True, enable_thinking=enable_thinking, flip=flip)


def _heed_quota(wish: _Wish, quotas: Quotas, health: Health, context: Context) -> tuple[_Wish, tuple[Text, ...]]:
    """Send unpinned work the other way when its route has had its share, if the other engine is there to take it."""
    limit, used = quotas.of(wish.route), context.route_shares.get(wish.route, 0.0)
    if wish.is_pinned or limit is None or used < limit:
        return wish, ()
    other = _OTHER_ROUTE[wish.route]
    engine = _ENGINE_OF[other]
    why = texts.QUOTA.fill(route=wish.route, used=used, limit=limit)
    if not health.of(engine).is_up:
        return wish, (texts.QUOTA_KEPT.fill(why=why, engine=engine),)
    moved = replace(wish, route=other, engine=engine, enable_thinking=False, panel=())
    return moved, (texts.BECAUSE.fill(why=why, how=texts.HOW[engine]),)


def _seat_panel(wish: _Wish, outcome: _Outcome, health: Health) -> tuple[tuple[Arm, ...], tuple[Text, ...]]:
    """Leave out the arms whose engine is down; who is alone is no panel."""
    if not wish.panel or outcome.is_switched:
        return (), ()
    if not health.of(outcome.engine).is_up:
        return wish.panel, ()  # everybody is down: kept until one is back
    seated = tuple(arm for arm in wish.panel if health.of("owl2" if arm == "owl2" else "glm").is_up)
    if len(seated) == len(wish.panel):
        return seated, ()
    missing = texts.ENUMERATION.join(Text.same(arm) for arm in wish.panel if arm not in seated)
    note = texts.PANEL_MISSING.fill(arms=missing)
    return (seated if len(seated) > 1 else ()), (note,)


def _values(features: Features, estimate_ms: int) -> Values:
    """Return the values in the order of `FEATURE_NAMES`."""
    return (
        features.language,
        features.requested_route,
        features.requested_engine,
        features.mentions_several_images,
        features.is_courtesy,
        features.is_interactive,
        features.num_images,
        features.num_new_images,
        features.multi_hop,
        features.num_chars,
        None if features.deadline_ms is None else features.deadline_ms - estimate_ms,
    )


def _heed_health(wish: _Wish, rules: Rules, features: Features, health: Health) -> _Outcome:
    wanted = wish.engine
    if features.uses_tools:
        stays = [texts.TOOLS_NOT_DEEP] if features.requested_route == "deep" else []
        down = [] if health.of(wanted).is_up else [texts.TOOLS_NEED_GLM]
        return _Outcome(wish.route, wanted, (*stays, *down), is_switched=False)
    other = _OTHER[wanted]
    if not health.of(wanted).is_up:
        if not health.of(other).is_up:
            return _Outcome(wish.route, wanted, (texts.ALL_DOWN,), is_switched=False)
        why_down = texts.DOWN.fill(engine=wanted)
        if features.requested_engine == wanted:
            why_down += texts.ASKED_FOR
        return _switch(other, why_down)
    notes: list[Text] = []
    why = None if wish.is_pinned else _overload(wanted, rules, health)
    if why is not None:
        if health.of(other).is_up and health.of(other).can_take_over and _overload(other, rules, health) is None:
            return _switch(other, Text(why.text, why.text_zh), reasons=(why,))
        notes.append(texts.NO_TAKE_OVER.fill(why=Text(why.text, why.text_zh), engine=other))
    if wish.route == "deep" and wanted == "owl2" and features.requested_engine is None and not health.of("glm").is_up:
        notes.append(texts.NO_DRAFT)
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
        said = texts.OVERLOADED.fill(engine=engine, age_s=age_s, limit_s=limit_s)
        return Reason.of("queue_age_s", age_s, limit_s, said)
    if state.was_overloaded and age_s > back_s:
        said = texts.STILL_OVERLOADED.fill(engine=engine, age_s=age_s, limit_s=limit_s, back_s=back_s)
        return Reason.of("queue_age_s", age_s, back_s, said)
    return None


def _switch(engine: EngineName, why: Text, reasons: tuple[Reason, ...] = ()) -> _Outcome:
    note = texts.BECAUSE.fill(why=why, how=texts.HOW[engine])
    return _Outcome(_ROUTE_OF[engine], engine, (note,), is_switched=True, reasons=reasons)


def _nearest_flip(
    index: int, program: Program, values: Values, estimate_ms: int, tell: "_Teller"
) -> tuple[float, Reason | None]:
    """Find the smallest change of one graded value after which the rules would choose the other route.

    Two ways lead there: a rule above that missed would hold, or the rule that held would miss and a later one decide.
    """
    route = program.routes[index]
    margin, nearest = 1.0, None
    for row, other in zip(program.rows[:index], program.routes, strict=False):
        if other == route:
            continue
        farthest, missing = -1.0, None
        for check in row:
            place, equals, low, high, bounds, _ = check
            value = values[place]
            if equals is None:
                if value is not None and low <= value < high:  # type: ignore[operator]
                    continue
            elif value == equals:
                continue
            distance = _distance(value, bounds, estimate_ms) if bounds else 1.0
            if distance > farthest:
                farthest, missing = distance, check
            if distance >= margin:
                break
        if 0 <= farthest < margin:
            margin, nearest = farthest, missing
    for check in program.rows[index]:
        distance = _distance(values[check.place], check.bounds, estimate_ms)
        if distance < margin and program.routes[program.first_match(values, index + 1)] != route:
            margin, nearest = distance, check
    margin = round(margin, 4)
    if nearest is None or margin == 1.0:
        return 1.0, None
    return margin, tell(nearest.place, nearest.condition)


def _distance(value: Scalar | None, bounds: tuple[tuple[float, float | None], ...], estimate_ms: int) -> float:
    """How far a value is from the other side of a condition, 0 to 1. Whole steps and labels are 1 away."""
    if value is None or not bounds:
        return 1.0
    number = float(value)
    return min(
        [
            min(1.0, abs(number - bound) / max(float(estimate_ms) if scale is None else scale, 1e-9))
            for bound, scale in bounds
        ]
    )


class _Teller:
    """Tells how the values of one request stand to conditions, each of them once."""

    def __init__(self, values: Values, features: Features, estimate_ms: int) -> None:
        self._values = values
        self._features = features
        self._estimate_ms = estimate_ms
        self._told: dict[tuple[int, int], Reason] = {}

    def __call__(self, place: int, wanted: Condition) -> Reason:
        known = self._told.get((place, id(wanted)))
        if known is not None:
            return known
        feature, value = FEATURE_NAMES[place], self._values[place]
        assert value is not None  # a condition on what was not measured neither holds nor is near
        threshold: Scalar
        if wanted.equals is not None:
            threshold = wanted.equals
        else:
            bound = wanted.at_least if wanted.at_least is not None else wanted.below
            assert bound is not None
            threshold = bound if feature == "multi_hop" else int(bound) if bound.is_integer() else bound
        said = sentences.reason(feature, value, threshold, self._features, self._estimate_ms)
        found = self._told[place, id(wanted)] = Reason.of(feature, value, threshold, said)
        return found

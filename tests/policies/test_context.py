"""What beside the question may choose: the dial, the key, the conversation, the canary, the quotas, the panel."""

import pytest

from policies.context import Context, Previous, bucket_of
from policies.decide import decide
from policies.decision import EngineHealth, Health
from policies.explain import explain
from policies.rules import Canary, KeyOverrides, Quotas, load_preset

DOWN = EngineHealth(is_up=False)
INTERACTIVE = {"is_interactive": True, "interactive_reason": "service_tier is priority"}


@pytest.mark.parametrize(
    ("dial", "threshold"), [(0.0, 1.0), (0.25, 0.75), (0.5, 0.5), (0.75, 0.25), (1.0, 0.0), (-3, 1.0), (7, 0.0)]
)
def test_the_dial_moves_the_multi_hop_threshold_and_half_is_the_preset_as_written(seed, features, dial, threshold):
    decision = decide(features(), seed, context=Context(dial=dial))

    assert decision.multi_hop_threshold == threshold
    if dial == 0.5:
        assert seed.turned(dial) is seed


def test_turning_the_dial_up_never_makes_a_decision_less_deep(seed, features):
    for score in (0.0, 0.2, 0.5, 0.8, 0.9999):
        routes = [decide(features(multi_hop=score), seed, context=Context(dial=step / 10)).route for step in range(11)]

        assert routes == sorted(routes, reverse=True)  # fast ... fast deep ... deep
    assert {decide(features(multi_hop=0.4), seed, context=Context(dial=dial)).route for dial in (0.4, 0.7)} == {
        "fast",
        "deep",
    }


def test_the_callers_dial_outranks_the_keys_and_that_the_presets(seed, features):
    rules = seed.model_copy(update={"dial": 0.1, "keys": {"ops": KeyOverrides(dial=0.2)}})

    assert decide(features(), rules).dial == 0.1
    assert decide(features(), rules, context=Context(owner="ops")).dial == 0.2
    assert decide(features(), rules, context=Context(owner="ops", dial=0.9)).dial == 0.9


@pytest.mark.parametrize(
    ("context", "route", "rule"),
    [
        (Context(), "fast", "chinese"),
        (Context(owner="c0ffee"), "deep", "key-override"),
        (Context(owner="stranger"), "fast", "chinese"),
    ],
)
def test_a_key_may_have_its_own_route(seed, features, context, route, rule):
    deep = KeyOverrides(route="deep")
    rules = seed.model_copy(update={"keys": {"c0ffee": deep}})

    decision = decide(features(), rules, context=context)

    assert (decision.route, decision.rule) == (route, rule)
    assert decision.engine == {"fast": "glm", "deep": "owl2"}[route]


@pytest.mark.parametrize("changes", [INTERACTIVE, {"requested_route": "fast"}, {"requested_engine": "glm"}])
def test_what_a_caller_pins_is_left_alone_by_keys_quotas_canaries_and_earlier_turns(seed, features, changes):
    rules = seed.model_copy(
        update={
            "keys": {"k": KeyOverrides(route="deep")},
            "canary": Canary(share=1.0, route="deep"),
            "quotas": Quotas(fast=0.0),
            "is_sticky": True,
        }
    )
    context = Context("k", bucket=0.0, previous=Previous("deep", "owl2"), route_shares={"fast": 1.0})

    assert decide(features(**changes), rules, context=context) == decide(features(**changes), seed)


def test_a_conversation_keeps_its_route_until_its_pictures_change(seed, features):
    sticky = seed.model_copy(update={"is_sticky": True})
    previous = Previous("deep", "owl2", frozenset("a"))

    same = decide(features(), sticky, context=Context(previous=previous, image_keys=frozenset("a")))
    changed = decide(features(), sticky, context=Context(previous=previous, image_keys=frozenset("ab")))
    not_sticky = decide(features(), seed, context=Context(previous=previous, image_keys=frozenset("a")))

    assert (same.route, same.rule) == ("deep", "same-conversation")
    assert same.flip is not None
    assert same.flip.route == "fast"
    assert (changed.route, not_sticky.route) == ("fast", "fast")


def test_a_conversation_that_would_go_there_anyway_keeps_its_rule(seed, features):
    sticky = seed.model_copy(update={"is_sticky": True})

    decision = decide(features(), sticky, context=Context(previous=Previous("fast", "glm")))

    assert decision.rule == "chinese"
    assert decision.reasons[-1].feature == "image_keys"


@pytest.mark.parametrize(("bucket", "rule"), [(0.0, "canary"), (0.0999, "canary"), (0.1, "chinese"), (None, "chinese")])
def test_the_canary_takes_its_share_of_the_buckets(seed, features, bucket, rule):
    rules = seed.model_copy(update={"canary": Canary(share=0.1, route="deep", engine="glm", enable_thinking=True)})

    decision = decide(features(), rules, context=Context(bucket=bucket))

    assert decision.rule == rule
    if rule == "canary":
        assert (decision.route, decision.engine, decision.enable_thinking) == ("deep", "glm", True)


def test_buckets_are_even_and_the_same_for_the_same_conversation():
    buckets = [bucket_of(f"conversation-{number}") for number in range(2_000)]

    assert all(0.0 <= bucket < 1.0 for bucket in buckets)
    assert 0.08 < sum(bucket < 0.1 for bucket in buckets) / len(buckets) < 0.12
    assert bucket_of("conversation-7") == buckets[7]
    assert 0.0 <= bucket_of("\ud800") < 1.0


@pytest.mark.parametrize(("share", "route"), [(0.0, "deep"), (0.29, "deep"), (0.3, "fast"), (1.0, "fast")])
def test_a_used_up_quota_sends_unpinned_work_the_other_way_and_says_so(seed, features, share, route):
    rules = seed.model_copy(update={"quotas": Quotas(deep=0.3)})

    decision = decide(features(language="en"), rules, context=Context(route_shares={"deep": share}))

    assert decision.route == route
    assert bool(decision.degraded) == (route == "fast")
    assert len(decision.degraded_zh) == len(decision.degraded)
    assert decision.rule == "english"


def test_a_keys_quota_replaces_the_presets(seed, features):
    rules = seed.model_copy(update={"quotas": Quotas(deep=0.3), "keys": {"vip": KeyOverrides(quotas=Quotas())}})
    context = Context(owner="vip", route_shares={"deep": 0.9})

    assert decide(features(language="en"), rules, context=context).route == "deep"


def test_a_quota_gives_way_when_the_other_engine_is_down(seed, features):
    rules = seed.model_copy(update={"quotas": Quotas(deep=0.3)})

    decision = decide(features(language="en"), rules, Health({"glm": DOWN}), Context(route_shares={"deep": 0.5}))

    assert (decision.route, decision.engine) == ("deep", "owl2")
    assert "it goes there all the same" in decision.degraded[0]


@pytest.mark.parametrize(
    ("down", "panel", "engine"),
    [
        ((), ("glm", "glm-thinking", "owl2"), "owl2"),
        (("glm",), (), "owl2"),
        (("owl2",), (), "glm"),
        (("glm", "owl2"), ("glm", "glm-thinking", "owl2"), "owl2"),
    ],
)
def test_the_panel_preset_asks_every_arm_that_is_up(features, down, panel, engine):
    decision = decide(features(language="en"), load_preset("panel"), Health(dict.fromkeys(down, DOWN)))

    assert (decision.panel, decision.engine) == (panel, engine)
    assert bool(down) == bool(decision.degraded)


def test_a_panel_is_shown_in_both_languages(features):
    measured = features(language="en")
    decision = decide(measured, load_preset("panel"))

    assert "asked: glm, glm-thinking, owl2" in explain(decision, measured)
    assert "同时询问：glm、glm-thinking、owl2" in explain(decision, measured, "zh")


def test_the_thinking_preset_sends_the_same_questions_deep_as_the_default_but_to_glm(seed, features):
    thinking = load_preset("glm-thinking")
    for changes in (
        {},
        {"language": "en"},
        {"multi_hop": 0.7},
        {"num_images": 2},
        {"requested_route": "deep"},
        INTERACTIVE,
    ):
        decision = decide(features(**changes), thinking)

        assert decision.route == decide(features(**changes), seed).route
        assert (decision.engine, decision.enable_thinking) == ("glm", decision.route == "deep")

"""A request with functions stays with GLM, whatever else would have been decided, and says so."""

import pytest

from policies.context import Context
from policies.decide import decide
from policies.decision import EngineHealth, Health
from policies.explain import explain
from policies.features import Question, measure
from policies.rules import load_preset, preset_names

DOWN = EngineHealth(is_up=False)
CASES = [
    ({"language": "en"}, "english"),
    ({"num_images": 2, "num_new_images": 2}, "several-pictures"),
    ({"requested_route": "deep"}, "caller-chose-deep"),
]


@pytest.mark.parametrize(("changes", "rule"), CASES)
def test_what_would_go_deep_stays_fast_and_names_the_rule_that_it_broke(seed, features, changes, rule):
    decision = decide(features(**changes, uses_tools=True), seed)

    assert (decision.route, decision.engine, decision.rule) == ("fast", "glm", "tools")
    assert decide(features(**changes), seed).rule == rule
    (reason,) = decision.reasons
    assert (reason.feature, rule in reason.text, rule in reason.text_zh) == ("uses_tools", True, True)
    assert decision.flip is not None
    assert (decision.flip.feature, decision.flip.route) == ("uses_tools", "deep")
    assert bool(decision.degraded) == (rule == "caller-chose-deep")
    for language in ("en", "zh"):
        assert rule in explain(decision, features(**changes, uses_tools=True), language)


def test_what_goes_fast_anyway_keeps_its_own_rule(seed, features):
    decision = decide(features(uses_tools=True), seed)

    assert (decision.route, decision.rule, decision.flip, decision.margin) == ("fast", "chinese", None, 1.0)


@pytest.mark.parametrize("preset", preset_names())
@pytest.mark.parametrize("health", [Health(), Health({"glm": EngineHealth(queue_age_s=1e6)}), Health({"glm": DOWN})])
def test_neither_a_preset_nor_a_quota_nor_health_gives_it_to_owl2(features, preset, health):
    for changes in ({}, {"language": "en", "multi_hop": 0.9}, {"requested_engine": "owl2"}):
        context = Context(route_shares={"fast": 1.0, "deep": 0.0}, dial=1.0)
        decision = decide(features(**changes, uses_tools=True), load_preset(preset), health, context)

        assert (decision.route, decision.engine, decision.panel) == ("fast", "glm", ())
        is_told = any("glm is down" in said for said in decision.degraded)
        assert is_told == (not health.of("glm").is_up)
        assert len(decision.degraded) == len(decision.degraded_zh)


def test_a_model_that_was_to_think_first_still_does(features):
    decision = decide(features(language="en", uses_tools=True), load_preset("glm-thinking"))

    assert (decision.rule, decision.enable_thinking) == ("tools", True)


def test_it_is_measured_as_the_router_tells_it():
    assert measure(Question("What is this?", uses_tools=True)).uses_tools
    assert not measure(Question("What is this?")).uses_tools

"""The smallest change that would flip a decision: it is named, it is true, and nothing smaller does it."""

from dataclasses import replace

import pytest

from policies.decide import decide
from policies.decision import EngineHealth, Health
from policies.explain import explain
from policies.features import Hints, Question, measure
from policies.rules import load_preset, preset_names


@pytest.mark.parametrize(
    ("changes", "feature", "current", "wanted", "route"),
    [
        ({"multi_hop": 0.48}, "multi_hop", 0.48, 0.5, "deep"),
        ({"multi_hop": 0.52}, "multi_hop", 0.52, 0.4999, "fast"),
        ({"num_images": 2, "num_new_images": 2}, "num_new_images", 2, 1, "fast"),
        (
            {"num_images": 5, "num_new_images": 5, "multi_hop": 0.9, "language": "en"},
            "is_interactive",
            False,
            True,
            "fast",
        ),
        ({"mentions_several_images": True}, "num_images", 1, 0, "fast"),
        ({"language": "en"}, "language", "en", "zh", "fast"),
        ({"language": "en", "deadline_ms": 33_000}, "deadline_ms", 33_000, 29_999, "fast"),
        ({"language": "en", "deadline_ms": 10}, "deadline_ms", 10, 30_000, "deep"),
        ({"requested_route": "fast", "language": "en"}, "requested_route", "fast", "auto", "deep"),
        ({"requested_engine": "glm"}, "requested_engine", "glm", "owl2", "deep"),
    ],
)
def test_the_smallest_change_is_found(seed, features, changes, feature, current, wanted, route):
    flip = decide(features(**changes), seed).flip

    assert flip is not None
    assert (flip.feature, flip.current, flip.wanted, flip.route) == (feature, current, wanted, route)
    assert flip.text.endswith(f"would send it {route}")
    assert flip.text_zh.endswith(f"将走 {route} 路径")


@pytest.mark.parametrize("preset", preset_names())
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"language": "en"},
        {"multi_hop": 0.9},
        {"is_courtesy": True, "language": "en"},
        {"num_images": 3, "num_new_images": 3},
        {"requested_engine": "owl2"},
        {"requested_route": "deep"},
        {"language": "en", "deadline_ms": 5},
    ],
)
def test_making_the_change_really_flips_the_route(features, preset, changes):
    rules = load_preset(preset)
    measured = features(**changes)
    decision = decide(measured, rules)

    assert decision.flip is not None
    after = decide(replace(measured, **{decision.flip.feature: decision.flip.wanted}), rules)
    assert after.route == decision.flip.route != decision.route


@pytest.mark.parametrize(("language", "label"), [("en", "would change it:"), ("zh", "改变条件：")])
def test_the_explanation_names_the_change_and_the_threshold(seed, language, label):
    measured = measure(Question("图里有几只猫？", image_keys=("a",)), Hints())
    decision = decide(measured, seed)

    text = explain(decision, measured, language)

    assert label in text
    assert decision.flip is not None
    assert (decision.flip.text if language == "en" else decision.flip.text_zh) in text
    assert ("against 0.5" if language == "en" else "阈值 0.5") in text


@pytest.mark.parametrize("owl2", [EngineHealth(queue_age_s=400), EngineHealth(is_up=False)])
def test_a_change_that_health_made_already_is_not_named(seed, features, owl2):
    question = features(language="en", multi_hop=0.9)
    assert decide(question, seed).flip is not None

    moved = decide(question, seed, Health({"owl2": owl2}))

    assert (moved.route, moved.flip) == ("fast", None)


def test_rules_that_nothing_can_flip_say_so(seed, features):
    always = seed.model_copy(update={"rules": seed.rules[-1:]})
    decision = decide(features(), always)

    assert decision.flip is None
    assert "no single change" in explain(decision, features())
    assert "没有单一的改变可以做到" in explain(decision, features(), "zh")

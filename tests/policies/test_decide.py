"""The promises of the shipped presets, as tables that hit and just miss every rule; health, nearness, words."""

import itertools
import json
from dataclasses import replace

import pytest

from policies.decide import decide
from policies.decision import Decision, EngineHealth, Health
from policies.explain import explain
from policies.features import Hints, Question, measure
from policies.rules import Rules, load_preset, load_rules

DOWN = EngineHealth(is_up=False)
INTERACTIVE = {"is_interactive": True, "interactive_reason": "service_tier is priority"}

# What differs from one plain Chinese question with one picture; the route; the rule that says so.
SEED_TABLE = [
    # A caller may always override; an engine outranks a route.
    ({"requested_engine": "owl2"}, "deep", "caller-chose-owl2"),
    ({"requested_engine": "owl2", "requested_route": "fast"}, "deep", "caller-chose-owl2"),
    ({"requested_engine": "glm", "language": "en", "num_images": 3}, "fast", "caller-chose-glm"),
    ({"requested_engine": "glm", "requested_route": "deep"}, "fast", "caller-chose-glm"),
    ({"requested_engine": "someone-else"}, "fast", "chinese"),
    ({"requested_route": "fast", "language": "en", "num_images": 3, "multi_hop": 0.9}, "fast", "caller-chose-fast"),
    ({"requested_route": "deep"}, "deep", "caller-chose-deep"),
    ({"requested_route": "deep", **INTERACTIVE}, "deep", "caller-chose-deep"),
    ({"requested_route": "auto"}, "fast", "chinese"),
    # Somebody waits.
    ({**INTERACTIVE, "language": "en", "num_images": 2, "multi_hop": 0.9}, "fast", "interactive"),
    ({"language": "en", "deadline_ms": 29_999}, "fast", "deadline-too-short-for-a-job"),
    ({"language": "en", "deadline_ms": 30_000}, "deep", "english"),
    ({"language": "en", "deadline_ms": 0}, "fast", "deadline-too-short-for-a-job"),
    # Several pictures, in fact or in words.
    ({"num_images": 2, "num_new_images": 2}, "deep", "several-pictures"),
    ({"num_images": 3, "num_new_images": 1}, "fast", "chinese"),
    ({"num_images": 2, "num_new_images": 0}, "fast", "chinese"),
    ({"num_images": 2, "num_new_images": 0, "mentions_several_images": True}, "deep", "several-pictures-in-words"),
    ({"num_images": 1}, "fast", "chinese"),
    ({"num_images": 1, "mentions_several_images": True}, "deep", "several-pictures-in-words"),
    ({"num_images": 0, "mentions_several_images": True}, "fast", "chinese"),
    # Multi-hop.
    ({"multi_hop": 0.5}, "deep", "multi-hop"),
    ({"multi_hop": 0.4999}, "fast", "chinese"),
    # Language.
    ({"language": "en"}, "deep", "english"),
    ({"language": "en", "num_images": 0}, "deep", "english"),
    ({"language": "zh", "num_images": 0}, "fast", "chinese"),
    ({"language": "other"}, "fast", "otherwise"),
    ({"language": "none"}, "fast", "otherwise"),
    ({"language": "other", "num_images": 2, "num_new_images": 2}, "deep", "several-pictures"),
    # Thanks for an answer.
    ({"language": "en", "is_courtesy": True}, "fast", "courtesy"),
    ({"is_courtesy": True, "num_images": 3, "num_new_images": 0}, "fast", "courtesy"),
]


@pytest.mark.parametrize(("changes", "route", "rule"), SEED_TABLE)
def test_the_seed_preset_keeps_its_promise(seed, features, changes, route, rule):
    decision = decide(features(**changes), seed)

    assert (decision.route, decision.rule) == (route, rule)
    assert decision.engine == {"fast": "glm", "deep": "owl2"}[route]
    assert decision.preset == "seed"
    assert decision.degraded == ()


def test_the_table_reaches_every_rule_of_the_seed_preset(seed):
    assert {rule for _, _, rule in SEED_TABLE} == {rule.name for rule in seed.rules}


@pytest.mark.parametrize(
    ("text", "num_images", "route"),
    [
        ("图里有几只猫？", 1, "fast"),
        ("What colour is the circle?", 1, "deep"),
        ("请描述这张图片", 1, "fast"),
        ("这两张图有什么不同？", 2, "deep"),
        ("左边穿红衣服的男人手里拿的东西和右边女人拿的东西哪个更大？", 1, "deep"),
        ("Which of the two people left of the car is taller than the man holding the dog?", 1, "deep"),
        ("?", 1, "fast"),
        ("", 0, "fast"),
        ("猫はどこにいますか？", 1, "fast"),
        ("¿Qué hay en la imagen?", 1, "fast"),
        ("你好", 0, "fast"),
    ],
)
def test_real_questions_go_where_the_product_promises(seed, text, num_images, route):
    question = Question(text, image_keys=tuple("abc"[:num_images]))

    assert decide(measure(question), seed).route == route


def test_a_deadline_is_held_against_the_measured_job_time_where_there_is_one(seed, features):
    english = features(language="en", deadline_ms=5_000)

    assert decide(english, seed, Health(estimated_deep_ms=5_001)).route == "fast"
    assert decide(english, seed, Health(estimated_deep_ms=5_000)).route == "deep"
    assert decide(english, seed, Health(estimated_deep_ms=0)).route == "deep"


@pytest.mark.parametrize(
    ("preset", "changes", "route"),
    [
        ("glm-only", {"language": "en", "num_images": 3, "multi_hop": 0.9}, "fast"),
        ("glm-only", {"requested_route": "deep"}, "deep"),
        ("glm-only", {"requested_engine": "owl2"}, "deep"),
        ("glm-only", {"requested_engine": "glm", "requested_route": "deep"}, "fast"),
        ("owl2-only", {**INTERACTIVE}, "deep"),
        ("owl2-only", {"requested_route": "fast"}, "fast"),
        ("owl2-only", {"requested_engine": "glm"}, "fast"),
        ("owl2-only", {"requested_engine": "owl2", "requested_route": "fast"}, "deep"),
    ],
)
def test_the_single_engine_presets_send_everything_one_way_unless_asked(features, preset, changes, route):
    assert decide(features(**changes), load_preset(preset)).route == route


@pytest.mark.parametrize(
    ("changes", "down", "route", "engine", "said"),
    [
        ({"language": "en"}, {"owl2"}, "fast", "glm", "owl2 is down: answered by glm alone"),
        ({}, {"glm"}, "deep", "owl2", "glm is down: answered by owl2, as a job"),
        ({}, {"owl2"}, "fast", "glm", None),
        ({"language": "en"}, {"glm"}, "deep", "owl2", "glm is down: no first answer before owl2's"),
        (
            {"language": "en"},
            {"glm", "owl2"},
            "deep",
            "owl2",
            "glm and owl2 are down: the route is kept until one is back",
        ),
        ({}, {"glm", "owl2"}, "fast", "glm", "glm and owl2 are down: the route is kept until one is back"),
        (
            {"requested_engine": "owl2"},
            {"owl2"},
            "fast",
            "glm",
            "owl2 is down, which the caller asked for: answered by glm alone",
        ),
        (
            {"requested_engine": "glm"},
            {"glm"},
            "deep",
            "owl2",
            "glm is down, which the caller asked for: answered by owl2, as a job",
        ),
        ({"requested_engine": "owl2"}, {"glm"}, "deep", "owl2", None),
        ({"requested_route": "deep"}, {"owl2"}, "fast", "glm", "owl2 is down: answered by glm alone"),
    ],
)
def test_a_dead_engine_degrades_the_decision_and_it_says_so(seed, features, changes, down, route, engine, said):
    decision = decide(features(**changes), seed, Health(dict.fromkeys(down, DOWN)))

    assert (decision.route, decision.engine) == (route, engine)
    assert decision.degraded == ((said,) if said else ())
    assert len(decision.degraded_zh) == len(decision.degraded)


@pytest.mark.parametrize(
    ("changes", "ages", "route", "is_degraded"),
    [
        ({"language": "en"}, {"owl2": 300.0}, "deep", False),
        ({"language": "en"}, {"owl2": 300.1}, "fast", True),
        ({}, {"glm": 60.0}, "fast", False),
        ({}, {"glm": 60.1}, "deep", True),
        # Neither can take over: the wish stands, and the note says why it is slow.
        ({"language": "en"}, {"owl2": 301.0, "glm": 61.0}, "deep", True),
        # What a caller pinned, and whom a job would not help, waits.
        ({"requested_engine": "owl2"}, {"owl2": 999.0}, "deep", False),
        ({"requested_route": "deep"}, {"owl2": 999.0}, "deep", False),
        (INTERACTIVE, {"glm": 999.0}, "fast", False),
        ({"deadline_ms": 10, "language": "en"}, {"glm": 999.0}, "fast", False),
    ],
)
def test_an_old_queue_sends_unpinned_work_to_the_other_engine(seed, features, changes, ages, route, is_degraded):
    health = Health({name: EngineHealth(queue_age_s=age_s) for name, age_s in ages.items()})

    decision = decide(features(**changes), seed, health)

    assert decision.route == route
    assert bool(decision.degraded) == is_degraded


def test_an_old_queue_is_kept_when_the_other_engine_is_down(seed, features):
    health = Health({"owl2": EngineHealth(queue_age_s=400), "glm": DOWN})

    decision = decide(features(language="en"), seed, health)

    assert decision.engine == "owl2"
    assert decision.degraded[0].endswith("glm cannot take over: it waits")


@pytest.mark.parametrize(
    ("age_s", "was_overloaded", "route"),
    [
        (301.0, False, "fast"),
        (200.0, False, "deep"),
        (200.0, True, "fast"),
        (150.1, True, "fast"),
        (150.0, True, "deep"),
    ],
)
def test_an_engine_that_was_overloaded_gets_work_again_at_half_its_limit(seed, features, age_s, was_overloaded, route):
    health = Health({"owl2": EngineHealth(queue_age_s=age_s, was_overloaded=was_overloaded)})

    decision = decide(features(language="en"), seed, health)

    assert decision.route == route
    assert [reason.value for reason in decision.reasons if reason.feature == "queue_age_s"] == (
        [age_s] if route == "fast" else []
    )


def test_what_moved_for_an_overload_says_so_with_its_measure_in_both_languages(seed, features):
    health = Health({"owl2": EngineHealth(queue_age_s=312.5)})
    english = features(language="en")

    decision = decide(english, seed, health)

    assert (decision.route, decision.engine, decision.rule) == ("fast", "glm", "english")
    assert (decision.reasons[-1].value, decision.reasons[-1].threshold) == (312.5, 300.0)
    assert decision.degraded == ("owl2 has a queue 312.5 s old (limit 300 s): answered by glm alone",)
    assert decision.degraded_zh == ("owl2 的队列已等待 312.5 秒（上限 300 秒）：由 glm 单独回答",)
    assert "312.5 s old" in explain(decision, english)


@pytest.mark.parametrize(("wanted", "other", "language"), [("glm", "owl2", "zh"), ("owl2", "glm", "en")])
def test_an_engine_that_could_not_answer_this_request_does_not_take_over(seed, features, wanted, other, language):
    health = Health({wanted: EngineHealth(queue_age_s=999.0), other: EngineHealth(can_take_over=False)})

    decision = decide(features(language=language), seed, health)

    assert decision.engine == wanted
    assert decision.degraded[0].endswith(f"{other} cannot take over: it waits")


def _every_case(features):
    yield from (
        (
            features(
                language=language,
                num_images=num_images,
                num_new_images=num_images,
                mentions_several_images=mentions,
                multi_hop=multi_hop,
                is_interactive=interactive,
                requested_route=route,
                requested_engine=engine,
                deadline_ms=deadline_ms,
            ),
            Health({"glm": EngineHealth(glm_up, glm_age), "owl2": EngineHealth(owl2_up, owl2_age)}),
        )
        for language, num_images, mentions, multi_hop, interactive, route, engine, deadline_ms in itertools.product(
            ("zh", "en", "other", "none"),
            (0, 1, 2),
            (False, True),
            (0.0, 0.4999, 0.5, 1.0),
            (False, True),
            ("auto", "fast", "deep"),
            (None, "glm", "owl2", "unknown"),
            (None, 1, 10**9),
        )
        for glm_up, glm_age, owl2_up, owl2_age in (
            (True, 0.0, True, 0.0),
            (False, 0.0, True, 0.0),
            (True, 0.0, False, 0.0),
            (False, 0.0, False, 0.0),
            (True, 1e6, True, 1e6),
        )
    )


def test_every_combination_is_decided_the_same_way_twice_and_never_by_a_dead_engine_while_one_lives(seed, features):
    for measured, health in _every_case(features):
        decision = decide(measured, seed, health)

        assert decision == decide(measured, seed, health)
        assert 0.0 <= decision.margin <= 1.0
        assert (decision.margin < 1.0) == (decision.nearest is not None)
        assert health.of(decision.engine).is_up or not any(engine.is_up for engine in health.engines.values())
        assert decision.engine == {"fast": "glm", "deep": "owl2"}[decision.route]


def test_a_further_picture_or_a_higher_score_never_makes_the_wish_less_deep(seed, features):
    for measured, health in _every_case(features):
        if health.engines["glm"] != EngineHealth() or health.engines["owl2"] != EngineHealth():
            continue
        deeper = (
            replace(measured, num_images=measured.num_images + 1, num_new_images=measured.num_new_images + 1),
            replace(measured, multi_hop=min(1.0, measured.multi_hop + 0.3)),
        )
        if decide(measured, seed).route == "deep":
            assert all(decide(more, seed).route == "deep" for more in deeper)


def test_a_score_just_under_the_threshold_is_reported_as_near(seed, features):
    decision = decide(features(multi_hop=0.48), seed)

    assert decision.route == "fast"
    assert decision.margin == pytest.approx(0.04)
    assert decision.nearest is not None
    assert (decision.nearest.feature, decision.nearest.value, decision.nearest.threshold) == ("multi_hop", 0.48, 0.5)


def test_a_score_just_over_the_threshold_is_near_only_if_the_next_rule_goes_the_other_way(seed, features):
    chinese = decide(features(multi_hop=0.52), seed)
    english = decide(features(multi_hop=0.52, language="en"), seed)

    assert chinese.margin == pytest.approx(0.04)
    assert (english.margin, english.nearest) == (1.0, None)


def test_a_deadline_that_a_job_barely_meets_is_near(seed, features):
    decision = decide(features(language="en", deadline_ms=33_000), seed)

    assert decision.margin == pytest.approx(0.1)
    assert decision.nearest is not None
    assert decision.nearest.feature == "deadline_slack_ms"


def test_reasons_carry_the_measured_value_and_the_threshold(seed, features):
    decision = decide(features(num_images=1, mentions_several_images=True, several_images_cues=("两张图",)), seed)

    assert [(reason.feature, reason.value, reason.threshold) for reason in decision.reasons] == [
        ("num_images", 1, 1),
        ("mentions_several_images", True, True),
    ]
    assert "两张图" in decision.reasons[1].text
    assert all(reason.text_zh for reason in decision.reasons)


def test_a_decision_survives_json(seed, features):
    decision = decide(features(multi_hop=0.7), seed, Health({"owl2": DOWN}))

    plain = decision.to_dict()

    assert json.loads(json.dumps(plain)) == plain
    assert set(plain) == set(Decision.__dataclass_fields__)


def test_thinking_is_a_rule_s_wish_and_ends_with_its_engine(tmp_path, features):
    path = tmp_path / "think.yaml"
    path.write_text(
        "version: 1\nname: t\nsummary: s\nrules:\n  - {name: a, route: deep, engine: glm, enable_thinking: true}\n"
    )
    rules = load_rules(path)

    well = decide(features(), rules)
    degraded = decide(features(), rules, Health({"glm": DOWN}))

    assert (well.route, well.engine, well.enable_thinking) == ("deep", "glm", True)
    assert (degraded.engine, degraded.enable_thinking) == ("owl2", False)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_an_explanation_names_values_rule_and_what_was_near(seed, language):
    measured = measure(Question("图里最贵的商品多少元？", image_keys=("a",)), Hints(deadline_ms=60_000))

    text = explain(decide(measured, seed), measured, language)

    for part in ("fast", "glm", "chinese", "seed", f"{measured.multi_hop:.2f}", "0.5", "60000"):
        assert part in text


def test_an_explanation_tells_of_degradation_in_both_languages(seed, features):
    decision = decide(features(language="en"), seed, Health({"owl2": DOWN}))

    assert "owl2 is down: answered by glm alone" in explain(decision, features(language="en"))
    assert "owl2 不可用：由 glm 单独回答" in explain(decision, features(language="en"), "zh")


def test_every_feature_a_rule_may_use_can_be_explained(tmp_path, features):
    path = tmp_path / "all.yaml"
    path.write_text(
        "version: 1\nname: t\nsummary: s\nrules:\n"
        "  - name: a\n    route: deep\n    when:\n"
        "      language: {is: zh}\n      requested_route: {is: auto}\n      requested_engine: {is: glm}\n"
        "      mentions_several_images: {is: false}\n      is_interactive: {is: false}\n"
        "      num_images: {at_least: 1}\n"
        "      num_new_images: {below: 5}\n      multi_hop: {at_least: 0, below: 0.9}\n      num_chars: {at_least: 3}\n"
        "      deadline_slack_ms: {at_least: 0}\n"
        "  - {name: b, route: fast}\n"
    )
    rules: Rules = load_rules(path)

    decision = decide(features(requested_engine="glm", deadline_ms=90_000), rules)

    assert decision.rule == "a"
    assert all(reason.text and reason.text_zh for reason in decision.reasons)
    assert len(decision.reasons) == 10


def test_a_chinese_explanation_names_cues_and_reasons_in_chinese(seed, features):
    asked = features(
        language="en",
        multi_hop=0.9,
        multi_hop_cues=("reference chain: of", "further question x2"),
        is_interactive=True,
        interactive_reason="service_tier is priority",
    )

    decision = decide(asked, seed)
    explained = explain(decision, asked, "zh")

    assert "层层指代: of；追加提问 x2" in explained
    assert "service_tier 为 priority" in explained
    assert decision.reasons[0].text_zh == "有人在等待（service_tier 为 priority）"
    assert "reference chain: of; further question x2" in explain(decision, asked, "en")

"""What holds for any text: an answer, the same answer, and none that more pictures or more cues make less deep."""

from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from policies.complexity import score
from policies.context import Context, Previous
from policies.decide import decide
from policies.decision import EngineHealth, Health
from policies.explain import explain
from policies.features import Features, Question, measure
from policies.language import detect
from policies.rules import load_preset, preset_names

FEW = settings(derandomize=True, deadline=None, max_examples=60, database=None)
PRESETS = {name: load_preset(name) for name in preset_names()}
ANY_TEXT = st.text(st.characters(codec=None), max_size=80)  # lone surrogates included
EN_WORDS = [
    "what",
    "is",
    "the",
    "red",
    "car",
    "left",
    "of",
    "who",
    "holds",
    "and",
    "Obama",
    "House",
    ",",
    "?",
    "biggest",
]
EN_TEXT = st.lists(st.sampled_from(EN_WORDS), max_size=25).map(" ".join)
ZH_TEXT = st.lists(
    st.sampled_from(
        [*list("图里左边的男人穿红色衣服手拿什么东西吗？，比更大是谁在哪"), "作者", "旁边", "《红楼梦》", "还是"]
    ),
    max_size=25,
).map("".join)
CUES = {
    "en": [
        " and why?",
        " than before?",
        ", and explain the reason.",
        " in total, step by step",
        "? Then compare them.",
    ],
    "zh": ["，为什么？", "，请解释原因。", "，总共多少？", "，然后比较两者。", "，并且计算平均值。"],
}


@st.composite
def measured(draw) -> Features:
    route = draw(st.sampled_from(["auto", "fast", "deep"]))
    is_interactive = draw(st.booleans())
    num_images = draw(st.integers(0, 3))
    return Features(
        language=draw(st.sampled_from(["zh", "en", "other", "none"])),
        language_source="script",
        num_images=num_images,
        num_new_images=draw(st.integers(0, num_images)),
        mentions_several_images=draw(st.booleans()),
        multi_hop=draw(st.sampled_from([0.0, 0.25, 0.4999, 0.5, 0.75, 1.0])),
        multi_hop_cues=(),
        is_interactive=is_interactive,
        interactive_reason="service_tier is priority" if is_interactive else None,
        num_chars=draw(st.integers(0, 500)),
        requested_route=route,
        requested_engine=draw(st.sampled_from([None, "glm", "owl2"])),
        deadline_ms=draw(st.sampled_from([None, 0, 29_999, 30_000])),
    )


@st.composite
def contexts(draw) -> Context:
    share = st.floats(0, 1, allow_nan=False)
    previous = draw(st.sampled_from([None, Previous("fast", "glm"), Previous("deep", "owl2", frozenset("a"))]))
    return Context(
        dial=draw(st.none() | share),
        bucket=draw(st.none() | share),
        route_shares={"deep": draw(share)},
        previous=previous,
        image_keys=draw(st.sampled_from([frozenset(), frozenset("a")])),
    )


@FEW
@given(text=ANY_TEXT, history=st.lists(ANY_TEXT, max_size=2), preset=st.sampled_from(sorted(PRESETS)))
@example(text="\ud800\udfff", history=["\udc00"], preset="seed")
@example(text="\x00", history=[], preset="panel")
def test_any_text_gets_the_same_decision_twice_and_an_explanation(text, history, preset):
    question = Question(text, history=tuple(history), image_keys=("a",))

    features = measure(question)
    decision = decide(features, PRESETS[preset])

    assert features == measure(question)
    assert decision == decide(features, PRESETS[preset])
    assert 0.0 <= features.multi_hop <= 1.0
    assert explain(decision, features)
    assert explain(decision, features, "zh")


@pytest.mark.parametrize(
    "unit", ["图里有几只猫？", "What is this? ", "¿Qué es? ", "\ud800", "👍🏽", "a's of ", "《", "(", '"', "的"]
)
def test_a_megabyte_of_anything_is_decided(unit):
    text = unit * (1_000_000 // len(unit))

    assert decide(measure(Question(text)), PRESETS["seed"]).route in ("fast", "deep")
    assert score(text, detect(text)) <= 1.0


@FEW
@given(features=measured(), context=contexts(), preset=st.sampled_from(sorted(PRESETS)))
def test_every_state_is_decided_the_same_way_twice(features, context, preset):
    health = Health({"glm": EngineHealth(queue_age_s=61), "owl2": EngineHealth()})

    decision = decide(features, PRESETS[preset], health, context)

    assert decision == decide(features, PRESETS[preset], health, context)


@settings(FEW, max_examples=300)
@given(features=measured(), preset=st.sampled_from(sorted(PRESETS)), dial=st.sampled_from([0.0, 0.3, 0.5, 0.8, 1.0]))
def test_a_further_picture_a_higher_score_or_a_higher_dial_never_makes_a_decision_less_deep(features, preset, dial):
    rules = PRESETS[preset]
    if decide(features, rules, context=Context(dial=dial)).route == "fast":
        return

    more = (
        replace(features, num_images=features.num_images + 1, num_new_images=features.num_new_images + 1),
        replace(features, multi_hop=min(1.0, features.multi_hop + 0.25)),
    )

    assert [decide(deeper, rules, context=Context(dial=dial)).route for deeper in more] == ["deep", "deep"]
    assert decide(features, rules, context=Context(dial=min(1.0, dial + 0.2))).route == "deep"


@settings(FEW, max_examples=150)
@given(text=EN_TEXT, cue=st.sampled_from(CUES["en"]))
def test_a_further_reasoning_cue_never_lowers_an_english_score(text, cue):
    assert score(text + cue, "en") >= score(text, "en")


@settings(FEW, max_examples=150)
@given(text=ZH_TEXT, cue=st.sampled_from(CUES["zh"]))
def test_a_further_reasoning_cue_never_lowers_a_chinese_score(text, cue):
    assert score(text + cue, "zh") >= score(text, "zh")


@FEW
@given(text=ZH_TEXT, num_images=st.integers(0, 3))
def test_a_further_picture_never_makes_a_real_question_less_deep(text, num_images):
    routes = [
        decide(measure(Question(text, image_keys=tuple("abcd"[:count]))), PRESETS["seed"]).route
        for count in (num_images, num_images + 1)
    ]

    assert routes != ["deep", "fast"]

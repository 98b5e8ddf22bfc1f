"""Measuring a request: what is counted, what is only passed on, and what is not looked at."""

import pytest

from policies.decide import decide
from policies.features import Hints, Question, measure


def test_pictures_are_counted_once_each_over_the_conversation_and_in_the_new_turn():
    question = Question("这是什么？", image_keys=("a", "a", "b"), history_image_keys=("b", "c", "c"))

    features = measure(question)

    assert (features.num_images, features.num_new_images) == (3, 2)


def test_the_same_picture_sent_again_is_still_one():
    features = measure(Question("再看一次", image_keys=("a",), history_image_keys=("a",)))

    assert (features.num_images, features.num_new_images) == (1, 1)


def test_only_the_new_question_is_scored():
    long_before = "Explain step by step why the left one is larger than the one that is next to it"

    features = measure(Question("这是什么？", history=(long_before,), system_text=long_before))

    assert features.language == "zh"
    assert features.multi_hop == measure(Question("这是什么？")).multi_hop
    assert features.num_chars == 5


def test_history_gives_the_language_of_a_question_without_one():
    features = measure(Question("?", history=("What is this?",)))

    assert (features.language, features.language_source) == ("en", "history")


@pytest.mark.parametrize(
    ("hints", "is_interactive", "reason"),
    [
        (Hints(), False, None),
        (Hints(service_tier="priority"), True, "service_tier is priority"),
        (Hints(service_tier="auto"), False, None),
        (Hints(service_tier="default"), False, None),
        (Hints(route="fast"), True, "hybrid.route is fast"),
        (Hints(route="deep"), False, None),
        (Hints(deadline_ms=1), False, None),
    ],
)
def test_a_request_is_interactive_when_its_caller_says_so(hints, is_interactive, reason):
    features = measure(Question("What is this?"), hints)

    assert (features.is_interactive, features.interactive_reason) == (is_interactive, reason)


def test_what_the_caller_asked_for_is_passed_on():
    features = measure(Question(""), Hints(route="deep", engine="owl2", deadline_ms=1_500))

    assert (features.requested_route, features.requested_engine, features.deadline_ms) == ("deep", "owl2", 1_500)


def test_the_words_behind_a_feature_come_with_it():
    features = measure(Question("这两张图里，哪一只猫更大？"))

    assert features.mentions_several_images
    assert any("两张" in cue for cue in features.several_images_cues)
    assert any("更" in cue for cue in features.multi_hop_cues)


def test_nothing_at_all_can_be_measured():
    features = measure(Question(""))

    assert (features.language, features.multi_hop, features.num_images) == ("none", 0.0, 0)


@pytest.mark.parametrize(
    ("text", "route"),
    [
        ("谢谢，辛苦了！", "fast"),
        ("Thank you so much!", "fast"),
        ("ok", "fast"),
        ("图里有几只猫？", "fast"),
        ("第二张里有几只猫？", "deep"),
        ("哪张更亮？", "deep"),
        ("两张有什么区别？", "deep"),
    ],
)
def test_pictures_of_earlier_turns_count_only_for_words_that_speak_of_them(text, route, seed):
    question = Question(text, history=("Compare these pictures.",), history_image_keys=("a", "b"))

    assert decide(measure(question), seed).route == route


def test_one_more_picture_after_others_is_one_picture(seed):
    after_others = Question("图里有几只猫？", ("图里有什么？",), image_keys=("c",), history_image_keys=("a", "b"))
    compared = Question("和之前的图比有什么变化？", ("图里有什么？",), image_keys=("c",), history_image_keys=("a",))

    assert decide(measure(after_others), seed).route == "fast"
    assert decide(measure(compared), seed).rule == "several-pictures-in-words"


def test_a_greeting_that_opens_a_conversation_or_brings_a_picture_is_no_courtesy():
    assert not measure(Question("Hello!")).is_courtesy
    assert not measure(Question("谢谢", history=("你好",), image_keys=("a",))).is_courtesy
    assert measure(Question("谢谢", history=("你好",))).is_courtesy


def test_the_language_to_answer_in_comes_from_the_turn_or_else_from_the_system_prompt():
    assert measure(Question("What is this? Answer in Chinese.")).answer_language == "zh"
    assert measure(Question("What is this?", system_text="Always reply in Chinese.")).answer_language == "zh"
    assert measure(Question("What is this? 请用英文回答", system_text="请用中文回答")).answer_language == "en"
    assert measure(Question("What is this?")).answer_language is None

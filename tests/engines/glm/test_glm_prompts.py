from __future__ import annotations

import pytest

from engines.base import ImagePart, Message, TextPart
from engines.glm.prompts import to_conversation

PICTURE = ImagePart(data=b"png", media_type="image/png", sha256="0")


def user(*parts: str | ImagePart) -> Message:
    return Message("user", tuple(TextPart(part) if isinstance(part, str) else part for part in parts))


def test_text_alone_becomes_a_plain_string() -> None:
    assert to_conversation([Message("system", (TextPart("Be brief."),)), user("a", "b")], enable_thinking=False) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "ab"},
    ]


def test_pictures_stay_where_the_caller_put_them() -> None:
    [turn] = to_conversation([user("1: ", PICTURE, "2: ", PICTURE, "which?")], enable_thinking=False)

    assert turn["content"] == [
        {"type": "text", "text": "1: "},
        {"type": "image"},
        {"type": "text", "text": "2: "},
        {"type": "image"},
        {"type": "text", "text": "which?"},
    ]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("<think>red circle</think>\nA circle.", "A circle."),
        ("no opening mark</think>\n\nA circle.", "A circle."),
        ("<think>a</think>b<think>c</think>d", "d"),
        ("plain", "plain"),
    ],
)
def test_the_reasoning_of_earlier_answers_is_dropped(text: str, kept: str) -> None:
    messages = [user("q"), Message("assistant", (TextPart(text),)), user("q2")]

    assert to_conversation(messages, enable_thinking=True)[1] == {"role": "assistant", "content": kept}


def test_think_marks_in_a_question_are_left_alone() -> None:
    assert to_conversation([user("what does </think> mean?")], enable_thinking=False)[0]["content"].endswith("mean?")


def test_a_typed_nothink_is_not_doubled_when_the_template_adds_it() -> None:
    assert to_conversation([user("hi/nothink")], enable_thinking=False)[0]["content"] == "hi"
    assert to_conversation([user(PICTURE, "hi/nothink")], enable_thinking=False)[0]["content"][1]["text"] == "hi"
    assert to_conversation([user("hi/nothink")], enable_thinking=True)[0]["content"] == "hi/nothink"


def test_half_a_surrogate_pair_becomes_a_replacement_character() -> None:
    assert (
        to_conversation([user("a\ud83d b \U0001f600")], enable_thinking=False)[0]["content"] == "a\ufffd b \U0001f600"
    )


def test_neighbouring_texts_are_one_text_also_beside_a_picture() -> None:
    [turn] = to_conversation([user("<|us", "er|>", PICTURE, "a", "b")], enable_thinking=True)

    assert turn["content"] == [
        {"type": "text", "text": "<|user|>"},
        {"type": "image"},
        {"type": "text", "text": "ab"},
    ]


def test_a_picture_in_front_of_dropped_reasoning_keeps_its_place() -> None:
    messages = [user("q"), Message("assistant", (TextPart("a"), PICTURE, TextPart("hm</think>b"), PICTURE)), user("c")]

    assert to_conversation(messages, enable_thinking=True)[1]["content"] == [
        {"type": "image"},
        {"type": "text", "text": "b"},
        {"type": "image"},
    ]

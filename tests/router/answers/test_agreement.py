"""Agreement: what two answers have in common, and what outweighs what."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.answers.agreement import Agreement, Conflict, combine, compare, script_of

POLAR = "Is there a red circle?"
COLOUR = "Is the circle red or blue?"
LETTERS = "Which colour is it?\nA. red\nB. blue\nC. green"


@pytest.mark.parametrize(
    ("first", "second", "question", "low", "high", "basis"),
    [
        # Numbers
        ("3", "4", "", 0, 0, ("numbers",)),
        ("There are 3.", "There are ３.", "How many?", 1, 1, ("numbers",)),
        ("It shows 3 cats", "It shows 4 cats", "", 0, 0, ("numbers", "tokens")),
        ("3 cats, 5 dogs", "3 cats, 6 dogs", "", 0.5, 0.5, ("numbers", "tokens")),
        ("the price is 1,299", "the price is 1299 yuan", "", 0.8, 1, ("numbers", "tokens")),
        ("1.2万", "12,000", "", 1, 1, ("numbers",)),
        ("50%", "百分之五十", "", 1, 1, ("numbers",)),
        ("1.5 kg", "1500 g", "", 1, 1, ("numbers",)),
        ("2024年3月5日", "March 5, 2024", "", 1, 1, ("numbers",)),
        ("three red circles", "3 red circles", "", 1, 1, ("numbers", "tokens")),
        ("有 3 只猫", "There are 3 cats", "How many cats?", 1, 1, ("numbers",)),
        ("没有", "0", "图里有几只猫？", 1, 1, ("numbers",)),
        ("None.", "3", "How many cats are there?", 0, 0, ("numbers",)),
        ("一只猫", "两只猫", "", 0, 0, ("numbers", "tokens")),
        ("one", "1", "How many?", 1, 1, ("numbers",)),
        # An article is no number that could agree
        ("一只猫头鹰在树上", "一只猫在地上", "", 0, 0.4, ("tokens",)),
        ("一个红色的圆", "红色的圆", "", 1, 1, ("tokens",)),
        # Yes and no
        ("Yes, there is a red circle", "No, there is no red circle", "", 0, 0, ("yes_no", "tokens")),
        ("There is a red circle.", "There is no red circle.", POLAR, 0, 0, ("yes_no", "tokens")),
        ("Yes.", "There is one red circle.", POLAR, 1, 1, ("yes_no",)),
        ("是的，有一个", "Yes, there is", POLAR, 1, 1, ("yes_no",)),
        ("没有", "Yes", "图中有红色的圆吗？", 0, 0, ("yes_no",)),
        ("有三只猫", "没有猫", "图里有猫吗？", 0, 0, ("yes_no", "tokens")),
        ("没错", "不是", "对吗？", 0, 0, ("yes_no", "tokens")),
        ("It is not a cat", "Yes, it is a cat", "Is it a cat?", 0, 0, ("yes_no", "tokens")),
        ("Yes, two", "Yes, three", "Are there some, and how many?", 0, 0, ("numbers", "yes_no")),
        ("No. 5 wins", "No. 5", "Who wins?", 1, 1, ("numbers",)),
        ("对不起，看不清", "对", "对吗？", 0, 0, ("tokens",)),
        ("图中有橙色三角形。", "图中有粉色三角形。", "图片里有什么？", 0.5, 0.8, ("tokens",)),
        # Choices
        ("red", "The circle is blue", COLOUR, 0, 0, ("choice", "tokens")),
        ("red", "The circle is red", COLOUR, 0.8, 1, ("choice", "tokens")),
        ("It is red, not blue", "It is blue", COLOUR, 0, 0, ("choice", "tokens")),
        ("green", "red", "Is it red, green, or blue?", 0, 0, ("choice", "tokens")),
        ("left", "on the right", "Is the cat to the left or to the right of the dog?", 0, 0, ("choice", "tokens")),
        ("红", "蓝色", "圆是红色还是蓝色？", 0, 0, ("choice", "tokens")),
        ("左侧", "在左边", "猫在左边还是右边？", 0.6, 0.6, ("choice", "tokens")),
        ("苹果", "梨", "这是梨还是苹果？", 0, 0, ("choice", "tokens")),
        ("A", "B. blue", LETTERS, 0, 0, ("choice",)),
        ("A", "The circle is red.", LETTERS, 1, 1, ("choice",)),
        ("B", "答案是B", LETTERS, 1, 1, ("choice",)),
        # Words
        ("红色", "红色的", "", 1, 1, ("tokens",)),
        ("a dog", "the cat", "", 0, 0, ("tokens",)),
        ("The circle is red.", "red", "What colour is the circle?", 1, 1, ("tokens",)),
        ("кошка", "Кошка", "", 1, 1, ("tokens",)),
        # Scripts
        ("一只猫", "a cat", "", None, None, ()),
        ("", "", "", None, None, ()),
        ("3", "", "", None, None, ()),
    ],
)
def test_agreement(
    first: str, second: str, question: str, low: float | None, high: float | None, basis: tuple[str, ...]
) -> None:
    agreement = compare(first, second, question)

    assert agreement.basis == basis
    if low is None or high is None:
        assert agreement.score is None
    else:
        assert agreement.score is not None
        assert low <= agreement.score <= high


@pytest.mark.parametrize(
    ("first", "second", "question", "conflict"),
    [
        ("3 cats, 5 dogs", "3 cats, 6 dogs", "", Conflict("number", ["5"], ["6"])),
        ("是的", "No", "", Conflict("yes_no", "yes", "no")),
        ("red", "blue", COLOUR, Conflict("choice", "red", "blue")),
        ("(A)", "C) green", LETTERS, Conflict("choice", "A", "C")),
    ],
)
def test_what_contradicts_is_listed_as_plain_values(first: str, second: str, question: str, conflict: Conflict) -> None:
    assert compare(first, second, question).conflicts == (conflict,)


def test_a_number_more_is_no_contradiction() -> None:
    agreement = compare("3", "There are 3, and 2 of them are red")

    assert agreement.conflicts == ()
    assert agreement.score is not None
    assert 0.5 < agreement.score < 1


def test_wording_moves_the_score_only_above_six_tenths_of_what_decides() -> None:
    same, other = compare("3 big cats", "3 big cats"), compare("3 tables", "3 chairs")

    assert (same.score, other.score) == (1.0, 0.6)


def test_combined_the_lower_score_counts_and_each_kind_of_conflict_is_listed_once() -> None:
    across = compare("有 3 只猫", "There are 4 cats", "有几只猫？")
    later = compare("有 3 只猫", "有 5 只猫", "有几只猫？")

    combined = combine(across, later)

    assert combined.score == 0.0
    assert combined.basis == ("numbers", "tokens", "composed")
    assert combined.conflicts == (Conflict("number", ["3"], ["4"]),)
    assert combine(Agreement(), compare("红色", "红色的")) == Agreement(1.0, ("tokens", "composed"), ())
    assert combine(across, Agreement()) == across


@pytest.mark.parametrize(("text", "script"), [("红色 A", "han"), ("red 红", "latin"), ("3!", None), ("кошка", "other")])
def test_the_script_of_a_text(text: str, script: str | None) -> None:
    assert script_of(text) == script


WORDS = "yes no 是的 没有 3 4 1.2万 12000 50% red blue cat cats 红色 的 两只 一只 猫 A. B, not there 2024-03-05 3:30 ¥5"
words = st.sampled_from([*WORDS.split(), "\n"])
texts = st.lists(words, max_size=8).map(" ".join) | st.text(max_size=20)
questions = st.sampled_from(["", POLAR, COLOUR, LETTERS, "有几只猫？", "红色还是蓝色？"])


@given(texts, texts, questions)
@settings(max_examples=150, derandomize=True, deadline=None)
def test_agreement_is_symmetric_and_bounded(first: str, second: str, question: str) -> None:
    one, other = compare(first, second, question), compare(second, first, question)

    assert (one.score, one.basis) == (other.score, other.basis)
    assert one.score is None or 0 <= one.score <= 1
    assert [(each.kind, each.second, each.first) for each in one.conflicts] == [
        (each.kind, each.first, each.second) for each in other.conflicts
    ]


@given(texts, questions)
@settings(max_examples=100, derandomize=True, deadline=None)
def test_an_answer_agrees_with_itself(text: str, question: str) -> None:
    agreement = compare(text, text, question)

    assert agreement.score in (None, 1.0)
    assert agreement.conflicts == ()

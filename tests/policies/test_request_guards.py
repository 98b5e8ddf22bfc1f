"""The cheap tests say what the patterns alone would: their sets are read off the patterns."""

from __future__ import annotations

import random
import re
import unicodedata
from re import _constants as codes  # type: ignore[attr-defined]

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from policies import request_guards as guards
from policies import request_words as words
from tests.support.patterns import ANY, draw, edges, parse


@pytest.mark.parametrize(
    ("pattern", "starts"),
    [
        (words.ZH_COURTESY, guards.COURTESY_STARTS),
        (words.ZH_OPENING, guards.OPENING_STARTS),
        (words.ZH_STARTS, guards.REQUEST_STARTS),
    ],
    ids=["courtesy", "opening", "request"],
)
def test_a_chinese_pattern_begins_with_one_of_its_characters(pattern: re.Pattern[str], starts: frozenset[str]) -> None:
    found, is_empty = edges(parse(pattern), 1)
    assert not is_empty
    assert found <= starts


def test_a_wish_about_form_begins_with_one_of_its_characters_a_digit_or_is_a_prohibition() -> None:
    ((op, (_, branches)),) = parse(words.ZH_FORM)
    assert op is codes.BRANCH
    found = [edges(branch, 1)[0] for branch in branches]
    assert all(chars - {"CATEGORY_DIGIT"} <= guards.FORM_STARTS for chars in found if ANY not in chars)
    (prohibition,) = [branch for branch, chars in zip(branches, found, strict=True) if ANY in chars]
    head, *rest = prohibition
    assert head[0] is codes.MAX_REPEAT
    assert head[1][1] <= guards.MAX_BEFORE_PROHIBITION
    assert edges(rest, 1) == (edges(rest, 1)[0] & guards.PROHIBITION_STARTS, False)


@pytest.mark.parametrize("pattern", [words.EN_COURTESY, words.EN_FORM], ids=["courtesy", "form"])
def test_an_english_pattern_begins_below_the_first_cjk_character(pattern: re.Pattern[str]) -> None:
    found, is_empty = edges(parse(pattern), 1)
    assert not is_empty
    assert all(char.isascii() for char in found - {"CATEGORY_DIGIT"})


def test_a_courtesy_without_a_slot_for_any_words_ends_with_one_of_its_characters() -> None:
    pattern = words.ZH_COURTESY.pattern.replace("冒昧.{0,6}", "冒昧").replace("[一-龥]{2,4}", "")
    found = edges(parse(pattern, re.IGNORECASE), -1)[0]
    assert found - {"CATEGORY_SPACE"} <= guards.COURTESY_ENDS


def test_an_ending_ends_with_one_of_its_characters() -> None:
    group, *_ = parse(words.ZH_ENDING)
    assert edges([group], -1)[0] <= guards.ENDING_ENDS


_WORDS = (
    "JSON",
    "json",
    "回答",
    "谢谢",
    "你好",
    "不要",
    "解释",
    "五十字",
    "以内",
    "好吗",
    "老师",
    "简单",
    "说",
    "e\u0301",
    "...",
)
_ENGLISH = ("answer", "in english", "thanks", "3")
_PIECES = st.sampled_from([*"请用图里有几只猫的？，。：；！（）【】~.٣ı\n ", *_WORDS, *_ENGLISH])
_TEXTS = st.lists(st.one_of(_PIECES, st.characters()), max_size=12).map("".join)


@given(_TEXTS)
@example("请用JSON回答,谢谢 老师")
@example("这里不要解释")
def test_the_tests_and_the_patterns_alone_say_the_same(text: str) -> None:
    text = unicodedata.normalize("NFKC", text)
    assert guards.num_han(text) == len(words.HAN.findall(text))
    assert [each for each in guards.sentences(text) if each] == [each for each in words.SENTENCE.split(text) if each]
    marks = [*words.CLAUSE.finditer(text), None]
    starts = [0, *(mark.end() for mark in marks if mark)]
    plain = [
        (text[start : mark.start() if mark else len(text)], mark.group() if mark else "")
        for start, mark in zip(starts, marks, strict=True)
    ]
    assert guards.clauses(text) == [part for clause, mark in plain for part in (clause, mark)][:-1]
    if not text:
        return
    assert guards.surely_asks_in_chinese(text) == words.surely_asks_in_chinese(text)
    assert_kinds(text)


def assert_kinds(text: str) -> None:
    assert guards.is_courtesy(text) == any(each.fullmatch(text) for each in (words.ZH_COURTESY, words.EN_COURTESY))
    is_form = any(each.fullmatch(text) for each in (words.ZH_FORM, words.EN_FORM))
    assert guards.is_form(text) == bool(is_form and not words.ZH_INTERROGATIVE.search(text))
    has_prohibition = guards.PROHIBITION.search(text) is not None
    assert guards.may_be_kept_out(text, has_prohibition=has_prohibition) or not (
        guards.is_courtesy(text) or guards.is_form(text)
    )
    assert guards.without_opening(text) == words.ZH_OPENING.sub("", text, count=1)
    assert guards.without_ending(text) == words.ZH_ENDING.sub("", text)


@pytest.mark.parametrize("pattern", [words.ZH_COURTESY, words.ZH_FORM], ids=["courtesy", "form"])
def test_what_a_pattern_is_made_of_is_told_as_it_alone_would(pattern: re.Pattern[str]) -> None:
    rng, tree, num_matched = random.Random(11), parse(pattern), 0
    for _ in range(3000):
        text = draw(tree, rng, "图里的人用不你是八8aıK要")
        if rng.random() < 0.5:
            cut = rng.randrange(len(text) + 1)
            text = text[:cut] + rng.choice("图的不,8了") + text[cut + 1 :]
        if text:
            num_matched += pattern.fullmatch(text) is not None
            assert_kinds(text)
    assert num_matched > 500

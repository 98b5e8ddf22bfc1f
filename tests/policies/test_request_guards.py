"""The cheap tests say what the patterns alone would: their sets are read off the patterns."""

from __future__ import annotations

import re
import unicodedata
from re import _constants as codes  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from policies import request_guards as guards
from policies import request_words as words

_EMPTY = (codes.ASSERT, codes.ASSERT_NOT, codes.AT)
_REPEATS = (codes.MAX_REPEAT, codes.MIN_REPEAT, codes.POSSESSIVE_REPEAT)
# Anything: a match may begin so.
_ANY = "any"


def edges(parts: Any, step: int) -> tuple[set[str], bool]:
    """Return the characters a match may begin (step 1) or end (-1) with, and whether it may be empty."""
    found: set[str] = set()
    for op, value in list(parts)[::step]:
        if op in _EMPTY:
            continue
        is_empty = False
        if op is codes.LITERAL:
            chars = {chr(value)}
        elif op is codes.IN:
            chars = set().union(*map(_of_class, value))
        elif op is codes.ANY:
            chars = {_ANY}
        elif op is codes.BRANCH:
            each = [edges(branch, step) for branch in value[1]]
            chars, is_empty = set().union(*(one for one, _ in each)), any(empty for _, empty in each)
        elif op in _REPEATS:
            chars, is_empty = edges(value[2], step)
            is_empty = is_empty or value[0] == 0
        else:
            chars, is_empty = edges(value if op is codes.ATOMIC_GROUP else value[3], step)
        found |= chars
        if not is_empty:
            return found, False
    return found, True


def _of_class(item: Any) -> set[str]:
    op, value = item
    if op is codes.CATEGORY:
        return {str(value)}
    return {chr(value)} if op is codes.LITERAL else {chr(code) for code in range(value[0], value[1] + 1)}


def parse(pattern: re.Pattern[str]) -> Any:
    return parser.parse(pattern.pattern, pattern.flags & ~re.UNICODE)


@pytest.mark.parametrize(
    ("pattern", "starts"),
    [(words.ZH_COURTESY, guards.COURTESY_STARTS), (words.ZH_OPENING, guards.OPENING_STARTS)],
    ids=["courtesy", "opening"],
)
def test_a_chinese_pattern_begins_with_one_of_its_characters(pattern: re.Pattern[str], starts: frozenset[str]) -> None:
    found, is_empty = edges(parse(pattern), 1)
    assert not is_empty
    assert found <= starts


def test_a_wish_about_form_begins_with_one_of_its_characters_a_digit_or_is_a_prohibition() -> None:
    ((op, (_, branches)),) = parse(words.ZH_FORM)
    assert op is codes.BRANCH
    found = [edges(branch, 1)[0] for branch in branches]
    assert all(chars - {"CATEGORY_DIGIT"} <= guards.FORM_STARTS for chars in found if _ANY not in chars)
    (prohibition,) = [branch for branch, chars in zip(branches, found, strict=True) if _ANY in chars]
    head, *rest = prohibition
    assert head[0] is codes.MAX_REPEAT
    assert head[1][1] <= guards.MAX_BEFORE_PROHIBITION
    assert edges(rest, 1) == (edges(rest, 1)[0] & guards.PROHIBITION_STARTS, False)


@pytest.mark.parametrize("pattern", [words.EN_COURTESY, words.EN_FORM], ids=["courtesy", "form"])
def test_an_english_pattern_begins_below_the_first_cjk_character(pattern: re.Pattern[str]) -> None:
    found, is_empty = edges(parse(pattern), 1)
    assert not is_empty
    assert all(char.isascii() for char in found - {"CATEGORY_DIGIT"})


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
    assert guards.clauses(text) == plain
    if not text:
        return
    assert guards.is_courtesy(text) == any(each.fullmatch(text) for each in (words.ZH_COURTESY, words.EN_COURTESY))
    is_form = any(each.fullmatch(text) for each in (words.ZH_FORM, words.EN_FORM))
    assert guards.is_form(text) == (is_form and not words.ZH_INTERROGATIVE.search(text))
    assert guards.without_opening(text) == words.ZH_OPENING.sub("", text, count=1)
    assert guards.without_ending(text) == words.ZH_ENDING.sub("", text)

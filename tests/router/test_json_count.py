"""Structure is counted as a parser would see it, wherever the text is cut."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import BadRequestError
from router.json_count import JsonCounter, find_repeated_name


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def is_accepted(data: bytes, max_items: int, size: int = 1 << 16) -> bool:
    counter = JsonCounter(max_items)
    try:
        for piece in pieces(data, size):
            counter.feed(piece)
    except BadRequestError:
        return False
    return True


def num_items(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + sum(map(num_items, value.values()))
    return 1 + sum(map(num_items, value)) if isinstance(value, list) else 0


VALUES = st.recursive(
    st.none() | st.integers(0, 9) | st.text(alphabet='a"\\,{}[]é\n', max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('k"\\{', max_size=3), inner, max_size=4),
    max_leaves=20,
)


@given(value=VALUES, size=st.integers(1, 9))
def test_objects_and_lists_are_counted_exactly_whatever_the_strings_hold_and_wherever_it_is_cut(
    value: Any, size: int
) -> None:
    # An own list around it, so that there is at least one of them, and room for its commas.
    data, count = orjson.dumps([value]), num_items([value])
    assert is_accepted(data, count, size)
    if count > 1:
        assert not is_accepted(data, count - 1, size)


PART = {"type": "text", "text": "a"}
BOMBS: dict[str, Any] = {
    "parts": {"messages": [{"role": "user", "content": [PART] * 2000}]},
    "messages": {"messages": [{"role": "user", "content": "a"}] * 2000},
    "an unknown field": {"messages": [], "x": [[]] * 2000},
    "tools": {"tools": [{}] * 2000},
    "numbers": {"logit_bias": [1] * 20_000},
    "metadata": {"metadata": {str(i): "" for i in range(20_000)}},
    "stops": {"stop": ["a"] * 20_000},
}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("size", [1, 1000, 1 << 20])
def test_bombs_are_refused(name: str, size: int) -> None:
    assert not is_accepted(orjson.dumps(BOMBS[name]), 1000, size)


def test_the_refusal_says_how_many_are_accepted() -> None:
    with pytest.raises(BadRequestError) as refused:
        JsonCounter(1000).feed(b"[" * 2000)
    assert refused.value.code == "too_many_values"
    for message in (refused.value.message, refused.value.message_zh):
        assert "1000" in message
        assert "8000" in message


@pytest.mark.parametrize("data", [b'"' * 100_000, b'""' * 50_000, b"[" * 2000, b'{"a":' * 2000])
def test_what_is_no_json_is_bounded_too(data: bytes) -> None:
    assert not is_accepted(data, 1000)


@pytest.mark.parametrize("text", ["{[,]}" * 10_000, '\\"{,' * 10_000, "\\" * 9999 + '"'])
def test_what_a_text_holds_is_not_counted(text: str) -> None:
    data = orjson.dumps({"messages": [{"role": "user", "content": text}]})
    for size in (1, 7, 1 << 20):
        assert is_accepted(data, 3, size)


def counted(text: bytes, size: int = 1 << 16) -> JsonCounter:
    counter = JsonCounter(100)
    for piece in pieces(text, size):
        counter.feed(piece)
    return counter


@given(value=VALUES, size=st.integers(1, 9))
def test_objects_that_lost_no_member_pass(value: Any, size: int) -> None:
    text = orjson.dumps([value])

    counted(text, size).check_names(text, orjson.loads(text))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (b'{"a": 1, "a": 1}', "a"),
        (b'{"model": "m", "messages": [{"content": "x:y", "content": ["z"]}]}', "content"),
        (b'[[{"b": {"c": 1, "d": 2, "c": {}}}]]', "c"),
        (rb'{"a": 1, "\u0061": 2}', "a"),
        (rb'{"x\"": 1, "x\"": ":"}', 'x"'),
        ('{"图": 1, "图": 2}'.encode(), "图"),
        (b'{"": 1, "": 2}', ""),
        (b'{"a": {"a": 1}, "b": {"a": 1}}', None),
    ],
)
@pytest.mark.parametrize("size", [1, 1 << 16])
def test_a_name_that_an_object_has_twice_is_found(text: bytes, name: str | None, size: int) -> None:
    counter = counted(text, size)
    content = orjson.loads(text)

    assert find_repeated_name(text) == name
    if name is None:
        counter.check_names(text, content)
    else:
        with pytest.raises(BadRequestError) as caught:
            counter.check_names(text, content)
        assert (caught.value.code, caught.value.param) == ("repeated_name", name)


def test_a_body_without_repeated_names_is_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    text = orjson.dumps({"messages": [{"role": "user", "content": "a:b" * 10}] * 20})
    monkeypatch.setattr("router.json_count.find_repeated_name", lambda text: pytest.fail("parsed again"))

    counted(text).check_names(text, orjson.loads(text))

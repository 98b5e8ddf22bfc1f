"""Calls and results in the order in which engines read them; what does not fit together is refused."""

from __future__ import annotations

import pytest

from engines.base import Message, TextPart
from engines.tools import ToolCall
from router.api.tool_turns import in_order, to_call
from router.errors import BadRequestError


def user(text: str) -> Message:
    return Message("user", (TextPart(text),))


def said(text: str, *ids: str) -> Message:
    return Message("assistant", (TextPart(text),) if text else (), tuple(ToolCall(id_, "f", "{}") for id_ in ids))


def result(id_: str) -> Message:
    return Message("tool", (TextPart(id_.upper()),), tool_call_id=id_)


def shape(messages: list[Message]) -> list[str]:
    return [f"{each.role[0]}:{each.text}{''.join(call.id for call in each.tool_calls)}" for each in messages]


@pytest.mark.parametrize(
    ("turns", "ordered"),
    [
        ([user("q"), said("ok"), user("r")], ["u:q", "a:ok", "u:r"]),
        ([user("q"), said("ok", "a", "b"), result("b"), result("a")], ["u:q", "a:okab", "t:A", "t:B"]),
        # One item for each call, the words before them and the results between them.
        ([said("ok"), said("", "a"), said("", "b"), result("b"), result("a")], ["a:okab", "t:A", "t:B"]),
        ([said("", "a"), result("a"), said("", "b"), result("b")], ["a:a", "t:A", "a:b", "t:B"]),
        ([said("", "a", "b"), result("a"), said("", "c"), result("c"), result("b")], ["a:abc", "t:A", "t:B", "t:C"]),
        # The same id in another round is another call.
        ([said("", "a"), result("a"), user("q"), said("", "a"), result("a")], ["a:a", "t:A", "u:q", "a:a", "t:A"]),
    ],
)
def test_results_follow_their_calls_in_the_calls_order(turns: list[Message], ordered: list[str]) -> None:
    assert shape(in_order(turns, "input")) == ordered


@pytest.mark.parametrize(
    "turns",
    [
        [user("q"), result("a")],
        [said("", "a"), user("q")],
        [said("", "a", "b"), result("b")],
        [said("", "a"), result("a"), result("a")],
        [said("", "a", "a"), result("a")],
        [said("", ""), result("")],
        [said("", "a"), user("q"), result("a")],
    ],
)
def test_what_does_not_fit_together_is_refused(turns: list[Message]) -> None:
    with pytest.raises(BadRequestError) as refused:
        in_order(turns, "input")
    assert refused.value.param == "input"


def test_many_calls_are_each_looked_at_a_few_times() -> None:
    num_looks = 0

    class Id(str):
        """An id that counts how often it is looked up or compared."""

        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            nonlocal num_looks
            num_looks += 1
            return str.__eq__(self, other)

        def __hash__(self) -> int:
            nonlocal num_looks
            num_looks += 1
            return str.__hash__(self)

    ids = [Id(f"c{number}") for number in range(500)]
    turns = [*(said("", id_) for id_ in ids), *(result(id_) for id_ in reversed(ids))]

    ordered = in_order(turns, "input")

    assert [call.id for call in ordered[0].tool_calls] == ids
    assert [each.tool_call_id for each in ordered[1:]] == ids
    assert num_looks < 50 * len(ids)


def test_arguments_are_the_text_of_an_object() -> None:
    assert to_call("a", "f", " ", "p").arguments == "{}"
    for text in ("[1]", "{", "5", "[" * 100_000):
        with pytest.raises(BadRequestError):
            to_call("a", "f", text, "p")

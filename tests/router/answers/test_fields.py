"""The merge by field: what is equal, who is believed, and what becomes of arrays."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.answers import fields
from router.answers.agreement import Conflict
from router.answers.fields import merge_fields, same


@pytest.mark.parametrize(
    ("first", "second", "is_same"),
    [
        (1299, "¥1,299.00", True),
        (12.5, "12.50 元", True),
        (3, "三", True),
        (0.5, "50%", True),
        (50, "50%", True),
        ("1.5 kg", "1500g", True),
        ("CNY", "￥", True),
        ("2024-03-05", "2024年3月5日", True),
        ("2024-03-05", "5 March 2024", True),
        ("2024-03-05", "03/05/2024", False),
        ("03/05/2024", "03/05/2024", True),
        ("Ｃａｆé “Bär”", "café bär", False),
        ("“Ｃａｆé”。", "café", True),
        ("007", "7", False),
        ("red", "dark red", False),
        (True, "yes", True),
        (False, "否", True),
        (True, 1, False),
        (True, False, False),
        (3, "3 cats", False),
        (3, 4, False),
        (None, "x", False),
        (10**30, str(10**30), True),
    ],
)
def test_equal_after_normalisation(first: Any, second: Any, is_same: bool) -> None:
    assert same(first, second) is same(second, first) is is_same


@pytest.mark.parametrize(
    ("glm", "owl2", "value", "origin", "conflicts"),
    [
        (1299, "1,299", 1299, "agree", 0),
        ("Cafe", "CAFE.", "Cafe", "agree", 0),
        (None, None, None, "agree", 0),
        # Only one says something
        (None, "x", "x", "owl2", 0),
        ("x", "n/a", "x", "glm", 0),
        ("", "x", "x", "owl2", 0),
        (["a"], [], ["a"], "glm", 0),
        (0, None, 0, "glm", 0),
        (False, None, False, "glm", 0),
        # Both do: digits and print are GLM's
        (3, 4, 3, "glm", 1),
        ("12 May", "13 May", "12 May", "glm", 1),
        ("三", "四", "三", "glm", 1),
        ("Starbucks", "Starbuks", "Starbucks", "glm", 1),
        # Judgements are Owl2's
        (True, False, False, "owl2", 1),
        ("red", "blue", "blue", "owl2", 1),
        # Neither for nor against
        ("红色", "red", "红色", "glm", 0),
        # Nobody's
        (["a", "b"], ["a"], ["a", "b"], "conflict", 1),
        (["a"], "a", ["a"], "conflict", 1),
        # Lists are multisets
        (["a", "b", "b"], ["B", "a", "b"], ["a", "b", "b"], "agree", 0),
        (["a", "a", "b"], ["a", "b", "b"], ["a", "a", "b"], "conflict", 1),
    ],
)
def test_who_is_believed(glm: Any, owl2: Any, value: Any, origin: str, conflicts: int) -> None:
    merged = merge_fields({"f": glm}, {"f": owl2})

    assert merged.value == {"f": value}
    assert type(merged.value["f"]) is type(value)
    assert merged.provenance == {"/f": origin}
    assert merged.conflicts == (Conflict("field", glm, owl2, "/f"),) * conflicts


def test_in_a_form_that_is_read_off_the_picture_glm_is_believed() -> None:
    merged = merge_fields({"name": "red tea"}, {"name": "blue lagoon"}, is_reading=True)

    assert merged.provenance == {"/name": "glm"}
    assert len(merged.conflicts) == 1


def test_a_field_that_is_missing_counts_as_empty_and_keeps_its_place() -> None:
    merged = merge_fields({"a": 1, "c": 3}, {"a": 1, "b": 2, "c": 3, "d": 4})

    assert list(merged.value.items()) == [("a", 1), ("b", 2), ("c", 3), ("d", 4)]
    assert merged.provenance == {"/a": "agree", "/b": "owl2", "/c": "agree", "/d": "owl2"}
    assert merged.score == 0.5


def test_the_score_is_the_share_of_fields_that_agree_where_either_says_something() -> None:
    merged = merge_fields({"a": 1, "b": 2, "c": None, "d": "红"}, {"a": 1, "b": 3, "c": None, "d": "red"})

    assert merged.score == 0.5
    assert merge_fields({"a": None}, {"a": None}).score is None


def test_lines_that_only_one_model_saw_are_kept_in_their_place() -> None:
    def line(name: str, price: Any) -> dict[str, Any]:
        return {"name": name, "price": price}

    glm = {"lines": [line("tea", 5), line("cake", 12)]}
    owl2 = {"lines": [line("Tea", "5元"), line("milk", 3), line("Cake", 13)]}

    merged = merge_fields(glm, owl2)

    assert merged.value == {"lines": [line("tea", 5), line("milk", 3), line("cake", 12)]}
    assert merged.provenance == {
        "/lines/0": "agree",
        "/lines/1": "owl2",
        "/lines/2/name": "agree",
        "/lines/2/price": "glm",
    }
    assert merge_fields(owl2, glm).value["lines"][1] == line("milk", 3)


def test_lines_of_equal_number_are_taken_in_their_order() -> None:
    merged = merge_fields({"l": [{"n": "a"}, {"n": "b"}]}, {"l": [{"n": "b"}, {"n": "a"}]})

    assert [conflict.path for conflict in merged.conflicts] == ["/l/0/n", "/l/1/n"]


def test_rows_of_a_table_are_compared_cell_by_cell_and_in_order() -> None:
    merged = merge_fields({"rows": [["a", "1"], ["3", "5"]]}, {"rows": [["A", "1"], ["5", "3"]]})

    assert merged.value == {"rows": [["a", "1"], ["3", "5"]]}
    assert merged.provenance == {"/rows/0": "agree", "/rows/1": "glm"}
    assert len(merged.conflicts) == 2


def test_an_array_of_one_origin_has_one_pointer() -> None:
    value = {"l": [{"n": "a", "p": 1}] * 200}

    assert merge_fields(value, value).provenance == {"/l": "agree"}


def test_pointers_are_escaped() -> None:
    assert merge_fields({"a/b~c": 1}, {"a/b~c": 1}).provenance == {"/a~1b~0c": "agree"}


scalars = st.none() | st.booleans() | st.integers(-9, 99) | st.sampled_from(["a", "B", "红", "n/a", "5", "¥5", "5%"])
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
    max_leaves=10,
)


@given(values, values)
@settings(max_examples=150, derandomize=True, deadline=None)
def test_what_agrees_does_not_depend_on_who_said_it(first: Any, second: Any) -> None:
    one, other = merge_fields(first, second), merge_fields(second, first)

    def by_path(conflicts: tuple[Conflict, ...]) -> list[Conflict]:
        return sorted(conflicts, key=lambda conflict: conflict.path or "")

    swapped = tuple(Conflict(c.kind, c.second, c.first, c.path) for c in other.conflicts)
    assert one.score == other.score
    assert by_path(one.conflicts) == by_path(swapped)
    agreed = [{path for path, origin in merged.provenance.items() if origin == "agree"} for merged in (one, other)]
    assert agreed[0] == agreed[1]


@given(values)
@settings(max_examples=100, derandomize=True, deadline=None)
def test_a_value_merged_with_itself_stays_as_it_is(value: Any) -> None:
    merged = merge_fields(value, value)

    assert merged.value == value
    assert set(merged.provenance.values()) <= {"agree"}
    assert merged.score in (None, 1.0)
    assert merged.conflicts == ()


def test_of_equal_matches_the_earliest_counts() -> None:
    row = {"item": "tea", "price": 3}

    assert fields._align([row], [row, row]) == {0: 0}
    assert fields._align([row], [{"item": "milk"}, row, row]) == {1: 0}
    assert fields._align([row, row], [row, row, row]) == {0: 0, 1: 1}

"""Scores of single answers against values worked out by hand."""

from __future__ import annotations

import json
from unittest import mock

import pytest

from router.loop.stats import metrics
from router.loop.stats.matching import best_pairs
from router.loop.stats.metrics import Fields, anls_star, count_fields, score


@pytest.mark.parametrize(
    ("right", "said"),
    [
        ("12.50", "12.5"),
        ("1200", "1,200"),
        ("红色", "红色。"),
        ("Red Circle", "red circle"),
        ("１２", "12"),
        ('{"total": 3, "shop": "A"}', '```json\n{"shop": "a", "total": "3.00"}\n```'),
        ('{"total": 3, "note": null}', '{"total": 3}'),
    ],
)
def test_the_same_is_exact_however_it_is_written(right: str, said: str) -> None:
    assert score(right, said).exact == 1.0


@pytest.mark.parametrize(
    ("right", "said"),
    [("12.50", "12.05"), ("红色", "蓝色"), ('{"a": 1}', '{"a": 1, "b": 2}'), ('{"a": 1}', "1"), ("12", "")],
)
def test_something_else_is_not_exact(right: str, said: str) -> None:
    assert score(right, said).exact == 0.0


def test_fields_are_counted_over_nested_values_and_lists_in_any_order() -> None:
    right = {"shop": "A", "items": [{"name": "tea", "price": 3}, {"name": "milk", "price": 5}], "tip": None}
    said = {"shop": "A", "items": [{"name": "milk", "price": 5}, {"name": "tea", "price": 4}], "tip": 1}

    fields = count_fields(right, said)

    # shop, milk, 5 and tea are the same; 4 is wrong, and the tip was not to be said
    assert fields == Fields(num_same=4, num_right=5, num_said=6)
    assert (fields.precision, fields.recall) == (4 / 6, 4 / 5)
    assert fields.f1 == pytest.approx(2 * 4 / 11)


def test_prices_of_the_wrong_goods_are_wrong() -> None:
    right = [{"name": "tea", "price": 3}, {"name": "milk", "price": 5}]
    said = [{"name": "tea", "price": 5}, {"name": "milk", "price": 3}]

    assert count_fields(right, said) == Fields(2, 4, 4)


def test_nothing_is_right_where_nothing_was_to_be_said() -> None:
    assert count_fields({"a": None}, {}).f1 == 1.0
    assert count_fields({"a": None}, {"a": 1}).f1 == 0.0


def test_prose_for_json_has_no_right_field() -> None:
    found = score('{"total": 3, "shop": "A"}', "The total is 3.")

    assert (found.exact, found.precision, found.recall, found.f1, found.anls) == (0.0, 0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("right", "said", "expected"),
    [
        ("hello", "hallo", 0.8),
        ("hello", "world", 0.0),  # 0.2 is below a half
        ({"a": "hello", "b": "x"}, {"a": "hallo"}, 0.4),
        ({"a": "hello"}, {"a": "hello", "b": "more"}, 0.5),
        ({"a": "hello"}, {"a": "hello", "b": None}, 1.0),
        ({"a": "hello", "b": None}, {"a": "hello"}, 1.0),
        (["this", "is", "a", "test"], ["a", "test", "this", "be"], 0.75),
        (["a"], ["a", "b", "c"], 1 / 3),
        ({"a": ["x", {"b": 1}]}, {"a": [{"b": 1}, "x"]}, 1.0),
        (None, "x", 0.0),
        ([], [], 1.0),
    ],
)
def test_similarity_of_trees(right: object, said: object, expected: float) -> None:
    assert anls_star(right, said) == pytest.approx(expected)


def test_pairs_are_those_of_the_largest_sum_not_the_first_ones() -> None:
    assert best_pairs([[9, 8], [8, 1]]) == [(0, 1), (1, 0)]
    assert best_pairs([[1, 5, 2]]) == [(0, 1)]
    assert best_pairs([[1], [5], [2]]) == [(1, 0)]
    assert best_pairs([]) == []
    assert best_pairs([[], []]) == []


def test_elements_of_very_long_lists_are_paired_in_order() -> None:
    # Given a correction as long as the api takes it, and an answer of many short elements
    right, said = [1] * 40_000, [1] * 1_000
    with mock.patch.object(metrics, "best_pairs", side_effect=AssertionError("takes minutes")):
        found = score(json.dumps(right), json.dumps(said))

    assert (found.precision, found.recall, found.anls) == (1.0, 1_000 / 40_000, 1_000 / 40_000)
    # and also if there are few elements with many leaves each
    rows, others = [[[n] * 500 for n in range(50)] for _ in range(2)]
    with mock.patch.object(metrics, "best_pairs", side_effect=AssertionError("takes minutes")):
        assert count_fields(rows, others[::-1]).num_same == 0

    # but a long table of goods is still compared in any order
    goods = [{"name": f"n{n}", "price": n} for n in range(150)]
    assert count_fields(goods, goods[::-1]).num_same == 300

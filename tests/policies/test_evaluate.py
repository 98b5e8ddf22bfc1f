"""The measures themselves, on small numbers that can be checked by hand."""

import math

import pytest

from policies.evaluate import auroc, bootstrap_interval, evaluate_hops, evaluate_language, length_controlled_auroc
from policies.report import evaluation_tables


@pytest.mark.parametrize(
    ("positives", "negatives", "expected"),
    [([2, 3], [0, 1], 1.0), ([0], [1], 0.0), ([1], [1], 0.5), ([3, 1], [2, 0], 0.75), ([1, 1], [1, 0], 0.75)],
)
def test_auroc_is_the_share_of_pairs_in_order(positives, negatives, expected):
    assert auroc(positives, negatives) == expected


def test_auroc_of_a_missing_class_is_no_number():
    assert math.isnan(auroc([], [1.0]))


def test_a_score_that_only_knows_the_length_is_worth_nothing_among_texts_of_like_length():
    lengths = [10, 20, 30, 40, 50] * 4
    labels = [False, True] * 10

    assert length_controlled_auroc(lengths, [float(length) for length in lengths], labels) == 0.5
    assert length_controlled_auroc(lengths, [float(label) for label in labels], labels) == 1.0
    assert math.isnan(length_controlled_auroc([1, 2], [0.0, 1.0], [True, True]))
    assert math.isnan(length_controlled_auroc([], [], []))


def test_the_interval_holds_the_value_and_is_the_same_every_time():
    scores = [0.1, 0.4, 0.35, 0.8, 0.2, 0.9, 0.5, 0.6]
    labels = [False, False, True, True, False, True, True, False]
    groups = list("abcdefgh")

    low, high = bootstrap_interval(groups, scores, labels)

    assert (low, high) == bootstrap_interval(groups, scores, labels)
    assert 0.0 <= low < auroc([0.35, 0.8, 0.9, 0.5], [0.1, 0.4, 0.2, 0.6]) < high <= 1.0


def test_rows_of_one_group_are_resampled_together():
    # One group alone: every resample is the whole.
    assert bootstrap_interval(["a"] * 4, [1.0, 0.0, 0.5, 0.2], [True, False, False, True]) == (0.75, 0.75)


def test_borderline_rows_are_left_out_and_the_mean_is_over_sources_not_rows():
    def row(source, label, text):
        return {"id": text, "text": text, "language": "en", "source": source, "label_hops": label, "label_kind": None}

    rows = [
        *(row("a", "simple", str(number)) for number in range(9)),
        row("a", "multi_hop", "9"),
        row("b", "simple", "1"),
        row("b", "multi_hop", "0"),
        row("b", "borderline", "5"),
    ]

    results = {result.source: result for result in evaluate_hops(rows, 5.0, lambda text, _: float(text))}

    assert (results["a"].auroc, results["b"].auroc, results["mean"].auroc) == (1.0, 0.0, 0.5)
    assert (results["b"].num_rows, results["mean"].num_rows) == (2, 12)
    assert results["a"].false_alarms == pytest.approx(4 / 9)
    assert results["a"].recall == 1.0


def test_mixed_text_is_right_when_its_matrix_language_is_found():
    row = {"text": "帮我 translate 这段", "language": "mixed", "matrix": "zh", "source": "s", "length_words": "3-8"}

    assert {(result.source, result.rate) for result in evaluate_language([row])} == {("all", 1.0), ("s", 1.0)}


def test_rows_without_labels_make_no_tables():
    assert evaluation_tables([{"text": "a"}], 0.5) == ""

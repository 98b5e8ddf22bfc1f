"""Results of an evaluation, kept in a file, compared, and judged."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.dataset_format import Example, Part, Turn
from router.loop.stats.comparison import compare, refusals
from router.loop.stats.results import (
    Answer,
    Header,
    Results,
    ResultsError,
    groups_of,
    read_results,
    slices_of,
    to_line,
)


def _results(*arms: tuple[str, list[str | None]], slices: tuple[str, ...] = ("en",), of: str = "q") -> Results:
    """Each arm says these answers; the right one is always "yes"."""
    return Results(
        Header("abc", max(len(said) for _, said in arms)),
        {
            arm: {
                f"{of}{number}": Answer(f"{of}{number}", arm, f"picture {of}{number}", slices, "yes", each)
                for number, each in enumerate(said)
            }
            for arm, said in arms
        },
    )


def test_a_gain_is_proven_where_its_interval_is_above_zero() -> None:
    found = compare(_results(("old", ["no"] * 30 + ["yes"] * 70), ("new", ["yes"] * 100)), "old", "new")

    assert (found.old, found.new, found.num_won, found.num_lost) == (0.7, 1.0, 30, 0)
    assert found.gain is not None
    assert found.gain.estimate == pytest.approx(0.3)
    assert found.gain.low > 0.2
    assert refusals(found) == []


def test_a_gain_that_may_be_chance_is_refused() -> None:
    found = compare(
        _results(("old", ["no"] * 6 + ["yes"] * 94), ("new", ["yes"] * 96 + ["no"] * 4), slices=("other",)),
        "old",
        "new",
    )

    (refusal,) = refusals(found)
    assert refusal.why == "no gain"
    assert refusal.interval is not None
    assert refusal.interval.low <= 0 < refusal.interval.estimate
    assert found.p > 0.05


def test_a_guarded_slice_that_fell_is_refused_though_all_together_gained() -> None:
    good = _results(("old", ["no"] * 100), ("new", ["yes"] * 100), slices=("zh",)).answers
    bad = _results(("old", ["yes"] * 40), ("new", ["no"] * 10 + ["yes"] * 30), of="en").answers
    both = Results(
        Header("abc", 140),
        {arm: {**good[arm], **bad[arm]} for arm in good},
    )

    found = compare(both, "old", "new")

    assert found.gain is not None
    assert found.gain.low > 0
    assert [(each.why, each.name) for each in refusals(found)] == [("slice", "en")]
    assert refusals(found, guarded=["zh"]) == []
    assert refusals(found, margin=0.5) == []


def test_few_questions_of_a_guarded_slice_rule_nothing_out() -> None:
    many = _results(("old", ["no"] * 100), ("new", ["yes"] * 100), slices=("zh",)).answers
    few = _results(("old", ["yes"] * 5), ("new", ["yes"] * 5), slices=("pages",), of="pages").answers
    results = Results(Header("abc", 105), {arm: {**many[arm], **few[arm]} for arm in many})

    assert [(each.why, each.name, each.interval) for each in refusals(compare(results, "old", "new"))] == [
        ("slice", "pages", None)
    ]


def test_no_answer_is_a_wrong_one() -> None:
    found = compare(_results(("old", ["yes"] * 20), ("new", [None] * 20)), "old", "new")

    assert (found.old, found.new) == (1.0, 0.0)


def test_questions_that_one_arm_lacks_count_for_neither() -> None:
    results = _results(("old", ["yes"] * 12), ("new", ["yes"] * 20))

    found = compare(results, "old", "new")

    assert found.gain is not None
    assert found.gain.num_rows == 12
    assert (results.missing("old"), results.missing("new"), results.missing("third")) == (8, 0, 20)
    with pytest.raises(ValueError, match="both"):
        compare(results, "old", "third")


def test_a_file_is_read_as_far_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "eval.jsonl"
    header, answer = Header("abc", 2, "data"), Answer("1", "a", "g", ("zh",), "对", "错", model="m", seconds=1.5)
    again = Answer("1", "a", "g", ("zh",), "对", "对")
    path.write_bytes(to_line(header) + to_line(answer) + to_line(again) + to_line(answer)[:-20])

    results = read_results(path)

    assert results.header == header
    assert results.answers == {"a": {"1": again}}


@pytest.mark.parametrize("text", ["", "{}\n", "[]\n", '{"object": "glowl.evaluation"}\n', "no JSON\n"])
def test_another_file_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "eval.jsonl"
    path.write_text(text)

    with pytest.raises(ResultsError):
        read_results(path)


def test_a_line_in_the_middle_that_is_no_answer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "eval.jsonl"
    path.write_bytes(to_line(Header("abc", 1)) + b"{}\n" + to_line(Answer("1", "a", "g", (), "x")))

    with pytest.raises(ResultsError, match="line 2"):
        read_results(path)


def _example(name: str, question: str, *pictures: str) -> Example:
    parts = (*(Part(picture=picture) for picture in pictures), Part(text=question))
    return Example(name, (Turn("user", parts), Turn("assistant", (Part(text="x"),))), "receipts")


def test_questions_are_of_one_group_if_a_chain_of_pictures_joins_them() -> None:
    examples = [
        ("1", ["A"]),
        ("2", ["B", "C"]),
        ("3", ["C", "A"]),
        ("4", ["D"]),
        ("5", []),
        ("6", []),
    ]

    groups = groups_of(examples)

    assert groups["1"] == groups["2"] == groups["3"]
    assert len({groups[name] for name in "1456"}) == 4


def test_a_question_counts_under_its_slice_its_language_and_several_pictures() -> None:
    assert slices_of(_example("1", "合计是多少？", "a", "b")) == ("pages", "receipts", "zh")
    assert slices_of(_example("1", "What is the total on the receipt?", "a", "a")) == ("en", "receipts")

"""Judging pocket checkpoints: a type passes where its bar is reached and no blind answer could have come near."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from engines.base import Engine
from engines.echo import EchoEngine
from training.pocket import evaluate
from training.pocket.evaluate import Blind, Outcome, best_blind, draw_type, evaluate_engine, judged_types, score_type
from training.pocket.scenes import TYPES, Question

SEED = 11


def outcomes(name: str, num_right: int, num: int, engine: Any = "glm") -> list[Outcome]:
    questions = draw_type(engine, name, num, SEED)
    return [
        Outcome(question, question.answer if index < num_right else "?", 0.01, 2)
        for index, question in enumerate(questions)
    ]


def test_a_type_passes_at_its_bar_and_not_below() -> None:
    # Given the bar of 0.95 for existence and a blind strategy right half the time
    blind = Blind("both words are visible", 0.5, 0.52)
    assert score_type("glm", outcomes("exist", 190, 200), blind).passed
    assert not score_type("glm", outcomes("exist", 189, 200), blind).passed


def test_a_type_does_not_pass_where_guessing_comes_near() -> None:
    # Given nineteen of twenty right, whose interval begins at 0.764
    few = outcomes("exist", 19, 20)
    assert score_type("glm", few, Blind("guess", 0.7, 0.75)).passed
    # Then a blind strategy that may reach 0.8 takes that away
    assert not score_type("glm", few, Blind("guess", 0.7, 0.8)).passed


def test_a_text_turn_has_no_blind_baseline_to_beat() -> None:
    assert score_type("owl2", outcomes("greeting", 20, 20, "owl2"), Blind("majority", 1.0, 1.0)).passed


def test_three_of_four_questions_to_glm_are_chinese_in_both_halves_that_baselines_learn_from() -> None:
    questions = draw_type("glm", "exist", 80, SEED)
    for half in (questions[::2], questions[1::2]):
        assert [question.lang for question in half].count("zh") == 30
        assert [question.lang for question in half].count("en") == 10
    assert {question.lang for question in draw_type("owl2", "exist", 20, SEED)} == {"en"}


def test_owl2_is_not_judged_on_print_and_nobody_on_what_is_held_out() -> None:
    assert not any(TYPES[name].scene_kind in ("poster", "chart") for name in judged_types("owl2"))
    assert {"price_current", "chart_tallest"} <= set(judged_types("glm"))
    for engine in evaluate.ENGINES:
        assert not any(TYPES[name].held_out for name in judged_types(engine))


def test_the_best_blind_strategy_is_named() -> None:
    blind = best_blind(draw_type("owl2", "hop_largest_kind", 400, SEED))
    assert blind.strategy == "the extreme of all shapes"
    assert 0.4 < blind.accuracy < blind.high < 0.65


@pytest.fixture
def judged(monkeypatch) -> None:
    """An evaluation in which existence is always right and positions never are, without any model."""

    async def ask(_: Engine, question: Question) -> Outcome:
        return Outcome(question, question.answer if question.type == "exist" else "?", 0.02, 2)

    async def start(*_: object) -> tuple[Engine, float]:
        return EchoEngine("glm"), 1.5

    monkeypatch.setattr(evaluate, "ask", ask)
    monkeypatch.setattr(evaluate, "start_engine", start)


@pytest.mark.usefixtures("judged")
async def test_a_report_says_of_each_type_whether_it_passed() -> None:
    # When an engine is judged on two types
    report = await evaluate_engine("glm", Path("none"), 100, SEED, types=["exist", "position"])
    # Then the report has both, and lists what was missed
    assert {name: row["passed"] for name, row in report["types"].items()} == {"exist": True, "position": False}
    assert report["not_passed"] == {"must": ["position"], "aim": []}
    assert report["types"]["exist"]["n"] == 100
    assert report["latency"]["median_s"] == pytest.approx(0.02)
    assert report["wrong"][0]["type"] == "position"
    assert json.loads(json.dumps(report)) == report
    # And the table shows each with its interval, blind strategy and bar
    table = evaluate.to_markdown(report)
    (row,) = [line for line in table.splitlines() if line.startswith("| exist |")]
    assert row.startswith("| exist | 100 | 1.000 | 0.963 to 1.000 | 0.5")
    assert row.endswith("| must 0.95 | yes |")
    assert "Not passed: must: position; aim: none." in table


def test_a_folder_without_checkpoints_is_refused_before_anything_starts(tmp_path, capsys) -> None:
    with pytest.raises(SystemExit):
        evaluate.main(["--models", str(tmp_path)])
    assert "there is no checkpoint" in capsys.readouterr().err

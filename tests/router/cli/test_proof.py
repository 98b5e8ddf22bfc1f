"""`glowl verdict`, `glowl replay` and `glowl policy fit` on a log of this machine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from policies import multi_hop_weights
from router.cli.main import app
from router.loop.store import LoopStore
from tests.router.loop.stats.test_log import DRAWN, kept, look
from tests.router.loop.stats.test_shadows import DRAWN as SHADOWED
from tests.router.loop.stats.test_shadows import shadow

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("GLOWL_DATA_DIR", str(tmp_path))
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


@pytest.fixture
def log(tmp_path: Path) -> None:
    """Thirty questions, each with a second look that is right where the first answer is not."""
    with LoopStore(tmp_path / "loop") as store:
        for number in range(30):
            store.put(kept(f"q{number}", decision=DRAWN, feedback=None), (), 1e12)
            store.put_feedback(f"q{number}", "local", kept("x").feedback)  # type: ignore[arg-type]
            store.put(look(f"q{number}"), (), 1e12)


@pytest.mark.usefixtures("log")
def test_the_verdict_says_what_pays_and_what_follows(run: Run) -> None:
    result = run("verdict")

    assert result.exit_code == 0, result.output
    line = next(line for line in result.output.splitlines() if line.startswith("fast zh"))
    assert "+100.0 [" in line
    assert "+7.0" in line
    assert "pays" in line
    assert "send these deep" in line


@pytest.mark.usefixtures("log")
def test_the_verdict_speaks_of_shadows_too(run: Run, tmp_path: Path) -> None:
    with LoopStore(tmp_path / "loop") as store:
        for number in range(30):
            store.put(kept(f"s{number}", decision=SHADOWED, feedback=None), (), 1e12)
            store.put(shadow(f"s{number}", "cat"), (), 1e12)

    result = run("verdict")

    assert result.exit_code == 0, result.output
    assert "shadow tags (weights r1): 30 questions, the same answer in 100.0%" in result.output
    assert "(n = 0), in points: not enough data" in " ".join(result.output.split())


@pytest.mark.usefixtures("log")
def test_another_preset_is_replayed(run: Run) -> None:
    deep, same = run("replay", "--preset", "owl2-only"), run("replay", "--preset", "glm-only")

    assert deep.exit_code == 0, deep.output
    assert "0.0% -> 100.0%" in deep.output
    assert "gain, in points per question: +100.0 [" in deep.output
    assert "+7.0 s" in deep.output
    assert "every question takes the same route" in same.output


@pytest.mark.usefixtures("log")
def test_weights_that_prove_nothing_are_not_written(run: Run, tmp_path: Path) -> None:
    result = run("policy", "fit", "--out", str(tmp_path / "weights.json"))

    assert result.exit_code == 1
    assert "zh: stays as it is" in result.output
    assert "no gain proven" in result.output
    assert not (tmp_path / "weights.json").exists()


def test_weights_that_prove_to_be_better_are_written(run: Run, tmp_path: Path) -> None:
    with LoopStore(tmp_path / "loop") as store:
        for number in range(200):
            is_compared = number % 2 == 0
            text = "哪个更大？" if is_compared else "这是什么？"
            messages = [{"role": "user", "parts": [{"type": "text", "text": text}]}]
            one = kept(f"q{number}", decision=DRAWN, question=text, messages=messages, pictures=(f"p{number}",))
            store.put(one, (), 1e12)
            right = kept("x").feedback if is_compared else None
            store.put_feedback(one.id, "local", right or type(kept("x").feedback)("up"))  # type: ignore[misc, arg-type]
            store.put(look(one.id), (), 1e12)
    path = tmp_path / "weights.json"

    result = run("policy", "fit", "--out", str(path))

    assert result.exit_code == 0, result.output
    assert "zh: fitted on" in result.output
    fitted = multi_hop_weights.parse(path.read_text(), multi_hop_weights.shipped())
    assert fitted["zh"] != multi_hop_weights.shipped()["zh"]
    assert "gain on" in json.loads(path.read_text())["note"]


@pytest.mark.parametrize("arguments", [["verdict"], ["replay", "--preset", "seed"]])
def test_without_a_log_there_is_one_line(arguments: list[str], run: Run) -> None:
    result = run(*arguments)

    assert result.exit_code == 1
    assert "nothing is kept" in result.output


@pytest.mark.parametrize("option", [["--since", "1s"], ["--owner", "nobody"]])
def test_a_log_in_which_nothing_is_meant_does_not_ask_for_consent(option: list[str], run: Run, tmp_path: Path) -> None:
    with LoopStore(tmp_path / "loop") as store:
        store.put(kept("q", decision=DRAWN, feedback=None), (), 1e12)

    result = run("verdict", *option)

    assert result.exit_code == 1
    assert "give a longer --since" in result.output
    assert "Switch capture on" not in result.output


@pytest.mark.parametrize("arguments", [["verdict"], ["replay", "--preset", "glm-only"]])
def test_without_feedback_it_says_that_it_cannot_tell(arguments: list[str], run: Run, tmp_path: Path) -> None:
    with LoopStore(tmp_path / "loop") as store:
        store.put(kept("q", decision=DRAWN, feedback=None), (), 1e12)

    result = run(*arguments)

    assert result.exit_code == 1
    assert "not enough data" in result.output


@pytest.mark.usefixtures("log")
def test_what_was_asked_again_is_no_question_of_anybody(tmp_path: Path) -> None:
    with LoopStore(tmp_path / "loop") as store:
        assert len(list(store.select())) == 30
        assert len(list(store.select(with_again=True))) == 60

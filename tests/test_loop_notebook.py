"""``examples/loop.ipynb``: run from its first cell to its last where all of the large tests run; else only read.

Run, it takes two starts of both models and a training, minutes on a CPU: `make test-whole`. The default run sees that
no output is kept, every cell is Python, and every command of Glowl in it parses.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
import typer

from router.cli.main import app
from tests.support.whole import IS_WHOLE, VARIABLE

NOTEBOOK = Path(__file__).parents[1] / "examples" / "loop.ipynb"
CELLS: list[dict[str, Any]] = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
SOURCES = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]
STEPS = ("report", "dataset", "finetune", "eval", "promote", "verdict")
SMALL = {"NUM_RECEIPTS": 48, "NUM_OLD": 16, "EPOCHS": 1}


def _commands() -> list[list[str]]:
    """The arguments of every call of ``glowl``; what is computed is some word."""
    calls = [node for source in SOURCES for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    found = []
    for call in calls:
        if isinstance(call.func, ast.Name) and call.func.id == "glowl":
            given = [part for each in call.args for part in getattr(getattr(each, "value", None), "elts", [each])]
            found.append([each.value if isinstance(each, ast.Constant) else "word" for each in given])
    return found


def test_every_command_in_it_parses_and_no_step_of_the_loop_is_left_out() -> None:
    known: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    commands = _commands()

    for name, *arguments in commands:
        known[name].make_context(name, arguments)
    assert list(dict.fromkeys(name for name, *_ in commands)) == list(STEPS)


def test_it_is_kept_without_outputs_and_its_sizes_come_first() -> None:
    code = [cell for cell in CELLS if cell["cell_type"] == "code"]

    assert all((cell["outputs"], cell["execution_count"]) == ([], None) for cell in code)
    assert code[0]["metadata"] == {"tags": ["parameters"]}
    assert SMALL.keys() == {name.id for name in ast.walk(ast.parse(SOURCES[0])) if isinstance(name, ast.Name)}


@pytest.mark.slow
@pytest.mark.skipif(not IS_WHOLE, reason=f"minutes of both models: {VARIABLE}=1")
def test_it_runs_from_the_first_cell_to_the_last(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    try:
        for number, source in enumerate(SOURCES):
            exec(compile(source, f"cell {number}", "exec"), names)
            names |= SMALL if number == 0 else {}
    finally:
        if "service" in names:
            names["service"].terminate()
            names["service"].wait(timeout=300)

    said = capsys.readouterr().out
    assert "to learn from" in said
    assert "serve it: glowl engine glm" in said
    assert (names["HERE"] / "report.html").stat().st_size > 10_000
    assert "is not promoted" in said or "answered by glm-4.6v-flash:receipts" in said

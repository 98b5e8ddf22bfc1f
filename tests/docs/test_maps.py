"""The map of a folder, the tables of its README, names every module beside it and no file that has gone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

FOLDERS = ("router", "engines", "policies", "engines/glm", "engines/owl2", "engines/owl2_vllm", "engines/finetune")
EACH_FOLDER = pytest.mark.parametrize("name", FOLDERS)


def named_in(folder: Path) -> set[str]:
    """The files and folders that the README's tables name."""
    rows = [line for line in (folder / "README.md").read_text("utf-8").splitlines() if line.startswith("|")]
    paths = re.findall(r"`([\w/.]+(?:\.py|/))`", "\n".join(rows))
    return {part for path in paths for part in path.split("/")}


@EACH_FOLDER
def test_every_module_is_in_the_map(name: str) -> None:
    folder = ROOT / name
    modules = {path.name for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/*.py")}

    assert modules - {"__init__.py"} - named_in(folder) == set()


@EACH_FOLDER
def test_every_file_of_the_map_is_there(name: str) -> None:
    there = {
        path.name
        for top in ("router", "engines", "policies", "tests", "training")
        for path in (ROOT / top).rglob("*.py")
    }

    assert {each for each in named_in(ROOT / name) if each.endswith(".py")} - there == set()

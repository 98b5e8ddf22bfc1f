"""deploy/Dockerfile: a linter's setting, or what developers install, is no reason to install torch again."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(shutil.which("awk") is None, reason="awk is missing")
def test_dependencies_are_installed_by_the_metadata_alone() -> None:
    (program,) = re.findall(r"^RUN awk '(.+)' ", (ROOT / "deploy/Dockerfile").read_text("utf-8"), re.MULTILINE)
    done = subprocess.run(["awk", program, "pyproject.toml"], cwd=ROOT, capture_output=True, text=True, check=True)
    kept, whole = tomllib.loads(done.stdout), tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert set(kept["tool"]) == {"setuptools"}
    tools = whole.pop("tool")
    assert kept.pop("tool") == {"setuptools": tools["setuptools"]}
    del whole["project"]["optional-dependencies"]["dev"]
    assert kept == whole
    assert [line for line in done.stdout.splitlines() if line.startswith("#")] == []

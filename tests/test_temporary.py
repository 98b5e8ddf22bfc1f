"""A run of tests leaves nothing in the temporary folder, unless one failed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.stack import ROOT

TESTS = """
import tempfile

def test_it_leaves_a_folder(tmp_path):
    assert tempfile.mkdtemp(prefix="glowl-x") {}= ""
    (tmp_path / "kept").write_text("")
"""


@pytest.mark.parametrize("is_failing", [False, True])
@pytest.mark.parametrize("workers", ["0", "1"])
def test_what_tests_write_is_removed_unless_one_failed(tmp_path: Path, is_failing: bool, workers: str) -> None:
    home, tests = tmp_path / "home", tmp_path / "tests"
    home.mkdir()
    tests.mkdir()
    (tests / "conftest.py").write_text(
        "from tests.support.temporary import pytest_configure, pytest_sessionfinish, pytest_unconfigure\n"
    )
    (tests / "test_one.py").write_text(TESTS.format("=" if is_failing else "!"))
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    env |= {"TMPDIR": str(home), "PYTHONPATH": str(ROOT)}

    argv = [sys.executable, "-m", "pytest", "-q", "-n", workers, "-p", "no:cacheprovider", str(tests)]
    ended = subprocess.run(argv, env=env, cwd=tests, capture_output=True, text=True, check=False)

    assert ended.returncode == is_failing, ended.stdout
    left = [each.name for each in home.iterdir()]
    assert any(name.startswith("glowl-") for name in left) == is_failing, left
    assert any(name.startswith("pytest-of-") for name in left)  # pytest's own, which it keeps three of

"""GLM's golden tests pass on a set of other sizes, names and counts: nothing of the golden set is written into code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.parity.make_glm_set import write_set
from tests.support.whole import IS_WHOLE

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of another shape, made by transformers alone."""
    folder = tmp_path_factory.mktemp("glm") / "set"
    write_set(folder)
    return folder


def test_the_other_set_has_what_could_go_wrong(folder: Path) -> None:
    # Given the set
    document = json.loads((folder / "cases.json").read_text("utf-8"))
    cases = {case["name"]: case for case in document["cases"]}
    config = json.loads((folder / "model" / "config.json").read_text("utf-8"))

    # Then some answers end by themselves and some do not, some hold a thought, and none hangs by a thread
    assert {case["stopped"] for case in cases.values()} == {True, False}
    assert min(case["min_margin"] for case in cases.values()) > 1e-3
    # And pictures are cut, merged and bounded in another way
    assert config["vision_config"]["spatial_merge_size"] != 2
    assert cases["banner"]["image_grid_thw"][0][2] * config["vision_config"]["patch_size"] < 2048
    # And equal ids have other answers
    assert cases["twin"]["input_ids"] == cases["twin_of_the_second"]["input_ids"]
    assert cases["twin"]["greedy_ids"] != cases["twin_of_the_second"]["greedy_ids"]


@pytest.mark.slow
def test_the_golden_tests_pass_on_a_set_of_other_sizes(folder: Path) -> None:
    # One at a time by default; what a batch adds is the same for all sizes.
    names = "test_glm_golden*.py" if IS_WHOLE else "test_glm_golden.py"
    files = [str(file) for file in sorted(HERE.glob(names))]
    finished = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", *files],
        cwd=HERE.parents[1],
        env={**os.environ, "GLOWL_GOLDEN_GLM": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert finished.returncode == 0, finished.stdout[-4000:]
    assert " passed" in finished.stdout.splitlines()[-1]
    assert "skipped" not in finished.stdout.splitlines()[-1]

"""The golden tests pass on a set with other sizes, names and counts: nothing of the golden set is written into code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.parity.make_owl2_set import write_set
from tests.support.whole import IS_WHOLE

HERE = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.skipif(
    not IS_WHOLE, reason="half a minute, and GLM's other set shows as much of what is shared: make test-whole"
)
def test_the_golden_tests_pass_on_a_set_of_other_sizes(tmp_path: Path) -> None:
    # Given a set of another shape, made by the plain writing of the model
    write_set(tmp_path / "set", torch.bfloat16, legacy=True)

    # When the golden tests run on it
    files = [str(file) for file in sorted(HERE.glob("test_owl2_golden*.py"))]
    finished = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", *files],
        cwd=HERE.parents[1],
        env={**os.environ, "GLOWL_GOLDEN_OWL2": str(tmp_path / "set")},
        capture_output=True,
        text=True,
        check=False,
    )

    assert finished.returncode == 0, finished.stdout[-4000:]
    assert " passed" in finished.stdout.splitlines()[-1]

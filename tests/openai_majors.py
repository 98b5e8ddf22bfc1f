"""Run the journeys with each major of the openai client: ``python -m tests.openai_majors [MAJOR ...] [-- PYTEST...]``.

In: majors, 1, 2 and 3 by default. Out: an environment per major under ``build/``, made or brought up to date by pip,
and a line per major that says which version it was and whether the tests passed; exits with 1 if some did not.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

from tests.support.clients import VARIABLE
from tests.support.whole import VARIABLE as WHOLE

ROOT = Path(__file__).parents[1]
MAJORS = ("1", "2", "3")
TESTS = ("tests/journeys/test_matrix.py",)


def make_environment(major: str) -> Path:
    """Return a Python whose environment has the newest client of a major, and nothing of ours."""
    folder = ROOT / "build" / f"openai-{major}"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        venv.create(folder, with_pip=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade"]
    subprocess.run([*pip, f"openai=={major}.*"], check=True)
    return python


def version_of(python: Path) -> str:
    """Return the version of the client in an environment."""
    code = "import openai; print(openai.__version__)"
    return subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def main(arguments: list[str]) -> int:
    """Run; returns the exit status."""
    place = arguments.index("--") if "--" in arguments else len(arguments)
    majors, options = arguments[:place] or list(MAJORS), arguments[place + 1 :]
    results: list[tuple[str, int]] = []
    for major in majors:
        python = make_environment(major)
        version = version_of(python)
        assert version.partition(".")[0] == major
        print(f"openai {version}", flush=True)
        environment = {**os.environ, VARIABLE: str(python), WHOLE: "1"}
        done = subprocess.run([sys.executable, "-m", "pytest", *TESTS, *options], cwd=ROOT, env=environment)
        results.append((version, done.returncode))
    for version, status in results:
        print(f"openai {version}: {'passed' if status == 0 else 'FAILED'}")
    return int(any(status for _, status in results))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

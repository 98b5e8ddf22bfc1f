"""The open Responses suite's checks against the pocket models: ``python -m tests.conformance.run``.

In: PyPI, for the specification's shapes in an environment under ``build/``. Out: a table; exits with 1 if a check did
not pass that `NOT_EXPECTED` does not name.
"""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path

from tests.support.stack import ROOT, PocketStack

FOLDER = ROOT / "build" / "open-responses"
PACKAGES = ("openresponses-types==2.4.0", "websockets==17.4")
# The pocket GLM was never shown a function.
NOT_EXPECTED = {"tool-calling"}


def environment() -> Path:
    """Return a Python that has the shapes, and nothing of ours."""
    python = FOLDER / "bin" / "python"
    if not python.exists():
        venv.create(FOLDER, with_pip=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *PACKAGES], check=True)
    return python


def main() -> int:
    """Run; returns the exit status."""
    python = environment()
    stack = PocketStack()
    try:
        stack.start()
        stack.wait_ready()
        argv = [str(python), str(Path(__file__).with_name("checks.py")), f"{stack.urls[0]}/v1", "glowl"]
        report = json.loads(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)
    finally:
        stack.stop()
    print(f"Open Responses {report['specification']}\n\n| check | | why |\n|---|---|---|")
    for each in report["checks"]:
        print(f"| {each['id']} | {'passed' if each['passed'] else 'failed'} | {each['why']} |")
    passed = {each["id"] for each in report["checks"] if each["passed"]}
    print(f"\n{len(passed)} of {len(report['checks'])} passed.")
    return int(not passed >= {each["id"] for each in report["checks"]} - NOT_EXPECTED)


if __name__ == "__main__":
    sys.exit(main())

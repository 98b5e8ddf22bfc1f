"""The open Responses suite's checks: ``python -m tests.conformance.run``.

The pocket models were never shown a function, and the echo engines call what the question scripts: between them every
check is asked of a server that can pass it.

In: PyPI, for the specification's shapes in an environment under ``build/``. Out: a table, and on standard error each
check as it ends, with its seconds; exits with 1 if a check did not pass that `NOT_EXPECTED` does not name.
"""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

from tests.support.stack import ROOT, PocketStack, ProcessStack

FOLDER = ROOT / "build" / "open-responses"
PACKAGES = ("openresponses-types==2.4.0", "websockets==17.4")
# What fails with which models.
NOT_EXPECTED = {"pocket": {"tool-calling"}, "echo": set[str]()}
SCRIPTS = {"pocket": (), "echo": ('call: get_weather {"place": "Paris"}',)}


def environment() -> Path:
    """Return a Python that has the shapes, and nothing of ours."""
    python = FOLDER / "bin" / "python"
    if not python.exists():
        venv.create(FOLDER, with_pip=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *PACKAGES], check=True)
    return python


def check(python: Path, models: str) -> dict[str, Any]:
    """Ask a server with these models; returns the specification's date, and what came of each check."""
    stack = PocketStack() if models == "pocket" else ProcessStack()
    try:
        stack.start()
        stack.wait_ready()
        print(f"{models} models:", file=sys.stderr, flush=True)
        argv = [
            str(python),
            str(Path(__file__).with_name("checks.py")),
            f"{stack.urls[0]}/v1",
            "glowl",
            *SCRIPTS[models],
        ]
        found: dict[str, Any] = json.loads(subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout)
        return found
    finally:
        stack.stop()


def main() -> int:
    """Run; returns the exit status."""
    python = environment()
    reports = {models: check(python, models) for models in NOT_EXPECTED}
    print(f"Open Responses {reports['echo']['specification']}\n")
    print(f"| check | {' | '.join(reports)} | why |\n|---|{'---|' * len(reports)}---|")
    failed = {
        models: {each["id"]: each["why"] for each in report["checks"] if not each["passed"]}
        for models, report in reports.items()
    }
    names = [each["id"] for each in reports["echo"]["checks"]]
    for name in names:
        cells = ["failed" if name in failed[models] else "passed" for models in reports]
        why = "; ".join(f"{models}: {failed[models][name]}" for models in reports if name in failed[models])
        print(f"| {name} | {' | '.join(cells)} | {why} |")
    for models in reports:
        print(f"\n{models}: {len(names) - len(failed[models])} of {len(names)} passed.")
    return int(any(failed[models].keys() - expected for models, expected in NOT_EXPECTED.items()))


if __name__ == "__main__":
    sys.exit(main())

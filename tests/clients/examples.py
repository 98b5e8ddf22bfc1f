"""Every client of ``examples/clients`` against the pocket models: ``python -m tests.clients.examples [NAME ...]``.

In: names of examples, all by default; PyPI and npm, for the environments under ``build/clients``. Out: a table of what
each client did; exits with 1 if one did not. Without node its examples are left out, and the table says so.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

from tests.clients.run import FOLDER, LLAMA_INDEX, python_environment
from tests.support.stack import ROOT, PocketStack

EXAMPLES = ROOT / "examples" / "clients"
NODE_PACKAGES = ("openai@6", "ai@7", "@ai-sdk/openai@4", "zod@4")
# What the pictures show. A text without a picture is answered, but the pocket models know drawn shapes alone, and they
# fill any form with anything.
TRUTH = {"text": None, "picture": "粉色", "job": "second", "stream": "orange", "structured": None, "tools": "clock"}
# All answers of instructor are objects, named like their class.
TRUTHS = {"instructor_fields.py": {**TRUTH, "picture": None, "job": None, "stream": None, "tools": "Clock"}}
_PATIENCE_S = 1800
_RUN_NOTEBOOK = (
    "import nbformat, sys; from nbclient import NotebookClient; book = nbformat.read(sys.argv[1], 4);"
    "NotebookClient(book, timeout=600).execute();"
    "print(''.join(o.text for c in book.cells for o in c.get('outputs', ()) if o.output_type == 'stream'))"
)


@dataclass(frozen=True)
class Example:
    """One example, and how it is run.

    Attributes:
        path: of the example.
        argv: the command that runs it.
        package: the client whose version the table shows, and that version.
    """

    path: Path
    argv: list[str]
    package: str


def python_examples() -> list[Example]:
    """Those that Python runs, with the newest versions of their packages."""
    python = str(python_environment())
    versions = _versions("python")
    packages = {
        "openai_python.py": "openai",
        "langchain_chat.py": "langchain-openai",
        "pydantic_ai_agent.py": "pydantic-ai-slim",
        "instructor_fields.py": "instructor",
        "litellm_client.py": "litellm",
    }
    found = [
        Example(EXAMPLES / name, [python, str(EXAMPLES / name)], f"{package} {versions[package]}")
        for name, package in packages.items()
    ]
    llama, name = str(python_environment("llama", LLAMA_INDEX)), LLAMA_INDEX[0]
    path = EXAMPLES / "llamaindex_llm.py"
    found.append(Example(path, [llama, str(path)], f"{name} {_versions('llama')[name]}"))
    notebook = EXAMPLES / "notebook.ipynb"
    return [*found, Example(notebook, [python, "-c", _RUN_NOTEBOOK, str(notebook)], f"openai {versions['openai']}")]


def _versions(environment: str) -> dict[str, str]:
    (site,) = (FOLDER / environment / "lib").glob("python*/site-packages")
    return {each.metadata["Name"].lower(): each.version for each in distributions(path=[str(site)])}


def node_examples() -> list[Example]:
    """Those that node runs; node looks for packages beside a file, so they are copied."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        print("LEFT OUT: there is no node or no npm", flush=True)
        return []
    folder = FOLDER / "node"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "package.json").write_text('{"private": true, "type": "module"}')
    subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--silent", *NODE_PACKAGES], check=True, cwd=folder)
    found = []
    for name, package in (("openai_node.mjs", "openai"), ("ai_sdk.mjs", "ai")):
        version = json.loads((folder / "node_modules" / package / "package.json").read_text())["version"]
        copy = shutil.copy(EXAMPLES / name, folder)
        found.append(Example(EXAMPLES / name, ["node", str(copy)], f"{package} {version} (node)"))
    return found


def ask(example: Example, url: str) -> dict[str, str]:
    """Run an example; returns what it printed, by step, and under ``error`` why it ended early."""
    done = subprocess.run(
        example.argv,
        cwd=ROOT,
        env={**os.environ, "GLOWL_URL": url},
        capture_output=True,
        text=True,
        timeout=_PATIENCE_S,
    )
    steps = dict(line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line)
    return steps if done.returncode == 0 else {**steps, "error": done.stderr.strip()[-800:]}


def main(wanted: list[str]) -> int:
    """Run; returns the exit status."""
    curl = Example(EXAMPLES / "curl.sh", ["bash", str(EXAMPLES / "curl.sh")], "curl")
    examples = [curl, *python_examples(), *node_examples()]
    failed = 0
    stack = PocketStack()
    try:
        stack.start()
        stack.wait_ready()
        print("| example | client | " + " | ".join(TRUTH) + " |\n|---|---|" + "---|" * len(TRUTH), flush=True)
        for example in examples:
            if wanted and example.path.stem not in wanted:
                continue
            said, truth = ask(example, stack.urls[0]), TRUTHS.get(example.path.name, TRUTH)
            cells = []
            for step, right in truth.items():
                is_right = bool(said.get(step)) and right in (None, said[step])
                failed += not is_right
                cells.append("passed" if is_right else f"FAILED: {said.get(step, 'no answer')}")
            print(f"| `{example.path.name}` | {example.package} | " + " | ".join(cells) + " |", flush=True)
            if "error" in said:
                print(said["error"], file=sys.stderr, flush=True)
    finally:
        stack.stop()
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Two streamed turns with every client that joins text deltas: ``python -m tests.clients.run [CLIENT ...]``.

In: names of clients, all by default; PyPI and npm, for the environments under ``build/clients``. Out: a table that says
of each client and API whether the text that it joined is the final answer, alone; exits with 1 if one is not. Without
node the AI SDK is left out, and the table says so.
"""

from __future__ import annotations

import base64
import io
import json
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from tests.support.stack import ROOT, ProcessStack

FOLDER = ROOT / "build" / "clients"
HERE = Path(__file__).parent
_PATIENCE_S = 180
PACKAGES = (
    *("langchain-openai", "pydantic-ai-slim[openai]", "openai-agents"),
    *("instructor", "litellm", "nbclient", "ipykernel"),
)
# By itself: its current release takes no current openai.
LLAMA_INDEX = ("llama-index-llms-openai-like",)
AI_SDK = {
    "6": ("ai@6", "@ai-sdk/openai@3", "@ai-sdk/openai-compatible@2"),
    "7": ("ai@7", "@ai-sdk/openai@4", "@ai-sdk/openai-compatible@3"),
}


@dataclass(frozen=True)
class Client:
    """One client and the API it speaks.

    Attributes:
        name: of the client.
        api: ``responses`` or ``chat``.
        argv: given the base URL and the turns, the command that asks them.
    """

    name: str
    api: str
    argv: Callable[[str, str], list[str]]
    folder: Path


def python_environment(name: str = "python", packages: Sequence[str] = PACKAGES) -> Path:
    """Return a Python whose environment has clients, and nothing of ours."""
    folder = FOLDER / name
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "uv"], check=True)  # pip took a quarter of an hour to find versions that fit together
    uv = [str(folder / "bin" / "uv"), "pip", "install", "--quiet", "--python", str(python), "--upgrade"]
    subprocess.run([*uv, *packages], check=True)
    return python


def node_environment(major: str) -> Path:
    """Return a folder that has a major of the AI SDK."""
    folder = FOLDER / f"ai-{major}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "package.json").write_text('{"private": true, "type": "module"}')
    npm = ["npm", "install", "--no-audit", "--no-fund", "--silent"]
    subprocess.run([*npm, *AI_SDK[major]], check=True, cwd=folder)
    shutil.copy(HERE / "ai_sdk.mjs", folder)  # node looks for packages beside the file
    return folder


def clients(wanted: list[str]) -> list[Client]:
    """Return those that are wanted and can be had."""
    found: list[Client] = []
    names = ("langchain", "pydantic-ai", "openai-agents")
    if any(name in wanted or not wanted for name in names):
        python = python_environment()
        for name in names:
            for api in ("responses", "chat"):
                head = [str(python), str(HERE / "python_driver.py"), name, api]
                found.append(Client(name, api, lambda url, turns, head=head: [*head, url, "glowl", turns], HERE))  # type: ignore[misc]
    for major in AI_SDK:
        if wanted and f"ai-{major}" not in wanted:
            continue
        if shutil.which("node") is None or shutil.which("npm") is None:
            print(f"AI SDK {major}: LEFT OUT, there is no node or no npm", flush=True)
            continue
        folder = node_environment(major)
        for api, kind in (("responses", "openai"), ("chat", "compatible")):
            head = ["node", "ai_sdk.mjs", kind]
            found.append(
                Client(f"ai-{major}", api, lambda url, turns, head=head: [*head, url, "glowl", turns], folder)  # type: ignore[misc]
            )
    return [client for client in found if not wanted or client.name in wanted]


def picture(colour: str) -> str:
    """Return a PNG in base64."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def ask(client: Client, url: str) -> list[str]:
    """Ask two turns; returns what is wrong."""
    turns = [
        {"text": "Which of the two pictures is larger?", "pictures": [picture("red"), picture("blue")]},
        {"text": "And which of the two is brighter, and why?", "pictures": [picture("green"), picture("white")]},
    ]
    argv = client.argv(f"{url}/v1", json.dumps(turns))
    done = subprocess.run(argv, cwd=client.folder, capture_output=True, text=True, timeout=_PATIENCE_S)
    told: list[Any] = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or len(told) != len(turns):
        return [f"ended with {done.returncode} after {len(told)} turns: {done.stderr[-600:]}"]
    wrong = []
    for number, said in enumerate(told, 1):
        # The echo engines say who answers and how often they were asked about how many pictures.
        is_final = said["joined"].startswith("[echo owl2] ") and said["joined"].count("[echo") == 1
        if not is_final or said["text"] != said["joined"]:
            wrong.append(f"turn {number}: joined {said['joined']!r}, text {said['text']!r}")
    return wrong


def main(wanted: list[str]) -> int:
    """Run; returns the exit status."""
    stack = ProcessStack(delay_s=0.005)
    try:
        stack.start()
        stack.wait_ready()
        rows = []
        for client in clients(wanted):
            wrong = ask(client, stack.urls[0])
            rows.append((client, wrong))
            print(f"{client.name:14} {client.api:10} {'the answer, alone' if not wrong else 'WRONG'}", flush=True)
            for line in wrong:
                print(f"    {line}", flush=True)
    finally:
        stack.stop()
    return int(any(wrong for _, wrong in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""What README, docs and examples show is run against the pocket models, and prints what they say it prints.

Python blocks of a page run one after the other, as a reader would type them; of the shell blocks the `glowl` commands
and what writes their files. Both languages have the same blocks (tests/docs), so the English pages are enough.
"""

from __future__ import annotations

import ast
import contextlib
import io
import re
import runpy
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from typer.testing import CliRunner

pytest.importorskip("torch")
pytest.importorskip("transformers")

from router.app import create_app
from router.cli.main import app
from router.settings import Settings
from tests.docs.pages import PAIRS, ROOT, Page
from tests.support.receiver import Receiver
from tests.support.servers import AppServer, wait_until
from tests.support.stack import PocketStack

pytestmark = pytest.mark.e2e
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SHOWN_URL = "http://127.0.0.1:8000"
CACHE_PAGE = "docs/cache.md"
SHOWN_HOOK = "https://example.com/hooks"
# What starts processes, builds images, downloads, or needs a state that no quiet server is in. Keys are among it: once
# there is one, the server refuses what the other pages ask. tests/router/cli and tests/router/auth run these commands.
NOT_RUN = re.compile(
    r"((GLOWL|REDIS|OTEL)_\w+=(\"[^\"]*\"|\S+) )*\.venv/bin/glowl "
    r"(up|api|worker|engine|doctor|mcp|models convert|jobs retry|owners|keys|tokens|audit verify --has|backup|"
    r"restore|dataset|finetune|eval|promote|policy fit|verdict|replay|report)\b|"
    r"(GLOWL_\w+=\S+ )*(make|docker|vllm|pip|git|python3?|export|install|df|systemctl|kubectl|sudo|redis-cli|claude)\b|"
    r"\.venv/bin/(pip|python)\b|"
    r"curl -i https://glowl\.example\.com"
)


@pytest.fixture(scope="module")
def stack(pocket_stack: PocketStack) -> PocketStack:
    return pocket_stack


@pytest.fixture
def folder(stack: PocketStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone's folder as far as examples read it, where they may write."""
    (tmp_path / "engines").symlink_to(ROOT / "engines")
    (tmp_path / "policies").symlink_to(ROOT / "policies")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GLOWL_URL", stack.urls[0])
    monkeypatch.setenv("GLOWL_DATA_DIR", str(stack.dir))
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    return tmp_path


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.stop()


@pytest.fixture
def caching_url(stack: PocketStack) -> Iterator[str]:
    """A second api of the stack, which keeps answers; that of the others would repeat what pages ask twice."""
    urls = {"glm_url": stack.env["GLOWL_GLM_URL"], "owl2_url": stack.env["GLOWL_OWL2_URL"]}
    server = AppServer(create_app(Settings(REDIS_URL=stack.redis_url, cache_bytes=1_000_000, **urls)))
    yield server.url
    server.stop()


def pages_with(language: str) -> list[Page]:
    """The English pages for users that have blocks in a language."""
    return [page for page, _ in PAIRS if any(found == language for found, _ in page.blocks)]


def matches(printed: str, shown: str) -> bool:
    """Whether an output is the one shown; `...` stands for anything, an id or a date for any of its kind."""
    lines = [re.escape(line.rstrip()) for line in shown.strip().splitlines()]
    pattern = re.sub(r"\\\.\\\.\\\.", ".*", "\n".join(lines))
    pattern = re.sub(r"(resp|batch|whe|whd|file|msg|rs)_[0-9a-f]+", r"\1_[0-9a-f]+", pattern)
    pattern = re.sub(r"\b[0-9a-f]{4}\.\*", ".*", pattern)  # the beginning of a hash
    pattern = re.sub(r"\b\d+\\ lines", r"\\d+\\ lines", pattern)
    pattern = re.sub(r"api\\-[0-9a-f]{8}\b", "api-[0-9a-f]{8}", pattern)
    pattern = re.sub(r"\d{4}\\-\d\d\\-\d\d", r"\\d{4}-\\d\\d-\\d\\d", pattern)
    pattern = re.sub(r"(?m)^(age:\\ )\d+$", r"\1\\d+", pattern)  # seconds: more on a busy machine
    # Counts of what has been asked so far: which there are depends on what ran before.
    pattern = re.sub(r"(?:\nglowl_\w+\\\{.*)+", r"(?:\\nglowl_\\w+\\{.*?\\} \\S+)*", pattern)
    return bool(re.fullmatch(pattern, "\n".join(line.rstrip() for line in printed.strip().splitlines()), re.DOTALL))


def with_outputs(page: Page) -> list[tuple[str, str, str | None]]:
    """Language, code and shown output of every block that can be run."""
    runs: list[tuple[str, str, str | None]] = []
    for language, code in page.blocks:
        if language == "text":
            runs[-1] = (*runs[-1][:2], code)
        else:
            runs.append((language, code, None))
    return runs


def statements(code: str) -> Iterator[str]:
    """Lines of a shell block; a here-document, and a loop, is yielded with all of it, and `\\` joins lines."""
    lines = iter(code.replace("\\\n", " ").splitlines())
    for line in lines:
        end = "EOF" if "<<EOF" in line else "done" if line.startswith(("for ", "while ")) else None
        if end:
            body = [line]
            for rest in lines:
                body.append(rest)
                if rest == end:
                    break
            yield "\n".join(body)
        elif line.strip():
            yield line.strip()


class Shell:
    """Runs the statements of a page against an api: `glowl` in this process, everything else with bash."""

    def __init__(self, url: str, receiver: Receiver) -> None:
        self.url, self.receiver = url, receiver

    def run(self, statement: str) -> str:
        """Run one statement and return what a terminal would show.

        Raises:
            AssertionError: if it failed.
        """
        statement = statement.replace(SHOWN_URL, self.url).replace(SHOWN_HOOK, self.receiver.url)
        statement = re.sub(r"\b(resp|batch|whe|whd)_1\b", lambda found: self.newest(found[1]), statement)
        if ".venv/bin/glowl " not in statement:
            done = subprocess.run(["bash", "-ec", statement], capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, done.stderr
            return done.stdout
        words = statement.partition(".venv/bin/glowl ")[2]
        expanded = subprocess.run(["bash", "-c", f"printf '%s\\0' {words}"], capture_output=True, text=True, check=True)
        result = CliRunner().invoke(app, expanded.stdout.split("\0")[:-1])
        assert result.exit_code == 0, f"{statement}: {result.output} {result.exception!r}"
        return result.output

    def newest(self, kind: str) -> str:
        """The id that a placeholder such as `resp_1` stands for; a job, and a delivery, is made where there is none."""
        path = {"resp": "jobs", "batch": "batches", "whe": "webhook_endpoints", "whd": "webhook_deliveries"}[kind]
        with httpx.Client(base_url=self.url, trust_env=False) as http:
            if kind in ("resp", "whd") and not http.get(f"/v1/{path}").json()["data"]:
                http.post("/v1/responses", json={"model": "glowl", "input": "你能做什么？", "background": True})
            listed: list[dict[str, str]] = wait_until(lambda: http.get(f"/v1/{path}").json()["data"], f"a {kind}")
            return listed[0]["id"]


@pytest.mark.filterwarnings("ignore:connect\\(\\) must be used:DeprecationWarning")  # by openai's client itself
@pytest.mark.parametrize("page", pages_with("python"), ids=str)
def test_python_blocks_print_what_the_page_shows(stack: PocketStack, folder: Path, page: Page) -> None:
    # Given what a reader's own web framework hands over
    names = {"body": "{}", "headers": {}}
    for language, code, shown in with_outputs(page):
        if language != "python":
            continue
        printed = io.StringIO()
        if "webhooks.unwrap" in code:
            with pytest.raises((openai.InvalidWebhookSignatureError, ValueError)):
                exec(compile(code.replace(SHOWN_URL, stack.urls[0]), str(page), "exec"), names)
            continue
        with contextlib.redirect_stdout(printed):
            exec(compile(code.replace(SHOWN_URL, stack.urls[0]), str(page), "exec"), names)
        if shown is not None:
            assert matches(printed.getvalue(), shown), printed.getvalue()


@pytest.mark.parametrize("page", pages_with("bash"), ids=str)
def test_shell_blocks_print_what_the_page_shows(
    stack: PocketStack, folder: Path, receiver: Receiver, page: Page, request: pytest.FixtureRequest
) -> None:
    shell = Shell(request.getfixturevalue("caching_url") if str(page) == CACHE_PAGE else stack.urls[0], receiver)
    for language, code, shown in with_outputs(page):
        if language != "bash":
            continue
        run = [line for line in statements(code) if not NOT_RUN.match(line)]
        printed = "".join(shell.run(line) for line in run)
        if run and shown is not None:
            assert matches(printed, shown), printed


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.name for path in EXAMPLES])
def test_examples_print_what_their_docstrings_say(folder: Path, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Given what the docstring says it prints
    docstring = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    shown = re.sub(r"^    ", "", docstring.partition("prints")[2].partition("::\n\n")[2], flags=re.MULTILINE)
    assert shown
    # When it is run as it stands
    runpy.run_path(str(path), run_name="__main__")
    # Then it prints that; what comes before it may tell of the way there
    printed = capsys.readouterr().out.strip().splitlines()
    assert matches("\n".join(printed[-len(shown.strip().splitlines()) :]), shown), printed

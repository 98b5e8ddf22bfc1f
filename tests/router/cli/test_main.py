"""The command line as a whole: light to import, every command there, wrong use refused."""

import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from router.cli.main import app, check_arguments

runner = CliRunner()


def test_importing_the_command_line_loads_nothing_heavy():
    heavy = ["torch", "transformers", "celery", "uvicorn", "fastapi", "redis", "aiohttp", "pydantic", "gradio"]
    code = f"import sys; import router.cli.main; print([name for name in {heavy} if name in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


def test_every_command_is_listed_and_has_help():
    listed = runner.invoke(app, ["--help"]).stdout
    for name in ("up", "ask", "explain", "doctor", "api", "worker", "engine"):
        assert f"  {name} " in listed
        assert runner.invoke(app, [name, "--help"]).exit_code == 0


@pytest.mark.parametrize(
    "command", [["ask", b"\xc4\xe3\xba\xc3"], ["jobs", "show", b"\xff"], ["explain", b"--lang=\xff", "?"]]
)
def test_an_argument_that_is_no_text_is_refused_in_one_line(command):
    code = "from router.cli.main import main; main()"
    # Python reads arguments by the locale: UTF-8, as on nearly every terminal
    done = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", code, *command], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "not valid UTF-8" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_file_whose_name_is_no_text_is_let_through(tmp_path):
    name = os.fsencode(tmp_path) + b"/\xff.png"
    with open(name, "wb"):
        check_arguments(["ask", os.fsdecode(name), "?"])


def test_no_command_shows_the_help():
    assert "Commands:" in runner.invoke(app, []).output


def test_a_wrong_variable_is_named_in_one_line(monkeypatch):
    monkeypatch.setenv("GLOWL_PORT", "ninety")
    result = runner.invoke(app, ["api"])
    assert result.exit_code == 2
    assert result.stderr.startswith("glowl: GLOWL_PORT: ")
    assert result.stderr.count("\n") == 1


def test_a_variable_that_is_no_setting_is_said_and_the_command_goes_on(monkeypatch, tmp_path):
    for name, value in (("GLOWL_MAX_IMAGE", "3"), ("GLOWL_COLOUR", "red"), ("GLOWL_URL", "http://x"), ("OTHER", "1")):
        monkeypatch.setenv(name, value)
    # And what Kubernetes sets by itself is nobody's typing error
    monkeypatch.setenv("GLOWL_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("GLOWL_PORT_8000_TCP_ADDR", "10.0.0.1")
    result = runner.invoke(app, ["explain", "What is it?", "--lang", "en"])
    assert result.exit_code == 0
    assert result.stderr.splitlines() == [
        "glowl: warning: GLOWL_COLOUR is not a setting and is ignored; docs/settings.md lists all settings",
        "glowl: warning: GLOWL_MAX_IMAGE is not a setting and is ignored; did you mean GLOWL_MAX_IMAGES?",
    ]


def test_a_wrong_preset_stops_the_api_in_one_line(monkeypatch):
    monkeypatch.setenv("GLOWL_PRESET", "nonesuch")
    result = runner.invoke(app, ["api", "--port", "0"])
    assert result.exit_code == 2
    assert "nonesuch" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.fixture
def executed(monkeypatch) -> list[list[str]]:
    calls: list[list[str]] = []
    monkeypatch.setenv("GLOWL_API_KEYS", "geheim")

    def execve(_program: str, argv: list[str], env: dict[str, str]) -> None:
        assert "PATH" in env
        assert "GLOWL_API_KEYS" not in env
        calls.append(argv)

    monkeypatch.setattr("os.execve", execve)
    return calls


def test_engine_passes_on_what_was_given_and_nothing_else(executed):
    result = runner.invoke(
        app,
        [
            "engine",
            "owl2",
            "--model",
            "echo",
            "--uds",
            "/tmp/o.sock",
            "--max-queue",
            "3",
            "--max-batch",
            "4",
            "--cache-mb",
            "100",
        ],
    )
    assert result.exit_code == 0
    ((_, *argv),) = executed
    assert argv == [
        "-P",
        "-m",
        "engines.http.server",
        "owl2",
        "--model",
        "echo",
        "--uds",
        "/tmp/o.sock",
        "--max-queue",
        "3",
        "--max-batch",
        "4",
        "--cache-mb",
        "100",
        "--log-level",
        "info",
        "--log-format",
        "auto",
    ]


def test_engine_takes_from_the_environment_what_no_option_says(executed, monkeypatch):
    # Given a container, whose command is fixed
    monkeypatch.setenv("GLOWL_LOG_LEVEL", "warning,owl2=DEBUG")
    monkeypatch.setenv("GLOWL_LOG_FORMAT", "human")
    monkeypatch.setenv("GLOWL_GLM_ADAPTERS", "a=/a,b=org/b")

    # When engines start, one of them with an adapter named
    assert runner.invoke(app, ["engine", "glm", "--model", "echo"]).exit_code == 0
    assert runner.invoke(app, ["engine", "glm", "--model", "echo", "--adapter", "c=/c"]).exit_code == 0
    assert runner.invoke(app, ["engine", "owl2", "--model", "echo"]).exit_code == 0

    # Then each has its own
    begins = ["-P", "-m", "engines.http.server", "glm", "--model", "echo"]
    ends = ["--log-level", "warning", "--log-format", "human"]
    assert executed[0][1:] == [*begins, "--adapter", "a=/a", "--adapter", "b=org/b", *ends]
    assert executed[1][1:] == [*begins, "--adapter", "c=/c", *ends]
    assert executed[2][1:] == [*begins[:3], "owl2", *begins[4:], "--log-level", "debug", *ends[2:]]


def test_engine_refuses_an_unknown_name_and_an_unknown_option(executed):
    assert runner.invoke(app, ["engine", "gpt", "--model", "echo"]).exit_code == 2
    assert runner.invoke(app, ["engine", "glm", "--model", "echo", "--modle", "x"]).exit_code == 2
    assert executed == []


def test_engine_without_torch_says_how_to_get_it_unless_it_needs_none(executed, monkeypatch):
    monkeypatch.setattr("router.cli.processes.find_spec", lambda name: None)
    refused = runner.invoke(app, ["engine", "glm", "--model", "/somewhere"])
    assert refused.exit_code == 1
    assert "pip install 'glowl[engines]'" in refused.stderr
    assert runner.invoke(app, ["engine", "glm", "--model", "echo"]).exit_code == 0
    assert len(executed) == 1

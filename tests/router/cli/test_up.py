"""`glowl up`: what it refuses before anything starts, what it would start, what it prints; and once for real."""

import asyncio
import errno
import fcntl
import io
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import namedtuple
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner, Result

from policies.text import Text
from router.cli import model_setup, models, probes, up
from router.cli import screen as screens
from router.cli import specs as builder
from router.cli.child_process import process_identity
from router.cli.common import command_name
from router.cli.data_folder import Layout
from router.cli.main import app
from router.cli.net import free_port
from router.cli.redis_check import RedisFound
from router.cli.redis_server import RedisChoice, RedisMissingError
from router.cli.samples import default_sample, load_samples
from router.cli.supervision import Event, ProcessSpec
from router.settings import Settings

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch, tmp_path) -> None:
    for name in [name for name in os.environ if name.startswith("GLOWL_")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("LC_ALL", "C.UTF-8")


def start(data_dir: Path, *arguments: str) -> Result:
    """Run `up` where it is expected to refuse."""
    return CliRunner().invoke(app, ["up", "--data-dir", str(data_dir), "--models", "echo", "--no-ui", *arguments])


@pytest.fixture
def nothing_starts(monkeypatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("something was started")

    monkeypatch.setattr(up, "_supervise", never)


@pytest.mark.usefixtures("nothing_starts")
class TestRefusals:
    """One clear line, and nothing was started."""

    def test_a_taken_port(self, tmp_path):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            result = start(tmp_path, "--port", str(port))
        assert result.exit_code == 1
        assert f"127.0.0.1:{port}" in result.stderr
        assert "--port" in result.stderr
        assert result.stderr.count("\n") == 1

    def test_a_second_up_on_the_same_data_directory(self, tmp_path):
        (tmp_path / "run").mkdir()
        with (tmp_path / "run" / "up.lock").open("w") as lock:
            lock.write("pid 42, http://127.0.0.1:8000")
            lock.flush()
            fcntl.flock(lock, fcntl.LOCK_EX)
            result = start(tmp_path, "--port", "0")
        assert result.exit_code == 1
        assert "pid 42, http://127.0.0.1:8000" in result.stderr
        assert result.stderr.count("\n") == 1

    def test_a_redis_url_that_does_not_answer(self, tmp_path, monkeypatch):
        monkeypatch.setenv("REDIS_URL", f"redis://:secret@127.0.0.1:{free_port('127.0.0.1')}/0")
        result = start(tmp_path, "--port", "0")
        assert result.exit_code == 1
        assert "REDIS_URL" in result.stderr
        assert "secret" not in result.stderr

    def test_no_redis_at_all(self, tmp_path, monkeypatch):
        def none() -> RedisChoice:
            raise RedisMissingError(Text.same("no redis found: three choices"))

        monkeypatch.setattr(builder, "find_redis", none)
        assert start(tmp_path, "--port", "0").stderr == "glowl: no redis found: three choices\n"

    @pytest.mark.parametrize(
        ("variable", "value", "said"),
        [
            ("GLOWL_LOG_LEVEL", "loud", "DEBUG, INFO, WARNING, ERROR"),
            ("GLOWL_LEASE_S", "inf", "finite"),
            ("GLOWL_PRESET", "nope", "no preset named 'nope'; accepted: "),
            ("GLOWL_PRESET", "", "no preset named ''"),
            ("GLOWL_PRESET", "{folder}/none.yaml", "none.yaml"),
            ("GLOWL_PRESET", "{folder}/text.yaml", "a mapping is expected"),
            ("GLOWL_PRESET", "{folder}/faults.yml", "faults.yml"),
            ("GLOWL_JWT_JWKS", "{folder}/text.yaml", "text.yaml: it is not JSON"),
        ],
    )
    def test_a_setting_that_only_a_child_would_use(self, tmp_path, monkeypatch, variable, value, said):
        (tmp_path / "text.yaml").write_text("just words")
        (tmp_path / "faults.yml").write_text("one: 1\ntwo: 2\n")
        monkeypatch.setenv(variable, value.format(folder=tmp_path))
        if variable == "GLOWL_JWT_JWKS":
            monkeypatch.setenv("GLOWL_JWT_ISSUER", "https://login.example.com")
            monkeypatch.setenv("GLOWL_JWT_AUDIENCE", "glowl")
        result = start(tmp_path / "data", "--port", "0")
        assert result.exit_code == 2
        assert result.stderr.startswith(f"glowl: {variable}: ")
        assert said in result.stderr
        assert result.stderr.count("\n") == 1
        assert not (tmp_path / "data").exists()

    def test_unknown_models(self, tmp_path):
        result = start(tmp_path, "--models", "huge")
        assert result.exit_code == 2
        assert "pocket, random, echo, full" in result.stderr

    def test_models_without_torch(self, tmp_path, monkeypatch):
        monkeypatch.setattr(model_setup, "has_engine_packages", lambda: False)
        result = start(tmp_path, "--port", "0", "--models", "random")
        assert result.exit_code == 1
        assert "glowl[engines]" in result.stderr
        assert "--models echo" in result.stderr

    def test_a_data_directory_that_cannot_be_made(self, tmp_path):
        (tmp_path / "file").write_text("")
        result = start(tmp_path / "file", "--port", "0")
        assert result.exit_code == 1
        assert str(tmp_path / "file") in result.stderr


class TestRandomCheckpoints:
    """Made once, whole or not at all."""

    @staticmethod
    def prepare(monkeypatch, tmp_path: Path, code: str) -> models.ModelPlan:
        layout = Layout(tmp_path)
        layout.make("en")
        monkeypatch.setattr(model_setup, "has_engine_packages", lambda: True)
        # The real maker needs torch; a stand-in gets the same folder as its last argument.
        monkeypatch.setattr(
            model_setup, "guarded_argv", lambda argv, _: [sys.executable, "-I", "-S", "-c", code, argv[-2], argv[-1]]
        )
        return model_setup.prepare_models("random", layout, "en")

    def test_they_are_made_on_the_first_start_only(self, tmp_path, monkeypatch):
        code = """
import os, sys
module, folder = sys.argv[1:]
assert module == "engines.pocket.random_tiny"
for name in ("glm", "owl2"):
    os.mkdir(f"{folder}/{name}")
    open(f"{folder}/{name}/config.json", "w").close()
"""
        plan = self.prepare(monkeypatch, tmp_path, code)
        assert models.has_checkpoints(models.random_dir(tmp_path))
        assert plan.models["glm"] == str(tmp_path / "models" / "random-tiny" / "glm")
        assert self.prepare(monkeypatch, tmp_path, "raise SystemExit('not again')") == plan

    def test_a_failure_leaves_nothing_half_made_and_names_the_log(self, tmp_path, monkeypatch, capsys):
        with pytest.raises(typer.Exit):
            self.prepare(monkeypatch, tmp_path, "import sys,os; os.mkdir(sys.argv[2]+'/glm'); sys.exit('the reason')")
        assert not models.random_dir(tmp_path).exists()
        log = tmp_path / "logs" / "random_tiny.log"
        assert str(log) in capsys.readouterr().err
        assert log.read_text() == "the reason\n"


def specs_for(data_dir: Path, **settings: object) -> dict[str, ProcessSpec]:
    layout = Layout(data_dir)
    made = Settings(data_dir=data_dir, **settings)  # type: ignore[call-arg, arg-type]
    plan = models.plan("echo", data_dir)
    return {spec.name: spec for spec in builder.build_specs(made, layout, plan, language="en")}


@pytest.fixture
def own_redis(monkeypatch) -> None:
    monkeypatch.setattr(
        builder, "find_redis", lambda: RedisChoice("path", binary=Path("/bin/redis-server"), version="7.2")
    )


@pytest.mark.usefixtures("own_redis")
def test_quantization_reaches_both_engines_and_nobody_else():
    layout, plan = Layout(Path("/data")), models.plan("echo", Path("/data"))
    made = Settings(data_dir=Path("/data"))  # type: ignore[call-arg]
    specs = builder.build_specs(made, layout, plan, language="en", quantization="int8")

    with_it = {spec.name for spec in specs if "--quantization" in spec.argv}
    assert with_it == {"glm", "owl2"}
    assert all(spec.argv[spec.argv.index("--quantization") + 1] == "int8" for spec in specs if spec.name in with_it)


@pytest.mark.usefixtures("own_redis")
def test_adapters_reach_their_own_engine_alone():
    specs = specs_for(Path("/data"), glm_adapters=(("a", "/a"), ("b", "org/b")), owl2_adapters=(("a", "/turned"),))

    given = {
        name: [after for flag, after in pairwise(spec.argv) if flag == "--adapter"] for name, spec in specs.items()
    }
    assert {name: adapters for name, adapters in given.items() if adapters} == {
        "glm": ["a=/a", "b=org/b"],
        "owl2": ["a=/turned"],
    }


@pytest.mark.parametrize(("language", "engine"), [("en", "glm"), ("zh", "owl2")])
def test_an_adapter_that_is_not_there_stops_the_start_in_one_line(tmp_path, monkeypatch, capsys, language, engine):
    monkeypatch.setattr(model_setup, "has_engine_packages", lambda: True)
    monkeypatch.setattr(model_setup, "find_spec", lambda name: name)
    there = tmp_path / "there"
    there.mkdir()
    (there / "adapter_config.json").write_text("{}")
    adapters = (("a", str(there)), ("b", str(tmp_path / "gone")))
    with pytest.raises(typer.Exit):
        model_setup.prepare_models("pocket", Layout(tmp_path), language, adapters={engine: adapters})
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"GLOWL_{engine.upper()}_ADAPTERS" in said
    assert "'b'" in said
    assert str(tmp_path / "gone") in said
    model_setup.prepare_models("pocket", Layout(tmp_path), language, adapters={engine: adapters[:1]})


def test_adapters_are_a_list_of_names_and_places_in_the_environment(monkeypatch):
    monkeypatch.setenv("GLOWL_GLM_ADAPTERS", "a=/a, b=org/b,")
    assert Settings().glm_adapters == (("a", "/a"), ("b", "org/b"))  # type: ignore[call-arg]

    monkeypatch.setenv("GLOWL_GLM_ADAPTERS", "a")
    with pytest.raises(ValueError, match="NAME=FOLDER_OR_HUB_ID"):
        Settings()  # type: ignore[call-arg]


@pytest.mark.usefixtures("own_redis")
def test_every_child_is_told_where_the_others_are(monkeypatch):
    monkeypatch.setattr("router.cli.specs.chosen", lambda _format: "human")  # as at a terminal
    specs = specs_for(Path("/data"), port=8123)
    assert list(specs) == ["redis", "glm", "owl2", "worker", "worker-owl2", "worker-light", "api"]
    for name in ("worker", "worker-owl2", "api"):
        assert specs[name].env == {
            "REDIS_URL": "unix:///data/run/redis.sock?db=0",
            "GLOWL_GLM_URL": "unix:///data/run/glm.sock",
            "GLOWL_OWL2_URL": "unix:///data/run/owl2.sock",
            "GLOWL_DATA_DIR": "/data",
            "GLOWL_HOST": "127.0.0.1",
            "GLOWL_PORT": "8123",
            "GLOWL_INSECURE": "false",
            "GLOWL_UI_PORT": "0",
            "GLOWL_DRAIN_S": "2",
            "GLOWL_DRAIN_NOTICE_S": "0",
            "GLOWL_LOG_FORMAT": "human",
        }
    assert all(specs[name].env == {} for name in ("redis", "glm", "owl2"))
    assert all(specs[name].stop_timeout_s > 2 for name in ("worker", "worker-owl2", "worker-light", "api"))
    assert specs["glm"].argv[1:] == (
        *("-P", "-m", "engines.http.server", "glm"),
        *("--model", "echo", "--log-level", "info", "--log-format", "human", "--uds", "/data/run/glm.sock"),
    )
    assert specs["redis"].layer == 0
    order = sorted(specs.values(), key=lambda spec: -spec.layer)
    assert [spec.name for spec in order] == ["api", "worker", "worker-owl2", "worker-light", "glm", "owl2", "redis"]


@pytest.mark.usefixtures("own_redis")
def test_every_child_is_looked_at_while_it_runs(monkeypatch):
    assert all(spec.is_alive is not None for spec in specs_for(Path("/data")).values())


OF_CALLERS = ("GLOWL_API_KEYS", "GLOWL_JWT_SECRET")
OWN_SECRETS = (*OF_CALLERS, "GLOWL_GLM_API_KEY", "GLOWL_WEBHOOK_SECRET", "GLOWL_ANYTHING_NEW", "REDIS_URL")
OWN_SECRETS += ("REDIS_URL_FILE",)


@pytest.mark.usefixtures("own_redis")
@pytest.mark.parametrize(
    ("name", "gets"),
    [
        ("redis", set()),
        ("glm", {"HF_TOKEN"}),
        ("owl2", {"HF_TOKEN"}),
        ("worker", {*OWN_SECRETS} - {*OF_CALLERS}),
        ("worker-owl2", {*OWN_SECRETS} - {*OF_CALLERS}),
        ("api", {*OWN_SECRETS}),
    ],
)
def test_no_process_gets_a_secret_that_it_has_no_use_for(monkeypatch, name, gets):
    spec = specs_for(Path("/data"))[name]
    assert {each for each in (*OWN_SECRETS, "HF_TOKEN") if spec.inherits(each)} == gets
    # And what is no secret stays
    assert all(spec.inherits(each) for each in ("PATH", "HOME", "HTTPS_PROXY", "HF_ENDPOINT", "CUDA_VISIBLE_DEVICES"))


async def test_a_server_that_takes_connections_and_says_nothing_is_not_alive(monkeypatch):
    monkeypatch.setattr(probes, "ALIVE_TIMEOUT_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        assert not await probes.answers(f"http://127.0.0.1:{mute.getsockname()[1]}", "/healthz")(1)


async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer with a 503."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
    writer.close()


async def test_a_server_that_answers_anything_is_alive():
    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        assert await probes.answers(url, "/healthz")(1)


@pytest.mark.usefixtures("own_redis")
async def test_an_engine_that_is_ready_no_more_is_not_alive():
    # Given an engine that answers, and says that it is stuck
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # a socket's path is short
        socket_path = Path(folder) / "run" / "owl2.sock"
        socket_path.parent.mkdir()
        async with await asyncio.start_unix_server(refuse, socket_path):
            # When glowl up looks at it, then it counts as one that hangs
            assert not await specs_for(Path(folder))["owl2"].is_alive(1)


async def test_a_worker_is_alive_while_its_file_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(probes, "ALIVE_TIMEOUT_S", 0.01)
    path = tmp_path / "worker.ready"
    is_alive = probes.is_touched(path)
    assert not await is_alive(1)
    path.write_text("1\n")
    assert await is_alive(1)
    assert not await is_alive(1)
    # A clock that was set back is no reason to take it for dead
    os.utime(path, (1, 1))
    assert await is_alive(1)
    # And another worker's file is news, even if it was written in the same moment
    assert await is_alive(2)


@pytest.mark.usefixtures("own_redis")
def test_an_engine_whose_url_somebody_set_is_not_started_and_its_url_kept():
    specs = specs_for(Path("/data"), glm_url="https://glm.example/v1,http://b:8101")

    assert list(specs) == ["redis", "owl2", "worker", "worker-owl2", "worker-light", "api"]
    assert specs["api"].env["GLOWL_GLM_URL"] == "https://glm.example/v1,http://b:8101"
    assert specs["api"].env["GLOWL_OWL2_URL"] == "unix:///data/run/owl2.sock"


def test_full_models_that_run_elsewhere_are_not_asked_for(tmp_path, capsys):
    plan = model_setup.prepare_models("full", Layout(tmp_path), "en", elsewhere={"glm", "owl2"})
    assert (plan.choice, plan.models, capsys.readouterr().out) == ("full", {}, "")


@pytest.mark.usefixtures("own_redis")
def test_a_data_directory_too_deep_for_sockets_moves_everything_to_loopback_ports():
    specs = specs_for(Path("/" + "d" * 120))
    env = specs["api"].env
    assert env["REDIS_URL"].startswith("redis://127.0.0.1:")
    assert env["GLOWL_GLM_URL"].startswith("http://127.0.0.1:")
    port = env["GLOWL_OWL2_URL"].rpartition(":")[2]
    assert specs["owl2"].argv[-4:] == ("--host", "127.0.0.1", "--port", port)


def test_with_a_redis_url_no_redis_is_started(monkeypatch):
    async def answers(_url: str) -> RedisFound:
        return RedisFound("7.2")

    monkeypatch.setenv("REDIS_URL", "redis://elsewhere:6379/3")
    monkeypatch.setattr(builder, "look_at", answers)
    specs = specs_for(Path("/data"))
    assert "redis" not in specs
    assert specs["worker"].env["REDIS_URL"] == "redis://elsewhere:6379/3"


def test_a_redis_url_in_a_file_is_in_no_environment(monkeypatch, tmp_path):
    async def answers(_url: str) -> RedisFound:
        return RedisFound("7.2")

    (tmp_path / "url").write_text("redis://:secret@elsewhere:6379/3\n")
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.setenv("REDIS_URL_FILE", str(tmp_path / "url"))
    monkeypatch.setattr(builder, "look_at", answers)
    specs = specs_for(Path("/data"))
    assert "redis" not in specs
    for name in ("worker", "api"):
        assert specs[name].env["REDIS_URL"] == ""
        assert specs[name].inherits("REDIS_URL_FILE")
        # As the process will read it
        for variable, value in specs[name].env.items():
            monkeypatch.setenv(variable, value)
        assert Settings().redis_url == "redis://:secret@elsewhere:6379/3"


def test_the_page_gets_its_usual_port_unless_that_is_taken_or_not_wanted(monkeypatch):
    # Given settings of somebody who says nothing of the page
    settings = Settings(port=8123)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(up, "UI_PORT", port)
        # Then a port that somebody else has is left to them
        assert up._with_ui_port(settings, wants_ui=True).ui_port == 0
    assert up._with_ui_port(settings, wants_ui=True).ui_port == port
    assert up._with_ui_port(settings, wants_ui=False).ui_port == 0
    # And one that is named is taken instead
    named = Settings(ui_port=free_port("127.0.0.1"))
    assert up._with_ui_port(named, wants_ui=True).ui_port == named.ui_port


def test_the_banners_examples_can_be_copied(tmp_path, monkeypatch):
    # Given a terminal that was opened anew, where no virtual environment is active
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    for language in ("en", "zh"):
        lines = screens.banner("http://127.0.0.1:8123", None, "full", tmp_path, language, needs_key=True)
        (curl,) = (shlex.split(line) for line in lines if "curl" in line)
        assert curl[1] == "http://127.0.0.1:8123/v1/chat/completions"
        assert "Authorization: Bearer YOUR_KEY" in curl
        assert json.loads(curl[-1])["model"] == "glowl"
        (ask,) = (shlex.split(line) for line in lines if " ask " in line)
        assert ask[-4:] == ["--url", "http://127.0.0.1:8123", "--api-key", "YOUR_KEY"]
    # Then the program is found, and does what the command says
    done = subprocess.run([*ask[: ask.index("ask")], "ask", "--help"], capture_output=True, text=True, cwd="/")
    assert (done.returncode, done.stderr) == (0, "")
    default = screens.banner("http://127.0.0.1:8000", "http://127.0.0.1:7860", "pocket", tmp_path, "en")
    assert not any("--url" in line or "Bearer" in line for line in default)
    assert any("http://127.0.0.1:7860" in line for line in default)
    assert not any("/metrics" in line for line in default)
    watched = screens.banner("http://127.0.0.1:8000", None, "pocket", tmp_path, "en", has_metrics=True)
    assert "For Prometheus: http://127.0.0.1:8000/metrics" in watched


@pytest.mark.parametrize("choice", models.MODEL_CHOICES)
@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_banner_asks_about_pictures_that_are_there(tmp_path, language, choice):
    lines = screens.banner("http://127.0.0.1:8000", None, choice, tmp_path, language)
    (ask,) = (shlex.split(line) for line in lines if " ask " in line)
    sample = default_sample(language)
    assert sample is not None
    assert ask[-3:] == ["ask", "--sample", sample.name]
    # And what the small models know is said where they are what answers, with the names of all other samples
    said = [line for line in lines if all(other.name in line for other in load_samples() if other != sample)]
    assert len(said) == (choice == "pocket")


def test_a_command_on_the_path_is_named_by_its_name_alone(tmp_path, monkeypatch):
    (tmp_path / "glowl").touch()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(shutil, "which", lambda _name: str(tmp_path / "glowl"))
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    assert command_name() == "glowl"
    # But an active virtual environment is not active in another terminal
    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path))
    assert command_name() == str(tmp_path / "glowl")
    # And without the script there is always the module
    (tmp_path / "glowl").unlink()
    assert command_name() == f"{tmp_path}/python -P -m router.cli"


def test_the_screen_draws_plain_lines_that_are_never_wrapped_or_read_as_markup():
    drawn = io.StringIO()
    screen = screens.Screen(Console(file=drawn, width=40), ["glm"], Path("/logs"), {"glm": "glm = echo"}, "en")
    screen.begin()
    tail = ("Traceback", "ValueError: [red]no[/red] " + "x" * 60)
    screen.show(Event("died", "glm", 0.5, -9, log_path=Path("/logs/glm.log"), log_tail=tail))
    screen.show(Event("starting", "glm", 30.0))
    screen.show(Event("ready", "glm", 1.25))
    screen.show(Event("died", "glm", 60.0, reason="no memory", log_path=Path("/logs/glm.log")))
    screen.show(Event("gave_up", "glm", exit_code=1, log_path=Path("/logs/glm.log")))
    screen.show(Event("died", "glm", 2.0, 75, said="the hub is away", log_path=Path("/logs/glm.log"), log_tail=tail))
    screen.show(Event("stopping"))
    assert drawn.getvalue().splitlines() == [
        "died      glm     ended by SIGKILL; starting it again in 0.5 s; last lines of /logs/glm.log:",
        "    Traceback",
        "    ValueError: [red]no[/red] " + "x" * 60,
        "still starting after 30 s: glm (logs: /logs)",
        "ready     glm     1.2 s   glm = echo",
        "died      glm     cannot be started: no memory; starting it again in 60.0 s; last lines of /logs/glm.log:",
        "gave up   glm     exit status 1, repeatedly and without ever being ready; last lines of /logs/glm.log:",
        "glowl cannot run without glm: stopping everything",
        "died      glm     the hub is away; starting it again in 2.0 s (log: /logs/glm.log)",
        "stopping (Ctrl-C again kills) ...",
    ]


def test_the_screen_has_a_spinner_on_a_terminal_and_takes_it_away():
    drawn = io.StringIO()
    screen = screens.Screen(Console(file=drawn, force_terminal=True), ["glm", "api"], Path("/logs"), {}, "en")
    screen.begin()
    screen.show(Event("ready", "glm", 1.0))
    screen.show(Event("all_ready"))
    assert "starting: glm, api" in drawn.getvalue()
    assert "ready     glm" in drawn.getvalue()
    # The cursor is shown again.
    assert drawn.getvalue().rstrip().endswith("\x1b[?25h") or "\x1b[?25h" in drawn.getvalue()


@pytest.fixture
def running(tmp_path) -> Iterator[tuple[subprocess.Popen[str], str, Path]]:
    """A real `glowl up` with echo engines; its base URL and its data directory."""
    ready = tmp_path / "ready"
    argv = [sys.executable, "-m", "router.cli", "up", "--models", "echo", "--port", "0", "--no-ui"]
    process = subprocess.Popen(
        [*argv, "--data-dir", str(tmp_path), "--ready-file", str(ready)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            # The blank line after the examples: the banner is whole.
            if " ask --sample" in line:
                break
        assert process.poll() is None, said
        yield process, _until_written(ready), tmp_path
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=300)


def _until_written(path: Path) -> str:
    deadline = time.monotonic() + 300
    while not path.exists():
        assert time.monotonic() < deadline
    return path.read_text().strip()


def children(data_dir: Path) -> dict[str, tuple[int, str]]:
    found = {}
    for path in (data_dir / "run").glob("*.pid"):
        pid, identity = path.read_text().split()
        found[path.stem] = (int(pid), identity)
    return found


@pytest.mark.e2e
def test_up_refuses_a_second_one_answers_questions_and_ends_with_everything_stopped(running):
    # Given `glowl up`, ready, and a second one in vain
    process, url, data_dir = running
    second = start(data_dir, "--port", "0")
    assert second.exit_code == 1
    assert f"pid {process.pid}" in second.stderr
    started = children(data_dir)
    assert set(started) == {"redis", "glm", "owl2", "worker", "worker-owl2", "worker-light", "api"}
    with urllib.request.urlopen(f"{url}/readyz") as answer:
        assert json.load(answer)["engines"] == {"glm": "up", "owl2": "up"}
    # When both kinds of question are asked
    for question, engine, route in (("图里有什么?", "glm", "fast"), ("What is in the picture?", "owl2", "deep")):
        asked = subprocess.run(
            [sys.executable, "-m", "router.cli", "ask", "--url", url, question], capture_output=True, text=True
        )
        # Then each is answered by its engine
        assert asked.returncode == 0, asked.stderr
        assert asked.stdout.startswith(f"[echo {engine}]")
        assert f"route {route}" in asked.stderr
    # And when it is interrupted, all children are gone and it was a success
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert said.rstrip().endswith("stopped")
    assert all(process_identity(pid) != identity for pid, identity in started.values())
    assert not (data_dir / "ready").exists()
    assert (data_dir / "redis" / "appendonlydir").is_dir()


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EACCES])
@pytest.mark.parametrize("part", ["", "run", "logs", "redis"])
def test_a_data_folder_that_takes_nothing_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int, part: str
) -> None:
    # Given folders that are there, one of them on a disk that is full or was mounted read-only since
    Layout(tmp_path).make("en")
    bad = tmp_path / part
    temporary = tempfile.TemporaryFile

    def take(*, dir: Path) -> Any:  # noqa: A002
        if dir == bad:
            raise OSError(number, os.strerror(number))
        return temporary(dir=dir)

    monkeypatch.setattr(tempfile, "TemporaryFile", take)

    with pytest.raises(typer.Exit):
        Layout(tmp_path).make("en")

    [line] = capsys.readouterr().err.splitlines()
    assert f"cannot write to {bad}: {os.strerror(number)}; make room, or" in line
    assert "--data-dir" in line
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]

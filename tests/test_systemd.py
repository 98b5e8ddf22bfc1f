"""The units of `deploy/systemd` are what systemd accepts, start commands that there are, and have few rights."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from router.cli.secrets import is_for_engine
from router.cli.specs import STOP_MARGIN_S, WORKERS
from router.jobs.queue import QUEUES, queue_name
from router.settings import Settings
from tests.test_compose import SERVICES, parse_command

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "deploy" / "systemd"
PROGRAM = "/opt/glowl/bin/glowl"
ENGINES = ("glm", "owl2")
INSTANCES = {"glowl-worker@": ("glm", "owl2", "light", "webhooks"), "glowl-engine@": ENGINES}
UNITS = sorted(path.name for path in FOLDER.glob("*.service"))
# Of 10; systemd calls anything below 5 good.
MOST_EXPOSED = 2.5
analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is missing: apt install systemd"
)


def values(unit: str, key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", (FOLDER / unit).read_text("utf-8"), re.MULTILINE)


def instances(unit: str) -> list[str]:
    """A unit, or those that are made of it."""
    stem = unit.removesuffix(".service")
    return [f"{stem}{instance}.service" for instance in INSTANCES.get(stem, ())] or [unit]


def options(name: str) -> str:
    (line,) = re.findall(r"^ENGINE_OPTIONS=(.*)$", (FOLDER / f"engine-{name}.env").read_text("utf-8"), re.MULTILINE)
    return str(line)


@pytest.fixture
def installed(tmp_path: Path) -> list[Path]:
    """All units as they would be installed, but for a program that is there."""
    program = tmp_path / "glowl"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    found = []
    for path in (*FOLDER.glob("*.service"), *FOLDER.glob("*.target")):
        for name in instances(path.name):
            found.append(tmp_path / name)
            found[-1].write_text(path.read_text("utf-8").replace(PROGRAM, str(program)))
    return found


def verify(units: list[Path]) -> str:
    """What systemd has to say; its exit status is 0 for a key that it does not know."""
    command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *map(str, units)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return "\n".join(line for line in (done.stdout + done.stderr).splitlines() if str(units[0].parent) in line)


@analyze
def test_systemd_accepts_every_unit(installed: list[Path]) -> None:
    assert verify(installed) == ""


@analyze
@pytest.mark.parametrize("wrong", ["ExecStrat=/bin/true", "TimeoutStopSec=soon", "SystemCallFilter=@no-such"])
def test_a_wrong_line_would_be_noticed(installed: list[Path], wrong: str) -> None:
    unit = next(path for path in installed if path.name == "glowl-api.service")
    unit.write_text(unit.read_text().replace("[Service]", f"[Service]\n{wrong}"))
    assert "glowl-api.service" in verify(installed)


@analyze
def test_no_unit_has_more_rights_than_it_needs(installed: list[Path]) -> None:
    for unit in installed:
        if unit.suffix == ".service":
            threshold = f"--threshold={MOST_EXPOSED * 10:.0f}"
            command = ["systemd-analyze", "security", "--offline=true", "--no-pager", threshold, str(unit)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, done.stdout.splitlines()[-1:]


@pytest.mark.parametrize("unit", UNITS)
def test_every_unit_starts_a_command_that_there_is(unit: str) -> None:
    (command,) = values(unit, "ExecStart")
    for instance in INSTANCES.get(unit.removesuffix(".service"), ("",)):
        words = command.replace("%i", instance)
        if instance in ENGINES:
            words = words.replace("$ENGINE_OPTIONS", options(instance))
        program, *arguments = words.split()
        assert program == PROGRAM
        parse_command(arguments)


def test_the_workers_take_every_queue() -> None:
    assert sorted(map(queue_name, INSTANCES["glowl-worker@"])) == sorted(QUEUES)
    assert set(",".join(WORKERS.values()).split(",")) == set(INSTANCES["glowl-worker@"])


@pytest.mark.parametrize("name", ENGINES)
def test_engines_load_and_listen_as_in_compose_and_as_the_settings_say(name: str) -> None:
    ours = parse_command(["engine", name, *options(name).split()])
    theirs = parse_command(SERVICES[f"{name}-gpu"]["command"].split())
    assert (ours["model"], ours["port"]) == (theirs["model"], theirs["port"])
    assert f"GLOWL_{name.upper()}_URL=http://127.0.0.1:{ours['port']}" in (FOLDER / "glowl.env").read_text()


def test_settings_are_read_and_keys_reach_the_api_alone() -> None:
    named = {path.name: re.findall(r"^#?(\w+)=", path.read_text(), re.MULTILINE) for path in FOLDER.glob("*.env")}
    assert {name for file in ("glowl.env", "api.env") for name in named[file]} <= Settings.variables()
    assert {name for file in named if file.startswith("engine") for name in named[file]} == {"ENGINE_OPTIONS"}
    files = {unit: {Path(path.lstrip("-")).name for path in values(unit, "EnvironmentFile")} for unit in UNITS}
    assert files == {
        "glowl.service": {"glowl.env", "api.env"},
        "glowl-api.service": {"glowl.env", "api.env"},
        "glowl-worker@.service": {"glowl.env"},
        "glowl-engine@.service": {"engine-%i.env"},
    }


@pytest.mark.parametrize("unit", [unit for unit in UNITS if unit != "glowl.service"])
def test_who_stops_the_target_waits_for_its_processes(unit: str) -> None:
    # What starts after the target stops before it, and `systemctl stop` waits for the target alone.
    assert values(unit, "PartOf") == ["glowl.target"]
    assert "glowl.target" in values(unit, "After")[0].split()


@pytest.mark.parametrize("unit", UNITS)
def test_what_runs_gets_time_to_end_and_is_started_again(unit: str) -> None:
    settings = Settings()
    (seconds,) = values(unit, "TimeoutStopSec")
    if "engine" not in unit:
        assert int(seconds) > settings.drain_s + settings.drain_notice_s + STOP_MARGIN_S
    assert (values(unit, "Restart"), values(unit, "StartLimitIntervalSec")) == (["always"], ["0"])


@pytest.mark.parametrize("unit", ["glowl-engine@.service", "glowl-api.service"])
def test_a_restart_waits_until_it_is_answered_however_long_that_takes(unit: str) -> None:
    # Else two in a row would have both engines away: the runbook restarts one after the other.
    assert values(unit, "Type") == ["notify"]
    assert values(unit, "TimeoutStartSec") == ["infinity"]
    assert is_for_engine("NOTIFY_SOCKET")


@pytest.mark.parametrize("page", ["docs/deployment.md", "docs/deployment.zh.md"])
def test_the_page_names_every_unit(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    assert [name for name in (*UNITS, "glowl.target") if name.removesuffix(".service") not in text] == []

"""A forked process is used like one that was started from its files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import servers
from tests.support.fork_server import ROOT
from tests.support.servers import Process, wait_until

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="waits by pidfd")
CLI = [sys.executable, "-m", "router.cli"]


def test_it_has_its_own_variables_log_and_exit_status(tmp_path: Path) -> None:
    good = Process([*CLI, "explain", "你好"], tmp_path / "good", {"GLOWL_PRESET": "glm-thinking"})
    bad = Process([*CLI, "explain", "你好"], tmp_path / "bad", {"GLOWL_PRESET": "nope"})

    assert (good.child.wait(300), bad.child.wait(300)) == (0, 2)
    assert "no preset named 'nope'" in (tmp_path / "bad").read_text()
    assert "nope" not in (tmp_path / "good").read_text()
    for each in (good, bad):
        assert each.child.poll() == each.child.returncode
        each.stop()


def test_it_can_be_waited_for_and_killed(tmp_path: Path) -> None:
    socket = tmp_path / "socket"
    engine = Process([sys.executable, "-m", "tests.support.echo_server", "glm", str(socket), "0"], tmp_path / "log")
    wait_until(socket.exists, "the engine")

    assert Path(f"/proc/{engine.child.pid}/cwd").resolve() == Path.cwd().resolve()
    assert engine.child.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        engine.child.wait(0.01)
    engine.kill()
    assert engine.child.returncode == -9
    engine.stop()


def test_what_nobody_ended_ends_with_the_server(tmp_path: Path) -> None:
    server = servers.ForkServer()
    argv = [sys.executable, "-m", "tests.support.echo_server", "glm", str(tmp_path / "socket"), "0"]
    engine = server.start(argv, tmp_path / "log", {"PYTHONPATH": str(ROOT)})
    assert engine is not None
    server.stop()

    wait_until(lambda: not Path(f"/proc/{engine.pid}").exists(), "its end")

"""`glowl mcp`: what keeps it from starting is one line, and nothing but the protocol is on stdout."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import router.mcp
from router.cli.main import app

run = CliRunner().invoke


def test_a_folder_that_is_none_is_said(tmp_path: Path) -> None:
    done = run(app, ["mcp", "--allow", str(tmp_path / "none"), "--lang", "en"])
    assert done.exit_code == 2
    assert done.stderr == f"glowl: {tmp_path / 'none'} is not a folder; --allow takes folders with pictures\n"


def test_a_port_that_is_taken_is_said_before_a_client_is_told_of_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run(app, ["mcp", "--http", str(port), "--lang", "en"])
    assert done.exit_code == 2
    assert f"port {port} cannot be used" in done.stderr


def test_without_the_sdk_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mcp", None)
    monkeypatch.delitem(sys.modules, "router.mcp.server", raising=False)
    monkeypatch.delattr(router.mcp, "server", raising=False)
    done = run(app, ["mcp", "--lang", "en"])
    assert done.exit_code == 2
    assert "-m pip install 'glowl[mcp]'" in done.stderr
    assert done.stdout == ""

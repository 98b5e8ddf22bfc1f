"""What systemd is told: that an engine is ready once it is, and nothing of one that cannot be loaded."""

import asyncio
import contextlib
import logging
import socket
import tempfile
from pathlib import Path

import pytest

from engines.echo import EchoEngine
from engines.http import exits, loading, server
from engines.http.notify import notify


@pytest.fixture
def short_folder():
    with tempfile.TemporaryDirectory(prefix="glowl") as folder:  # tmp_path is too long for a socket
        yield Path(folder)


@pytest.fixture
def manager(request, short_folder, monkeypatch):
    """A service manager's socket, at a path or in the abstract namespace."""
    path = str(short_folder / "notify")
    name = {"path": path, "abstract": "@" + path}[getattr(request, "param", "path")]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind("\0" + path if name.startswith("@") else path)
        receiver.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield receiver


def told(receiver):
    try:
        return receiver.recv(100)
    except BlockingIOError:
        return None


class _Watched(EchoEngine):
    """Looks at what was told while it loads, and ends when something is."""

    def __init__(self, receiver, error=None):
        super().__init__("glm")
        self._receiver = receiver
        self._error = error
        self.while_loading = "not loaded"
        self.told = None

    async def start(self):
        await super().start()
        self.while_loading = told(self._receiver)
        if self._error is not None:
            raise self._error

    async def ended(self):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(60):  # a hang, not a busy machine
                self.told = await asyncio.get_running_loop().sock_recv(self._receiver, 100)
        return "its process has ended"


@pytest.mark.parametrize("manager", ["path", "abstract"], indirect=True)
def test_an_engine_is_ready_for_systemd_once_it_is_loaded(manager, monkeypatch):
    engine = _Watched(manager)
    monkeypatch.setattr(server, "load_engine", lambda _name, _options: loading.DeferredEngine(lambda: engine))

    assert server.main(["glm", "--model", "x/y", "--port", "0"]) == exits.TRY_AGAIN

    assert engine.while_loading is None
    assert engine.told == b"READY=1"
    assert told(manager) is None


def test_an_engine_that_cannot_be_loaded_is_never_ready(manager, monkeypatch):
    engine = _Watched(manager, ValueError("2 tensors are missing"))
    monkeypatch.setattr(server, "load_engine", lambda _name, _options: loading.DeferredEngine(lambda: engine))

    assert server.main(["glm", "--model", "x/y", "--port", "0"]) == exits.HOPELESS

    assert engine.while_loading is None
    assert told(manager) is None


def test_without_a_manager_or_with_one_that_is_gone_the_process_goes_on(monkeypatch, short_folder, caplog):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
    assert not caplog.records

    monkeypatch.setenv("NOTIFY_SOCKET", str(short_folder / "gone"))
    with caplog.at_level(logging.WARNING):
        notify("READY=1")
    (record,) = caplog.records
    assert "gone" in record.getMessage()

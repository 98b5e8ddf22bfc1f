"""Real servers for tests: redis as a process, ASGI apps on a thread, a Celery worker as a process.

Everything listens on unix sockets or loopback, is started by the test that needs it and stopped by pid.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import redis
import uvicorn

from router.cli.redis_server import find_redis
from router.serve import ApiServer
from router.settings import Settings
from tests.support.fork_server import Forked, ForkServer

STARTUP_S = 300.0  # a hang, not a busy machine
# Starts processes for tests (tests/conftest.py); without one, as in benchmarks, they are started from their files.
fork_server: ForkServer | None = None


@contextlib.contextmanager
def paused(pid: int) -> Iterator[None]:
    """Let a process answer nothing for a while, and have it go on whatever happens."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def wait_until(is_true: Callable[[], Any], what: str, timeout_s: float = STARTUP_S) -> Any:
    """Poll until something holds; the bound only turns a hang into a failure."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        value = is_true()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"waited {timeout_s:.0f} s for {what}")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Process:
    """A child with its output in a file."""

    def __init__(self, argv: list[str], log: Path, env: Mapping[str, str] | None = None) -> None:
        self.log = log
        self._file = log.open("ab")
        env = {**os.environ, **(env or {})}
        forked = fork_server and fork_server.start(argv, log, env)
        self.child: subprocess.Popen[bytes] | Forked = forked or subprocess.Popen(
            argv, stdout=self._file, stderr=subprocess.STDOUT, env=env
        )

    def kill(self) -> None:
        self.child.kill()
        self.child.wait()
        self._file.close()

    def stop(self, timeout_s: float = 20) -> None:
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGTERM)
            try:
                self.child.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()
        self._file.close()


class RedisProcess(Process):
    """A redis of our own on a unix socket, its append-only file on."""

    def __init__(self) -> None:
        self.dir = Path(tempfile.mkdtemp(prefix="glowl-r"))
        self.socket = self.dir / "r.sock"
        self.url = f"unix://{self.socket}?db=0"
        self.start()

    def start(self) -> None:
        binary = find_redis({}).binary
        argv = [str(binary), "--port", "0", "--unixsocket", str(self.socket), "--dir", str(self.dir)]
        options = ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
        super().__init__([*argv, *options], self.dir / "redis.log")
        wait_until(self.answers, "redis")

    def answers(self) -> bool:
        with redis.Redis.from_url(self.url) as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False

    def flush(self) -> None:
        with redis.Redis.from_url(self.url) as client:
            client.flushall()


class AppServer:
    """An ASGI application on a thread of this process."""

    def __init__(self, app: Any, *, uds: str | None = None, port: int | None = None) -> None:
        self._app = app
        self.uds = uds
        self.port = port if port is not None or uds is not None else free_port()
        self.start()

    @property
    def url(self) -> str:
        return f"unix://{self.uds}" if self.uds else f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._server = self._make_server()
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        wait_until(lambda: self._server.started, "the application server")

    def _make_server(self) -> uvicorn.Server:
        where: dict[str, Any] = {"uds": self.uds} if self.uds else {"host": "127.0.0.1", "port": self.port}
        return uvicorn.Server(
            uvicorn.Config(self._app, log_level="warning", timeout_graceful_shutdown=1, ws="none", **where)
        )

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(300)
        assert not self._thread.is_alive()


class BoundedServer(AppServer):
    """The api's own server, with its limits on connections, on a thread of this process."""

    def __init__(self, app: Any, settings: Settings, *, drain_s: float = 1.0) -> None:
        self._settings = settings
        self._drain_s = drain_s
        super().__init__(app)

    def _make_server(self) -> uvicorn.Server:
        update = {"port": self.port, "log_level": "WARNING", "drain_s": self._drain_s}
        return ApiServer(self._app, self._settings.model_copy(update=update))


def start_worker(env: Mapping[str, str], log: Path) -> Process:
    """Start a real Celery worker with the product's own command."""
    return Process([sys.executable, "-m", "router.cli", "worker"], log, env)

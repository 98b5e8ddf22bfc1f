"""deploy/healthcheck.sh: what docker runs in every container, again and again."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support.servers import free_port

SCRIPT = Path(__file__).parents[2] / "deploy/healthcheck.sh"


def is_healthy(*arguments: str) -> bool:
    done = subprocess.run(["bash", str(SCRIPT), *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode in (0, 1), done.stderr
    return done.returncode == 0


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert self.headers["Host"] == "localhost"  # without keys the api answers to no other name
        self.send_response(200 if self.path == "/readyz" else 503)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def port() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield str(server.server_port)
        server.shutdown()
        thread.join()


def test_only_a_200_is_healthy(port: str) -> None:
    assert is_healthy(port, "/readyz")
    assert not is_healthy(port, "/other")
    assert not is_healthy(str(free_port()), "/readyz")


def test_a_file_is_healthy_while_it_is_touched_and_not_empty(tmp_path: Path) -> None:
    file = tmp_path / "worker.pid"
    assert not is_healthy(str(file), "60")
    # As a worker that begins leaves it
    file.write_text("")
    assert not is_healthy(str(file), "60")
    file.write_text("7\n")
    assert is_healthy(str(file), "60")
    os.utime(file, (time.time() - 100,) * 2)
    assert not is_healthy(str(file), "60")


def test_the_image_can_execute_it() -> None:
    assert os.access(SCRIPT, os.X_OK)

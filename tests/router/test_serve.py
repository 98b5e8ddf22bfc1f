"""The api's server: how it ends, and its second port."""

import asyncio
import json
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from router.app import create_app
from router.settings import Settings
from tests.support.servers import BoundedServer, Process, free_port, wait_until


@pytest.mark.e2e
def test_an_api_says_when_it_answers_and_ends_without_an_error(tmp_path):
    # Given an api, with nothing behind it
    port = free_port()
    env = {"REDIS_URL": "redis://127.0.0.1:1/0", "GLOWL_DRAIN_NOTICE_S": "0"}
    with (
        tempfile.TemporaryDirectory(prefix="glowl") as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
    ):
        manager.bind(f"{folder}/notify")
        manager.settimeout(300)
        argv = [sys.executable, "-m", "router.cli", "api", "--port", str(port)]
        api = Process(argv, tmp_path / "api.log", {**env, "NOTIFY_SOCKET": f"{folder}/notify"})

        # When it tells systemd that it is ready, then it answers
        assert manager.recv(100) == b"READY=1"
    assert httpx.get(f"http://127.0.0.1:{port}/healthz", trust_env=False).status_code == 200

    api.child.send_signal(signal.SIGTERM)

    assert api.child.wait(300) == 0
    api.stop()
    log = (tmp_path / "api.log").read_text()
    assert "Application shutdown complete." in log
    assert "Traceback" not in log


@pytest.mark.e2e
def test_the_page_has_a_port_of_its_own_where_that_is_free(tmp_path):
    # Given two apis that are to serve the page at the same port
    env = {"REDIS_URL": "redis://127.0.0.1:1/0", "GLOWL_DRAIN_NOTICE_S": "0", "GLOWL_UI_PORT": str(free_port())}
    page = f"http://127.0.0.1:{env['GLOWL_UI_PORT']}"
    ports = [free_port(), free_port()]

    def start(port: int) -> Process:
        argv = [sys.executable, "-m", "router.cli", "api", "--port", str(port)]
        process = Process(argv, tmp_path / f"{port}.log", env)
        wait_until(lambda: is_served(f"http://127.0.0.1:{port}"), "the api")
        return process

    def is_served(url: str) -> bool:
        try:
            return httpx.get(f"{url}/ui/", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    first, second = (start(port) for port in ports)
    # Then the first one has it, page and api, and the second one does without and says so
    assert is_served(page)
    assert httpx.get(f"{page}/healthz", trust_env=False).json() == {"status": "ok"}
    assert "the page has no port of its own" in (tmp_path / f"{ports[1]}.log").read_text()
    # And it is given up with the process
    first.stop()
    assert not is_served(page)
    assert is_served(f"http://127.0.0.1:{ports[1]}")
    second.stop()


def test_what_does_not_end_in_time_is_refused_with_a_503_that_says_why():
    # Given requests that would never end: one, one that swallows a cancel as redis-py may, and a stream that
    # has begun
    begun: list[str] = []
    settings = Settings(REDIS_URL="redis://127.0.0.1:1/0", insecure=True)
    app = create_app(settings)
    swallowed = 0

    async def wait(request: Request) -> Response:
        nonlocal swallowed
        begun.append(request.url.path)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if request.url.path != "/deaf":
                raise
            swallowed += 1
            await asyncio.Event().wait()
        raise AssertionError

    async def stream(_request: Request) -> Response:
        async def body() -> AsyncIterator[bytes]:
            yield b"data: a\n\n"
            begun.append("/stream")
            await asyncio.Event().wait()

        return StreamingResponse(body(), media_type="text/event-stream")

    for path in ("/wait", "/deaf"):
        app.add_route(path, wait)
    app.add_route("/stream", stream)
    server = BoundedServer(app, settings, drain_s=0.0)
    asked = {
        path: socket.create_connection(("127.0.0.1", server.port or 0), 300) for path in ("/wait", "/deaf", "/stream")
    }
    for path, sock in asked.items():
        chinese = "Accept-Language: zh\r\n" if path == "/deaf" else ""
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nx-request-id: mine\r\n{chinese}\r\n".encode())
    wait_until(lambda: len(begun) == 3, "the requests to run")

    # When the process is told to end
    server.stop()

    # Then who had no answer yet is told to ask again, and who had a part of one sees that it is not whole
    answers = {path: read_all(sock) for path, sock in asked.items()}
    assert swallowed == 1
    for path, word in (("/wait", "send the request again"), ("/deaf", "请重新发送请求")):
        head, _, body = answers[path].partition(b"\r\n\r\n")
        error = json.loads(body)["error"]
        assert (head.split(b" ")[1], error["code"], error["type"]) == (b"503", "shutting_down", "server_error")
        assert word in error["message"]
        assert b"retry-after: 1\r\n" in head
        assert b"connection: close" in head
        assert b"x-request-id: mine" in head
    assert b"data: a\n\n" in answers["/stream"]
    assert not answers["/stream"].endswith(b"0\r\n\r\n")


def read_all(sock: socket.socket) -> bytes:
    with sock:
        answer = b""
        while chunk := sock.recv(65536):
            answer += chunk
        return answer

"""Requests of real users as the bytes that they are, to the api's own server."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from router.app import create_app
from router.settings import Settings
from tests.support.servers import BoundedServer, RedisProcess, wait_until

CASES = Path(__file__).parents[4] / "shared" / "cases"
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not here")


@pytest.fixture(scope="module")
def server(echo_urls: dict[str, str], redis_process: RedisProcess) -> Iterator[BoundedServer]:
    settings = Settings(
        REDIS_URL=redis_process.url,
        glm_url=echo_urls["glm"],
        owl2_url=echo_urls["owl2"],
        cors_origins="http://localhost:3000",
    )
    server = BoundedServer(create_app(settings), settings)
    wait_until(lambda: b'"glm":"up"' in send(server, b"GET /readyz HTTP/1.0\r\n\r\n")[1], "the engines")
    yield server
    server.stop()


def send(server: BoundedServer, request: bytes) -> tuple[bytes, bytes]:
    """Return head and body, once the server has closed the connection."""
    with socket.create_connection(("127.0.0.1", server.port or 0), timeout=300) as sock:
        sock.sendall(request)
        answer = b""
        while chunk := sock.recv(65536):
            answer += chunk
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.lower(), body


def case(name: str) -> bytes:
    return (CASES / name).read_bytes()


def test_a_stream_over_http_1_0_has_no_chunks(server: BoundedServer) -> None:
    head, body = send(server, case("http-1.0-stream.txt"))
    assert b" 200 " in head
    assert b"transfer-encoding" not in head
    lines = [line for line in body.split(b"\n") if line]
    assert all(line.startswith((b"data: ", b":")) for line in lines), body
    assert lines[-1] == b"data: [DONE]"


def test_head_of_health_has_no_body(server: BoundedServer) -> None:
    head, body = send(server, case("head-healthz.txt"))
    assert (b" 200 " in head, body) == (True, b"")


def test_a_preflight_of_an_allowed_origin_is_answered(server: BoundedServer) -> None:
    head, _ = send(server, case("browser-preflight.txt"))
    assert b" 200 " in head.splitlines()[0]
    assert b"access-control-allow-origin: http://localhost:3000" in head


def test_a_preflight_of_another_origin_gets_no_leave(server: BoundedServer) -> None:
    head, _ = send(server, case("browser-preflight.txt").replace(b":3000", b":3001"))
    assert b"access-control-allow" not in head


def test_a_doubled_slash_does_not_matter(server: BoundedServer) -> None:
    head, body = send(server, case("double-slash.txt"))
    assert b" 200 " in head.splitlines()[0]
    assert json.loads(body)["object"] == "chat.completion"


def test_a_foreign_host_is_refused(server: BoundedServer) -> None:
    head, body = send(server, case("foreign-host-name.txt"))
    assert b" 421 " in head.splitlines()[0]
    assert set(json.loads(body)) == {"error"}

"""Connections that say nothing, or only half of something, end; and they keep nobody out."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.responses import Response, StreamingResponse

from router.app import create_app
from router.connections import MAX_HEAD_BYTES
from router.settings import Settings
from tests.support.servers import BoundedServer

GET = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
Serve = Callable[..., BoundedServer]


@pytest.fixture
def serve(monkeypatch: Any) -> Iterator[Serve]:
    monkeypatch.setattr("router.connections._CHECK_S", 0.02)
    with ExitStack() as stack:

        def begin(add: Callable[[FastAPI], None] = lambda _: None, **settings: Any) -> BoundedServer:
            # Without redis it cannot know whether there are owners.
            chosen = Settings(REDIS_URL="redis://127.0.0.1:1/0", insecure=True, **settings)
            app = create_app(chosen)
            add(app)
            server = BoundedServer(app, chosen)
            stack.callback(server.stop)
            return server

        yield begin


def connect(server: BoundedServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port or 0), timeout=300)


def read_all(sock: socket.socket) -> bytes:
    answer = b""
    try:
        while chunk := sock.recv(65536):
            answer += chunk
    except ConnectionResetError:
        pass
    return answer


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def error_of(answer: bytes) -> Any:
    return json.loads(answer.partition(b"\r\n\r\n")[2])["error"]


def test_half_a_head_is_a_408(serve: Serve) -> None:
    server = serve(head_timeout_s=0.05)
    for head in (b"GET /healthz HT", b"GET /healthz HTTP/1.1\r\nHost: a", GET[:-2] + b"X-A: b\r\n"):
        with connect(server) as sock:
            sock.sendall(head)
            answer = read_all(sock)
        assert (status_of(answer), error_of(answer)["code"]) == (408, "request_timeout")
        assert b"x-request-id: req_" in answer


@pytest.mark.parametrize("before", [b"", GET], ids=["at first", "after an answer"])
def test_a_connection_that_says_nothing_is_closed(serve: Serve, before: bytes) -> None:
    server = serve(head_timeout_s=0.05)
    for dripped in (b"", b"\r\n"):
        with connect(server) as sock:
            sock.sendall(before + dripped)
            answer = read_all(sock)
        assert answer.count(b"HTTP/1.1 200 ") == (1 if before else 0)


def test_a_head_without_an_end_is_a_431(serve: Serve) -> None:
    server = serve()
    too_long = b"a" * (MAX_HEAD_BYTES + 1)
    for head in (b"GET /" + too_long, GET[:-2] + b"X: " + too_long, GET[:-2] + b"X: a\r\n" * (MAX_HEAD_BYTES // 6)):
        with connect(server) as sock:
            sock.sendall(head)
            answer = read_all(sock)
        assert (status_of(answer), error_of(answer)["code"]) == (431, "headers_too_large")


def test_a_whole_head_with_too_long_a_path_is_a_431(serve: Serve) -> None:
    with connect(serve()) as sock:
        sock.sendall(GET.replace(b"GET /", b"GET /?q=" + b"a" * MAX_HEAD_BYTES, 1))
        answer = read_all(sock)
    assert (status_of(answer), error_of(answer)["code"]) == (431, "headers_too_large")
    assert "in the body" in error_of(answer)["message"]


def test_what_is_no_http_is_an_envelope(serve: Serve) -> None:
    with connect(serve()) as sock:
        sock.sendall(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n")
        answer = read_all(sock)
    assert (status_of(answer), error_of(answer)["code"]) == (400, "invalid_http_request")


@pytest.mark.parametrize(
    ("target", "host", "status"),
    [
        (b"http://evil.example/v1/models", b"localhost", 421),
        (b"HTTP://evil.example:8000/v1/models", b"localhost", 421),
        (b"http://localhost@evil.example/v1/models", b"localhost", 421),
        (b"http://[2001:db8::1]:8000/v1/models", b"localhost", 421),
        (b"http://localhost:8000/v1/models", b"evil.example", 200),
        (b"http://[::1]:8000/v1/models?x=1", b"localhost", 200),
        (b"http://127.0.0.1/v1/models", b"127.0.0.1", 200),
        (b"/http://evil.example/v1/models", b"localhost", 404),
        (b"//evil.example/v1/models", b"localhost", 404),
        (b"evil.example:80", b"localhost", 400),
    ],
)
def test_a_host_in_the_target_is_the_requests_host(serve: Serve, target: bytes, host: bytes, status: int) -> None:
    with connect(serve()) as sock:
        sock.sendall(b"GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n" % (target, host))
        answer = read_all(sock)
    assert status_of(answer) == status


def test_idle_connections_make_room_for_one_that_asks(serve: Serve) -> None:
    server = serve(max_connections=8)
    with ExitStack() as stack:
        for number in range(20):
            idle = stack.enter_context(connect(server))
            idle.sendall(b"" if number % 2 else b"GET /healthz HTTP/1.1\r\n")
        for _ in range(3):
            with connect(server) as sock:
                sock.sendall(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
                assert status_of(read_all(sock)) == 200


def test_connections_that_are_all_in_use_are_a_503(serve: Serve) -> None:
    async def endless() -> Any:
        yield b"first"
        await asyncio.Event().wait()

    server = serve(lambda app: app.add_api_route("/endless", lambda: StreamingResponse(endless())), max_connections=2)
    with connect(server) as busy:
        busy.sendall(GET.replace(b"/healthz", b"/endless"))
        while b"first" not in busy.recv(65536):
            pass
        with connect(server) as refused:
            answer = read_all(refused)
    assert (status_of(answer), error_of(answer)["code"]) == (503, "overloaded")


@pytest.mark.parametrize("keep", [b"", b"Connection: keep-alive\r\n"])
def test_http_1_0_gets_no_chunks_and_ends_with_the_connection(serve: Serve, keep: bytes) -> None:
    async def pieces() -> Any:
        for piece in (b"one,", b"", b"two,", b"three"):
            yield piece

    def add(app: FastAPI) -> None:
        app.add_api_route("/stream", lambda: StreamingResponse(pieces()))
        app.add_api_route("/whole", lambda: Response(b"one,two,three"))

    server = serve(add)
    for path in (b"/stream", b"/whole"):
        with connect(server) as sock:
            sock.sendall(b"GET %s HTTP/1.0\r\n%s\r\n" % (path, keep))
            head, _, body = read_all(sock).partition(b"\r\n\r\n")
        assert body == b"one,two,three"
        assert b"transfer-encoding" not in head.lower()
        assert (b"content-length: 13" in head) == (path == b"/whole")
        assert b"connection: close" in head


@pytest.mark.parametrize(("version", "more"), [(b"1.1", b"Connection: close\r\n"), (b"1.0", b"")])
def test_a_refusal_is_not_lost_where_the_connection_ends(serve: Serve, version: bytes, more: bytes) -> None:
    body = b" " * 20_000_000
    head = b"POST /v1/route HTTP/%s\r\nHost: localhost\r\n%sContent-Length: %d\r\n\r\n"
    with connect(serve(max_body_bytes=1000)) as sock:
        sock.sendall(head % (version, more, len(body)) + body)
        answer = read_all(sock)
    assert (status_of(answer), error_of(answer)["code"]) == (413, "request_too_large")


def test_the_rest_of_a_refused_body_is_dropped_and_the_connection_goes_on(serve: Serve) -> None:
    body = b" " * 500_000
    with connect(serve(max_body_bytes=1000)) as sock:
        sock.sendall(b"POST /v1/route HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        sock.sendall(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        answer = read_all(sock)
    assert [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]] == [413, 200]


def test_a_client_that_reads_nothing_is_let_go(serve: Serve, monkeypatch: Any) -> None:
    ended = threading.Event()

    async def flood() -> Any:
        try:
            while True:
                yield b"x" * 65536
                await asyncio.sleep(0)
        finally:
            ended.set()

    monkeypatch.setattr("router.serve._WRITE_TIMEOUT_S", 0.05)
    server = serve(lambda app: app.add_api_route("/flood", lambda: StreamingResponse(flood())))
    with connect(server) as sock:
        sock.sendall(GET.replace(b"/healthz", b"/flood"))
        assert ended.wait(300)


HELLO = b'{"model": "glowl", "messages": [{"role": "user", "content": "Hello."}]}'
CHUNKED = b"%x\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n" % (9, HELLO[:9], len(HELLO) - 9, HELLO[9:])


@pytest.mark.parametrize("offer", [b"h2c", b"websocket", b"TLS/1.0, HTTP/2.0"])
@pytest.mark.parametrize(
    ("framing", "body"),
    [(b"Content-Length: %d" % len(HELLO), HELLO), (b"Transfer-Encoding: chunked", CHUNKED)],
    ids=["length", "chunks"],
)
def test_an_offer_of_another_protocol_changes_nothing(serve: Serve, offer: bytes, framing: bytes, body: bytes) -> None:
    head = [b"POST /v1/route HTTP/1.1", b"Host: localhost", b"Connection: Upgrade, HTTP2-Settings", framing]
    sent = b"\r\n".join([*head, b"Upgrade: " + offer, b"", b""]) + body
    last = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    server = serve()
    for cut in (1, len(sent) - len(body), len(sent) - 5, len(sent)):
        with connect(server) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.sendall(sent[:cut])
            sock.sendall(sent[cut:] + sent)
            sock.sendall(GET + last)
            answer = read_all(sock)
        assert [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]] == [200, 200, 200, 200], answer
        assert answer.count(b'"object":"route"') == 2


def test_requests_sent_ahead_are_answered_in_turn_up_to_a_limit(serve: Serve) -> None:
    server = serve()
    last = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    with connect(server) as sock:
        sock.sendall(GET * 20 + last)
        assert read_all(sock).count(b"HTTP/1.1 200 ") == 21
    with connect(server) as sock:
        sock.sendall(GET * 1000 + last)
        assert read_all(sock).count(b"HTTP/1.1 200 ") < 1000

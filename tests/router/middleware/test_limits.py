"""Open requests are bounded, and bodies that do not arrive end with a 408."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request

from router.middleware.limits import Bounded
from router.settings import Settings
from tests.router.middleware.conftest import MakeApp, client_of
from tests.support.servers import AppServer

HELLO = {"model": "glowl", "messages": [{"role": "user", "content": "你好"}]}
START = b"POST /v1/route HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 90000\r\n\r\n{"


def with_a_slow_route(app: FastAPI) -> tuple[asyncio.Event, asyncio.Event]:
    """Add ``/slow``, which tells when it is entered and waits for leave to go on."""
    entered, leave = asyncio.Event(), asyncio.Event()

    async def slow(request: Request) -> dict[str, str]:
        entered.set()
        await leave.wait()
        return {}

    app.add_api_route("/slow", slow)
    return entered, leave


async def test_too_many_open_requests_of_one_key_are_its_own_429(make_app: MakeApp) -> None:
    app = make_app(api_keys="alice,bob", max_requests_in_flight=2)
    entered, leave = with_a_slow_route(app)
    async with client_of(app) as http:
        first = asyncio.ensure_future(http.get("/slow", headers={"api-key": "alice"}))
        await entered.wait()
        entered.clear()
        refused = await http.get("/v1/models", headers={"api-key": "alice"})
        other = await http.get("/v1/models", headers={"api-key": "bob"})
        second = asyncio.ensure_future(http.get("/slow", headers={"api-key": "bob"}))
        await entered.wait()
        full = await http.get("/v1/models", headers={"api-key": "x"})
        health = await http.get("/healthz")
        leave.set()
        assert {(await each).status_code for each in (first, second)} == {200}
        again = await http.get("/v1/models", headers={"api-key": "alice"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_in_flight")
    assert refused.headers["retry-after"] == "1"
    assert refused.headers["x-request-id"]
    assert (full.status_code, full.json()["error"]["code"]) == (503, "overloaded")
    assert (other.status_code, health.status_code, again.status_code) == (200, 200, 200)


@pytest.mark.parametrize("content_type", ["application/json", "multipart/form-data; boundary=x"])
async def test_a_body_that_stops_coming_is_a_408_that_ends_the_connection(make_app: MakeApp, content_type: str) -> None:
    path = "/v1/files" if "multipart" in content_type else "/v1/route"

    async def half() -> AsyncIterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n' if path == "/v1/files" else b'{"model":'
        await asyncio.Event().wait()

    async with client_of(make_app(body_timeout_s=0.05)) as http:
        sent = {"headers": {"content-type": content_type}, "content": half()}
        answer = await http.post(path, **sent)  # type: ignore[arg-type]
    assert (answer.status_code, answer.json()["error"]["code"]) == (408, "request_timeout")
    assert answer.headers["connection"] == "close"


def test_a_half_sent_body_is_cut_on_a_real_connection(make_app: MakeApp) -> None:
    import socket

    server = AppServer(make_app(body_timeout_s=0.2))
    try:
        with socket.create_connection(("127.0.0.1", server.port or 0), timeout=300) as sock:
            sock.sendall(START)
            answer = b""
            while chunk := sock.recv(65536):
                answer += chunk
    finally:
        server.stop()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "request_timeout"


async def test_a_body_is_counted_until_its_request_has_ended() -> None:
    seen: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        share = scope["state"]["share"]
        await share.hold(100_000)
        seen.append(bounded._in_flight.num_bytes)
        raise KeyError

    bounded = Bounded(app, Settings())
    async with client_of(bounded) as http:
        with pytest.raises(KeyError):
            await http.post("/", content=b"")
    assert (seen, bounded._in_flight.num_bytes) == ([100_000], 0)


async def test_a_long_answer_is_no_late_body(make_app: MakeApp) -> None:
    app = make_app(body_timeout_s=0.05)
    entered, leave = with_a_slow_route(app)
    async with client_of(app) as http:
        asked = asyncio.ensure_future(http.get("/slow"))
        await entered.wait()
        await asyncio.sleep(0.1)
        leave.set()
        assert (await asked).status_code == 200


def test_large_bodies_are_refused_by_what_they_announce(make_app: MakeApp) -> None:
    server = AppServer(make_app(max_body_bytes=1000))
    try:
        with httpx.Client(base_url=server.url, trust_env=False) as http:
            answer = http.post("/v1/route", content=b" " * 2000)
    finally:
        server.stop()
    assert answer.status_code == 413

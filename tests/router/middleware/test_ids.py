"""Every answer has an id, a bug's too."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.responses import StreamingResponse

from tests.router.middleware.conftest import MakeApp, client_of
from tests.support.servers import AppServer


def broken(*_: Any, **__: Any) -> Any:
    raise TypeError("unhashable type: 'list'")


@pytest.mark.parametrize("error", [TypeError("a"), RecursionError(), MemoryError(), ExceptionGroup("b", [KeyError()])])
async def test_a_bug_is_an_envelope_with_an_id_and_is_not_raised_to_the_server(
    app: FastAPI, http: httpx.AsyncClient, monkeypatch: Any, error: Exception
) -> None:
    def fail(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(app.state.services.monitor, "info", fail)
    answer = await http.get("/v1/models", headers={"x-request-id": "mine"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "server_error")
    assert answer.headers["x-request-id"] == "mine"
    assert "connection" not in answer.headers


def test_the_connection_is_as_good_after_a_bug_as_before(make_app: MakeApp, monkeypatch: Any) -> None:
    app = make_app()
    server = AppServer(app)
    try:
        with httpx.Client(base_url=server.url, trust_env=False) as http:
            first = http.get("/healthz")
            monkeypatch.setattr(app.state.services.monitor, "info", broken)
            second = http.post("/v1/route", json={"model": "glowl", "messages": [{"role": "user", "content": "?"}]})
            third = http.get("/v1/models")
            monkeypatch.undo()
            fourth = http.get("/v1/models")
    finally:
        server.stop()
    assert [each.status_code for each in (first, third, fourth)] == [200, 500, 200]
    streams = {id(each.extensions["network_stream"]) for each in (first, second, third, fourth)}
    assert len(streams) == 1  # all four on one connection


async def test_a_bug_in_a_middleware_has_an_id_too_and_says_that_the_connection_ends(app: FastAPI) -> None:
    class Broken:
        def __init__(self, inner: Any) -> None:
            pass

        async def __call__(self, *_: Any) -> None:
            raise TypeError("a")

    app.user_middleware.insert(1, type(app.user_middleware[0])(Broken))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
        answer = await http.get("/v1/models", headers={"x-request-id": "mine"})
    assert (answer.status_code, answer.headers["x-request-id"], answer.headers["connection"]) == (500, "mine", "close")


async def test_a_bug_after_the_first_bytes_is_raised_so_that_the_server_cuts_the_answer(app: FastAPI) -> None:
    async def pieces() -> Any:
        yield b"half"
        raise TypeError("a")

    app.add_api_route("/half", lambda: StreamingResponse(pieces()))
    async with client_of(app) as http:
        with pytest.raises(TypeError):
            await http.get("/half")


@pytest.mark.parametrize("given", ["", "a\tb", "x" * 400])
async def test_an_id_that_cannot_be_sent_back_is_replaced_or_cut(http: httpx.AsyncClient, given: str) -> None:
    answer = await http.get("/healthz", headers={"x-request-id": given})
    assert answer.status_code == 200
    assert 0 < len(answer.headers["x-request-id"]) <= 128

"""Every answer has an id, a bug's too, and a line in the log."""

from __future__ import annotations

import logging
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.responses import StreamingResponse

from engines.origin import ORIGIN
from router.middleware.ids import RequestIds
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

    within_ids = 1 + [each.cls for each in app.user_middleware].index(RequestIds)
    app.user_middleware.insert(within_ids, type(app.user_middleware[0])(Broken))
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


def lines_of(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str, dict[str, Any]]]:
    found = [record for record in caplog.records if record.name == "router.access"]
    return [(record.levelno, record.getMessage(), record.__dict__["fields"]) for record in found]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [("GET", "/v1/responses/resp_1", 503, "queue_unavailable"), ("GET", "/nowhere", 404, "not_found")],
)
async def test_a_request_is_a_line_at_its_end(
    http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture, method: str, path: str, status: int, code: str
) -> None:
    with caplog.at_level("INFO"):
        await http.request(method, f"{path}?api_key=secret", headers={"x-forwarded-for": "192.0.2.7"})
    [(level, message, fields)] = lines_of(caplog)
    assert (level, message) == (logging.WARNING if status > 499 else logging.INFO, f"{method} {path} {status}")
    assert fields.pop("duration_ms") >= 0
    assert fields == {"method": method, "path": path, "status": status, "client": "192.0.2.7", "code": code}


async def test_good_answers_to_probes_are_no_lines(
    app: FastAPI, http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        assert (await http.get("/healthz")).status_code == 200
        app.state.services.draining.set()
        assert (await http.get("/readyz")).status_code == 503
    assert [message for _, message, _ in lines_of(caplog)] == ["GET /readyz 503"]


async def test_an_answer_that_breaks_off_is_a_line_that_says_so(app: FastAPI, caplog: pytest.LogCaptureFixture) -> None:
    async def pieces() -> Any:
        yield b"half"
        raise TypeError("a")

    app.add_api_route("/half", lambda: StreamingResponse(pieces()))
    with caplog.at_level("INFO"):
        async with client_of(app) as http:
            with pytest.raises(TypeError):
                await http.get("/half")
    assert [(message, fields["broken_off"]) for _, message, fields in lines_of(caplog)] == [("GET /half 200", True)]


async def test_what_a_request_leads_to_knows_its_id(app: FastAPI) -> None:
    app.add_api_route("/whose", lambda: ORIGIN.get().request_id)
    async with client_of(app) as http:
        answer = await http.get("/whose", headers={"x-request-id": "mine"})
        assert answer.json() == "mine"
        answer = await http.get("/whose")
        assert answer.json() == answer.headers["x-request-id"]

"""How the server ends, and what it tells meanwhile."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server import Server
from mcp_types import TextContent
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from router.mcp import server
from router.mcp.exchange import Exchange
from router.mcp.pictures import Sources
from tests.support.servers import STARTUP_S, AppServer


@pytest.mark.parametrize("broken", [BrokenPipeError(), ExceptionGroup("a", [ExceptionGroup("b", [BrokenPipeError()])])])
async def test_a_client_that_is_gone_amid_an_answer_ends_it(monkeypatch: pytest.MonkeyPatch, broken: Exception) -> None:
    @contextlib.asynccontextmanager
    async def stdio() -> AsyncIterator[Any]:
        raise broken
        yield

    monkeypatch.setattr(server, "stdio_server", stdio)
    await server.serve_stdio(Server("glowl"))


async def test_other_faults_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.asynccontextmanager
    async def stdio() -> AsyncIterator[Any]:
        raise OSError("no stdin")
        yield

    monkeypatch.setattr(server, "stdio_server", stdio)
    with pytest.raises(OSError, match="no stdin"):
        await server.serve_stdio(Server("glowl"))


@pytest.mark.parametrize(
    ("response", "items", "said"),
    [
        ({}, [], "sent"),
        ({"id": "resp_1"}, [], "resp_1: queued"),
        (
            {"id": "resp_1", "hybrid": {"draft": {"text": "purple"}}},
            [],
            "resp_1: the draft is there; it is being refined",
        ),
        ({"id": "resp_1"}, ["final_answer"], "resp_1: the answer is being written"),
    ],
)
async def test_whatever_is_told_first_of_a_job_names_it(response: Any, items: list[str], said: str) -> None:
    told: list[tuple[float, float, str]] = []

    class Session:
        async def report_progress(self, *what: Any) -> None:
            told.append(what)

    heard = Exchange(response, waited_s=2.0)
    for number, phase in enumerate(items):
        heard.take({"type": "response.output_item.added", "item": {"id": str(number), "phase": phase}})
        heard.take({"type": "response.output_text.delta", "item_id": str(number), "delta": "pur"})
    await server.Progress(SimpleNamespace(session=Session()), 300.0, "en").report(heard)  # type: ignore[arg-type]
    assert told == [(2.0, 300.0, said)]


@pytest.mark.parametrize("mode", ["auto", "legacy"])
@pytest.mark.parametrize(("sent", "passed_on"), [({"Authorization": "Bearer theirs"}, "theirs"), ({}, "ours")])
async def test_a_key_of_a_client_over_http_goes_before_our_own(
    tmp_path: Path, mode: Any, sent: dict[str, str], passed_on: str
) -> None:
    # Given a service that wants another key than any that it is sent
    keys: list[str] = []

    async def refuse(request: Request) -> JSONResponse:
        keys.append(request.headers.get("authorization", ""))
        return JSONResponse({"error": {"message": "This API key is not known here."}}, 401)

    service = AppServer(Starlette(routes=[Route("/v1/responses", refuse, methods=["POST"])]))
    glowl = server.Glowl(service.url, "ours", Sources.below([tmp_path]), "en")
    ours = AppServer(glowl.make_server().streamable_http_app(streamable_http_path=server.PATH))

    # When a client asks over HTTP
    async with httpx2.AsyncClient(headers=sent, timeout=STARTUP_S) as http:
        transport = streamable_http_client(ours.url + server.PATH, http_client=http)
        async with Client(transport, mode=mode) as client:
            result = await client.call_tool("look", {"question": "What?", "pictures": ["https://example.com/a.png"]})

    # Then its own key is asked with, if it has one
    assert keys == [f"Bearer {passed_on}"]
    (block,) = result.content
    assert result.is_error
    assert isinstance(block, TextContent)
    assert "GLOWL_API_KEY" in block.text
    for each in (ours, service):
        each.stop()

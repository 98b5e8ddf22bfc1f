"""How the server ends, and what it tells meanwhile."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from mcp.server import Server

from router.mcp import server
from router.mcp.exchange import Exchange


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

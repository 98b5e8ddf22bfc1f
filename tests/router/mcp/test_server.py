"""How the server ends."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from mcp.server import Server

from router.mcp import server


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

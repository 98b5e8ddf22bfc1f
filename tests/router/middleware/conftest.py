"""The application without anything behind it: what is answered here needs no redis and no engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from router.app import create_app
from router.settings import Settings

MakeApp = Callable[..., FastAPI]


@pytest.fixture
def make_app() -> MakeApp:
    """Build an application from settings; its redis and engines do not exist.

    So it cannot know whether there are owners: it answers without keys only where that was said.
    """

    def make(**settings: Any) -> FastAPI:
        return create_app(Settings(**{"REDIS_URL": "redis://127.0.0.1:1/0", "insecure": True, **settings}))

    return make


@pytest.fixture
async def app(make_app: MakeApp) -> FastAPI:
    return make_app()


@pytest.fixture
async def http(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client of `app`; an error that passes all middleware is raised in the test."""
    async with client_of(app) as client:
        yield client


def client_of(app: Any, host: str = "127.0.0.1:8000") -> httpx.AsyncClient:
    """Return a client of any application."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=f"http://{host}")

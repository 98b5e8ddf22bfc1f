"""The short way to an endpoint: the same answer as the long way, for refusals and bugs too."""

from __future__ import annotations

import inspect
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute

from router.api import errors
from router.app import HOT
from router.errors import BadRequestError
from router.middleware.hot import HotRoutes
from router.middleware.ids import BugsAnswered

RAISED: dict[str, Exception] = {
    "refused": BadRequestError("no", code="no"),
    "bug": RuntimeError("a bug"),
}


async def endpoint(request: Request) -> Response:
    asked = (await request.body()).decode()
    if asked in RAISED:
        raise RAISED[asked]
    path = request.scope["route"].path  # for whoever counts
    return errors.json_response({"asked": asked, "app": request.app.state.name, "path": path})


def make_app(*, is_hot: bool) -> FastAPI:
    app = FastAPI()
    app.state.name = "test"
    app.post("/asked")(endpoint)
    errors.install(app)
    if is_hot:
        routes = [route for route in app.routes if isinstance(route, APIRoute)]
        app.add_middleware(HotRoutes, routes=routes, handlers=app.exception_handlers)
    app.add_middleware(BugsAnswered, to_response=errors.answer_bug)
    return app


@pytest.mark.parametrize("method", ["POST", "GET", "HEAD"])
@pytest.mark.parametrize("path", ["/asked", "/other"])
@pytest.mark.parametrize("body", ["hello", *RAISED])
async def test_the_short_way_answers_as_the_long_way(method: str, path: str, body: str) -> None:
    answers: list[Any] = []
    for is_hot in (True, False):
        transport = httpx.ASGITransport(make_app(is_hot=is_hot))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            answer = await client.request(method, path, content=body)
            answers.append((answer.status_code, answer.headers.multi_items(), answer.content))

    assert answers[0] == answers[1]


def test_the_short_way_leads_to_routes_of_the_document() -> None:
    assert {route.path for route in HOT} == {"/v1/chat/completions", "/v1/responses", "/v1/messages"}
    for route in HOT:
        assert route.methods == {"POST"}
        assert list(inspect.signature(route.endpoint).parameters) == ["request"]  # nothing that is to be filled in

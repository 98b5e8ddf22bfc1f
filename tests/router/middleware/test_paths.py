"""Slashes too many and HEAD do not matter, and a wrong method is told all the right ones."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.responses import StreamingResponse

from tests.router.middleware.conftest import client_of

HELLO = {"model": "glowl", "messages": [{"role": "user", "content": "你好"}]}


@pytest.mark.parametrize(
    "path", ["/v1/models", "//v1/models", "/v1//models", "/v1/models/", "//v1///models//", "///v1/models"]
)
async def test_slashes_too_many_lead_to_the_same_answer(app: FastAPI, path: str) -> None:
    async with client_of(app) as http:
        answer = await http.get("http://127.0.0.1:8000" + path)
        assert (answer.status_code, answer.json()["object"]) == (200, "list")


@pytest.mark.parametrize("path", ["//v1/route", "/v1/route/"])
async def test_a_post_is_not_redirected(http: httpx.AsyncClient, path: str) -> None:
    answer = await http.post("http://127.0.0.1:8000" + path, json=HELLO)
    assert (answer.status_code, answer.json()["object"]) == (200, "route")


@pytest.mark.parametrize("path", ["/v1", "//v1", "/nowhere/"])
async def test_there_is_still_nothing_elsewhere(http: httpx.AsyncClient, path: str) -> None:
    assert (await http.get("http://127.0.0.1:8000" + path)).status_code == 404


@pytest.mark.parametrize(
    "path", ["/healthz", "/v1/models", "/v1/models/glowl", "/openapi.json", "/docs", "/v1/models/"]
)
async def test_head_is_get_without_the_body(http: httpx.AsyncClient, path: str) -> None:
    head, get = await http.head(path), await http.get(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == get.headers["content-type"]
    assert head.headers["content-length"] == str(len(get.content))


async def test_head_of_what_is_missing_or_posted_is_no_success(http: httpx.AsyncClient) -> None:
    assert (await http.head("/nowhere")).status_code == 404
    posted = await http.head("/v1/route")
    assert (posted.status_code, posted.headers["allow"], posted.content) == (405, "POST", b"")


async def test_a_stream_ends_after_its_headers(app: FastAPI) -> None:
    async def endless() -> Any:
        yield b"first"
        await asyncio.Event().wait()

    app.add_api_route("/endless", lambda: StreamingResponse(endless()))
    async with client_of(app) as http:
        assert (await http.head("/endless")).content == b""


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/v1/chat/completions", "POST"),
        ("/v1/models", "GET, HEAD"),
        ("/v1/responses/resp_1", "DELETE, GET, HEAD"),
        ("/v1/files", "GET, HEAD, POST"),
        ("/v1/files/file-1", "DELETE, GET, HEAD"),
        ("/v1/webhook_endpoints/whe_1", "DELETE, GET, HEAD, POST"),
        ("/healthz", "GET, HEAD"),
    ],
)
async def test_a_wrong_method_is_told_every_right_one(http: httpx.AsyncClient, path: str, methods: str) -> None:
    answer = await http.put(path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")
    allowed = answer.headers["allow"].split(", ")
    assert sorted(allowed) == allowed
    assert set(methods.split(", ")) <= set(allowed)
    for method in set(allowed) - {"HEAD"}:
        assert (await http.request(method, path)).status_code != 405


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE", "PROPFIND", "QUERY"])
async def test_methods_that_nothing_knows_are_a_405_too(http: httpx.AsyncClient, method: str) -> None:
    assert (await http.request(method, "/v1/models")).status_code == 405


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/%2F",
        "/v1/models/%2f%2F",
        "/v1/models/%2F/",
        "/v1/models/glowl%2F",
        "/v1/models/%00",
        "/v1/models/%ff",
        "/v1/models/%2e%2e",
        "/v1/responses/%2F",
        "/v1/files/%2F/content",
        "/v1/batches/%2F/cancel",
        "/%2Fexample.com",
        "/docs%2F",
    ],
)
async def test_an_escaped_name_that_is_none_is_a_404_of_openais_shape(http: httpx.AsyncClient, path: str) -> None:
    answer = await http.get("http://127.0.0.1:8000" + path, follow_redirects=False)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] in ("model_not_found", "not_found")


async def test_a_name_with_an_escaped_slash_is_found(http: httpx.AsyncClient) -> None:
    answer = await http.get("http://127.0.0.1:8000/v1//models/zai-org%2FGLM-4.6V-Flash/")
    assert (answer.status_code, answer.json()["object"]) == (200, "model")

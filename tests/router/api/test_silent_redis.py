"""While redis hangs, what needs it is refused soon, and what was refused is not done later."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.servers import AppServer, RedisProcess, wait_until

GUARD_S = 8.0  # less than a write waits for redis
DEEP = {"model": "glowl", "input": "Compare the causes of both wars step by step.", "hybrid": {"route": "deep"}}


@pytest.fixture
def hanging(api: AppServer, redis_process: RedisProcess) -> Iterator[None]:
    """A redis that the api knows to be silent."""
    watch = api._app.state.services.redis_watch
    os.kill(redis_process.child.pid, signal.SIGSTOP)
    try:
        wait_until(lambda: watch.is_silent, "the api to notice")
        yield
    finally:
        os.kill(redis_process.child.pid, signal.SIGCONT)
        wait_until(lambda: not watch.is_silent, "the api to notice")


CALLS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "poll": ("GET", "/v1/responses/resp_0", {}),
    "job": ("GET", "/v1/jobs/resp_0", {}),
    "jobs": ("GET", "/v1/jobs", {}),
    "cancel": ("POST", "/v1/responses/resp_0/cancel", {}),
    "batch": ("GET", "/v1/batches/batch_0", {}),
    "batches": ("GET", "/v1/batches", {}),
    "file": ("GET", "/v1/files/file-0", {}),
    "files": ("GET", "/v1/files", {}),
    "endpoints": ("GET", "/v1/webhook_endpoints", {}),
    "background": ("POST", "/v1/responses", {"json": {**DEEP, "background": True}}),
    "keyed": ("POST", "/v1/responses", {"json": DEEP, "headers": {"Idempotency-Key": "silent-1"}}),
    "earlier": (
        "POST",
        "/v1/responses",
        {"json": {"model": "glowl", "input": "你好", "previous_response_id": "resp_0"}},
    ),
    "upload": ("POST", "/v1/files", {"data": {"purpose": "batch"}, "files": {"file": ("a.jsonl", b"{}\n")}}),
}


@pytest.mark.usefixtures("hanging")
async def test_whatever_needs_redis_is_refused_at_once_while_it_hangs(api: AppServer) -> None:
    async with httpx.AsyncClient(base_url=api.url, timeout=GUARD_S, trust_env=False) as http:
        answers = await asyncio.gather(*(http.request(how, path, **more) for how, path, more in CALLS.values()))

    told = {name: (each.status_code, each.json()["error"]["code"]) for name, each in zip(CALLS, answers, strict=True)}
    assert told == dict.fromkeys(CALLS, (503, "queue_unavailable"))
    assert all(each.headers["retry-after"] for each in answers)


def test_a_poll_is_refused_soon_though_nobody_has_noticed_yet(
    http: httpx.Client, redis_process: RedisProcess, api: AppServer
) -> None:
    http.get("/v1/responses/resp_0")  # a connection that works
    os.kill(redis_process.child.pid, signal.SIGSTOP)
    try:
        answer = http.get("/v1/responses/resp_0", timeout=GUARD_S)
    finally:
        os.kill(redis_process.child.pid, signal.SIGCONT)

    assert answer.status_code == 503
    wait_until(lambda: http.get("/v1/responses/resp_0").status_code == 404, "redis to answer again")

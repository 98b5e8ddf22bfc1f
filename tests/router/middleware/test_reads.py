"""Reads of one owner begin a few at a time; what is asked, and what others read, waits for none of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from router.middleware.reads import ReadsInTurn
from tests.router.middleware.conftest import MakeApp, client_of


class Application:
    """Notes who came in, and begins an answer when it is told to."""

    def __init__(self) -> None:
        self.inside: list[str] = []
        self.has_twenty = asyncio.Event()
        self.may_begin = asyncio.Event()
        self.may_end = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.inside.append(scope["path"])
        if len(self.inside) == 20:
            self.has_twenty.set()
        await self.may_begin.wait()
        if scope["path"] == "/bug":
            raise ValueError
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await self.may_end.wait()


@pytest.fixture
async def started() -> AsyncIterator[list[asyncio.Task[None]]]:
    tasks: list[asyncio.Task[None]] = []
    yield tasks
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def no_message(*_: Any) -> None:
    """Neither send nor receive matters here."""


def ask(app: Any, path: str, owner: str = "ann", method: str = "GET") -> asyncio.Task[None]:
    scope = {"type": "http", "method": method, "path": path, "state": {"share": SimpleNamespace(owner=owner)}}
    return asyncio.create_task(app(scope, no_message, no_message))


async def settle() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


async def test_a_burst_of_reads_lets_others_pass_and_ends(started: list[asyncio.Task[None]]) -> None:
    application = Application()
    app = ReadsInTurn(application, patience_s=600)
    started += [ask(app, f"/{number}") for number in range(40)]
    await settle()
    first = len(application.inside)

    # A question of the same owner, and what somebody else reads, come in at once
    started += [ask(app, "/question", method="POST"), ask(app, "/other", "bob")]
    await settle()
    assert application.inside[first:] == ["/question", "/other"]
    assert 1 <= first <= 4

    # A stream that has begun needs no turn any more, and the last one gets its own
    application.may_begin.set()
    await settle()
    assert {f"/{number}" for number in range(40)} < set(application.inside)


@pytest.mark.parametrize("path", ["/bug", "/cancelled"])
async def test_a_read_that_fails_or_is_given_up_gives_its_turn_back(
    path: str, started: list[asyncio.Task[None]]
) -> None:
    application = Application()
    app = ReadsInTurn(application, patience_s=600)
    started += [ask(app, path) for _ in range(10)]
    await settle()
    if path == "/bug":
        application.may_begin.set()
    else:
        for task in started:  # those inside, and those who wait
            task.cancel()
    await asyncio.gather(*started, return_exceptions=True)
    application.may_begin.set()
    started += [ask(app, f"/{number}") for number in range(10)]
    await settle()
    assert {f"/{number}" for number in range(10)} < set(application.inside)


async def test_a_read_that_hangs_holds_others_up_for_a_bounded_time(started: list[asyncio.Task[None]]) -> None:
    application = Application()
    app = ReadsInTurn(application, patience_s=0.01)
    started += [ask(app, f"/{number}") for number in range(20)]
    async with asyncio.timeout(300):
        await application.has_twenty.wait()


async def test_the_application_reads_in_turn(make_app: MakeApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.middleware.reads._PATIENCE_S", 600)
    app = make_app()
    most, inside = 0, 0

    async def slow() -> dict[str, str]:
        nonlocal most, inside
        inside += 1
        most = max(most, inside)
        await settle()
        inside -= 1
        return {}

    app.add_api_route("/slow", slow)
    async with client_of(app) as http:
        answers = await asyncio.gather(*(http.get("/slow") for _ in range(30)))
    assert {answer.status_code for answer in answers} == {200}
    assert most <= 4

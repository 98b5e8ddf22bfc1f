"""Whatever a client does, what its stream was read from is freed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, MutableMapping
from typing import Any

import pytest

from router.api.owned_stream import OwnedStream

SCOPE: dict[str, Any] = {"type": "http", "method": "POST", "path": "/", "headers": [], "asgi": {"spec_version": "2.4"}}


class Case:
    """A body that waits after its first piece, and notes how it ended."""

    def __init__(self) -> None:
        self.ended: list[str] = []
        self.sent: list[str] = []
        self.is_reading = asyncio.Event()

    async def body(self) -> AsyncGenerator[bytes, None]:
        try:
            yield b"a"
            self.is_reading.set()
            await asyncio.Event().wait()
        finally:
            self.ended.append("body")

    async def drop(self) -> None:
        self.ended.append("dropped")

    async def never(self) -> MutableMapping[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(self, message: MutableMapping[str, Any]) -> None:
        self.sent.append(message["type"])


@pytest.mark.parametrize("fails_at", ["http.response.start", "http.response.body"])
async def test_a_client_that_is_gone_before_the_first_byte_or_at_it(fails_at: str) -> None:
    case = Case()

    async def send(message: MutableMapping[str, Any]) -> None:
        if message["type"] == fails_at:
            raise OSError("gone")

    with pytest.raises(Exception, match=r".*"):
        await OwnedStream(case.body(), case.drop, {})(SCOPE, case.never, send)

    assert case.ended == (["dropped"] if fails_at == "http.response.start" else ["body"])


@pytest.mark.parametrize("spec_version", ["2.3", "2.4"])
async def test_a_request_that_is_cancelled_before_it_is_answered_or_in_the_middle(spec_version: str) -> None:
    scope = {**SCOPE, "asgi": {"spec_version": spec_version}}
    for is_late in (False, True):
        case = Case()
        answering = asyncio.create_task(OwnedStream(case.body(), case.drop, {})(scope, case.never, case.send))
        if is_late:
            await case.is_reading.wait()
        else:
            await asyncio.sleep(0)
        answering.cancel()
        await asyncio.gather(answering, return_exceptions=True)

        assert len(case.ended) == 1


async def test_a_client_that_says_it_is_gone_at_once() -> None:
    case = Case()

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.disconnect"}

    await OwnedStream(case.body(), case.drop, {})({**SCOPE, "asgi": {"spec_version": "2.3"}}, receive, case.send)

    assert len(case.ended) == 1

"""Holding an answer back: keep-alives, and the moment when the wait is over."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator

import pytest

from router.api.intake import with_pings
from router.api.routes import chat
from router.api.routes.chat import _Wait
from router.errors import EngineFailedError
from router.jobs.job import Event, Job
from tests.router.jobs.test_store import make_spec

DELTA, FINISHED = Event("delta", "deep", 1, "x"), Event("finished", "draft", 1, state="completed")


async def nothing() -> AsyncGenerator[int, None]:
    await asyncio.Event().wait()
    yield 0


@pytest.mark.parametrize("wait_s", [0.0101, 0.0105, 0.0109])
async def test_silence_is_broken_once_when_the_wait_is_over_and_then_no_more_often_than_before(wait_s: float) -> None:
    until = time.monotonic() + wait_s
    pings = with_pings(nothing(), 3600.0, until)

    assert await asyncio.wait_for(anext(pings), 60) is None
    assert time.monotonic() >= until

    later = asyncio.ensure_future(anext(pings))
    done, _ = await asyncio.wait({later}, timeout=0.1)
    assert not done
    later.cancel()
    await asyncio.gather(later, return_exceptions=True)
    await pings.aclose()


def test_nobody_looks_before_the_wait_is_over() -> None:
    wait = _Wait(3600)

    assert not any(wait.wants_look(event) for event in (None, DELTA, FINISHED))


def test_after_the_wait_one_looks_at_once_and_then_when_a_draft_may_have_come(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given another branch that says a word at a time, whatever the time
    wait = _Wait(1)
    monkeypatch.setattr(chat.time, "monotonic", lambda: wait.until + 1)

    assert [wait.wants_look(event) for event in (DELTA, DELTA, FINISHED, DELTA, None)] == [
        True,
        False,
        True,
        False,
        True,
    ]


def test_a_job_without_a_draft_is_given_up_when_the_wait_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    wait = chat._Wait(20)
    job = Job(make_spec(), "queued", {})
    monkeypatch.setattr(chat.time, "monotonic", lambda: wait.until - 0.001)
    wait.check(job)
    monkeypatch.setattr(chat.time, "monotonic", lambda: wait.until)

    with pytest.raises(EngineFailedError, match="within 20 s"):
        wait.check(job)

"""Holding an answer back: keep-alives, and the moment when the wait is over."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from router.api import waiting
from router.api.hangups import PING_S, with_pings
from router.api.waiting import Wait, ended, look
from router.dispatch import Running
from router.errors import QueueUnavailableError
from router.jobs.job import Event, Job, Unit, UnitState
from router.jobs.results import UnitResult
from router.redis import queue_unavailable
from router.services import Services
from tests.support.jobs import make_spec

DELTA, FINISHED = Event("delta", "deep", 1, "x"), Event("finished", "draft", 1, state="completed")
STARTED, WORD, REQUEUED = Event("started", "draft", 1), Event("delta", "draft", 1, "x"), Event("requeued", "draft", 1)


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


class Clock:
    """A time that a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(waiting.time, "monotonic", lambda: self.now)

    def begin(self, wait_s: float) -> Wait:
        return Wait(wait_s, self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def job_with_draft(state: UnitState | None) -> Job:
    return Job(make_spec(), "in_progress", {} if state is None else {"draft": Unit("draft", state)})


def test_nobody_looks_before_the_wait_is_over(clock: Clock) -> None:
    wait = clock.begin(3600)
    clock.now += 3599.9

    assert not any(wait.wants_look(event) for event in (None, DELTA, FINISHED))


def test_after_the_wait_one_looks_at_once_and_then_when_a_draft_may_have_come(clock: Clock) -> None:
    wait = clock.begin(1)
    clock.now += 1

    assert [wait.wants_look(event) for event in (DELTA, DELTA, FINISHED, DELTA, None)] == [
        True,
        False,
        True,
        False,
        True,
    ]


def test_another_branch_that_never_pauses_keeps_nobody_waiting(clock: Clock) -> None:
    wait = clock.begin(1)
    clock.now += 1
    assert wait.wants_look(DELTA)

    clock.now += PING_S - 0.1
    assert not wait.wants_look(DELTA)
    clock.now += 0.2
    assert wait.wants_look(DELTA)


@pytest.mark.parametrize("state", [None, "queued", "failed", "in_progress"])
@pytest.mark.parametrize("wait_s", [0.1, 10, 20, 120])
def test_a_wait_without_a_word_of_a_draft_ends_with_the_number_that_was_given(
    clock: Clock, wait_s: float, state: UnitState | None
) -> None:
    wait, job = clock.begin(wait_s), job_with_draft(state)

    clock.now += wait_s - 0.01
    wait.wants_look(STARTED)
    assert not wait.is_in_vain(job)
    clock.now += 0.02
    assert wait.wants_look(None)
    assert wait.is_in_vain(job)


@pytest.mark.parametrize(("state", "most_s"), [("in_progress", 60), ("queued", 15), ("failed", 15), (None, 15)])
def test_a_wait_of_nothing_is_for_the_draft(clock: Clock, state: UnitState | None, most_s: float) -> None:
    wait, job = clock.begin(0), job_with_draft(state)
    assert wait.is_over

    clock.now += most_s - 0.1
    assert not wait.is_in_vain(job)
    clock.now += 0.2
    assert wait.is_in_vain(job)


def test_a_draft_that_is_being_written_is_waited_for_within_bounds(clock: Clock) -> None:
    wait, job = clock.begin(10), job_with_draft("in_progress")
    clock.now += 9

    for _ in range(30):
        wait.wants_look(WORD)
        assert not wait.is_in_vain(job)
        clock.now += 2
    wait.wants_look(WORD)
    clock.now += 1.1

    assert wait.is_in_vain(job)


@pytest.mark.parametrize("ending", [None, STARTED, REQUEUED])
def test_a_draft_that_stopped_in_the_middle_is_not_being_written(clock: Clock, ending: Event | None) -> None:
    # Given a draft of some words, whose engine falls silent, or whose run is lost and begun again
    wait, job = clock.begin(10), job_with_draft("in_progress")
    clock.now += 9
    wait.wants_look(WORD)
    clock.now += 1.5
    assert not wait.is_in_vain(job)
    # And Owl2 that goes on
    wait.wants_look(DELTA)

    if ending is None:
        clock.now += 2
    else:
        wait.wants_look(ending)

    assert wait.is_in_vain(job)


class Silent:
    """A store and a hub whose redis does not answer; and what is to be done when it does."""

    def __init__(self) -> None:
        self.later: list[Any] = []
        self.store = self.hub = self.dispatcher = self

    def do_later(self, work: Any) -> None:
        self.later.append(work)

    async def get(self, _job_id: str) -> Job:
        raise queue_unavailable()

    async def load(self, _job_id: str) -> Job:
        await asyncio.Event().wait()
        raise AssertionError


def drafted() -> Job:
    result = UnitResult(text="a draft", model="m")
    return Job(make_spec(), "in_progress", {"draft": Unit("draft", "completed", epoch=1, result=result)})


async def test_a_draft_that_was_read_before_redis_fell_silent_is_the_answer_when_the_wait_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(waiting, "_READ_S", 0.0)
    job, services = drafted(), cast("Services", Silent())
    running = cast("Running", SimpleNamespace(job=job, finished=lambda: None))

    assert await look(services, running, Wait(3600, time.monotonic()), job) == (job, True)
    assert await ended(services, running, Wait(-10, time.monotonic()), job) is job


async def test_without_a_draft_the_wait_ends_with_where_the_answer_will_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_READ_S", 0.0)
    spec, silent = make_spec(is_stored=False), Silent()
    job, services = Job(spec, "queued", {}), cast("Services", silent)
    running = cast("Running", SimpleNamespace(job=job, finished=lambda: None))

    assert await look(services, running, Wait(3600, time.monotonic()), None) == (None, False)
    for read in (look, ended):
        with pytest.raises(QueueUnavailableError) as caught:
            await read(services, running, Wait(1, time.monotonic() - 2), None)
        assert job.id in caught.value.message
        assert caught.value.retry_after_s
    # And nobody could read it under its id, were it not told once redis answers
    assert len(silent.later) == 2

"""A ticket is not given up for one connection that died."""

from __future__ import annotations

from typing import Any, cast

import pytest

from router.errors import QueueUnavailableError
from router.redis import queue_unavailable
from router.work import ticket
from router.work.context import Context


class Store:
    """Fails so often, and then has nothing to do."""

    def __init__(self, num_failures: int) -> None:
        self.num_failures = num_failures
        self.num_asked = 0

    async def take_next(self, queue: str) -> None:
        self.num_asked += 1
        if self.num_asked <= self.num_failures:
            raise queue_unavailable()


def context_of(store: Store) -> Context:
    nothing = cast("Any", None)
    return Context(cast("Any", store), nothing, {}, nothing)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ticket, "REDIS_RETRY_S", 0.0)


@pytest.mark.parametrize(("num_failures", "num_asked"), [(0, 1), (1, 2), (2, 3)])
async def test_the_next_connection_is_tried(num_failures: int, num_asked: int) -> None:
    store = Store(num_failures)
    await ticket.work(context_of(store), "glm")
    assert store.num_asked == num_asked


async def test_a_redis_that_stays_away_keeps_no_thread(caplog: pytest.LogCaptureFixture) -> None:
    store = Store(100)
    await ticket.work(context_of(store), "glm")
    assert store.num_asked == 3
    assert "goes on without redis" in caplog.text


async def test_a_worker_that_ends_does_not_try_again() -> None:
    store = Store(100)
    context = context_of(store)

    async def drain_meanwhile(queue: str) -> None:
        context.draining.set()
        raise queue_unavailable()

    store.take_next = drain_meanwhile  # type: ignore[method-assign]
    with pytest.raises(QueueUnavailableError):
        await ticket._take_next(context, "glm")

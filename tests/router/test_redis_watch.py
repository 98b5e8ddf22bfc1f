"""A redis that hangs is noticed, and nothing more is sent to it until it answers."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, cast

import pytest
from redis.asyncio import Redis
from redis.exceptions import BusyLoadingError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from router.bootstrap import make_redis
from router.errors import QueueUnavailableError
from router.jobs.queue import JobQueue, create_celery
from router.leftovers import end_tasks
from router.lua import JobScript, Scripts, load
from router.redis import may_be_done, while_heard
from router.redis_watch import RedisSilentError, RedisWatch
from router.settings import Settings


class Answers:
    """A client whose pings end as they are told to."""

    def __init__(self, *ends: RedisError | None) -> None:
        self.ends = list(ends)

    async def ping(self) -> bool:
        end = self.ends.pop(0)
        if end is not None:
            raise end
        return True


async def looked(*ends: RedisError | None) -> list[bool]:
    watch = RedisWatch(cast("Redis", Answers(*ends)))
    seen = []
    for _ in ends:
        await watch.look()
        seen.append(watch.is_silent)
    return seen


LATE = RedisTimeoutError("Timeout reading from socket")


async def test_two_looks_without_an_answer_are_silence_and_one_answer_ends_it() -> None:
    assert await looked(None, LATE, LATE, LATE, None, LATE) == [False, False, True, True, False, False]


@pytest.mark.parametrize(
    ("end", "is_heard"),
    [
        (None, True),
        (ResponseError("OOM"), True),
        (LATE, False),
        (RedisConnectionError("refused"), False),
        (BusyLoadingError("loading"), False),
    ],
)
async def test_a_redis_that_is_away_is_not_heard_and_one_that_is_full_is(
    end: RedisError | None, is_heard: bool
) -> None:
    watch = RedisWatch(cast("Redis", Answers(end)))
    watch.heard_at = 0.0
    await watch.look()
    assert (watch.heard_at > 0) is is_heard


@pytest.mark.parametrize(
    "answer",
    [
        RedisConnectionError("refused"),
        BusyLoadingError("loading"),
        ResponseError("OOM"),
        RedisConnectionError("EAGAIN"),
    ],
)
async def test_whoever_refuses_is_not_silent(answer: RedisError) -> None:
    assert await looked(answer, answer, LATE, answer, LATE) == [False] * 5


async def test_no_command_is_sent_while_redis_is_silent(redis_url: str) -> None:
    # Given a client with a connection that works
    looks = Answers(LATE, LATE, None)
    watch = RedisWatch(cast("Redis", looks))
    redis = make_redis(Settings(REDIS_URL=redis_url), watch=watch)
    await redis.set("watched", "0")

    # When redis is known to be silent
    await watch.look()
    await watch.look()
    commands: list[Any] = [
        lambda: redis.set("watched", "1"),
        lambda: redis.pipeline(transaction=False).set("watched", "1").execute(),
        lambda: redis.register_script("return redis.call('SET', 'watched', '1')")(),
    ]
    for command in commands:
        with pytest.raises(RedisSilentError):
            await command()

    # Then none of them was done, and the next one is once it answers again
    await watch.look()
    assert await redis.get("watched") == b"0"
    await redis.aclose()


async def test_a_script_under_way_is_given_up_when_redis_falls_silent(redis_url: str) -> None:
    # Given two clients, one of which is watched, and a redis that hangs in the middle of a script
    watch = RedisWatch(cast("Redis", Answers(LATE, LATE)))
    watched = make_redis(Settings(REDIS_URL=redis_url), watch=watch)
    scripts = Scripts(watched)

    async def hang(*_: Any, **__: Any) -> None:
        await asyncio.Event().wait()

    for script in (JobScript.CANCEL, JobScript.CREATE):
        scripts._registered[script] = cast("Any", hang)
    cancelling = asyncio.create_task(scripts.run(JobScript.CANCEL, id="resp_1", left_by=""))
    creating = asyncio.create_task(
        scripts.run(JobScript.CREATE, **dict.fromkeys(set(load(JobScript.CREATE).arguments) - {"now"}, ""))
    )
    await asyncio.sleep(0)

    # When that is noticed
    await watch.look()
    assert not cancelling.done()
    await watch.look()

    # Then it is refused, though it may be done; what may take long because of its pictures is not given up here.
    with pytest.raises(QueueUnavailableError) as refused:
        await cancelling
    assert may_be_done(refused.value)
    assert not creating.done()
    await end_tasks(creating)
    await watched.aclose()


async def test_a_wait_that_began_before_redis_fell_silent_ends_then() -> None:
    watch = RedisWatch(cast("Redis", Answers(LATE, LATE, None, LATE, LATE)))

    async def write() -> None:
        async with while_heard(watch):
            await asyncio.Event().wait()

    async def write_in_time() -> str:
        async with while_heard(watch):
            return "done"

    assert await write_in_time() == "done"
    for num_looks in (2, 3):  # and when it falls silent again
        waits = [asyncio.create_task(write()) for _ in range(2)]
        await asyncio.sleep(0)
        for _ in range(num_looks):
            assert not any(wait.done() for wait in waits)
            await watch.look()
        for wait in waits:
            with pytest.raises(QueueUnavailableError) as caught:
                await asyncio.wait_for(wait, 60)
            assert may_be_done(caught.value)
    assert not watch._limits


async def test_a_ticket_under_way_is_not_waited_for_once_redis_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a queue whose broker has been sent a ticket and says nothing
    watch = RedisWatch(cast("Redis", Answers(LATE, LATE)))
    celery = create_celery(Settings(REDIS_URL="redis://127.0.0.1:1"))
    is_sent, may_end = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def send(*_: Any, **__: Any) -> None:
        loop.call_soon_threadsafe(is_sent.set)
        may_end.wait(60)

    monkeypatch.setattr(celery, "send_task", send)
    queue = JobQueue(celery, watch=watch)
    sending = asyncio.create_task(queue.send_tickets({"glm": 1}))
    await is_sent.wait()

    # When redis is found silent, then whoever sends goes on
    await watch.look()
    assert not sending.done()
    await watch.look()
    await asyncio.wait_for(sending, 30)
    may_end.set()

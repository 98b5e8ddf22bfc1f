"""The worker process: Celery on Redis, running light tasks that talk to engine servers.

In: messages with job ids. Out: calls of `router.work.ticket`. The tasks are coroutines that run on one event loop per
process, in a thread of its own; Celery's threads only wait for them. No torch here, ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any

from celery import Celery
from celery.signals import (
    setup_logging,
    worker_process_shutdown,
    worker_ready,
    worker_shutdown,
    worker_shutting_down,
)
from kombu.exceptions import OperationalError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from router.bootstrap import make_context
from router.consumer import PatientConsumer
from router.consumer_watch import watch_consumer
from router.jobs.queue import WORK, create_celery, make_sender
from router.settings import Settings
from router.telemetry.worker import WorkerMeters
from router.work import ticket
from router.work.context import Context

if TYPE_CHECKING:
    from engines.traces.sdk import Traces

# Time after the drain for running webhooks and for the writes that hand units back.
_LAST_S = 5.0
_BEAT_S = 2.0


class TaskLoop:
    """An event loop in a thread, started when the first task arrives.

    Args:
        make_context: builds what the tasks work with, on the loop on which it will be used.
        drain_s: what still runs so long after `drain` is handed back.
    """

    def __init__(self, make_context: Callable[[], Awaitable[Context]], *, drain_s: float) -> None:
        self._make_context = make_context
        self._drain_s = drain_s
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._context: Context | None = None

    def run(self, task: Any, *args: str) -> None:
        """Run ``task(context, *args)`` to its end from a Celery thread."""
        loop = self._start()
        assert self._context is not None
        coroutine: Coroutine[Any, Any, None] = task(self._context, *args)
        asyncio.run_coroutine_threadsafe(coroutine, loop).result()

    def beat(self, on_beat: Callable[[], None]) -> None:
        """Call ``on_beat`` every few seconds, on the loop, so that a loop that is blocked stops beating."""

        def run() -> None:
            while True:
                loop = self._loop
                if loop is None:  # no task has come yet
                    on_beat()
                else:
                    loop.call_soon_threadsafe(on_beat)
                time.sleep(_BEAT_S)

        threading.Thread(target=run, name="beat", daemon=True).start()

    def drain(self) -> None:
        """Begin to end: Celery takes no more messages and waits for its threads; this bounds how long that takes."""
        timer = threading.Timer(self._drain_s, self._hand_back)
        timer.daemon = True
        timer.start()

    def _hand_back(self) -> None:
        with self._lock:
            if self._loop is not None and self._context is not None:
                self._loop.call_soon_threadsafe(self._context.hand_back)

    def stop(self) -> None:
        """Stop the loop; tasks still on it are lost here and run again elsewhere when their lease ends.

        Webhooks under way get a moment: what was posted and not recorded would be posted again.
        """
        if self._loop is None or self._context is None:
            return
        draining = asyncio.run_coroutine_threadsafe(self._context.deliverer.drain(_LAST_S), self._loop)
        with contextlib.suppress(Exception):  # the process ends; an expired lease recovers the rest
            draining.result(_LAST_S + 1)
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _start(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                loop = asyncio.new_event_loop()
                threading.Thread(target=loop.run_forever, name="tasks", daemon=True).start()
                self._context = asyncio.run_coroutine_threadsafe(self._build(), loop).result()
                self._loop = loop
            return self._loop

    async def _build(self) -> Context:
        return await self._make_context()


def create_worker(
    settings: Settings, *, on_beat: Callable[[], None] | None = None, traces: Traces | None = None
) -> Celery:
    """Build the Celery application of a worker, with its tasks registered.

    Args:
        settings: of this process.
        on_beat: called every two seconds for as long as the worker can run tasks; must not block.
        traces: of this process; None keeps none.

    Raises:
        OSError: if its metrics cannot be shown where the settings say.
    """
    app = create_celery(settings)
    app.conf.update(broker_channel_error_retry=True, worker_consumer=PatientConsumer)
    loop = TaskLoop(lambda: make_context(settings, traces), drain_s=settings.drain_s)
    meters = WorkerMeters()
    _register(app, loop, meters)
    if settings.worker_metrics is not None:
        meters.serve(settings.worker_metrics)
    sender = make_sender(create_celery(settings))
    end_s = settings.drain_s + 2 * _LAST_S
    worker_ready.connect(
        lambda **given: watch_consumer(app, sender, given["sender"], loop.drain, end_s=end_s), weak=False
    )
    if on_beat is not None:
        loop.beat(on_beat)
    return app


def log_redis_in_one_line(record: logging.LogRecord) -> bool:
    """Make a warning of one line from what celery and kombu log, with a traceback, of a redis that was away.

    It is no bug, and nothing is lost: a ticket that could not be acknowledged comes again and finds nothing.
    """
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, RedisConnectionError | RedisTimeoutError | OperationalError | OSError):
        record.msg, record.args = f"{record.getMessage()}: {error}", ()
        record.exc_info = record.exc_text = None
        record.levelno, record.levelname = logging.WARNING, "WARNING"
    return True


def _keep_logging(**_: Any) -> None:
    """Be there: celery sets up a log of its own unless somebody takes this signal."""


def _register(app: Celery, loop: TaskLoop, meters: WorkerMeters) -> None:
    @app.task(name=WORK)
    def work(queue: str) -> None:
        with meters.ticket(queue):
            loop.run(ticket.work, queue)

    setup_logging.connect(_keep_logging)
    worker_shutting_down.connect(lambda **_: loop.drain(), weak=False)
    for signal in (worker_shutdown, worker_process_shutdown):
        signal.connect(lambda **_: loop.stop(), weak=False)

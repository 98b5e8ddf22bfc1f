"""The worker process: Celery on Redis, running light tasks that talk to engine servers.

In: messages with job ids. Out: calls of `router.tasks`. The tasks are coroutines that run on one event loop per
process, in a thread of its own; Celery's threads only wait for them. No torch here, ever.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from celery import Celery
from celery.signals import worker_process_shutdown, worker_shutdown

from router import tasks
from router.bootstrap import make_context
from router.jobs.queue import DELIVER_WEBHOOK, JOIN, RUN_BRANCH, create_celery
from router.settings import Settings


class TaskLoop:
    """An event loop in a thread, started when the first task arrives.

    Args:
        make_context: builds what the tasks work with, on the loop on which it will be used.
    """

    def __init__(self, make_context: Callable[[], Awaitable[tasks.Context]]) -> None:
        self._make_context = make_context
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._context: tasks.Context | None = None

    def run(self, task: Any, *args: str) -> None:
        """Run ``task(context, *args)`` to its end from a Celery thread."""
        loop = self._start()
        assert self._context is not None
        coroutine: Coroutine[Any, Any, None] = task(self._context, *args)
        asyncio.run_coroutine_threadsafe(coroutine, loop).result()

    def stop(self) -> None:
        """Stop the loop; tasks still on it are lost here and run again elsewhere when their lease ends."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)

    def _start(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                loop = asyncio.new_event_loop()
                threading.Thread(target=loop.run_forever, name="tasks", daemon=True).start()
                self._context = asyncio.run_coroutine_threadsafe(self._build(), loop).result()
                self._loop = loop
            return self._loop

    async def _build(self) -> tasks.Context:
        return await self._make_context()


def create_worker(settings: Settings) -> Celery:
    """Build the Celery application of a worker, with its tasks registered."""
    app = create_celery(settings)
    _register(app, TaskLoop(lambda: make_context(settings)))
    return app


def _register(app: Celery, loop: TaskLoop) -> None:
    @app.task(name=RUN_BRANCH)
    def run_branch(job_id: str, unit: str) -> None:
        loop.run(tasks.run_branch, job_id, unit)

    @app.task(name=JOIN)
    def join(job_id: str) -> None:
        loop.run(tasks.join, job_id)

    @app.task(name=DELIVER_WEBHOOK)
    def deliver_webhook(job_id: str) -> None:
        loop.run(tasks.deliver_webhook, job_id)

    for signal in (worker_shutdown, worker_process_shutdown):
        signal.connect(lambda **_: loop.stop(), weak=False)

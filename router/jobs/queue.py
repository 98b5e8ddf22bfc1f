"""Sending work to the workers: Celery is the transport, the job record the truth.

In: the name of a queue. Out: one small message in it, a **ticket**: there is work. Which work, the worker asks the
record, so that nobody's turn depends on when whose message was sent. A ticket too many finds nothing and ends; one that
was lost is noticed, because the record knows how many units wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from celery import Celery
from celery.app.amqp import AMQP
from kombu import Connection, Exchange, Queue
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from router.errors import QueueUnavailableError
from router.jobs.broker import to_broker
from router.jobs.job import Job
from router.jobs.schedule import queue_of
from router.leftovers import Leftovers
from router.redis import queue_unavailable, while_heard
from router.redis_watch import RedisWatch
from router.settings import Settings

log = logging.getLogger(__name__)

# One queue per engine, for tasks that wait for that engine; one for merges that call no engine; one for webhooks.
QUEUE_GLM: Final = "glowl.glm"
QUEUE_OWL2: Final = "glowl.owl2"
QUEUE_LIGHT: Final = "glowl.light"
# Not in the job record: due deliveries have queues of their own (`router.webhooks`).
WEBHOOKS: Final = "webhooks"
QUEUE_WEBHOOKS: Final = f"glowl.{WEBHOOKS}"
QUEUES: Final = (QUEUE_GLM, QUEUE_OWL2, QUEUE_LIGHT, QUEUE_WEBHOOKS)

WORK: Final = "glowl.work"

_MAX_SENDS_AT_ONCE = 4
# A client or the reaper waits for this send; kombu's defaults are 4 s per connection, with pauses of 2 s.
_CONNECT_OPTIONS: Final = {
    "max_retries": 2,
    "interval_start": 0.1,
    "interval_step": 0.2,
    "interval_max": 0.5,
    "connect_retries_timeout": 1.0,
    # Without it a thread that sends waits as long as redis is silent.
    "socket_timeout": 3.0,
    "retry_on_timeout": False,
}


class _Connection(Connection):
    """Kombu's, which looks for a redis that was away every two seconds at most, not every thirty."""

    def _ensure_connection(self, *args: Any, **options: Any) -> Any:
        options |= {"interval_start": 0.2, "interval_step": 0.2, "interval_max": 2.0}
        return super()._ensure_connection(*args, **options)


class _Amqp(AMQP):
    Connection = _Connection


def create_celery(settings: Settings) -> Celery:
    """Build the Celery application that sends, and that a worker adds its tasks to."""
    broker = to_broker(settings.redis_url)
    app = Celery("glowl", broker=broker.url, amqp=_Amqp)
    app.conf.update(
        broker_use_ssl=broker.ssl,
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_create_missing_queues=False,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_send_task_events=False,
        worker_enable_remote_control=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        # How long redis keeps the tickets of workers that were killed. Recovery is the record's business, and a ticket
        # that comes again, be it that of a run that goes on, finds nothing: this need not exceed the longest run.
        broker_transport_options={
            "visibility_timeout": 3600,
            "global_keyprefix": "glowl:celery:",
            "socket_connect_timeout": 5,
            # Of an acknowledgement on a connection that died without a word. The wait for the next ticket ends every
            # second, and is found to be dead after this interval.
            "socket_timeout": 10.0,
            "health_check_interval": 5,
            "retry_on_timeout": True,
            **broker.options,
        },
        task_publish_retry_policy={"max_retries": 2, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.5},
        # Spelled out, since queues that share an exchange and a key would each get every message.
        task_queues=[Queue(name, Exchange(name), routing_key=name) for name in QUEUES],
        task_default_queue=QUEUE_LIGHT,
        worker_concurrency=settings.worker_concurrency,
    )
    return app


def make_sender(celery: Celery) -> Celery:
    """Let an application only send and count from now on: its connections give up soon."""
    celery.conf.broker_transport_options = {**celery.conf.broker_transport_options, **_CONNECT_OPTIONS}
    return celery


def count_tickets(celery: Celery, queues: Sequence[str]) -> list[int]:
    """Return how many messages wait in each queue; blocks."""
    with celery.connection_for_read() as connection:
        channel: Any = connection.default_channel
        # Not passively: to redis a queue without a message is none, which would be an error.
        return [int(channel.queue_declare(queue=queue).message_count) for queue in queues]


def queue_name(short: str) -> str:
    """Return the queue that ``glm``, ``owl2``, ``light`` or ``webhooks`` stands for."""
    return f"glowl.{short}"


class JobQueue:
    """Sends tickets from asyncio code.

    Args:
        celery: the application of `create_celery`; it only sends from now on.
        watch: knows whether redis answers; while it does not nothing is sent, and a send is not waited for.
    """

    def __init__(self, celery: Celery, *, watch: RedisWatch | None = None) -> None:
        self._celery = celery
        self._watch = watch
        self._sends = Leftovers()
        make_sender(celery)
        # Sending blocks, so it runs in threads; a small number keeps the broker's connection pool small too.
        self._slots = asyncio.Semaphore(_MAX_SENDS_AT_ONCE)

    async def send_branches(self, job: Job, *, but: str = "") -> None:
        """Send a ticket for every branch of a new job, but for one that is under way already."""
        await self.send_tickets(Counter(queue_of(branch.engine) for branch in job.spec.branches if branch.name != but))

    async def send_tickets(self, numbers: Mapping[str, int]) -> None:
        """Send tickets; a failure is logged only, because what waits without one is noticed.

        A send that is under way when redis falls silent goes on, for some ten seconds with its retries, without us.

        Args:
            numbers: how many by queue: ``glm``, ``owl2``, ``light`` or ``webhooks``.
        """
        tickets = [queue for queue, number in numbers.items() for _ in range(number)]
        sends = [self._sends.add(self._send(WORK, [queue], queue_name(queue))) for queue in tickets]
        with contextlib.suppress(QueueUnavailableError):
            async with while_heard(self._watch):
                await asyncio.shield(asyncio.gather(*sends))

    async def send(self, job: Job, unit: str) -> None:
        """Send a ticket for a branch, or the merge, of a job that has just been queued."""
        log.debug("a ticket for %s of %s", unit, job.id)
        await self.send_tickets({job.queue_of(unit): 1})

    async def num_waiting(self, queue: str) -> int:
        """Return how many messages wait in a queue.

        Raises:
            QueueUnavailableError: if redis does not answer.
        """
        async with self._slots:
            if self._is_silent:
                raise queue_unavailable()
            try:
                return sum(await asyncio.to_thread(count_tickets, self._celery, [queue_name(queue)]))
            except (OperationalError, RedisError, OSError, AttributeError) as error:
                raise queue_unavailable() from error

    @property
    def _is_silent(self) -> bool:
        return self._watch is not None and self._watch.is_silent

    async def _send(self, name: str, args: list[str], queue: str) -> None:
        async with self._slots:
            if self._is_silent:
                log.debug("redis is silent: %s of %s is sent when it is missed", name, args)
                return
            try:
                await asyncio.to_thread(self._celery.send_task, name, args=args, queue=queue, ignore_result=True)
            except (OperationalError, RedisError, OSError, AttributeError) as error:
                # The last is what kombu raises for a channel whose connection was lost between two commands.
                log.warning("could not send %s of %s now: %s", name, args, error)

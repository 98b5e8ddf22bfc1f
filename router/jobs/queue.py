"""Sending work to the workers: Celery is the transport, the job record the truth.

In: a job id and a unit. Out: one small message in the unit's queue. A message that is lost or arrives twice does no
harm: the record sends it again after a while, and only one run can claim the unit.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final
from urllib.parse import urlsplit

from celery import Celery
from kombu import Exchange, Queue
from kombu.exceptions import OperationalError

from router.jobs.job import MERGE, WEBHOOK, Job
from router.settings import Settings

log = logging.getLogger(__name__)

# Owl2's branches take long: on a queue of their own, no draft or merge waits behind them.
QUEUE_GLM: Final = "glowl.glm"
QUEUE_OWL2: Final = "glowl.owl2"
QUEUE_LIGHT: Final = "glowl.light"
QUEUES: Final = (QUEUE_GLM, QUEUE_OWL2, QUEUE_LIGHT)

RUN_BRANCH: Final = "glowl.run_branch"
JOIN: Final = "glowl.join"
DELIVER_WEBHOOK: Final = "glowl.deliver_webhook"

_MAX_SENDS_AT_ONCE = 4


def create_celery(settings: Settings) -> Celery:
    """Build the Celery application that sends, and that a worker adds its tasks to."""
    app = Celery("glowl", broker=to_broker_url(settings.redis_url))
    app.conf.update(
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
        # Longer than any job: recovery is the record's business, and a redelivery of a running job would do no good.
        broker_transport_options={
            "visibility_timeout": 24 * 3600,
            "global_keyprefix": "glowl:celery:",
            "socket_connect_timeout": 5,
            "retry_on_timeout": True,
        },
        task_publish_retry_policy={"max_retries": 2, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.5},
        # Spelled out, since queues that share an exchange and a key would each get every message.
        task_queues=[Queue(name, Exchange(name), routing_key=name) for name in QUEUES],
        task_default_queue=QUEUES[-1],
        worker_concurrency=settings.worker_concurrency,
    )
    return app


def to_broker_url(redis_url: str) -> str:
    """Rewrite ``unix:///path?db=0``, which redis-py reads, to the form that kombu reads."""
    parts = urlsplit(redis_url)
    if parts.scheme != "unix":
        return redis_url
    db = next((pair[3:] for pair in parts.query.split("&") if pair.startswith("db=")), "0")
    return f"redis+socket://{parts.path}?virtual_host={db}"


def queue_name(short: str) -> str:
    """Return the queue that ``glm``, ``owl2`` or ``light`` stands for."""
    return f"glowl.{short}"


class JobQueue:
    """Puts units of jobs into Celery queues from asyncio code.

    Args:
        celery: the application of `create_celery`.
    """

    def __init__(self, celery: Celery) -> None:
        self._celery = celery
        # Sending blocks, so it runs in threads; a small number keeps the broker's connection pool small too.
        self._slots = asyncio.Semaphore(_MAX_SENDS_AT_ONCE)

    async def send_branches(self, job: Job) -> None:
        """Send every branch of a new job."""
        await asyncio.gather(*(self.send(job.id, branch.name, branch.engine) for branch in job.spec.branches))

    async def send(self, job_id: str, unit: str, engine: str | None = None) -> None:
        """Send one unit; a failure is logged only, because the record sends it again.

        Args:
            job_id: whose unit.
            unit: a branch name, ``merge`` or ``webhook``.
            engine: of a branch; decides the queue.
        """
        if unit == MERGE:
            name, args, queue = JOIN, [job_id], QUEUE_LIGHT
        elif unit == WEBHOOK:
            name, args, queue = DELIVER_WEBHOOK, [job_id], QUEUE_LIGHT
        else:
            name, args, queue = RUN_BRANCH, [job_id, unit], QUEUE_OWL2 if engine == "owl2" else QUEUE_GLM
        async with self._slots:
            try:
                await asyncio.to_thread(self._celery.send_task, name, args=args, queue=queue, ignore_result=True)
            except (OperationalError, OSError) as error:
                log.warning("could not send %s of %s now: %s", unit, job_id, error)

"""A bare Celery worker to compare with: the product's own Celery settings, a task that sleeps, no record of anything.

Run by `jobs_throughput` as ``python -m benchmarks.jobs_bare_celery READY_FILE``.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import redis
from celery import Celery
from celery.signals import worker_ready
from kombu import Exchange, Queue

from router.jobs.queue import create_celery
from router.settings import Settings

QUEUE = "bare"
TASK = "bare.sleep"
DONE = "bare:done"


def create_bare(settings: Settings) -> Celery:
    """Return an application with one queue and one task, which notes when it ran."""
    app = create_celery(settings)
    app.conf.update(task_queues=[Queue(QUEUE, Exchange(QUEUE), routing_key=QUEUE)], task_default_queue=QUEUE)
    client = redis.Redis.from_url(settings.redis_url)

    @app.task(name=TASK)
    def sleep(service_s: float) -> None:
        begun = time.time()
        time.sleep(service_s)
        client.rpush(DONE, f"{begun} {time.time()}")

    return app


def main(ready_file: Path) -> None:
    """Work until SIGTERM."""
    settings = Settings()
    worker_ready.connect(lambda **_: ready_file.touch(), weak=False)
    options = ["--pool=threads", f"--concurrency={settings.worker_concurrency}", f"--queues={QUEUE}"]
    create_bare(settings).worker_main(
        ["worker", *options, "--loglevel=WARNING", "--without-gossip", "--without-mingle"]
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))

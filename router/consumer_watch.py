"""Whether a worker's consumer takes tickets, and what is done when it does not.

In: how many tickets wait, and how many were taken, every few seconds. Out: a consumer that connects anew; then, if that
did not help, the end of the process with status 1, so that its supervisor starts another. Celery's consumer has stopped
in silence after a redis was reset, more than once and each time in another place: the process lives, answers and takes
nothing.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from celery import Celery
from celery.worker import state
from kombu.exceptions import OperationalError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from router.jobs.queue import count_tickets

log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 5.0
# Longer than the consumer takes to find out by itself that its connection is dead.
PATIENCE_S: Final = 20.0


class ConsumerWatch:
    """Decides from looks; knows nothing of Celery.

    Args:
        num_waiting: how many tickets wait; None if redis does not say.
        num_taken: how many this worker has ever taken.
        has_room: whether it would take another.
        reconnect: makes the consumer connect anew.
        give_up: ends the process.
        patience_s: how long tickets may wait while none is taken, before each of the two.
    """

    def __init__(
        self,
        num_waiting: Callable[[], int | None],
        num_taken: Callable[[], int],
        has_room: Callable[[], bool],
        reconnect: Callable[[], None],
        give_up: Callable[[], None],
        *,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._num_waiting, self._num_taken, self._has_room = num_waiting, num_taken, has_room
        self._reconnect, self._give_up = reconnect, give_up
        self._patience_s = patience_s
        self._taken = num_taken()
        self._idle_since: float | None = None
        self._has_reconnected = False

    def look(self, now: float) -> None:
        """Look once; ``now`` is in seconds of any clock that only goes forward."""
        waiting = self._num_waiting()
        before, self._taken = self._taken, self._num_taken()
        if self._taken != before or waiting == 0:
            self._has_reconnected = False
        if self._taken != before or not waiting or not self._has_room():
            self._idle_since = None
            return
        if self._idle_since is None:
            self._idle_since = now
        if now - self._idle_since < self._patience_s:
            return
        idle_s, self._idle_since = now - self._idle_since, now
        if self._has_reconnected:
            log.critical("no ticket was taken after connecting anew either: this worker ends, to be started again")
            self._give_up()
        else:
            log.error("%d tickets wait, and none was taken for %.0f s: connecting to redis anew", waiting, idle_s)
            self._has_reconnected = True
            self._reconnect()


def watch_consumer(app: Celery, sender: Celery, consumer: Any, drain: Callable[[], None], *, end_s: float) -> None:
    """Watch the consumer of a Celery worker from a thread, for as long as the process lives.

    Args:
        app: of the worker.
        sender: an application for looks, whose connections give up soon.
        consumer: Celery's, as ``worker_ready`` sends it.
        drain: begins to hand back what runs.
        end_s: the process ends so long after `drain` even if Celery hangs.
    """
    queues = sorted(app.amqp.queues.consume_from)

    def num_waiting() -> int | None:
        try:
            return sum(count_tickets(sender, queues))
        except (OperationalError, RedisError, OSError, AttributeError):
            return None  # a redis that is away is no fault of the consumer

    def give_up() -> None:
        timer = threading.Timer(end_s, os._exit, [1])
        timer.daemon = True
        timer.start()
        drain()
        state.should_stop = 1  # type: ignore[assignment]

    watch = ConsumerWatch(
        num_waiting,
        num_taken=lambda: state.all_total_count[0],
        has_room=lambda: len(state.reserved_requests) < app.conf.worker_concurrency,
        reconnect=lambda: consumer.call_soon(_hang_up),
        give_up=give_up,
    )

    def run() -> None:
        while not state.should_stop:
            time.sleep(LOOK_EVERY_S)
            watch.look(time.monotonic())

    threading.Thread(target=run, name="consumer-watch", daemon=True).start()


def _hang_up() -> None:
    """Called in the consumer's loop: it treats this like any lost connection, and starts again from the beginning."""
    raise RedisConnectionError("the consumer was silent")

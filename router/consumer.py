"""Celery's consumer, which waits for a redis that refuses writes as it does for one that is away.

In: errors of the connection that takes tickets. Out: a pause, then a consumer that connects anew.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any, Final

from celery.worker import state
from celery.worker.consumer import Consumer
from redis.exceptions import ResponseError

# Celery connects anew at once: redis answers, and would refuse a hundred times a second.
PAUSE_S: Final = 2.0
_LOOK_EVERY_S: Final = 0.1


class PatientConsumer(Consumer):
    """Waits while redis answers with an error: too few replicas, no memory, a replica after a failover.

    Needs ``broker_channel_error_retry``: without it Celery ends the worker.
    """

    def ensure_connected(self, conn: Any) -> Any:
        """Connect, and keep the connection within reach of `connect`."""
        self._connecting = conn
        return super().ensure_connected(conn)

    def connect(self) -> Any:
        """Connect, and write a first time; close the connection if redis refuses: Celery forgets it."""
        try:
            return super().connect()
        except ResponseError:
            with contextlib.suppress(ResponseError):  # the clean-up is refused too
                self._connecting.close()
            raise

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """Say why there is no connection; after a refusal wait before the next attempt."""
        super().on_connection_error_before_connected(exc)
        _pause_after(exc)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Hang up; after a refusal wait before the next attempt."""
        super().on_connection_error_after_connected(exc)
        _pause_after(exc)


def _pause_after(error: Exception) -> None:
    if not isinstance(error, ResponseError):
        return
    until = time.monotonic() + PAUSE_S
    while time.monotonic() < until and not (state.should_stop or state.should_terminate):
        time.sleep(_LOOK_EVERY_S)

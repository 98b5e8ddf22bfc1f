"""The api's HTTP server, and how it ends: not ready first, then no new connections, then what still runs.

In: the application. Out: a process that a load balancer can take away without one refused request: on SIGTERM
``/readyz`` says 503 while everything is still answered, then nothing new is accepted, and streams have a bounded time
to end. A second signal skips the first step.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType

import uvicorn
from fastapi import FastAPI

from router.services import Services
from router.settings import Settings


class ApiServer(uvicorn.Server):
    """Uvicorn with a notice before it stops.

    Args:
        app: the application of `router.app.create_app`.
        settings: where to listen and how long to drain.
    """

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        config = uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            log_level=settings.log_level.lower(),
            # 0 would mean: for ever.
            timeout_graceful_shutdown=max(1, round(settings.drain_s)),
        )
        super().__init__(config)
        self._services: Services = app.state.services
        self._notice_s = settings.drain_notice_s

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Give notice; stop when that is over, at a second signal, or at once for who sits at the keyboard."""
        if self._services.draining.is_set() or sig == signal.SIGINT:
            super().handle_exit(sig, frame)
            return
        self._services.draining.set()
        timer = threading.Timer(self._notice_s, super().handle_exit, (sig, frame))
        timer.daemon = True
        timer.start()

"""The api's HTTP server, and how it ends: not ready first, then no new connections, then what still runs.

In: the application. Out: a process that a load balancer can take away without one refused request: on SIGTERM
``/readyz`` says 503 while everything is still answered, then nothing new is accepted, and streams have a bounded time
to end: what is not answered by then is broken off with a 503. A second signal skips the first step.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import resource
import signal
import socket
import threading
from types import FrameType
from typing import Final, cast

import uvicorn
from fastapi import FastAPI

from engines.http.notify import notify
from router.connections import BoundedProtocol, Connections
from router.leftovers import end_tasks
from router.services import Services
from router.settings import Settings

# Files that the process needs beside connections: redis, engines, logs, pictures being fetched.
_OTHER_FILES: Final = 256
_WRITE_TIMEOUT_S: Final = 60.0
# After the time to drain: for requests that are broken off to be answered. Within `STOP_MARGIN_S` of supervisors.
_BREAK_OFF_S: Final = 2
_CANCEL_AGAIN_S: Final = 0.5

log = logging.getLogger(__name__)


class ApiServer(uvicorn.Server):
    """Uvicorn with a notice before it stops.

    Args:
        app: the application of `router.app.create_app`.
        settings: where to listen and how long to drain.
    """

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        limits = Connections(
            max_connections=_room_for(settings.max_connections),
            head_timeout_s=settings.head_timeout_s,
            write_timeout_s=_WRITE_TIMEOUT_S,
        )
        config = uvicorn.Config(
            app,
            http=cast(type[asyncio.Protocol], functools.partial(BoundedProtocol, limits)),
            ws="none",
            host=settings.host,
            port=settings.port,
            # The log is the process's (`engines.logs`); accesses are written at their end (`router.middleware.ids`).
            log_config=None,
            access_log=False,
            # Who is trusted to say where a request comes from is decided once, by GLOWL_TRUSTED_PROXIES.
            proxy_headers=False,
            # Uvicorn's own end of requests, by which they get a bare 500: only for what `_break_off` does not end.
            timeout_graceful_shutdown=math.ceil(settings.drain_s) + _BREAK_OFF_S,
        )
        super().__init__(config)
        self._services: Services = app.state.services
        self._notice_s = settings.drain_notice_s
        self._drain_s = settings.drain_s
        self._ui_port = settings.ui_port

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen on the page's port too; if somebody else does already, the page is at the api's port only."""
        await super().startup(sockets)
        if self.started:
            notify("READY=1")
        if not self._ui_port or self._ui_port == self.config.port:
            return
        parts = {"config": self.config, "server_state": self.server_state, "app_state": self.lifespan.state}
        protocol = functools.partial(self.config.http_protocol_class, **parts)
        try:
            server = await asyncio.get_running_loop().create_server(
                protocol, self.config.host, self._ui_port, backlog=self.config.backlog
            )
        except OSError as error:
            log.warning("the page has no port of its own: %s", error)
        else:
            self.servers.append(server)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let what runs end, or break it off when its time is over; then end the application."""
        self._services.draining.set()
        breaking_off = asyncio.create_task(self._break_off(), name="break off requests")
        try:
            await super().shutdown(sockets)
        finally:
            await end_tasks(breaking_off)

    async def _break_off(self) -> None:
        """Cancel the requests that run on after the time to drain; `EndingAnswered` then answers for them."""
        await asyncio.sleep(self._drain_s)
        if tasks := self.server_state.tasks:
            log.warning("not ended within %g s, so broken off: %d requests", self._drain_s, len(tasks))
        while tasks := set(self.server_state.tasks):
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=_CANCEL_AGAIN_S)  # redis-py can swallow one cancel

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Give notice; stop when that is over, at a second signal, or at once for who sits at the keyboard."""
        if self._services.draining.is_set() or sig == signal.SIGINT:
            super().handle_exit(sig, frame)
            return
        self._services.draining.set()
        timer = threading.Timer(self._notice_s, super().handle_exit, (sig, frame))
        timer.daemon = True
        timer.start()


def _room_for(max_connections: int) -> int:
    """Return how many connections the system allows, after asking it for all that are wanted.

    A connection is an open file. A process at its limit of files accepts no connection, not even to refuse it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max_connections + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return max_connections
    room = max(soft - _OTHER_FILES, soft // 2)
    log.warning("this process may have %d files open: at most %d connections are accepted", soft, room)
    return room

"""What one worker measures of itself: the tickets that it works off.

In: tickets, from Celery's threads. Out: ``/metrics`` on an address of its own, for whoever wants to see each worker;
what became of jobs is counted by the apis.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import time
from collections.abc import Iterator
from typing import Final

from prometheus_client import start_http_server

from engines.http.address import url_host
from engines.metrics import OTHER, SECONDS, Family, Registry

_QUEUES: Final = frozenset({"glm", "owl2", "light", "webhooks"})
# Workers of one machine have one environment, and each needs a port of its own.
_NUM_PORTS: Final = 16

log = logging.getLogger(__name__)

TICKETS: Final = Family(
    "glowl_worker_tickets_total",
    "counter",
    "Tickets that this worker worked off, by queue and whether it raised an `error`.",
    ("queue", "outcome"),
)
TICKET_TIME: Final = Family(
    "glowl_worker_ticket_seconds", "histogram", "How long this worker was busy with a ticket.", ("queue",), SECONDS
)
TICKETS_RUNNING: Final = Family(
    "glowl_worker_tickets_running", "gauge", "Tickets that this worker is busy with.", ("queue",)
)
WORKER: Final = (TICKETS, TICKET_TIME, TICKETS_RUNNING)


class WorkerMeters:
    """Counts a worker's tickets; its methods may be called from any thread."""

    def __init__(self) -> None:
        self.registry = Registry(WORKER)

    @contextlib.contextmanager
    def ticket(self, queue: str) -> Iterator[None]:
        """Count and time what the block does for a ticket."""
        queue = queue if queue in _QUEUES else OTHER
        running = self.registry.gauge(TICKETS_RUNNING).labels(queue)
        began, outcome = time.perf_counter(), "error"
        running.inc()
        try:
            yield
            outcome = "done"
        finally:
            running.dec()
            self.registry.counter(TICKETS).labels(queue, outcome).inc()
            self.registry.histogram(TICKET_TIME).labels(queue).observe(time.perf_counter() - began)

    def serve(self, address: tuple[str, int]) -> int:
        """Show them on a thread for as long as the process lives; returns the port.

        Args:
            address: host and port, or one of the ports after it if that is taken; 0 for any that is free.

        Raises:
            OSError: if the address is not this machine's, or all of these ports are taken.
        """
        host, first = address
        last = min(first + _NUM_PORTS, 0x10000) - 1 if first else 0
        for port in range(first, last + 1):
            try:
                server, _ = start_http_server(port, host, registry=self.registry.prometheus)
            except OSError as error:
                if error.errno != errno.EADDRINUSE or port == last:
                    raise
            else:
                log.info("metrics of this worker: %s", f"http://{url_host(host)}:{server.server_port}/metrics")
                return int(server.server_port)
        raise AssertionError("the last port returns or raises")

"""Starts the product's processes by fork from one that has imported them: most of a start is imports, 1 to 2 s of CPU.

In: the command line, variables and log of a process, as for `subprocess.Popen`. Out: a `Forked`, which is used like a
`Popen`. What it runs is a process of its own in every other way: it can be killed, stopped, and drained.

    python -m tests.support.fork_server DESCRIPTOR    (the other end of a `ForkServer`, which starts it)
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from queue import Queue
from typing import Any

ROOT = Path(__file__).parents[2]
# What can be forked, and what these import when they start. None starts a thread or opens a file by being imported.
MODULES = ("router.cli", "tests.support.echo_server")
PRELOADED = (
    *("router.cli.main", "router.cli.processes", "router.app", "router.serve", "router.worker"),
    *("tests.support.echo_server", "engines.http.server"),
    *("uvicorn.lifespan.on", "uvicorn.loops.auto", "uvicorn.protocols.http.auto", "uvicorn.protocols.websockets.auto"),
    *("celery.apps.worker", "celery.bin.celery", "celery.concurrency.thread", "celery.worker.consumer"),
    *("kombu.transport.redis", "celery.app.log", "celery.app.events", "celery.app.amqp", "celery.loaders.app"),
)


class Forked:
    """A process, as far as tests use `subprocess.Popen`.

    Attributes:
        pid: of the process.
        returncode: as `Popen` has it; None while it runs.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self.ended = threading.Event()

    def poll(self) -> int | None:
        """Return the exit status, or None while it runs."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end.

        Raises:
            subprocess.TimeoutExpired: if it runs for longer.
        """
        if not self.ended.wait(timeout):
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)


class ForkServer:
    """The process that is forked, started when it is first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._began: Queue[Forked] = Queue()
        self._children: dict[int, Forked] = {}
        self._socket: socket.socket | None = None

    def start(self, argv: Sequence[str], log: Path, env: Mapping[str, str]) -> Forked | None:
        """Start a process; None if it is none of `MODULES`."""
        if argv[0] != sys.executable or argv[1] != "-m" or argv[2] not in MODULES:
            return None
        order = {"module": argv[2], "arguments": list(argv[3:]), "log": str(log), "env": dict(env), "cwd": os.getcwd()}
        with self._lock:
            if self._socket is None:
                self._listen()
            assert self._socket is not None
            self._socket.sendall(json.dumps(order).encode() + b"\n")
            return self._began.get(timeout=300)

    def stop(self) -> None:
        """End it, and what it started and nobody ended."""
        if self._socket is not None:
            self._socket.shutdown(socket.SHUT_RDWR)
            self._reader.join(300)
            self._process.wait(300)
            self._socket.close()

    def _listen(self) -> None:
        self._socket, theirs = socket.socketpair()
        argv = [sys.executable, "-m", "tests.support.fork_server", str(theirs.fileno())]
        self._process = subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
        theirs.close()
        self._reader = threading.Thread(target=self._read, args=(self._socket,), daemon=True)
        self._reader.start()

    def _read(self, told: socket.socket) -> None:
        with told.makefile("rb") as lines:
            for line in lines:
                news: dict[str, int] = json.loads(line)
                if "code" not in news:
                    child = self._children[news["pid"]] = Forked(news["pid"])
                    self._began.put(child)
                    continue
                child = self._children.pop(news["pid"])
                child.returncode = news["code"]
                child.ended.set()


def serve(orders: socket.socket) -> dict[str, Any] | None:
    """Fork for each order, and tell of the end of each child; returns the order in a child, None at the end."""
    selector = selectors.DefaultSelector()
    selector.register(orders, selectors.EVENT_READ)
    pids: dict[int, int] = {}
    waiting = b""
    while True:
        for key, _ in selector.select():
            if key.fileobj is not orders:
                selector.unregister(key.fd)
                os.close(key.fd)
                pid, status = os.waitpid(pids.pop(key.fd), 0)
                tell(orders, pid=pid, code=os.waitstatus_to_exitcode(status))
                continue
            received = orders.recv(1 << 16)
            if not received:
                for pid in pids.values():
                    os.kill(pid, signal.SIGKILL)
                return None
            *lines, waiting = (waiting + received).split(b"\n")
            for line in lines:
                pid = os.fork()
                if pid == 0:
                    selector.close()
                    for descriptor in (*pids, orders.detach()):
                        os.close(descriptor)
                    order: dict[str, Any] = json.loads(line)
                    return order
                tell(orders, pid=pid)
                descriptor = os.pidfd_open(pid)
                pids[descriptor] = pid
                selector.register(descriptor, selectors.EVENT_READ)


def tell(orders: socket.socket, **news: int) -> None:
    """Write a line; whoever has left is not told."""
    with contextlib.suppress(BrokenPipeError):
        orders.sendall(json.dumps(news).encode() + b"\n")


def become(order: Mapping[str, Any]) -> None:
    """Be the process that is wanted, until it ends."""
    log = os.open(order["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    os.environ.clear()
    os.environ.update(order["env"])
    os.chdir(order["cwd"])
    sys.argv[1:] = order["arguments"]
    runpy.run_module(order["module"], run_name="__main__", alter_sys=True)


def main() -> None:
    """Import everything, then serve until the other end is closed."""
    orders = socket.socket(fileno=int(sys.argv[1]))
    for name in PRELOADED:
        importlib.import_module(name)
    assert threading.active_count() == 1
    gc.freeze()  # children then do not copy what they only look through
    order = serve(orders)
    if order is not None:
        become(order)


if __name__ == "__main__":
    main()

"""After a redis that paused, restarted or whose connections died: how long until a worker takes tickets again?

    python -m benchmarks.silent_consumer --pauses 20 --out benchmarks/results/silent_consumer.md   # repository's root

One worker, whose way to redis leads through a proxy; the api reaches redis itself. In turn: redis is stopped (SIGSTOP)
for ``--pause`` seconds; the proxy lets all present connections live and passes nothing on any more (half-open: what a
firewall or a machine that vanished leaves behind); the proxy ends them; redis is killed with -9 and started. After
each, a job is sent; the time is from then to its end.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp

from benchmarks.jobs_common import ended, submit
from benchmarks.printed import describe_machine
from tests.support.servers import wait_until
from tests.support.stack import ProcessStack

HEAD = ("pause", "what happened", "from the next job to its end, s", "the worker's process")

_HOW_TO_READ = """
How to read it. The worker is one process with the shipped settings. "the same" is a process that went on by itself,
"another" one that ended with status 1 and was started again, as a supervisor does. A job whose run hangs on a dead
connection of the worker itself begins again when its lease of 5 s ends; that is in the time.
"""


class Proxy:
    """Passes bytes between a TCP port and a unix socket; on threads of this process."""

    def __init__(self, target: Path) -> None:
        self._target = str(target)
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._deaf: set[socket.socket] = set()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def hang_up(self) -> None:
        """End all connections."""
        for pair in self._pairs:
            for side in pair:
                _shut(side)
        self._pairs.clear()

    def swallow(self) -> None:
        """Pass on nothing more on the connections there are, and keep them open."""
        for pair in self._pairs:
            self._deaf.update(pair)
        self._pairs.clear()

    def _accept(self) -> None:
        while True:
            front, _ = self._listening.accept()
            back = socket.socket(socket.AF_UNIX)
            try:
                back.connect(self._target)
            except OSError:
                front.close()
                continue
            self._pairs.append((front, back))
            for way in ((front, back), (back, front)):
                threading.Thread(target=self._pass_on, args=way, daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                if source not in self._deaf:
                    sink.sendall(data)
        except OSError:
            pass
        if source not in self._deaf:
            for side in (source, sink):
                _shut(side)


def _shut(side: socket.socket) -> None:
    with contextlib.suppress(OSError):
        side.shutdown(socket.SHUT_RDWR)
    side.close()


def pause(stack: ProcessStack, seconds: float) -> None:
    """Stop redis for a while."""
    child = stack.processes["redis"].child
    child.send_signal(signal.SIGSTOP)
    time.sleep(seconds)
    child.send_signal(signal.SIGCONT)


def restart(stack: ProcessStack) -> None:
    """Kill redis and start it again."""
    stack.kill("redis")
    time.sleep(1.0)
    stack.start("redis")


async def time_a_job(stack: ProcessStack) -> float:
    """Send a job to redis as it is now; returns the seconds to its end."""
    async with aiohttp.ClientSession(trust_env=False) as http:
        while True:
            began = time.monotonic()
            try:
                [sent] = await submit(http, stack.urls[0], 1)
            except RuntimeError:  # the api has not noticed yet that redis is back
                await asyncio.sleep(0.2)
                continue
            break
        ending = asyncio.ensure_future(ended(http, stack.urls[0], sent))
        while not (await asyncio.wait([ending], timeout=0.5))[0]:
            _supervise(stack)
        await ending
        return time.monotonic() - began


def _supervise(stack: ProcessStack) -> None:
    """Start the worker again if it has ended, as a supervisor does."""
    if stack.processes["worker0"].child.poll() is not None:
        stack.processes.pop("worker0")
        stack.start("worker0")


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pauses", type=int, default=20)
    parser.add_argument("--pause", type=float, default=8.0, help="of redis, s")
    parser.add_argument("--out", type=Path, metavar="FILE", help="keep the table here too")
    options = parser.parse_args()
    machine, command = describe_machine(), f"python -m benchmarks.silent_consumer --pauses {options.pauses}"
    rows = [f"| {' | '.join(HEAD)} |", f"|{'---|' * len(HEAD)}"]
    print(machine, *rows, sep="\n", flush=True)
    stack = ProcessStack(workers=(None,))
    proxy = Proxy(stack.dir / "redis.sock")
    hurts: list[tuple[str, Callable[[], None]]] = [
        (f"redis was stopped for {options.pause:.0f} s", lambda: pause(stack, options.pause)),
        ("its connections went silent and stay open", proxy.swallow),
        ("its connections were ended", proxy.hang_up),
        ("redis was killed with -9 and started", lambda: restart(stack)),
    ]
    try:
        others = [name for name in stack.names if name != "worker0"]
        stack.start(*others)
        stack.wait_ready(*others)
        stack.env["REDIS_URL"] = f"redis://127.0.0.1:{proxy.port}/0"
        stack.start("worker0")
        wait_until(lambda: stack.is_ready("worker0"), "the worker")
        asyncio.run(time_a_job(stack))
        for number in range(1, options.pauses + 1):
            what, hurt = hurts[(number - 1) % len(hurts)]
            before = stack.processes["worker0"].child.pid
            hurt()
            took_s = asyncio.run(time_a_job(stack))
            process = "the same" if stack.processes["worker0"].child.pid == before else "another"
            rows.append(f"| {number} | {what} | {took_s:.1f} | {process} |")
            print(rows[-1], flush=True)
            if options.out:
                head = "# A worker takes tickets again"
                parts = (head, f"`{command}`", machine, "\n".join(rows), _HOW_TO_READ.strip())
                options.out.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    finally:
        stack.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The supervisor behind `glowl up`: keeps a set of child processes running until it is told to stop.

In: `ProcessSpec`s and a folder for pid and log files. Out: events for whoever draws them, and an exit status. It knows
nothing of redis, engines or HTTP: a spec brings its own command and its own readiness check.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from router.cli.child_process import guarded_argv, kill_group, process_identity, stop_leftovers
from router.cli.log_files import read_tail, rotate_log
from router.cli.supervision import HOPELESS, Event, LivenessPolicy, Probe, ProcessSpec, RestartPolicy, last_words
from router.leftovers import Leftovers, end_tasks

READY_POLL_S = 0.1
STILL_STARTING_EVERY_S = 30.0
LOG_ROTATE_BYTES = 5 * 1024 * 1024
HOUSEKEEPING_EVERY_S = 15.0
# Less room than this is worth a warning: redis refuses work, and children end, when there is none.
LOW_DISK_BYTES = 1024**3


class Supervisor:
    """Starts the children, restarts those that die, and stops them in order.

    Args:
        specs: what to run. Layer 0 first, everything else side by side once that is ready.
        run_dir: pid files; must exist.
        log_dir: ``NAME.log`` per child; must exist.
        on_event: called in the event loop for each `Event`.
        policy: restart decisions.
        liveness: when a child that no longer answers is replaced.
    """

    def __init__(
        self,
        specs: Sequence[ProcessSpec],
        *,
        run_dir: Path,
        log_dir: Path,
        on_event: Callable[[Event], None],
        policy: RestartPolicy | None = None,
        liveness: LivenessPolicy | None = None,
    ) -> None:
        self._children = [
            _Child(spec, pid_path=run_dir / f"{spec.name}.pid", log_path=log_dir / f"{spec.name}.log") for spec in specs
        ]
        self._run_dir = run_dir
        self._log_dir = log_dir
        self._on_event = on_event
        self._policy = policy or RestartPolicy()
        self._liveness = liveness or LivenessPolicy()
        self._stop_asked = asyncio.Event()
        self._kill_asked = asyncio.Event()
        self._exit_code = 0
        self._given_up = Leftovers()

    @property
    def pids(self) -> dict[str, int]:
        """Name to pid of the children that run now."""
        return {child.spec.name: child.process.pid for child in self._children if child.process is not None}

    def request_stop(self) -> None:
        """First call: stop everything in order. Second call: kill what is left. For signal handlers of the loop."""
        if self._stop_asked.is_set():
            if not self._kill_asked.is_set():
                self._on_event(Event("killing"))
            self._kill_asked.set()
        self._stop_asked.set()

    async def run(
        self,
        on_all_ready: Callable[[], Awaitable[None]] | None = None,
        may_go_on: Callable[[], Awaitable[bool]] | None = None,
    ) -> int:
        """Keep the children running until `request_stop`, or until one of them turns out never to come up.

        Args:
            on_all_ready: awaited once, when every child is ready for the first time; cancelled by a stop.
            may_go_on: awaited when layer 0 is ready; False ends everything before the other layers start.

        Returns:
            0 if it was asked to stop; if it gave up 1, or `HOPELESS` if the child said that trying again is no use.
        """
        started = time.monotonic()
        await asyncio.to_thread(stop_leftovers, self._run_dir)
        keepers: list[asyncio.Task[None]] = []
        housekeeper = asyncio.create_task(self._keep_house())
        try:
            first = [child for child in self._children if child.spec.layer == 0]
            others = [child for child in self._children if child.spec.layer != 0]
            for group in (first, others):
                for child in group:
                    keeper = asyncio.create_task(self._keep(child))
                    keeper.add_done_callback(self._on_keeper_done)
                    keepers.append(keeper)
                await self._until_ready_or_stop(group, started)
                if group is first and may_go_on is not None and not self._stop_asked.is_set() and not await may_go_on():
                    self._exit_code = 1
                    self._stop_asked.set()
                    break
            if not self._stop_asked.is_set():
                self._on_event(Event("all_ready", seconds=time.monotonic() - started))
                if on_all_ready is not None:
                    await self._unless_stopped(on_all_ready())
            await self._stop_asked.wait()
        finally:
            self._stop_asked.set()
            housekeeper.cancel()
            await self._stop_all()
            await asyncio.gather(*keepers)
        return self._exit_code

    def _on_keeper_done(self, keeper: asyncio.Task[None]) -> None:
        # A program that cannot be started at all, or a bug of ours: end, and let `run` raise it.
        if not keeper.cancelled() and keeper.exception() is not None:
            self._exit_code = 1
            self._stop_asked.set()

    async def _keep_house(self) -> None:
        """Bound the logs of children that run for months, and warn when the disk gets full."""
        was_low = False
        while True:
            for child in self._children:
                await asyncio.to_thread(rotate_log, child.log_path, LOG_ROTATE_BYTES)
            with contextlib.suppress(OSError):
                free_bytes = shutil.disk_usage(self._log_dir).free
                is_low = free_bytes < LOW_DISK_BYTES
                if is_low and not was_low:
                    self._on_event(Event("disk_low", free_bytes=free_bytes))
                was_low = is_low
            await asyncio.sleep(HOUSEKEEPING_EVERY_S)

    async def _unless_stopped(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        stop = asyncio.create_task(self._stop_asked.wait())
        await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not task.done():
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def _until_ready_or_stop(self, children: Sequence[_Child], started: float) -> None:
        stop: asyncio.Future[Any] = asyncio.create_task(self._stop_asked.wait())
        ready: asyncio.Future[Any] = asyncio.gather(*(child.settled.wait() for child in children))
        try:
            while True:
                done, _ = await asyncio.wait(
                    {stop, ready}, timeout=STILL_STARTING_EVERY_S, return_when=asyncio.FIRST_COMPLETED
                )
                if done:
                    return
                waiting = ", ".join(child.spec.name for child in children if not child.settled.is_set())
                self._on_event(Event("starting", waiting, seconds=time.monotonic() - started))
        finally:
            stop.cancel()
            ready.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await ready

    async def _keep(self, child: _Child) -> None:
        """Run one child again and again until the stop, or until it died too often without ever having been ready."""
        quick_deaths = 0
        while True:
            async with child.lock:
                if self._stop_asked.is_set():
                    return
                begun = time.monotonic()
                try:
                    child.process = await self._spawn(child)
                except OSError as error:
                    if not child.was_ever_ready:
                        raise
                    unstartable = str(error)
                else:
                    unstartable = ""
            exit_code = None if unstartable else await self._watch(child, begun)
            was_ready = child.is_ready
            child.process = None
            child.is_ready = False
            child.pid_path.unlink(missing_ok=True)
            if self._stop_asked.is_set():
                return
            quick_deaths = self._policy.quick_deaths_after(
                quick_deaths, uptime_s=time.monotonic() - begun, was_ready=was_ready
            )
            delay_s = self._policy.delay_s(quick_deaths, was_ever_ready=child.was_ever_ready, exit_code=exit_code)
            tail = read_tail(child.log_path, start=child.log_start)
            event = partial(
                Event,
                name=child.spec.name,
                exit_code=exit_code,
                said=last_words(tail),
                log_path=child.log_path,
                log_tail=tail,
            )
            if delay_s is None:
                self._on_event(event("gave_up"))
                self._exit_code = HOPELESS if exit_code == HOPELESS else 1
                self._stop_asked.set()
                return
            self._on_event(event("died", seconds=delay_s, reason=unstartable))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop_asked.wait(), delay_s)

    async def _watch(self, child: _Child, begun: float) -> int:
        """Wait for a child's end; returns how it ended."""
        assert child.process is not None
        life = _Life(child.process, self._given_up)
        await self._look_after(child, life, begun)
        return await life.end

    async def _look_after(self, child: _Child, life: _Life, begun: float) -> None:
        """Announce when a child is ready; from then on, kill it if it hangs. Returns soon after it ended."""
        while not await life.ask(child.spec.is_ready):
            if life.is_over:
                return
            await life.pause(READY_POLL_S)
        child.is_ready = True
        child.was_ever_ready = True
        self._on_event(Event("ready", child.spec.name, time.monotonic() - begun, log_path=child.log_path))
        child.settled.set()
        if child.spec.is_alive is not None:
            silent_s = await self._until_hung(child.spec.is_alive, life)
            if silent_s is None:
                return
            self._on_event(Event("hung", child.spec.name, silent_s))
            # Not asked to end: a stopped process, or a blocked loop, would not hear it.
            kill_group(life.pid)

    async def _until_hung(self, is_alive: Probe, life: _Life) -> float | None:
        """Return once a child has not answered for too long: the seconds since it last did; None if it has ended."""
        heard = time.monotonic()
        num_failures = 0
        while True:
            asleep = time.monotonic()
            await life.pause(self._liveness.every_s)
            was_late = time.monotonic() - asleep > self._liveness.every_s + self._liveness.late_s
            if await life.ask(is_alive):
                heard, num_failures = time.monotonic(), 0
                continue
            if life.is_over:
                return None
            num_failures = 0 if was_late else num_failures + 1
            if num_failures >= self._liveness.max_failures:
                return time.monotonic() - heard

    async def _spawn(self, child: _Child) -> asyncio.subprocess.Process:
        # The child writes to the file itself, so no pipe of the supervisor can break.
        with child.log_path.open("ab") as log:
            child.log_start = log.tell()
            process = await asyncio.create_subprocess_exec(
                *guarded_argv(child.spec.argv, child.spec.death_signal),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={
                    **{name: value for name, value in os.environ.items() if child.spec.inherits(name)},
                    "PYTHONUNBUFFERED": "1",
                    **child.spec.env,
                },
                # A session of its own: Ctrl-C in the terminal reaches the supervisor only, which stops in order.
                start_new_session=True,
            )
        # It only helps the next supervisor to find orphans: go on if the disk is full.
        with contextlib.suppress(OSError):
            child.pid_path.write_text(f"{process.pid} {process_identity(process.pid)}\n", encoding="utf-8")
        return process

    async def _stop_all(self) -> None:
        self._on_event(Event("stopping"))
        for layer in sorted({child.spec.layer for child in self._children}, reverse=True):
            await asyncio.gather(*(self._stop(child) for child in self._children if child.spec.layer == layer))
        self._on_event(Event("stopped"))

    async def _stop(self, child: _Child) -> None:
        async with child.lock:
            process = child.process
        if process is None or process.returncode is not None:
            return
        if not self._kill_asked.is_set():
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        gone = asyncio.create_task(process.wait())
        kill = asyncio.create_task(self._kill_asked.wait())
        await asyncio.wait({gone, kill}, timeout=child.spec.stop_timeout_s, return_when=asyncio.FIRST_COMPLETED)
        kill.cancel()
        if not gone.done():
            kill_group(process.pid)
        await gone


class _Life:
    """One process of a child, from its start to its end. Its end comes before each look at it.

    A look can outlive the process that it asks: redis-py can swallow a `CancelledError` in mid-command. So no look that
    is given up is waited for, and no look counts once the process has ended: its pid may belong to another by then.
    """

    def __init__(self, process: asyncio.subprocess.Process, given_up: Leftovers) -> None:
        self.pid = process.pid
        self.end = asyncio.create_task(process.wait())
        self._given_up = given_up

    @property
    def is_over(self) -> bool:
        return self.end.done()

    async def ask(self, probe: Probe) -> bool:
        """Look; False as soon as the process has ended."""
        look = asyncio.ensure_future(probe(self.pid))
        await asyncio.wait({self.end, look}, return_when=asyncio.FIRST_COMPLETED)
        if not self.is_over:
            return look.result()
        self._given_up.add(end_tasks(look))
        return False

    async def pause(self, seconds: float) -> None:
        """Sleep, but not beyond the end of the process."""
        await asyncio.wait({self.end}, timeout=seconds)


class _Child:
    """A spec and what is known about its present run."""

    def __init__(self, spec: ProcessSpec, *, pid_path: Path, log_path: Path) -> None:
        self.spec = spec
        self.pid_path = pid_path
        self.log_path = log_path
        self.process: asyncio.subprocess.Process | None = None
        # Size of the log when this run began: earlier lines belong to earlier runs.
        self.log_start = 0
        self.is_ready = False
        self.was_ever_ready = False
        # Ready for the first time.
        self.settled = asyncio.Event()
        # Held while spawning, so that a stop cannot miss a child that is just being born.
        self.lock = asyncio.Lock()

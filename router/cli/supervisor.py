"""The supervisor behind `glowl up`: keeps a set of child processes running until it is told to stop.

In: `ProcessSpec`s and a folder for pid and log files. Out: events for whoever draws them, and an exit status. It knows
nothing of redis, engines or HTTP: a spec brings its own command and its own readiness check.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

_IS_LINUX = platform.system() == "Linux"

READY_POLL_S = 0.1
STILL_STARTING_EVERY_S = 30.0
LOG_TAIL_LINES = 6
LOG_ROTATE_BYTES = 5 * 1024 * 1024
HOUSEKEEPING_EVERY_S = 15.0
# Less room than this is worth a warning: redis refuses work, and children end, when there is none.
LOW_DISK_BYTES = 1024**3

# Runs before the child's own program, inside the same process: ask the kernel for a signal when the supervisor dies,
# then become the program. Without it a `kill -9` of the supervisor would leave engines holding GPU memory.
# A fork hook cannot do this: it is unsafe beside threads, and Python 3.12 warns about it.
_PR_SET_PDEATHSIG = 1
_GUARD = (
    "import ctypes,os,sys\n"
    f"ctypes.CDLL(None).prctl({_PR_SET_PDEATHSIG},int(sys.argv[1]))\n"
    "if os.getppid()!=int(sys.argv[2]): sys.exit(1)\n"
    "os.execv(sys.argv[3],sys.argv[3:])\n"
)


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """One child to keep running.

    Attributes:
        name: shown to the user; also names the log and pid files.
        argv: absolute program, then its arguments.
        is_ready: given the child's pid, whether it can do its work now; must not raise.
        is_alive: asked again and again once the child is ready; it may fail for a while, see `LivenessPolicy`; must not
            raise. None: only the end of the process counts.
        env: variables added to the supervisor's own.
        inherits: whether a variable of the supervisor's own is passed on, by its name.
        layer: 0 must be ready before all others start; stopping goes from the highest layer down.
        stop_timeout_s: time between SIGTERM and SIGKILL.
        death_signal: what the kernel sends the child if the supervisor is killed (Linux).
    """

    name: str
    argv: tuple[str, ...]
    is_ready: Callable[[int], Awaitable[bool]]
    is_alive: Callable[[int], Awaitable[bool]] | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    inherits: Callable[[str], bool] = lambda _name: True
    layer: int = 1
    stop_timeout_s: float = 8.0
    death_signal: signal.Signals = signal.SIGKILL


EventKind = Literal[
    "ready", "starting", "hung", "died", "gave_up", "all_ready", "disk_low", "stopping", "stopped", "killing"
]


@dataclass(frozen=True, slots=True)
class Event:
    """Something worth a line on the screen.

    Attributes:
        kind: what happened.
        name: which process; comma-separated when several; empty when it is about all of them.
        seconds: how long it took (ready, starting) or did not answer (hung), or until it is started again (died).
        exit_code: as in `subprocess`; negative is a signal.
        reason: why it has no exit code: it could not be started (died).
        free_bytes: what is left on the disk of the logs (disk_low).
        log_path: where its output is.
        log_tail: the last lines of it.
    """

    kind: EventKind
    name: str = ""
    seconds: float = 0.0
    exit_code: int | None = None
    reason: str = ""
    free_bytes: int = 0
    log_path: Path | None = None
    log_tail: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """When a dead child is started again.

    Attributes:
        max_quick_deaths: a child that has never been ready is given up on at the n-th quick death in a row. One that
            has been ready is started again for ever: what ended it, such as a full disk, may pass.
        quick_death_s: a run shorter than this, or one that was never ready, is a quick death.
        first_delay_s: wait after the first quick death; doubles with each further one.
        max_delay_s: upper bound of the wait.
    """

    max_quick_deaths: int = 4
    quick_death_s: float = 10.0
    first_delay_s: float = 0.5
    max_delay_s: float = 60.0

    def quick_deaths_after(self, quick_deaths: int, *, uptime_s: float, was_ready: bool) -> int:
        """The new count of quick deaths in a row, given the run that just ended."""
        return 0 if was_ready and uptime_s >= self.quick_death_s else quick_deaths + 1

    def delay_s(self, quick_deaths: int, *, was_ever_ready: bool) -> float | None:
        """How long to wait before the next start; None means give up."""
        if quick_deaths >= self.max_quick_deaths and not was_ever_ready:
            return None
        return min(self.max_delay_s, self.first_delay_s * 2.0 ** min(max(0, quick_deaths - 1), 30))


@dataclass(frozen=True, slots=True)
class LivenessPolicy:
    """When a child that runs, but does nothing, is replaced.

    Attributes:
        every_s: between two looks at a child.
        max_failures: looks in a row that find it dead; the last one ends it. With what a look itself may take, this is
            a minute in which a machine that is merely busy answers many times.
        late_s: a look that comes later than that does not count: then the whole machine stood still.
    """

    every_s: float = 5.0
    max_failures: int = 6
    late_s: float = 5.0


def guarded_argv(argv: Sequence[str], death_signal: signal.Signals) -> list[str]:
    """The command that runs ``argv`` and ends with this process; on other systems than Linux ``argv`` as it is."""
    if not _IS_LINUX:
        return list(argv)
    return [sys.executable, "-I", "-S", "-c", _GUARD, str(int(death_signal)), str(os.getpid()), *argv]


def process_identity(pid: int) -> str | None:
    """What tells a process from a later one with the same pid: its start time; None if there is no such process."""
    if _IS_LINUX:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None
        # Fields after the parenthesised name, which may itself hold spaces: state is field 3, start time field 22.
        fields = stat.rpartition(")")[2].split()
        return None if fields[0] == "Z" else fields[19]
    listed = subprocess.run(  # noqa: S603
        ["/bin/ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return listed.stdout.strip() or None


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
        self._failed = False

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

    async def run(self, on_all_ready: Callable[[], Awaitable[None]] | None = None) -> int:
        """Keep the children running until `request_stop`, or until one of them turns out never to come up.

        Args:
            on_all_ready: awaited once, when every child is ready for the first time; cancelled by a stop.

        Returns:
            0 if it was asked to stop, 1 if it gave up.
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
        return 1 if self._failed else 0

    def _on_keeper_done(self, keeper: asyncio.Task[None]) -> None:
        # A program that cannot be started at all, or a bug of ours: end, and let `run` raise it.
        if not keeper.cancelled() and keeper.exception() is not None:
            self._failed = True
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
            delay_s = self._policy.delay_s(quick_deaths, was_ever_ready=child.was_ever_ready)
            tail = read_tail(child.log_path, start=child.log_start)
            if delay_s is None:
                self._on_event(
                    Event("gave_up", child.spec.name, exit_code=exit_code, log_path=child.log_path, log_tail=tail)
                )
                self._failed = True
                self._stop_asked.set()
                return
            self._on_event(
                Event("died", child.spec.name, delay_s, exit_code, unstartable, log_path=child.log_path, log_tail=tail)
            )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop_asked.wait(), delay_s)

    async def _watch(self, child: _Child, begun: float) -> int:
        """Wait for a child's end; returns how it ended."""
        assert child.process is not None
        watcher = asyncio.create_task(self._look_after(child, child.process.pid, begun))
        exit_code = await child.process.wait()
        watcher.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watcher
        return exit_code

    async def _look_after(self, child: _Child, pid: int, begun: float) -> None:
        """Announce when a child is ready; from then on, kill it if it hangs."""
        # Another process is asked: it can set no event of ours.
        while not await child.spec.is_ready(pid):  # noqa: ASYNC110
            await asyncio.sleep(READY_POLL_S)
        child.is_ready = True
        child.was_ever_ready = True
        self._on_event(Event("ready", child.spec.name, time.monotonic() - begun, log_path=child.log_path))
        child.settled.set()
        if child.spec.is_alive is not None:
            silent_s = await self._until_hung(child.spec.is_alive, pid)
            self._on_event(Event("hung", child.spec.name, silent_s))
            # Not asked to end: a stopped process, or a blocked loop, would not hear it.
            _kill_group(pid)

    async def _until_hung(self, is_alive: Callable[[int], Awaitable[bool]], pid: int) -> float:
        """Return once a child has not answered for too long: the seconds since it last did."""
        heard = time.monotonic()
        num_failures = 0
        while True:
            asleep = time.monotonic()
            await asyncio.sleep(self._liveness.every_s)
            was_late = time.monotonic() - asleep > self._liveness.every_s + self._liveness.late_s
            if await is_alive(pid):
                heard, num_failures = time.monotonic(), 0
                continue
            num_failures = 0 if was_late else num_failures + 1
            if num_failures >= self._liveness.max_failures:
                return time.monotonic() - heard

    async def _spawn(self, child: _Child) -> asyncio.subprocess.Process:
        # The child writes to the file itself: no pump of ours whose end could break it.
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
        # It only helps the next supervisor to find what this one leaves behind: no reason to end if the disk is full.
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
            _kill_group(process.pid)
        await gone


class _Child:
    """A spec and what is known about its present run."""

    def __init__(self, spec: ProcessSpec, *, pid_path: Path, log_path: Path) -> None:
        self.spec = spec
        self.pid_path = pid_path
        self.log_path = log_path
        self.process: asyncio.subprocess.Process | None = None
        # Size of the log when the present run began: what is before that was said by others.
        self.log_start = 0
        self.is_ready = False
        self.was_ever_ready = False
        # Ready for the first time.
        self.settled = asyncio.Event()
        # Held while spawning, so that a stop cannot miss a child that is just being born.
        self.lock = asyncio.Lock()


def _kill_group(pid: int) -> None:
    # The group, for helpers the child may have started; it leads one because it has its own session.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def read_tail(path: Path, num_lines: int = LOG_TAIL_LINES, *, start: int = 0) -> tuple[str, ...]:
    """The last non-empty lines of a log file, from byte `start` on; empty if it cannot be read.

    A file that is shorter than `start` has been emptied since: then all of it counts.
    """
    try:
        with path.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(start if start <= end else 0, end - 8192))
            text = log.read().decode("utf-8", errors="replace")
    except OSError:
        return ()
    return tuple(line.rstrip() for line in text.splitlines() if line.strip())[-num_lines:]


def rotate_log(path: Path, limit_bytes: int) -> None:
    """Keep the end of a log that has grown too large as ``NAME.log.1``, over an older one, and empty the log.

    Its child goes on writing to the same open file, at its end, wherever that is: what it writes between the copy and
    the cut is lost. On a disk without room for the copy the log is emptied all the same.
    """
    with contextlib.suppress(OSError), path.open("r+b") as log:
        size = log.seek(0, os.SEEK_END)
        if size <= limit_bytes:
            return
        with contextlib.suppress(OSError), path.with_name(path.name + ".1").open("wb") as kept:
            log.seek(size - limit_bytes)
            shutil.copyfileobj(log, kept)
        log.truncate(0)


def stop_leftovers(run_dir: Path, timeout_s: float = 5.0) -> list[int]:
    """Stop children of an earlier supervisor that was killed, going by their pid files.

    Where the kernel cannot end children with their parent (not Linux), this is what frees their ports and memory.

    Returns:
        The pids that had to be stopped.
    """
    stopped: list[int] = []
    for pid_path in sorted(run_dir.glob("*.pid")):
        pid_text, _, identity = pid_path.read_text(encoding="utf-8").strip().partition(" ")
        if pid_text.isdigit() and identity and process_identity(int(pid_text)) == identity:
            pid = int(pid_text)
            stopped.append(pid)
            _terminate(pid, identity, timeout_s)
        pid_path.unlink(missing_ok=True)
    return stopped


def _terminate(pid: int, identity: str, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
        while process_identity(pid) == identity:
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                return
            time.sleep(0.05)

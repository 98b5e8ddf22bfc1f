"""The supervisor against small real child processes: order, restarts, giving up, stopping, dying."""

import asyncio
import contextlib
import dataclasses
import os
import re
import signal
import subprocess
import sys
from collections import namedtuple
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from router.cli.child_process import process_identity, stop_leftovers
from router.cli.log_files import read_tail, rotate_log
from router.cli.supervision import HOPELESS, TRY_AGAIN, Event, LivenessPolicy, ProcessSpec, RestartPolicy
from router.cli.supervisor import Supervisor

WAIT_S = 30.0
Usage = namedtuple("Usage", "total used free")
# Each child writes its pid once it is ready; argv[1] is that file, argv[2] the shared journal.
STEADY = "import os,signal,sys;open(sys.argv[1],'w').write(str(os.getpid()));signal.pause()"
NOTES_ITS_STOP = """
import os, signal, sys
def stop(*_):
    open(sys.argv[2], "a").write(sys.argv[3] + "\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
open(sys.argv[2], "a").write("+" + sys.argv[3] + "\\n")
open(sys.argv[1], "w").write(str(os.getpid()))
while True:
    signal.pause()
"""
DEAF = """
import os, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open(sys.argv[1], "w").write(str(os.getpid()))
while True:
    signal.pause()
"""
NEEDS_ROOM = """
import os, signal, sys
if os.path.exists(os.path.join(os.path.dirname(sys.argv[1]), "full")):
    sys.exit("no room")
open(sys.argv[1], "w").write(str(os.getpid()))
signal.pause()
"""
TALKATIVE = """
import os, sys, time
open(sys.argv[1], "w").write(str(os.getpid()))
number = 0
while True:
    print("line", number, flush=True)
    number += 1
    if number % 50 == 0:
        time.sleep(0.001)
"""
BROKEN = "import sys;print('the reason');sys.exit(3)"
NEVER_READY = "import signal;signal.pause()"

IMPATIENT = RestartPolicy(max_quick_deaths=3, first_delay_s=0.01, max_delay_s=0.01)


class Watched:
    """Remembers events, and lets a test wait for one."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._changed = asyncio.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        self._changed.set()

    def of(self, kind: str, name: str = "") -> list[Event]:
        return [event for event in self.events if event.kind == kind and (not name or event.name == name)]

    async def until(self, kind: str, name: str = "", *, times: int = 1) -> Event:
        async with asyncio.timeout(WAIT_S):
            while len(self.of(kind, name)) < times:
                self._changed.clear()
                await self._changed.wait()
        return self.of(kind, name)[-1]


def child(tmp_path: Path, name: str, code: str, **options: object) -> ProcessSpec:
    marker = tmp_path / f"{name}.ready"

    async def is_ready(pid: int) -> bool:
        return marker.exists() and marker.read_text() == str(pid)

    argv = (sys.executable, "-I", "-S", "-c", code, str(marker), str(tmp_path / "journal"), name)
    return ProcessSpec(name, argv, is_ready, **options)  # type: ignore[arg-type]


@pytest.fixture
def watched() -> Watched:
    return Watched()


@pytest.fixture
async def supervise(tmp_path: Path, watched: Watched) -> AsyncIterator[Callable[..., Supervisor]]:
    """Make supervisors that are stopped, whatever the test does."""
    made: list[Supervisor] = []

    def make(
        *specs: ProcessSpec, policy: RestartPolicy = IMPATIENT, liveness: LivenessPolicy | None = None
    ) -> Supervisor:
        supervisor = Supervisor(
            specs, run_dir=tmp_path, log_dir=tmp_path, on_event=watched, policy=policy, liveness=liveness
        )
        made.append(supervisor)
        return supervisor

    yield make
    for supervisor in made:
        for pid in supervisor.pids.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


async def test_layer_zero_is_ready_before_the_others_start_and_stops_last(tmp_path, watched, supervise):
    # Given a child in each layer, listed in another order than they must start in
    layers = {"api": 3, "redis": 0, "worker": 2, "glm": 1}
    supervisor = supervise(*(child(tmp_path, name, NOTES_ITS_STOP, layer=layer) for name, layer in layers.items()))
    # When all are ready and a stop is asked for
    run = asyncio.create_task(supervisor.run())
    await watched.until("all_ready")
    supervisor.request_stop()
    # Then the end is a success, redis came first, and the stop went down the layers
    assert await run == 0
    journal = (tmp_path / "journal").read_text().split()
    assert journal[0] == "+redis"
    assert journal[4:] == ["api", "worker", "glm", "redis"]


async def test_a_child_gets_no_variable_that_is_withheld(tmp_path, watched, supervise, monkeypatch):
    monkeypatch.setenv("KEY_OF_OTHERS", "geheim")
    monkeypatch.setenv("OF_ALL", "yes")
    says = "import os;print(sorted({'KEY_OF_OTHERS','OF_ALL','OWN'} & set(os.environ)),flush=True);" + STEADY
    spec = child(tmp_path, "glm", says, inherits=lambda name: name != "KEY_OF_OTHERS", env={"OWN": "1"})
    supervisor = supervise(spec)
    run = asyncio.create_task(supervisor.run())
    await watched.until("all_ready")
    assert (tmp_path / "glm.log").read_text() == "['OF_ALL', 'OWN']\n"
    supervisor.request_stop()
    assert await run == 0


async def test_a_child_that_dies_is_started_again(tmp_path, watched, supervise):
    # Given a running child
    supervisor = supervise(child(tmp_path, "glm", STEADY))
    run = asyncio.create_task(supervisor.run())
    await watched.until("ready", "glm")
    first = supervisor.pids["glm"]
    # When somebody kills it
    os.kill(first, signal.SIGKILL)
    # Then it is reported with its signal, and a new one becomes ready
    died = await watched.until("died", "glm")
    assert died.exit_code == -signal.SIGKILL
    await watched.until("ready", "glm", times=2)
    assert supervisor.pids["glm"] != first
    supervisor.request_stop()
    assert await run == 0


async def test_a_child_that_never_comes_up_ends_everything_with_its_last_words(tmp_path, watched, supervise):
    # Given one good child and one that cannot run
    supervisor = supervise(child(tmp_path, "api", STEADY), child(tmp_path, "glm", BROKEN))
    # When they are run
    async with asyncio.timeout(WAIT_S):
        code = await supervisor.run()
    # Then it was tried as often as the policy says, and the log's end is in the event
    assert code == 1
    assert len(watched.of("died", "glm")) == IMPATIENT.max_quick_deaths - 1
    (gave_up,) = watched.of("gave_up")
    assert (gave_up.name, gave_up.exit_code) == ("glm", 3)
    assert gave_up.log_tail[-1] == "the reason"
    assert not watched.of("all_ready")
    assert supervisor.pids == {}


async def test_a_child_that_says_that_waiting_is_no_use_is_not_tried_again(tmp_path, watched, supervise):
    code = f"import sys;print('noise');print('error: no such model');sys.exit({HOPELESS})"
    supervisor = supervise(child(tmp_path, "api", STEADY), child(tmp_path, "glm", code))
    async with asyncio.timeout(WAIT_S):
        assert await supervisor.run() == HOPELESS
    assert not watched.of("died", "glm")
    (gave_up,) = watched.of("gave_up")
    assert (gave_up.name, gave_up.exit_code, gave_up.said) == ("glm", HOPELESS, "no such model")


async def test_a_child_that_says_that_waiting_helps_is_tried_until_it_comes_up(tmp_path, watched, supervise):
    # Given a child that finds nothing there at first
    code = f"""
import os, signal, sys
if not os.path.exists(os.path.join(os.path.dirname(sys.argv[1]), "hub")):
    print("error: the hub is away")
    sys.exit({TRY_AGAIN})
open(sys.argv[1], "w").write(str(os.getpid()))
signal.pause()
"""
    supervisor = supervise(child(tmp_path, "glm", code))
    run = asyncio.create_task(supervisor.run())
    # When it has been tried more often than any other would be
    died = await watched.until("died", "glm", times=2 * IMPATIENT.max_quick_deaths)
    assert (died.exit_code, died.said) == (TRY_AGAIN, "the hub is away")
    # Then it comes up as soon as it can
    (tmp_path / "hub").touch()
    await watched.until("ready", "glm")
    supervisor.request_stop()
    assert await run == 0


async def test_only_what_the_child_itself_wrote_is_quoted(tmp_path, watched, supervise):
    # Given the log of an earlier run, and a child that says one thing each time, and one that says nothing
    for name in ("glm", "api"):
        (tmp_path / f"{name}.log").write_text("an old fault\n")
    supervisor = supervise(child(tmp_path, "glm", BROKEN), child(tmp_path, "api", "raise SystemExit(3)"))
    # When they are run
    async with asyncio.timeout(WAIT_S):
        await supervisor.run()
    # Then nothing is quoted of what others said before
    told = [*watched.of("died"), *watched.of("gave_up")]
    assert {event.log_tail for event in told if event.name == "glm"} == {("the reason",)}
    assert {event.log_tail for event in told if event.name == "api"} <= {()}
    assert {event.name for event in told} == {"glm", "api"}


async def test_a_child_that_was_ready_once_is_started_again_for_ever(tmp_path, watched, supervise):
    # Given a child that can run only while the disk has room, and one that is always fine
    supervisor = supervise(child(tmp_path, "api", STEADY), child(tmp_path, "redis", NEEDS_ROOM))
    run = asyncio.create_task(supervisor.run())
    await watched.until("all_ready")
    # When the disk is full, for longer than a child that never came up would be tried
    (tmp_path / "full").touch()
    os.kill(supervisor.pids["redis"], signal.SIGKILL)
    died = await watched.until("died", "redis", times=2 * IMPATIENT.max_quick_deaths)
    assert died.log_tail[-1] == "no room"
    # Then nothing is given up, and it is back once there is room
    assert "api" in supervisor.pids
    (tmp_path / "full").unlink()
    await watched.until("ready", "redis", times=2)
    assert not watched.of("gave_up")
    supervisor.request_stop()
    assert await run == 0


async def test_a_child_that_cannot_be_started_again_for_a_while_ends_nothing(tmp_path, watched, supervise, monkeypatch):
    # Given two running children, and a system that lends no more processes
    supervisor = supervise(child(tmp_path, "api", STEADY), child(tmp_path, "glm", STEADY))
    run = asyncio.create_task(supervisor.run())
    await watched.until("all_ready")
    spawn = asyncio.create_subprocess_exec

    async def refused(*_arguments: object, **_options: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", refused)
    # When one dies, then it is tried again until it can be started
    os.kill(supervisor.pids["glm"], signal.SIGKILL)
    died = await watched.until("died", "glm", times=3)
    assert "temporarily unavailable" in died.reason
    monkeypatch.setattr(asyncio, "create_subprocess_exec", spawn)
    await watched.until("ready", "glm", times=2)
    supervisor.request_stop()
    assert await run == 0


async def test_a_pid_file_that_finds_no_room_ends_nothing(tmp_path, watched, supervise, monkeypatch):
    def full(*_arguments: object, **_options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    supervisor = supervise(child(tmp_path, "api", STEADY))
    run = asyncio.create_task(supervisor.run())
    await watched.until("all_ready")
    supervisor.request_stop()
    assert await run == 0


EAGER = LivenessPolicy(every_s=0.001, max_failures=3, late_s=WAIT_S)


class Pulse:
    """Whether a child is alive, as its probe finds it: what `says` holds, then its last entry for ever."""

    def __init__(self, *says: bool) -> None:
        self.says = list(says)
        self.num_looks = 0
        self.looked = asyncio.Event()

    async def __call__(self, _pid: int) -> bool:
        self.num_looks += 1
        self.looked.set()
        return self.says.pop(0) if len(self.says) > 1 else self.says[0]

    async def until(self, num_looks: int) -> None:
        async with asyncio.timeout(WAIT_S):
            while self.num_looks < num_looks:
                self.looked.clear()
                await self.looked.wait()


async def test_a_child_that_hangs_after_it_was_ready_is_replaced(tmp_path, watched, supervise):
    # Given a child that is stopped, as a debugger or a full terminal does it: it neither ends nor hears a SIGTERM
    marker = tmp_path / "glm.ready"

    async def is_alive(pid: int) -> bool:
        return state_of(pid) != "T"

    spec = dataclasses.replace(child(tmp_path, "glm", STEADY), is_alive=is_alive)
    supervisor = supervise(spec, child(tmp_path, "api", STEADY), liveness=EAGER)
    run = asyncio.create_task(supervisor.run())
    await watched.until("all_ready")
    first = int(marker.read_text())
    # When it has not answered as often as the policy says
    os.kill(first, signal.SIGSTOP)
    # Then it is killed and a new one becomes ready, while the other one runs on
    await watched.until("hung", "glm")
    assert (await watched.until("died", "glm")).exit_code == -signal.SIGKILL
    await watched.until("ready", "glm", times=2)
    assert supervisor.pids["glm"] != first
    assert not watched.of("died", "api")
    supervisor.request_stop()
    assert await run == 0


class DeafLook:
    """A look at a process that has no answer for it, and that goes on although it is cancelled."""

    def __init__(self, *, num_swallowed: int) -> None:
        self.num_swallowed = num_swallowed
        self.pid: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.let_go = asyncio.Event()

    async def __call__(self, pid: int) -> bool:
        if self.pid.done():
            return pid != self.pid.result()
        self.pid.set_result(pid)
        for _ in range(self.num_swallowed):
            with contextlib.suppress(asyncio.CancelledError):
                await self.let_go.wait()
        return False


@pytest.mark.parametrize("num_swallowed", [1, 1000])
@pytest.mark.parametrize("kind", ["is_ready", "is_alive"])
async def test_an_end_is_seen_although_a_look_goes_on(tmp_path, watched, supervise, monkeypatch, kind, num_swallowed):
    # Given a look at a child that is under way, and that swallows a cancellation as redis-py can, or all of them
    killed: list[int] = []
    monkeypatch.setattr("router.cli.supervisor.kill_group", killed.append)
    look = DeafLook(num_swallowed=num_swallowed)
    supervisor = supervise(dataclasses.replace(child(tmp_path, "redis", STEADY), **{kind: look}), liveness=EAGER)
    run = asyncio.create_task(supervisor.run())
    pid = await asyncio.wait_for(look.pid, WAIT_S)
    # When the child ends
    os.kill(pid, signal.SIGKILL)
    # Then that is seen, and the next one is started while the old look may still be under way
    assert (await watched.until("died", "redis")).exit_code == -signal.SIGKILL
    await watched.until("ready", "redis", times=1 if kind == "is_ready" else 2)
    assert supervisor.pids["redis"] != pid
    # And the process that has ended is neither called hung nor sent a signal
    assert not watched.of("hung")
    assert killed == []
    look.let_go.set()
    supervisor.request_stop()
    assert await run == 0


def state_of(pid: int) -> str:
    listed = subprocess.run(["ps", "-o", "state=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return listed.stdout.strip()[:1]


async def test_a_child_that_answers_now_and_then_is_left_alone(tmp_path, watched, supervise):
    # Given a busy child: of three looks two find nothing, again and again
    pulse = Pulse(*[False, False, True] * 20, True)
    supervisor = supervise(dataclasses.replace(child(tmp_path, "api", STEADY), is_alive=pulse), liveness=EAGER)
    run = asyncio.create_task(supervisor.run())
    await pulse.until(60)
    assert not watched.of("hung")
    supervisor.request_stop()
    assert await run == 0


async def test_looks_of_a_machine_that_stood_still_do_not_count(tmp_path, watched, supervise):
    # Given a supervisor that always wakes later than it wanted, as all processes of a machine out of memory do
    pulse = Pulse(False)
    stalled = LivenessPolicy(every_s=0.001, max_failures=3, late_s=-1.0)
    supervisor = supervise(dataclasses.replace(child(tmp_path, "api", STEADY), is_alive=pulse), liveness=stalled)
    run = asyncio.create_task(supervisor.run())
    await pulse.until(20)
    assert not watched.of("hung")
    supervisor.request_stop()
    assert await run == 0


async def test_a_stop_while_still_starting_ends_cleanly(tmp_path, watched, supervise, monkeypatch):
    # Given a layer-0 child that is never ready, one that waits for it, and the notice that this takes long
    monkeypatch.setattr("router.cli.supervisor.STILL_STARTING_EVERY_S", 0.05)
    supervisor = supervise(child(tmp_path, "redis", NEVER_READY, layer=0), child(tmp_path, "api", STEADY))
    run = asyncio.create_task(supervisor.run())
    await watched.until("starting")
    # When the stop comes, then nothing else is started and the end is a success
    supervisor.request_stop()
    async with asyncio.timeout(WAIT_S):
        assert await run == 0
    assert not (tmp_path / "api.log").exists()


async def test_a_deaf_child_is_killed_after_its_time(tmp_path, watched, supervise):
    supervisor = supervise(child(tmp_path, "worker", DEAF, stop_timeout_s=0.05))
    run = asyncio.create_task(supervisor.run())
    await watched.until("all_ready")
    supervisor.request_stop()
    async with asyncio.timeout(WAIT_S):
        assert await run == 0


async def test_a_second_stop_kills_at_once(tmp_path, watched, supervise):
    # Given a deaf child with an hour to end in
    supervisor = supervise(child(tmp_path, "worker", DEAF, stop_timeout_s=3600))
    run = asyncio.create_task(supervisor.run())
    await watched.until("all_ready")
    # When the stop is asked for twice
    supervisor.request_stop()
    await watched.until("stopping")
    supervisor.request_stop()
    # Then nobody waits that hour
    async with asyncio.timeout(WAIT_S):
        assert await run == 0
    assert watched.of("killing")


async def test_what_runs_once_all_is_ready_is_cancelled_by_a_stop(tmp_path, watched, supervise):
    supervisor = supervise(child(tmp_path, "api", STEADY))
    begun = asyncio.Event()

    async def forever() -> None:
        begun.set()
        await asyncio.Event().wait()

    run = asyncio.create_task(supervisor.run(forever))
    async with asyncio.timeout(WAIT_S):
        await begun.wait()
        supervisor.request_stop()
        assert await run == 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux ends children with their parent")
def test_killing_the_supervisor_leaves_no_child_behind(tmp_path):
    # Given a supervisor in a process of its own, whose child holds a pipe open
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    script = f"""
import asyncio, sys
from pathlib import Path
from router.cli.supervision import ProcessSpec
from router.cli.supervisor import Supervisor
async def is_ready(pid): return True
code = "import os,signal;f=open({str(pipe)!r},'w');print(os.getpid(),file=f,flush=True);signal.pause()"
spec = ProcessSpec("glm", (sys.executable, "-I", "-S", "-c", code), is_ready)
here = Path({str(tmp_path)!r})
asyncio.run(Supervisor([spec], run_dir=here, log_dir=here, on_event=lambda event: None).run())
"""
    with subprocess.Popen([sys.executable, "-c", script]) as parent, pipe.open() as held:
        assert held.readline().strip().isdigit()
        # When the supervisor is killed without a chance to stop anything
        parent.kill()
        # Then the child's end of the pipe closes: it is gone
        assert held.read() == ""


@pytest.mark.parametrize("is_ours", [True, False], ids=["same process", "pid taken by another"])
def test_a_leftover_is_stopped_only_if_it_is_the_process_of_the_pid_file(tmp_path, is_ours):
    # Given a pid file as a killed supervisor leaves it
    leftover = subprocess.Popen([sys.executable, "-I", "-S", "-c", "import signal;signal.pause()"])
    try:
        identity = process_identity(leftover.pid)
        (tmp_path / "glm.pid").write_text(f"{leftover.pid} {identity if is_ours else '1'}\n")
        # When the next supervisor cleans up
        stopped = stop_leftovers(tmp_path)
        # Then only a process that is really ours was touched, and the file is gone
        assert stopped == ([leftover.pid] if is_ours else [])
        if is_ours:
            assert leftover.wait(WAIT_S) == -signal.SIGTERM
        else:
            assert leftover.poll() is None
        assert not (tmp_path / "glm.pid").exists()
    finally:
        leftover.kill()
        leftover.wait()


def test_a_pid_file_of_a_process_that_is_gone_is_just_removed(tmp_path):
    gone = subprocess.Popen([sys.executable, "-I", "-S", "-c", ""])
    gone.wait()
    (tmp_path / "glm.pid").write_text(f"{gone.pid} 12345\n")
    (tmp_path / "owl2.pid").write_text("nonsense\n")
    assert stop_leftovers(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("uptime_s", "was_ready", "expected"),
    [(1.0, True, 3), (9.9, True, 3), (10.0, True, 0), (3600.0, True, 0), (3600.0, False, 3)],
)
def test_only_a_run_that_was_ready_and_long_forgives_earlier_quick_deaths(uptime_s, was_ready, expected):
    assert RestartPolicy().quick_deaths_after(2, uptime_s=uptime_s, was_ready=was_ready) == expected


def test_the_wait_doubles_up_to_its_bound_and_only_what_never_came_up_is_given_up_on():
    policy = RestartPolicy(max_quick_deaths=6, first_delay_s=1.0, max_delay_s=5.0)
    waits = [1.0, 1.0, 2.0, 4.0, 5.0, 5.0]
    assert [policy.delay_s(count, was_ever_ready=False) for count in range(7)] == [*waits, None]
    assert [policy.delay_s(count, was_ever_ready=True) for count in range(7)] == [*waits, 5.0]
    assert policy.delay_s(1_000_000, was_ever_ready=True) == 5.0
    assert policy.delay_s(100, was_ever_ready=False, exit_code=TRY_AGAIN) == 5.0
    assert policy.delay_s(1, was_ever_ready=False, exit_code=HOPELESS) is None
    assert policy.delay_s(1, was_ever_ready=True, exit_code=HOPELESS) == 1.0


def test_the_tail_of_a_log_is_its_last_lines_that_say_something(tmp_path):
    log = tmp_path / "a.log"
    log.write_bytes(b"x" * 20_000 + b"\none\n\ntwo \nthr\xff\n\n")
    assert read_tail(log, 3) == ("one", "two", "thr\ufffd")
    assert read_tail(tmp_path / "none.log") == ()


def test_the_tail_of_a_log_begins_where_it_is_told_unless_the_log_was_emptied(tmp_path):
    log = tmp_path / "a.log"
    log.write_bytes(b"before\n")
    assert read_tail(log, start=7) == ()
    log.write_bytes(b"before\nafter\n")
    assert read_tail(log, start=7) == ("after",)
    assert read_tail(log, start=100) == ("before", "after")


def test_of_a_log_that_grew_too_large_the_end_is_kept(tmp_path):
    log = tmp_path / "a.log"
    log.write_text("0123456789")
    rotate_log(log, 10)
    assert log.read_text() == "0123456789"
    rotate_log(log, 4)
    assert log.read_text() == ""
    assert (tmp_path / "a.log.1").read_text() == "6789"
    rotate_log(tmp_path / "none.log", 4)


def test_a_log_without_room_for_its_end_is_emptied_all_the_same(tmp_path):
    log = tmp_path / "a.log"
    log.write_text("0123456789")
    (tmp_path / "a.log.1").mkdir()  # cannot be written, as on a full disk
    rotate_log(log, 4)
    assert log.read_text() == ""


async def test_the_log_of_a_running_child_is_bounded_and_written_on(tmp_path, watched, supervise, monkeypatch):
    # Given a child that writes without end
    monkeypatch.setattr("router.cli.supervisor.HOUSEKEEPING_EVERY_S", 0.001)
    monkeypatch.setattr("router.cli.supervisor.LOG_ROTATE_BYTES", 1000)
    supervisor = supervise(child(tmp_path, "glm", TALKATIVE))
    run = asyncio.create_task(supervisor.run())
    await watched.until("all_ready")
    # Then what it wrote long ago is gone, and what it writes now goes to the same place, without a hole before it
    kept = tmp_path / "glm.log.1"

    def oldest() -> int:
        return int(([*re.findall(rb"line (\d+)\n", kept.read_bytes()), -1] if kept.exists() else [-1])[0])

    async with asyncio.timeout(WAIT_S):
        while oldest() < 1000:  # noqa: ASYNC110 - a file sets no event
            await asyncio.sleep(0.001)
    assert b"\0" not in kept.read_bytes() + (tmp_path / "glm.log").read_bytes()
    supervisor.request_stop()
    assert await run == 0


async def test_a_disk_that_gets_full_is_said_once_until_there_is_room_again(tmp_path, watched, supervise, monkeypatch):
    monkeypatch.setattr("router.cli.supervisor.HOUSEKEEPING_EVERY_S", 0.001)
    free = [5e9, 0.5e9, 0.4e9, 5e9, 0.3e9]
    seen = asyncio.Event()

    def usage(_path: Path) -> Usage:
        if len(free) == 1:
            seen.set()
        return Usage(1e12, 0, int(free.pop(0) if len(free) > 1 else free[0]))

    monkeypatch.setattr("shutil.disk_usage", usage)
    supervisor = supervise(child(tmp_path, "api", STEADY))
    run = asyncio.create_task(supervisor.run())
    await watched.until("disk_low", times=2)
    async with asyncio.timeout(WAIT_S):
        await seen.wait()
    assert [event.free_bytes for event in watched.of("disk_low")] == [500_000_000, 300_000_000]
    supervisor.request_stop()
    assert await run == 0

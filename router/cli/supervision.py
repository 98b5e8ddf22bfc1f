"""The nouns of the supervisor: what to keep running, what happened, when to start again and when to end what hangs.

In: nothing. Out: frozen values; the decisions among them are pure functions of counts and seconds.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

# Exit statuses by which a child says whether starting it again helps, as in sysexits.h.
TRY_AGAIN: Final = os.EX_TEMPFAIL
HOPELESS: Final = os.EX_CONFIG
_SAYS_WHY = "error: "

# A look at a child, given its pid.
Probe = Callable[[int], Awaitable[bool]]


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
    is_ready: Probe
    is_alive: Probe | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    inherits: Callable[[str], bool] = lambda _name: True
    layer: int = 1
    stop_timeout_s: float = 8.0
    death_signal: signal.Signals = signal.SIGKILL


def last_words(log_tail: tuple[str, ...]) -> str:
    """Why a child ended, if the last line that it wrote says so; empty if not."""
    last = log_tail[-1] if log_tail else ""
    return last.removeprefix(_SAYS_WHY) if last.startswith(_SAYS_WHY) else ""


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
        said: why it ended, in its own words: the last line of its log, if that begins with ``error: ``.
        free_bytes: what is left on the disk of the logs (disk_low).
        log_path: where its output is.
        log_tail: the last lines of it.
    """

    kind: EventKind
    name: str = ""
    seconds: float = 0.0
    exit_code: int | None = None
    reason: str = ""
    said: str = ""
    free_bytes: int = 0
    log_path: Path | None = None
    log_tail: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """When a dead child is started again.

    Attributes:
        max_quick_deaths: a child that has never been ready is given up on at the n-th quick death in a row; at the
            first one if it ends with `HOPELESS`, and never if with `TRY_AGAIN`. One that has been ready is started
            again for ever: what ended it, such as a full disk, may pass.
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

    def delay_s(self, quick_deaths: int, *, was_ever_ready: bool, exit_code: int | None = None) -> float | None:
        """How long to wait before the next start; None means give up."""
        if not was_ever_ready:
            is_last = quick_deaths >= self.max_quick_deaths and exit_code != TRY_AGAIN
            if is_last or exit_code == HOPELESS:
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

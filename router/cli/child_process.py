"""Children that end with their parent, and the processes that an earlier, killed parent left behind.

In: commands, pids, pid files. Out: commands under a guard; leftovers stopped. Knows nothing of what the children are.
"""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

_IS_LINUX = platform.system() == "Linux"

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


def kill_group(pid: int) -> None:
    """End a process and the helpers it started, at once; no error if it is gone."""
    # The group, for helpers the child may have started; it leads one because it has its own session.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


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

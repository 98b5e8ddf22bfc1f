"""Memory of the machine, or of the container where that has less.

In: what the kernel says in /proc and /sys/fs/cgroup. Out: bytes in all, and bytes that this process could still have.
No torch: the command line asks too.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

_PROC: Final = Path("/proc")
_CGROUP: Final = Path("/sys/fs/cgroup")


class _Files(NamedTuple):
    """Where one version of control groups says what a group may use and uses."""

    folder: str
    limit: str
    used: str
    reclaimable: str  # in memory.stat: files that were read, which the kernel drops when memory is needed


_VERSION_1: Final = _Files("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_VERSION_2: Final = _Files("", "memory.max", "memory.current", "inactive_file")


def total_bytes(proc: Path = _PROC, cgroup: Path = _CGROUP) -> int:
    """Return the memory of the machine, or the lowest limit of the control groups that this process is in.

    Args:
        proc: folder of the kernel's tables.
        cgroup: folder of the control groups, version 1 or 2.
    """
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *(limit for limit, _ in _limits(proc, cgroup))])


def available_bytes(proc: Path = _PROC, cgroup: Path = _CGROUP) -> int:
    """Return the memory that this process can have without swapping: the machine's, or what its groups have left.

    Args:
        proc: folder of the kernel's tables; without them, half of the machine's memory counts as free.
        cgroup: folder of the control groups, version 1 or 2.
    """
    try:
        lines = dict(line.split(":", 1) for line in (proc / "meminfo").read_text().splitlines() if ":" in line)
        available = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, KeyError):
        available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    return max(0, min([available, *(limit - used for limit, used in _limits(proc, cgroup))]))


def _limits(proc: Path, cgroup: Path) -> Iterator[tuple[int, int]]:
    """Limit and use in bytes of every group with a limit that this process is in."""
    for files in (_VERSION_2, _VERSION_1):
        for group in _groups(proc, cgroup / files.folder, files.folder):
            with contextlib.suppress(OSError, ValueError):  # no such group, or its limit is "max"
                limit = int((group / files.limit).read_text())
                yield limit, _used(group, files)


def _groups(proc: Path, root: Path, controller: str) -> Iterator[Path]:
    """The group of this process and those around it. In a container the root is the container's own group."""
    yield root
    with contextlib.suppress(OSError, ValueError):
        for line in (proc / "self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            parts = Path(path.lstrip("/")).parts
            # A path that leads out of this namespace names a group that cannot be seen from here.
            if controller in controllers.split(",") and ".." not in parts:
                yield from (root.joinpath(*parts[:depth]) for depth in range(1, len(parts) + 1))


def _used(group: Path, files: _Files) -> int:
    used = 0
    with contextlib.suppress(OSError, ValueError):
        used = int((group / files.used).read_text())
        stat = dict(line.split(maxsplit=1) for line in (group / "memory.stat").read_text().splitlines())
        used -= int(stat.get(files.reclaimable, 0))
    return used

"""How `glowl up` finds out whether a child is ready, and whether it is still alive.

In: a URL or a file. Out: a `Probe`, which answers for a pid and never raises.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

from router.cli.net import PROBE_TIMEOUT_S, http_status
from router.cli.redis_server import ping, replies
from router.cli.supervision import Probe

# Timeout of one liveness check; a busy machine may pass the next one.
ALIVE_TIMEOUT_S = 5.0


def answers_ping(url: str) -> Probe:
    """Whether redis takes commands."""

    async def is_ready(_pid: int) -> bool:
        return await ping(url) is not None

    return is_ready


def answers_ok(url: str, path: str, *, timeout_s: float = PROBE_TIMEOUT_S) -> Probe:
    """Whether a server answers ``GET path`` with 200."""

    async def is_ok(_pid: int) -> bool:
        return await http_status(url, path, timeout_s=timeout_s) == 200

    return is_ok


def answers(url: str, path: str) -> Probe:
    """Whether a server says anything at all: a 503 is the answer of a process that is alive."""

    async def is_alive(_pid: int) -> bool:
        return await http_status(url, path, timeout_s=ALIVE_TIMEOUT_S) is not None

    return is_alive


def replies_at(url: str) -> Probe:
    """Whether redis says anything at all, an error too."""

    async def is_alive(_pid: int) -> bool:
        return await replies(url, timeout_s=ALIVE_TIMEOUT_S)

    return is_alive


def is_touched(path: Path) -> Probe:
    """Whether a file changes between two looks; times are compared with each other, never with a clock."""
    seen: dict[int, int] = {}

    async def is_alive(pid: int) -> bool:
        for _ in range(10):
            with suppress(OSError):
                changed = path.stat().st_mtime_ns  # noqa: ASYNC240
                if seen.get(pid) != changed:
                    seen.clear()
                    seen[pid] = changed
                    return True
            await asyncio.sleep(ALIVE_TIMEOUT_S / 10)
        return False

    return is_alive


def file_names_pid(path: Path) -> Probe:
    """Whether a worker has written its pid into its ready file."""

    # The pid tells this run's file from one that an earlier, killed worker left behind.
    async def is_ready(pid: int) -> bool:
        try:
            return path.read_text(encoding="utf-8").strip() == str(pid)  # noqa: ASYNC240
        except OSError:
            return False

    return is_ready

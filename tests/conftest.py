"""Shared by all tests: the order of the files, and a redis of our own, one per test process, emptied for every test."""

from __future__ import annotations

import functools
import logging
import os
import ssl
from collections.abc import Iterator

import pytest
import redis
from hypothesis import HealthCheck, settings

from engines.logs import HumanLines, JsonLines
from tests.support import servers
from tests.support.clock import Clock
from tests.support.fork_server import ForkServer
from tests.support.servers import RedisProcess
from tests.support.temporary import pytest_configure, pytest_sessionfinish, pytest_unconfigure

__all__ = ["pytest_configure", "pytest_sessionfinish", "pytest_unconfigure"]

# Tests ask the same question again and again, and mean it. Those of the cache turn it on.
os.environ["GLOWL_CACHE_BYTES"] = "0"

# The models of tests are tiny: more threads only wait for each other, above all beside another test process.
os.environ["OMP_NUM_THREADS"] = "1"

# Every http client reads all certificates first, 50 ms of CPU, and tests make thousands of clients on loopback. What
# is made of no file is made anew: `router.cli.redis_check` takes the checks out of its own.
_new_context, _kept_context = ssl.create_default_context, functools.cache(ssl.create_default_context)
ssl.create_default_context = lambda *args, **files: (_kept_context if files else _new_context)(*args, **files)

# A busy machine draws and runs examples slowly; that is no fault of what is tested.
settings.register_profile("busy-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy-machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run files with slow tests first, then those that start processes: the last ones are to be short."""
    slow, e2e = ({item.path for item in items if item.get_closest_marker(name)} for name in ("slow", "e2e"))
    items.sort(key=lambda item: (item.path not in slow, item.path not in e2e))


@pytest.fixture(scope="session", autouse=True)
def _fork_server() -> Iterator[None]:
    """Processes of tests are forked from one that has imported the product."""
    if hasattr(os, "pidfd_open"):
        servers.fork_server = ForkServer()
        yield
        servers.fork_server.stop()
        servers.fork_server = None
    else:
        yield


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """What a test starts of logging in this process, as `main` of a server does, ends with the test."""
    loggers = [logging.getLogger(name) for name in ("", "router", "engines", "policies")]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        if logger.level != level:
            logger.setLevel(level)
    root = loggers[0]
    root.handlers[:] = [each for each in root.handlers if not isinstance(each.formatter, JsonLines | HumanLines)]


@pytest.fixture(scope="session")
def redis_process() -> Iterator[RedisProcess]:
    process = RedisProcess()
    yield process
    process.stop()


@pytest.fixture
def redis_url(redis_process: RedisProcess) -> str:
    """A database of its own: on the first one, servers that other tests keep running heal what they find."""
    url = redis_process.url.replace("db=0", "db=1")
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return url


@pytest.fixture
def clock() -> Clock:
    return Clock()

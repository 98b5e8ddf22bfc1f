"""A folder for all that one test process writes beside its tests' own: sockets, logs, redis' files.

It is removed when the process ends; after a failure it stays, with the logs of what failed.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

_HOME = pytest.StashKey[Path]()


def pytest_configure(config: pytest.Config) -> None:
    """Make the folder; its path is short, since those of sockets may have 107 characters."""
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())  # for `tmp_path`, of which pytest keeps three
    config.stash[_HOME] = Path(tempfile.mkdtemp(prefix="glowl-"))
    tempfile.tempdir = str(config.stash[_HOME])


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Note whether what is in it is still of use."""
    if exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        del session.config.stash[_HOME]


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove it."""
    tempfile.tempdir = None
    if (home := config.stash.get(_HOME, None)) is not None:
        shutil.rmtree(home, ignore_errors=True)

"""The worker's signs of life: its ready file, and the beat of its loop."""

import io
import logging
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import redis
import typer
from kombu.exceptions import OperationalError
from kombu.message import Message

from router import worker
from router.cli.processes import ReadySign
from router.worker import TaskLoop


def test_the_loop_beats_until_a_task_blocks_it(monkeypatch):
    # Given a worker that beats at every turn of its beating thread
    turned = threading.Semaphore(0)
    monkeypatch.setattr(worker.time, "sleep", lambda _s: turned.release() or threading.Event().wait(0.001))
    beats = threading.Semaphore(0)

    async def make_context() -> Any:
        return object()

    loop = TaskLoop(make_context, drain_s=1.0)
    loop.beat(beats.release)
    # Then it beats before its first task
    assert beats.acquire(timeout=300)

    # And while tasks run
    async def quick(_context: object) -> None:
        pass

    loop.run(quick)
    assert beats.acquire(timeout=300)

    # But not while one keeps the loop from running
    blocked, release = threading.Event(), threading.Event()

    async def blocking(_context: object) -> None:
        blocked.set()
        assert release.wait(300)

    running = threading.Thread(target=loop.run, args=(blocking,))
    running.start()
    assert blocked.wait(300)
    while beats.acquire(blocking=False):
        pass
    while turned.acquire(blocking=False):
        pass
    for _ in range(5):
        assert turned.acquire(timeout=300)
    assert not beats.acquire(blocking=False)
    release.set()
    assert beats.acquire(timeout=300)
    running.join()


def test_a_ready_file_is_emptied_named_after_us_and_touched(tmp_path):
    path = tmp_path / "worker.ready"
    path.write_text(f"{os.getpid()}\n")  # of an earlier worker with the same pid, as in a restarted container
    sign = ReadySign(path)
    sign.clear()
    assert path.read_text() == ""
    sign.write()
    assert path.read_text() == f"{os.getpid()}\n"
    os.utime(path, (0, 0))
    sign.touch()
    assert path.stat().st_mtime > 0


def test_a_ready_file_that_cannot_be_written_stops_the_worker_with_a_reason(tmp_path, monkeypatch, capsys):
    sign = ReadySign(tmp_path / "none" / "worker.ready")
    with pytest.raises(typer.Exit) as refused:
        sign.clear()
    assert refused.value.exit_code == 1
    assert "--ready-file" in capsys.readouterr().err
    # And one that could be emptied, but is not writable any more when the worker is ready
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda *call: killed.append(call))
    sign.write()
    assert killed == [(os.getpid(), signal.SIGTERM)]
    assert "No such file or directory" in sign.problem
    sign.touch()  # nothing to touch: no error of its own


@pytest.fixture
def lines() -> Iterator[tuple[logging.Logger, io.StringIO]]:
    """A logger as a worker has it, and what it has written."""
    written = io.StringIO()
    logger, handler = logging.getLogger("tests.celery"), logging.StreamHandler(written)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logger.addHandler(handler)
    logger.propagate = False
    handler.addFilter(worker.log_redis_in_one_line)
    yield logger, written
    logger.removeHandler(handler)


AWAY = [
    redis.ConnectionError("Error 111 connecting"),
    redis.TimeoutError("Timeout reading from socket"),
    redis.BusyLoadingError("loading"),
    OperationalError("Connection closed by server."),
    ConnectionResetError(104, "Connection reset by peer"),
]


@pytest.mark.parametrize("error", AWAY, ids=repr)
def test_a_ticket_that_is_not_acknowledged_while_redis_is_away_is_one_line(
    lines: tuple[logging.Logger, io.StringIO], error: Exception
) -> None:
    logger, written = lines

    def ack(**_: Any) -> None:
        raise error

    message = Message(delivery_tag="a-ticket", channel=None)
    message.ack = ack  # type: ignore[method-assign]
    message.ack_log_error(logger, type(error))

    [line] = written.getvalue().splitlines()
    assert line.startswith("WARNING ")
    assert "a-ticket" in line
    assert str(error) in line


def test_a_bug_keeps_its_level_and_its_traceback(lines: tuple[logging.Logger, io.StringIO]) -> None:
    logger, written = lines
    try:
        raise KeyError("a bug")
    except KeyError:
        logger.critical("Couldn't do it", exc_info=True)

    assert written.getvalue().startswith("CRITICAL Couldn't do it\nTraceback")

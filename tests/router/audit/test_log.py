"""The audit log on disk: what is written when, what a full disk does, and what is deleted."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from router.audit import log as module
from router.audit.chain import files_in
from router.audit.log import AuditLog
from router.audit.verify import verify
from tests.support.clock import Clock

NOON = 1_795_953_600.0  # 2026-11-29T12:00:00Z
DAY_S = 86_400.0


class Disk:
    """What `os.write` does; full on demand, and then it takes a piece of a line first."""

    def __init__(self) -> None:
        self.is_full = False
        self.num_writes = 0

    def __call__(self, fd: int, data: memoryview) -> int:
        self.num_writes += 1
        if self.is_full:
            os.write(fd, data[:10])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.write(fd, data)


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def clock() -> Clock:
    return Clock(NOON)


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GATHER_S", 0.0)
    monkeypatch.setattr(module, "_RETRY_S", 0.001)


@pytest.fixture
def make_log(tmp_path: Path, disk: Disk, clock: Clock) -> Iterator[Callable[..., AuditLog]]:
    made: list[AuditLog] = []

    def make(**more: Any) -> AuditLog:
        made.append(AuditLog(tmp_path, **{"keep_days": 7, "clock": clock, "write": disk, **more}))
        made[-1].start()
        return made[-1]

    yield make
    for each in made:
        each.close()


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for file in files_in(folder) for line in (folder / file.name).read_bytes().splitlines()]


def until(is_true: Callable[[], bool]) -> None:
    waiting = threading.Event()
    for _ in range(60_000):
        if is_true():
            return
        waiting.wait(0.001)
    pytest.fail("it never came")


def test_what_is_added_is_written_in_order_between_a_first_and_a_last_line(
    make_log: Callable[..., AuditLog], tmp_path: Path
) -> None:
    log = make_log()
    for number in range(2500):
        log.add({"kind": "request", "number": number})
    log.close()

    found = lines(tmp_path)
    assert [line["kind"] for line in found] == ["start", *["request"] * 2500, "stop"]
    assert [line["number"] for line in found[1:-1]] == list(range(2500))
    assert [line["n"] for line in found] == list(range(1, 2503))
    assert found[0]["at"] == "2026-11-29T12:00:00.000Z"
    report = verify(tmp_path)
    assert report.is_good
    assert report.chains[0].notes == []
    # Nobody but the user may read it.
    assert {path.stat().st_mode & 0o077 for path in tmp_path.glob("*.jsonl")} == {0}


def test_a_line_is_there_without_waiting_for_the_end(make_log: Callable[..., AuditLog], tmp_path: Path) -> None:
    log = make_log()
    log.add({"kind": "request"})
    until(lambda: len(lines(tmp_path)) == 2)
    assert verify(tmp_path).is_good


def test_at_midnight_a_new_file_begins_that_is_tied_to_the_old_one(
    make_log: Callable[..., AuditLog], tmp_path: Path, clock: Clock
) -> None:
    log = make_log()
    clock.now += DAY_S / 2 - 0.001
    log.add({"kind": "request", "day": 1})
    clock.now += 0.001
    log.add({"kind": "request", "day": 2})
    clock.now -= 10.0  # a clock that is set back opens no file of a day that is over
    log.add({"kind": "request", "day": 3})
    log.close()

    files = files_in(tmp_path)
    assert [file.day for file in files] == ["2026-11-29", "2026-11-30"]
    first, second = ((tmp_path / file.name).read_bytes().splitlines() for file in files)
    assert json.loads(second[0])["prev"] == json.loads(first[-1])["hash"]
    assert len(second) == 3
    assert verify(tmp_path).is_good


def test_days_beyond_the_retention_are_deleted_and_the_rest_stays_right(
    make_log: Callable[..., AuditLog], tmp_path: Path, clock: Clock
) -> None:
    log = make_log(keep_days=2)
    for _ in range(5):
        log.add({"kind": "request"})
        until(lambda: not log._inbox)
        clock.now += DAY_S
    log.add({"kind": "request"})
    log.close()

    assert sorted({path.name[:10] for path in tmp_path.iterdir()}) == ["2026-12-02", "2026-12-03", "2026-12-04"]
    report = verify(tmp_path)
    assert report.is_good
    assert "earlier days are gone" in report.chains[0].notes[0].en


def test_a_full_disk_stops_nothing_and_what_did_not_fit_in_memory_is_counted(
    make_log: Callable[..., AuditLog],
    tmp_path: Path,
    disk: Disk,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 5)
    log = make_log()
    until(lambda: bool(files_in(tmp_path)) and len(lines(tmp_path)) == 1)
    file = tmp_path / files_in(tmp_path)[0].name
    start = file.read_bytes()
    disk.is_full = True
    for number in range(12):
        log.add({"kind": "request", "number": number})
        until(lambda: not log._inbox)
    until(lambda: log.is_failing)
    tries = disk.num_writes
    until(lambda: disk.num_writes > tries + 3)
    assert caplog.text.count("cannot be written") == 1
    assert "No space left" in caplog.text
    # Nothing of what was tried stays in the file; a look between two steps of a try sees a piece of it.
    until(lambda: file.read_bytes() == start)

    disk.is_full = False
    until(lambda: not log.is_failing)
    log.add({"kind": "request", "number": 99})
    log.close()

    found = lines(tmp_path)
    assert [line.get("number", line["kind"]) for line in found] == ["start", 0, 1, 2, 3, 4, "gap", 99, "stop"]
    assert found[6]["lost"] == 7
    assert found[6]["since"] == "2026-11-29T12:00:00.000Z"
    assert verify(tmp_path).is_good


def test_a_thread_that_hangs_in_a_write_makes_nobody_wait(
    make_log: Callable[..., AuditLog], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 5)
    hangs, goes_on = threading.Event(), threading.Event()

    def write(fd: int, data: memoryview) -> int:
        if hangs.is_set():
            goes_on.wait(300)
        return os.write(fd, data)

    log = make_log(write=write)
    hangs.set()
    log.add({"kind": "request", "number": 0})
    until(lambda: not log._inbox)
    for number in range(1, 12):
        log.add({"kind": "request", "number": number})
    goes_on.set()
    log.close()

    assert [line.get("lost") for line in lines(tmp_path) if line["kind"] == "gap"] == [6]
    assert verify(tmp_path).is_good


def test_a_folder_that_cannot_be_written_is_found_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        AuditLog(tmp_path / "file" / "audit", keep_days=7).start()


def test_what_json_cannot_hold_is_written_all_the_same(make_log: Callable[..., AuditLog], tmp_path: Path) -> None:
    log = make_log()
    log.add({"kind": "request", "path": "/\ud800", "strange": {1, 2}, "line": "a\u2028b"})
    log.close()

    assert lines(tmp_path)[1]["path"] == "/\ud800"
    assert verify(tmp_path).is_good


def _write_and_die(folder: str, number: int) -> None:
    log = AuditLog(Path(folder), keep_days=7)
    log.start()
    for _ in range(number):
        log.add({"kind": "request"})
    if number % 2:
        log.close()
    else:
        until(lambda: not log._inbox)
        os._exit(1)  # as kill -9


def test_processes_do_not_write_into_each_other(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_write_and_die, args=(str(tmp_path), number)) for number in (301, 400)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)

    report = verify(tmp_path)
    assert report.is_good
    assert len(report.chains) == 2
    assert sorted(chain.num_lines for chain in report.chains)[1] >= 303
    assert sum(any("was killed" in note.en for note in chain.notes) for chain in report.chains) == 1

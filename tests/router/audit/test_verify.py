"""Whatever is done to a log shows, at its line; what a crash does is told apart from it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from router.audit.chain import files_in
from router.audit.log import AuditLog
from router.audit.verify import Report, verify

NOON = 1_795_953_600.0
DAY_S = 86_400.0
NUM_LINES = 12


def write_log(folder: Path, *, day: int = 0) -> Path:
    """Write a log of one process and return its file."""
    log = AuditLog(folder, keep_days=90, clock=lambda: NOON + day * DAY_S)
    log.start()
    for number in range(NUM_LINES - 2):
        log.add({"kind": "request", "number": number, "owner": "own_1"})
    log.close()
    return folder / next(file.name for file in files_in(folder) if file.chain == log.chain)


def edit(file: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    file.write_bytes(b"".join(change(file.read_bytes().splitlines(keepends=True))))


def found(report: Report) -> list[tuple[int, str]]:
    return [(problem.line, problem.text.en) for problem in report.problems]


@pytest.mark.parametrize("line", [1, 5, NUM_LINES])
def test_each_byte_that_is_changed_shows_at_its_line(tmp_path: Path, line: int) -> None:
    file = write_log(tmp_path)
    right = file.read_bytes().splitlines(keepends=True)
    for at in range(0, len(right[line - 1]) - 1, 7):

        def change(lines: list[bytes], at: int = at) -> list[bytes]:
            text = bytearray(lines[line - 1])
            text[at] = ord("0") if text[at] != ord("0") else ord("1")
            return [*lines[: line - 1], bytes(text), *lines[line:]]

        edit(file, change)
        assert found(verify(tmp_path)) == [(line, "this line was changed")], at
        file.write_bytes(b"".join(right))
    assert verify(tmp_path).is_good


def test_a_line_that_was_rewritten_with_its_hash_shows_at_the_next(tmp_path: Path) -> None:
    file = write_log(tmp_path)
    other = write_log(tmp_path / "other").read_bytes().splitlines(keepends=True)

    edit(file, lambda lines: [*lines[:4], other[4], *lines[5:]])

    says = "this line was written after another one than stands before it"
    assert found(verify(tmp_path)) == [(5, says), (6, says)]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda lines: [*lines[:4], *lines[5:]], [(5, "1 lines are missing before this one")]),
        (lambda lines: lines[3:], []),
        (
            lambda lines: [*lines[:4], lines[5], lines[4], *lines[6:]],
            [
                (5, "1 lines are missing before this one"),
                (6, "this line is not in its place: one after it comes before"),
            ],
        ),
        (
            lambda lines: [*lines[:5], lines[4], *lines[5:]],
            [(6, "this line is not in its place: one after it comes before")],
        ),
        (lambda lines: lines[:-2], [(NUM_LINES - 1, "the last 2 lines are missing")]),
        (lambda lines: [], [(1, f"the last {NUM_LINES} lines are missing")]),
        (
            lambda lines: [*lines[:4], b"\n", *lines[4:]],
            [(5, "this line was changed"), (6, "this line is not in its place: one after it comes before")],
        ),
    ],
    ids=["one deleted", "first ones deleted", "two swapped", "one doubled", "end deleted", "all deleted", "one put in"],
)
def test_lines_that_were_deleted_or_moved_show(
    tmp_path: Path, change: Callable[[list[bytes]], list[bytes]], says: list[tuple[int, str]]
) -> None:
    file = write_log(tmp_path)
    edit(file, change)

    report = verify(tmp_path)

    assert found(report) == says
    if not says:  # as the retention does it, but then the file of that day is gone too
        assert "begins with line 4" in report.chains[0].notes[0].en


def test_a_cut_last_line_is_what_a_kill_leaves_and_is_not_called_a_change(tmp_path: Path) -> None:
    file = write_log(tmp_path)
    (tmp_path / files_in(tmp_path)[0].head_name).unlink()
    file.write_bytes(file.read_bytes()[:-20])

    report = verify(tmp_path)

    assert report.is_good
    notes = " ".join(note.en for note in report.chains[0].notes)
    assert f"line {NUM_LINES}, the last, is cut" in notes
    assert "lines missing at the end would not show" in notes
    # With a head that had seen it whole, it is.
    shutil.rmtree(tmp_path)
    file = write_log(tmp_path)
    file.write_bytes(file.read_bytes()[:-20])
    assert found(verify(tmp_path)) == [(NUM_LINES + 1, "the last 1 lines are missing")]


def test_a_head_that_cannot_be_read_is_told_from_one_that_is_not_there(tmp_path: Path) -> None:
    write_log(tmp_path)
    head = tmp_path / files_in(tmp_path)[0].head_name
    head.write_bytes(b"")  # as after a power failure

    report = verify(tmp_path)

    assert report.is_good
    [note] = report.chains[0].notes
    assert note.en.startswith(f"{head.name} cannot be read (it is no JSON")
    head.unlink()
    head.mkdir()
    assert "Is a directory" in verify(tmp_path).chains[0].notes[0].en
    # A process that begins beside it does so all the same.
    write_log(tmp_path)


def test_an_end_that_was_written_anew_is_not_the_one_of_the_head(tmp_path: Path) -> None:
    file = write_log(tmp_path)
    other = write_log(tmp_path / "other")
    file.write_bytes(other.read_bytes())
    assert found(verify(tmp_path)) == [
        (0, "its last lines are not those that its head file names"),
        (1, "this line was written into another file"),
    ]


def test_a_file_that_a_later_process_had_seen_is_missed(tmp_path: Path) -> None:
    first = write_log(tmp_path)
    write_log(tmp_path, day=0)
    second_day = write_log(tmp_path, day=1)
    assert verify(tmp_path).is_good
    text = first.read_bytes()

    first.unlink()
    assert found(verify(tmp_path)) == [(0, "this file is missing: a process that began later had seen it")]

    # Rewritten together with its head, it is not the one that was seen.
    other = write_log(tmp_path / "other")
    first.write_bytes(other.read_bytes())
    first.with_suffix(".head").write_bytes(other.with_suffix(".head").read_bytes())
    assert found(verify(tmp_path)) == [
        (0, "this file does not have the lines that a process that began later had seen"),
        (1, "this line was written into another file"),
    ]

    # A whole day that is gone is the retention's.
    first.write_bytes(text)
    for path in list(tmp_path.iterdir()):
        if path.name.startswith("2026-11-29"):
            path.unlink()
    assert second_day.exists()
    assert verify(tmp_path).is_good


def test_a_hash_that_was_kept_elsewhere_must_be_in_it(tmp_path: Path) -> None:
    write_log(tmp_path)
    head = verify(tmp_path).chains[0].head.hash
    assert verify(tmp_path, frozenset({head})).is_good
    report = verify(tmp_path, frozenset({head, "0" * 64}))
    assert report.wanted == {"0" * 64}
    assert not report.is_good


def test_an_empty_log_is_right(tmp_path: Path) -> None:
    assert verify(tmp_path / "nowhere").is_good
    assert verify(tmp_path).chains == []

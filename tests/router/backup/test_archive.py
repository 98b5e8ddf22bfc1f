"""The file of a backup: whole, or refused by what is wrong with it."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from router.backup.archive import ArchiveError, check_archive, read_archive
from tests.support.archives import new_archive


def lines_of(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes())


@pytest.fixture
def good(tmp_path: Path) -> Path:
    with new_archive(tmp_path / "good.gz") as writer:
        for number in range(50):
            writer.add({"key": f"glowl:job:{number}", "type": "string", "expires_at_ms": None, "value": str(number)})
    return tmp_path / "good.gz"


RUBBISH: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "empty": (lambda _: b"", "no backup"),
    "text": (lambda _: b"hello\n", "no backup"),
    "gzip of text": (lambda _: gzip.compress(b"hello\n"), "no backup"),
    "gzip of JSON": (lambda _: gzip.compress(b'{"a": 1}\n[]\n'), "no backup"),
    "gzip of a number": (lambda _: gzip.compress(b"1\n"), "no backup"),
    "cut": (lambda good: good.read_bytes()[:-20], "ends in the middle"),
    "cut at a line": (lambda good: gzip.compress(b"".join(lines_of(good).splitlines(True)[:20])), "ends in the middle"),
    "first line only": (lambda good: gzip.compress(lines_of(good).splitlines(True)[0]), "ends in the middle"),
    "changed": (lambda good: gzip.compress(lines_of(good).replace(b'"value":"7"', b'"value":"8"')), "damaged"),
    "a line less": (
        lambda good: gzip.compress(b"".join(x for x in lines_of(good).splitlines(True) if b"job:7" not in x)),
        "damaged",
    ),
    "flipped bits": (
        lambda good: good.read_bytes()[:200] + b"\x55\xaa\x55\xaa" + good.read_bytes()[204:],
        "damaged|ends in the middle",
    ),
    "newer": (lambda good: gzip.compress(re.sub(rb'"schema":\d+', b'"schema":99', lines_of(good))), "newer Glowl"),
    "newer form": (lambda good: gzip.compress(lines_of(good).replace(b'"version":1', b'"version":2')), "newer Glowl"),
}


@pytest.mark.parametrize("name", list(RUBBISH))
def test_what_is_no_whole_backup_is_refused_by_what_is_wrong(good: Path, tmp_path: Path, name: str) -> None:
    make, said = RUBBISH[name]
    path = tmp_path / "bad.gz"
    path.write_bytes(make(good))
    with pytest.raises(ArchiveError, match=said):
        check_archive(path)


def test_a_good_file_is_read_line_by_line(good: Path) -> None:
    assert check_archive(good)[1] == 50
    assert [line["value"] for line in read_archive(good)] == [str(number) for number in range(50)]


def test_a_file_that_cannot_be_finished_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError), new_archive(tmp_path / "b.gz") as writer:
        writer.add({"key": object()})
    assert list(tmp_path.iterdir()) == []

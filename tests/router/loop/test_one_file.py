from __future__ import annotations

from pathlib import Path

import pytest

from router.backup.archive import ArchiveError
from router.loop.one_file import restore_kept, write_kept
from router.loop.pictures import look_at
from router.loop.records import Feedback
from router.loop.store import FILE, LoopStore
from tests.support.exchanges import exchange, make_picture


def _fill(folder: Path) -> None:
    picture = make_picture()
    with LoopStore(folder) as store:
        store.put(exchange(1, pictures=(picture.sha256,)), [(look_at(picture), picture)], 9e9)
        store.put_feedback("resp_1", "own_a", Feedback("up", at=5.0))


def test_kept_answers_come_back_as_they_were_at_one_moment(tmp_path: Path) -> None:
    # Given a store that an api has open, with what it wrote last still in its log
    _fill(tmp_path / "loop")
    with LoopStore(tmp_path / "loop") as store:
        store.put(exchange(2), [], 9e9)
        wanted = list(store.select())
        assert write_kept(tmp_path / "loop", tmp_path / "kept.tar.gz") == 2
        store.put(exchange(3), [], 9e9)
    assert (tmp_path / "kept.tar.gz").stat().st_mode & 0o777 == 0o600
    # When it is put back elsewhere, and in place of what came later
    assert restore_kept(tmp_path / "kept.tar.gz", tmp_path / "other") == 2
    with pytest.raises(ArchiveError, match="--replace"):
        restore_kept(tmp_path / "kept.tar.gz", tmp_path / "loop")
    restore_kept(tmp_path / "kept.tar.gz", tmp_path / "loop", is_replacing=True)
    # Then all of that moment is there, its pictures too, and nothing else
    for folder in (tmp_path / "other", tmp_path / "loop"):
        with LoopStore(folder) as store:
            assert list(store.select()) == wanted
            (kept,) = store.pictures([make_picture().sha256]).values()
            assert kept.file is not None
            assert kept.file.read_bytes() == make_picture().data
        assert sorted(path.name for path in folder.iterdir()) == [FILE, "pictures"]


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5])
def test_a_damaged_file_changes_nothing(tmp_path: Path, share: float) -> None:
    _fill(tmp_path / "loop")
    write_kept(tmp_path / "loop", tmp_path / "kept.tar.gz")
    whole = (tmp_path / "kept.tar.gz").read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ArchiveError):
        restore_kept(tmp_path / "cut.tar.gz", tmp_path / "loop", is_replacing=True)
    with LoopStore(tmp_path / "loop") as store:
        assert store.count("own_a") == 1
    assert not (tmp_path / "loop/.restoring").exists()


def test_what_is_there_already_is_not_written_over(tmp_path: Path) -> None:
    _fill(tmp_path / "loop")
    (tmp_path / "kept.tar.gz").touch()
    with pytest.raises(FileExistsError):
        write_kept(tmp_path / "loop", tmp_path / "kept.tar.gz")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []

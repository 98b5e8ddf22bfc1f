from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from router.loop.pictures import look_at
from router.loop.records import Feedback
from router.loop.store import FILE, LoopStore, NewerLoopError
from tests.support.exchanges import SECRET, exchange, make_picture


def _bytes_of(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_what_is_kept_is_read_again(tmp_path: Path) -> None:
    picture = make_picture()
    wanted = exchange(pictures=(picture.sha256,))
    with LoopStore(tmp_path / "loop") as store:
        assert store.put(wanted, [(look_at(picture), picture)], 2000.0)
        said = Feedback("down", {"total": 43}, {"total": 43}, "wrong", 1500.0)
        store.put_feedback("resp_1", "own_a", said)
        # Then another opener of the file sees all of it
        with LoopStore(tmp_path / "loop") as other:
            assert other.get("resp_1") == replace(wanted, feedback=said)
            (kept,) = other.pictures(wanted.pictures).values()
            assert kept.file is not None
            assert kept.file.read_bytes() == picture.data
            assert kept.look == look_at(picture)
    assert (wanted.draft, wanted.deep) == ("41", "42")
    assert (tmp_path / "loop" / FILE).stat().st_mode & 0o777 == 0o600


def test_exchanges_are_selected_by_owner_and_time(tmp_path: Path) -> None:
    with LoopStore(tmp_path) as store:
        for number in range(1, 6):
            store.put(exchange(number, owner=f"own_{'ab'[number % 2]}"), [], 2000.0)
        assert [each.id for each in store.select(owner="own_b")] == ["resp_1", "resp_3", "resp_5"]
        assert [each.id for each in store.select(since=1002, until=1005)] == ["resp_2", "resp_3", "resp_4"]
        assert [each.id for each in store.select(newest=True, limit=2)] == ["resp_5", "resp_4"]
        assert store.count("own_a") == 2


@pytest.mark.parametrize("how", ["id", "owner", "time"])
def test_what_is_deleted_is_gone_from_the_disk(tmp_path: Path, how: str) -> None:
    # Given two exchanges that show the same picture, one of them alone another one
    shared, own = make_picture(), make_picture(90)
    with LoopStore(tmp_path) as store:
        store.put(
            exchange(1, pictures=(shared.sha256, own.sha256)), [(look_at(each), each) for each in (shared, own)], 50
        )
        kept = exchange(2, owner="own_b", question="?", messages=[], pictures=(shared.sha256,))
        store.put(kept, [(look_at(shared), None)], 100)
        store.put_feedback("resp_1", "own_a", Feedback("down", SECRET, {}, SECRET, 5.0))
        assert SECRET.encode() in _bytes_of(tmp_path)
        # When the first goes
        gone = store.expire(60) if how == "time" else store.delete({"resp_1" if how == "id" else "own_a": 5000.0})
        # Then nothing of it is left in any file, and the other is whole
        assert gone == 1
        assert [each.id for each in store.select()] == ["resp_2"]
        left = _bytes_of(tmp_path)
        assert SECRET.encode() not in left
        assert SECRET.encode("unicode_escape") not in left
        assert own.data not in left
        assert shared.data in left
        assert set(store.pictures([shared.sha256, own.sha256])) == {shared.sha256}


def test_what_was_deleted_does_not_come_back(tmp_path: Path) -> None:
    with LoopStore(tmp_path) as store:
        store.delete({"resp_1": 5.0, "own_a": 1002.5})
        # An answer that was still on its way, and one of an owner who was deleted after it was given
        assert not store.put(exchange(1, owner="own_b"), [], 2000.0)
        assert not store.put(exchange(2), [], 2000.0)
        # Nor does the second look at a deleted question
        assert not store.put(exchange(4, owner="own_b", again="resp_1"), [], 2000.0)
        assert store.put(exchange(5, owner="own_b", again="resp_6"), [], 2000.0)
        assert store.delete({"resp_6": 9.0}) == 1
        # Then an owner of the same id may begin anew
        assert store.put(exchange(3), [], 2000.0)
        assert store.delete({"own_a": 1002.5}) == 0


def test_a_shortened_time_counts_for_what_is_kept_already(tmp_path: Path) -> None:
    with LoopStore(tmp_path) as store:
        store.put(exchange(1), [], 9000.0)
        store.put(exchange(2, owner="own_b"), [], 9000.0)
        # Feedback on answers that another machine keeps
        store.put_feedback("resp_8", "own_a", Feedback("up", at=1000.0))
        store.put_feedback("resp_9", "own_b", Feedback("up", at=1000.0))
        assert store.owners() == {"own_a", "own_b"}
        assert store.expire(1100.0, {"own_a": 99.5}) == 0
        assert store.expire(1101.0, {"own_a": 99.5}) == 1
        assert (store.get("resp_1"), store.feedback("resp_8")) == (None, None)
        assert store.get("resp_2") is not None
        assert store.feedback("resp_9") is not None
        store.expire(1000.0 + 31 * 86_400)
        assert store.feedback("resp_9") is None


def test_what_a_dying_process_left_is_swept_away(tmp_path: Path) -> None:
    kept, lost = make_picture(1), make_picture(2)
    with LoopStore(tmp_path) as store:
        store.put(exchange(pictures=(kept.sha256,)), [(look_at(kept), kept)], 2000.0)
        folder = store.pictures([kept.sha256])[kept.sha256].file.parent.parent  # type: ignore[union-attr]
        for name in (lost.sha256, f"{lost.sha256}.17.tmp"):
            (folder / lost.sha256[:2]).mkdir(exist_ok=True)
            (folder / lost.sha256[:2] / name).write_bytes(lost.data)
        assert store.sweep() == 2
        assert store.sweep() == 0
    assert lost.data not in _bytes_of(tmp_path)
    assert kept.data in _bytes_of(tmp_path)


def test_a_newer_file_is_left_alone(tmp_path: Path) -> None:
    with LoopStore(tmp_path):
        pass
    with sqlite3.connect(tmp_path / FILE) as db:
        db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(NewerLoopError, match="99"):
        LoopStore(tmp_path)

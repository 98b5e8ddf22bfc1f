"""What operators may do with owners and keys, and what they are told when they may not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from router.auth.admin import (
    FORGET_AFTER_S,
    AdminError,
    create_key,
    create_owner,
    delete_owner,
    find_key,
    revoke_key,
    rotate_key,
    set_owner,
)
from router.auth.key_text import digest_of
from router.auth.records import Directory, Key, Owner, configured_owner
from router.auth.store import Row
from router.limits.limits import Limits

NOW = 1_000_000.0
DAY_S = 86400


class Book:
    """A directory that changes are written into, as the store does it."""

    def __init__(self) -> None:
        self.all = Directory()

    def do(self, make: Any, *arguments: Any, **options: Any) -> Any:
        rows, result = make(self.all, *arguments, **options)
        owners, keys = dict(self.all.owners), dict(self.all.keys)
        for row in rows:
            self._write(row, owners, keys)
        self.all = replace(self.all, owners=owners, keys=keys)
        return result

    def _write(self, row: Row, owners: dict[str, Owner], keys: dict[str, Key]) -> None:
        if row.hash == "owners":
            owners.pop(row.field, None)
            if row.value:
                owners[row.field] = Owner.from_json(row.value)
        elif row.hash == "keys":
            keys.pop(row.field, None)
            if row.value:
                keys[row.field] = Key.from_json(row.value)


@pytest.fixture
def book() -> Book:
    book = Book()
    book.do(create_owner, NOW, "alice")
    return book


def refused(book: Book, make: Any, *arguments: Any, **options: Any) -> str:
    with pytest.raises(AdminError) as error:
        make(book.all, *arguments, **options)
    assert error.value.text.zh
    return error.value.text.en


def test_records_come_back_from_redis_as_they_were() -> None:
    owner = Owner("own_1", "爱丽丝", frozenset({"ask"}), Limits(max_requests=3), 60, NOW, "text", ("email",))
    assert Owner.from_json(owner.to_json()) == owner
    key = Key("glowl_a", "ab", "own_1", NOW, NOW + 1, NOW + 2, frozenset({"ask"}), "CI")
    assert Key.from_json(key.to_json()) == key


def test_records_of_a_later_release_are_read_and_scopes_that_are_not_known_give_nothing() -> None:
    raw = b'{"id":"own_1","name":"a","scopes":["ask","fly"],"limits":{"max_requests":1,"wings":2},"colour":"red"}'
    assert Owner.from_json(raw) == Owner("own_1", "a", frozenset({"ask"}), Limits(max_requests=1))


@pytest.mark.parametrize("name", ["", " a", "a ", "a,b", "a\nb", "x" * 65, "local", "own_1", "0123456789abcdef"])
def test_names_that_would_be_taken_for_something_else_are_refused(book: Book, name: str) -> None:
    assert "1 to 64" in refused(book, create_owner, NOW, name)
    assert "1 to 64" in refused(book, set_owner, "alice", name=name)


def test_a_name_has_one_owner(book: Book) -> None:
    book.do(create_owner, NOW, "鲍勃")
    assert "alice" in refused(book, create_owner, NOW, "alice")
    assert "鲍勃" in refused(book, set_owner, "alice", name="鲍勃")
    assert book.do(set_owner, "alice", name="alice").name == "alice"


def test_only_ids_under_which_something_may_be_stored_are_adopted(book: Book) -> None:
    assert book.do(create_owner, NOW, "me", adopt="local").id == "local"
    assert "me" in refused(book, create_owner, NOW, "you", adopt="local")
    assert "GLOWL_API_KEYS" in refused(book, create_owner, NOW, "you", adopt="sk-my-key")
    token = "own_" + "0" * 24
    assert book.do(create_owner, NOW, "token", adopt=token).id == token


def test_an_adopted_owner_has_the_configured_key_that_leads_to_it(book: Book) -> None:
    adopted = configured_owner(digest_of("first"))
    owner = book.do(create_owner, NOW, "old", adopt=adopted, configured=["first", "second"])
    assert owner.id == adopted
    assert [key.digest for key in book.all.keys_of(adopted)] == [digest_of("first").hex()]


def test_a_key_may_not_do_more_than_its_owner(book: Book) -> None:
    assert "admin" in refused(book, create_key, NOW, "alice", scopes=frozenset({"ask", "admin"}))
    assert "at least one" in refused(book, create_key, NOW, "alice", scopes=frozenset())
    assert "at least one" in refused(book, set_owner, "alice", scopes=frozenset())


def test_a_key_is_stored_without_its_text(book: Book) -> None:
    made = book.do(create_key, NOW, "alice", note="laptop", lives_s=60)
    assert made.key.id == made.text[:14]
    assert made.text[14:] not in str(book.all)
    assert find_key(book.all, made.text) == find_key(book.all, made.key.id) == made.key


def test_what_is_no_key_is_not_repeated_whole(book: Book) -> None:
    said = refused(book, revoke_key, NOW, "sk-proj-of-another-service")
    assert "of-another" not in said


def test_a_rotated_key_keeps_its_scopes_note_and_length_of_life(book: Book) -> None:
    old = book.do(create_key, NOW, "alice", note="CI", lives_s=90 * DAY_S, scopes=frozenset({"ask"}))
    later = NOW + 80 * DAY_S
    new = book.do(rotate_key, later, old.key.id, overlap_s=DAY_S)
    assert (new.key.note, new.key.scopes, new.key.expires_at) == ("CI", {"ask"}, later + 90 * DAY_S)
    assert find_key(book.all, old.key.id).expires_at == later + DAY_S
    # The overlap makes no life longer.
    again = book.do(rotate_key, later, old.key.id, overlap_s=5 * DAY_S)
    assert find_key(book.all, old.key.id).expires_at == later + DAY_S
    assert "alice" in refused(book, rotate_key, later + DAY_S, old.key.id, overlap_s=0)
    assert again.text != new.text
    # Nor does its end become that of the new key.
    assert again.key.expires_at == later + 90 * DAY_S


def test_a_key_without_an_end_that_is_rotated_twice_is_replaced_by_keys_without_an_end(book: Book) -> None:
    old = book.do(create_key, NOW, "alice")
    for _ in range(2):
        assert book.do(rotate_key, NOW, old.key.id, overlap_s=DAY_S).key.expires_at is None
    assert find_key(book.all, old.key.id).expires_at == NOW + DAY_S


def test_a_rotation_without_overlap_ends_the_old_key(book: Book) -> None:
    old = book.do(create_key, NOW, "alice")
    book.do(rotate_key, NOW, old.text, overlap_s=0)
    assert not find_key(book.all, old.key.id).is_live(NOW)


def test_revoked_twice_the_first_time_counts(book: Book) -> None:
    made = book.do(create_key, NOW, "alice")
    book.do(revoke_key, NOW + 1, made.text)
    assert book.do(revoke_key, NOW + 2, made.text).revoked_at == NOW + 1


def test_a_deleted_owner_leaves_nothing_but_revoked_configured_keys(book: Book) -> None:
    adopted = configured_owner(digest_of("first"))
    book.do(create_owner, NOW, "old", adopt=adopted, configured=["first"])
    book.do(create_key, NOW, "old")
    book.do(delete_owner, NOW, "old")
    [left] = book.all.keys.values()
    assert (left.is_configured, left.revoked_at) == (True, NOW)
    assert [owner.name for owner in book.all.owners.values()] == ["alice"]


def test_keys_that_ended_a_month_ago_are_forgotten_with_the_next_new_one(book: Book) -> None:
    old = book.do(create_key, NOW, "alice", lives_s=10)
    book.do(create_key, NOW + FORGET_AFTER_S, "alice")
    assert find_key(book.all, old.key.id)
    book.do(create_key, NOW + FORGET_AFTER_S + 11, "alice")
    assert "no key" in refused(book, revoke_key, NOW, old.key.id)

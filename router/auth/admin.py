"""What an operator does with owners and keys: the rules, without redis and without a terminal.

In: everything as it is (`Directory`), and what is wanted. Out: the rows that change, and what came of it; each of these
functions is the ``make`` of `OwnerStore.change`.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Final, TypedDict, Unpack

from policies.text import TextError
from router.auth import texts
from router.auth.caller import LOCAL_OWNER, SCOPES, Scope
from router.auth.key_text import digest_of, new_key, public_name
from router.auth.records import (
    DEFAULT_SCOPES,
    Directory,
    Key,
    Owner,
    configured_name,
    configured_owner,
    new_owner_id,
)
from router.auth.store import Row, key_row, owner_row
from router.limits.limits import Limits
from router.owner_ids import is_owner_id

# Lists show revoked and expired keys for this long; then the record is deleted.
FORGET_AFTER_S: Final = 30 * 24 * 3600
_CONFIGURED_OWNER: Final = re.compile(r"[0-9a-f]{16}")
_MAX_NAME: Final = 64


class OwnerTerms(TypedDict, total=False):
    """Fields of `Owner` that an operator sets beside its name."""

    scopes: frozenset[Scope]
    limits: Limits
    retention_s: int | None
    captures: str
    redacts: tuple[str, ...]


class AdminError(TextError):
    """What is wanted cannot be done."""


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made.

    Attributes:
        text: the key itself, which nobody can show again.
        key: what is stored of it.
        owner: whose it is.
    """

    text: str
    key: Key
    owner: Owner


def find_owner(directory: Directory, name: str) -> Owner:
    """Return an owner by its id or name.

    Raises:
        AdminError: if there is none.
    """
    if found := directory.owners.get(name):
        return found
    for owner in directory.owners.values():
        if owner.name == name:
            return owner
    raise AdminError(texts.NO_OWNER.fill(name=name))


def find_key(directory: Directory, name: str) -> Key:
    """Return a key by its public name, or by all of it: who has found one somewhere has its text.

    Raises:
        AdminError: if there is none.
    """
    found = directory.keys.get(digest_of(name).hex())
    if found is None:
        found = next((key for key in directory.keys.values() if key.id == name), None)
    if found is None:
        # Never repeated whole: it may be a key of another service.
        raise AdminError(texts.NO_KEY.fill(id=public_name(name)))
    return found


def create_owner(
    directory: Directory,
    now: float,
    name: str,
    *,
    adopt: str = "",
    configured: Collection[str] = (),
    **terms: Unpack[OwnerTerms],
) -> tuple[list[Row], Owner]:
    """Make an owner.

    Args:
        directory: as it is.
        now: unix seconds.
        name: of the owner.
        adopt: id of who has things stored already, without a record: ``local``, from the time without keys; what a key
            of `GLOWL_API_KEYS` stands for; or what a token does.
        configured: the keys of `GLOWL_API_KEYS`, as far as they are known here. The one that stands for ``adopt`` gets
            a record, so that it can be listed, rotated and revoked like any other.
        terms: what its keys may do, and under which limits.

    Raises:
        AdminError: if the name or the id is taken, or wrong.
    """
    _check_name(directory, name)
    _check_scopes(terms.get("scopes", DEFAULT_SCOPES))
    if adopt in directory.owners:
        raise AdminError(texts.ID_TAKEN.fill(id=adopt, name=directory.owners[adopt].name))
    if adopt and not is_owner_id(adopt):
        raise AdminError(texts.ID_WRONG.fill(id=adopt))
    owner = Owner(adopt or new_owner_id(), name, created_at=now, **terms)
    digests = [digest for text in configured if configured_owner(digest := digest_of(text)) == adopt]
    known = directory.keys
    rows = [
        key_row(Key(configured_name(each), each.hex(), owner.id, now)) for each in digests if each.hex() not in known
    ]
    return [owner_row(owner), *rows], owner


def set_owner(
    directory: Directory, named: str, /, *, name: str | None = None, **terms: Unpack[OwnerTerms]
) -> tuple[list[Row], Owner]:
    """Change fields of an owner.

    Args:
        directory: as it is.
        named: its id or name.
        name: its new name; None leaves it.
        terms: what its keys may do, and under which limits; what is not given stays.

    Raises:
        AdminError: if there is no such owner, or its new name is taken or wrong.
    """
    owner = find_owner(directory, named)
    if name not in (None, owner.name):
        _check_name(directory, name)
    if "scopes" in terms:
        _check_scopes(terms["scopes"])
    owner = replace(owner, name=owner.name if name is None else name, **terms)
    return [owner_row(owner)], owner


def delete_owner(directory: Directory, now: float, name: str) -> tuple[list[Row], Owner]:
    """Forget an owner and its keys.

    The record of a key of `GLOWL_API_KEYS` stays, revoked: without it the key would be good for everything again.

    Raises:
        AdminError: if there is no such owner.
    """
    owner = find_owner(directory, name)
    rows = [Row("owners", owner.id)]
    for key in directory.keys_of(owner.id):
        if key.is_configured:
            rows.append(key_row(replace(key, revoked_at=key.revoked_at or now)))
        else:
            rows += [Row("keys", key.digest), Row("used", key.id)]
    return rows, owner


def create_key(
    directory: Directory,
    now: float,
    owner_name: str,
    *,
    lives_s: float | None = None,
    scopes: frozenset[Scope] | None = None,
    note: str = "",
) -> tuple[list[Row], NewKey]:
    """Make a key.

    Args:
        directory: as it is.
        now: unix seconds.
        owner_name: id or name of its owner.
        lives_s: until it expires; None for never.
        scopes: of those of its owner; None for all of them.
        note: the operator's own words.

    Raises:
        AdminError: if there is no such owner, or it may less than the key shall.
    """
    owner = find_owner(directory, owner_name)
    if scopes is not None:
        _check_scopes(scopes)
        if beyond := scopes - owner.scopes:
            raise AdminError(texts.SCOPES_BEYOND.fill(scopes=", ".join(sorted(beyond)), owner=owner.name))
    made = _make_key(directory, now, owner, lives_s=lives_s, scopes=scopes, note=note)
    return [key_row(made.key), *_forget_ended(directory, now)], made


def revoke_key(directory: Directory, now: float, name: str) -> tuple[list[Row], Key]:
    """Make a key good for nothing; one that has ended already stays as it is.

    Raises:
        AdminError: if there is no such key.
    """
    key = find_key(directory, name)
    if key.revoked_at is None:
        key = replace(key, revoked_at=now)
    return [key_row(key)], key


def rotate_key(
    directory: Directory, now: float, name: str, *, overlap_s: float, lives_s: float | None = None
) -> tuple[list[Row], NewKey]:
    """Make a key that may do what another one may, which ends.

    Args:
        directory: as it is.
        now: unix seconds.
        name: public name, or text, of the old key.
        overlap_s: how long both are good; 0 revokes the old one.
        lives_s: until the new key expires; None for as long as the old one was made for.

    Raises:
        AdminError: if there is no such key, it has ended, or its owner is gone.
    """
    old = find_key(directory, name)
    owner = find_owner(directory, old.owner)
    if not old.is_live(now):
        raise AdminError(texts.KEY_ENDED.fill(id=old.id, owner=owner.name))
    if lives_s is None:
        lives_s = old.made_for_s
    made = _make_key(directory, now, owner, lives_s=lives_s, scopes=old.scopes, note=old.note)
    if overlap_s > 0:
        # Rotated once more, it shall not hand on the end that the overlap gave it.
        until = min(now + overlap_s, old.expires_at or float("inf"))
        old = replace(old, expires_at=until, lifetime_s=old.made_for_s or 0.0)
    else:
        old = replace(old, revoked_at=now)
    return [key_row(made.key), key_row(old)], made


def _make_key(
    directory: Directory,
    now: float,
    owner: Owner,
    *,
    lives_s: float | None,
    scopes: frozenset[Scope] | None,
    note: str,
) -> NewKey:
    taken = {key.id for key in directory.keys.values()}
    text = new_key()
    while public_name(text) in taken:
        text = new_key()
    key = Key(
        public_name(text),
        digest_of(text).hex(),
        owner.id,
        created_at=now,
        expires_at=None if lives_s is None else now + lives_s,
        scopes=scopes,
        note=note,
    )
    return NewKey(text, key, owner)


def _forget_ended(directory: Directory, now: float) -> list[Row]:
    rows: list[Row] = []
    for key in directory.keys.values():
        ended_at = min(key.revoked_at or float("inf"), key.expires_at or float("inf"))
        if ended_at + FORGET_AFTER_S < now and not key.is_configured:
            rows += [Row("keys", key.digest), Row("used", key.id)]
    return rows


def _check_name(directory: Directory, name: str) -> None:
    is_id = name == LOCAL_OWNER or name.startswith("own_") or _CONFIGURED_OWNER.fullmatch(name)
    is_plain = name == name.strip() and name.isprintable() and "," not in name
    if not 0 < len(name) <= _MAX_NAME or not is_plain or is_id:
        raise AdminError(texts.NAME_WRONG)
    for owner in directory.owners.values():
        if owner.name == name:
            raise AdminError(texts.NAME_TAKEN.fill(name=name, id=owner.id))


def _check_scopes(scopes: frozenset[Scope]) -> None:
    if not scopes:
        raise AdminError(texts.NO_SCOPES.fill(scopes=", ".join(sorted(SCOPES))))

"""What a process knows of keys: one dict from the hash of a key to its caller.

In: owners and keys as they are stored, and the keys of `GLOWL_API_KEYS`. Out: the dict. Of keys only hashes are
compared, so how long a look-up takes tells nothing of a key.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from router.auth.caller import SCOPES, Caller
from router.auth.records import Directory, Key, Owner, configured_name, configured_owner


@dataclass(slots=True)
class Known:
    """A key that is accepted.

    Attributes:
        caller: who sends it.
        expires_at: unix seconds from which it is refused; infinite for never.
        noted_at: unix seconds at which its use was last written down.
    """

    caller: Caller
    expires_at: float = float("inf")
    noted_at: float = 0.0


def to_table(directory: Directory, configured: Iterable[bytes]) -> dict[bytes, Known]:
    """Return what is accepted, by digest.

    Args:
        directory: as it is stored. A key of `GLOWL_API_KEYS` that has a record there is what the record says.
        configured: the digests of `GLOWL_API_KEYS`.
    """
    table = {
        digest: Known(_caller(directory.owners.get(configured_owner(digest)), digest))
        for digest in configured
        if digest.hex() not in directory.keys
    }
    for key in directory.keys.values():
        owner = directory.owners.get(key.owner)
        if owner is not None and key.revoked_at is None:
            table[bytes.fromhex(key.digest)] = Known(
                _caller_of(owner, key),
                float("inf") if key.expires_at is None else key.expires_at,
                directory.used.get(key.id, 0.0),
            )
    return table


def _caller(owner: Owner | None, digest: bytes) -> Caller:
    """Who sends a key of `GLOWL_API_KEYS` that has no record; its owner may have one."""
    if owner is None:
        return Caller(configured_owner(digest), SCOPES, configured_name(digest))
    return Caller(owner.id, owner.scopes, configured_name(digest), owner.limits, owner.retention_s)


def _caller_of(owner: Owner, key: Key) -> Caller:
    scopes = owner.scopes if key.scopes is None else owner.scopes & key.scopes
    return Caller(owner.id, scopes, key.id, owner.limits, owner.retention_s)

"""Owners and keys in redis.

In: changes, each made against what was read. Out: a `Directory`. A change that was made against something that has
changed meanwhile is made again (`lua/auth/change.lua`), so what a change looks at may be any part of the whole.

Keys: ``auth:owners`` hash of records by id, ``auth:keys`` hash of records by digest, ``auth:used`` hash of unix seconds
by a key's public name, ``auth:version`` a word that is another one after each change; the channel ``auth`` says it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

from redis.asyncio import Redis

from router.auth.records import Directory, Key, Owner
from router.lua import AuthScript, Scripts
from router.redis import PREFIX, guard

Result = TypeVar("Result")

# A change is made again when another one came first; people make them, so this many never meet.
_MOST_TRIES: Final = 50
CHANNEL: Final = f"{PREFIX}auth"


@dataclass(frozen=True, slots=True)
class Row:
    """One field of one hash, as it is to be.

    Attributes:
        hash: ``owners``, ``keys`` or ``used``.
        field: an id, a digest, a public name.
        value: the record; empty to delete it.
    """

    hash: Literal["owners", "keys", "used"]
    field: str
    value: bytes = b""


def owner_row(owner: Owner) -> Row:
    """Return the row that stores an owner."""
    return Row("owners", owner.id, owner.to_json())


def key_row(key: Key) -> Row:
    """Return the row that stores a key."""
    return Row("keys", key.digest, key.to_json())


class OwnerStore:
    """Reads and changes owners and keys.

    Args:
        redis: an asyncio client that returns bytes.

    Raises:
        QueueUnavailableError: by every method, when redis does not answer.
    """

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self._scripts = Scripts(redis)

    async def version(self) -> str:
        """Return the version of what is stored; empty if nothing ever was."""
        return _text(await guard(self.redis.get(f"{PREFIX}auth:version")))

    async def load(self) -> Directory:
        """Read everything, as it was at one moment."""
        pipeline = self.redis.pipeline(transaction=True)
        pipeline.get(f"{PREFIX}auth:version")
        for name in ("owners", "keys", "used"):
            pipeline.hgetall(f"{PREFIX}auth:{name}")
        version, owners, keys, used = await guard(pipeline.execute())
        return Directory(
            _text(version),
            owners={name.decode(): Owner.from_json(raw) for name, raw in owners.items()},
            keys={name.decode(): Key.from_json(raw) for name, raw in keys.items()},
            used={name.decode(): float(raw) for name, raw in used.items()},
        )

    async def change(self, make: Callable[[Directory], tuple[Iterable[Row], Result]]) -> Result:
        """Change something.

        Args:
            make: looks at everything and returns the rows to write, and what to return; may be called again. Whatever
                it raises is raised, and nothing is written.
        """
        for _ in range(_MOST_TRIES):
            directory = await self.load()
            rows, result = make(directory)
            words = [word for row in rows for word in (row.hash, row.field, row.value)]
            version = secrets.token_hex(8)
            if await self._scripts.run(AuthScript.CHANGE, *words, seen=directory.version, version=version):
                return result
        raise RuntimeError("owners and keys change too often")

    async def note_used(self, used: Mapping[str, float]) -> None:
        """Write down when keys were last used, by their public names."""
        if used:
            times = {name: f"{at:.0f}" for name, at in used.items()}
            await guard(self.redis.hset(f"{PREFIX}auth:used", mapping=times))  # type: ignore[arg-type]


def _text(value: bytes | None) -> str:
    return value.decode() if value else ""

"""The redis in which owners and keys are: that of a running `glowl up`, or the one that `REDIS_URL` names.

In: the environment and the data folder. Out: changes of owners and keys; whatever goes wrong ends the command with one
line.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer

from router.cli.common import Language, fail, load_settings, to_command
from router.cli.data_folder import Layout
from router.cli.texts import say

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from router.auth.caller import Scope
    from router.auth.records import Directory, Key, Owner
    from router.auth.store import OwnerStore, Row
    from router.settings import Settings

Result = TypeVar("Result")
Make = Callable[["Directory"], "tuple[Iterable[Row], Result]"]
Json = dict[str, Any]

DataDirOption = Annotated[
    Path | None, typer.Option("--data-dir", help="Data folder of the `glowl up` whose redis is meant.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON instead of text.")]
ScopesOption = Annotated[
    str | None, typer.Option("--scopes", metavar="LIST", help="Out of ask, jobs, files, admin; comma-separated.")
]


@dataclass(frozen=True, slots=True)
class Admin:
    """Reads and changes owners and keys for one command.

    Attributes:
        settings: of the environment; `GLOWL_API_KEYS` are known by them.
        url: of redis.
        language: of what is said.
        now: unix seconds at which the command was given.
        data_dir: the data folder that was named; None for that of the settings.
    """

    settings: Settings
    url: str
    language: Language
    now: float
    data_dir: Path | None = None

    @property
    def configured(self) -> list[str]:
        """The keys of `GLOWL_API_KEYS`."""
        return [key.get_secret_value() for key in self.settings.api_keys]

    def load(self) -> Directory:
        """Read everything."""
        return self.run(lambda store: store.load())

    def change(self, make: Make[Result]) -> Result:
        """Change something, as `OwnerStore.change` does it."""
        return self.run(lambda store: store.change(make))

    def run(self, work: Callable[[OwnerStore], Awaitable[Result]]) -> Result:
        """Do something with the store.

        Raises:
            typer.Exit: after one line, if redis does not answer or what is wanted cannot be done.
        """
        from router.auth.store import OwnerStore

        return self.with_redis(lambda redis: work(OwnerStore(redis)))

    def with_redis(self, work: Callable[[Redis], Awaitable[Result]]) -> Result:
        """Do something with redis.

        Raises:
            typer.Exit: as `run`.
        """
        from router.auth.admin import AdminError
        from router.errors import QueueUnavailableError
        from router.redis_clients import make_client

        async def connected() -> Result:
            # Purging looks at every key, and a redis on a slow disk takes its time.
            replicas = self.settings.redis_wait
            async with make_client(self.url, timeout_s=60, connect_timeout_s=5, num_replicas=replicas) as redis:
                return await work(redis)

        try:
            return asyncio.run(connected())
        except AdminError as error:
            fail(error.text.of(self.language))
        except QueueUnavailableError as error:
            fail(error.text.of(self.language))

    def to_command(self, *words: str) -> str:
        """Write a command about the same redis."""
        return to_command(*words, data_dir=self.data_dir)

    def say(self, key: str, **values: object) -> None:
        """Print a sentence on stderr: what scripts read is on stdout."""
        typer.echo(say(key, self.language, **values), err=True)

    def fail(self, key: str, **values: object) -> NoReturn:
        """End the command with a sentence."""
        fail(say(key, self.language, **values))


def open_admin(data_dir: Path | None, language: Language) -> Admin:
    """Find the redis.

    Raises:
        typer.Exit: after one line, if there is none, or none that can be used.
    """
    settings = load_settings()
    layout = Layout((data_dir or settings.data_dir).expanduser().resolve())
    url = running_redis(settings, layout, language)
    if not url:
        fail(say("owners.redis.none", language, data_dir=layout.data_dir))
    return Admin(settings, url, language, time.time(), data_dir)


def running_redis(settings: Settings, layout: Layout, language: Language) -> str:
    """Return the address of the redis that `REDIS_URL` names, or of a running `glowl up`; empty if there is neither.

    Raises:
        typer.Exit: after one line, if the one that `REDIS_URL` names cannot be used.
    """
    from router.cli.redis_check import look_at

    if "redis_url" in settings.model_fields_set:
        found = asyncio.run(look_at(settings.redis_url))
        if found.problem:
            fail(f"REDIS_URL: {found.say(settings.redis_url, language)}")
        return settings.redis_url
    url = layout.read_redis_url()
    return url if url and not asyncio.run(look_at(url)).problem else ""


def parse_scopes(text: str) -> frozenset[Scope]:
    """Read a list of scopes.

    Raises:
        typer.BadParameter: if there is one that does not exist.
    """
    from router.auth.caller import SCOPES
    from router.auth.records import to_scopes

    names = {name.strip().lower() for name in text.split(",") if name.strip()}
    if unknown := names - SCOPES:
        choices = ", ".join(sorted(SCOPES))
        raise typer.BadParameter(
            f"{', '.join(sorted(unknown))} is no scope; choose from {choices}", param_hint="--scopes"
        )
    return to_scopes(names)


def to_owner(owner: Owner, directory: Directory, now: float) -> Json:
    """Return an owner as JSON."""
    return {
        "id": owner.id,
        "object": "owner",
        "name": owner.name,
        "scopes": sorted(owner.scopes),
        "limits": str(owner.limits),
        "retention_s": owner.retention_s,
        "captures": owner.captures or None,
        "redacts": None if owner.redacts is None else list(owner.redacts),
        "created_at": int(owner.created_at),
        "live_keys": sum(key.is_live(now) for key in directory.keys_of(owner.id)),
    }


def to_key(key: Key, directory: Directory, now: float) -> Json:
    """Return what is known of a key as JSON."""
    owner = directory.owners.get(key.owner)
    return {
        "id": key.id,
        "object": "key",
        "owner_id": key.owner,
        "owner": owner.name if owner else None,
        "status": status_of(key, now),
        "scopes": None if key.scopes is None else sorted(key.scopes),
        "created_at": int(key.created_at),
        "last_used_at": _whole(directory.used.get(key.id)),
        "expires_at": _whole(key.expires_at),
        "revoked_at": _whole(key.revoked_at),
        "note": key.note,
    }


def status_of(key: Key, now: float) -> str:
    """Return ``live``, ``expired`` or ``revoked``."""
    if key.revoked_at is not None:
        return "revoked"
    return "live" if key.is_live(now) else "expired"


def _whole(time_s: float | None) -> int | None:
    return None if time_s is None else int(time_s)

"""Who could ask a service that listens where the settings say, and whether it may start there.

In: settings and a redis. Out: whether there are owners; a refusal that says what to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from router.cli.common import Language, fail, to_command
from router.cli.texts import say

if TYPE_CHECKING:
    from pathlib import Path

    from router.settings import Settings


def needs_owners(settings: Settings) -> bool:
    """Whether the api may start only if there are owners in redis: others reach it, and nothing else keeps them out."""
    return not (settings.is_only_local or settings.asks_for_keys or settings.insecure)


def check_tokens(settings: Settings) -> None:
    """Make sure that the api would start with these settings of tokens.

    Raises:
        typer.Exit: after one line that names the variable.
    """
    if settings.names_tokens:
        from router.auth.tokens import make_verifier
        from router.settings import SettingsError

        try:
            make_verifier(settings)
        except SettingsError as error:
            fail(str(error), code=2)


def refuse_access(settings: Settings, language: Language, data_dir: Path | None = None) -> str:
    """Say that the service does not start where everybody could ask, and what to do.

    Args:
        settings: where it would listen.
        language: of the sentence.
        data_dir: that has to be named with ``--data-dir``; None if none has to be.
    """
    owners, keys = (to_command(kind, "create", "NAME", data_dir=data_dir) for kind in ("owners", "keys"))
    where = settings.published_on or settings.host
    return say("access.none", language, host=where, owners=f"`{owners}`", keys=f"`{keys}`")


async def has_owners(url: str) -> bool | None:
    """Whether there are owners in a redis; None if it does not say."""
    from router.auth.store import OwnerStore
    from router.errors import QueueUnavailableError
    from router.redis_clients import make_client

    async with make_client(url, timeout_s=5) as redis:
        try:
            return bool((await OwnerStore(redis).load()).owners)
        except QueueUnavailableError:
            return None

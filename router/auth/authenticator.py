"""From the key of a request to its caller.

In: a request's headers. Out: a `Caller`. Keys are needed as soon as there is one in ``GLOWL_API_KEYS``, an owner in
redis, or a way to check tokens. Until then there is one owner, and any key, or none, is accepted, if only this machine
can reach the api.

A key that is known costs one hash and one look-up in a dict, and no command of redis. One that is not is looked for in
redis, once a second at most for all of them together: it may have been made a moment ago.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from pydantic import SecretStr
from redis.asyncio import Redis

from router import texts
from router.auth.caller import LOCAL, Caller
from router.auth.headers import looks_like_token, sent_key
from router.auth.key_text import PREFIX, digest_of, is_key
from router.auth.live import LiveDirectory
from router.auth.records import Directory, Owner
from router.auth.store import OwnerStore
from router.auth.table import Known, to_table
from router.errors import AuthenticationError, QueueUnavailableError
from router.limits.limits import NO_LIMITS, Limits

if TYPE_CHECKING:  # brings cryptography, which takes 18 MB that services without tokens do not need
    from router.auth.tokens import TokenVerifier, Verified

log = logging.getLogger(__name__)

# When a key was last used is written down to the minute.
_NOTE_EVERY_S: Final = 60.0
# How old what is known may be before a key counts as unknown.
_SURE_S: Final = 1.0


class Authenticator:
    """Knows the keys of this service.

    Args:
        keys: those of ``GLOWL_API_KEYS``; each is an owner of its own.
        store: has the others.
        listener: a redis client that hears of changes.
        tokens: checks tokens (JWT); None accepts none.
        is_open: nobody needs a key while there is none: only this machine can reach the api, or it was said so.
        is_insecure: it was said so: then also while redis does not tell whether there are keys.
        clock: unix seconds.

    Attributes:
        needs_keys: a request without a good key is refused. None while redis has not yet said whether there are any.
    """

    def __init__(
        self,
        keys: Sequence[SecretStr],
        store: OwnerStore,
        listener: Redis,
        *,
        tokens: TokenVerifier | None = None,
        is_open: bool = True,
        is_insecure: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._configured = [digest_of(key.get_secret_value()) for key in keys]
        self._tokens = tokens
        self._owners: Mapping[str, Owner] = {}
        self._may_be_open = is_open or is_insecure
        self._clock = clock
        self._used: dict[str, float] = {}
        self._table: dict[bytes, Known] = to_table(Directory(), self._configured)
        self.needs_keys: bool | None = True if keys or tokens or not self._may_be_open else None
        self._lets_in_all = self.needs_keys is None and is_insecure
        self._live = LiveDirectory(store, listener, on_change=self._take_over, take_used=self._take_used)

    async def start(self) -> None:
        """Read the keys that there are, and hear of changes; redis may be away, and so may the issuer of tokens."""
        if self._tokens is not None:
            self._tokens.start()
        await self._live.start()

    async def aclose(self) -> None:
        """Write down which keys were used, and stop listening."""
        await self._live.aclose()
        if self._tokens is not None:
            await self._tokens.aclose()

    async def refresh(self) -> None:
        """Read again what has changed."""
        await self._live.refresh(0.0)

    async def identify(self, headers: Mapping[str, str]) -> Caller:
        """Return who sent a request with such headers, looked up by lower-case names.

        Raises:
            AuthenticationError: if a key is needed and the request has no good one, or has keys that differ.
            QueueUnavailableError: if redis would know, and does not answer.
            KeysUnavailableError: if a token cannot be checked now.
        """
        if self._lets_in_all:
            return LOCAL
        key = sent_key(headers)
        known = self._table.get(digest_of(key)) if key else None
        if known is None and self._tokens is not None and looks_like_token(key):
            return self._of_token(await self._tokens.verify(key))
        if known is None:
            known = await self._look_again(key)
        if known is None:
            return LOCAL
        now = self._clock()
        if now >= known.expires_at:
            raise AuthenticationError(texts.EXPIRED_KEY, code="expired_api_key")
        if now - known.noted_at >= _NOTE_EVERY_S:
            known.noted_at = self._used[known.caller.key_id] = now
        return known.caller

    def limits_of(self, owner: str) -> Limits:
        """Return the limits of an owner's record, for work that no request waits for."""
        record = self._owners.get(owner)
        return NO_LIMITS if record is None else record.limits

    def retention_of(self, owner_id: str) -> int | None:
        """Return for how long, in seconds, anything of an owner is kept at most; None leaves it to the settings."""
        owner = self._owners.get(owner_id)
        return None if owner is None else owner.retention_s

    def record_of(self, owner_id: str) -> Owner | None:
        """Return an owner's record; None if it has none."""
        return self._owners.get(owner_id)

    def _of_token(self, token: Verified) -> Caller:
        """Return who sends a token; its owner may have a record, which says how much, and can only take scopes away."""
        owner = self._owners.get(token.owner)
        if owner is None:
            return Caller(token.owner, token.scopes, token.key_id, user=token.user)
        scopes = token.scopes & owner.scopes
        return Caller(owner.id, scopes, token.key_id, owner.limits, owner.retention_s, token.user)

    async def _look_again(self, key: str) -> Known | None:
        """Return what redis knows of a key that is not known here; None if no key is needed."""
        # Of another text redis knows nothing, however long one looks.
        if is_key(key) or self.needs_keys is None:
            if not await self._live.refresh(_SURE_S):
                raise QueueUnavailableError(texts.KEY_UNSURE, retry_after_s=2)
            if self._lets_in_all:
                return None
            if (known := self._table.get(digest_of(key))) is not None:
                return known
        if not key:
            raise AuthenticationError(texts.NO_KEY)
        is_mistyped = key.startswith(PREFIX) and not is_key(key)
        raise AuthenticationError(texts.MISTYPED_KEY if is_mistyped else texts.UNKNOWN_KEY)

    def _take_over(self, directory: Directory) -> None:
        self._table = to_table(directory, self._configured)
        self._owners = directory.owners
        for known in self._table.values():  # used since redis was last told
            known.noted_at = max(known.noted_at, self._used.get(known.caller.key_id, 0.0))
        is_emptied = bool(self.needs_keys) and not directory.version
        if is_emptied and not (self._configured or self._tokens) and self._may_be_open:
            log.warning("redis has lost all owners and keys; requests are refused until there are some, or a restart")
        has_any = bool(self._configured or self._tokens or directory.owners or is_emptied)
        self.needs_keys = has_any or not self._may_be_open
        self._lets_in_all = not self.needs_keys

    def _take_used(self) -> Mapping[str, float]:
        used, self._used = self._used, {}
        return used

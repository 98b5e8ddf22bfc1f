"""From the key of a request to its caller.

In: a request's headers. Out: a `Caller`. Without configured keys there is one owner, and any key, or none, is accepted:
the api listens on loopback only by default.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from pydantic import SecretStr

from router import texts
from router.auth.caller import LOCAL, Caller
from router.auth.headers import sent_key
from router.errors import AuthenticationError


class Authenticator:
    """Knows the keys of this service.

    Args:
        keys: those of ``GLOWL_API_KEYS``; each is an owner of its own.
    """

    def __init__(self, keys: Sequence[SecretStr]) -> None:
        # By hash: how long a look-up takes tells nothing of a key.
        self._callers = {_hash(key.get_secret_value()): _caller_of(key.get_secret_value()) for key in keys}

    async def identify(self, headers: Mapping[str, str]) -> Caller:
        """Return who sent a request with such headers, looked up by lower-case names.

        Raises:
            AuthenticationError: if keys are configured and the request has none of them, or has keys that differ.
        """
        if not self._callers:
            return LOCAL
        key = sent_key(headers)
        if not key:
            raise AuthenticationError(texts.NO_KEY)
        caller = self._callers.get(_hash(key))
        if caller is None:
            raise AuthenticationError(texts.UNKNOWN_KEY)
        return caller


def owner_of_key(key: str) -> str:
    """Return the owner that a key of ``GLOWL_API_KEYS`` stands for."""
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def _caller_of(key: str) -> Caller:
    owner = owner_of_key(key)
    return Caller(owner, key_id=f"env_{owner[:8]}")


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()

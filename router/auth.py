"""Who is calling: the key in a header, and the owner it stands for.

In: a request's headers. Out: an owner, under which jobs are stored and looked up. Without configured keys there is one
owner, and any key, or none, is accepted: the api listens on loopback only by default.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence

from pydantic import SecretStr
from starlette.datastructures import Headers

from router import texts
from router.errors import AuthenticationError

LOCAL_OWNER = "local"


def owner_of(headers: Mapping[str, str], keys: Sequence[SecretStr]) -> str:
    """Return the owner a request acts for.

    Args:
        headers: of the request; looked up by lower-case names. ``Authorization: Bearer`` is OpenAI's way, ``api-key``
            is Azure's, ``x-api-key`` is Anthropic's and many gateways'.
        keys: those that are known.

    Raises:
        AuthenticationError: if keys are configured and the request has none of them, or has keys that differ.
    """
    if not keys:
        return LOCAL_OWNER
    given = _given(headers)
    if not given:
        raise AuthenticationError(texts.NO_KEY)
    if len(set(given)) > 1:
        raise AuthenticationError(texts.KEYS_DIFFER, code="conflicting_api_keys")
    known = [key.get_secret_value() for key in keys]
    # All keys are compared, in constant time, so that the time taken tells nothing.
    matches = [key for key in known if secrets.compare_digest(given[0].encode(), key.encode())]
    if not matches:
        raise AuthenticationError(texts.UNKNOWN_KEY)
    return hashlib.sha256(matches[0].encode()).hexdigest()[:16]


def _given(headers: Mapping[str, str]) -> list[str]:
    def values(name: str) -> list[str]:
        return headers.getlist(name) if isinstance(headers, Headers) else [headers.get(name, "")]

    sent = [each.strip().partition(" ") for each in values("authorization")]
    bearers = [key for scheme, _, key in sent if scheme.lower() == "bearer"]
    given = [*bearers, *values("api-key"), *values("x-api-key")]
    return [key.strip() for key in given if key.strip()]

"""Who is calling: the key in the ``Authorization`` header, and the owner it stands for.

In: a request's headers. Out: an owner, under which jobs are stored and looked up. Without configured keys there is one
owner, and any key, or none, is accepted: the api listens on loopback only by default.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence

from pydantic import SecretStr

from router.errors import AuthenticationError

LOCAL_OWNER = "local"


def owner_of(authorization: str | None, keys: Sequence[SecretStr]) -> str:
    """Return the owner a request acts for.

    Raises:
        AuthenticationError: if keys are configured and the request has none of them.
    """
    if not keys:
        return LOCAL_OWNER
    scheme, _, given = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not given.strip():
        raise AuthenticationError(
            "No API key was sent; send it as 'Authorization: Bearer KEY'.",
            message_zh="没有提供 API 密钥；请使用 'Authorization: Bearer KEY' 发送。",
        )
    known = [key.get_secret_value() for key in keys]
    # All keys are compared, in constant time, so that the time taken tells nothing.
    matches = [secrets.compare_digest(given.strip().encode(), key.encode()) for key in known]
    if not any(matches):
        raise AuthenticationError("This API key is not known here.", message_zh="API 密钥无效。")
    return hashlib.sha256(known[matches.index(True)].encode()).hexdigest()[:16]

"""Who is calling: the key in a header, and the owner it stands for.

In: a request's headers. Out: an owner, under which jobs are stored and looked up. Without configured keys there is one
owner, and any key, or none, is accepted: the api listens on loopback only by default.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence

from pydantic import SecretStr

from router.errors import AuthenticationError

LOCAL_OWNER = "local"


def owner_of(headers: Mapping[str, str], keys: Sequence[SecretStr]) -> str:
    """Return the owner a request acts for.

    Args:
        headers: of the request; looked up by lower-case names. ``Authorization: Bearer`` is OpenAI's way, ``api-key``
            is Azure's, ``x-api-key`` is Anthropic's and many gateways'.
        keys: those that are known.

    Raises:
        AuthenticationError: if keys are configured and the request has none of them.
    """
    if not keys:
        return LOCAL_OWNER
    given = _given(headers)
    if not given:
        raise AuthenticationError(
            "No API key was sent; send it as 'Authorization: Bearer KEY', 'api-key: KEY' or 'x-api-key: KEY'.",
            message_zh="没有提供 API 密钥；请用 'Authorization: Bearer KEY'、'api-key: KEY' 或 'x-api-key: KEY' 发送。",
        )
    known = [key.get_secret_value() for key in keys]
    # All keys are compared, in constant time, so that the time taken tells nothing.
    matches = [key for key in known for each in given if secrets.compare_digest(each.encode(), key.encode())]
    if not matches:
        raise AuthenticationError("This API key is not known here.", message_zh="API 密钥无效。")
    return hashlib.sha256(matches[0].encode()).hexdigest()[:16]


def _given(headers: Mapping[str, str]) -> list[str]:
    scheme, _, bearer = headers.get("authorization", "").strip().partition(" ")
    given = [bearer if scheme.lower() == "bearer" else "", headers.get("api-key", ""), headers.get("x-api-key", "")]
    return [key.strip() for key in given if key.strip()]

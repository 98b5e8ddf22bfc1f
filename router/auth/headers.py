"""The keys that a request carries, in whichever header clients send them.

In: headers. Out: one key or none.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.datastructures import Headers

from router import texts
from router.errors import AuthenticationError


def sent_key(headers: Mapping[str, str]) -> str:
    """Return the key that a request carries; empty if it has none.

    ``Authorization: Bearer`` is OpenAI's way, ``api-key`` is Azure's, ``x-api-key`` is Anthropic's and many gateways'.

    Args:
        headers: looked up by lower-case names.

    Raises:
        AuthenticationError: if it carries keys that differ.
    """
    given = _all_keys(headers)
    if len(set(given)) > 1:
        raise AuthenticationError(texts.KEYS_DIFFER, code="conflicting_api_keys")
    return given[0] if given else ""


def looks_like_token(key: str) -> bool:
    """Whether a key is meant as a token: signed ones have two dots, encrypted ones four."""
    return key.count(".") in (2, 4)


def _all_keys(headers: Mapping[str, str]) -> list[str]:
    def values(name: str) -> list[str]:
        return headers.getlist(name) if isinstance(headers, Headers) else [headers.get(name, "")]

    sent = [each.strip().partition(" ") for each in values("authorization")]
    bearers = [key for scheme, _, key in sent if scheme.lower() == "bearer"]
    given = [*bearers, *values("api-key"), *values("x-api-key")]
    return [key.strip() for key in given if key.strip()]

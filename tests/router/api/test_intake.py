"""A route takes the caller that was found once, and only if its key is good for the route."""

from __future__ import annotations

import pytest
from fastapi import Request

from router.api.intake import caller_of
from router.auth.caller import LOCAL, SCOPES, Caller
from router.errors import AuthenticationError, PermissionDeniedError


def _request(**state: object) -> Request:
    return Request({"type": "http", "headers": [], "state": state})


@pytest.mark.parametrize("scope", sorted(SCOPES))
def test_a_key_is_good_for_its_own_scopes_only(scope: str) -> None:
    assert caller_of(_request(caller=LOCAL), scope) is LOCAL  # type: ignore[arg-type]
    for caller in (Caller("own_a", scopes=frozenset()), Caller("own_a", scopes=SCOPES - {scope})):  # type: ignore[arg-type]
        with pytest.raises(PermissionDeniedError, match=f"'{scope}'"):
            caller_of(_request(caller=caller), scope)  # type: ignore[arg-type]


def test_what_is_wrong_with_a_key_is_said_by_the_route() -> None:
    error = AuthenticationError("no")
    with pytest.raises(AuthenticationError) as raised:
        caller_of(_request(caller_error=error), "ask")
    assert raised.value is error

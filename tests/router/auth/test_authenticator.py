"""A key is found in whichever header clients send it."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from pydantic import SecretStr, ValidationError
from starlette.datastructures import Headers

from router.auth.authenticator import Authenticator, owner_of_key
from router.auth.caller import LOCAL, Caller
from router.errors import AuthenticationError
from router.settings import Settings

KEYS = [SecretStr("alice"), SecretStr("bob")]
ALICE = owner_of_key("alice")


async def identify(headers: Mapping[str, str], keys: list[SecretStr]) -> Caller:
    return await Authenticator(keys).identify(headers)


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "bearer  alice "},
        {"api-key": "alice"},
        {"x-api-key": " alice"},
        {"authorization": "Bearer", "api-key": "alice"},
        {"authorization": "Basic abc", "x-api-key": "alice"},
        {"authorization": "Bearer alice", "api-key": "alice", "x-api-key": " alice "},
        {"authorization": "Bearer alice", "x-api-key": ""},
    ],
    ids=str,
)
async def test_all_headers_of_clients_lead_to_the_same_owner(headers: dict[str, str]) -> None:
    assert (await identify(headers, KEYS)).owner == ALICE
    assert await identify(headers, []) == LOCAL


@pytest.mark.parametrize(
    "headers",
    [{}, {"api-key": ""}, {"authorization": "alice"}, {"x-api-key": "Alice"}, {"api-key": "ÿé"}, {"authorization": ""}],
    ids=str,
)
async def test_no_known_key_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(AuthenticationError):
        await identify(headers, KEYS)


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer alice", "x-api-key": "bob"},
        {"authorization": "Bearer bob", "api-key": "alice"},
        {"api-key": "alice", "x-api-key": "bob"},
        {"authorization": "Bearer unused", "api-key": "alice"},
        {"authorization": "Bearer alice", "x-api-key": "Alice"},
        Headers(raw=[(b"authorization", b"Bearer alice"), (b"authorization", b"Bearer bob")]),
        Headers(raw=[(b"x-api-key", b"alice"), (b"x-api-key", b"bob")]),
    ],
    ids=str,
)
async def test_keys_that_differ_are_refused_by_name_and_not_repeated(headers: Mapping[str, str]) -> None:
    with pytest.raises(AuthenticationError, match="differ") as refused:
        await identify(headers, KEYS)
    assert refused.value.code == "conflicting_api_keys"
    assert "alice" not in refused.value.message
    # Without keys nobody is told apart, and SDKs send one made up.
    assert await identify(headers, []) == LOCAL


@pytest.mark.parametrize("key", ["schlüssel", "钥匙", "two words", "tab\tkey", "a\u00a0b", "\x7f"])
@pytest.mark.parametrize("name", ["api_keys", "glm_api_key"])
def test_keys_that_no_client_can_send_stop_the_start_and_are_not_repeated(name: str, key: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Settings(**{name: f"good,{key}" if name == "api_keys" else key})  # type: ignore[arg-type]
    assert name in str(refused.value)
    assert key not in str(refused.value)

"""Whose a request is: keys and tokens side by side, and what neither may do."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.router.middleware.conftest import MakeApp, client_of
from tests.support.tokens import SECRET, secret, sign


def token(**claims: object) -> str:
    return sign({"alg": "HS256"}, {"sub": "alice", "exp": time.time() + 600, **claims}, secret())


@pytest.fixture
async def client(make_app: MakeApp) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(make_app(api_keys="a.b.c,glowl", jwt_secret=SECRET)) as client:
        yield client


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"authorization": "Bearer glowl"}, 200, None),
        ({"authorization": "Bearer a.b.c"}, 200, None),  # a key that looks like a token
        ({"authorization": "Bearer TOKEN"}, 200, None),
        ({"api-key": "TOKEN"}, 200, None),
        ({"authorization": "Bearer TOKEN", "x-api-key": "TOKEN"}, 200, None),
        ({"authorization": "Bearer TOKEN", "x-api-key": "glowl"}, 401, "conflicting_api_keys"),
        ({"authorization": "Bearer TOKEN", "x-api-key": "OTHER"}, 401, "conflicting_api_keys"),
        ({"authorization": "Bearer NOTHING"}, 403, "insufficient_scope"),
        ({"authorization": "Bearer x.y.z"}, 401, "invalid_token"),
        ({"authorization": "Bearer OLD"}, 401, "token_expired"),
        ({"authorization": "Bearer nothing"}, 401, "invalid_api_key"),
        ({}, 401, "invalid_api_key"),
    ],
    ids=str,
)
async def test_keys_and_tokens_side_by_side(
    client: httpx.AsyncClient, headers: dict[str, str], status: int, code: str | None
) -> None:
    made = {"TOKEN": token(), "OTHER": token(sub="bob"), "NOTHING": token(scope="openid"), "OLD": token(exp=1)}
    sent = {name: " ".join(made.get(word, word) for word in value.split()) for name, value in headers.items()}

    answer = await client.get("/v1/models", headers=sent)

    assert answer.status_code == status
    if code is not None:
        assert answer.json()["error"]["code"] == code
        assert not any(each in answer.text for each in made.values())

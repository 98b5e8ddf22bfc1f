"""Whose a request is: keys and tokens side by side, and what neither may do."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import httpx
import pytest

from router.limits.failures import MAX_FAILURES_PER_MINUTE, Failures
from router.middleware import callers
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


async def ask(client: httpx.AsyncClient, key: str, address: str) -> httpx.Response:
    headers = {"x-forwarded-for": address, **({"authorization": f"Bearer {key}"} if key else {})}
    return await client.get("/v1/models", headers=headers)


async def test_who_tries_keys_is_told_to_wait_and_others_are_not(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given somebody who uses a key at the address from which another one tries keys.
    evil, other = "203.0.113.7", "203.0.113.8"
    monkeypatch.setattr(callers, "Failures", lambda: Failures(lambda: 100.0))
    async with client_of(make_app(api_keys="mine,glowl", jwt_secret=SECRET)) as client:
        assert (await ask(client, "glowl", evil)).status_code == 200
        assert (await ask(client, token(), evil)).status_code == 200
        for number in range(MAX_FAILURES_PER_MINUTE):
            assert (await ask(client, f"guess-{number}", evil)).status_code == 401

        wrong, right = await ask(client, "guess", evil), await ask(client, "mine", evil)

        assert wrong.status_code == right.status_code == 429
        assert wrong.json() == right.json()
        assert wrong.json()["error"]["code"] == "rate_limit_exceeded"
        assert (right.headers["retry-after"], right.headers["retry-after-ms"]) == ("2", "2000")
        assert (await ask(client, "glowl", evil)).status_code == 200
        assert (await ask(client, token(exp=time.time() + 700), evil)).status_code == 200  # its owner's next one
        assert (await ask(client, token(sub="somebody new"), evil)).status_code == 429
        assert (await ask(client, "mine", other)).status_code == 200
        assert (await client.get("/healthz", headers={"x-forwarded-for": evil})).status_code == 200


@pytest.mark.parametrize("key", ["", "OLD"])
async def test_no_key_and_an_old_token_are_no_guesses(client: httpx.AsyncClient, key: str) -> None:
    sent = key and token(exp=1)
    for _ in range(MAX_FAILURES_PER_MINUTE + 5):
        assert (await ask(client, sent, "203.0.113.7")).status_code == 401


async def test_a_client_that_is_no_proxy_cannot_say_where_it_is(make_app: MakeApp) -> None:
    async with client_of(make_app(api_keys="glowl", trusted_proxies="")) as client:
        for number in range(MAX_FAILURES_PER_MINUTE + 5):  # of this machine, whatever it says: not counted
            assert (await ask(client, "guess", f"203.0.113.{number}")).status_code == 401

"""Tokens at a whole api: each kind of signature once, an issuer that changes its keys, and whom limits count."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from router.app import create_app
from router.auth import jwks as jwks_module
from router.settings import Settings
from tests.support.servers import AppServer, RedisProcess, wait_until
from tests.support.tokens import AUDIENCE, ISSUER, SECRET, ec, ed, jwks, rsa, secret, sign

CHAT = {"model": "glowl", "messages": [{"role": "user", "content": "你好"}]}
KINDS: dict[str, tuple[dict[str, str], Any]] = {
    "HS256": ({"alg": "HS256"}, secret()),
    "RS256": ({"alg": "RS256", "kid": "rsa"}, rsa()),
    "ES256": ({"alg": "ES256", "kid": "ec"}, ec()),
    "EdDSA": ({"alg": "EdDSA", "kid": "ed"}, ed()),
}


class Issuer:
    """Publishes keys at a URL; a test changes them."""

    def __init__(self) -> None:
        self.document = jwks(rsa(), ec(), ed())
        self.num_reads = 0
        self.server = AppServer(Starlette(routes=[Route("/keys", self._answer)]))
        self.url = f"{self.server.url}/keys"

    async def _answer(self, _request: Request) -> Response:
        self.num_reads += 1
        return Response(self.document, media_type="application/json")


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    issuer = Issuer()
    yield issuer
    issuer.server.stop()


@pytest.fixture(scope="module")
def service(issuer: Issuer, echo_urls: dict[str, str], redis_process: RedisProcess) -> Iterator[AppServer]:
    server = serve(echo_urls, redis_process, issuer.url, jwt_secret=SECRET, key_limits="requests=3")
    yield server
    server.stop()


def serve(echo_urls: dict[str, str], redis_process: RedisProcess, keys: str, **more: Any) -> AppServer:
    settings = Settings(
        REDIS_URL=redis_process.url.replace("db=0", "db=5"),
        glm_url=echo_urls["glm"],
        owl2_url=echo_urls["owl2"],
        jwt_jwks=keys,
        jwt_issuer=ISSUER,
        jwt_audience=AUDIENCE,
        jwt_scopes="ask",
        **more,
    )
    return AppServer(create_app(settings))


def token(kind: str = "RS256", *, sub: str = "alice", **changes: Any) -> str:
    header, key = KINDS[kind]
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": sub, "exp": time.time() + 600, **changes}
    return sign(header, claims, key)


def ask(service: AppServer, text: str) -> httpx.Response:
    with httpx.Client(base_url=service.url, trust_env=False, timeout=300) as http:
        return http.post("/v1/chat/completions", json=CHAT, headers={"authorization": f"Bearer {text}"})


def refusal(service: AppServer, text: str) -> str:
    answer = ask(service, text)
    return f"{answer.status_code}: {answer.json()['error']['message']}" if answer.is_error else "accepted"


@pytest.mark.parametrize("kind", KINDS)
def test_a_question_is_answered_with_a_token_of_each_kind(service: AppServer, kind: str) -> None:
    assert ask(service, token(kind, sub=kind)).status_code == 200
    header, key = KINDS[kind]
    assert (
        ask(
            service, sign(header, {"iss": ISSUER, "aud": "other", "sub": kind, "exp": time.time() + 60}, key)
        ).status_code
        == 401
    )


def test_all_tokens_of_one_user_are_one_key_for_limits(service: AppServer) -> None:
    # A new token for each request must not be a new bucket for each request.
    answers = [ask(service, token(sub="greedy", jti=str(number))) for number in range(4)]

    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert "limit of this key is reached" in answers[-1].json()["error"]["message"]
    assert ask(service, token(sub="modest")).status_code == 200


def test_keys_that_the_issuer_changes_are_read_again_and_no_more_often_than_that(
    service: AppServer, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given an old token that was accepted, and an issuer that now signs with another key
    old = token(sub="old")
    assert refusal(service, old) == "accepted"
    new_key = rsa("rsa-2")
    issuer.document = jwks(new_key)
    new = sign(
        {"alg": "RS256", "kid": "rsa-2"},
        {"iss": ISSUER, "aud": AUDIENCE, "sub": "new", "exp": time.time() + 60},
        new_key,
    )

    # When its first token comes, the pause since the last reading over
    monkeypatch.setattr(jwks_module, "MIN_PAUSE_S", 0.0)
    assert refusal(service, new) == "accepted"

    # Then the old key is no longer good, also of a token that was accepted before
    assert "that its issuer does not publish" in refusal(service, old)
    # And made-up names of keys make nobody read on and on.
    monkeypatch.setattr(jwks_module, "MIN_PAUSE_S", 3600.0)
    before = issuer.num_reads
    for number in range(20):
        made_up = sign({"alg": "RS256", "kid": f"made-up-{number}"}, {"sub": "x"}, rsa("other"))
        assert refusal(service, made_up).startswith(("401", "429"))
    assert issuer.num_reads == before


def test_a_file_of_keys_is_read_again_when_it_changes(
    echo_urls: dict[str, str], redis_process: RedisProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks_module, "FILE_AGE_S", 0.0)
    path = tmp_path / "keys.json"
    path.write_bytes(jwks(rsa()))
    service = serve(echo_urls, redis_process, str(path))
    text = token(sub="of-a-file")
    assert refusal(service, text) == "accepted"

    path.write_bytes(jwks(ec()))

    wait_until(lambda: refusal(service, text).startswith("401"), "the old key to be gone")
    assert refusal(service, token("ES256", sub="of-a-file")) == "accepted"
    # What is no JWKS changes nothing: the last good set is used.
    path.write_text(json.dumps({"oops": 1}))
    assert refusal(service, token("ES256", sub="of-a-file")) == "accepted"
    service.stop()

"""The issuer's keys: which are used, when they are read again, and what a source that is away changes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from router.auth import jwks as module
from router.auth.jwks import FIRST_PAUSE_S, MIN_PAUSE_S, JwksError, JwksSource, make_source, parse_jwks
from router.errors import KeysUnavailableError
from router.settings import Settings
from tests.support.clock import Clock
from tests.support.tokens import AUDIENCE, ISSUER, ec, ed, jwks, rsa

AGE_S = 600.0


class Place:
    """Where a set is read; a test changes what is there, or takes it away."""

    def __init__(self, document: bytes | None) -> None:
        self.document = document
        self.num_reads = 0

    async def read(self) -> bytes:
        self.num_reads += 1
        if self.document is None:
            raise OSError("away")
        return self.document


@pytest.fixture
def clock() -> Clock:
    return Clock(1000.0)


@pytest.fixture
def place() -> Place:
    return Place(jwks(rsa()))


@pytest.fixture
async def source(place: Place, clock: Clock) -> AsyncIterator[JwksSource]:
    source = JwksSource(place.read, max_age_s=AGE_S, clock=clock)
    yield source
    await source.aclose()


def _kids(document: bytes) -> dict[str | None, list[str]]:
    return {key.kid: sorted(key.algorithms) for key in parse_jwks(document).keys}


def test_a_keys_type_says_its_algorithms_and_its_own_alg_narrows_them() -> None:
    keys = jwks(rsa(), ec(), ec("p384", "P-384"), ed())
    assert _kids(keys) == {
        "rsa": ["PS256", "PS384", "PS512", "RS256", "RS384", "RS512"],
        "ec": ["ES256"],
        "p384": ["ES384"],
        "ed": ["Ed25519", "EdDSA"],
    }
    assert _kids(jwks(rsa(), alg="RS256")) == {"rsa": ["RS256"]}


@pytest.mark.parametrize(
    "entry",
    [
        {"kty": "oct", "k": "c2VjcmV0", "kid": "x"},
        {"kty": "AKP", "kid": "x"},
        {"kid": "x"},
        {"kty": ["RSA"]},
        {"kty": "RSA", "n": 7, "e": "AQAB"},
        {"kty": "RSA", "n": "AQAB"},
        {"kty": "EC", "crv": "P-256", "x": "AQ", "y": "AQ"},
        {"kty": "EC", "crv": "secp256k1", "x": "AQ", "y": "AQ"},
        "no object",
    ],
    ids=str,
)
def test_keys_of_other_kinds_and_broken_ones_are_left_out(entry: object) -> None:
    document = json.dumps({"keys": [entry, json.loads(jwks(rsa()))["keys"][0]]}).encode()
    assert list(_kids(document)) == ["rsa"]


@pytest.mark.parametrize(
    "more",
    [{"use": "enc"}, {"key_ops": ["sign"]}, {"key_ops": "verify"}, {"alg": "HS256"}, {"alg": "RSA-OAEP"}, {"kid": 7}],
    ids=str,
)
def test_a_key_for_another_use_is_no_key_of_ours(more: dict[str, Any]) -> None:
    with pytest.raises(JwksError, match="no key"):
        parse_jwks(jwks(rsa(), **more))


@pytest.mark.filterwarnings("ignore::joserfc.errors.SecurityWarning")
def test_a_short_rsa_key_is_left_out_and_of_a_private_one_only_its_public_half_is_kept() -> None:
    with pytest.raises(JwksError, match="2048 bits"):
        parse_jwks(jwks(rsa("short", 1024)))
    private = json.dumps({"keys": [rsa().as_dict(private=True)]}).encode()
    assert not parse_jwks(private).keys[0].key.is_private


@pytest.mark.parametrize("document", [b"", b"{", b"[]", b"{}", b'{"keys": {}}', b'{"keys": []}', b"\xff\xfe"], ids=repr)
def test_what_is_no_set_is_refused(document: bytes) -> None:
    with pytest.raises(JwksError):
        parse_jwks(document)


def test_a_name_that_several_keys_have_is_none() -> None:
    twice = parse_jwks(json.dumps({"keys": [json.loads(jwks(each))["keys"][0] for each in (rsa(), rsa())]}).encode())
    assert twice.find("rsa", "RS256") is None


async def test_a_set_is_read_once_for_many_and_again_beside_them_when_it_is_old(
    source: JwksSource, place: Place, clock: Clock
) -> None:
    sets = await asyncio.gather(*(source.current() for _ in range(10)))
    assert place.num_reads == 1
    assert len({each.digest for each in sets}) == 1

    clock.now += AGE_S
    place.document = jwks(ec())
    assert (await source.current()).keys[0].kid == "rsa"  # nobody waits for it
    assert (await source.newer()).keys[0].kid == "ec"
    assert place.num_reads == 2


async def test_an_unknown_key_makes_the_set_be_read_at_most_every_thirty_seconds(
    source: JwksSource, place: Place, clock: Clock
) -> None:
    await source.current()
    for _ in range(5):
        clock.now += MIN_PAUSE_S / 5 - 0.1
        await source.newer()
    assert place.num_reads == 1
    clock.now += 1.0
    await asyncio.gather(*(source.newer() for _ in range(10)))
    assert place.num_reads == 2


async def test_a_source_that_is_away_keeps_the_last_set_and_does_not_say_what_is_unknown(
    source: JwksSource, place: Place, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    await source.current()
    right = place.document
    for broken in (None, b"<html>", b'{"keys": []}'):
        clock.now += AGE_S
        place.document = broken
        with pytest.raises(KeysUnavailableError):
            await source.newer()
        assert (await source.current()).keys[0].kid == "rsa"
    assert caplog.text.count("the last good one is used") == 1

    clock.now += MIN_PAUSE_S  # not only after the age of a good one
    place.document = right
    await source.current()
    assert (await source.newer()).keys[0].kid == "rsa"


async def test_without_any_set_it_is_tried_again_soon_and_not_at_each_request(
    source: JwksSource, place: Place, clock: Clock
) -> None:
    right, place.document = place.document, None
    for _ in range(3):
        with pytest.raises(KeysUnavailableError) as refused:
            await source.current()
    assert place.num_reads == 1
    assert refused.value.status_code == 503
    assert refused.value.retry_after_s is not None

    place.document = right
    clock.now += FIRST_PAUSE_S
    assert (await source.current()).keys[0].kid == "rsa"


def _settings(where: object) -> Settings:
    return Settings(jwt_jwks=str(where), jwt_issuer=ISSUER, jwt_audience=AUDIENCE)  # type: ignore[arg-type]


async def test_a_file_is_read_again_when_it_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MIN_PAUSE_S", 0.0)
    file = tmp_path / "keys.json"
    file.write_bytes(jwks(rsa()))
    source = make_source(_settings(file))
    assert source is not None
    assert (await source.current()).keys[0].kid == "rsa"

    file.write_bytes(jwks(ec()))

    assert (await source.newer()).keys[0].kid == "ec"
    await source.aclose()


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda file: None, "cannot be read"),
        (lambda file: file.mkdir(), "cannot be read"),
        (lambda file: file.write_text("-----BEGIN PUBLIC KEY-----"), "not JSON"),
        (lambda file: file.write_bytes(b"{}"), "no list"),
        (lambda file: file.write_bytes(b" " * 300_000), "larger than"),
    ],
    ids=["missing", "folder", "PEM", "empty", "huge"],
)
def test_a_file_that_is_no_set_stops_the_start(tmp_path: Path, write: Callable[[Path], object], says: str) -> None:
    write(tmp_path / "keys.json")
    with pytest.raises(JwksError, match=says):
        make_source(_settings(tmp_path / "keys.json"))


@pytest.mark.parametrize(
    ("url", "is_fine"),
    [
        ("https://login.example.com/keys", True),
        ("http://login.example.com/keys", False),
        ("http://8.8.8.8/keys", False),
        ("http://127.0.0.1:8080/keys", True),
        ("http://10.0.0.7/keys", True),
        ("http://keycloak:8080/keys", True),
        ("http://keycloak.auth.svc/keys", True),
        ("http://localhost/keys", True),
        ("https://user:pw@login.example.com/keys", False),
        ("file:///etc/keys.json", False),
        ("https://", False),
    ],
)
def test_plain_http_is_for_the_own_network(url: str, is_fine: bool) -> None:
    if is_fine:
        assert make_source(_settings(url)) is not None
    else:
        with pytest.raises(JwksError):
            make_source(_settings(url))


async def test_a_url_is_fetched_without_following_redirects() -> None:
    async def keys(_request: web.Request) -> web.Response:
        return web.Response(body=jwks(rsa()))

    async def moved(_request: web.Request) -> web.Response:
        raise web.HTTPFound("/keys")

    app = web.Application()
    app.router.add_get("/keys", keys)
    app.router.add_get("/moved", moved)
    async with TestServer(app) as server:
        source, elsewhere = (make_source(_settings(server.make_url(path))) for path in ("/keys", "/moved"))
        assert source is not None
        assert elsewhere is not None
        assert (await source.current()).keys[0].kid == "rsa"
        with pytest.raises(KeysUnavailableError):
            await elsewhere.current()
        await source.aclose()
        await elsewhere.aclose()

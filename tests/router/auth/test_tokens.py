"""Tokens: right algorithms are accepted, attacks are refused, and what was checked is kept as long as it holds."""

from __future__ import annotations

import json
from typing import Any

import pytest
from joserfc import jwe
from joserfc.jwk import OctKey

from router import texts
from router.auth.headers import looks_like_token
from router.auth.jwks import JwksSource
from router.auth.tokens import LEEWAY_S, MAX_TOKEN_CHARS, TokenVerifier, make_verifier, owner_id
from router.errors import AuthenticationError
from router.settings import Settings, SettingsError
from tests.support.tokens import AUDIENCE, CLAIMS, ISSUER, NOW, SECRET, ec, ed, jwks, part, rsa, secret, sign

ALICE = owner_id(ISSUER, "sub", "alice")
RS256 = {"alg": "RS256", "kid": "rsa"}
HS256 = {"alg": "HS256"}


class Issuer:
    """A source of keys whose document a test changes; `now` is the clock of it and of the verifier."""

    def __init__(self, *keys: Any) -> None:
        self.document = jwks(*keys)
        self.now = float(NOW)
        self.num_reads = 0
        self.source = JwksSource(self._read, max_age_s=600.0, clock=lambda: self.now)

    async def _read(self) -> bytes:
        self.num_reads += 1
        return self.document

    def verifier(self, **changes: Any) -> TokenVerifier:
        options = {"secrets": [SECRET], "jwks": self.source, "issuer": ISSUER, "audiences": [AUDIENCE]}
        return TokenVerifier(**{**options, **changes}, clock=lambda: self.now)


@pytest.mark.parametrize(
    ("header", "key"),
    [
        (HS256, secret()),
        *(({"alg": name, "kid": "rsa"}, rsa()) for name in ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")),
        ({"alg": "ES256", "kid": "ec"}, ec()),
        ({"alg": "ES384", "kid": "ec384"}, ec("ec384", "P-384")),
        ({"alg": "EdDSA", "kid": "ed"}, ed()),
        ({"alg": "Ed25519", "kid": "ed"}, ed()),
        # The only key of its algorithm needs no name.
        ({"alg": "ES256"}, ec()),
        ({**RS256, "typ": "at+jwt"}, rsa()),
        # What points to other keys is passed over: the key of the issuer has signed it.
        ({**RS256, "jku": "https://evil.example/keys", "x5u": "https://evil.example/x", "jwk": {"kty": "oct"}}, rsa()),
        ({**RS256, "x5t": "abc", "nonce": "unknown to us"}, rsa()),
    ],
    ids=lambda each: json.dumps(each) if isinstance(each, dict) else "",
)
async def test_every_right_algorithm_is_accepted(header: dict[str, Any], key: Any) -> None:
    verified = await Issuer(rsa(), ec(), ec("ec384", "P-384"), ed()).verifier().verify(sign(header, CLAIMS, key))

    assert verified.owner == ALICE
    assert verified.expires_at == CLAIMS["exp"] + LEEWAY_S
    assert verified.key_id.startswith("jwt_")


@pytest.mark.parametrize("claim", ["sub", "tenant"])
async def test_all_tokens_of_one_user_have_one_name_for_limits(claim: str) -> None:
    verifier = Issuer(rsa()).verifier(owner_claim=claim)

    async def user(**changes: str) -> str:
        return (await verifier.verify(sign(RS256, {"tenant": "lab", **CLAIMS, **changes}, rsa()))).user

    assert await user() == await user(jti="another token") == ALICE
    assert await user(sub="bob") != ALICE


def _forged(header: dict[str, Any]) -> str:
    """The RS256 token with another header, unsigned: a signature of it would need the issuer's key."""
    return f"{part(header)}.{part(CLAIMS)}."


def _encrypted() -> str:
    key = OctKey.import_key(SECRET[:32])
    return jwe.encrypt_compact({"alg": "dir", "enc": "A256GCM"}, json.dumps(CLAIMS), key)


def _changed(**changes: Any) -> str:
    return sign(RS256, {**CLAIMS, **changes}, rsa())


def _without(name: str) -> str:
    return sign(RS256, {key: value for key, value in CLAIMS.items() if key != name}, rsa())


_HEAD, _BODY, _SIGNATURE = sign(RS256, CLAIMS, rsa()).split(".")
_PEM = rsa().as_pem(private=False)
_RAW = OctKey(_PEM, _PEM)  # what `import_key` refuses to do, an attacker's own code does
_PUBLIC = OctKey.import_key(jwks(rsa()))
_ATTACKS = {
    "alg none": (_forged({"alg": "none"}), texts.TOKEN_ALGORITHM),
    "alg none with a kid": (_forged({"alg": "none", "kid": "rsa"}), texts.TOKEN_ALGORITHM),
    "alg None, spelled otherwise": (_forged({"alg": "nOnE"}), texts.TOKEN_ALGORITHM),
    "alg none, and a signature": (f"{part({'alg': 'none'})}.{part(CLAIMS)}.{_SIGNATURE}", texts.TOKEN_ALGORITHM),
    "alg missing": (f"{part({'kid': 'rsa'})}.{_BODY}.{_SIGNATURE}", texts.TOKEN_FORM),
    "alg a list": (f"{part({'alg': ['RS256']})}.{_BODY}.{_SIGNATURE}", texts.TOKEN_FORM),
    "signature left out": (f"{_HEAD}.{_BODY}.", texts.TOKEN_SIGNATURE),
    "signature of another token": (f"{_HEAD}.{part({**CLAIMS, 'sub': 'bob'})}.{_SIGNATURE}", texts.TOKEN_SIGNATURE),
    "HS256 with the public key as the secret, PEM": (
        sign({"alg": "HS256", "kid": "rsa"}, CLAIMS, _RAW),
        texts.TOKEN_SIGNATURE,
    ),
    "HS256 with the public key as the secret, JWKS": (sign(HS256, CLAIMS, _PUBLIC), texts.TOKEN_SIGNATURE),
    "HS256 with a guessed secret": (
        sign(HS256, CLAIMS, secret("another-secret-of-thirty-two-bytes")),
        texts.TOKEN_SIGNATURE,
    ),
    "HS512 with the right secret": (sign({"alg": "HS512"}, CLAIMS, secret()), texts.TOKEN_ALGORITHM),
    "another RSA key under the same kid": (sign(RS256, CLAIMS, rsa("other")), texts.TOKEN_SIGNATURE),
    "another algorithm than the key's": (sign({"alg": "ES256", "kid": "rsa"}, CLAIMS, ec()), texts.TOKEN_UNKNOWN_KID),
    "ES256 with a signature of zeros": (
        f"{part({'alg': 'ES256', 'kid': 'ec'})}.{_BODY}.{part(bytes(64))}",
        texts.TOKEN_SIGNATURE,
    ),
    "ES256 with no signature": (f"{part({'alg': 'ES256', 'kid': 'ec'})}.{_BODY}.", texts.TOKEN_SIGNATURE),
    "unknown kid": (sign({**RS256, "kid": "gone"}, CLAIMS, rsa()), texts.TOKEN_UNKNOWN_KID),
    "kid is a path": (sign({**RS256, "kid": "../../../dev/null"}, CLAIMS, rsa()), texts.TOKEN_UNKNOWN_KID),
    "kid is SQL": (sign({**RS256, "kid": "x' UNION SELECT 'k"}, CLAIMS, rsa()), texts.TOKEN_UNKNOWN_KID),
    "kid is empty": (sign({**RS256, "kid": ""}, CLAIMS, rsa()), texts.TOKEN_UNKNOWN_KID),
    "kid is a number": (f"{part({**RS256, 'kid': 7})}.{_BODY}.{_SIGNATURE}", texts.TOKEN_FORM),
    "no kid, with two keys": (sign({"alg": "RS256"}, CLAIMS, rsa()), texts.TOKEN_NO_KID),
    "an own key in jwk": (
        sign({"alg": "ES256", "kid": "mine", "jwk": ec("mine").as_dict(private=False)}, CLAIMS, ec("mine")),
        texts.TOKEN_UNKNOWN_KID,
    ),
    "an own key behind jku": (
        sign({"alg": "ES256", "kid": "mine", "jku": "http://169.254.169.254/keys"}, CLAIMS, ec("mine")),
        texts.TOKEN_UNKNOWN_KID,
    ),
    "crit": (sign({**RS256, "crit": ["exp"], "exp": 1}, CLAIMS, rsa()), texts.TOKEN_CRITICAL),
    "crit is empty": (sign({**RS256, "crit": []}, CLAIMS, rsa()), texts.TOKEN_CRITICAL),
    "b64 false": (sign({**RS256, "b64": False, "crit": ["b64"]}, CLAIMS, rsa()), texts.TOKEN_CRITICAL),
    "typ of another use": (sign({**RS256, "typ": "logout+jwt"}, CLAIMS, rsa()), texts.TOKEN_TYPE),
    "JWE": (_encrypted(), texts.TOKEN_FORM),
    "nested": (sign({**RS256, "cty": "JWT"}, f"{_HEAD}.{_BODY}.{_SIGNATURE}", rsa()), texts.TOKEN_SIGNATURE),
    "claims are a list": (sign(RS256, [CLAIMS], rsa()), texts.TOKEN_SIGNATURE),
    "claims are no JSON": (sign(RS256, "sub=alice", rsa()), texts.TOKEN_SIGNATURE),
    "alg twice": (sign('{"alg":"none","kid":"rsa","alg":"RS256"}', CLAIMS, rsa()), texts.TOKEN_FORM),
    "sub twice": (sign(RS256, json.dumps(CLAIMS)[:-1] + ',"sub":"bob"}', rsa()), texts.TOKEN_SIGNATURE),
    "exp is NaN": (_changed(exp=float("nan")), texts.TOKEN_SIGNATURE),
    "exp is Infinity": (_changed(exp=float("inf")), texts.TOKEN_SIGNATURE),
    "exp is a text": (_changed(exp=str(NOW + 600)), texts.TOKEN_CLAIM.fill(claim="exp")),
    "exp is true": (_changed(exp=True), texts.TOKEN_CLAIM.fill(claim="exp")),
    "exp is in milliseconds": (_changed(exp=NOW * 1000), texts.TOKEN_CLAIM.fill(claim="exp")),
    "exp has 400 digits": (_changed(exp=10**400), texts.TOKEN_CLAIM.fill(claim="exp")),
    "exp missing": (_without("exp"), texts.TOKEN_CLAIM.fill(claim="exp")),
    "not yet": (_changed(nbf=NOW + LEEWAY_S + 1), texts.TOKEN_EARLY),
    "made in the future": (_changed(iat=NOW + LEEWAY_S + 1), texts.TOKEN_EARLY),
    "wrong iss": (_changed(iss="https://login.example.com.evil.example"), texts.TOKEN_ISSUER),
    "iss missing": (_without("iss"), texts.TOKEN_ISSUER),
    "iss a list": (_changed(iss=[ISSUER]), texts.TOKEN_ISSUER),
    "wrong aud": (_changed(aud="another"), texts.TOKEN_AUDIENCE),
    "wrong auds": (_changed(aud=["another", "glowl2"]), texts.TOKEN_AUDIENCE),
    "aud missing": (_without("aud"), texts.TOKEN_AUDIENCE),
    "aud is a piece of the right one": (_changed(aud="glow"), texts.TOKEN_AUDIENCE),
    "sub missing": (_without("sub"), texts.TOKEN_OWNER.fill(claim="sub")),
    "sub empty": (_changed(sub=" "), texts.TOKEN_OWNER.fill(claim="sub")),
    "sub a number": (_changed(sub=7), texts.TOKEN_CLAIM.fill(claim="sub")),
    "header is no JSON": (f"{part('{')}.{_BODY}.{_SIGNATURE}", texts.TOKEN_FORM),
    "header is a list": (f"{part(['alg'])}.{_BODY}.{_SIGNATURE}", texts.TOKEN_FORM),
    "header is nested too deep": (f"{part('[' * 3000)}.{_BODY}.{_SIGNATURE}", texts.TOKEN_FORM),
    "header is not UTF-8": (f"{part(bytes([255, 254]))}.{_BODY}.{_SIGNATURE}", texts.TOKEN_FORM),
    "padding": (f"{_HEAD}.{_BODY}.{_SIGNATURE}==", texts.TOKEN_FORM),
    "signs between": (f"{_HEAD}.{_BODY}\n.{_SIGNATURE}", texts.TOKEN_FORM),
    "a part too many": (f"{_HEAD}.{_BODY}.{_SIGNATURE}.x", texts.TOKEN_FORM),
    "too long": (
        sign(RS256, {**CLAIMS, "pad": "x" * MAX_TOKEN_CHARS}, rsa()),
        texts.TOKEN_TOO_LONG.fill(limit=MAX_TOKEN_CHARS),
    ),
}


@pytest.mark.parametrize("attack", _ATTACKS)
async def test_every_attack_is_refused_and_named(attack: str) -> None:
    token, said = _ATTACKS[attack]
    verifier = Issuer(rsa(), rsa("second"), ec()).verifier()

    for _ in range(2):  # what was refused is refused again
        with pytest.raises(AuthenticationError) as refused:
            await verifier.verify(token)
        assert (refused.value.code, refused.value.status_code) == ("invalid_token", 401)
        assert refused.value.text == said
        assert token not in refused.value.message


async def test_an_expired_token_has_a_code_of_its_own_also_if_it_was_good_before() -> None:
    issuer = Issuer(rsa())
    verifier, token = issuer.verifier(), sign(RS256, CLAIMS, rsa())
    issuer.now = CLAIMS["exp"] + LEEWAY_S - 1
    await verifier.verify(token)
    issuer.now += 1

    for each in (verifier, issuer.verifier()):
        with pytest.raises(AuthenticationError) as refused:
            await each.verify(token)
        assert refused.value.code == "token_expired"


async def test_a_checked_token_is_not_checked_again_until_the_keys_change(monkeypatch: pytest.MonkeyPatch) -> None:
    issuer = Issuer(rsa())
    verifier, token = issuer.verifier(), sign(RS256, CLAIMS, rsa())
    first = await verifier.verify(token)
    with monkeypatch.context() as patch:
        patch.setattr(
            "router.auth.tokens.jws.deserialize_compact", lambda *_args, **_more: pytest.fail("it was checked again")
        )
        assert await verifier.verify(token) is first

    issuer.document = jwks(rsa("second"))  # the issuer has revoked the key
    issuer.now += 601
    await verifier.verify(token)  # begins to read the set, which takes nothing from who asks
    await issuer.source.newer()

    with pytest.raises(AuthenticationError):
        await verifier.verify(token)


async def test_two_issuers_and_two_claims_never_meet_in_one_owner() -> None:
    ids = {
        owner_id("https://a", "sub", "x"),
        owner_id("https://b", "sub", "x"),
        owner_id("https://a", "email", "x"),
        owner_id("https://a", "sub", "y"),
        owner_id("", "sub", "x"),
        owner_id('https://a", "sub', "", "x"),
    }
    assert len(ids) == 6
    assert all(len(each) == 28 and each.startswith("own_") for each in ids)
    claims = {**CLAIMS, "tenant": "acme"}
    verified = await Issuer(rsa()).verifier(owner_claim="tenant").verify(sign(RS256, claims, rsa()))
    assert verified.owner == owner_id(ISSUER, "tenant", "acme")


async def test_a_surrogate_in_a_claim_is_an_owner_like_another() -> None:
    verified = await Issuer(rsa()).verifier().verify(_changed(sub="\ud800"))
    assert verified.owner.startswith("own_")


@pytest.mark.parametrize(
    ("claims", "scopes"),
    [
        ({}, ["ask", "jobs"]),
        ({"scope": "openid ask files profile"}, ["ask", "files"]),
        ({"scope": ["jobs", 7, "admin"]}, ["admin", "jobs"]),
        ({"scp": "ask"}, ["ask"]),
        ({"scope": "openid"}, []),
        ({"scope": ""}, []),
        ({"scope": None}, []),
        ({"scope": {"ask": True}}, []),
    ],
    ids=str,
)
async def test_scopes_are_those_of_ours_that_the_token_names(claims: dict[str, Any], scopes: list[str]) -> None:
    verifier = Issuer(rsa()).verifier(default_scopes=frozenset({"ask", "jobs"}))

    assert sorted((await verifier.verify(_changed(**claims))).scopes) == scopes


async def test_a_secret_alone_needs_no_issuer_but_takes_no_token_that_is_for_somebody_else() -> None:
    verifier = TokenVerifier(secrets=["an-older-secret-of-thirty-two-bytes!", SECRET], clock=lambda: NOW)

    verified = await verifier.verify(sign(HS256, {"sub": "alice", "exp": NOW + 1}, secret()))

    assert verified.owner == owner_id("", "sub", "alice")
    for header, key in ((HS256, secret()), (RS256, rsa())):
        with pytest.raises(AuthenticationError):
            await verifier.verify(sign(header, CLAIMS, key))


async def test_no_more_tokens_are_kept_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.auth.tokens._MAX_KEPT", 2)
    verifier = TokenVerifier(secrets=[SECRET], clock=lambda: NOW)
    tokens = [sign(HS256, {"sub": name, "exp": NOW + 1}, secret()) for name in "abc"]
    first, second, third = [await verifier.verify(token) for token in tokens]

    assert await verifier.verify(tokens[2]) is third
    assert await verifier.verify(tokens[1]) is second
    assert await verifier.verify(tokens[0]) is not first


def test_what_is_meant_as_a_token() -> None:
    assert looks_like_token("a.b.c")
    assert looks_like_token("a.b.c.d.e")
    assert not any(looks_like_token(key) for key in ("glowl_abc", "a.b", "", "sk-1.2.3.4"))


@pytest.mark.parametrize(
    "settings",
    [
        {"jwt_issuer": ISSUER},
        {"jwt_audience": AUDIENCE},
        {"jwt_jwks": "/nowhere", "jwt_issuer": "i", "jwt_audience": "a"},
    ],
    ids=str,
)
def test_settings_with_which_no_token_could_be_checked_are_refused(settings: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="GLOWL_JWT_"):
        make_verifier(Settings(**settings))  # type: ignore[arg-type]

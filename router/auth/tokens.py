"""JSON Web Tokens: who calls, said and signed by an issuer instead of a key that is kept here.

In: the text of a bearer token. Out: its owner and scopes, or a 401 that says what is wrong with it. The algorithm is
never the token's choice: a key of the service allows those of its own type, and a token must use one of them.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from joserfc import jws, jwt
from joserfc.errors import ClaimError, ExpiredTokenError, JoseError
from joserfc.jwk import OctKey
from joserfc.jws import JWSRegistry
from joserfc.util import urlsafe_b64decode

from engines.json_check import parse
from policies.text import Text
from router import texts
from router.auth.caller import SCOPES, Scope
from router.auth.jwks import JwksError, JwksSource, VerifyingKey, make_source
from router.errors import AuthenticationError
from router.settings import Settings, SettingsError

MAX_TOKEN_CHARS: Final = 8192
# Clocks of two machines differ by this much at most.
LEEWAY_S: Final = 30
_MAX_KEPT: Final = 4096
# The year 9999: a later `exp` was written in milliseconds, and such a token would never expire.
_MAX_EXP: Final = 253_370_764_800
_SHAPE: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")
# RFC 8725: a token of another kind (of a logout, of a key's proof) from the same issuer is no pass.
_TYPES: Final = frozenset({"jwt", "at+jwt", "application/jwt", "application/at+jwt"})
# Where issuers put scopes: RFC 8693's name, then Microsoft's.
_SCOPE_CLAIMS: Final = ("scope", "scp")


@dataclass(frozen=True, slots=True)
class Verified:
    """What a token says, once it is believed.

    Attributes:
        owner: the id of whom it speaks for, made of issuer and claim.
        key_id: a name of the token for logs, from which it cannot be made.
        user: made of issuer and subject: the same for all tokens of one user.
        scopes: those of ours that it gives.
        expires_at: seconds since the epoch, leeway included.
    """

    owner: str
    key_id: str
    user: str
    scopes: frozenset[Scope]
    expires_at: float


class _Registry(JWSRegistry):
    """The algorithms of one key. What a header has beside them is passed over, as RFC 7515 wants."""

    max_header_length = max_payload_length = MAX_TOKEN_CHARS

    def __init__(self, algorithms: frozenset[str]) -> None:
        super().__init__(algorithms=algorithms, strict_check_header=False)

    def get_alg(self, name: str) -> Any:
        """Return an algorithm of the key; without the warning at EdDSA, whose newer name few issuers write yet."""
        assert name in (self.allowed or ())
        return self.algorithms[name]


def owner_id(issuer: str, claim: str, value: str) -> str:
    """Return the owner whom an issuer's claim stands for: the same each time, and another one for each issuer."""
    said = json.dumps([issuer, claim, value]).encode()
    return f"own_{hashlib.sha256(said).hexdigest()[:24]}"


class TokenVerifier:
    """Checks tokens, and keeps what it found until they expire.

    Args:
        secrets: of HS256; any of them is accepted.
        jwks: the issuer's public keys.
        issuer: what ``iss`` must be; None: anything.
        audiences: one of them must be in ``aud``; none: a token for somebody is refused.
        owner_claim: which claim names the owner.
        default_scopes: of a token without a claim of scopes.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        *,
        secrets: Sequence[str] = (),
        jwks: JwksSource | None = None,
        issuer: str | None = None,
        audiences: Sequence[str] = (),
        owner_claim: str = "sub",
        default_scopes: frozenset[Scope] = frozenset(),
        clock: Callable[[], float] = time.time,
    ) -> None:
        hs256 = frozenset({"HS256"})
        self._secrets = tuple(VerifyingKey(OctKey.import_key(secret), None, hs256) for secret in secrets)
        self._jwks = jwks
        self._owner_claim = owner_claim
        self._default_scopes = default_scopes
        self._clock = clock
        self._issuer = issuer
        self._audiences = list(audiences)
        self._kept: OrderedDict[bytes, tuple[Verified, bytes]] = OrderedDict()

    async def verify(self, token: str) -> Verified:
        """Check a token, or find it among those that were checked.

        Raises:
            AuthenticationError: if anything about it is not right.
            KeysUnavailableError: if the issuer's keys cannot be read, so that the token cannot be checked.
        """
        if len(token) > MAX_TOKEN_CHARS:
            raise AuthenticationError(texts.TOKEN_TOO_LONG.fill(limit=MAX_TOKEN_CHARS), code="invalid_token")
        digest = hashlib.sha256(token.encode()).digest()
        if self._jwks is not None:
            self._jwks.look()
        kept = self._kept.get(digest)
        if kept is not None and kept[1] == self._keys_digest and self._clock() < kept[0].expires_at:
            self._kept.move_to_end(digest)
            return kept[0]
        self._kept.pop(digest, None)
        if _SHAPE.fullmatch(token) is None:
            refuse(texts.TOKEN_FORM)
        claims = await self._read(token)
        verified = self._to_verified(claims, key_id=f"jwt_{digest.hex()[:12]}")
        self._kept[digest] = verified, self._keys_digest
        if len(self._kept) > _MAX_KEPT:
            self._kept.popitem(last=False)
        return verified

    def start(self) -> None:
        """Begin to read the issuer's keys, so that the first token need not wait for them."""
        if self._jwks is not None:
            self._jwks.look()

    async def aclose(self) -> None:
        """Stop reading the issuer's keys."""
        if self._jwks is not None:
            await self._jwks.aclose()

    @property
    def _keys_digest(self) -> bytes:
        return self._jwks.digest if self._jwks is not None else b""

    async def _read(self, token: str) -> dict[str, Any]:
        """Return the claims of a token that a key of ours has signed."""
        header = _read_header(token)
        algorithm, kid = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str) or not isinstance(kid, str | None):
            refuse(texts.TOKEN_FORM)
        if algorithm == "HS256":
            keys: Sequence[VerifyingKey] = self._secrets
        else:
            keys = await self._find(kid, algorithm)
        for key in keys:
            try:
                signed = jws.deserialize_compact(token, key.key, registry=_Registry(key.algorithms))
                claims = parse(signed.payload.decode())
            except (JoseError, ValueError):  # no JSON signed by this key: try the next one
                continue
            if isinstance(claims, dict):
                return claims
        refuse(texts.TOKEN_SIGNATURE if keys else texts.TOKEN_ALGORITHM)

    async def _find(self, kid: str | None, algorithm: str) -> list[VerifyingKey]:
        if self._jwks is None:
            return []
        found = await self._jwks.current()
        if (key := found.find(kid, algorithm)) is None:
            found = await self._jwks.newer()
            key = found.find(kid, algorithm)
        if key is not None:
            return [key]
        if not any(algorithm in each.algorithms for each in found.keys):
            return []
        refuse(texts.TOKEN_NO_KID if kid is None else texts.TOKEN_UNKNOWN_KID)

    def _to_verified(self, claims: dict[str, Any], *, key_id: str) -> Verified:
        self._check(claims)
        owner = claims.get(self._owner_claim)
        if not isinstance(owner, str) or not owner.strip():
            refuse(texts.TOKEN_OWNER.fill(claim=self._owner_claim))
        issuer, subject = claims.get("iss", ""), claims.get("sub")
        owner = owner_id(issuer, self._owner_claim, owner)
        return Verified(
            owner=owner,
            key_id=key_id,
            user=owner_id(issuer, "sub", subject) if isinstance(subject, str) else owner,
            scopes=self._scopes(claims),
            expires_at=claims["exp"] + LEEWAY_S,
        )

    def _check(self, claims: dict[str, Any]) -> None:
        options: dict[str, jwt.ClaimsOption] = {"exp": {"essential": True}}
        if self._issuer is not None:
            options["iss"] = {"essential": True, "value": self._issuer}
        if self._audiences:
            options["aud"] = {"essential": True, "values": self._audiences}
        elif claims.get("aud") is not None:
            refuse(texts.TOKEN_AUDIENCE)
        try:
            jwt.JWTClaimsRegistry(now=int(self._clock()), leeway=LEEWAY_S, **options).validate(claims)
        except ExpiredTokenError:
            raise AuthenticationError(texts.TOKEN_EXPIRED, code="token_expired") from None
        except ClaimError as error:
            refuse(_OF_CLAIM.get(error.claim, texts.TOKEN_CLAIM.fill(claim=error.claim)))
        if claims["exp"] > _MAX_EXP:
            refuse(texts.TOKEN_CLAIM.fill(claim="exp"))

    def _scopes(self, claims: dict[str, Any]) -> frozenset[Scope]:
        claim = next((name for name in _SCOPE_CLAIMS if name in claims), None)
        if claim is None:
            return self._default_scopes
        given = claims[claim]
        names = given.split() if isinstance(given, str) else given if isinstance(given, list) else []
        return frozenset(scope for scope in SCOPES if scope in names)


def make_verifier(settings: Settings) -> TokenVerifier | None:
    """Return what checks tokens as the settings want it; None if they accept none.

    Raises:
        SettingsError: if the file of keys cannot be used, the URL is none to trust, or keys are missing.
    """
    if not settings.has_tokens:
        if settings.names_tokens:
            raise SettingsError(
                "GLOWL_JWT_ISSUER or GLOWL_JWT_AUDIENCE is set, but no token is accepted: GLOWL_JWT_SECRET or "
                "GLOWL_JWT_JWKS is missing"
            )
        return None
    try:
        jwks = make_source(settings)
    except JwksError as error:
        raise SettingsError(f"GLOWL_JWT_JWKS: {error}") from None
    return TokenVerifier(
        secrets=[secret.get_secret_value() for secret in settings.jwt_secret],
        jwks=jwks,
        issuer=settings.jwt_issuer,
        audiences=settings.jwt_audience,
        owner_claim=settings.jwt_owner_claim,
        default_scopes=frozenset(settings.jwt_scopes),
    )


def issue(settings: Settings, owner: str, *, scopes: Sequence[str], lifetime_s: int) -> str:
    """Return a token that a service with these settings accepts, signed with its first secret.

    Args:
        settings: with a secret.
        owner: goes into the claim that names owners.
        scopes: what it may be used for; none: what tokens without scopes may.
        lifetime_s: seconds from now.
    """
    now = int(time.time())
    claims: dict[str, Any] = {settings.jwt_owner_claim: owner, "iat": now, "exp": now + lifetime_s}
    claims |= {"iss": settings.jwt_issuer} if settings.jwt_issuer else {}
    claims |= {"aud": settings.jwt_audience[0]} if settings.jwt_audience else {}
    claims |= {"scope": " ".join(scopes)} if scopes else {}
    return jwt.encode({"alg": "HS256"}, claims, OctKey.import_key(settings.jwt_secret[0].get_secret_value()))


_OF_CLAIM: Final = {
    "aud": texts.TOKEN_AUDIENCE,
    "iss": texts.TOKEN_ISSUER,
    "nbf": texts.TOKEN_EARLY,
    "iat": texts.TOKEN_EARLY,
}


def _read_header(token: str) -> dict[str, Any]:
    try:
        header = parse(urlsafe_b64decode(token.partition(".")[0].encode()).decode())
    except ValueError:
        refuse(texts.TOKEN_FORM)
    if not isinstance(header, dict):
        refuse(texts.TOKEN_FORM)
    # `crit` names what a reader must understand; nothing that goes by it is understood here, `b64` included.
    if "crit" in header or "b64" in header:
        refuse(texts.TOKEN_CRITICAL)
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower() not in _TYPES:
        refuse(texts.TOKEN_TYPE)
    return header


def refuse(text: Text) -> NoReturn:
    """Raise the 401 of a token.

    Raises:
        AuthenticationError: always.
    """
    raise AuthenticationError(text, code="invalid_token")

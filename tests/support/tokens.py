"""Keys of an issuer, and tokens made with them: right ones, and wrong ones that no library would make."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from joserfc import jws
from joserfc.jwk import ECKey, Key, OctKey, OKPKey, RSAKey
from joserfc.util import urlsafe_b64encode

ISSUER, AUDIENCE = "https://login.example.com", "glowl"
SECRET = "a-secret-of-at-least-thirty-two-bytes"
NOW = 1_800_000_000
CLAIMS: dict[str, Any] = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "exp": NOW + 600}


@cache
def rsa(kid: str = "rsa", bits: int = 2048) -> RSAKey:
    """An RSA key, made once."""
    return RSAKey.generate_key(bits, {"kid": kid})


@cache
def ec(kid: str = "ec", curve: Any = "P-256") -> ECKey:
    """A key on a curve, made once."""
    return ECKey.generate_key(curve, {"kid": kid})


@cache
def ed(kid: str = "ed") -> OKPKey:
    """An Ed25519 key, made once."""
    return OKPKey.generate_key("Ed25519", {"kid": kid})


def secret(text: str = SECRET) -> OctKey:
    """A shared secret as a key."""
    return OctKey.import_key(text)


def jwks(*keys: Key, **more: Any) -> bytes:
    """The public halves of keys as a document."""
    return json.dumps({"keys": [{**key.as_dict(private=False), **more} for key in keys]}).encode()


def part(value: object) -> str:
    """One part of a token; bytes and texts are taken as they are."""
    raw = (
        value if isinstance(value, bytes) else value.encode() if isinstance(value, str) else json.dumps(value).encode()
    )
    return urlsafe_b64encode(raw).decode()


def sign(header: dict[str, Any] | str, claims: object, key: Key) -> str:
    """A token with any header and any content, signed as its ``alg`` says, or as `key` would be if it has none."""
    parsed: dict[str, Any] = json.loads(header) if isinstance(header, str) else header
    signed = f"{part(header)}.{part(claims)}"
    algorithm = jws.JWSRegistry.algorithms[parsed["alg"]]
    return f"{signed}.{urlsafe_b64encode(algorithm.sign(signed.encode(), key)).decode()}"

"""The keys that tokens are checked with: a JWKS from a file or a URL, kept and read again.

In: where the set is. Out: public keys, each with the algorithms that its type allows. A source that is away keeps the
last good set; what a token's own header points to (``jku``, ``x5u``, ``jwk``) is never read.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ipaddress
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey

from engines.json_check import parse
from engines.origin import of_nobody
from router import texts
from router.errors import KeysUnavailableError
from router.fetch import FetchError, SafeFetcher, is_public_address, parse_url
from router.leftovers import end_tasks
from router.settings import Settings

MAX_JWKS_BYTES: Final = 256 * 1024
FETCH_TIMEOUT_S: Final = 5.0
# How old a set may be before it is read again beside the requests.
URL_AGE_S: Final = 600.0
FILE_AGE_S: Final = 10.0
# A token with an unknown key makes the set be read at most this often: anybody can send one.
MIN_PAUSE_S: Final = 30.0
# Pause between reads while there is no key set yet: until then no token can be checked.
FIRST_PAUSE_S: Final = 2.0
_MIN_RSA_BITS: Final = 2048
_RSA: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_EC: Final = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
# The second is the name of RFC 9864, the first the one that everybody writes.
_ED25519: Final = ("EdDSA", "Ed25519")
# Names that no public DNS answers for.
_NEAR_NAMES: Final = (".localhost", ".local", ".internal", ".svc")

log = logging.getLogger(__name__)


class JwksError(ValueError):
    """A document is no JWKS, or has no key that a token could be checked with."""


@dataclass(frozen=True, slots=True)
class VerifyingKey:
    """One key of a set.

    Attributes:
        key: its public half.
        kid: the name that a token's header calls it by; None without one.
        algorithms: those that may be checked with it: by its type, and narrowed by its own ``alg``.
    """

    key: Key
    kid: str | None
    algorithms: frozenset[str]


@dataclass(frozen=True, slots=True)
class KeySet:
    """A set as it was read.

    Attributes:
        keys: those that can check a token.
        digest: of the document: what was verified with another set is verified again.
    """

    keys: tuple[VerifyingKey, ...]
    digest: bytes

    def find(self, kid: str | None, algorithm: str) -> VerifyingKey | None:
        """Return the one key that a token names, or, without a name, the only one that its algorithm allows."""
        fits = [key for key in self.keys if algorithm in key.algorithms and (kid is None or key.kid == kid)]
        return fits[0] if len(fits) == 1 else None


def parse_jwks(document: bytes) -> KeySet:
    """Read a JWKS. Keys of other kinds, or for other uses, are left out: sets have them beside the right ones.

    Raises:
        JwksError: if it is not JSON with a list ``keys``, or no key in it can be used.
    """
    try:
        content = parse(document.decode())
    except ValueError as error:
        raise JwksError(f"it is not JSON: {error}") from None
    entries = content.get("keys") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise JwksError('it is not a JWKS: it has no list "keys"')
    keys = tuple(key for entry in entries if isinstance(entry, dict) and (key := _to_key(entry)) is not None)
    if not keys:
        raise JwksError(
            "it has no key that a token can be checked with: RSA of 2048 bits or more, EC (P-256, P-384, P-521) or "
            "Ed25519, for signatures"
        )
    return KeySet(keys, hashlib.sha256(document).digest())


def _to_key(entry: dict[str, Any]) -> VerifyingKey | None:
    operations = entry.get("key_ops", ["verify"])
    if entry.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        return None
    kid, declared = entry.get("kid"), entry.get("alg")
    try:
        key, allowed = _import(entry)
    except (JoseError, ValueError, TypeError, KeyError):
        return None
    algorithms = frozenset(name for name in allowed if declared in (None, name))
    if not algorithms or not isinstance(kid, str | None):
        return None
    return VerifyingKey(key, kid, algorithms)


def _import(entry: dict[str, Any]) -> tuple[Key, Sequence[str]]:
    """Return a key and the algorithms of its type.

    Only the public members are read: a set that shows private ones by mistake still checks tokens, and none of them is
    kept. A symmetric key that is published is no secret.
    """
    match entry["kty"]:
        case "RSA":
            rsa = RSAKey.import_key(_members(entry, "n", "e"))
            return rsa, _RSA if rsa.public_key.key_size >= _MIN_RSA_BITS else ()
        case "EC":
            curve = ECKey.import_key(_members(entry, "crv", "x", "y"))
            return curve, [_EC[curve.curve_name]]
        case "OKP":
            edwards = OKPKey.import_key(_members(entry, "crv", "x"))
            return edwards, _ED25519 if edwards.curve_name == "Ed25519" else ()
        case other:
            raise ValueError(f"{other} is no type of public keys")


def _members(entry: dict[str, Any], *names: str) -> dict[str, Any]:
    return {"kty": entry["kty"], **{name: entry[name] for name in names}}


class JwksSource:
    """A set that is read at its first use, again when it is old, and when a token names a key that is not in it.

    Args:
        read: fetches the document.
        max_age_s: how old the set may be.
        clock: monotonic seconds.
    """

    def __init__(
        self, read: Callable[[], Awaitable[bytes]], *, max_age_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._read = read
        self._max_age_s = max_age_s
        self._clock = clock
        self._set: KeySet | None = None
        self._tried_at = float("-inf")
        self._is_good = True
        self._reading: asyncio.Task[None] | None = None

    @property
    def digest(self) -> bytes:
        """What tells the present set from others; empty while there is none."""
        return self._set.digest if self._set is not None else b""

    def look(self) -> None:
        """Begin to read again, beside the caller, if the set is old; costs a look at the clock otherwise."""
        if self._set is None:
            pause_s = FIRST_PAUSE_S
        else:
            pause_s = self._max_age_s if self._is_good else min(MIN_PAUSE_S, self._max_age_s)
        if self._clock() - self._tried_at >= pause_s:
            self._begin()

    async def current(self) -> KeySet:
        """Return the set.

        Raises:
            KeysUnavailableError: if it could never be read.
        """
        self.look()
        if self._set is None:
            await self._wait(FIRST_PAUSE_S)
        if self._set is None:
            raise _unavailable()
        return self._set

    async def newer(self) -> KeySet:
        """Return the set read again, for a key that is not in it; at most every `MIN_PAUSE_S`.

        Raises:
            KeysUnavailableError: if it cannot be read now, so that the key may still be one of the issuer.
        """
        await self._wait(MIN_PAUSE_S)
        if self._set is None or not self._is_good:
            raise _unavailable()
        return self._set

    async def aclose(self) -> None:
        """Stop reading."""
        if self._reading is not None:
            await end_tasks(self._reading)

    async def _wait(self, pause_s: float) -> None:
        if self._clock() - self._tried_at >= pause_s:
            self._begin()
        if self._reading is not None:
            with contextlib.suppress(
                Exception
            ):  # what went wrong is on the log; a caller that hangs up ends no reading
                await asyncio.shield(self._reading)

    def _begin(self) -> None:
        if self._reading is None or self._reading.done():
            self._tried_at = self._clock()
            self._reading = asyncio.get_running_loop().create_task(self._read_again(), name="jwks", context=of_nobody())

    async def _read_again(self) -> None:
        try:
            found = parse_jwks(await self._read())
        except (FetchError, OSError, JwksError) as error:
            if self._is_good:
                kept = "the last good one is used" if self._set is not None else "no token can be checked"
                log.warning("the JWKS cannot be read, %s: %s", kept, error)
            self._is_good = False
            return
        if not self._is_good or (self._set is not None and self._set.digest != found.digest):
            log.info("the JWKS was read, %d keys", len(found.keys))
        self._set, self._is_good = found, True


def _unavailable() -> KeysUnavailableError:
    return KeysUnavailableError(texts.TOKEN_KEYS_AWAY, retry_after_s=round(FIRST_PAUSE_S))


def make_source(settings: Settings) -> JwksSource | None:
    """Return the source that the settings name; None without one. A file is read once here, to find mistakes at start.

    Raises:
        JwksError: if the file cannot be read, or is no JWKS, or the URL is none to trust. A URL may be away at start.
    """
    where = settings.jwt_jwks
    if where is None:
        return None
    if "://" in where:
        _check_url(where)
        fetcher = SafeFetcher(
            # The person who runs the service named the address: it may be their own network.
            settings.model_copy(
                update={
                    "allow_private_urls": True,
                    "fetch_timeout_s": FETCH_TIMEOUT_S,
                    "max_image_bytes": MAX_JWKS_BYTES,
                }
            )
        )
        return _FetchedJwks(fetcher, where)
    path = Path(where)
    try:
        parse_jwks(_read_file(path))
    except OSError as error:
        raise JwksError(f"{path} cannot be read: {error.strerror}") from None
    except JwksError as error:
        raise JwksError(f"{path}: {error}") from None

    async def read() -> bytes:
        return await asyncio.to_thread(_read_file, path)

    return JwksSource(read, max_age_s=FILE_AGE_S)


def _check_url(url: str) -> None:
    """Refuse plain HTTP beyond the own network: a proxy on the way could insert its own keys.

    Raises:
        JwksError: if it is such a URL, or none.
    """
    try:
        parsed = parse_url(url, allow_private=True)
    except FetchError as error:
        raise JwksError(str(error)) from None
    host = parsed.raw_host or ""
    if parsed.scheme != "https" and not _is_near(host):
        raise JwksError(f"https:// is needed to read keys from {host}; http:// is for this machine and its own network")


def _is_near(host: str) -> bool:
    try:
        return not is_public_address(ipaddress.ip_address(host))
    except ValueError:
        return "." not in host or host.endswith(_NEAR_NAMES)


class _FetchedJwks(JwksSource):
    """A set behind a URL; redirects are not followed, since one could lead to plain HTTP."""

    def __init__(self, fetcher: SafeFetcher, url: str) -> None:
        self._fetcher = fetcher

        async def read() -> bytes:
            return (await fetcher.get(url, max_redirects=0)).data

        super().__init__(read, max_age_s=URL_AGE_S)

    async def aclose(self) -> None:
        """Stop reading, and close the connections."""
        await super().aclose()
        await self._fetcher.aclose()


def _read_file(path: Path) -> bytes:
    with path.open("rb") as file:
        document = file.read(MAX_JWKS_BYTES + 1)
    if len(document) > MAX_JWKS_BYTES:
        raise JwksError(f"it is larger than {MAX_JWKS_BYTES} bytes")
    return document

"""Owners and their keys as they are stored, and all of them together as they were at one moment.

In: JSON from redis. Out: frozen records. No key is in them: a key is known by its SHA-256, and by its first characters.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Final

import orjson

from router.auth.caller import SCOPES, Scope
from router.limits.limits import Limits
from router.schema import known_fields

# What an owner may do unless somebody says otherwise: `admin` is given by name.
DEFAULT_SCOPES: Final[frozenset[Scope]] = SCOPES - {"admin"}
# Keys of `GLOWL_API_KEYS` have no beginning that may be shown: those are texts that people chose.
CONFIGURED: Final = "env_"


def new_owner_id() -> str:
    """Return an id for an owner: ``own_`` and 24 hex digits."""
    return f"own_{secrets.token_hex(12)}"


def configured_name(digest: bytes) -> str:
    """Return the public name of a key of `GLOWL_API_KEYS`."""
    return CONFIGURED + digest.hex()[:8]


def configured_owner(digest: bytes) -> str:
    """Return the id of the owner that a key of `GLOWL_API_KEYS` stands for."""
    return digest.hex()[:16]


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose requests, jobs and files belong together.

    Attributes:
        id: under which everything is stored: ``own_*``; 16 hex digits for a key of `GLOWL_API_KEYS`, or ``local``.
        name: chosen by the operator; no two owners have the same.
        scopes: what its keys may do at most.
        limits: of its own; what is None there is left to the settings.
        retention_s: longest lifetime of its records after their end; None leaves it to the settings.
        created_at: unix seconds.
        captures: what is kept of its exchanges for data sets: ``off``, ``text`` or ``pictures``; empty leaves it to the
            settings.
        redacts: kinds of what is replaced in them; None for all.
    """

    id: str
    name: str
    scopes: frozenset[Scope] = DEFAULT_SCOPES
    limits: Limits = field(default_factory=Limits)
    retention_s: int | None = None
    created_at: float = 0.0
    captures: str = ""
    redacts: tuple[str, ...] | None = None

    def to_json(self) -> bytes:
        """Write it for redis."""
        limits = {name: value for name, value in asdict(self.limits).items() if value is not None}
        return orjson.dumps({**asdict(self), "scopes": sorted(self.scopes), "limits": limits})

    @classmethod
    def from_json(cls, raw: bytes) -> Owner:
        """Read what `to_json` of any release wrote."""
        data = orjson.loads(raw)
        limits = Limits(**known_fields(Limits, data.get("limits") or {}))
        redacts = data.get("redacts")
        read = {"redacts": None if redacts is None else tuple(redacts), "limits": limits}
        return cls(**{**known_fields(cls, data), "scopes": to_scopes(data["scopes"]), **read})


@dataclass(frozen=True, slots=True)
class Key:
    """What is known of one key.

    Attributes:
        id: its public name: the first characters of its text, or `configured_name`.
        digest: its SHA-256, hex.
        owner: id of the owner whose requests it sends.
        created_at: unix seconds.
        expires_at: unix seconds; it is refused from then on. None for never.
        revoked_at: unix seconds; None as long as it is good.
        scopes: what it may do, of what its owner may; None for all of that.
        note: the operator's own words.
        lifetime_s: what it was made for, if its rotation gave it an earlier end; 0 for no end. None: as `expires_at`
            says.
    """

    id: str
    digest: str
    owner: str
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None
    scopes: frozenset[Scope] | None = None
    note: str = ""
    lifetime_s: float | None = None

    @property
    def made_for_s(self) -> float | None:
        """How long it was to be good when it was made; None for ever."""
        if self.lifetime_s is not None:
            return self.lifetime_s or None
        return None if self.expires_at is None else self.expires_at - self.created_at

    @property
    def is_configured(self) -> bool:
        """Whether it is one of `GLOWL_API_KEYS`, which got a record when its owner did."""
        return self.id.startswith(CONFIGURED)

    def is_live(self, now: float) -> bool:
        """Whether it is accepted at a time."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)

    def to_json(self) -> bytes:
        """Write it for redis."""
        return orjson.dumps({**asdict(self), "scopes": None if self.scopes is None else sorted(self.scopes)})

    @classmethod
    def from_json(cls, raw: bytes) -> Key:
        """Read what `to_json` of any release wrote."""
        data = orjson.loads(raw)
        scopes = data.get("scopes")
        return cls(**{**known_fields(cls, data), "scopes": None if scopes is None else to_scopes(scopes)})


@dataclass(frozen=True, slots=True)
class Directory:
    """All owners and keys at one moment.

    Attributes:
        version: changes with every change; empty while there has been none.
        owners: by id.
        keys: by their digest, hex; revoked and expired ones are among them.
        used: unix seconds at which a key was last used, by its public name; to the minute.
    """

    version: str = ""
    owners: Mapping[str, Owner] = field(default_factory=dict)
    keys: Mapping[str, Key] = field(default_factory=dict)
    used: Mapping[str, float] = field(default_factory=dict)

    def keys_of(self, owner_id: str) -> list[Key]:
        """Return an owner's keys, the oldest first."""
        return sorted((key for key in self.keys.values() if key.owner == owner_id), key=lambda key: key.created_at)


def to_scopes(names: Iterable[str]) -> frozenset[Scope]:
    """Return the scopes of these names; names that this release does not know give nothing."""
    return frozenset(scope for scope in SCOPES if scope in set(names))

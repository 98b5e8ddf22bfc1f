"""Who is calling, and what they may do.

In: nothing; an authenticator makes it. Out: the frozen `Caller` that every route and every limit reads.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from router.limits.limits import Limits
from router.scopes import SCOPES as SCOPES
from router.scopes import Scope as Scope

# Whose everything is while no keys are configured.
LOCAL_OWNER: Final = "local"
# One with a record, or of a token; and that of a key in `GLOWL_API_KEYS`.
_OWNER_ID: Final = re.compile(r"own_[0-9a-f]{24}|[0-9a-f]{16}")


def is_owner_id(text: str) -> bool:
    """Whether a text has the form of an owner's id."""
    return text == LOCAL_OWNER or _OWNER_ID.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request.

    Attributes:
        owner: the id under which everything of theirs is stored; only the same owner may read it.
        scopes: what the key or token may be used for.
        key_id: the public name of the key or token, for logs; empty where none was needed.
        limits: how much the owner may do; nothing is limited by default.
        retention_s: longest lifetime of what this owner stores; None leaves it to the settings.
        user: whom a token speaks for: limits of keys count all of a user's tokens together; empty for a key.
    """

    owner: str
    scopes: frozenset[Scope] = SCOPES
    key_id: str = ""
    limits: Limits = field(default_factory=Limits)
    retention_s: int | None = None
    user: str = ""

    @property
    def limited_as(self) -> str:
        """What limits of keys count under; empty where no key was needed."""
        return self.user or self.key_id


LOCAL: Final = Caller(LOCAL_OWNER)

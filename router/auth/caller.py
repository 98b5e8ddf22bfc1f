"""Who is calling, and what they may do.

In: nothing; an authenticator makes it. Out: the frozen `Caller` that every route and every limit reads.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from router.limits.limits import Limits
from router.owner_ids import LOCAL_OWNER as LOCAL_OWNER
from router.scopes import SCOPES as SCOPES
from router.scopes import Scope as Scope


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

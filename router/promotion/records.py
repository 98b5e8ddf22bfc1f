"""The pointer from a model to the adapter that answers for it.

In: promotions, one after another. Out: a `Pointer`: who answers now, and who did before, which is where rollback leads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

import orjson

from engines.adapter_names import MODEL_NAMES
from router.schema import known_fields

# Engines whose adapters can be promoted, and the names of their models.
PROMOTABLE: Final = MODEL_NAMES
# Rollbacks that are remembered; the oldest are forgotten.
_MOST_EARLIER: Final = 20


@dataclass(frozen=True, slots=True)
class Promotion:
    """An adapter that answers for its model, or for a share of the conversations.

    Attributes:
        adapter: its name; empty for the model as it is.
        revision: of the weights that were measured; empty if it is not known.
        share: 0 to 1, of the conversations.
        at: unix seconds.
        proof: the gain that was proven, for people.
    """

    adapter: str = ""
    revision: str = ""
    share: float = 1.0
    at: float = 0.0
    proof: str = ""


BASE: Final = Promotion()


@dataclass(frozen=True, slots=True)
class Pointer:
    """Of one engine.

    Attributes:
        now: who answers.
        earlier: who did before, the last one first.
        shadow: an adapter that is asked in idle time and never shown; its share is of the questions.
    """

    now: Promotion = BASE
    earlier: tuple[Promotion, ...] = ()
    shadow: Promotion = field(default=BASE)

    def promoted(self, promotion: Promotion) -> Pointer:
        """Return the pointer to another adapter; one that was in its shadow is there no longer."""
        shadow = BASE if self.shadow.adapter == promotion.adapter else self.shadow
        return Pointer(promotion, (self.now, *self.earlier)[:_MOST_EARLIER], shadow)

    def rolled_back(self) -> Pointer | None:
        """Return the pointer as it was before; None if there is no before."""
        return replace(self, now=self.earlier[0], earlier=self.earlier[1:]) if self.earlier else None

    def shadowed(self, shadow: Promotion) -> Pointer:
        """Return the pointer with another shadow."""
        return replace(self, shadow=shadow)

    def to_json(self) -> bytes:
        """Write it."""
        return orjson.dumps(asdict(self))

    @classmethod
    def from_json(cls, raw: bytes) -> Pointer:
        """Read what `to_json` wrote, in this release or a later one."""
        found = orjson.loads(raw)
        return cls(
            _to_promotion(found["now"]),
            tuple(_to_promotion(each) for each in found.get("earlier", ())),
            _to_promotion(found.get("shadow") or {}),
        )


def _to_promotion(found: Mapping[str, Any]) -> Promotion:
    return Promotion(**known_fields(Promotion, found))

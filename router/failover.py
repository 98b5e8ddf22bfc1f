"""What an engine's failure means for a call: who answers instead, and what its client gets to read.

In: an `EngineError`, and what was decided. Out: what is known without that engine, a note in the decision, or a refusal
of `router.errors`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

from engines.base import (
    EngineError,
    EngineOverloadedError,
    EngineTimeoutError,
    EngineUnavailableError,
    GenerationFailedError,
)
from policies.decision import EngineHealth, Health
from policies.text import Text
from policies.texts import DOWN
from router import texts
from router.call import Call
from router.errors import EngineFailedError
from router.routing import Routed

# Another engine may have an answer where GLM failed with one of these.
FALLBACK: Final = (EngineUnavailableError, EngineTimeoutError, GenerationFailedError, EngineOverloadedError)


def without(health: Health, engine: str) -> Health:
    """Return what is known of the engines, with one of them down."""
    return replace(health, engines={**health.engines, engine: EngineHealth(is_up=False)})


def may_hand_over(call: Call, error: EngineError) -> bool:
    """Whether Owl2 may answer instead of GLM.

    Not with a schema, as Owl2 has no constrained decoding. Nor where a caller chose GLM or the fast route, which is
    only full: it is told when to come again.
    """
    is_chosen = call.hints.engine == "glm" or call.hints.route == "fast"
    return call.sampling.json_schema is None and not (isinstance(error, EngineOverloadedError) and is_chosen)


def with_failure(routed: Routed, error: EngineError) -> Routed:
    """Say of a GLM that answered, but not with an answer, what it did: the policy knows only up and down."""
    if isinstance(error, EngineUnavailableError):
        return routed
    said = texts.GLM_UNREADABLE
    if isinstance(error, EngineTimeoutError):
        said = texts.GLM_LATE
    elif isinstance(error, EngineOverloadedError):
        said = texts.GLM_FULL
    decision, down = routed.decision, DOWN.fill(engine="glm")
    return replace(
        routed,
        decision=replace(
            decision,
            degraded=tuple(note.replace(down.en, said.en) for note in decision.degraded),
            degraded_zh=tuple(note.replace(down.zh, said.zh) for note in decision.degraded_zh),
        ),
    )


def to_text(code: str, message: str) -> Text:
    """Say what an engine said, which is in English, in both languages."""
    return texts.OF_ENGINE.get(code, texts.OF_ENGINE_OTHER).fill(says=message)


def to_router_error(error: EngineError) -> EngineFailedError:
    """Carry an engine's refusal to the caller with its status, code and field."""
    return EngineFailedError(
        to_text(error.code, error.message),
        status=error.status_code,
        code=error.code,
        param=error.param,
        retry_after_s=math.ceil(error.retry_after_s or 1) if error.retryable else None,
    )

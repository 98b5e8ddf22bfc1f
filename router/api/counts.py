"""What is answered about a prompt that was only counted.

In: a `Call`. Out: the fields that every shape of it has.
"""

from __future__ import annotations

from typing import Any

from router.call import Call
from router.counting import count_tokens
from router.services import Services


async def count_call(services: Services, call: Call) -> dict[str, Any]:
    """Count what the engine of the final answer would read, and what the draft's would beside it.

    Raises:
        RouterError: if the prompt would be refused.
    """
    routed = services.dispatcher.route(call)
    counted = await count_tokens(services.engines, services.monitor, call, routed)
    decision = routed.decision
    return {
        "input_tokens": counted.total,
        "hybrid": {
            "route": decision.route,
            "engine": decision.engine,
            "rule": decision.rule,
            "input_tokens": dict(counted.tokens),
            "is_exact": counted.is_exact,
        },
    }

"""How many tokens a call's prompt has, for each engine that would read it: no model is asked to answer.

In: a `Call` and where it would go. Out: a `Count`. An engine counts with its own tokenizer; where it cannot say, or is
away, the number is an estimate, and labelled as one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from engines.base import EngineError, EngineInfo, GenerationRequest
from engines.http.balancer import RemoteEngine
from router.call import Call, pictures_first
from router.costs import tokens_of_prompt
from router.failover import to_router_error
from router.health import EngineMonitor
from router.output_format import with_instruction
from router.routing import Routed

# An engine that hangs is not waited for: counting costs it a few milliseconds.
_PATIENCE_S: Final = 5.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Count:
    """What was counted.

    Attributes:
        engine: whose answer would be the final one.
        tokens: by engine.
        is_exact: an engine counted them; otherwise they are estimated.
    """

    engine: str
    tokens: Mapping[str, int]
    is_exact: bool

    @property
    def total(self) -> int:
        """The tokens that the engine of the final answer would read."""
        return self.tokens[self.engine]


async def count_tokens(
    engines: Mapping[str, RemoteEngine], monitor: EngineMonitor, call: Call, routed: Routed
) -> Count:
    """Count a call's prompt.

    Args:
        engines: by name.
        monitor: what is known of them.
        call: what is asked.
        routed: where it would go.

    Raises:
        EngineFailedError: if an engine would refuse the prompt.
    """
    final = routed.decision.engine
    names = [final] if final == "glm" or call.hints.engine == "owl2" else ["glm", final]
    counted = await asyncio.gather(*(_count(engines, monitor.info(name), name, call, routed) for name in names))
    tokens = {name: number for name, (number, _) in zip(names, counted, strict=True)}
    return Count(final, tokens, counted[-1][1])


async def _count(
    engines: Mapping[str, RemoteEngine], info: EngineInfo | None, name: str, call: Call, routed: Routed
) -> tuple[int, bool]:
    """Return a number of tokens, and whether it is exact."""
    request = to_request(call, name, routed)
    try:
        async with asyncio.timeout(_PATIENCE_S):
            usage = await engines[name].count(request)
        if usage is not None:
            return usage.prompt_tokens, True
    except EngineError as error:
        if not error.retryable:
            raise to_router_error(error) from error
        log.info("%s cannot count now: %s", name, error.for_operators)
    except TimeoutError:
        log.info("%s did not count within %g s", name, _PATIENCE_S)
    return tokens_of_prompt(request.messages, name, info), False


def to_request(call: Call, engine: str, routed: Routed) -> GenerationRequest:
    """Return what an engine would be asked, as far as its prompt depends on it."""
    is_glm = engine == "glm"
    language = routed.features.answer_language or routed.features.language
    request = GenerationRequest(
        pictures_first(call.messages) if is_glm else call.messages,
        call.sampling if is_glm else replace(call.sampling, json_schema=None),
        enable_thinking=is_glm and routed.decision.engine == "glm" and routed.decision.enable_thinking,
        caller=call.owner,
        adapter=call.adapter_for(engine),
    )
    return with_instruction(request, call.output_format, language)

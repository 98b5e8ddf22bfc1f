"""How a thinking answer is sampled where the request leaves it open: as the checkpoint says.

In: a request's knobs, the checkpoint's ``generation_config.json``. Out: knobs for the sampler. Greedy thinking runs in
circles; the checkpoint's own values do not.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from engines.base import SamplingParams


def sample_thinking(sampling: SamplingParams, config: Any) -> SamplingParams:
    """Fill in what a thinking request says nothing of.

    The seed is fixed unless the request has one, so the same question still has the same answer.

    Args:
        sampling: of the request; one with a temperature stays as it is.
        config: transformers' ``GenerationConfig`` of the checkpoint; one that does not sample changes nothing.
    """
    if sampling.temperature is not None or not config.do_sample:
        return sampling
    return replace(
        sampling,
        temperature=1.0 if config.temperature is None else config.temperature,
        top_p=config.top_p if sampling.top_p == 1.0 and config.top_p is not None else sampling.top_p,
        top_k=sampling.top_k or config.top_k or 0,
        repetition_penalty=config.repetition_penalty or 1.0
        if sampling.repetition_penalty == 1.0
        else sampling.repetition_penalty,
        seed=0 if sampling.seed is None else sampling.seed,
    )

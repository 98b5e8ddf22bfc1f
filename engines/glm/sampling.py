"""From the last position's logits to the next id: greedy, or temperature and nucleus with a seed of its own.

In: `SamplingParams`. Out: a function of (V,) logits; and what the logits say of the id it chose.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from engines.base import SamplingParams

GREEDY_BELOW_TEMPERATURE = 1e-3


def likeliest(logits: torch.Tensor, token_id: int, num_top: int) -> tuple[float, list[tuple[int, float]]]:
    """Say how likely an id was, and which were the likeliest, by the model itself: before temperature and top_p.

    Args:
        logits: (V,).
        token_id: the id that was chosen.
        num_top: how many of the likeliest; 0 for none.

    Returns:
        The id's log probability, and ``num_top`` pairs of id and log probability, likeliest first.
    """
    logprobs = logits.float().log_softmax(-1)
    values, ids = logprobs.topk(min(num_top, len(logprobs)))
    return float(logprobs[token_id]), list(zip(ids.tolist(), values.tolist(), strict=True))


def make_sampler(sampling: SamplingParams, device: torch.device) -> Callable[[torch.Tensor], int]:
    """Make the function that picks the next id from (V,) logits; the checkpoint's own sampling defaults never apply.

    Every request draws from a generator of its own, so a seed repeats its answer whatever ran before.
    """
    if sampling.temperature <= GREEDY_BELOW_TEMPERATURE:
        return lambda logits: int(logits.argmax())
    generator = torch.Generator(device=device)
    if sampling.seed is None:
        generator.seed()
    else:
        generator.manual_seed(sampling.seed % 2**63)

    def sample(logits: torch.Tensor) -> int:
        probabilities = (logits.float() / sampling.temperature).softmax(-1)
        if sampling.top_p < 1:
            ordered, indices = probabilities.sort(descending=True)
            is_outside = ordered.cumsum(-1) - ordered >= sampling.top_p  # the first id always stays
            probabilities = torch.zeros_like(probabilities).scatter(-1, indices, ordered.masked_fill(is_outside, 0))
        return int(torch.multinomial(probabilities, 1, generator=generator))

    return sample

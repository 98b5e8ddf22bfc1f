"""What vLLM's steps say, in our own terms; no vLLM here.

In: tokens and log probabilities of a step. Out: a `Step`, or the error that there are no more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from engines.base import EngineUnavailableError
from engines.runtime.sampling import Pick

DIED = "vLLM's engine process has ended, and this server with it: its log says why, above"

Observe = Callable[[int, int, float], None]
"""Takes how many requests run, how many wait, and how full the cache of keys and values is, 0 to 1."""


class BackendGoneError(EngineUnavailableError):
    """vLLM's process has ended, and with it every request."""


@dataclass(frozen=True, slots=True)
class Step:
    """What is new of an answer.

    Attributes:
        picks: the tokens, one or, where several steps came together, more.
        num_cached_tokens: of the prompt, found in the prefix cache.
    """

    picks: tuple[Pick, ...]
    num_cached_tokens: int


class RankedLogprob(Protocol):
    """A log probability of vLLM's."""

    logprob: float
    rank: int | None


def picks_of(
    token_ids: Sequence[int], logprobs: Sequence[Mapping[int, RankedLogprob]] | None, num_top: int | None
) -> tuple[Pick, ...]:
    """Read the tokens that are new in an output.

    Args:
        token_ids: of one step, or of several that came together.
        logprobs: for each of them the likeliest tokens, and the chosen one if it is none of those.
        num_top: alternatives that were asked for; None for no log probabilities.
    """
    if num_top is None or logprobs is None:
        return tuple(Pick(token_id) for token_id in token_ids)
    picks = []
    for token_id, found in zip(token_ids, logprobs, strict=True):
        likeliest = sorted(found.items(), key=lambda entry: (entry[1].rank or 0, entry[0] != token_id))[:num_top]
        picks.append(Pick(token_id, found[token_id].logprob, tuple((id_, each.logprob) for id_, each in likeliest)))
    return tuple(picks)

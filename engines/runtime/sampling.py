"""From a step's logits to each row's next token, and from pieces of text to text that may be shown.

In: logits (B, V) and one `Sampler` per row. Out: a `Pick` per row, with one transfer from the device for all of them.
Shared by both local engines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engines.base import GenerationFailedError, SamplingParams

# Below this the division by the temperature overflows, and the outcome is greedy anyway.
_GREEDY_TEMPERATURE = 1e-3
# Likeliest tokens that top_p and top_k are tried with, before all of a large vocabulary is sorted.
_LOOKED_AT = 512


@dataclass(frozen=True, slots=True)
class Pick:
    """A chosen token.

    Attributes:
        token_id: -1 if the row had no finite logits.
        logprob: natural log of its probability before temperature and top_p; None if it was not asked for.
        top: ids and log probabilities of the likeliest tokens, likeliest first, as many as were asked for.
    """

    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()

    def check(self) -> None:
        """Refuse to go on from a row that has become numerically useless.

        Raises:
            GenerationFailedError: if it had no finite logits.
        """
        if self.token_id < 0:
            raise GenerationFailedError("the model's numbers overflowed on this request")


class Sampler:
    """One request's way of choosing tokens.

    Two samplers with the same seed choose alike, whatever other rows they share steps with: each token takes one number
    from the sampler's own generator, on the CPU wherever the model is.

    Args:
        params: no temperature, 0, or as good as 0, is greedy; else sampling among ``top_k`` tokens and from ``top_p``.
        prompt_ids: of the prompt's text, which ``repetition_penalty`` counts as said.
    """

    def __init__(self, params: SamplingParams, prompt_ids: Sequence[int] = ()) -> None:
        self.temperature = params.temperature or 0.0
        self.is_greedy = self.temperature <= _GREEDY_TEMPERATURE
        self.top_p = params.top_p
        self.top_k = params.top_k
        self.top_logprobs = params.top_logprobs
        self._frequency, self._presence = params.frequency_penalty, params.presence_penalty
        self._repetition = params.repetition_penalty
        self.has_penalties = bool(self._frequency or self._presence or self._repetition != 1.0)
        self._counts = dict.fromkeys(prompt_ids, 0) if self._repetition != 1.0 else {}
        self._generator = torch.Generator()
        if params.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(params.seed % 2**63)  # callers may send any integer, negative ones too
        self._drawn: float | None = None

    def draw(self) -> float:
        """Return this step's number in [0, 1); the same one until `advance`, so that a step can be done again."""
        if self._drawn is None:
            self._drawn = torch.rand((), generator=self._generator, dtype=torch.float64).item()
        return self._drawn

    def advance(self, token_id: int | None = None) -> None:
        """The token was taken: the next draw is a new one, and penalties know of it."""
        self._drawn = None
        if self.has_penalties and token_id is not None:
            self._counts[token_id] = self._counts.get(token_id, 0) + 1

    def penalize(self, logits: Tensor) -> Tensor:
        """Return a copy of the logits (V,), lower for what was said; as OpenAI and transformers define it."""
        if not self._counts:
            return logits
        said = torch.tensor([*self._counts.items()]).to(logits.device)  # (n, 2): id, how often in the answer
        ids, counts = said.unbind(1)
        values = logits[ids].float()
        values = torch.where(values > 0, values / self._repetition, values * self._repetition)
        values -= self._frequency * counts + self._presence * (counts > 0)
        return logits.index_put((ids,), values.to(logits.dtype))

    def choose(self, logits: Tensor) -> Pick:
        """Choose one token from (V,) logits and advance; for a request that is decoded by itself.

        Raises:
            GenerationFailedError: if there are no finite logits.
        """
        (pick,) = pick_tokens(logits[None], [self])
        self.advance(pick.token_id)
        pick.check()
        return pick


def pick_tokens(logits: Tensor, samplers: Sequence[Sampler], allowed: Tensor | None = None) -> list[Pick]:
    """Choose the next token of each row; samplers are not advanced.

    Args:
        logits: (B, V), on any device.
        samplers: B, in the order of the rows.
        allowed: (B, V), the same with -inf on tokens that may not be chosen; None allows all. Log probabilities are
            those of ``logits``: what the model itself would have said.
    """
    choices = logits if allowed is None else allowed
    if any(sampler.has_penalties for sampler in samplers):
        pairs = zip(samplers, choices.unbind(), strict=True)
        choices = torch.stack([sampler.penalize(row) if sampler.has_penalties else row for sampler, row in pairs])
    peak, token_ids = choices.max(dim=-1)  # NaN wins a maximum, so the peak tells of any
    sampled = [row for row, sampler in enumerate(samplers) if not sampler.is_greedy]
    if sampled:
        is_all = len(sampled) == len(samplers)
        rows = choices if is_all else choices[sampled]
        chosen = _sample(rows, [samplers[row] for row in sampled])
        token_ids = chosen if is_all else token_ids.index_put((torch.tensor(sampled, device=logits.device),), chosen)
    token_ids = torch.where(peak.isfinite(), token_ids, -1)
    num_top = max(-1 if sampler.top_logprobs is None else sampler.top_logprobs for sampler in samplers)
    if num_top < 0:
        return [Pick(token_id) for token_id in token_ids.tolist()]

    wanted = [row for row, sampler in enumerate(samplers) if sampler.top_logprobs is not None]
    scores = logits[wanted].float()
    logprobs = scores - scores.logsumexp(dim=-1, keepdim=True)
    top_logprobs, top_ids = logprobs.topk(min(num_top, logits.shape[1]), dim=-1)
    own = logprobs.gather(1, token_ids[wanted].clamp(min=0)[:, None])
    # As doubles, which hold any id exactly, everything comes over in one transfer.
    parts = (token_ids.double(), own.double().flatten(), top_ids.double().flatten(), top_logprobs.double().flatten())
    ids, own_values, ids_flat, values_flat = _split(torch.cat(parts).tolist(), [part.numel() for part in parts])
    picks = [Pick(int(token_id)) for token_id in ids]
    for index, row in enumerate(wanted):
        start = index * top_ids.shape[1]
        stop = start + (samplers[row].top_logprobs or 0)
        top = tuple((int(id_), value) for id_, value in zip(ids_flat[start:stop], values_flat[start:stop], strict=True))
        picks[row] = Pick(picks[row].token_id, own_values[index], top)
    return picks


def _split(values: list[float], sizes: Sequence[int]) -> list[list[float]]:
    parts, start = [], 0
    for size in sizes:
        parts.append(values[start : start + size])
        start += size
    return parts


def _sample(logits: Tensor, samplers: Sequence[Sampler]) -> Tensor:
    """Choose by inverting each row's distribution at the number its sampler drew; (R, V) to (R,).

    How a row is chosen depends on that row alone. Without top_p and top_k nothing is sorted. With them the likeliest
    few are looked at first, ordered by probability and then by id, and only rows that need more of them are sorted.
    """
    settings = torch.tensor(
        [(sampler.temperature, sampler.top_p, sampler.draw()) for sampler in samplers], dtype=torch.float32
    )
    temperature, top_p, drawn = settings.to(logits.device).unsqueeze(-1).unbind(1)  # (R, 1) each
    num_tokens = logits.shape[1]
    # No top_k and one beyond the vocabulary are the same: none.
    limits = [sampler.top_k if 0 < sampler.top_k < num_tokens else 0 for sampler in samplers]
    top_k = torch.tensor(limits, device=logits.device)[:, None]
    probabilities = (logits.float() / temperature).softmax(dim=-1)
    chosen = torch.empty(len(samplers), dtype=torch.long, device=logits.device)
    is_open = [sampler.top_p >= 1 and not limit for sampler, limit in zip(samplers, limits, strict=True)]
    open_rows = torch.tensor([row for row, is_it in enumerate(is_open) if is_it], device=logits.device).long()
    if len(open_rows):
        chosen[open_rows] = _invert(probabilities[open_rows], drawn[open_rows])
    rows = torch.tensor([row for row, is_it in enumerate(is_open) if not is_it], device=logits.device).long()
    if len(rows):
        values, ids = probabilities[rows].topk(min(_LOOKED_AT, num_tokens), dim=-1)
        by_id = ids.argsort(dim=-1)
        values, ids = values.gather(1, by_id), ids.gather(1, by_id)
        values, order = values.sort(dim=-1, descending=True, stable=True)
        picked, num_kept = _invert_nucleus(values, top_k[rows], top_p[rows], drawn[rows])
        chosen[rows] = ids.gather(1, order).gather(1, picked).squeeze(1)
        if values.shape[1] < num_tokens:
            # Among equals at the end of what was looked at, others could have stood.
            is_cut = (values.gather(1, num_kept - 1) <= values[:, -1:]) | (top_k[rows] > values.shape[1])
            is_cut = is_cut.squeeze(1)
            if (rows := rows[is_cut]).numel():
                values, ids = probabilities[rows].sort(dim=-1, descending=True, stable=True)
                picked, _ = _invert_nucleus(values, top_k[rows], top_p[rows], drawn[rows])
                chosen[rows] = ids.gather(1, picked).squeeze(1)
    return chosen


def _invert(probabilities: Tensor, drawn: Tensor) -> Tensor:
    """Find where the sum of (R, V) probabilities passes (R, 1) numbers from 0 to 1; (R,), never an impossible token."""
    ends = probabilities.cumsum(dim=-1)
    total = ends[:, -1:].contiguous()
    index = torch.searchsorted(ends, drawn * total, right=True)
    return torch.minimum(index, torch.searchsorted(ends, total)).squeeze(1)


def _invert_nucleus(values: Tensor, top_k: Tensor, top_p: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
    """Choose among the likeliest tokens; probabilities (R, K) from the highest, the rest (R, 1).

    Returns:
        Where the chosen token is, and how many are kept: of the ``top_k`` likeliest the smallest set that reaches top_p
        of their sum, so at least the first; (R, 1) each.
    """
    places = torch.arange(values.shape[1], device=values.device)
    is_within = (places < top_k) | (top_k == 0)
    values = values.masked_fill(~is_within, 0.0)
    ends = values.cumsum(dim=-1)
    wanted = top_p * torch.where(top_k > 0, ends[:, -1:], 1.0)
    num_kept = ((ends - values < wanted) & is_within).sum(dim=-1, keepdim=True).clamp(min=1)
    target = drawn * ends.gather(1, num_kept - 1)
    return (ends <= target).sum(dim=-1, keepdim=True).clamp(max=num_kept - 1), num_kept


class StopStrings:
    """Cuts streamed text before the first stop string, however it is spread over the pieces.

    Args:
        stops: the strings; empty ones are ignored.

    Attributes:
        found: the one that was seen; empty before that.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.found = ""

    def push(self, text: str) -> str:
        """Take the next piece; return what may be shown. After a stop string was seen that is nothing."""
        if self.found:
            return ""
        text = self._held + text
        found = [(index, place) for place, stop in enumerate(self._stops) if (index := text.find(stop)) >= 0]
        if found:
            index, place = min(found)
            self.found, self._held = self._stops[place], ""
            return text[:index]
        num_held = max((self._overlap(text, stop) for stop in self._stops), default=0)
        shown, self._held = text[: len(text) - num_held], text[len(text) - num_held :]
        return shown

    def finish(self) -> str:
        """Return what was held back, now that nothing follows."""
        held, self._held = self._held, ""
        return held

    @staticmethod
    def _overlap(text: str, stop: str) -> int:
        """Length of the longest end of ``text`` that begins ``stop``."""
        return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)

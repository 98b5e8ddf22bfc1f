"""From logits to text: choosing the next token, and noticing where the answer ends.

In: one row of logits per step. Out: token ids; and text that is safe to show, because it can no longer turn out to be
the beginning of a stop string.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engines.base import SamplingParams

# Below this the division by the temperature overflows, and the outcome is greedy anyway.
_GREEDY_TEMPERATURE = 1e-3


class Sampler:
    """Chooses tokens for one request; two samplers with the same seed choose alike, whatever runs between.

    Args:
        params: temperature 0, or as good as 0, is greedy; else top-p sampling.
        device: where the logits are.
    """

    def __init__(self, params: SamplingParams, device: torch.device) -> None:
        self._temperature = params.temperature
        self._top_p = params.top_p
        self._generator = torch.Generator(device)
        if params.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(params.seed % 2**63)  # callers may send any integer, negative ones too

    def __call__(self, logits: Tensor) -> int:
        """Choose a token.

        Args:
            logits: (V,).
        """
        if self._temperature <= _GREEDY_TEMPERATURE:
            return int(logits.argmax())
        probabilities, order = (logits.float() / self._temperature).softmax(dim=-1).sort(descending=True)
        # Kept is the smallest set that reaches top_p: every token that starts below it, so at least the first.
        starts = probabilities.cumsum(dim=-1) - probabilities
        probabilities = probabilities.masked_fill(starts >= self._top_p, 0.0)
        return int(order[torch.multinomial(probabilities, 1, generator=self._generator)])


class StopStrings:
    """Cuts streamed text before the first stop string, however it is spread over the pieces.

    Args:
        stops: the strings; empty ones are ignored.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.is_stopped = False

    def push(self, text: str) -> str:
        """Take the next piece; return what may be shown. After a stop string was seen that is nothing."""
        if self.is_stopped:
            return ""
        text = self._held + text
        found = [index for stop in self._stops if (index := text.find(stop)) >= 0]
        if found:
            self.is_stopped, self._held = True, ""
            return text[: min(found)]
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

"""One answer as it grows: from chosen tokens to deltas.

In: a `Pick` per step. Out: text that is safe to show, because no later token can change it or turn it into a stop
string; log probabilities; and why the answer ended.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from engines.base import Alternative, Delta, FinishReason, SamplingParams, TokenLogprob, Usage
from engines.owl2.tokenizer import IncrementalDecoder, Owl2Tokenizer
from engines.runtime.sampling import Pick, StopStrings


class Answer:
    """What one request has been answered so far.

    Args:
        tokenizer: of the checkpoint.
        sampling: the request's knobs; stop strings and log probabilities are of interest here.
        eos_token_ids: tokens that end an answer and are no part of it.
        max_tokens: bound of the answer.
    """

    def __init__(
        self, tokenizer: Owl2Tokenizer, sampling: SamplingParams, eos_token_ids: AbstractSet[int], max_tokens: int
    ) -> None:
        self.num_tokens = 0
        self.finish_reason: FinishReason | None = None
        self._tokenizer = tokenizer
        self._eos_token_ids = eos_token_ids
        self._max_tokens = max_tokens
        self._decoder = IncrementalDecoder(tokenizer)
        self._stops = StopStrings(sampling.stop)
        # A token's log probability goes out with its first character, and never if a stop string swallows it whole.
        self._logprobs: list[tuple[int, TokenLogprob]] = []
        self._num_decoded = 0
        self._num_shown = 0

    def push(self, pick: Pick) -> Delta | None:
        """Take the next token; return what became certain, None if nothing did. May set ``finish_reason``."""
        self.num_tokens += 1
        if pick.token_id in self._eos_token_ids:
            self.finish_reason = "stop"
            return None
        if pick.logprob is not None:
            self._logprobs.append((self._num_decoded, self._to_logprob(pick)))
        text = self._show(self._decoder.push(pick.token_id))
        if self._stops.is_stopped:
            self.finish_reason = "stop"
        elif self.num_tokens >= self._max_tokens:
            self.finish_reason = "length"
        return Delta(text=text, logprobs=self._shown_logprobs()) if text else None

    def finish(self, usage: Usage) -> Delta:
        """Return the last delta, with everything that was held back."""
        text = self._show(self._decoder.finish())
        text += self._stops.finish()
        if self._stops.is_stopped:
            self.finish_reason = "stop"
            logprobs = self._shown_logprobs()
        else:
            logprobs = tuple(logprob for _, logprob in self._logprobs)
        return Delta(text=text, finish_reason=self.finish_reason, usage=usage, logprobs=logprobs)

    def _show(self, decoded: str) -> str:
        self._num_decoded += len(decoded)
        text = self._stops.push(decoded)
        self._num_shown += len(text)
        return text

    def _shown_logprobs(self) -> tuple[TokenLogprob, ...]:
        shown = tuple(logprob for start, logprob in self._logprobs if start < self._num_shown)
        del self._logprobs[: len(shown)]  # starts never fall
        return shown

    def _to_logprob(self, pick: Pick) -> TokenLogprob:
        def named(token_id: int) -> tuple[str, bytes]:
            return self._tokenizer.token_text(token_id), self._tokenizer.token_bytes(token_id)

        top = tuple(Alternative(text, logprob, data) for id_, logprob in pick.top for text, data in [named(id_)])
        text, data = named(pick.token_id)
        assert pick.logprob is not None
        return TokenLogprob(text, pick.logprob, data, top)

"""One answer as it grows: from chosen tokens to deltas; what both models' answers have in common.

In: a `Pick` per step. Out: text that no later token can change, log probabilities, and why the answer ended.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Final

from engines.base import Alternative, Delta, FinishReason, TokenLogprob, Usage
from engines.runtime.sampling import Pick

# What decoding makes of bytes that are no whole character.
_BROKEN: Final = "\ufffd"


class GrowingAnswer(ABC):
    """What one request has been answered so far; a model's own subclass turns token ids into text.

    Args:
        stop_ids: tokens that end an answer and are no part of it.
        max_tokens: limit of the answer, thinking included.
    """

    def __init__(self, stop_ids: AbstractSet[int], max_tokens: int) -> None:
        self.num_tokens = 0
        self.finish_reason: FinishReason | None = None
        self._stop_ids = stop_ids
        self._max_tokens = max_tokens
        # Of the answer's tokens, with the character each begins at. A token's log probability is sent with its first
        # character, and never if a stop string swallows it whole.
        self._logprobs: list[tuple[int, TokenLogprob]] = []
        self._num_shown = 0

    @property
    def num_reasoning_tokens(self) -> int:
        """Tokens spent on thinking; none if the model does not think."""
        return 0

    def push(self, pick: Pick, *, is_complete: bool = False) -> Delta | None:
        """Take the next token; return what became certain, None if nothing did. May set ``finish_reason``.

        Args:
            pick: the token.
            is_complete: with it the answer is all that its schema asks for.
        """
        self.num_tokens += 1
        if pick.token_id in self._stop_ids:
            self.finish_reason = "stop"
            return None
        start = self._num_decoded()
        delta, is_answer = self._decode(pick.token_id)
        if is_answer and pick.logprob is not None:
            self._logprobs.append((start, self._to_logprob(pick, pick.logprob)))
        if self._stopped_by() or is_complete:
            self.finish_reason = "stop"
        elif self.num_tokens >= self._max_tokens:
            self.finish_reason = "length"
        return None if delta is None else self._with_logprobs(delta)

    def finish(self, usage: Usage) -> Delta:
        """Return the last delta, with all text that was held back but a character that `max_tokens` cut in two."""
        delta = self._flush()
        if stop := self._stopped_by():  # text held back earlier can complete a stop string
            self.finish_reason = "stop"
            delta = replace(self._with_logprobs(delta), stop_sequence=stop)
        else:
            delta = replace(delta, logprobs=tuple(logprob for _, logprob in self._logprobs))
            if self.finish_reason == "length":
                # A Chinese character may be several tokens; half of one, decoded, is only a mark of damage.
                delta = replace(delta, text=delta.text.rstrip(_BROKEN), reasoning=delta.reasoning.rstrip(_BROKEN))
        return replace(delta, finish_reason=self.finish_reason, usage=usage)

    # -- the model's own ----------------------------------------------------------------------------------------------

    @abstractmethod
    def _decode(self, token_id: int) -> tuple[Delta | None, bool]:
        """Take a token; return what became certain, and whether the token is part of the answer's text."""

    @abstractmethod
    def _num_decoded(self) -> int:
        """Count the characters of the answer so far, shown or held back."""

    @abstractmethod
    def _stopped_by(self) -> str:
        """Return the stop string that is complete; empty if none is."""

    @abstractmethod
    def _flush(self) -> Delta:
        """Return the text that was held back."""

    @abstractmethod
    def _name(self, token_id: int) -> tuple[str, bytes]:
        """Return a token as text and as bytes."""

    # -- log probabilities --------------------------------------------------------------------------------------------

    def _with_logprobs(self, delta: Delta) -> Delta:
        self._num_shown += len(delta.text)
        shown = tuple(logprob for start, logprob in self._logprobs if start < self._num_shown)
        del self._logprobs[: len(shown)]  # starts never fall
        return replace(delta, logprobs=shown)

    def _to_logprob(self, pick: Pick, logprob: float) -> TokenLogprob:
        top = tuple(Alternative(text, value, data) for id_, value in pick.top for text, data in [self._name(id_)])
        text, data = self._name(pick.token_id)
        return TokenLogprob(text, logprob, data, top)

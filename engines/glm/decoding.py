"""One answer as it grows: from chosen tokens to deltas.

In: a `Pick` per step. Out: text that is safe to show, log probabilities, why the answer ended, and what it took.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import replace

from engines.base import Alternative, Delta, FinishReason, TokenLogprob, Usage
from engines.glm.parsing import AnswerParser, TokenBytes
from engines.runtime.sampling import Pick


class Answer:
    """What one request has been answered so far.

    Args:
        parser: a fresh one.
        token_bytes: of the checkpoint's tokenizer.
        stop_ids: tokens that end an answer and are no part of it.
        max_tokens: bound of thinking and answer together.
    """

    def __init__(
        self, parser: AnswerParser, token_bytes: TokenBytes, stop_ids: AbstractSet[int], max_tokens: int
    ) -> None:
        self.num_tokens = 0
        self.finish_reason: FinishReason | None = None
        self._parser = parser
        self._token_bytes = token_bytes
        self._stop_ids = stop_ids
        self._max_tokens = max_tokens
        # Of the answer's tokens, neither of the thinking nor of any mark, with the character each begins at. One goes
        # out with its first character, and never if a stop string swallows it whole.
        self._logprobs: list[tuple[int, TokenLogprob]] = []
        self._num_shown = 0

    @property
    def num_reasoning_tokens(self) -> int:
        """Tokens spent on thinking."""
        return self._parser.num_reasoning_tokens

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
        start = self._parser.num_answer_chars
        delta = self._parser.push(pick.token_id)
        if self._parser.channel == "text" and pick.logprob is not None:
            self._logprobs.append((start, self._to_logprob(pick, pick.logprob)))
        if self._parser.is_stopped or is_complete:
            self.finish_reason = "stop"
        elif self.num_tokens >= self._max_tokens:
            self.finish_reason = "length"
        return None if delta is None else self._with_logprobs(delta)

    def finish(self, usage: Usage) -> Delta:
        """Return the last delta, with everything that was held back."""
        delta = self._parser.finish() or Delta()
        if self._parser.is_stopped:  # what was held back can complete a stop string
            self.finish_reason = "stop"
            delta = self._with_logprobs(delta)
        else:
            delta = replace(delta, logprobs=tuple(logprob for _, logprob in self._logprobs))
        return replace(delta, finish_reason=self.finish_reason, usage=usage)

    def _with_logprobs(self, delta: Delta) -> Delta:
        self._num_shown += len(delta.text)
        shown = tuple(logprob for start, logprob in self._logprobs if start < self._num_shown)
        del self._logprobs[: len(shown)]  # starts never fall
        return replace(delta, logprobs=shown)

    def _to_logprob(self, pick: Pick, logprob: float) -> TokenLogprob:
        others = [(self._token_bytes.of(id_), value) for id_, value in pick.top]
        data = self._token_bytes.of(pick.token_id)
        return TokenLogprob(
            data.decode("utf-8", "replace"),
            logprob,
            data,
            top=tuple(Alternative(other.decode("utf-8", "replace"), value, other) for other, value in others),
        )

"""One answer of GLM as it grows: thinking, answer and box marks are told apart.

In: a `Pick` per step. Out: see `engines.runtime.answer`.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import replace

from engines.base import Delta, Usage
from engines.glm.parsing import AnswerParser, TokenBytes
from engines.runtime.answer import GrowingAnswer


class Answer(GrowingAnswer):
    """What one request has been answered so far.

    Args:
        parser: a fresh one.
        token_bytes: of the checkpoint's tokenizer.
        stop_ids: tokens that end an answer and are no part of it.
        max_tokens: limit of thinking and answer together.
    """

    def __init__(
        self, parser: AnswerParser, token_bytes: TokenBytes, stop_ids: AbstractSet[int], max_tokens: int
    ) -> None:
        super().__init__(stop_ids, max_tokens)
        self._parser = parser
        self._token_bytes = token_bytes

    @property
    def num_reasoning_tokens(self) -> int:
        """Tokens spent on thinking."""
        return self._parser.num_reasoning_tokens

    def _decode(self, token_id: int) -> tuple[Delta | None, bool]:
        delta = self._parser.push(token_id)
        return delta, self._parser.channel == "text"  # no log probabilities of thinking and marks

    def _num_decoded(self) -> int:
        return self._parser.num_answer_chars

    def _stopped_by(self) -> str:
        return self._parser.stopped_by

    def _flush(self) -> Delta:
        return self._parser.finish(is_cut=self.finish_reason != "stop") or Delta()

    def finish(self, usage: Usage) -> Delta:
        """Return the last delta; an answer that is done with calls ends in ``tool_calls``.

        Raises:
            GenerationFailedError: if the model ended it in the middle of a function call.
        """
        last = super().finish(usage)
        if last.finish_reason == "stop" and self._parser.has_calls:
            last = replace(last, finish_reason="tool_calls")
        return last

    def _name(self, token_id: int) -> tuple[str, bytes]:
        data = self._token_bytes.of(token_id)
        return data.decode("utf-8", "replace"), data

"""One answer of mPLUG-Owl2 as it grows: text is held back while a later token can change it or complete a stop string.

In: a `Pick` per step. Out: see `engines.runtime.answer`.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from engines.base import Delta, SamplingParams
from engines.owl2.tokenizer import IncrementalDecoder, Owl2Tokenizer
from engines.runtime.answer import GrowingAnswer
from engines.runtime.sampling import StopStrings


class Answer(GrowingAnswer):
    """What one request has been answered so far.

    Args:
        tokenizer: of the checkpoint.
        sampling: the request's knobs; only its stop strings are used here.
        eos_token_ids: tokens that end an answer and are no part of it.
        max_tokens: limit of the answer.
    """

    def __init__(
        self, tokenizer: Owl2Tokenizer, sampling: SamplingParams, eos_token_ids: AbstractSet[int], max_tokens: int
    ) -> None:
        super().__init__(eos_token_ids, max_tokens)
        self._tokenizer = tokenizer
        self._decoder = IncrementalDecoder(tokenizer)
        self._stops = StopStrings(sampling.stop)
        self._num_chars = 0

    def _decode(self, token_id: int) -> tuple[Delta | None, bool]:
        text = self._show(self._decoder.push(token_id))
        return (Delta(text=text) if text else None), True

    def _num_decoded(self) -> int:
        return self._num_chars

    def _stopped_by(self) -> str:
        return self._stops.found

    def _flush(self) -> Delta:
        text = self._show(self._decoder.finish())
        return Delta(text=text + self._stops.finish())

    def _name(self, token_id: int) -> tuple[str, bytes]:
        return self._tokenizer.token_text(token_id), self._tokenizer.token_bytes(token_id)

    def _show(self, decoded: str) -> str:
        self._num_chars += len(decoded)
        return self._stops.push(decoded)

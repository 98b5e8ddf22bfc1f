"""What an engine says, gathered piece by piece."""

from __future__ import annotations

import time

import pytest

from engines.base import Box, Delta, GenerationFailedError, TokenLogprob, Usage
from router.work.transcript import Piece, Transcript


def token(text: str) -> TokenLogprob:
    return TokenLogprob(text, -0.5, text.encode())


def test_pieces_carry_every_log_probability_once_and_the_result_has_it_all() -> None:
    transcript = Transcript("glm-4.6v-flash", time.monotonic())

    assert transcript.take(Delta(logprobs=(token("a"),))) is None  # half a character has no text yet
    assert transcript.take(Delta(text="ab", logprobs=(token("b"),))) == Piece("ab", (token("a"), token("b")))
    assert transcript.take(Delta(text="c", logprobs=(token("c"),))) == Piece("c", (token("c"),))
    box = Box(0, 0, 10, 10)
    assert transcript.take(Delta(boxes=(box,), finish_reason="length", usage=Usage(3, 2))) is None

    transcript.check_ended()
    result = transcript.to_result(has_cuts=True)
    assert (result.text, result.model, result.finish_reason) == ("abc", "glm-4.6v-flash", "length")
    assert (result.usage, result.boxes) == (Usage(3, 2), (box,))
    assert result.logprobs == (token("a"), token("b"), token("c"))
    assert result.cuts == ((2, 2), (1, 1))
    assert result.ttft_s is not None
    assert not transcript.to_result().cuts


def test_an_answer_without_a_reason_to_end_broke_off_and_keeps_what_was_said() -> None:
    transcript = Transcript("m", time.monotonic())
    transcript.take(Delta(text="half"))

    with pytest.raises(GenerationFailedError):
        transcript.check_ended()
    failed = transcript.to_result({"code": "generation_failed", "message": "broke off"})
    assert (failed.text, failed.finish_reason) == ("half", "stop")
    assert failed.error is not None
    assert Transcript("m", time.monotonic()).to_result().ttft_s is None

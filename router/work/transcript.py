"""What an engine says, gathered into a result and written into the job's events as it comes.

In: the deltas of an engine. Out: a `UnitResult`; and, if it is told while it is written, events of the job.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator
from typing import NamedTuple

from engines.base import (
    Box,
    Delta,
    GenerationFailedError,
    TokenLogprob,
    Usage,
)
from engines.tools import GrowingCalls, ToolCallDelta
from router.answers.usable import is_blank
from router.errors import QueueUnavailableError
from router.jobs.results import ErrorRecord, UnitResult
from router.jobs.store import JobStore
from router.work.lease import REDIS_RETRY_S, LeaseLostError, patiently


class Tape:
    """Writes what a run says into the job's events.

    While redis is away the engine goes on, and what it says is kept here: a run of a minute is not lost to a restart of
    two seconds. Pieces are numbered, since one whose answer was lost may be there already.
    """

    def __init__(self, store: JobStore, job_id: str, unit: str, epoch: int) -> None:
        self._store = store
        self._where = (job_id, unit, epoch)
        self._sending: tuple[str, tuple[TokenLogprob, ...]] | None = None
        self._waiting: list[tuple[str, tuple[TokenLogprob, ...]]] = []
        self._piece = 0
        self._try_again_at = 0.0

    async def write(self, text: str, logprobs: tuple[TokenLogprob, ...]) -> None:
        """Add a piece, now or as soon as redis is back.

        Raises:
            LeaseLostError: if the unit is no longer ours.
        """
        self._waiting.append((text, logprobs))
        if time.monotonic() >= self._try_again_at:
            try:
                await self._send()
            except QueueUnavailableError:
                self._try_again_at = time.monotonic() + REDIS_RETRY_S

    async def close(self) -> None:
        """Write what is left.

        Raises:
            LeaseLostError: if the unit is no longer ours.
            QueueUnavailableError: if redis stays away.
        """
        await patiently(self._send)

    async def _send(self) -> None:
        while self._sending or self._waiting:
            if self._sending is None:
                texts, logprobs = zip(*self._waiting, strict=True)
                self._sending = ("".join(texts), tuple(token for tokens in logprobs for token in tokens))
                self._waiting.clear()
                self._piece += 1
            if not await self._store.append(*self._where, *self._sending, piece=self._piece):
                raise LeaseLostError
            self._sending = None


class Piece(NamedTuple):
    """What a delta added to an answer."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    calls: tuple[ToolCallDelta, ...] = ()


class Transcript:
    """What an engine has said so far in one run.

    Args:
        model: the name that the answer shows.
        started_at: `time.monotonic` when the engine was asked.

    Attributes:
        finish_reason: why the answer ended; None while it has not.
    """

    def __init__(self, model: str, started_at: float) -> None:
        self._model = model
        self._started_at = started_at
        self._ttft_s: float | None = None
        self._text: list[str] = []
        self._logprobs: list[TokenLogprob] = []
        self._boxes: list[Box] = []
        self._cuts: list[tuple[int, int]] = []
        self._calls = GrowingCalls()
        self._call_cuts: list[tuple[int, int]] = []
        self._num_told = 0
        self._usage: Usage | None = None
        self.finish_reason: str | None = None
        self._stop_sequence = ""

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(self._text)

    @property
    def has_answer(self) -> bool:
        """Whether there is something to read by now, or a call."""
        return len(self._calls) > 0 or not is_blank(self.text)

    def take(self, delta: Delta) -> Piece | None:
        """Add a delta; returns its text with the log probabilities since the last text, and its calls; None without."""
        self._logprobs.extend(delta.logprobs)
        self._boxes.extend(delta.boxes)
        self._usage, self.finish_reason = delta.usage, delta.finish_reason
        self._stop_sequence = delta.stop_sequence
        for piece in delta.tool_calls:
            self._calls.add(piece)
            self._call_cuts.append((piece.index, len(piece.arguments)))
        if not delta.text and not delta.tool_calls:
            return None
        if self._ttft_s is None:
            self._ttft_s = time.monotonic() - self._started_at
        if not delta.text:
            return Piece("", calls=delta.tool_calls)
        logprobs = tuple(self._logprobs[self._num_told :])
        self._num_told = len(self._logprobs)
        self._text.append(delta.text)
        self._cuts.append((len(delta.text), len(logprobs)))
        return Piece(delta.text, logprobs, delta.tool_calls)

    def check_ended(self) -> None:
        """Refuse an answer that broke off.

        Raises:
            GenerationFailedError: if it has no finish reason.
        """
        if self.finish_reason is None:
            raise GenerationFailedError("The engine ended its answer without saying why.")

    def to_result(self, error: ErrorRecord | None = None, *, has_cuts: bool = False) -> UnitResult:
        """Return it as a result.

        Args:
            error: what ended it.
            has_cuts: it was streamed, and no event stream keeps in what pieces.
        """
        return UnitResult(
            text=self.text,
            model=self._model,
            finish_reason=self.finish_reason or "stop",
            usage=self._usage or Usage(),
            error=error,
            duration_s=round(time.monotonic() - self._started_at, 4),
            ttft_s=None if self._ttft_s is None else round(self._ttft_s, 4),
            logprobs=tuple(self._logprobs),
            boxes=tuple(self._boxes),
            cuts=tuple(self._cuts) if has_cuts else (),
            tool_calls=self._calls.whole(),
            call_cuts=tuple(self._call_cuts) if has_cuts else (),
            stop_sequence=self._stop_sequence,
        )


async def record(tape: Tape | None, stream: AsyncGenerator[Delta, None], model: str, started: float) -> UnitResult:
    """Read an engine's answer to its end, and write it down as it comes.

    Args:
        tape: where to; None if the answer is to be told only when it is whole.
        stream: of the engine; closed.
        model: the name that the answer shows.
        started: `time.monotonic` when the engine was asked.

    Raises:
        EngineError: as the engine raised it; `GenerationFailedError` if its answer ended without a finish reason.
        LeaseLostError: as soon as a write is refused.
    """
    transcript = Transcript(model, started)
    has_words, held = False, list[Piece]()
    async with contextlib.aclosing(stream) as deltas:
        async for delta in deltas:
            piece = transcript.take(delta)
            if tape is None or piece is None or not piece.text:
                continue
            held.append(piece)
            # Hold back text that may turn out to be no answer: a reader could not take it back.
            has_words = has_words or not is_blank(transcript.text)
            if has_words:
                logprobs = tuple(token for piece in held for token in piece.logprobs)
                await tape.write("".join(piece.text for piece in held), logprobs)
                held.clear()
    transcript.check_ended()
    if tape is not None:
        await tape.close()
    return transcript.to_result()

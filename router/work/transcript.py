"""What an engine says, gathered into a result and written into the job's events as it comes.

In: the deltas of an engine. Out: a `UnitResult`; and, if it is told while it is written, events of the job.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator

from engines.base import (
    Box,
    Delta,
    GenerationFailedError,
    TokenLogprob,
    Usage,
)
from router.answers.usable import is_blank
from router.errors import QueueUnavailableError
from router.jobs.job import UnitResult
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
    ttft_s: float | None = None
    text: list[str] = []
    logprobs: list[TokenLogprob] = []
    boxes: list[Box] = []
    waiting: list[str] = []
    has_words, num_sent = False, 0
    last = Delta()
    async with contextlib.aclosing(stream) as deltas:
        async for last in deltas:
            logprobs.extend(last.logprobs)
            boxes.extend(last.boxes)
            if not last.text:
                continue
            if ttft_s is None:
                ttft_s = time.monotonic() - started
            text.append(last.text)
            waiting.append(last.text)
            # What may turn out to be no answer at all is not told: a reader could not take it back.
            if tape is not None and (has_words := has_words or not is_blank("".join(text))):
                await tape.write("".join(waiting), tuple(logprobs[num_sent:]))
                num_sent = len(logprobs)
                waiting.clear()
    if last.finish_reason is None:
        raise GenerationFailedError("The engine ended its answer without saying why.")
    if tape is not None:
        await tape.close()
    return UnitResult(
        text="".join(text),
        model=model,
        finish_reason=last.finish_reason,
        usage=last.usage or Usage(),
        duration_s=round(time.monotonic() - started, 4),
        ttft_s=None if ttft_s is None else round(ttft_s, 4),
        logprobs=tuple(logprobs),
        boxes=tuple(boxes),
    )

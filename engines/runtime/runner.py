"""The model's side of a running batch: prompts are read in chunks, then all rows go on together, one token a step.

In: prepared requests, from the scheduler. Out: deltas. Runs on the model thread only. What both models share is here;
what a model does with tensors is in its own `runner.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from engines.base import Delta, SamplingParams, Usage
from engines.runtime.answer import GrowingAnswer
from engines.runtime.constrained import Constraint, constrain
from engines.runtime.kv_cache import KVBatch, KVPrompt, KVShape, KVStep, memory_errors
from engines.runtime.prefix_cache import CacheScope, ImageSpan, PrefixCache, TokenSequence
from engines.runtime.sampling import Pick, Sampler, pick_tokens
from engines.runtime.state import DeviceTimer, is_lost


class Prepared(Protocol):
    """A request ready for a model."""

    @property
    def sequence(self) -> TokenSequence:
        """The prompt, with the rows of every picture."""
        ...

    @property
    def pictures(self) -> list[Any]:
        """Model inputs of the sequence's pictures, in order; each is set to None as soon as it is encoded."""
        ...

    @property
    def sampling(self) -> SamplingParams:
        """The request's knobs."""
        ...

    @property
    def scope(self) -> CacheScope:
        """Where the caches may look."""
        ...

    @property
    def max_length(self) -> int:
        """Tokens of prompt and answer at most."""
        ...


JobT = TypeVar("JobT", bound=Prepared)


@dataclass(eq=False, slots=True)
class Row(Generic[JobT]):
    """An admitted request.

    Attributes:
        job: what was asked.
        sampler: its way of choosing.
        answer: what was answered so far.
        constraint: what the answer's tokens are held to, if to anything.
        prompt: keys and values while the prompt is read; None before and after that.
        features: of its pictures, in order, as far as they are needed and known.
        place: row of the batch once the prompt is read.
        pick: what was chosen last.
        token_ids: what was chosen so far.
        num_cached: tokens of the prompt that were not computed.
    """

    job: JobT
    sampler: Sampler
    answer: GrowingAnswer
    constraint: Constraint | None = None
    prompt: KVPrompt | None = None
    features: list[Tensor | None] = field(default_factory=list)
    place: int | None = None
    pick: Pick | None = None
    token_ids: list[int] = field(default_factory=list)
    num_cached: int = 0

    def check(self, pick: Pick) -> None:
        """Refuse to go on where there was nothing to choose from.

        Raises:
            EngineError: if the constraint gave up, or the model's numbers are useless.
        """
        if self.constraint is not None:
            self.constraint.check()
        pick.check()


RowT = TypeVar("RowT", bound=Row[Any])


class ModelRunner(ABC, Generic[JobT, RowT]):
    """Implements `engines.runtime.batching.BatchRunner`, but for what the model does.

    Args:
        shape: of the model's keys and values.
        cache: keeps vision features and beginnings.
        max_rows: most rows at a time.
        max_tokens: bound of `cost`, which the batch of keys and values keeps; None for no bound.

    Attributes:
        timer: times the encoding of pictures; None for not at all.
    """

    timer: DeviceTimer | None = None

    def __init__(self, shape: KVShape, cache: PrefixCache, max_rows: int, max_tokens: int | None = None) -> None:
        self.cache = cache
        self._shape = shape
        self._batch = KVBatch(shape, max_rows, max_tokens)
        self._places: list[RowT] = []

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self._shape.device

    # -- the model's own ----------------------------------------------------------------------------------------------

    @abstractmethod
    def begin(self, job: JobT) -> RowT:
        """Make a row; cheap."""

    @abstractmethod
    def encode(self, pixels: Any, adapter: str = "") -> Tensor:
        """Run one of a request's pictures through the vision tower, as an adapter changes it; (rows, H)."""

    @abstractmethod
    def _embed(self, token_ids: Tensor) -> Tensor:
        """Look up (n,) token ids; (n, H), the caller's to change."""

    @abstractmethod
    def _read(self, row: RowT, embeddings: Tensor, start: int) -> Tensor:
        """Run a piece of a prompt through the layers.

        Args:
            row: its prompt takes the keys and values.
            embeddings: (n, H), pictures already in place.
            start: where in the prompt the piece begins.

        Returns:
            (1, V) logits after the last of them.
        """

    @abstractmethod
    def _step(self, rows: Sequence[RowT], step: KVStep) -> Tensor:
        """Run the last token of every row through the layers; (B, V) logits."""

    def _feature_scope(self, scope: CacheScope) -> CacheScope:
        """Where features of pictures may be looked for; as the prompt's own if the model has no other."""
        return scope

    def _picture_work(self, num_rows: int, max_tokens: int) -> int:
        """How many tokens' worth of work it was to encode a picture of so many rows."""
        return num_rows

    # -- what the scheduler calls -------------------------------------------------------------------------------------

    def cost(self, jobs: Sequence[JobT]) -> int:
        """Count all that may be allocated for them at a time; see `KVShape.peak_tokens`."""
        num_picture_rows = sum(span.length for job in jobs for span in job.sequence.images)
        return self._shape.peak_tokens([job.max_length for job in jobs], num_picture_rows)

    @torch.inference_mode()
    def prefill(self, row: RowT, max_tokens: int) -> tuple[int, bool]:
        """Encode one picture, or read some more of the prompt."""
        with memory_errors():
            if row.prompt is None:
                row.prompt, row.num_cached = self._begin_prompt(row.job)
            prompt, start = row.prompt, row.prompt.num_done
            if (num_rows := self._encode_picture(row, start)) > 0:
                return self._picture_work(num_rows, max_tokens), False
            stop = min(start + max_tokens, prompt.num_tokens)
            logits = self._read(row, self._embed_piece(row, start, stop), start)
            if stop == prompt.num_tokens:
                self._join(row, prompt, logits)
            prompt.advance(stop - start)
        return stop - start, row.place is not None

    @torch.inference_mode()
    def decode(self, rows: Sequence[RowT]) -> list[BaseException | None]:
        """Choose the next token of every row: one forward, one transfer from the device."""
        in_place = sorted(rows, key=_place)  # so that the whole batch is read where it lies
        with memory_errors():
            logits, step = self.decode_logits(in_place)
            picks = self._pick(logits, in_place)
        step.advance()
        errors: dict[RowT, BaseException] = {}
        for row, pick in zip(in_place, picks, strict=True):
            try:
                row.check(pick)
                self._take(row, pick)
            except Exception as error:
                errors[row] = error
        return [errors.get(row) for row in rows]

    def advance(self, row: RowT) -> tuple[list[Delta], bool]:
        """Turn the token chosen last into text."""
        assert row.pick is not None
        delta = row.answer.push(row.pick, is_complete=row.constraint is not None and row.constraint.is_complete)
        deltas = [] if delta is None else [delta]
        if row.answer.finish_reason is None:
            return deltas, False
        usage = Usage(
            prompt_tokens=len(row.job.sequence),
            completion_tokens=row.answer.num_tokens,
            image_tokens=sum(span.length for span in row.job.sequence.images),
            cached_tokens=row.num_cached,
            reasoning_tokens=row.answer.num_reasoning_tokens,
        )
        return [*deltas, row.answer.finish(usage)], True

    @torch.inference_mode()
    def drop(self, row: RowT, *, is_complete: bool) -> None:
        """Free the row's place; a conversation that came to its end is kept for the question that follows it."""
        row.prompt = None
        row.features.clear()
        if row.place is None:
            return
        try:
            if is_complete:
                self._keep(row, row.place)
        finally:
            self._batch.leave(row.place)
            last = self._places.pop()
            if last is not row:
                self._places[row.place], last.place = last, row.place
            row.place = None

    def is_lost(self) -> bool:
        """See `engines.runtime.batching.BatchRunner.is_lost`."""
        return is_lost(self.device)

    def relieve(self) -> None:
        """Let the caches go."""
        self.cache.clear()
        self._batch.release()
        if self._shape.device.type == "cuda":
            torch.cuda.empty_cache()

    # -- the steps ----------------------------------------------------------------------------------------------------

    def decode_logits(self, rows: Sequence[RowT]) -> tuple[Tensor, KVStep]:
        """Run one decode step; the rows are as before until the step is advanced.

        Args:
            rows: read to the end of their prompts; best in the order of their places, without gaps.

        Returns:
            (B, V) logits, and the step.
        """
        step = self._batch.begin_step([_place(row) for row in rows])
        return self._step(rows, step), step

    def _keep(self, row: RowT, place: int) -> None:
        """Keep a conversation; by itself, since a view that is still referred to would keep room that is given back."""
        num_answered = self._batch.lengths[place] - len(row.job.sequence)
        # The last token was sampled but not read, so the cache has no entry for it.
        sequence = row.job.sequence.extended(row.token_ids[:num_answered])
        self.cache.put_prefix(row.job.scope, sequence, self._batch.views(place))

    def _begin_prompt(self, job: JobT) -> tuple[KVPrompt, int]:
        """Make room for a prompt's keys and values, with what is known of them already filled in."""
        num_picture_rows = sum(span.length for span in job.sequence.images)
        prompt = self._batch.begin_prompt(len(job.sequence), num_picture_rows)
        with self.cache.longest_prefix(job.scope, job.sequence, len(job.sequence) - 1) as prefix:
            if prefix is None:
                return prompt, 0
            prompt.load(prefix.layers, prefix.num_tokens)
            return prompt, prefix.num_tokens

    def _encode_picture(self, row: RowT, start: int) -> int:
        """Get hold of the features of all pictures from ``start`` on, encoding one at most; return its rows, or 0."""
        job: Prepared = row.job
        scope = self._feature_scope(job.scope)
        for index, span in enumerate(job.sequence.images):
            if span.start < start or row.features[index] is not None:
                continue
            row.features[index] = self.cache.get_features(scope, span.pixel_hash)
            if row.features[index] is None:
                pixels = job.pictures[index]
                assert pixels is not None
                with self.timer.measure() if self.timer is not None else nullcontext():
                    features = self.encode(pixels, scope.adapter)
                row.features[index] = features
                job.pictures[index] = None
                self.cache.put_features(scope, span.pixel_hash, features)
                return span.length
            job.pictures[index] = None
        return 0

    def _embed_piece(self, row: RowT, start: int, stop: int) -> Tensor:
        """Embed rows of a prompt, pictures in their places; (stop - start, H)."""
        ids = torch.from_numpy(row.job.sequence.ids[start:stop]).to(self._shape.device)
        embeddings = self._embed(ids)
        for index, (first, last) in pictures_within(row.job.sequence.images, start, stop):
            features, begin = row.features[index], row.job.sequence.images[index].start
            assert features is not None
            embeddings[first - start : last - start] = features[first - begin : last - begin].to(embeddings.dtype)
        return embeddings

    def _join(self, row: RowT, prompt: KVPrompt, logits: Tensor) -> None:
        """Choose the first token of an answer, and give the row its place in the batch."""
        (pick,) = self._pick(logits, [row])
        row.check(pick)
        # Before the row is ready: after an out-of-memory error here, the prompt's last chunk is read again.
        self.cache.put_prefix(row.job.scope, row.job.sequence, prompt.layers)
        row.prompt = None  # the batch takes it over layer by layer; after a lack of memory there, it is read again
        row.place = self._batch.join(prompt, row.job.max_length)
        self._places.append(row)
        self._take(row, pick)
        row.features.clear()
        row.job.pictures.clear()

    def _pick(self, logits: Tensor, rows: Sequence[RowT]) -> list[Pick]:
        """Choose a token for each row; (B, V) logits."""
        allowed = constrain(logits, [row.constraint for row in rows])
        return pick_tokens(logits, [row.sampler for row in rows], allowed)

    def _take(self, row: RowT, pick: Pick) -> None:
        if row.constraint is not None:
            row.constraint.accept(pick.token_id)
        row.sampler.advance(pick.token_id)
        row.pick = pick
        row.token_ids.append(pick.token_id)


def make_sampler(job: Prepared) -> Sampler:
    """Make what chooses a request's tokens; what it says of its pictures' placeholders is no repetition."""
    if job.sampling.repetition_penalty == 1.0:
        return Sampler(job.sampling)
    is_text = np.ones(len(job.sequence), bool)
    for span in job.sequence.images:
        is_text[span.start : span.start + span.length] = False
    return Sampler(job.sampling, job.sequence.ids[is_text].tolist())


def pictures_within(images: Sequence[ImageSpan], start: int, stop: int) -> Iterator[tuple[int, tuple[int, int]]]:
    """Find the pictures of a piece of a prompt: the number of each, and the rows of it from first up to last."""
    for index, span in enumerate(images):
        first, last = max(span.start, start), min(span.start + span.length, stop)
        if first < last:
            yield index, (first, last)


def _place(row: Row[Any]) -> int:
    assert row.place is not None
    return row.place

"""What is admitted is what may be allocated: requests by the thousand over an allocator that counts."""

from __future__ import annotations

import random
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from engines.base import Delta, SamplingParams
from engines.runtime import runner
from engines.runtime.answer import GrowingAnswer
from engines.runtime.batching import BatchLimits, ContinuousBatch
from engines.runtime.devices import fit_context
from engines.runtime.kv_cache import KVBatch, KVShape, KVStep
from engines.runtime.prefix_cache import CacheScope, ImageSpan, PrefixCache, TokenSequence
from engines.runtime.sampling import Sampler

HIDDEN = 12


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)


class Allocator:
    """Memory of a simulated device: what lives now and the most that ever lived, in bytes."""

    def __init__(self) -> None:
        self.live = 0
        self.peak = 0

    def take(self, *size: int) -> Tensor:
        array = np.zeros(size, np.float32)
        self._add(array.nbytes)
        weakref.finalize(array, self._add, -array.nbytes)  # a tensor's storage holds the array until its own end
        return torch.from_numpy(array)

    @contextmanager
    def beside(self, num_bytes: int) -> Iterator[None]:
        """Count what a kernel has for a moment."""
        self._add(num_bytes)
        yield
        self._add(-num_bytes)

    def _add(self, num_bytes: int) -> None:
        self.live += num_bytes
        self.peak = max(self.peak, self.live)


def counted(allocator: Allocator, num_repeats: int = 0) -> KVShape:
    class Counted(KVShape):
        def allocate(self, num_rows: int, num_columns: int) -> tuple[Tensor, Tensor]:
            size = num_rows, self.num_heads, num_columns, self.head_dim
            return allocator.take(*size), allocator.take(*size)

    return Counted(3, 1, 2, torch.float32, torch.device("cpu"), num_repeats, picture_row_bytes=4 * HIDDEN)


@dataclass
class Job:
    sequence: TokenSequence
    max_tokens: int
    pictures: list[Any] = field(default_factory=list)
    scope: CacheScope = field(default_factory=lambda: CacheScope("", ""))

    @property
    def max_length(self) -> int:
        return len(self.sequence) + self.max_tokens


class Answer(GrowingAnswer):
    def _decode(self, token_id: int) -> tuple[Delta | None, bool]:
        return None, True

    def _num_decoded(self) -> int:
        return 0

    def _stopped_by(self) -> str:
        return ""

    def _flush(self) -> Delta:
        return Delta()

    def _name(self, token_id: int) -> tuple[str, bytes]:
        return "", b""


class Runner(runner.ModelRunner[Job, runner.Row[Job]]):
    """The shared runner around a model that only writes keys and values, and does not always find memory."""

    def __init__(self, allocator: Allocator, shape: KVShape, cache: PrefixCache, limits: BatchLimits) -> None:
        super().__init__(shape, cache, limits.max_rows, limits.max_tokens)
        self.allocator = allocator
        self.random = random.Random(2)
        self.num_admitted = 0

    def begin(self, job: Job) -> runner.Row[Job]:
        self.num_admitted += 1
        answer = Answer(frozenset(), job.max_tokens)
        return runner.Row(job, Sampler(SamplingParams()), answer, features=[None] * len(job.pictures))

    def encode(self, pixels: int, adapter: str = "") -> Tensor:
        return self.allocator.take(pixels, HIDDEN)

    def _embed(self, token_ids: Tensor) -> Tensor:
        return torch.zeros(len(token_ids), HIDDEN)

    def _read(self, row: runner.Row[Job], embeddings: Tensor, start: int) -> Tensor:
        assert row.prompt is not None
        new = torch.ones(1, 1, len(embeddings), 2)
        for layer in range(3):
            self._fail_sometimes(0.002)
            keys, values = row.prompt.update(new, new, layer)
            with self.allocator.beside((keys.nbytes + values.nbytes) * self._shape.num_repeats):
                pass
        return torch.zeros(1, 3)

    def _step(self, rows: Sequence[runner.Row[Job]], step: KVStep) -> Tensor:
        new = torch.ones(len(rows), 1, 1, 2)
        for layer in range(3):
            self._fail_sometimes(0.002)
            keys, values = step.update(new, new, layer)
            is_copy = keys.data_ptr() != self._batch._layers[layer][0].data_ptr()
            with self.allocator.beside((keys.nbytes + values.nbytes) * is_copy):
                pass
        return torch.zeros(len(rows), 3)

    def _fail_sometimes(self, probability: float) -> None:
        if self.random.random() < probability:
            raise MemoryError("somebody else took it")


class Sink:
    def __init__(self) -> None:
        self.is_cancelled = False

    def put(self, item: object) -> None:
        pass


def some_jobs(number: int, longest: int) -> Iterator[Job]:
    """Mostly short conversations with short answers, now and then one as long as may be, some with pictures."""
    chance = random.Random(1)
    for index in range(number):
        length = min(longest - 1, int(chance.lognormvariate(4.0, 1.6)) + 2)
        if chance.random() < 0.01:
            length = longest - 1
        max_tokens = min(longest - length, chance.choice([1, 1, 1, 2, 2, 12]))
        pictures = [length // 3, length // 3] if chance.random() < 0.3 and length > 3 else []
        spans = [ImageSpan(place * (length // 3), size, f"{index}.{place}") for place, size in enumerate(pictures)]
        yield Job(TokenSequence(np.arange(index, index + length), spans), max_tokens, list(pictures))


@pytest.mark.slow
@pytest.mark.parametrize(("number", "num_repeats", "cache_tokens"), [(7500, 0, 0), (2600, 8, 800)])
def test_ten_thousand_admissions_never_take_more_than_the_bound(
    number: int, num_repeats: int, cache_tokens: int
) -> None:
    # Given a device that has room for 6,000 tokens in the batch and some in the cache
    allocator = Allocator()
    shape = counted(allocator, num_repeats)
    limits = BatchLimits(max_rows=16, max_tokens=6000, prefill_tokens=512)
    cache = PrefixCache(cache_tokens * shape.bytes_per_token)
    model = Runner(allocator, shape, cache, limits)
    told: list[float] = []
    batch = ContinuousBatch[Job, runner.Row[Job]](model, limits, tell=told.append)
    bound = (limits.max_tokens + cache_tokens) * shape.bytes_per_token

    # When conversations of all lengths come, some leave early, and memory is lacking now and then
    chance = random.Random(3)
    sinks = []
    longest = shape.longest_that_fits(limits.max_tokens)
    for job in some_jobs(number, longest):
        sinks.append(Sink())
        batch.submit(job, sinks[-1])
        while batch.num_waiting > 20:
            batch.step()
            assert allocator.peak <= bound
        if chance.random() < 0.02:
            sinks[-chance.randint(1, min(len(sinks), 30))].is_cancelled = True
    while not batch.is_idle:
        batch.step()

    # Then the bound held, without being far from it, and nothing is left
    assert model.num_admitted > 0.95 * number
    assert 0.8 * bound < allocator.peak <= bound
    assert max(told) > 10
    model.relieve()
    assert allocator.live == 0


def test_the_longest_conversation_that_fits_is_admitted_alone_and_one_longer_by_little_is_not() -> None:
    for num_repeats in (0, 5):
        shape = counted(Allocator(), num_repeats)
        for max_tokens in (10, 500, 6001, 10**6):
            longest = shape.longest_that_fits(max_tokens)
            assert shape.peak_tokens([longest], longest) <= max_tokens
            assert shape.peak_tokens([longest + 8], longest + 8) > max_tokens


def test_a_context_that_memory_has_no_room_for_is_lowered_or_refused(caplog: pytest.LogCaptureFixture) -> None:
    shape = counted(Allocator())

    assert fit_context(4096, BatchLimits(8, 10**6), shape) == 4096
    assert not caplog.records
    assert 2048 < fit_context(131_072, BatchLimits(8, 20_000), shape) < 20_000
    assert "instead of 131072" in caplog.text
    with pytest.raises(ValueError, match="--quantization"):
        fit_context(131_072, BatchLimits(8, 1000), shape)


def fill(batch: KVBatch, *lengths: int, max_length: int = 2000) -> None:
    for length in lengths:
        prompt = batch.begin_prompt(length)
        prompt.advance(length)
        batch.join(prompt, max(max_length, length + 1))


def test_room_that_is_hardly_used_is_given_back_as_rows_leave() -> None:
    # Given one long conversation among short ones
    allocator = Allocator()
    batch = KVBatch(counted(allocator), max_rows=8)
    fill(batch, 5, 1900, 5, 5, 5)
    before = batch.num_allocated

    # When the long one leaves
    batch.leave(1)

    # Then its columns are given back
    assert before > 8 * 1900
    assert batch.num_allocated <= 256
    assert allocator.live == batch.num_allocated * 48
    for _ in range(4):
        batch.leave(0)
    assert allocator.live == 0


def test_rows_are_rounded_up_only_while_the_bound_has_room_for_it() -> None:
    shape = counted(Allocator())
    wide, narrow = KVBatch(shape, 32), KVBatch(shape, 32, max_tokens=shape.peak_tokens([2000] * 17))

    for batch in (wide, narrow):
        fill(batch, *([1999] * 17))

    assert wide.num_allocated >= 32 * 2000
    assert narrow.num_allocated <= 17 * 2001


def test_what_was_rounded_up_makes_way_for_a_prompt() -> None:
    shape = counted(Allocator())
    batch = KVBatch(shape, 32, max_tokens=shape.peak_tokens([2000] * 8))
    fill(batch, *([1000] * 5))
    assert batch.num_allocated > 5 * 2001

    prompts = [batch.begin_prompt(1999) for _ in range(3)]

    assert len(prompts) == 3
    assert batch.num_allocated <= 5 * 2001
    assert batch.lengths == [1000] * 5


def test_a_row_that_finds_no_room_leaves_the_others_and_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a batch of one row, and a prompt whose last layer finds no memory
    allocator = Allocator()
    batch = KVBatch(counted(allocator), max_rows=4)
    fill(batch, 10)
    before = [(keys.clone(), values.clone()) for keys, values in batch.views(0)]
    prompt = batch.begin_prompt(100)
    for layer in range(3):
        prompt.update(torch.ones(1, 1, 100, 2), torch.ones(1, 1, 100, 2), layer)
    take, calls = allocator.take, []

    def fail(*size: int) -> Tensor:
        calls.append(size)
        if len(calls) > 4:
            raise MemoryError
        return take(*size)

    monkeypatch.setattr(allocator, "take", fail)

    # When it joins
    with pytest.raises(MemoryError):
        batch.join(prompt, 200)
    monkeypatch.undo()

    # Then the row is as before, and the next one finds its place empty
    for (keys, values), (old_keys, old_values) in zip(batch.views(0), before, strict=True):
        assert torch.equal(keys, old_keys)
        assert torch.equal(values, old_values)
    assert all(not keys[1:].any() for keys, _ in batch._layers)
    assert prompt.num_allocated == 0


def test_a_card_too_full_for_the_smaller_copy_does_not_keep_a_row_from_leaving(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    allocator = Allocator()
    batch = KVBatch(counted(allocator), max_rows=4)
    fill(batch, 5, 1900)

    def fail(*size: int) -> Tensor:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(allocator, "take", fail)
    batch.leave(1)

    assert batch.lengths == [5]

"""Parity of the running batch: the golden greedy ids in random order and arrival, in pieces, and through the cache."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pytest
import torch

from engines.base import Delta, EngineError, SamplingParams
from engines.owl2 import MPLUGOwl2ForConditionalGeneration, MPLUGOwl2Processor
from engines.owl2.runner import Owl2Runner, PreparedRequest, Row
from engines.runtime.batching import BatchLimits, ContinuousBatch
from engines.runtime.prefix_cache import CacheScope, PrefixCache
from tests.parity.owl2_golden import cases, needs_golden, open_image, pixels_of, read_json

pytestmark = needs_golden


@dataclass(frozen=True, eq=False)
class Expected:
    """A golden request and its greedy ids."""

    job: PreparedRequest
    generated_ids: list[int]


class Sink:
    is_cancelled = False
    error: EngineError | None = None

    def put(self, item: Delta | EngineError | None) -> None:
        if isinstance(item, EngineError):
            self.error = item


class RecordingRunner(Owl2Runner):
    """Keeps the rows it made, to look at their tokens afterwards."""

    rows: list[Row]

    def begin(self, job: PreparedRequest) -> Row:
        row = super().begin(job)
        self.rows.append(row)
        return row


@pytest.fixture
def expected(owl2_model: MPLUGOwl2ForConditionalGeneration, owl2_processor: MPLUGOwl2Processor) -> list[Expected]:
    """Every conversation of the set, and every row of its batches."""

    def make(input_ids: list[int], pixels: torch.Tensor | None, generated_ids: list[int]) -> Expected:
        num_image_rows = owl2_model.config.num_image_rows
        scope = CacheScope("", "golden")
        job = PreparedRequest.make(input_ids, pixels, num_image_rows, len(generated_ids), SamplingParams(), scope)
        return Expected(job, generated_ids)

    def from_row(row: dict[str, Any]) -> Expected:
        mask = row.get("attention_mask", [1] * len(row["input_ids"]))
        ids = [token_id for token_id, is_real in zip(row["input_ids"], mask, strict=True) if is_real]
        pixels = None
        if "image" in row:
            pixels = owl2_processor.pixel_values([open_image(row["image"])], aspect_ratio=row["preprocess"])
        return make(ids, pixels, row["generated_ids_alone"])

    conversations = [case.values[0] for case in cases()]
    rows = chain.from_iterable(
        value for value in read_json("batch_generation.json").values() if isinstance(value, list)
    )
    return [
        *(make(case["input_ids"], pixels_of(case, owl2_processor), case["generated_ids"]) for case in conversations),
        *map(from_row, rows),
    ]


@pytest.mark.parametrize(
    ("max_rows", "prefill_tokens", "cache_bytes"), [(16, 64, 0), (5, 7, 0), (3, 16, 10**7), (1, 512, 10**7)]
)
def test_golden_ids_come_out_of_a_running_batch_whatever_the_order_and_the_arrival(
    max_rows: int,
    prefill_tokens: int,
    cache_bytes: int,
    expected: list[Expected],
    owl2_model: MPLUGOwl2ForConditionalGeneration,
    owl2_processor: MPLUGOwl2Processor,
) -> None:
    # Given a batch; no token ends an answer, since some golden answers end with one
    runner = RecordingRunner(owl2_model, owl2_processor.tokenizer, frozenset(), PrefixCache(cache_bytes), max_rows)
    runner.rows = []
    batch = ContinuousBatch[PreparedRequest, Row](runner, BatchLimits(max_rows, 100_000, prefill_tokens))
    chance = random.Random(max_rows)

    # When every request comes, with a cache twice, at random
    order = expected * (2 if cache_bytes else 1)
    chance.shuffle(order)
    sink = Sink()
    for each in order:
        batch.submit(each.job, sink)
        for _ in range(chance.randrange(6)):
            batch.step()
    while not batch.is_idle:
        batch.step()

    # Then each has its golden ids
    golden = {id(each.job): each.generated_ids for each in expected}
    assert sink.error is None
    assert len(runner.rows) == len(order)
    for row in runner.rows:
        assert row.token_ids == golden[id(row.job)]
    assert any(row.num_cached for row in runner.rows) == bool(cache_bytes)

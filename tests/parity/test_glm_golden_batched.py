"""Parity of GLM's running batch: the golden ids in random order and arrival, in pieces, and through the cache."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from itertools import combinations

import pytest
import pytest_asyncio

from engines.base import Delta, EngineError
from engines.glm.engine import GlmEngine, Plan
from engines.glm.runner import GlmRunner, Pixels, PreparedRequest, Row
from engines.runtime.batching import BatchLimits, ContinuousBatch
from engines.runtime.prefix_cache import PrefixCache
from tests.parity.glm_golden import (
    CASES,
    GOLDENS,
    files_of,
    make_job,
    needs_golden,
    prepare,
    rope_delta,
    started_engine,
    tags,
)

pytestmark = [needs_golden, pytest.mark.asyncio(loop_scope="module")]


class RecordingRunner(GlmRunner):
    """Keeps the rows it made, to look at their tokens afterwards."""

    rows: list[Row]

    def begin(self, job: PreparedRequest) -> Row:
        row = super().begin(job)
        self.rows.append(row)
        return row


class Sink:
    is_cancelled = False

    def __init__(self) -> None:
        self.error: EngineError | None = None

    def put(self, item: Delta | EngineError | None) -> None:
        if isinstance(item, EngineError):
            self.error = item


class Stage:
    """The golden cases, prepared once, and a fresh batch."""

    def __init__(self, engine: GlmEngine, prepared: dict[str, tuple[Plan, list[Pixels]]]) -> None:
        self._engine = engine
        self._prepared = prepared
        self._names: dict[int, str] = {}
        self.sink = Sink()

    def open(self, limits: BatchLimits, cache_bytes: int) -> None:
        cache = PrefixCache(cache_bytes)
        self.runner = RecordingRunner(self._engine._model, self._engine.make_answer, cache, limits.max_rows)
        self.runner.rows = []
        self.batch = ContinuousBatch[PreparedRequest, Row](self.runner, limits)

    def submit(self, name: str) -> None:
        job = make_job(self._engine, CASES[name], *self._prepared[name])
        self._names[id(job)] = name
        self.batch.submit(job, self.sink)

    def finish(self) -> dict[int, str]:
        """Run to the end, and hold every row to its golden ids."""
        while not self.batch.is_idle:
            self.batch.step()
        assert self.sink.error is None
        for row in self.runner.rows:
            assert row.token_ids == CASES[self.name(row)]["greedy_ids"], self.name(row)
        return self._names

    def name(self, row: Row) -> str:
        return self._names[id(row.job)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with started_engine() as engine:
        yield Stage(engine, {name: await prepare(engine, case) for name, case in CASES.items()})


@pytest.mark.parametrize(
    ("max_rows", "prefill_tokens", "cache_bytes"), [(16, 64, 0), (5, 7, 0), (3, 16, 10**7), (1, 512, 10**7)]
)
async def test_golden_ids_come_out_of_a_running_batch_whatever_the_order_and_the_arrival(
    stage: Stage, max_rows: int, prefill_tokens: int, cache_bytes: int
) -> None:
    # Given a batch
    stage.open(BatchLimits(max_rows, 100_000, prefill_tokens), cache_bytes)
    chance = random.Random(max_rows)

    # When every request comes, with a cache twice, at random
    order = [*CASES] * (2 if cache_bytes else 1)
    chance.shuffle(order)
    for name in order:
        stage.submit(name)
        for _ in range(chance.randrange(6)):
            stage.batch.step()

    # Then each has its golden ids
    stage.finish()
    assert len(stage.runner.rows) == len(order)
    assert any(row.num_cached for row in stage.runner.rows) == bool(cache_bytes)


@pytest.mark.parametrize("names", GOLDENS.get("batch_cases", []), ids="+".join)
async def test_golden_batches_run_side_by_side(stage: Stage, names: list[str]) -> None:
    stage.open(BatchLimits(len(names), 100_000, 100_000), cache_bytes=0)
    for name in names:
        stage.submit(name)

    stage.finish()


@pytest.mark.parametrize("family", GOLDENS.get("prefix_families", {}).values(), ids=lambda family: family["cases"][0])
async def test_a_golden_family_computes_its_common_beginning_once(stage: Stage, family: dict[str, object]) -> None:
    # Given a family whose cases begin alike
    stage.open(BatchLimits(1, 100_000, 32), cache_bytes=10**10)
    names = family["cases"]
    assert isinstance(names, list)

    # When it is asked one after another
    for name in names:
        stage.submit(name)
    stage.finish()

    # Then all but the first take at least the beginning from the cache, and the vision tower ran once
    first, *others = stage.runner.rows
    assert first.num_cached == 0
    assert all(row.num_cached >= family["common_prefix_tokens"] for row in others)
    assert [row.rope_delta for row in stage.runner.rows] == [rope_delta(CASES[name]) for name in names]
    assert all(row.rope_delta == family.get("rope_delta", row.rope_delta) for row in stage.runner.rows)
    assert stage.runner.cache.stats.num_feature_misses == len(pictures(stage.runner.rows))


def pictures(rows: list[Row]) -> set[str]:
    """Return what tells the pictures of some requests apart."""
    return {span.pixel_hash for row in rows for span in row.job.sequence.images}


def have_equal_ids_and_other_pictures(name: str, other: str) -> bool:
    case, twin = CASES[name], CASES[other]
    return case["input_ids"] == twin["input_ids"] and files_of(case) != files_of(twin)


# Whether a set says so or not.
TWINS = {(name, twin) for name, case in CASES.items() for twin in tags(case, "same_ids_as")}
TWINS |= {pair[::-1] for pair in combinations(CASES, 2) if have_equal_ids_and_other_pictures(*pair)}


@pytest.mark.parametrize(("name", "twin"), sorted(TWINS))
async def test_equal_ids_with_other_pixels_share_nothing_from_the_picture_on(
    stage: Stage, name: str, twin: str
) -> None:
    # Given two cases whose ids are equal and whose pictures are not
    stage.open(BatchLimits(1, 100_000, 512), cache_bytes=10**10)
    assert CASES[name]["input_ids"] == CASES[twin]["input_ids"]

    # When each is asked, and then again
    for each in (name, twin, name, twin):
        stage.submit(each)
    stage.finish()

    # Then the first two share at most what is before the picture, and the others find their own, all of it
    first, second, *again = stage.runner.rows
    pairs = zip(first.job.sequence.images, second.job.sequence.images, strict=True)
    span = next(mine for mine, other in pairs if mine.pixel_hash != other.pixel_hash)
    assert (first.num_cached, second.num_cached) == (0, span.start)
    assert [row.num_cached for row in again] == [len(row.job.sequence) - 1 for row in again]
    assert stage.runner.cache.stats.num_feature_misses == len(pictures(stage.runner.rows))

"""engines.owl2.runner: each row of a running batch gives what it gives alone, whoever comes, goes, or was before it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache

from engines.base import Delta, EngineError, EngineOverloadedError, GenerationFailedError, SamplingParams, Usage
from engines.owl2 import MPLUGOwl2Config, MPLUGOwl2ForConditionalGeneration
from engines.owl2.config import IMAGE_TOKEN_ID
from engines.owl2.runner import Owl2Runner, PreparedRequest, Row
from engines.owl2.tokenizer import Owl2Tokenizer
from engines.runtime import runner as runner_module
from engines.runtime.batching import BatchLimits, ContinuousBatch
from engines.runtime.prefix_cache import CacheScope, PrefixCache

NUM_IMAGE_ROWS = 5
PICTURES = torch.randn(4, 3, 28, 28, generator=torch.Generator().manual_seed(11))
# Where the two best tokens are closer than this, rounding may decide, and it depends on the shape of the batch.
NEAR_TIE = 1e-3


@dataclass(frozen=True)
class Asked:
    """A prompt as ids, -200 for a picture, and which pictures."""

    ids: tuple[int, ...]
    pictures: tuple[int, ...] = ()
    max_tokens: int = 8
    sampling: SamplingParams = SamplingParams()
    caller: str = ""

    def prepare(self) -> PreparedRequest:
        pixels = PICTURES[list(self.pictures)] if self.pictures else None
        scope = CacheScope(self.caller, "tiny")
        return PreparedRequest.make(self.ids, pixels, NUM_IMAGE_ROWS, self.max_tokens, self.sampling, scope)


class RecordingRunner(Owl2Runner):
    """Keeps the rows it made, to look at their tokens afterwards."""

    rows: list[Row]

    def begin(self, job: PreparedRequest) -> Row:
        row = super().begin(job)
        self.rows.append(row)
        return row


class FakeSink:
    def __init__(self) -> None:
        self.is_cancelled = False
        self.deltas: list[Delta] = []
        self.error: EngineError | None = None

    def put(self, item: Delta | EngineError | None) -> None:
        if isinstance(item, Delta):
            self.deltas.append(item)
        elif item is not None:
            self.error = item

    @property
    def text(self) -> str:
        return "".join(delta.text for delta in self.deltas)

    @property
    def usage(self) -> Usage:
        usage = self.deltas[-1].usage
        assert usage is not None
        return usage


class Stage:
    """A running batch of the tiny model, driven step by step."""

    def __init__(
        self,
        model: MPLUGOwl2ForConditionalGeneration,
        tokenizer: Owl2Tokenizer,
        cache_bytes: int = 10**7,
        **limits: int,
    ) -> None:
        bounds = BatchLimits(**{"max_rows": 8, "max_tokens": 10_000, "prefill_tokens": 64, **limits})
        self.runner = RecordingRunner(model, tokenizer, frozenset(), PrefixCache(cache_bytes), bounds.max_rows)
        self.runner.rows = []
        self.batch = ContinuousBatch[PreparedRequest, Row](self.runner, bounds)
        self._jobs: list[tuple[PreparedRequest, Asked]] = []

    def submit(self, asked: Asked) -> FakeSink:
        sink = FakeSink()
        self._jobs.append((asked.prepare(), asked))
        self.batch.submit(self._jobs[-1][0], sink, asked.caller)
        return sink

    def asked(self, row: Row) -> Asked:
        return next(asked for job, asked in self._jobs if job is row.job)

    def run(self) -> None:
        while not self.batch.is_idle:
            self.batch.step()

    def answer(self, asked: Asked) -> tuple[list[int], FakeSink]:
        sink = self.submit(asked)
        self.run()
        assert sink.error is None
        return self.runner.rows[-1].token_ids, sink


@pytest.fixture(scope="module")
def tiny(checkpoint: Path) -> MPLUGOwl2ForConditionalGeneration:
    return MPLUGOwl2ForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32)


@pytest.fixture(scope="module")
def tokenizer(checkpoint: Path) -> Owl2Tokenizer:
    return Owl2Tokenizer.from_folder(checkpoint)


@pytest.fixture(scope="module")
def alone(tiny: MPLUGOwl2ForConditionalGeneration) -> Callable[[Asked], tuple[list[int], int]]:
    """Greedy tokens by plain forwards of the model, one request at a time, and how many of them are beyond rounding."""

    @cache
    @torch.inference_mode()
    def generate(asked: Asked) -> tuple[list[int], int]:
        past = DynamicCache(config=tiny.config)
        inputs: dict[str, Any] = {"input_ids": torch.tensor([asked.ids])}
        if asked.pictures:
            inputs["pixel_values"] = PICTURES[list(asked.pictures)]
        token_ids: list[int] = []
        num_certain = asked.max_tokens
        for step in range(asked.max_tokens):
            logits = tiny(**inputs, past_key_values=past, use_cache=True).logits[0, -1]
            best = logits.topk(2)
            if best.values[0] - best.values[1] < NEAR_TIE:
                num_certain = min(num_certain, step)
            token_ids.append(int(best.indices[0]))
            inputs = {"input_ids": best.indices[None, :1]}
        return token_ids, num_certain

    return generate


def check_beginning(got: list[int], asked: Asked, alone: Callable[[Asked], tuple[list[int], int]]) -> None:
    expected, num_certain = alone(asked)
    assert got[:num_certain] == expected[: min(num_certain, len(got))]


def check_equal(got: list[int], asked: Asked, alone: Callable[[Asked], tuple[list[int], int]]) -> None:
    assert len(got) == asked.max_tokens
    check_beginning(got, asked, alone)


@st.composite
def prompts(draw: st.DrawFn) -> Asked:
    """Prompts that often begin alike, with pictures anywhere, the end excepted, also side by side."""
    parts = draw(st.lists(st.sampled_from([(5, 6, 7), (9,), (20, 21), (IMAGE_TOKEN_ID,)]), max_size=6))
    ids = [1, *(token_id for part in parts for token_id in part), draw(st.integers(30, 60))]
    num_pictures = ids.count(IMAGE_TOKEN_ID)
    pictures = draw(st.lists(st.integers(0, 3), min_size=num_pictures, max_size=num_pictures))
    return Asked(tuple(ids), tuple(pictures), draw(st.integers(1, 8)))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_rows_of_a_batch_are_what_they_are_alone(
    data: st.DataObject,
    tiny: MPLUGOwl2ForConditionalGeneration,
    tokenizer: Owl2Tokenizer,
    alone: Callable[[Asked], tuple[list[int], int]],
) -> None:
    # Given some limits, with a cache, with a small one or without
    stage = Stage(
        tiny,
        tokenizer,
        cache_bytes=data.draw(st.sampled_from([0, 30_000, 10**7])),
        max_rows=data.draw(st.integers(1, 5)),
        prefill_tokens=data.draw(st.sampled_from([3, 8, 64])),
    )

    # When requests of unequal length come at unequal times, and some of their callers leave
    sinks: list[FakeSink] = []
    for _ in range(data.draw(st.integers(1, 7))):
        sinks.append(stage.submit(data.draw(prompts())))
        for _ in range(data.draw(st.integers(0, 4))):
            stage.batch.step()
        if data.draw(st.integers(0, 4)) == 0:
            data.draw(st.sampled_from(sinks)).is_cancelled = True
    stage.run()

    # Then each that stayed got the tokens it would get alone, and those who left got the first of them
    stayed = [sink for sink in sinks if not sink.is_cancelled]
    assert all(sink.error is None and sink.deltas[-1].finish_reason == "length" for sink in stayed)
    assert sum(len(row.token_ids) == row.job.max_tokens for row in stage.runner.rows) >= len(stayed)
    for row in stage.runner.rows:
        check_beginning(row.token_ids, stage.asked(row), alone)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_follow_up_reuses_the_conversation_and_answers_as_if_it_had_not(
    data: st.DataObject,
    tiny: MPLUGOwl2ForConditionalGeneration,
    tokenizer: Owl2Tokenizer,
    alone: Callable[[Asked], tuple[list[int], int]],
) -> None:
    # Given an answered question
    stage = Stage(tiny, tokenizer, prefill_tokens=data.draw(st.sampled_from([4, 64])))
    first = data.draw(prompts())
    answered, sink = stage.answer(first)
    assert sink.usage.cached_tokens == 0

    # When the conversation goes on, with or without another picture
    rest = data.draw(st.sampled_from([(2, 41, 42), (2, IMAGE_TOKEN_ID, 43)]))
    pictures = first.pictures + (0,) * rest.count(IMAGE_TOKEN_ID)
    follow_up = Asked((*first.ids, *answered, *rest), pictures)
    token_ids, sink = stage.answer(follow_up)

    # Then everything that was read before, all but the last token of the answer, is not read again
    assert sink.usage.cached_tokens == len(first.prepare().sequence) + len(answered) - 1
    check_equal(token_ids, follow_up, alone)


def test_the_same_prompt_again_computes_one_row_only(
    tiny: MPLUGOwl2ForConditionalGeneration,
    tokenizer: Owl2Tokenizer,
    alone: Callable[[Asked], tuple[list[int], int]],
) -> None:
    stage = Stage(tiny, tokenizer)
    asked = Asked((1, 5, IMAGE_TOKEN_ID, 6, 7), (2,))
    stage.answer(asked)

    token_ids, sink = stage.answer(asked)

    assert sink.usage.cached_tokens == len(asked.prepare().sequence) - 1
    assert sink.usage.image_tokens == NUM_IMAGE_ROWS
    check_equal(token_ids, asked, alone)


def test_equal_prompts_with_other_pictures_share_nothing_behind_the_picture(
    tiny: MPLUGOwl2ForConditionalGeneration,
    tokenizer: Owl2Tokenizer,
    alone: Callable[[Asked], tuple[list[int], int]],
) -> None:
    stage = Stage(tiny, tokenizer)
    cat, dog = (Asked((1, 5, IMAGE_TOKEN_ID, 6, 7), (picture,)) for picture in (0, 1))
    assert alone(cat)[0] != alone(dog)[0]
    stage.answer(cat)

    token_ids, sink = stage.answer(dog)

    assert sink.usage.cached_tokens == 2
    check_equal(token_ids, dog, alone)


def test_another_caller_finds_nothing(tiny: MPLUGOwl2ForConditionalGeneration, tokenizer: Owl2Tokenizer) -> None:
    stage = Stage(tiny, tokenizer)
    stage.answer(Asked((1, 5, IMAGE_TOKEN_ID, 6, 7), (0,), caller="alice"))

    _, sink = stage.answer(Asked((1, 5, IMAGE_TOKEN_ID, 6, 7), (0,), caller="bob"))

    assert sink.usage.cached_tokens == 0
    assert stage.runner.cache.stats.num_feature_hits == 0


def test_a_picture_is_encoded_once_also_where_the_texts_before_it_differ(
    tiny: MPLUGOwl2ForConditionalGeneration, tokenizer: Owl2Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a count of encoded pictures
    stage = Stage(tiny, tokenizer)
    encoded: list[int] = []
    real = tiny.model.encode_images

    def counted(pixel_values: torch.Tensor) -> torch.Tensor:
        encoded.append(len(pixel_values))
        return real(pixel_values)

    monkeypatch.setattr(tiny.model, "encode_images", counted)

    # When one picture is asked about in three ways, twice in one of them
    for ids in ((1, 5, IMAGE_TOKEN_ID, 6), (1, 9, IMAGE_TOKEN_ID, IMAGE_TOKEN_ID, 6), (1, 5, IMAGE_TOKEN_ID, 8)):
        stage.answer(Asked(ids, (3,) * ids.count(IMAGE_TOKEN_ID)))

    # Then the vision tower ran once
    assert encoded == [1]


def test_questions_about_one_picture_that_come_together_read_it_once(
    tiny: MPLUGOwl2ForConditionalGeneration, tokenizer: Owl2Tokenizer
) -> None:
    stage = Stage(tiny, tokenizer)
    sinks = [stage.submit(Asked((1, 5, IMAGE_TOKEN_ID, 6, last), (0,))) for last in (40, 41, 42)]
    stage.run()

    assert [sink.usage.cached_tokens for sink in sinks] == [0, 8, 8]


def test_sampled_answers_do_not_depend_on_the_rows_beside_them(
    tiny: MPLUGOwl2ForConditionalGeneration, tokenizer: Owl2Tokenizer
) -> None:
    # Given requests with seeds, each answered alone
    asked = [
        Asked((1, 5, 6 + seed), sampling=SamplingParams(temperature=1.3, top_p=0.9, seed=seed), max_tokens=12)
        for seed in range(5)
    ]
    expected = []
    for each in asked:
        stage = Stage(tiny, tokenizer, cache_bytes=0)
        expected.append(stage.answer(each)[0])

    # When they are answered together, in another order, beside a greedy one
    stage = Stage(tiny, tokenizer)
    for each in (asked[3], Asked((1, 9)), asked[0], asked[4], asked[1], asked[2]):
        stage.submit(each)
        stage.batch.step()
    stage.run()

    # Then nothing differs
    answered = {row.job.sampling.seed: row.token_ids for row in stage.runner.rows}
    assert [answered[seed] for seed in range(5)] == expected
    assert len({tuple(token_ids) for token_ids in expected}) > 1


def test_a_row_that_broke_leaves_nothing_to_the_one_that_takes_its_place(
    tiny: MPLUGOwl2ForConditionalGeneration,
    tokenizer: Owl2Tokenizer,
    alone: Callable[[Asked], tuple[list[int], int]],
) -> None:
    # Given two rows, of which one becomes useless: its values are no numbers any more
    stage = Stage(tiny, tokenizer, cache_bytes=0, max_rows=2)
    good, bad = Asked((1, 5, 6), max_tokens=20), Asked((1, *range(5, 30)), max_tokens=20)
    sinks = [stage.submit(good), stage.submit(bad)]
    stage.batch.step()
    with torch.inference_mode():
        for _, values in stage.runner._batch._layers:
            values[1, :, 3] = float("nan")

    # When a short one takes its place
    short = Asked((1, 5), max_tokens=6)
    sinks.append(stage.submit(short))
    stage.run()

    # Then only that one failed
    assert isinstance(sinks[1].error, GenerationFailedError)
    assert (sinks[0].error, sinks[2].error) == (None, None)
    check_equal(stage.runner.rows[0].token_ids, good, alone)
    check_equal(stage.runner.rows[2].token_ids, short, alone)


@pytest.mark.parametrize("where", ["forward", "pick_tokens"])
@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: no")]
)
def test_a_step_without_memory_is_done_again_in_halves_and_changes_no_answer(
    where: str,
    error: Exception,
    tiny: MPLUGOwl2ForConditionalGeneration,
    tokenizer: Owl2Tokenizer,
    alone: Callable[[Asked], tuple[list[int], int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Given five rows, and a step of more than three that fails in the middle of the layers or at its end
    stage = Stage(tiny, tokenizer)
    sampled = Asked((1, 9, 9), sampling=SamplingParams(temperature=1.0, seed=4))
    expected = stage.answer(sampled)[0]
    asked = [Asked((1, *range(5, 6 + length))) for length in range(4)]
    failed: list[int] = []

    def failing(real: Callable[..., Any], size_of: Callable[..., int]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if (size := size_of(*args)) > 3:
                failed.append(size)
                raise error
            return real(*args, **kwargs)

        return call

    if where == "forward":
        mlp = tiny.model.layers[1].mlp
        monkeypatch.setattr(mlp, "forward", failing(mlp.forward, lambda hidden: hidden.shape[0]))
    else:
        real = runner_module.pick_tokens

        def pick_late(logits: torch.Tensor, samplers: Sequence[Any], allowed: Any = None) -> Any:
            picks = real(logits, samplers, allowed)  # the numbers are drawn already when memory runs out
            return failing(lambda _picks: picks, lambda picks: len(picks))(picks)

        monkeypatch.setattr(runner_module, "pick_tokens", pick_late)

    # When they run
    sinks = [stage.submit(each) for each in (*asked[:2], sampled, *asked[2:])]
    stage.run()

    # Then every answer is what it would be
    assert failed
    assert all(sink.error is None for sink in sinks)
    rows = stage.runner.rows[1:]
    assert rows[2].token_ids == expected
    for row, each in zip([*rows[:2], *rows[3:]], asked, strict=True):
        check_equal(row.token_ids, each, alone)


def test_a_request_that_never_fits_is_told_to_come_back(
    tiny: MPLUGOwl2ForConditionalGeneration, tokenizer: Owl2Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(tiny, tokenizer)
    with monkeypatch.context() as patch:

        def fail(*_: Any, **__: Any) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory")

        patch.setattr(tiny.model.norm, "forward", fail)
        sink = stage.submit(Asked((1, 5)))
        stage.run()

    assert isinstance(sink.error, EngineOverloadedError)
    assert stage.answer(Asked((1, 5)))[1].error is None


def test_room_grows_with_the_rows_and_ends_at_what_they_can_need(
    tiny: MPLUGOwl2ForConditionalGeneration, tokenizer: Owl2Tokenizer
) -> None:
    # Given one row that may become 100 tokens long
    stage = Stage(tiny, tokenizer, max_rows=3)
    stage.submit(Asked((1, 5), max_tokens=98))
    widths, heights = set(), set()

    # When it grows, and others join
    while not stage.batch.is_idle:
        if stage.batch.num_rows == 1 and len(stage.runner.rows) < 5 and stage.runner.rows:
            stage.submit(Asked((1, 6), max_tokens=3))
        stage.batch.step()
        for keys, _ in stage.runner._batch._layers:
            heights.add(keys.shape[0])
            widths.add(keys.shape[2])

    # Then room was made a few times, not once per token, and never beyond
    assert len(widths) <= 4
    assert max(widths) <= 100
    assert max(heights) == 2


def test_a_batch_is_read_where_it_lies_also_after_rows_have_left(
    tiny: MPLUGOwl2ForConditionalGeneration, tokenizer: Owl2Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given three rows of which the first ends first
    stage = Stage(tiny, tokenizer)
    for max_tokens in (2, 8, 8):
        stage.submit(Asked((1, 5), max_tokens=max_tokens))
    orders: list[list[int]] = []
    real = stage.runner._batch.begin_step
    monkeypatch.setattr(stage.runner._batch, "begin_step", lambda rows: (orders.append(list(rows)), real(rows))[1])

    stage.run()

    # Then every step goes over all rows in the order in which they lie
    assert all(order == list(range(len(order))) for order in orders)
    assert {len(order) for order in orders} == {3, 2}


def test_a_decode_step_fetches_from_the_device_once_whatever_the_number_of_rows(
    tiny: MPLUGOwl2ForConditionalGeneration, tokenizer: Owl2Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given rows that are greedy, sampled, and want log probabilities
    stage = Stage(tiny, tokenizer)
    for params in ({}, {"temperature": 1.0, "seed": 1}, {"top_logprobs": 2}, {"top_logprobs": 0}):
        stage.submit(Asked((1, 5), sampling=SamplingParams(**params)))  # type: ignore[arg-type]
    stage.batch.step()
    transfers: list[str] = []
    for name in ("tolist", "__bool__", "__int__", "__float__", "cpu", "nonzero"):
        real = getattr(torch.Tensor, name)

        def counted(tensor: torch.Tensor, *args: Any, name: str = name, real: Any = real) -> Any:
            transfers.append(name)
            return real(tensor, *args)

        monkeypatch.setattr(torch.Tensor, name, counted)

    # When a step is made
    stage.batch.step()

    # Then its outcome came in one piece
    assert transfers == ["tolist"]


def test_log_probabilities_of_a_batch_are_those_of_the_model(
    tiny: MPLUGOwl2ForConditionalGeneration, tokenizer: Owl2Tokenizer
) -> None:
    # Given a request for log probabilities beside another one
    asked = Asked((1, 5, 6), sampling=SamplingParams(top_logprobs=3), max_tokens=5)
    stage = Stage(tiny, tokenizer)
    sinks = [stage.submit(asked), stage.submit(Asked((1, 9, 9, 9)))]
    stage.run()

    # When the same tokens go through the model at once
    token_ids = stage.runner.rows[0].token_ids
    with torch.inference_mode():
        logits = tiny(input_ids=torch.tensor([[*asked.ids, *token_ids]])).logits[0, len(asked.ids) - 1 : -1]
    expected = logits.log_softmax(dim=-1)

    # Then the numbers are equal, and there is one per token
    logprobs = [logprob for delta in sinks[0].deltas for logprob in delta.logprobs]
    assert len(logprobs) == 5
    for index, (entry, token_id) in enumerate(zip(logprobs, token_ids, strict=True)):
        assert entry.logprob == pytest.approx(float(expected[index, token_id]), abs=1e-4)
        assert entry.data == tokenizer.token_bytes(token_id)
        assert [top.logprob for top in entry.top] == pytest.approx(expected[index].topk(3).values.tolist(), abs=1e-4)
    assert not any(delta.logprobs for delta in sinks[1].deltas)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_every_attention_gives_the_same_batch(
    implementation: str,
    config: MPLUGOwl2Config,
    tiny: MPLUGOwl2ForConditionalGeneration,
    tokenizer: Owl2Tokenizer,
    alone: Callable[[Asked], tuple[list[int], int]],
) -> None:
    config._attn_implementation = implementation
    model = MPLUGOwl2ForConditionalGeneration(config).eval()
    model.load_state_dict(tiny.state_dict())
    stage = Stage(model, tokenizer, prefill_tokens=4)
    asked = [Asked((1, 5, IMAGE_TOKEN_ID, 6, 7, 8, 9), (0,)), Asked((1, 5)), Asked((1, 5, 6, 7, 8, 9, 10, 11, 12))]
    for each in asked:
        stage.submit(each)
    stage.run()

    for row, each in zip(stage.runner.rows, asked, strict=True):
        check_equal(row.token_ids, each, alone)

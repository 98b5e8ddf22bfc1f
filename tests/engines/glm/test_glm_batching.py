"""engines.glm.runner: each row of a running batch gives what it gives alone, whoever comes, goes, or was before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Glm4vConfig, Glm4vForConditionalGeneration
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, flash_attention_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from engines.base import Delta, EngineError, EngineOverloadedError, GenerationFailedError, SamplingParams, Usage
from engines.glm.decoding import Answer
from engines.glm.parsing import AnswerParser, ReasoningSplitter
from engines.glm.runner import GlmRunner, Pixels, PreparedRequest, Row, kv_shape
from engines.runtime import runner as runner_module
from engines.runtime.batching import BatchLimits, ContinuousBatch
from engines.runtime.prefix_cache import CacheScope, PrefixCache

IMAGE = 99
BEGIN_OF_IMAGE, END_OF_IMAGE = 97, 98
PICTURE = -1  # a picture's place in a prompt, before it has its rows
# Where the two best tokens are closer than this, rounding may decide, and it depends on the shape of the batch.
NEAR_TIE = 1e-3
SCOPE = CacheScope("", "tiny")


def make_pictures() -> list[Pixels]:
    """Three sizes; the first two pictures are of one size."""
    generator = torch.Generator().manual_seed(11)
    grids = [(1, 4, 4), (1, 4, 4), (1, 2, 6), (1, 6, 4)]
    return [Pixels(torch.randn(h * w, 1176, generator=generator), torch.tensor([[t, h, w]])) for t, h, w in grids]


PICTURES = make_pictures()


def picture_ids(picture: int) -> list[int]:
    return [BEGIN_OF_IMAGE, *[IMAGE] * PICTURES[picture].num_rows, END_OF_IMAGE]


@dataclass(frozen=True)
class Asked:
    """A prompt as ids, -1 for a picture, and which pictures."""

    ids: tuple[int, ...]
    pictures: tuple[int, ...] = ()
    max_tokens: int = 8
    sampling: SamplingParams = SamplingParams()
    caller: str = ""

    @property
    def input_ids(self) -> list[int]:
        pictures = iter(self.pictures)
        return [id_ for item in self.ids for id_ in (picture_ids(next(pictures)) if item == PICTURE else [item])]

    def prepare(self, model: Glm4vForConditionalGeneration) -> PreparedRequest:
        return PreparedRequest.make(
            self.input_ids,
            [PICTURES[picture] for picture in self.pictures],
            IMAGE,
            model.model.get_rope_index,
            self.max_tokens,
            self.sampling,
            replace(SCOPE, caller=self.caller),
        )


class Words:
    """A vocabulary without a tokenizer: every token is its number."""

    def of(self, token_id: int) -> bytes:
        return f"{token_id} ".encode()

    def push(self, token_id: int) -> str:
        return f"{token_id} "

    def flush(self) -> str:
        return ""


class RecordingRunner(GlmRunner):
    """Keeps the rows it made, to look at their tokens afterwards; `trouble` may spoil the logits of a step."""

    rows: list[Row]
    trouble: Callable[[torch.Tensor, Sequence[Row]], None] = staticmethod(lambda _logits, _rows: None)

    def begin(self, job: PreparedRequest) -> Row:
        row = super().begin(job)
        self.rows.append(row)
        return row

    def _pick(self, logits: torch.Tensor, rows: Sequence[Row]) -> list[Any]:
        self.trouble(logits, rows)
        return super()._pick(logits, rows)


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
    def usage(self) -> Usage:
        usage = self.deltas[-1].usage
        assert usage is not None
        return usage


def make_answer(job: PreparedRequest) -> Answer:
    parser = AnswerParser(ReasoningSplitter(-1, -1), Words, job.sampling.stop)
    return Answer(parser, Words(), frozenset(), job.max_tokens)  # type: ignore[arg-type]


class Stage:
    """A running batch of the tiny model, driven step by step."""

    def __init__(self, model: Glm4vForConditionalGeneration, cache_bytes: int = 10**7, **limits: int) -> None:
        bounds = BatchLimits(**{"max_rows": 8, "max_tokens": 10_000, "prefill_tokens": 64, **limits})
        self.runner = RecordingRunner(model, make_answer, PrefixCache(cache_bytes), bounds.max_rows)
        self.runner.rows = []
        self.batch = ContinuousBatch[PreparedRequest, Row](self.runner, bounds)
        self._model = model
        self._jobs: list[tuple[PreparedRequest, Asked, FakeSink]] = []

    def submit(self, asked: Asked) -> FakeSink:
        sink = FakeSink()
        self._jobs.append((asked.prepare(self._model), asked, sink))
        self.batch.submit(self._jobs[-1][0], sink, asked.caller)
        return sink

    def of(self, row: Row) -> tuple[Asked, FakeSink]:
        return next((asked, sink) for job, asked, sink in self._jobs if job is row.job)

    def run(self) -> None:
        while not self.batch.is_idle:
            self.batch.step()

    def answer(self, asked: Asked) -> tuple[list[int], FakeSink]:
        sink = self.submit(asked)
        self.run()
        assert sink.error is None
        return self.runner.rows[-1].token_ids, sink


def make_model() -> Glm4vForConditionalGeneration:
    """The true architecture with two key heads for four query heads, and weights whose answers vary."""
    torch.manual_seed(5)
    special = {"image_token_id": IMAGE, "image_start_token_id": BEGIN_OF_IMAGE, "image_end_token_id": END_OF_IMAGE}
    config = Glm4vConfig(
        text_config={
            "vocab_size": 110,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "initializer_range": 0.2,
            "pad_token_id": 0,
            "eos_token_id": None,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "partial_rotary_factor": 0.5,
                "mrope_section": [2, 1, 1],
            },
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "num_heads": 2,
            "image_size": 56,
            "out_hidden_size": 64,
            "intermediate_size": 64,
            "initializer_range": 0.2,
        },
        tie_word_embeddings=False,
        **special,
    )
    model = Glm4vForConditionalGeneration._from_config(config, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None
    with torch.no_grad():
        model.lm_head.weight[[BEGIN_OF_IMAGE, END_OF_IMAGE, IMAGE]] = 0.0  # a picture in an answer is no picture
    return model


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tiny() -> Glm4vForConditionalGeneration:
    return make_model()


Alone = Callable[[Asked], tuple[list[int], int]]


@pytest.fixture(scope="module")
def alone(tiny: Glm4vForConditionalGeneration) -> Alone:
    """Greedy tokens by transformers' `generate()`, one request at a time, and how many of them are beyond rounding."""

    @cache
    @torch.inference_mode()
    def answer(asked: Asked) -> tuple[list[int], int]:
        ids = torch.tensor([asked.input_ids])
        inputs: dict[str, Any] = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "mm_token_type_ids": (ids == IMAGE).int(),
        }
        if asked.pictures:
            pictures = [PICTURES[picture] for picture in asked.pictures]
            inputs["pixel_values"] = torch.cat([picture.pixel_values for picture in pictures])
            inputs["image_grid_thw"] = torch.cat([picture.grid_thw for picture in pictures])
        tiny.model.rope_deltas = None
        output = tiny.generate(
            **inputs,
            do_sample=False,
            max_new_tokens=asked.max_tokens,
            return_dict_in_generate=True,
            output_logits=True,
        )
        best = torch.cat(output.logits).topk(2).values
        is_near = (best[:, 0] - best[:, 1] < NEAR_TIE).tolist()
        num_certain = is_near.index(True) if True in is_near else asked.max_tokens
        return output.sequences[0, ids.shape[1] :].tolist(), num_certain

    return answer


def check_beginning(got: list[int], asked: Asked, alone: Alone) -> None:
    expected, num_certain = alone(asked)
    assert got[:num_certain] == expected[: min(num_certain, len(got))]


def check_equal(got: list[int], asked: Asked, alone: Alone) -> None:
    assert len(got) == asked.max_tokens
    check_beginning(got, asked, alone)


@st.composite
def prompts(draw: st.DrawFn) -> Asked:
    """Prompts that often begin alike, with pictures anywhere, also side by side."""
    parts = draw(st.lists(st.sampled_from([(5, 6, 7), (9,), (20, 21), (PICTURE,)]), max_size=6))
    ids = [1, *(token_id for part in parts for token_id in part), draw(st.integers(30, 60))]
    num_pictures = ids.count(PICTURE)
    pictures = draw(st.lists(st.integers(0, 3), min_size=num_pictures, max_size=num_pictures))
    return Asked(tuple(ids), tuple(pictures), draw(st.integers(1, 8)))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_rows_of_a_batch_are_what_they_are_alone(
    data: st.DataObject, tiny: Glm4vForConditionalGeneration, alone: Alone
) -> None:
    # Given some limits, with a cache, with a small one or without; and rows and steps that are going to fail
    stage = Stage(
        tiny,
        cache_bytes=data.draw(st.sampled_from([0, 30_000, 10**7])),
        max_rows=data.draw(st.integers(1, 5)),
        prefill_tokens=data.draw(st.sampled_from([2, 3, 8, 64])),
    )
    broken = data.draw(st.sets(st.integers(0, 6), max_size=2))
    failing_steps = data.draw(st.sets(st.integers(0, 30), max_size=3))
    num_steps = 0

    def trouble(logits: torch.Tensor, rows: Sequence[Row]) -> None:
        nonlocal num_steps
        num_steps += 1
        if num_steps in failing_steps:
            raise torch.OutOfMemoryError("CUDA out of memory")
        for index, row in enumerate(rows):
            if len(row.token_ids) == 2 and stage.runner.rows.index(row) in broken:
                logits[index] = float("nan")

    stage.runner.trouble = trouble

    # When requests of unequal length come at unequal times, and some of their callers leave
    sinks: list[FakeSink] = []
    for _ in range(data.draw(st.integers(1, 7))):
        sinks.append(stage.submit(data.draw(prompts())))
        for _ in range(data.draw(st.integers(0, 4))):
            stage.batch.step()
        if data.draw(st.integers(0, 4)) == 0:
            data.draw(st.sampled_from(sinks)).is_cancelled = True
    stage.run()

    # Then each got the tokens it would get alone: all of them, unless it left or failed by itself
    for index, row in enumerate(stage.runner.rows):
        asked, sink = stage.of(row)
        check_beginning(row.token_ids, asked, alone)
        if isinstance(sink.error, GenerationFailedError):
            assert index in broken
            assert len(row.token_ids) == 2
        elif not sink.is_cancelled and sink.error is None:
            assert sink.deltas[-1].finish_reason == "length"
            assert len(row.token_ids) == asked.max_tokens
        else:
            assert sink.error is None or len(failing_steps) > 1  # out of memory twice in a row
    assert not stage.runner._places
    assert not stage.runner._batch.lengths


@settings(max_examples=15, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_follow_up_reuses_the_conversation_and_answers_as_if_it_had_not(
    data: st.DataObject, tiny: Glm4vForConditionalGeneration, alone: Alone
) -> None:
    # Given an answered question
    stage = Stage(tiny, prefill_tokens=data.draw(st.sampled_from([4, 64])))
    first = data.draw(prompts())
    answered, sink = stage.answer(first)
    assert sink.usage.cached_tokens == 0

    # When the conversation goes on, with or without another picture
    rest = data.draw(st.sampled_from([(2, 41, 42), (2, PICTURE, 43)]))
    pictures = first.pictures + (0,) * rest.count(PICTURE)
    follow_up = Asked((*first.ids, *answered, *rest), pictures)
    token_ids, sink = stage.answer(follow_up)

    # Then everything that was read before, all but the last token of the answer, is not read again
    assert sink.usage.cached_tokens == len(first.input_ids) + len(answered) - 1
    check_equal(token_ids, follow_up, alone)


def test_the_same_prompt_again_computes_one_row_only(tiny: Glm4vForConditionalGeneration, alone: Alone) -> None:
    stage = Stage(tiny)
    asked = Asked((1, 5, PICTURE, 6, 7), (2,))
    stage.answer(asked)

    token_ids, sink = stage.answer(asked)

    assert sink.usage.prompt_tokens == len(asked.input_ids)
    assert sink.usage.cached_tokens == len(asked.input_ids) - 1
    assert sink.usage.image_tokens == PICTURES[2].num_rows
    assert stage.runner.cache.stats.num_feature_misses == 1
    check_equal(token_ids, asked, alone)


def test_equal_prompts_with_other_pictures_share_nothing_behind_the_picture(
    tiny: Glm4vForConditionalGeneration, alone: Alone
) -> None:
    stage = Stage(tiny)
    cat, dog = (Asked((1, 5, PICTURE, 6, 7), (picture,)) for picture in (0, 1))
    assert cat.input_ids == dog.input_ids
    assert alone(cat)[0] != alone(dog)[0]
    stage.answer(cat)

    token_ids, sink = stage.answer(dog)

    assert sink.usage.cached_tokens == 3
    assert stage.runner.cache.stats.num_feature_hits == 0
    check_equal(token_ids, dog, alone)


def test_pictures_of_equal_patches_and_another_shape_are_not_equal() -> None:
    wide, high = (Pixels(PICTURES[2].pixel_values, torch.tensor([grid])) for grid in ((1, 2, 6), (1, 6, 2)))

    assert wide.hash() != high.hash()


@pytest.mark.parametrize("what", ["caller", "model", "dtype", "preprocess"])
def test_another_scope_finds_nothing(what: str, tiny: Glm4vForConditionalGeneration) -> None:
    # Given an answered question
    stage = Stage(tiny)
    asked = Asked((1, 5, PICTURE, 6, 7), (0,))
    stage.answer(asked)

    # When it is asked under another scope
    scope = replace(SCOPE, **{what: "another"})
    sink = FakeSink()
    stage.batch.submit(replace(asked.prepare(tiny), scope=scope), sink)
    stage.run()

    assert sink.usage.cached_tokens == 0
    assert stage.runner.cache.stats.num_feature_hits == 0


def test_a_picture_is_encoded_once_also_where_the_texts_before_it_differ(tiny: Glm4vForConditionalGeneration) -> None:
    # Given one picture that is asked about in three ways, twice in one of them
    stage = Stage(tiny)
    encoded: list[Pixels] = []
    real = stage.runner.encode
    stage.runner.encode = lambda pixels, *rest: (encoded.append(pixels), real(pixels, *rest))[1]  # type: ignore[method-assign]

    for ids in ((1, 5, PICTURE, 6), (1, 9, PICTURE, PICTURE, 6), (1, 5, PICTURE, 8)):
        stage.answer(Asked(ids, (3,) * ids.count(PICTURE)))

    # Then the vision tower ran once
    assert len(encoded) == 1


def test_questions_about_one_picture_that_come_together_read_it_once(tiny: Glm4vForConditionalGeneration) -> None:
    stage = Stage(tiny)
    asked = [Asked((1, 5, PICTURE, 6, last), (0,)) for last in (40, 41, 42)]
    sinks = [stage.submit(each) for each in asked]
    stage.run()

    num_shared = len(asked[0].input_ids) - 1
    assert [sink.usage.cached_tokens for sink in sinks] == [0, num_shared, num_shared]


def test_pixels_and_features_are_let_go_when_the_prompt_is_read(tiny: Glm4vForConditionalGeneration) -> None:
    # Given a row that is answering, and one whose picture was known
    stage = Stage(tiny)
    for last in (6, 7):
        stage.submit(Asked((1, 5, PICTURE, last), (0,)))
        for _ in range(3):
            stage.batch.step()

    assert len(stage.runner._places) == 2
    for row in stage.runner.rows:
        assert (row.job.pictures, row.features) == ([], [])
        assert row.prompt is None


def test_what_the_model_remembers_of_another_request_changes_nothing(
    tiny: Glm4vForConditionalGeneration, alone: Alone
) -> None:
    # Given the state that a request with a large picture leaves on the model
    asked = Asked((1, 5, PICTURE, 6, 7), (2,))
    alone(asked)
    tiny.model.rope_deltas = torch.tensor([[-50]])

    token_ids, _ = Stage(tiny).answer(asked)

    tiny.model.rope_deltas = None
    check_equal(token_ids, asked, alone)


def test_sampled_answers_do_not_depend_on_the_rows_beside_them(tiny: Glm4vForConditionalGeneration) -> None:
    # Given requests with seeds, each answered alone
    asked = [
        Asked((1, 5, 6 + seed), sampling=SamplingParams(temperature=1.3, top_p=0.9, seed=seed), max_tokens=12)
        for seed in range(5)
    ]
    expected = [Stage(tiny, cache_bytes=0).answer(each)[0] for each in asked]

    # When they are answered together, in another order, beside a greedy one
    stage = Stage(tiny)
    for each in (asked[3], Asked((1, 9)), asked[0], asked[4], asked[1], asked[2]):
        stage.submit(each)
        stage.batch.step()
    stage.run()

    # Then nothing differs
    answered = {row.job.sampling.seed: row.token_ids for row in stage.runner.rows}
    assert [answered[seed] for seed in range(5)] == expected
    assert len({tuple(token_ids) for token_ids in expected}) > 1


def test_a_row_that_broke_leaves_nothing_to_the_one_that_takes_its_place(
    tiny: Glm4vForConditionalGeneration, alone: Alone
) -> None:
    # Given two rows, of which one becomes useless: its values are no numbers any more
    stage = Stage(tiny, cache_bytes=0, max_rows=2)
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
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: no"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_a_step_without_memory_is_done_again_in_halves_and_changes_no_answer(
    where: str,
    error: Exception,
    tiny: Glm4vForConditionalGeneration,
    alone: Alone,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Given five rows, and a step of more than three that fails in the middle of the layers or at its end
    stage = Stage(tiny)
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
        mlp = tiny.model.language_model.layers[1].mlp
        monkeypatch.setattr(mlp, "forward", failing(mlp.forward, lambda hidden: hidden.shape[0]))
    else:
        real = runner_module.pick_tokens

        def pick_late(*args: Any) -> Any:
            picks = real(*args)  # the numbers are drawn already when memory runs out
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


@pytest.mark.parametrize("asked", [Asked((1, 5)), Asked((1, PICTURE, 5), (0,))])
def test_a_request_that_never_fits_is_told_to_come_back(
    asked: Asked, tiny: Glm4vForConditionalGeneration, alone: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(tiny)
    with monkeypatch.context() as patch:

        def fail(*_: Any, **__: Any) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory")

        patch.setattr(tiny.model.visual if asked.pictures else tiny.model.language_model.norm, "forward", fail)
        sink = stage.submit(asked)
        stage.run()

    assert isinstance(sink.error, EngineOverloadedError)
    check_equal(stage.answer(asked)[0], asked, alone)


def test_a_prefill_that_once_finds_no_memory_goes_on_where_it_was(
    tiny: Glm4vForConditionalGeneration, alone: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a picture question, read in pieces of which one fails in the middle of the layers, once
    stage = Stage(tiny, prefill_tokens=3)
    asked = Asked((1, 5, PICTURE, 6, 7), (0,))
    norm = tiny.model.language_model.norm
    real, num_calls = norm.forward, 0

    def once(hidden: torch.Tensor) -> torch.Tensor:
        nonlocal num_calls
        num_calls += 1
        if num_calls == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(hidden)

    monkeypatch.setattr(norm, "forward", once)

    token_ids, _ = stage.answer(asked)

    monkeypatch.undo()
    assert num_calls > 2
    check_equal(token_ids, asked, alone)


@pytest.mark.parametrize("where", ["cache", "batch"])
def test_a_row_joins_once_also_when_memory_ends_while_it_does(
    where: str, tiny: Glm4vForConditionalGeneration, alone: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a running row, and no memory for keeping the next one's prompt or for joining the batch, once
    stage = Stage(tiny)
    first, second = Asked((1, 5), max_tokens=12), Asked((1, PICTURE, 5), (0,))
    stage.submit(first)
    stage.batch.step()
    owner, name = (stage.runner.cache, "put_prefix") if where == "cache" else (stage.runner._batch, "_make_room")
    real, num_calls = getattr(owner, name), 0

    def once(*args: Any) -> Any:
        nonlocal num_calls
        num_calls += 1
        if num_calls == (1 if where == "cache" else 5):  # after a decode step's three layers, in the second layer
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(*args)

    # When it comes
    stage.submit(second)
    monkeypatch.setattr(owner, name, once)
    stage.run()

    # Then both are answered
    assert num_calls > 5 or where == "cache"
    for row, asked in zip(stage.runner.rows, (first, second), strict=True):
        check_equal(row.token_ids, asked, alone)
    assert not stage.runner._batch.lengths


def test_a_batch_is_read_where_it_lies_also_after_rows_have_left(
    tiny: Glm4vForConditionalGeneration, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given three rows of which the first ends first
    stage = Stage(tiny)
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
    tiny: Glm4vForConditionalGeneration, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given rows of unequal length that are greedy, sampled, and want log probabilities
    stage = Stage(tiny)
    for index, params in enumerate(({}, {"temperature": 1.0, "seed": 1}, {"top_logprobs": 2}, {"top_logprobs": 0})):
        stage.submit(Asked((1,) * (index + 1), sampling=SamplingParams(**params)))  # type: ignore[arg-type]
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


def test_log_probabilities_of_a_batch_are_those_of_the_model(tiny: Glm4vForConditionalGeneration) -> None:
    # Given a sampled request for log probabilities beside another one
    sampling = SamplingParams(top_logprobs=3, temperature=1.5, top_p=0.9, seed=2)
    asked = Asked((1, 5, PICTURE, 6), (3,), sampling=sampling, max_tokens=5)
    stage = Stage(tiny)
    sinks = [stage.submit(asked), stage.submit(Asked((1, 9, 9, 9)))]
    stage.run()

    # When the same tokens go through the model at once
    token_ids = stage.runner.rows[0].token_ids
    whole = torch.tensor([[*asked.input_ids, *token_ids]])
    tiny.model.rope_deltas = None
    with torch.inference_mode():
        logits = tiny(
            input_ids=whole,
            mm_token_type_ids=(whole == IMAGE).int(),
            pixel_values=PICTURES[3].pixel_values,
            image_grid_thw=PICTURES[3].grid_thw,
        ).logits[0, len(asked.input_ids) - 1 : -1]
    expected = logits.log_softmax(dim=-1)

    # Then the numbers are equal, and there is one per token
    logprobs = [logprob for delta in sinks[0].deltas for logprob in delta.logprobs]
    assert len(logprobs) == 5
    for index, (entry, token_id) in enumerate(zip(logprobs, token_ids, strict=True)):
        assert entry.logprob == pytest.approx(float(expected[index, token_id]), abs=1e-4)
        assert entry.data == Words().of(token_id)
        assert [top.logprob for top in entry.top] == pytest.approx(expected[index].topk(3).values.tolist(), abs=1e-4)
    assert not any(delta.logprobs for delta in sinks[1].deltas)


def test_a_stop_string_ends_one_row_and_not_the_others(tiny: Glm4vForConditionalGeneration, alone: Alone) -> None:
    # Given two equal questions, one of which stops at the fourth token
    asked = Asked((1, 5, 6))
    answer, _ = alone(asked)
    stop = f"{answer[3]} "
    assert answer[3] not in answer[:3]
    stage = Stage(tiny)
    sinks = [stage.submit(replace(asked, sampling=SamplingParams(stop=(stop,)))), stage.submit(asked)]

    stage.run()

    assert "".join(delta.text for delta in sinks[0].deltas) == "".join(f"{id_} " for id_ in answer[:3])
    assert sinks[0].deltas[-1].finish_reason == "stop"
    assert sinks[1].deltas[-1].finish_reason == "length"
    assert stage.runner.rows[1].token_ids == answer


def test_keys_and_values_have_as_many_heads_as_the_model_stores(tiny: Glm4vForConditionalGeneration) -> None:
    shape = kv_shape(tiny)

    assert (shape.num_layers, shape.num_heads, shape.head_dim) == (3, 2, 16)
    assert shape.bytes_per_token == 2 * 3 * 2 * 16 * 4


def test_a_wrong_number_of_placeholders_is_refused(tiny: Glm4vForConditionalGeneration) -> None:
    for ids, pictures in (((1, IMAGE, 5), PICTURES[:1]), ((1, 5), PICTURES[:1]), ((1, IMAGE), [])):
        with pytest.raises(ValueError, match="placeholders"):
            PreparedRequest.make(ids, pictures, IMAGE, tiny.model.get_rope_index, 4, SamplingParams(), SCOPE)


def attend_like_flash(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """What a flash kernel does for a prompt: no mask, and the last query sees everything."""
    assert attention_mask is None
    assert query.shape[2] > 1 or key.shape[0] == 1, "a decode step came to the flash kernel"
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    is_seen = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool).tril(key.shape[2] - query.shape[2])
    output = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=is_seen, scale=scaling)
    return output.transpose(1, 2).contiguous(), None


@pytest.mark.parametrize("implementation", ["eager", "sdpa", "flash_like"])
def test_every_attention_gives_the_same_batch(
    implementation: str, tiny: Glm4vForConditionalGeneration, alone: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a model with that attention
    ALL_ATTENTION_FUNCTIONS.register("flash_like", attend_like_flash)
    ALL_MASK_ATTENTION_FUNCTIONS.register("flash_like", flash_attention_mask)
    config = tiny.config.get_text_config()
    asked = [Asked((1, 5, PICTURE, 6, 7, 8, 9), (0,)), Asked((1, 5)), Asked((1, 5, 6, 7, 8, 9, 10, 11, 12))]
    expected = [alone(each) for each in asked]
    monkeypatch.setattr(config, "_attn_implementation", implementation)
    stage = Stage(tiny, prefill_tokens=4)

    # When rows of unequal length run, their prompts read in pieces
    for each in asked:
        stage.submit(each)
    stage.run()

    # Then nothing differs, and the setting is as it was
    for row, (token_ids, num_certain) in zip(stage.runner.rows, expected, strict=True):
        assert row.token_ids[:num_certain] == token_ids[:num_certain]
    assert config._attn_implementation == implementation


def test_decode_steps_leave_a_flash_attention_even_when_they_fail(tiny: Glm4vForConditionalGeneration) -> None:
    # Given a runner over a model whose prompts are read by a flash kernel, and which fails
    config = SimpleNamespace(_attn_implementation="flash_attention_2")
    used: list[str] = []

    def fail(**_: Any) -> None:
        used.append(config._attn_implementation)
        raise RuntimeError

    stage = Stage(tiny)
    stage.answer(Asked((1, 5)))
    stage.submit(Asked((1, 5)))
    stage.batch.step()
    (row,) = stage.runner._places
    stage.runner._model = SimpleNamespace(config=SimpleNamespace(get_text_config=lambda: config))
    stage.runner._forward = lambda _adapters, **inputs: fail(**inputs)  # type: ignore[method-assign]

    with pytest.raises(RuntimeError):
        stage.runner.decode([row])

    assert used == ["sdpa"]
    assert config._attn_implementation == "flash_attention_2"


def test_what_is_cached_of_a_row_stays_as_it_was_when_another_takes_its_place(
    tiny: Glm4vForConditionalGeneration, alone: Alone
) -> None:
    # Given one place, with just the room that the first row could need
    stage = Stage(tiny, max_rows=1)
    for max_tokens in (1, 2, 1, 3):
        # When rows follow each other there, each beginning with what the one before left
        asked = Asked((1, 30), max_tokens=max_tokens)
        token_ids, _ = stage.answer(asked)

        check_equal(token_ids, asked, alone)

"""The model through transformers' own ``generate``: batches, padding on either side, beams and logits processors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import LogitsProcessor, LogitsProcessorList

from engines.owl2 import MPLUGOwl2ForConditionalGeneration, MPLUGOwl2Processor
from engines.owl2.model import align_right
from tests.engines.owl2.conftest import tiny_config

I = -200  # noqa: E741 - reads well in the tables below
PAD = 0

GREEDY: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None, "pad_token_id": PAD}

PROMPTS = [[1, 20, I, 30], [1, I, 21, I, 31, 32, 33], [1, 40, 41], [1, 50, 51, 52, I, I]]


def images_of(ids: list[int], seed: int) -> torch.Tensor:
    return torch.randn(ids.count(I), 3, 28, 28, generator=torch.Generator().manual_seed(seed))


def batch_of(prompts: list[list[int]], side: str) -> dict[str, torch.Tensor]:
    longest = max(map(len, prompts))
    gaps = [[PAD] * (longest - len(ids)) for ids in prompts]
    rows = [[*gap, *ids] if side == "left" else [*ids, *gap] for gap, ids in zip(gaps, prompts, strict=True)]
    ones = [[1] * len(ids) for ids in prompts]
    mask = [[*gap, *one] if side == "left" else [*one, *gap] for gap, one in zip(gaps, ones, strict=True)]
    pixels = torch.cat([images_of(ids, seed) for seed, ids in enumerate(prompts)])
    inputs = {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(mask)}
    return inputs | ({"pixel_values": pixels} if len(pixels) else {})


def answer_alone(model: Any, ids: list[int], seed: int, **options: Any) -> list[list[int]]:
    pixels = images_of(ids, seed)
    inputs = {"pixel_values": pixels} if len(pixels) else {}
    return model.generate(torch.tensor([ids]), **inputs, **{**GREEDY, **options})[:, len(ids) :].tolist()


def answer_together(model: Any, prompts: list[list[int]], side: str, **options: Any) -> list[list[int]]:
    inputs = batch_of(prompts, side)
    return model.generate(**inputs, **{**GREEDY, **options})[:, inputs["input_ids"].shape[1] :].tolist()


@pytest.fixture
def model(model: Any) -> Any:
    """A model on which every image leaves its mark: otherwise a mix-up of images might change no token."""
    with torch.no_grad():
        model.model.visual_abstractor.visual_fc.weight.mul_(8)
    return model


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches padded on the right are warned about before the model sees, and moves, them."""
    monkeypatch.setattr("transformers.generation.utils.logger.warning", lambda *_, **__: None)


@pytest.mark.parametrize("use_cache", [True, False], ids=["cached", "uncached"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_of_a_batch_padded_on_either_side_get_their_own_answers(model: Any, side: str, use_cache: bool) -> None:
    alone = [answer_alone(model, ids, seed)[0] for seed, ids in enumerate(PROMPTS)]

    assert answer_together(model, PROMPTS, side, use_cache=use_cache) == alone


@pytest.mark.parametrize("side", ["left", "right"])
def test_text_only_batches_padded_on_either_side_too(model: Any, side: str) -> None:
    prompts = [[1, 20], [1, 30, 31, 32, 33], [1, 40, 41]]
    alone = [answer_alone(model, ids, seed)[0] for seed, ids in enumerate(prompts)]

    assert answer_together(model, prompts, side) == alone


prompts_of_any_kind = st.lists(
    st.lists(st.sampled_from([I, 20, 21, 22, 23]), min_size=1, max_size=6).map(lambda ids: [1, *ids]),
    min_size=1,
    max_size=4,
)


@pytest.fixture(scope="module")
def shared_model() -> MPLUGOwl2ForConditionalGeneration:
    torch.manual_seed(0)
    return MPLUGOwl2ForConditionalGeneration(tiny_config()).eval()


@settings(derandomize=True, deadline=None, max_examples=20)
@given(prompts=prompts_of_any_kind, side=st.sampled_from(["left", "right"]))
def test_any_batch_is_answered_row_by_row(shared_model: Any, prompts: list[list[int]], side: str) -> None:
    alone = [answer_alone(shared_model, ids, seed, max_new_tokens=2)[0] for seed, ids in enumerate(prompts)]

    assert answer_together(shared_model, prompts, side, max_new_tokens=2) == alone


@pytest.mark.parametrize("side", ["left", "right"])
def test_beams_see_the_images_of_their_own_row_in_order(model: Any, side: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given an eye on what is encoded
    options = {"num_beams": 3, "num_return_sequences": 2}
    alone = [answer_alone(model, ids, seed, **options) for seed, ids in enumerate(PROMPTS)]
    encode, seen = model.model.encode_images, []
    monkeypatch.setattr(model.model, "encode_images", lambda pixels: seen.append(pixels) or encode(pixels))

    together = answer_together(model, PROMPTS, side, **options)

    # Then each beam of a row got that row's images, and the answers are those of the row alone
    own = [images_of(ids, seed) for seed, ids in enumerate(PROMPTS)]
    assert torch.equal(torch.cat(seen), torch.cat([images for images in own for _ in range(options["num_beams"])]))
    assert together == [row for rows in alone for row in rows]


def test_several_sampled_answers_to_a_prompt_with_two_images_see_both(model: Any) -> None:
    # Given sampling that leaves no choice
    ids = PROMPTS[1]
    options = {"do_sample": True, "top_k": 1, "num_return_sequences": 3}

    assert answer_together(model, [ids], "left", **options) == answer_alone(model, ids, seed=0) * 3


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1.5},
        {"encoder_repetition_penalty": 1.5},
        {"no_repeat_ngram_size": 2},
        {"encoder_no_repeat_ngram_size": 2},
        {"repetition_penalty": 1.2, "num_beams": 2},
        {"prefix_allowed_tokens_fn": lambda _, ids: sorted(set(ids.tolist()))},
    ],
    ids=lambda options: "+".join(options),
)
def test_processors_that_index_by_the_prompts_ids_meet_no_marker(model: Any, options: dict[str, Any]) -> None:
    # Given processors that use every id so far as an index
    ids = PROMPTS[1]

    [answer] = answer_alone(model, ids, seed=1, **options)

    assert len(answer) == GREEDY["max_new_tokens"]
    assert all(0 <= token_id < model.config.vocab_size for token_id in answer)


def test_a_penalty_falls_on_the_tokens_of_the_prompt_and_on_no_other(model: Any) -> None:
    # Given what the model would say next, put into the prompt as a text token
    ids, pixels = [1, I, 20], images_of([I], seed=3)
    [first] = model.generate(torch.tensor([ids]), pixel_values=pixels, **GREEDY)[0, len(ids) :].tolist()[:1]
    seen: list[torch.Tensor] = []

    class Spy(LogitsProcessor):
        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            seen.append(input_ids.clone())
            return scores

    model.generate(torch.tensor([ids]), pixel_values=pixels, logits_processor=LogitsProcessorList([Spy()]), **GREEDY)

    # Then processors see the prompt as it is, a BOS in the place of the image
    assert seen[0].tolist() == [[1, 1, 20]]
    assert seen[1].tolist() == [[1, 1, 20, first]]


def test_without_processors_nothing_is_added_to_a_step(model: Any) -> None:
    assert len(model._get_logits_processor(model.generation_config, model_kwargs={})) == 0


def test_trailing_padding_moves_to_the_front_and_the_past_stays() -> None:
    ids = torch.tensor([[5, 6, PAD, PAD], [PAD, 7, 8, PAD], [1, 2, 3, 4]])
    mask = torch.tensor([[0, 1, 1, 1, 0, 0], [1, 1, 0, 1, 1, 0], [1, 1, 1, 1, 1, 1]])

    moved, moved_mask = align_right(ids, mask)

    assert moved.tolist() == [[PAD, PAD, 5, 6], [PAD, PAD, 7, 8], [1, 2, 3, 4]]
    assert moved_mask.tolist() == [[0, 1, 0, 0, 1, 1], [1, 1, 0, 0, 1, 1], [1, 1, 1, 1, 1, 1]]


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_processor_makes_batches_that_generate_answers_row_by_row(checkpoint: Any, side: Any) -> None:
    # Given two prompts of unequal length, one of them with two pictures
    processor = MPLUGOwl2Processor.from_pretrained(checkpoint)
    model = MPLUGOwl2ForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32)
    pictures = [Image.new("RGB", (20, 30), colour) for colour in ("red", "blue")]
    prompts = ["USER: one two ASSISTANT:", "USER: <|image|><|image|>Compare both images. ASSISTANT:"]

    batch = processor(prompts, pictures, padding_side=side)
    together = model.generate(**batch, **GREEDY)

    texts = processor.batch_decode(together[:, batch["input_ids"].shape[1] :])
    for prompt, images, text in zip(prompts, ([], pictures), texts, strict=True):
        alone = processor(prompt, images)
        output = model.generate(**alone, **GREEDY)
        assert processor.decode(output[0, alone["input_ids"].shape[1] :]) == text
    # And the whole output can be decoded, prompt and pictures included
    assert "Compare both images. ASSISTANT:" in processor.batch_decode(together)[1]

"""engines.owl2.model and weights: putting images in, caching, batching, saving and loading."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import DynamicCache

from engines.owl2 import MPLUGOwl2ForConditionalGeneration
from engines.owl2.files import CheckpointError
from engines.owl2.insertion import plan_insertion
from engines.owl2.loading import read_variant, resolve_folder

I = -200  # noqa: E741 - reads well in the tables below

GREEDY = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}


def images(count: int) -> torch.Tensor:
    return torch.randn(count, 3, 28, 28, generator=torch.Generator().manual_seed(count))


def test_a_marker_becomes_the_rows_of_an_image_and_its_labels_do_not_count() -> None:
    plan = plan_insertion(torch.tensor([[1, I, 7, I]]), 3, labels=torch.tensor([[1, 5, 7, 9]]))

    assert plan.token_ids.tolist() == [[1, 0, 0, 0, 7, 0, 0, 0]]
    assert plan.modality_indicators.tolist() == [[0, 1, 1, 1, 0, 1, 1, 1]]
    assert plan.labels is not None
    assert plan.labels.tolist() == [[1, -100, -100, -100, 7, -100, -100, -100]]
    assert plan.attention_mask is None
    assert plan.is_added_padding is None


@pytest.mark.parametrize(
    ("side", "tokens", "mask"),
    [
        ("right", [[0, 0, 8], [5, 6, 0]], [[1, 1, 1], [1, 1, 0]]),
        ("left", [[0, 0, 8], [0, 5, 6]], [[1, 1, 1], [0, 1, 1]]),
    ],
)
def test_rows_of_unequal_length_are_padded_on_the_asked_side(side: Any, tokens: Any, mask: Any) -> None:
    plan = plan_insertion(torch.tensor([[I, 8], [5, 6]]), 2, padding_side=side)

    assert plan.token_ids.tolist() == tokens
    assert plan.attention_mask is not None
    assert plan.attention_mask.tolist() == mask


def test_a_given_mask_travels_with_its_tokens_and_keeps_the_past() -> None:
    ids, mask = torch.tensor([[0, I, 8], [4, 5, 6]]), torch.tensor([[1, 0, 1, 1], [1, 1, 1, 1]])

    plan = plan_insertion(ids, 2, mask, padding_side="left")

    assert plan.attention_mask is not None
    assert plan.attention_mask.tolist() == [[1, 0, 1, 1, 1], [1, 0, 1, 1, 1]]


def test_images_fill_the_markers_in_order_over_the_batch(model: Any) -> None:
    pixels = images(3)
    rows = model.model.encode_images(pixels)
    plan = plan_insertion(torch.tensor([[I, 8, I], [I, 5, 6]]), 5)

    embeds = model.model.embed(plan, pixels)

    torch.testing.assert_close(embeds[0, :5], rows[0])
    torch.testing.assert_close(embeds[0, 6:11], rows[1])
    torch.testing.assert_close(embeds[1, :5], rows[2])
    torch.testing.assert_close(embeds[0, 5], model.model.embed_tokens.weight[8])
    assert not embeds[1, 7:].any()


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_wrong_number_of_images_is_refused_with_both_numbers(model: Any, count: int) -> None:
    with pytest.raises(ValueError, match=f"2 image markers .* {count} images"):
        model(input_ids=torch.tensor([[1, I, I]]), pixel_values=images(3)[:count])


def test_a_marker_without_images_is_refused(model: Any) -> None:
    with pytest.raises(ValueError, match="no images"):
        model(input_ids=torch.tensor([[1, I]]))


@torch.inference_mode()
def test_decoding_with_a_cache_equals_one_forward_over_everything(model: Any) -> None:
    ids, pixels = torch.tensor([[1, 20, I, 30, I, 31, 32]]), images(2)
    whole = model(input_ids=ids, pixel_values=pixels).logits
    cache = DynamicCache(config=model.config)

    prefill = model(input_ids=ids[:, :-2], pixel_values=pixels, past_key_values=cache, use_cache=True).logits
    steps = [model(input_ids=ids[:, at : at + 1], past_key_values=cache, use_cache=True).logits for at in (-2, 6)]

    assert whole.shape == (1, 15, 400)
    torch.testing.assert_close(torch.cat([prefill, *steps], dim=1), whole, atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_an_image_may_follow_in_a_later_piece_of_the_prompt(model: Any) -> None:
    ids, pixels = torch.tensor([[1, 20, I, 30, I, 31]]), images(2)
    whole = model(input_ids=ids, pixel_values=pixels).logits
    cache = DynamicCache(config=model.config)

    first = model(input_ids=ids[:, :3], pixel_values=pixels[:1], past_key_values=cache, use_cache=True)
    mask = torch.ones(1, cache.get_seq_length() + 3, dtype=torch.long)
    second = model(input_ids=ids[:, 3:], pixel_values=pixels[1:], past_key_values=cache, attention_mask=mask)

    torch.testing.assert_close(torch.cat([first.logits, second.logits], dim=1), whole, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_batched_generation_with_unequal_images_gives_each_row_its_own_answer(model: Any, implementation: str) -> None:
    model.set_attn_implementation(implementation)
    rows = [([1, 20, I, 30], 1), ([1, I, 21, I, 31], 2), ([1, 40, 41], 0)]
    alone, pixels = [], []
    for ids, count in rows:
        pixels.append(images(count + 3)[:count])
        inputs = {"pixel_values": pixels[-1]} if count else {}
        alone.append(model.generate(torch.tensor([ids]), **inputs, **GREEDY)[0, len(ids) :].tolist())
    input_ids = torch.tensor([[0] * (5 - len(ids)) + ids for ids, _ in rows])
    mask = torch.tensor([[0] * (5 - len(ids)) + [1] * len(ids) for ids, _ in rows])

    for use_cache in (True, False):
        together = model.generate(
            input_ids, attention_mask=mask, pixel_values=torch.cat(pixels), use_cache=use_cache, **GREEDY
        )
        assert together[:, 5:].tolist() == alone


def test_several_answers_to_one_prompt_all_see_its_images_in_order(model: Any) -> None:
    ids, pixels = torch.tensor([[1, I, 20, I, 30], [1, 20, 30, I, 40]]), images(3)
    single = model.generate(ids, pixel_values=pixels, **GREEDY)

    # Two beams of which one is returned twice would hide a mix-up; a group of copies under greedy search does not.
    copied, kwargs = model._expand_inputs_for_generation(2, input_ids=ids, pixel_values=pixels)
    doubled = model.generate(copied, **kwargs, **GREEDY)

    assert doubled.tolist() == single.repeat_interleave(2, dim=0).tolist()
    assert kwargs["pixel_values"].shape[0] == 6


def test_labels_are_expanded_and_both_ways_of_the_decoder_learn(model: Any) -> None:
    ids = torch.tensor([[1, I, 20, 30, 31]])
    labels = torch.tensor([[-100, -100, -100, 30, 31]])

    output = model(input_ids=ids, pixel_values=images(1), labels=labels)
    output.loss.backward()

    logits = output.logits[0, -3:-1]
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor([30, 31]))
    torch.testing.assert_close(output.loss, expected)
    way = model.model.layers[0].self_attn.v_proj.multiway
    assert all(module.weight.grad.abs().sum() > 0 for module in way)
    assert model.model.visual_abstractor.query_embeds.grad.abs().sum() > 0


def test_gradient_checkpointing_gives_the_same_gradients(model: Any) -> None:
    ids, pixels = torch.tensor([[1, I, 20, 30]]), images(1)
    model.train()

    def gradient() -> torch.Tensor:
        model.zero_grad()
        model(input_ids=ids, pixel_values=pixels, labels=ids.clamp(min=3), use_cache=False).loss.backward()
        return model.model.layers[0].self_attn.k_proj.multiway[1].weight.grad.clone()

    plain = gradient()
    model.activation_checkpointing_enable()

    torch.testing.assert_close(gradient(), plain)


def test_a_saved_model_loads_to_the_same_logits_with_nothing_left_uninitialised(model: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)

    loaded, info = MPLUGOwl2ForConditionalGeneration.from_pretrained(
        tmp_path, dtype=torch.float32, output_loading_info=True
    )

    ids, pixels = torch.tensor([[1, I, 20]]), images(1)
    assert not info["missing_keys"]
    assert not list(loaded.named_buffers())
    torch.testing.assert_close(
        loaded(input_ids=ids, pixel_values=pixels).logits, model(input_ids=ids, pixel_values=pixels).logits
    )


def test_files_with_position_tables_and_inv_freq_load_like_files_without(model: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    # The values are wrong on purpose: these are constants, computed and never read.
    prefix = "model.visual_abstractor.encoder.layers.0.crossattention.attention"
    tensors[f"{prefix}.q_pos_embed"] = torch.zeros(4, 16)
    tensors[f"{prefix}.k_pos_embed"] = torch.zeros(17, 16)
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(4)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})

    loaded = MPLUGOwl2ForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32)

    ids, pixels = torch.tensor([[1, I, 20]]), images(1)
    torch.testing.assert_close(
        loaded(input_ids=ids, pixel_values=pixels).logits, model(input_ids=ids, pixel_values=pixels).logits
    )


NORM = "model.layers.1.input_layernorm.multiway.1.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop(NORM), f"missing: {NORM}"),
        (
            lambda tensors: tensors.update({NORM: torch.zeros(31)}),
            rf"wrong shape: {NORM} \(file \(31,\), model \(32,\)",
        ),
        (lambda tensors: tensors.update({"model.extra.weight": torch.zeros(1)}), "not part of this model: model.extra"),
    ],
)
def test_a_wrong_or_missing_tensor_stops_the_load_with_its_name(
    model: Any, tmp_path: Path, change: Any, message: str
) -> None:
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(CheckpointError, match=message):
        MPLUGOwl2ForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32)


def test_shards_in_the_published_layout_load(model: Any, tmp_path: Path) -> None:
    tensors = {name: tensor.half() for name, tensor in model.state_dict().items()}
    index: dict[str, str] = {}
    for shard in (1, 2):
        names = [name for name in tensors if (".layers." in name) == (shard == 1)]
        torch.save({name: tensors[name] for name in names}, tmp_path / f"pytorch_model-{shard}-of-2.bin")
        index |= dict.fromkeys(names, f"pytorch_model-{shard}-of-2.bin")
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    model.config.save_pretrained(tmp_path)

    loaded = MPLUGOwl2ForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32)

    assert loaded.dtype == torch.float32
    torch.testing.assert_close(loaded.lm_head.weight, model.lm_head.weight.half().float())


def test_the_variant_comes_from_glowl_json_and_defaults_to_full(tmp_path: Path) -> None:
    assert read_variant(tmp_path) == "full"

    (tmp_path / "glowl.json").write_text('{"variant": "pocket"}')
    assert read_variant(tmp_path) == "pocket"

    for wrong in ('{"variant": "huge"}', "[]", "{"):
        (tmp_path / "glowl.json").write_text(wrong)
        with pytest.raises(CheckpointError, match=r"glowl\.json"):
            read_variant(tmp_path)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        resolve_folder(str(tmp_path / "nowhere"))

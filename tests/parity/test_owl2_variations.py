"""engines.owl2 against an independent writing of the model (reference_owl2.py), on many shapes of tiny random models.

No golden set has all of these sizes, and some matter only when they are not the usual ones: an epsilon of 1e-2, a base
of 50, a patch grid of one. All but the last test need no files. Tolerances: both sides compute in float32, with
sums in different orders.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from engines.owl2 import MPLUGOwl2Config, MPLUGOwl2ForConditionalGeneration
from tests.parity import reference_owl2
from tests.parity.owl2_golden import LOGITS, Case, arrays_of, cases, checkpoint, needs_golden, pad_left

I = -200  # noqa: E741 - reads well in the table below

# Written for every shape, so that each one is a config.json of its own.
BASE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "vocab_size": 97,
    "max_position_embeddings": 256,
}
VISION: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 12,
    "patch_size": 4,
    "layer_norm_eps": 1e-6,
}
ABSTRACTOR: dict[str, Any] = {
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_learnable_queries": 5,
    "layer_norm_eps": 1e-6,
}

# Changes to the decoder, to the vision tower and to the abstractor
SHAPES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "base": ({}, {}, {}),
    "one_query": ({}, {}, {"num_learnable_queries": 1}),
    "many_queries": ({}, {}, {"num_learnable_queries": 23}),
    "fine_patches": ({}, {"image_size": 14, "patch_size": 2}, {}),
    "one_patch": ({}, {"image_size": 8, "patch_size": 8}, {}),
    "large_epsilons": ({"rms_norm_eps": 1e-2}, {"layer_norm_eps": 1e-2}, {"layer_norm_eps": 1e-2}),
    "llama_epsilon": ({"rms_norm_eps": 1e-5}, {"layer_norm_eps": 1e-5}, {"layer_norm_eps": 1e-5}),
    "small_rotary_base": ({"rope_theta": 50.0}, {}, {}),
    "large_rotary_base": ({"rope_theta": 1e6}, {}, {}),
    "one_head": ({"num_attention_heads": 1}, {"num_attention_heads": 1}, {"num_attention_heads": 1}),
    "many_heads": ({"num_attention_heads": 8}, {"num_attention_heads": 4}, {"num_attention_heads": 8}),
    "deep_decoder": ({"num_hidden_layers": 5, "intermediate_size": 17}, {}, {}),
    "deep_eyes": ({}, {"num_hidden_layers": 4, "intermediate_size": 9}, {"num_hidden_layers": 1}),
    "deep_abstractor": ({}, {"num_hidden_layers": 1}, {"num_hidden_layers": 4, "intermediate_size": 33}),
    "wide": ({"hidden_size": 48, "vocab_size": 211}, {"hidden_size": 24}, {}),
}

PROMPTS = {
    "text": [1, 20, 30, 40, 50],
    "one": [1, 20, I, 30, 40],
    "first": [I, 1, 30],
    "adjacent": [1, 20, I, I, 30],
    "apart_and_last": [1, I, 20, 30, I],
}


def written_config(shape: str) -> dict[str, Any]:
    """Write a config as the published file is: flat rotary keys, two nested parts."""
    decoder, vision, abstractor = SHAPES[shape]
    vision = {**VISION, **vision}
    width = vision["hidden_size"]
    grid = vision["image_size"] // vision["patch_size"]
    abstractor = {"hidden_size": width, "encoder_hidden_size": width, "grid_size": grid, **ABSTRACTOR, **abstractor}
    parts = {"visual_model": vision, "visual_abstractor": abstractor}
    return {"model_type": "mplug_owl2", "rope_scaling": None, **BASE, **decoder, "visual_config": parts}


def make_model(config: MPLUGOwl2Config, seed: int = 0) -> MPLUGOwl2ForConditionalGeneration:
    """Make a model with large random weights everywhere, norms and biases included, so that nothing hides."""
    model = MPLUGOwl2ForConditionalGeneration(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            is_norm = "norm" in name or "ffn_ln" in name
            if is_norm and name.endswith("weight"):
                weight.copy_(1 + 0.3 * noise)
            elif weight.dim() == 2 and "embed_tokens" not in name:
                weight.copy_(noise * weight.shape[1] ** -0.5)
            else:
                weight.copy_(0.5 * noise)
    return model


def images(config: MPLUGOwl2Config, count: int, seed: int = 0) -> torch.Tensor:
    size = config.vision.image_size
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=SHAPES)
def written(request: pytest.FixtureRequest) -> dict[str, Any]:
    return written_config(request.param)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@torch.inference_mode()
def test_logits_equal_the_plain_writing_in_every_shape(
    written: dict[str, Any], implementation: str, tmp_path: Path
) -> None:
    # Given a model made from a config file of some shape
    (tmp_path / "config.json").write_text(json.dumps(written), encoding="utf-8")
    config = AutoConfig.from_pretrained(tmp_path)
    model = make_model(config)
    model.set_attn_implementation(implementation)
    weights = model.state_dict()

    for ids in PROMPTS.values():
        pixels = images(config, ids.count(I))
        # When a prompt goes through it, with its images put in
        logits = model(input_ids=torch.tensor([ids]), pixel_values=pixels if len(pixels) else None).logits

        # Then the logits are those of the plain writing
        expected = reference_owl2.forward(weights, written, ids, pixels)
        torch.testing.assert_close(logits[0], expected, atol=2e-4, rtol=2e-4)


def test_greedy_answers_of_a_mixed_batch_equal_the_plain_writing(written: dict[str, Any]) -> None:
    # Given prompts of unequal length with different numbers of images, in one batch
    model = make_model(MPLUGOwl2Config(**written), seed=1)
    prompts = list(PROMPTS.values())
    pixels = [images(model.config, ids.count(I), seed=index) for index, ids in enumerate(prompts)]
    input_ids, mask = pad_left(prompts)

    # When they are answered together, with a cache
    output = model.generate(
        input_ids,
        attention_mask=mask,
        pixel_values=torch.cat(pixels),
        max_new_tokens=3,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )

    # Then each answer is the one that the plain writing gives alone, from scratch
    with torch.inference_mode():
        expected = [
            reference_owl2.greedy(model.state_dict(), written, ids, own, 3)
            for ids, own in zip(prompts, pixels, strict=True)
        ]
    assert output[:, input_ids.shape[1] :].tolist() == expected


@torch.inference_mode()
def test_each_shape_matters_to_the_result(written: dict[str, Any]) -> None:
    """A test of the tests: were a size or an epsilon ignored, some comparison above would have to fail."""
    model = make_model(MPLUGOwl2Config(**written))
    weights, ids = model.state_dict(), PROMPTS["one"]
    pixels = images(model.config, 1)
    before = reference_owl2.forward(weights, written, ids, pixels)
    parts = written["visual_config"]
    changes: list[dict[str, Any]] = [
        {"rope_theta": written["rope_theta"] * 2},
        {"rms_norm_eps": written["rms_norm_eps"] + 1e-2},
        {"visual_config": parts | {"visual_model": parts["visual_model"] | {"layer_norm_eps": 1e-1}}},
        {"visual_config": parts | {"visual_abstractor": parts["visual_abstractor"] | {"layer_norm_eps": 1e-1}}},
    ]

    for change in changes:
        after = reference_owl2.forward(weights, written | change, ids, pixels)
        assert (after - before).abs().max() > 1e-3, change


@needs_golden
@pytest.mark.parametrize("case", cases())
@torch.inference_mode()
def test_the_plain_writing_gives_the_golden_logits(case: Case) -> None:
    folder = checkpoint()
    written = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    expected = arrays_of(case["arrays"])

    logits = reference_owl2.forward(
        model.state_dict(), written, case["input_ids"], expected.get("pixel_values", torch.empty(0))
    )

    torch.testing.assert_close(logits[None], expected["logits"], **LOGITS)

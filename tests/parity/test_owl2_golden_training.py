"""Parity of training: samples, labels, batches, losses, gradients and six optimiser steps, against the golden set.

Tolerances: losses as for logits; gradients relative, since their size is that of the weights: torch's fused attention
and the reference's eager one sum in different orders, which stays under 1e-4 of a gradient's largest entry.
"""

from __future__ import annotations

import copy
import re
from typing import Any

import numpy as np
import pytest
import torch

from engines.owl2 import MPLUGOwl2ForConditionalGeneration, MPLUGOwl2Processor
from engines.owl2.config import IGNORE_LABEL, IMAGE_TOKEN_ID
from engines.owl2.insertion import plan_insertion
from engines.owl2.prompts import IMAGE_MARKER, TEMPLATES
from engines.owl2.training import (
    collate,
    freeze_untrained,
    is_trained,
    label_sample,
    lora_target_modules,
    modality_lengths,
    sample_lengths,
    training_pixels,
)
from tests.parity.owl2_golden import GOLDEN, LOGITS, arrays_of, needs_golden, open_image, read_json

pytestmark = needs_golden

LOSS_ATOL = 5e-4
# After each step every weight has moved by about the learning rate whatever its gradient, so noise grows a little.
CURVE_ATOL = 5e-3

GOLDENS: dict[str, Any] = read_json("train_cases.json")
SAMPLES: dict[str, dict[str, Any]] = {sample["id"]: sample for sample in read_json("train_data.json")}
BATCHES = {name: batch for name, batch in GOLDENS.get("batches", {}).items() if "arrays" in batch}
RUNS = {name: run for name, run in GOLDENS.get("batches", {}).items() if "losses_before_each_step" in run}
WAYS = {file.stem.removeprefix("train_pixel_values_"): file for file in GOLDEN.glob("arrays/train_pixel_values_*.npz")}


def make_batch(ids: list[str], template: str, way: str, processor: MPLUGOwl2Processor) -> dict[str, torch.Tensor]:
    """Go the whole way of a training run, from the JSON to the batch."""
    samples = [label_sample(SAMPLES[name], processor.tokenizer, template) for name in ids]
    images = [
        training_pixels(open_image(SAMPLES[name]["image"]), processor.image_processor, way)
        if "image" in SAMPLES[name]
        else None
        for name in ids
    ]
    return collate(samples, images, processor.tokenizer.unk_token_id)


@pytest.mark.parametrize("template", sorted(GOLDENS.get("preprocessed", {}).keys() & TEMPLATES.keys()))
def test_samples_get_the_golden_ids_and_labels(template: str, owl2_processor: MPLUGOwl2Processor) -> None:
    golden = GOLDENS["preprocessed"][template]
    assert {entry["id"] for entry in golden} == SAMPLES.keys()

    for entry in golden:
        sample = label_sample(SAMPLES[entry["id"]], owl2_processor.tokenizer, template)
        assert list(sample.input_ids) == entry["input_ids"], entry["id"]
        assert list(sample.labels) == entry["labels"], entry["id"]


def test_every_template_of_the_set_is_known() -> None:
    assert GOLDENS["preprocessed"].keys() - {"lengths_for_sampler"} <= TEMPLATES.keys()


def test_samples_are_grouped_by_the_golden_lengths() -> None:
    golden = GOLDENS["preprocessed"]["lengths_for_sampler"]

    assert sample_lengths(SAMPLES.values()) == golden["lengths"]
    assert modality_lengths(SAMPLES.values()) == golden["modality_lengths"]


@pytest.mark.parametrize("way", WAYS)
def test_training_pictures_become_the_golden_pixels_to_the_bit(way: str, owl2_processor: MPLUGOwl2Processor) -> None:
    with np.load(WAYS[way]) as golden:
        assert set(golden.files) == SAMPLES.keys()
        for name in golden.files:
            if "image" in SAMPLES[name]:
                image = open_image(SAMPLES[name]["image"])
                pixels = training_pixels(image, owl2_processor.image_processor, way)
                np.testing.assert_array_equal(pixels.numpy(), golden[name])
            else:  # the dummy that the reference spends on a sample without a picture
                assert not golden[name].any()


@pytest.mark.parametrize("name", BATCHES)
def test_samples_are_collated_to_the_golden_batch(name: str, owl2_processor: MPLUGOwl2Processor) -> None:
    golden = BATCHES[name]
    expected = arrays_of(golden["arrays"])

    batch = make_batch(golden["samples"], golden["template"], golden["preprocess"], owl2_processor)

    assert list(batch["input_ids"].shape) == golden["padded_input_shape"]
    for key in ("input_ids", "labels"):
        torch.testing.assert_close(batch[key], expected[key])
    torch.testing.assert_close(batch["attention_mask"].bool(), expected["attention_mask"].bool())
    has_marker = (expected["input_ids"] == IMAGE_TOKEN_ID).any(dim=1)
    if has_marker.any():
        torch.testing.assert_close(batch["pixel_values"], expected["pixel_values"][has_marker], atol=0, rtol=0)
    else:
        assert "pixel_values" not in batch


@pytest.mark.parametrize("name", BATCHES)
@torch.inference_mode()
def test_a_golden_batch_gives_the_golden_rows_loss_and_logits(
    name: str, owl2_model: MPLUGOwl2ForConditionalGeneration, owl2_processor: MPLUGOwl2Processor
) -> None:
    # Given the batch that the reference's collator made, less the dummy pictures of samples without a marker
    golden = BATCHES[name]
    batch = arrays_of(golden["arrays"])
    pixel_values = batch["pixel_values"][(batch["input_ids"] == IMAGE_TOKEN_ID).any(dim=1)]
    mask = batch["attention_mask"].long()

    # When its pictures are put in, and when it goes through the model
    plan = plan_insertion(batch["input_ids"], owl2_model.config.num_image_rows, mask, batch["labels"])
    outputs = owl2_model(batch["input_ids"], pixel_values, mask, labels=batch["labels"])

    # Then rows, labels and mask are the golden ones, and so are loss and logits
    assert list(plan.token_ids.shape) == golden["sequence_after"]
    is_real = batch["attention_mask_after"].bool()
    if plan.attention_mask is not None:
        torch.testing.assert_close(plan.attention_mask.bool(), is_real)
    torch.testing.assert_close(plan.labels, batch["labels_after"])
    torch.testing.assert_close(plan.modality_indicators, batch["modality_indicators"])
    assert outputs.loss.item() == pytest.approx(golden["loss"], abs=LOSS_ATOL, nan_ok=True)
    if "logits" in batch:
        torch.testing.assert_close(outputs.logits[is_real], batch["logits"][is_real], **LOGITS)
    for sample, loss in zip(golden["samples"], golden["single_sample_losses"], strict=True):
        alone = make_batch([sample], golden["template"], golden["preprocess"], owl2_processor)
        assert owl2_model(**alone).loss.item() == pytest.approx(
            loss, abs=LOSS_ATOL, nan_ok=True
        )  # a sample may teach nothing


def gradients_of(
    model: MPLUGOwl2ForConditionalGeneration, batch: dict[str, torch.Tensor]
) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = model(**batch, use_cache=False).loss
    loss.backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    return loss.item(), gradients


@pytest.fixture
def trainee(owl2_model: MPLUGOwl2ForConditionalGeneration) -> MPLUGOwl2ForConditionalGeneration:
    """A model of one's own, to be changed."""
    return copy.deepcopy(owl2_model).train()


def check_norms(gradients: dict[str, torch.Tensor], golden: dict[str, float]) -> None:
    largest = max(golden.values())
    for name, norm in golden.items():
        # Some are zero in exact arithmetic (a key's bias shifts all scores alike), so what remains is noise.
        found = gradients[name].norm().item() if name in gradients else 0.0
        assert found == pytest.approx(norm, rel=2e-4, abs=1e-7 * largest), name


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointed"])
@pytest.mark.parametrize("name", RUNS)
def test_the_first_training_batch_gives_the_golden_loss_gradients_and_norms(
    name: str, checkpointing: bool, trainee: MPLUGOwl2ForConditionalGeneration, owl2_processor: MPLUGOwl2Processor
) -> None:
    # Given a model in training mode whose vision tower is frozen
    run = RUNS[name]
    batch = make_batch(run["batch"], run["template"], run["preprocess"], owl2_processor)
    freeze_untrained(trainee)
    if checkpointing:
        trainee.activation_checkpointing_enable()

    # When the batch goes through it forwards and backwards
    loss, gradients = gradients_of(trainee, batch)

    # Then the loss, every norm and the chosen gradients are the golden ones
    assert loss == pytest.approx(run["loss_in_train_mode"], abs=LOSS_ATOL)
    assert {name for name, _ in trainee.named_parameters() if is_trained(name)} == run["grad_norms_step0"].keys()
    check_norms(gradients, run["grad_norms_step0"])
    for key, expected in arrays_of(run["gradients"]).items():
        tolerance = 1e-4 * max(expected.abs().max().item(), 1e-3)
        torch.testing.assert_close(
            gradients[key], expected, atol=tolerance, rtol=0, msg=lambda m, key=key: f"{key}: {m}"
        )


@pytest.mark.parametrize("name", RUNS)
def test_an_unfrozen_vision_tower_gets_the_golden_gradient_norms(
    name: str, trainee: MPLUGOwl2ForConditionalGeneration, owl2_processor: MPLUGOwl2Processor
) -> None:
    run = RUNS[name]
    batch = make_batch(run["batch"], run["template"], run["preprocess"], owl2_processor)

    _, gradients = gradients_of(trainee, batch)

    assert run["grad_norms_vision_if_unfrozen"].keys() == {n for n in gradients if not is_trained(n)}
    check_norms(gradients, run["grad_norms_vision_if_unfrozen"])


def optimiser_of(description: str, model: MPLUGOwl2ForConditionalGeneration) -> torch.optim.Optimizer:
    """Read the optimiser's numbers from the set's own words."""
    found = dict(re.findall(r"(\w+)=\(?([\d.e+-]+(?:,[\d.e+-]+)*)", description))
    betas = tuple(float(beta) for beta in found["betas"].split(","))
    assert description.startswith("AdamW")
    return torch.optim.AdamW(
        [weight for weight in model.parameters() if weight.requires_grad],
        lr=float(found["lr"]),
        betas=betas,  # type: ignore[arg-type]
        eps=float(found["eps"]),
        weight_decay=float(found["weight_decay"]),
    )


@pytest.mark.parametrize("name", RUNS)
def test_the_optimiser_steps_follow_the_golden_curve(
    name: str, trainee: MPLUGOwl2ForConditionalGeneration, owl2_processor: MPLUGOwl2Processor
) -> None:
    run = RUNS[name]
    batch = make_batch(run["batch"], run["template"], run["preprocess"], owl2_processor)
    freeze_untrained(trainee)
    optimiser = optimiser_of(run["optimizer"], trainee)

    losses = []
    for _ in run["losses_before_each_step"]:
        loss, _ = gradients_of(trainee, batch)
        losses.append(loss)
        optimiser.step()

    assert losses == pytest.approx(run["losses_before_each_step"], abs=CURVE_ATOL)


@pytest.mark.parametrize("name", RUNS)
def test_lora_adapts_the_golden_modules(name: str, owl2_model: MPLUGOwl2ForConditionalGeneration) -> None:
    assert lora_target_modules(owl2_model) == sorted(RUNS[name]["lora_target_modules"])


def test_labels_never_ask_for_a_picture(owl2_processor: MPLUGOwl2Processor) -> None:
    for sample in SAMPLES.values():
        labelled = label_sample(sample, owl2_processor.tokenizer)
        learned = [label for label in labelled.labels if label != IGNORE_LABEL]
        assert IMAGE_TOKEN_ID not in learned
        assert labelled.num_images == any(IMAGE_MARKER in turn["value"] for turn in sample["conversations"])

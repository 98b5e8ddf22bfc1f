"""Parity of what goes into mPLUG-Owl2: checkpoint files, pixels, tokens and prompts, against the golden set."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoConfig

from engines.owl2 import MPLUGOwl2Config, MPLUGOwl2ForConditionalGeneration, MPLUGOwl2Processor
from engines.owl2.checks import IGNORED_TENSORS
from engines.owl2.processor import AspectRatio, ImageProcessor
from engines.owl2.prompts import render
from engines.owl2.tokenizer import Owl2Tokenizer
from tests.parity.owl2_golden import GOLDEN, checkpoints, messages_of, needs_golden, read_json

pytestmark = needs_golden


def tensors_in(folder: Path) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(folder.iterdir()):
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as opened:
                tensors |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no dict
        elif file.suffix == ".bin":
            tensors |= torch.load(file, weights_only=True)
    return tensors


@pytest.mark.parametrize("folder", checkpoints())
def test_the_model_has_exactly_the_golden_tensors_and_ignores_the_constants(folder: str) -> None:
    # Given the list of tensors and the files that should hold them
    golden = {name: (tuple(shape), dtype) for name, shape, dtype in read_json("tensor_names.json")}
    in_files = tensors_in(GOLDEN / folder)
    assert {
        name: (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")) for name, tensor in in_files.items()
    } == golden

    # When a model of that shape is made, and loaded
    config = MPLUGOwl2Config.from_pretrained(GOLDEN / folder)
    with torch.device("meta"):
        made = MPLUGOwl2ForConditionalGeneration(config)
    loaded = MPLUGOwl2ForConditionalGeneration.from_pretrained(GOLDEN / folder, dtype=torch.float32)

    # Then it wants each of them that is no constant, in its shape, and holds its values
    is_constant = re.compile("|".join(IGNORED_TENSORS)).search
    weights = {name: shape for name, (shape, _) in golden.items() if not is_constant(name)}
    assert {name: tuple(tensor.shape) for name, tensor in made.state_dict().items()} == weights
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, in_files[name].float()), name


@pytest.mark.parametrize("folder", checkpoints())
def test_the_side_files_say_what_the_model_is_and_are_all_understood(folder: str) -> None:
    written: dict[str, Any] = json.loads((GOLDEN / folder / "config.json").read_text(encoding="utf-8"))
    config = AutoConfig.from_pretrained(GOLDEN / folder)
    processor = MPLUGOwl2Processor.from_pretrained(GOLDEN / folder)
    generation = MPLUGOwl2ForConditionalGeneration.from_pretrained(GOLDEN / folder).generation_config

    assert isinstance(config, MPLUGOwl2Config)
    for part, source in (
        (config, written),
        (config.vision, written["visual_config"]["visual_model"]),
        (config.abstractor, written["visual_config"]["visual_abstractor"]),
    ):
        # What shapes the computation, by name; the sub-dicts are full of keys that mean nothing here
        for key in type(part).__dataclass_fields__.keys() & source.keys() - {"transformers_version", "visual_config"}:
            if key in type(part).__annotations__ and source[key] is not None:
                assert getattr(part, key) == source[key], key
    assert config.rope_parameters["rope_theta"] == written.get("rope_theta", 10000.0)
    assert processor.image_processor.crop_size_px == config.vision.image_size
    assert processor.tokenizer.vocab_size <= config.vocab_size
    wanted = json.loads((GOLDEN / folder / "generation_config.json").read_text(encoding="utf-8"))
    for key in ("bos_token_id", "eos_token_id", "pad_token_id", "max_length", "temperature", "top_p"):
        assert getattr(generation, key) == wanted.get(key), key
    special = json.loads((GOLDEN / folder / "special_tokens_map.json").read_text(encoding="utf-8"))
    for key in ("bos_token", "eos_token", "unk_token"):
        token = special[key] if isinstance(special[key], str) else special[key]["content"]
        assert processor.tokenizer.encode(token)[1:] == [getattr(processor.tokenizer, f"{key}_id")]


def golden_pixels() -> list[str]:
    if not GOLDEN.is_dir():
        return []
    with np.load(GOLDEN / "arrays" / "pixel_values.npz") as expected:
        return list(expected.files)


@pytest.mark.parametrize("key", golden_pixels())
def test_every_golden_picture_becomes_the_golden_pixels_to_the_bit(
    key: str, owl2_processor: MPLUGOwl2Processor
) -> None:
    from PIL import Image

    name, _, way = key.rpartition(":")
    aspect_ratio: AspectRatio = way  # type: ignore[assignment]
    with np.load(GOLDEN / "arrays" / "pixel_values.npz") as expected, Image.open(GOLDEN / "images" / name) as image:
        np.testing.assert_array_equal(owl2_processor.image_processor(image, aspect_ratio), expected[key])


def test_every_picture_of_the_set_is_covered() -> None:
    names = {key.rpartition(":")[0] for key in golden_pixels()}

    assert names == {file.name for file in (GOLDEN / "images").iterdir()}


@pytest.mark.parametrize("folder", checkpoints())
def test_the_image_processor_reads_its_numbers_from_the_checkpoint(folder: str) -> None:
    config = json.loads((GOLDEN / folder / "preprocessor_config.json").read_text(encoding="utf-8"))
    processor = ImageProcessor.from_folder(GOLDEN / folder)

    assert list(processor.mean) == config["image_mean"]
    assert list(processor.std) == config["image_std"]


def test_golden_texts_tokenise_and_decode_as_in_the_reference_with_both_values_of_legacy() -> None:
    golden = read_json("tokenizer_cases.json")
    [folder, *_] = checkpoints()
    tokenizer = Owl2Tokenizer.from_folder(GOLDEN / folder)
    other = Owl2Tokenizer(GOLDEN / folder / "tokenizer.model", legacy=not golden["legacy"])

    assert tokenizer.legacy == golden["legacy"]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (
        golden["bos"],
        golden["eos"],
        golden["unk"],
    )
    assert golden["pad"] == tokenizer.unk_token_id  # what training pads with
    assert golden["plain"]
    assert golden["with_images"]
    for case in golden["plain"]:
        assert tokenizer.encode(case["text"]) == case["ids"], case["text"]
        assert other.encode(case["text"]) == case["ids_with_the_other_legacy_value"], case["text"]
        assert tokenizer.decode(case["ids"]) == case["decoded_skip_special"], case["text"]
        assert tokenizer.decode(case["ids"], skip_special_tokens=False) == case["decoded"], case["text"]
    for case in golden["with_images"]:
        assert tokenizer.encode_with_images(case["text"]) == case["ids"], case["text"]


@pytest.mark.parametrize("case", read_json("prompts.json") or [])
def test_golden_conversations_render_as_in_the_reference(case: dict[str, Any]) -> None:
    assert render(messages_of(case["messages"], []), case["template"]).text == case["prompt"]

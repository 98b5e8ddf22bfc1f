"""engines.memory: counts that are exact, against published numbers and the modules themselves."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText, Glm4vConfig

from engines.glm.loading import UNQUANTIZED_MODULES as GLM_UNQUANTIZED
from engines.memory import PUBLISHED_CONFIGS, QUANTIZATIONS, MemoryNeed, UnknownModelError, predict, read_shape
from engines.owl2 import MPLUGOwl2Config
from engines.owl2.loading import UNQUANTIZED_MODULES

GOLDEN = Path(__file__).parents[3] / "shared" / "golden"


def linear_weights(config: Any, unquantized: tuple[str, ...]) -> tuple[int, int]:
    """Count weights and rows of the matrices that a quantization may touch, in the real modules."""
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    weights = [
        module.weight
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and not name.startswith(unquantized)
    ]
    return sum(weight.numel() for weight in weights), sum(weight.shape[0] for weight in weights)


@pytest.mark.parametrize(("engine", "count"), [("owl2", 8_197_859_328), ("glm", 10_292_777_472)])
def test_the_published_models_have_their_published_number_of_parameters(engine: str, count: int) -> None:
    assert read_shape(PUBLISHED_CONFIGS[engine]).num_parameters == count


def test_what_is_quantized_and_what_not_is_counted_as_the_modules_are() -> None:
    owl2 = read_shape(PUBLISHED_CONFIGS["owl2"])
    glm = read_shape(PUBLISHED_CONFIGS["glm"])

    assert (owl2.num_decoder_weights, owl2.num_decoder_rows) == linear_weights(MPLUGOwl2Config(), UNQUANTIZED_MODULES)
    published = dict(PUBLISHED_CONFIGS["glm"])
    config = Glm4vConfig(text_config=dict(published["text_config"]), vision_config=dict(published["vision_config"]))
    assert (glm.num_decoder_weights, glm.num_decoder_rows) == linear_weights(config, GLM_UNQUANTIZED)


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="the golden data is not here")
def test_the_golden_checkpoints_have_the_predicted_number_of_parameters() -> None:
    owl2 = json.loads((GOLDEN / "owl2" / "checkpoint" / "config.json").read_text())
    names = json.loads((GOLDEN / "owl2" / "tensor_names.json").read_text())
    stored = sum(math.prod(shape) for name, shape, _ in names if not name.endswith("inv_freq"))
    assert read_shape(owl2).num_parameters == stored

    glm = json.loads((GOLDEN / "glm" / "model" / "config.json").read_text())
    index = json.loads((GOLDEN / "glm" / "model" / "model.safetensors.index.json").read_text())
    assert read_shape(glm).num_parameters == index["metadata"]["total_parameters"]


def test_tied_embeddings_count_once() -> None:
    config = dict(PUBLISHED_CONFIGS["owl2"])
    untied = read_shape(config).num_parameters

    assert untied - read_shape(config | {"tie_word_embeddings": True}).num_parameters == 32000 * 4096


@pytest.mark.parametrize(("engine", "kv_bytes"), [("owl2", 2 * 32 * 4096 * 2), ("glm", 2 * 40 * 2 * 128 * 2)])
def test_the_cache_of_a_token_is_its_keys_and_values_in_all_layers(engine: str, kv_bytes: int) -> None:
    shape = read_shape(PUBLISHED_CONFIGS[engine])

    assert shape.kv_bytes_per_token("bfloat16") == kv_bytes
    assert predict(shape, dtype="bfloat16", num_tokens=100).kv_bytes == 100 * kv_bytes


@pytest.mark.parametrize("engine", ["owl2", "glm"])
def test_fewer_bits_make_the_weights_smaller_but_not_what_is_left_alone(engine: str) -> None:
    shape = read_shape(PUBLISHED_CONFIGS[engine])
    kept_bytes = 2 * (shape.num_parameters - shape.num_decoder_weights)

    none, int8, int4 = (shape.weight_bytes("bfloat16", quantization) for quantization in QUANTIZATIONS)

    assert none == 2 * shape.num_parameters
    assert 0 < int8 - kept_bytes - shape.num_decoder_weights < 0.01 * shape.num_decoder_weights
    # 0.5 bytes, and a scale of 1/64 byte and a little
    assert (int4 - kept_bytes) / shape.num_decoder_weights == pytest.approx(0.5158, abs=1e-3)
    assert shape.weight_bytes("float32") == 2 * none


def test_owl2_stays_within_the_bounds_set_for_int8_and_int4() -> None:
    shape = read_shape(PUBLISHED_CONFIGS["owl2"])

    need = {
        name: predict(shape, dtype="bfloat16", quantization=name, num_tokens=2048).total_bytes for name in QUANTIZATIONS
    }

    assert need["int8"] < 20e9
    assert need["int4"] < 12e9


def test_glm_stays_within_the_bounds_set_for_int8_and_int4() -> None:
    # Given the published shape, and a full batch of 32 rows with a picture and an answer each
    shape = read_shape(PUBLISHED_CONFIGS["glm"])

    def need(quantization: str) -> MemoryNeed:
        return predict(shape, dtype="bfloat16", quantization=quantization, num_tokens=32 * 2048)

    # Then the bounds hold with everything that lies in memory: weights, cache and activations
    assert need("none").weights_bytes == 2 * 10_292_777_472  # the 20.6 GB of the published files
    assert need("int8").total_bytes < 20e9
    assert need("int4").total_bytes < 12e9
    assert need("int8").kv_bytes == 32 * 2048 * 40 * 1024


def test_glms_vision_tower_and_head_keep_their_precision_and_are_counted_so() -> None:
    shape = read_shape(PUBLISHED_CONFIGS["glm"])
    config = Glm4vConfig(
        text_config=dict(PUBLISHED_CONFIGS["glm"]["text_config"]),
        vision_config=dict(PUBLISHED_CONFIGS["glm"]["vision_config"]),
    )
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)

    kept = sum(parameter.numel() for name, parameter in model.named_parameters() if name.startswith(GLM_UNQUANTIZED))
    embeddings_norms_and_biases = sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if not name.startswith(GLM_UNQUANTIZED) and ("norm" in name or "embed" in name or name.endswith("bias"))
    )

    assert shape.num_parameters - shape.num_decoder_weights == kept + embeddings_norms_and_biases
    assert shape.weight_bytes("bfloat16", "int8") - shape.num_decoder_weights > 2 * kept


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "model_type is None"),
        ({"model_type": "llama"}, "'llama'"),
        ({"model_type": "mplug_owl2", "hidden_size": 64}, "intermediate_size"),
        ({"model_type": "glm4v"}, "text_config"),
        ({"model_type": "glm4v", "text_config": 3}, "glm4v"),
    ],
)
def test_a_config_of_something_else_is_refused_by_name(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UnknownModelError, match=message):
        read_shape(config)


def test_unknown_dtypes_and_quantizations_are_refused() -> None:
    shape = read_shape(PUBLISHED_CONFIGS["glm"])

    with pytest.raises(ValueError, match="float8"):
        predict(shape, dtype="float8", num_tokens=1)
    with pytest.raises(ValueError, match="int2"):
        predict(shape, dtype="bfloat16", quantization="int2", num_tokens=1)


def test_a_prediction_needs_no_torch() -> None:
    code = "import sys, engines.memory; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

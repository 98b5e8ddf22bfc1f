"""engines.runtime.quantization: which library does what where; and on the CPU, that the answers stay close."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from transformers import AutoModelForImageTextToText, Glm4vConfig

from engines import memory
from engines.glm import loading as glm_loading
from engines.owl2 import MPLUGOwl2Config, MPLUGOwl2ForConditionalGeneration
from engines.owl2.loading import UNQUANTIZED_MODULES, load_model
from engines.runtime import quantization
from engines.runtime.quantization import loading_options, on_device

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")


def has(*packages: str) -> bool:
    return all(importlib.util.find_spec(package) is not None for package in packages)


needs_torchao = pytest.mark.skipif(not has("torchao"), reason="torchao is not installed")
needs_bitsandbytes = pytest.mark.skipif(not has("bitsandbytes", "accelerate"), reason="bitsandbytes is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose widths are multiples of the libraries' blocks."""
    folder = tmp_path_factory.mktemp("quantization")
    torch.manual_seed(0)
    vision = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = MPLUGOwl2Config(
        vocab_size=256,
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=2,
        num_attention_heads=4,
        visual_config={
            "visual_model": {**vision, "image_size": 28, "patch_size": 7},
            "visual_abstractor": {**vision, "encoder_hidden_size": 64, "num_learnable_queries": 4, "grid_size": 4},
        },
    )
    MPLUGOwl2ForConditionalGeneration(config).save_pretrained(folder)
    return folder


def last_logits(model: Any) -> torch.Tensor:
    pixels = torch.randn(1, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        outputs = model(input_ids=torch.tensor([[1, -200, *range(10, 40)]]), pixel_values=pixels)
    return outputs.logits[0, -1].float()


def load(folder: Path, name: str, dtype: torch.dtype = torch.float32) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the libraries' own making
        return load_model(folder, dtype=dtype, device=CPU, attn_implementation="sdpa", quantization=name)


def test_without_quantization_nothing_is_asked_of_the_loader() -> None:
    assert loading_options("none", torch.device("mps"), torch.float32, ()) == {}


def test_an_unknown_word_or_device_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="one of none, int8, int4, not 'int2'"):
        loading_options("int2", CPU, torch.float32, ())
    with pytest.raises(ValueError, match="needs a CUDA device or the CPU, not 'mps'"):
        loading_options("int8", torch.device("mps"), torch.float32, ())


@pytest.mark.parametrize(
    ("name", "device", "package"),
    [("int8", CPU, "torchao"), ("int4", CPU, "bitsandbytes"), ("int8", CUDA, "accelerate")],
)
def test_a_missing_library_is_named_with_what_installs_it(
    monkeypatch: pytest.MonkeyPatch, name: str, device: torch.device, package: str
) -> None:
    monkeypatch.setattr(quantization.importlib.util, "find_spec", lambda found: None)

    with pytest.raises(ValueError, match=rf"{package}.*not installed here: pip install 'glowl\[quant\]'"):
        loading_options(name, device, torch.bfloat16, ())


def test_int4_asks_bitsandbytes_to_load_straight_to_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given the libraries, as far as anybody can see without a GPU
    monkeypatch.setattr(quantization, "_require", lambda *_: None)
    monkeypatch.setitem(sys.modules, "bitsandbytes", ModuleType("bitsandbytes"))
    seen: dict[str, object] = {}
    monkeypatch.setattr("transformers.BitsAndBytesConfig", lambda **options: seen.update(options))

    options = loading_options("int4", CUDA, torch.bfloat16, ("lm_head",))

    assert options["device_map"] == {"": CUDA}
    assert seen["load_in_4bit"] is True
    assert seen["llm_int8_skip_modules"] == ["lm_head"]
    assert (seen["bnb_4bit_quant_type"], seen["bnb_4bit_use_double_quant"]) == ("nf4", True)
    assert seen["bnb_4bit_compute_dtype"] == torch.bfloat16


def test_int8_quantizes_weights_only_on_a_gpu_too_so_that_rows_stay_independent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Given torchao, as far as anybody can see without a GPU
    monkeypatch.setattr(quantization, "_require", lambda *_: None)
    library = ModuleType("torchao.quantization")
    library.Int8WeightOnlyConfig = lambda: "weights only"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchao", ModuleType("torchao"))
    monkeypatch.setitem(sys.modules, "torchao.quantization", library)
    monkeypatch.setattr("transformers.TorchAoConfig", lambda *given, **options: (given, options))

    options = loading_options("int8", CUDA, torch.bfloat16, ("lm_head",))

    assert options["quantization_config"] == (("weights only",), {"modules_to_not_convert": ["lm_head"]})
    assert options["device_map"] == {"": CUDA}


def test_weights_go_straight_to_a_device_that_is_not_the_cpu(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert on_device(CPU) == {}
    assert on_device(CUDA) == {"device_map": {"": CUDA}}
    assert not caplog.records

    monkeypatch.setattr(quantization.importlib.util, "find_spec", lambda found: None)

    assert on_device(CUDA) == {}
    assert "accelerate is not installed" in caplog.text


def test_both_engines_load_to_the_device_and_move_nothing_afterwards(
    folder: Path, glm_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given the one device without a GPU that is not the CPU: tensors there have no numbers
    device = torch.device("meta")
    monkeypatch.setattr(glm_loading, "_try_out", lambda _model: None)
    monkeypatch.setattr(torch.nn.Module, "to", lambda *_: pytest.fail("moved through the machine's memory"))

    models = [
        load_model(folder, dtype=torch.float32, device=device, attn_implementation="sdpa"),
        glm_loading.load_model(str(glm_folder), device, torch.float32, "sdpa")[0],
    ]

    for model in models:
        assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


def check_kept(model: Any, quantized_type: str, unquantized: tuple[str, ...] = UNQUANTIZED_MODULES) -> None:
    """The decoder's matrices are quantized, both ways of a multiway too, and nothing else is."""
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            is_quantized = type(module.weight).__name__ == quantized_type
            assert is_quantized != name.startswith(unquantized), name


@needs_torchao
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_int8_on_the_cpu_answers_nearly_the_same(folder: Path, dtype: torch.dtype) -> None:
    quantized = load(folder, "int8", dtype)

    check_kept(quantized, "Int8Tensor")
    assert F.cosine_similarity(last_logits(quantized), last_logits(load(folder, "none")), dim=0) > 0.999


@needs_bitsandbytes
def test_int4_on_the_cpu_answers_much_the_same(folder: Path) -> None:
    quantized = load(folder, "int4")

    check_kept(quantized, "Params4bit")
    assert F.cosine_similarity(last_logits(quantized), last_logits(load(folder, "none")), dim=0) > 0.9


@pytest.fixture(scope="module")
def glm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GLM whose widths are multiples of the libraries' blocks."""
    folder = tmp_path_factory.mktemp("quantization-glm")
    torch.manual_seed(0)
    config = Glm4vConfig(
        text_config={
            **{"hidden_size": 128, "intermediate_size": 320, "num_hidden_layers": 2, "num_attention_heads": 4},
            **{"num_key_value_heads": 2, "vocab_size": 256, "pad_token_id": 0},
            "rope_parameters": {
                **{"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
                "mrope_section": [2, 3, 3],
            },
        },
        vision_config={
            **{"depth": 1, "hidden_size": 64, "intermediate_size": 128, "out_hidden_size": 128, "num_heads": 2},
            **{"image_size": 56, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2},
        },
        image_token_id=250,
    )
    AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    return folder


def load_glm(folder: Path, name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the libraries' own making
        return glm_loading.load_model(str(folder), CPU, torch.float32, "auto", name)[0]


def glm_last_logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=torch.tensor([list(range(10, 40))])).logits[0, -1].float()


@needs_torchao
def test_int8_leaves_glms_vision_tower_and_head_alone(glm_folder: Path) -> None:
    quantized = load_glm(glm_folder, "int8")

    check_kept(quantized, "Int8Tensor", glm_loading.UNQUANTIZED_MODULES)
    plain = glm_last_logits(load_glm(glm_folder, "none"))
    assert F.cosine_similarity(glm_last_logits(quantized), plain, dim=0) > 0.999


@needs_bitsandbytes
def test_int4_leaves_glms_vision_tower_and_head_alone(glm_folder: Path) -> None:
    quantized = load_glm(glm_folder, "int4")

    check_kept(quantized, "Params4bit", glm_loading.UNQUANTIZED_MODULES)
    plain = glm_last_logits(load_glm(glm_folder, "none"))
    assert F.cosine_similarity(glm_last_logits(quantized), plain, dim=0) > 0.9


def test_the_words_are_those_that_memory_is_predicted_for() -> None:
    assert quantization.QUANTIZATIONS == memory.QUANTIZATIONS

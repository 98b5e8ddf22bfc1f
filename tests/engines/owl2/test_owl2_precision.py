"""engines.owl2 as it is loaded: attention implementations, dtypes, nothing uninitialised, nothing global."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AttentionInterface,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
)
from transformers.models.llama import LlamaConfig, LlamaModel, modeling_llama

from engines.owl2 import MPLUGOwl2Config, MPLUGOwl2ForConditionalGeneration, MPLUGOwl2Processor
from engines.owl2 import attention as attention_module
from engines.owl2.abstractor import key_positions, query_positions
from engines.owl2.files import CheckpointError
from engines.owl2.loading import load_model

IDS = torch.tensor([[1, 20, -200, 30, -200, 31]])


def pixels(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, 28, 28, generator=torch.Generator().manual_seed(0))


def parts_of(config: MPLUGOwl2Config) -> dict[str, Any]:
    return {"decoder": config, "vision": config.vision, "abstractor": config.abstractor}


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_the_chosen_attention_is_used_by_all_three_parts(
    checkpoint: Path, implementation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a model loaded with that implementation, and an eye on what is called
    model = AutoModelForImageTextToText.from_pretrained(
        checkpoint, dtype=torch.float32, attn_implementation=implementation
    )
    called: list[str] = []
    eager = attention_module.eager_attention

    def spy(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        called.append(type(module).__name__)
        return eager(module, *args, **kwargs)

    monkeypatch.setattr(attention_module, "eager_attention", spy)
    with torch.inference_mode():
        model(input_ids=IDS, pixel_values=pixels())

    # Then every part's config names it, and every part uses it
    assert {part._attn_implementation for part in parts_of(model.config).values()} == {implementation}
    everyone = {"VisionAttention", "AbstractorAttention", "DecoderAttention"}
    assert set(called) == (everyone if implementation == "eager" else set())


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_a_model_made_from_a_config_uses_one_attention_in_all_parts(config: Any, implementation: str) -> None:
    config._attn_implementation = implementation

    model = MPLUGOwl2ForConditionalGeneration(config)

    assert {part._attn_implementation for part in parts_of(model.config).values()} == {implementation}


def test_a_model_made_from_a_plain_config_uses_sdpa_in_all_parts_until_told_otherwise(model: Any) -> None:
    before = {part._attn_implementation for part in parts_of(model.config).values()}
    model.set_attn_implementation("eager")
    after = {part._attn_implementation for part in parts_of(model.config).values()}

    assert (before, after) == ({"sdpa"}, {"eager"})


def test_sdpa_is_the_default_and_agrees_with_eager(checkpoint: Path) -> None:
    default = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32)
    eager = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32, attn_implementation="eager")
    mask = torch.tensor([[0, 1, 1, 1, 1, 1]])

    with torch.inference_mode():
        both = [model(input_ids=IDS, pixel_values=pixels(), attention_mask=mask).logits for model in (default, eager)]

    assert default.config._attn_implementation == "sdpa"
    real = both[0][:, 1:], both[1][:, 1:]  # what stands on padding has no meaning
    torch.testing.assert_close(*real, atol=1e-4, rtol=1e-4)


def test_an_attention_that_fails_at_its_first_use_is_stepped_down_from(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Given an attention that loads and then fails, as a package built for another GPU does
    calls: list[None] = []

    def fail(*_: object, **__: object) -> Any:
        calls.append(None)
        raise RuntimeError("no kernel for this GPU")

    monkeypatch.setitem(AttentionInterface._global_mapping, "broken", fail)

    # When a model is loaded with it
    model = load_model(checkpoint, dtype=torch.float32, device=torch.device("cpu"), attn_implementation="broken")

    # Then all its parts use the next one, and one line says why
    assert {part._attn_implementation for part in parts_of(model.config).values()} == {"sdpa"}
    assert len(calls) == 1
    own = [record.message for record in caplog.records if record.name.startswith("engines.")]
    assert own == ["attention broken is not usable (no kernel for this GPU); trying sdpa"]


def test_a_flash_package_that_is_not_there_does_not_keep_the_model_down(checkpoint: Path) -> None:
    model = load_model(
        checkpoint, dtype=torch.float32, device=torch.device("cpu"), attn_implementation="flash_attention_2"
    )

    assert model.config._attn_implementation == "sdpa"


def test_a_checkpoint_that_cannot_be_read_is_read_once(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[None] = []

    def fail(*_: object, **__: object) -> Any:
        reads.append(None)
        raise OSError("the disk is gone")

    monkeypatch.setattr(MPLUGOwl2ForConditionalGeneration, "from_pretrained", fail)

    with pytest.raises(CheckpointError, match="the disk is gone"):
        load_model(checkpoint, dtype=torch.float32, device=torch.device("cpu"), attn_implementation="auto")
    assert len(reads) == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_loads_and_stays_near_float32(checkpoint: Path, dtype: torch.dtype) -> None:
    exact = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32)
    half = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=dtype)

    with torch.inference_mode():
        expected = exact(input_ids=IDS, pixel_values=pixels()).logits
        logits = half(input_ids=IDS, pixel_values=pixels()).logits
    output = half.generate(IDS, pixel_values=pixels(), max_new_tokens=2, do_sample=False)

    assert {weight.dtype for weight in half.parameters()} == {dtype}
    assert logits.dtype == dtype
    # Three mantissa bits less in bfloat16, so eight times the error
    bound = 0.02 if dtype == torch.float16 else 0.16
    error = (logits.float() - expected).abs().max() / expected.abs().max()
    assert error < bound
    assert output.shape[0] == 1


def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let memory that nobody has written yet be NaN."""

    def poisoned(make: Any) -> Any:
        def fill(*args: Any, **kwargs: Any) -> torch.Tensor:
            tensor = make(*args, **kwargs)
            if tensor.is_floating_point() and tensor.device.type != "meta":
                tensor.detach().fill_(float("nan"))
            return tensor

        return fill

    for name in ("empty", "empty_like", "empty_strided"):
        monkeypatch.setattr(torch, name, poisoned(getattr(torch, name)))


@pytest.mark.parametrize("auto_class", [AutoModelForImageTextToText, AutoModelForCausalLM])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_after_a_load_nothing_is_uninitialised(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, auto_class: Any, dtype: torch.dtype
) -> None:
    # Given memory that shows when it was never written
    poison(monkeypatch)
    assert torch.empty(1).isnan().all()

    # When the checkpoint is loaded by the library's own doors
    config = AutoConfig.from_pretrained(checkpoint)
    processor = AutoProcessor.from_pretrained(checkpoint)
    model = auto_class.from_pretrained(checkpoint, dtype=dtype)

    # Then weights, constants and results are all numbers, and the constants are those of the formulas
    assert (type(config), type(processor)) == (MPLUGOwl2Config, MPLUGOwl2Processor)
    assert type(model) is MPLUGOwl2ForConditionalGeneration
    assert not list(model.named_buffers())
    assert all(weight.isfinite().all() for weight in model.parameters())
    with torch.inference_mode():
        assert model(input_ids=IDS, pixel_values=pixels()).logits.isfinite().all()
    shape = config.abstractor
    tables = model.model.visual_abstractor.encoder.position_tables.get(model.lm_head.weight)
    expected = (
        query_positions(shape.num_learnable_queries, shape.hidden_size).to(dtype),
        key_positions(shape.grid_size, shape.hidden_size).to(dtype),
    )
    torch.testing.assert_close(tables, expected, atol=0, rtol=0)


def test_moving_and_casting_a_model_remakes_the_constants(model: Any) -> None:
    with torch.inference_mode():
        before = model(input_ids=IDS, pixel_values=pixels()).logits
        half = model.to(torch.bfloat16)(input_ids=IDS, pixel_values=pixels()).logits
        # The way down loses digits of the weights, the way back must not lose digits of the tables
        model.float()
        tables = model.model.visual_abstractor.encoder.position_tables.get(model.lm_head.weight)

    assert half.dtype == torch.bfloat16
    assert before.isfinite().all()
    torch.testing.assert_close(tables[0], query_positions(4, 16).float(), atol=0, rtol=0)


def test_no_class_of_transformers_was_changed_and_llama_is_still_llama() -> None:
    # Given that engines.owl2 was imported: no function inside transformers' classes is ours
    changed = [
        f"{name}.{kind.__name__}.{attribute}"
        for name, module in list(sys.modules.items())
        if name.startswith("transformers.") and module is not None
        for kind in list(vars(module).values())
        if isinstance(kind, type) and kind.__module__.startswith("transformers")
        for attribute, value in vars(kind).items()
        if getattr(value, "__module__", None) is not None and str(value.__module__).startswith("engines")
    ]

    # Then LLaMA has one of everything
    llama = LlamaModel(
        LlamaConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=8)
    )
    assert changed == []
    assert all(str(part.__module__).startswith(("transformers", "torch")) for part in map(type, llama.modules()))
    assert not any("multiway" in name for name, _ in llama.named_parameters())
    assert modeling_llama.LlamaDecoderLayer.forward.__module__ == modeling_llama.__name__


def test_checkpointing_recomputes_layers_and_changes_no_gradient(model: Any) -> None:
    labels = torch.tensor([[-100, -100, -100, 30, -100, 31]])
    model.train()

    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        model(input_ids=IDS, pixel_values=pixels(), labels=labels, use_cache=False).loss.backward()
        return [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]

    plain = gradients()
    num_calls = 0

    def count(*_: Any) -> None:
        nonlocal num_calls
        num_calls += 1

    layers = [*model.model.layers, *model.model.vision_model.encoder.layers]
    for layer in layers:
        layer.mlp.register_forward_pre_hook(count)  # recomputing stops before a layer's very end
    model.activation_checkpointing_enable()

    torch.testing.assert_close(gradients(), plain)
    assert num_calls == 2 * len(layers)

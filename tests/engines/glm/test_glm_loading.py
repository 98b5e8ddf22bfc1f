"""engines.glm.loading: what is left in full precision, and the way down to an attention that works."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AttentionInterface

from engines.base import EngineOptions
from engines.glm import loading
from engines.glm.engine import load
from engines.glm.loading import UNQUANTIZED_MODULES, load_model
from engines.pocket.random_tiny import make_glm
from engines.runtime.attention import attention_candidates

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("glm-loading")
    make_glm(folder)
    return folder


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Attention that loads and fails when it is used, as a package built for another GPU does."""
    calls: dict[str, Any] = {"error": ValueError("no kernel for this GPU"), "count": 0}

    def attend(*_: object, **__: object) -> Any:
        calls["count"] += 1
        raise calls["error"]

    monkeypatch.setitem(AttentionInterface._global_mapping, "broken", attend)
    return calls


def test_each_step_down_is_to_what_more_machines_have() -> None:
    cuda = torch.device("cuda:0")

    def candidates(name: str) -> list[str]:
        return attention_candidates(name, cuda, torch.bfloat16)

    assert candidates("flash_attention_3") == ["flash_attention_3", "flash_attention_2", "sdpa", "eager"]
    assert candidates("flash_attention_2") == ["flash_attention_2", "sdpa", "eager"]
    assert candidates("sdpa") == ["sdpa", "eager"]
    assert candidates("eager") == ["eager", "sdpa"]


@pytest.mark.parametrize(
    "error",
    [ValueError("no kernel"), ImportError("undefined symbol"), RuntimeError("only supports Ampere GPUs or newer")],
)
def test_an_attention_that_fails_at_its_first_use_is_stepped_down_from_and_that_is_logged_once(
    checkpoint: Path, broken: dict[str, Any], error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    # Given an attention that can be loaded but not used
    broken["error"] = error

    # When a model is loaded with it
    with caplog.at_level(logging.WARNING, logger="engines.runtime.attention"):
        model, attention = load_model(str(checkpoint), CPU, torch.float32, "broken")

    # Then the next one is used, for text and pictures, and one line says why
    assert attention == "sdpa"
    assert model.config.text_config._attn_implementation == "sdpa"
    assert model.config.vision_config._attn_implementation == "sdpa"
    assert broken["count"] == 1
    assert [record.message for record in caplog.records] == [f"attention broken is not usable ({error}); trying sdpa"]


def test_a_flash_package_that_is_not_there_is_stepped_over_before_any_weight_is_read(
    checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="engines.runtime.attention"):
        _, attention = load_model(str(checkpoint), CPU, torch.float32, "flash_attention_3")

    assert attention == "sdpa"
    assert [record.message.split(" is not")[0] for record in caplog.records] == [
        "attention flash_attention_3",
        "attention flash_attention_2",
    ]


def test_the_plainest_attention_is_the_last_and_its_error_is_told(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_model: object) -> None:
        raise ValueError("nothing works")

    monkeypatch.setattr(loading, "_try_out", fail)

    with pytest.raises(ValueError, match="nothing works"):
        load_model(str(checkpoint), CPU, torch.float32, "auto")


def test_a_lack_of_memory_is_no_reason_to_try_another_attention(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_model: object) -> None:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(loading, "_try_out", fail)

    with pytest.raises(MemoryError), caplog.at_level(logging.WARNING, logger="engines.runtime.attention"):
        load_model(str(checkpoint), CPU, torch.float32, "auto")
    assert not caplog.records


def test_trying_out_leaves_nothing_on_the_model(checkpoint: Path) -> None:
    model, _ = load_model(str(checkpoint), CPU, torch.float32, "auto")

    assert model.model.rope_deltas is None


async def test_the_engine_says_which_attention_it_ended_up_with(checkpoint: Path, broken: dict[str, Any]) -> None:
    engine = load(EngineOptions(str(checkpoint), device="cpu", attn_implementation="broken"))

    await engine.start()

    assert engine.health["attn_implementation"] == "sdpa"
    await engine.aclose()


def test_the_vision_tower_and_the_head_are_what_stays_unquantized(checkpoint: Path) -> None:
    model, _ = load_model(str(checkpoint), CPU, torch.float32, "auto")
    kept = [name for name, _ in model.named_modules() if name in UNQUANTIZED_MODULES]

    # Both exist under these names: a name that matched nothing would quantize everything
    assert sorted(kept) == sorted(UNQUANTIZED_MODULES)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ('{"model_type": "mplug_owl2"}', "config.json: model_type is 'mplug_owl2', not glm46v or glm4v"),
        ("{}", "config.json: model_type is None"),
        ("version https://git-lfs.github.com/spec/v1", "config.json is no JSON object"),
        ("[]]", "config.json is no JSON object"),
        ("7", "config.json is no JSON object"),
    ],
)
def test_a_folder_of_another_model_is_named_before_anything_is_loaded(tmp_path: Path, config: str, words: str) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ValueError, match=words):
        load(EngineOptions(model=str(tmp_path)))

"""engines.owl2.config: published files are accepted, what is not computed is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from engines.owl2 import MPLUGOwl2Config


def published() -> dict[str, Any]:
    """A config as the published converter writes it: flat RoPE keys, generic keys in the sub-dicts."""
    junk = {"bad_words_ids": None, "id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "temperature": 1.0, "top_k": 50,
            "torch_dtype": None, "tie_word_embeddings": True, "pruned_heads": {}, "is_decoder": False,
            "transformers_version": "4.31.0", "_name_or_path": ""}  # fmt: skip
    return {
        "model_type": "mplug_owl2",
        "attention_bias": False,
        "num_key_value_heads": 32,
        "pretraining_tp": 1,
        "rope_scaling": None,
        "rope_theta": 20000.0,
        "visual_config": {
            "visual_model": {"model_type": "mplug_owl_vision_model", "use_flash_attn": False, "projection_dim": 768}
            | junk,
            "visual_abstractor": {"model_type": "mplug_owl_visual_abstract"} | junk,
        },
        "freeze_vision_model": True,
    }


def test_a_published_config_loads_with_the_published_shape(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(published()))

    config = AutoConfig.from_pretrained(tmp_path)

    assert isinstance(config, MPLUGOwl2Config)
    assert config.rope_parameters == {"rope_type": "default", "rope_theta": 20000.0}
    assert (config.hidden_size, config.num_hidden_layers, config.rms_norm_eps) == (4096, 32, 1e-6)
    assert (config.vision.hidden_size, config.vision.grid_size, config.vision.num_hidden_layers) == (1024, 32, 24)
    assert (config.abstractor.num_hidden_layers, config.num_image_rows) == (6, 65)
    assert not hasattr(config.vision, "temperature")
    assert not hasattr(config.vision, "projection_dim")


def test_a_saved_config_reads_back_equal_and_keeps_the_published_nesting(tmp_path: Path, config: Any) -> None:
    config.save_pretrained(tmp_path)

    written = json.loads((tmp_path / "config.json").read_text())
    again = MPLUGOwl2Config.from_pretrained(tmp_path)

    assert written["visual_config"]["visual_model"]["patch_size"] == 7
    assert again.vision.to_dict() == config.vision.to_dict()
    assert again.abstractor.to_dict() == config.abstractor.to_dict()
    assert again.num_image_rows == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_key_value_heads": 2}, "grouped-query attention"),
        ({"attention_bias": True}, "attention_bias"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "dynamic"),
        ({"visual_config": {"visual_abstractor": {"add_v2t_pos_emb": True}}}, "add_v2t_pos_emb"),
        ({"visual_config": {"visual_model": {"use_post_layernorm": False}}}, "use_post_layernorm"),
        ({"visual_config": {"visual_model": {"use_cls_token": False}}}, "use_cls_token"),
        ({"visual_config": {"visual_abstractor": {"grid_size": 16}}}, "grid_size"),
        ({"visual_config": {"visual_model": {"hidden_size": 512}}}, "encoder_hidden_size"),
        ({"hidden_size": 4090}, "multiple"),
    ],
)
def test_a_config_this_model_cannot_compute_is_refused_by_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MPLUGOwl2Config(**change)


def test_linear_rope_scaling_is_accepted(make_config: Callable[..., MPLUGOwl2Config]) -> None:
    config = make_config(rope_scaling={"type": "linear", "factor": 2.0}, rope_theta=10000.0)

    assert config.rope_parameters["rope_type"] == "linear"


def test_parts_are_made_where_transformers_leaves_that_to_the_class(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given transformers before 5.20, which does nothing with these
    for class_ in (MPLUGOwl2Config, type(MPLUGOwl2Config().visual_config)):
        monkeypatch.setattr(class_, "sub_configs_defaults", {})

    config = MPLUGOwl2Config.from_dict(published())

    assert (config.vision.image_size, config.abstractor.grid_size, config.num_image_rows) == (448, 32, 65)
    assert MPLUGOwl2Config().vision.hidden_size == 1024

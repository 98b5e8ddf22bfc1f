"""engines.owl2_vllm where there is no vLLM: the distribution, what it tells vLLM, and where the weights go."""

import ast
import importlib
import importlib.util
import math
import tomllib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from setuptools import find_packages

pytest.importorskip("torch")
pytest.importorskip("transformers")

from engines.base import EngineOptions, SamplingParams
from engines.http import loading
from engines.owl2.config import IMAGE_TOKEN_ID, MPLUGOwl2Config
from engines.owl2.model import expected_shapes
from engines.owl2.runner import PreparedRequest
from engines.owl2_vllm import plugin
from engines.owl2_vllm.config import engine_arguments, merge_arguments
from engines.owl2_vllm.prompts import expand, image_token_id, mark_rows, picture_keys, salt_of
from engines.owl2_vllm.steps import picks_of
from engines.owl2_vllm.weights import GATE_UP_PARTS, QKV_PARTS, target_of
from engines.runtime.prefix_cache import CacheScope, ImageSpan, TokenSequence

ROOT = Path(__file__).parents[3]
PACKAGE = ROOT / "engines/owl2_vllm"


def project(folder: Path) -> dict:
    return tomllib.loads((folder / "pyproject.toml").read_text())


def small_config(**changes: object) -> MPLUGOwl2Config:
    part = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    return MPLUGOwl2Config(
        **{
            "vocab_size": 50,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": 128,
            "visual_config": {
                "visual_model": {**part, "image_size": 28, "patch_size": 7},
                "visual_abstractor": {**part, "encoder_hidden_size": 16, "num_learnable_queries": 4, "grid_size": 4},
            },
        }
        | changes
    )


# --- the distribution -----------------------------------------------------------------------------------------------


def test_vllm_finds_the_plugin_by_its_entry_point():
    entries = project(PACKAGE)["project"]["entry-points"][plugin.GROUP]

    module, _, function = entries[plugin.NAME].partition(":")

    assert callable(getattr(importlib.import_module(module), function))


def test_the_products_own_wheel_is_without_it():
    found = find_packages(str(ROOT), **project(ROOT)["tool"]["setuptools"]["packages"]["find"])

    assert "engines.owl2" in found
    assert [name for name in found if name.startswith("engines.owl2_vllm")] == []


def test_both_distributions_have_one_version():
    assert project(PACKAGE)["project"]["version"] == project(ROOT)["project"]["version"]


def imported_by(file: Path) -> set[str]:
    """Packages that a module imports at once, not first when they are needed."""
    nodes = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.ImportFrom | ast.Import)]
    names = {name for node in nodes for name in (getattr(node, "module", None), *(each.name for each in node.names))}
    return {name.partition(".")[0] for name in names if name}


def test_only_what_runs_inside_vllm_or_starts_it_imports_it():
    importing = {file.stem for file in PACKAGE.glob("*.py") if "vllm" in imported_by(file)}

    assert importing == {"language", "model", "processor", "serving"}


def test_without_vllm_the_server_says_in_one_line_what_is_missing_and_where_it_is_told(monkeypatch, tmp_path):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "vllm" else find_spec(name))

    with pytest.raises(ValueError) as refusal:
        loading.load_engine("owl2_vllm", EngineOptions(model=str(tmp_path)))

    assert str(refusal.value).startswith("engine 'owl2_vllm' needs vllm, not installed here: see ")
    assert (ROOT / str(refusal.value).split("see ")[1].split()[0]).is_file()


def test_arguments_of_vllm_are_refused_by_an_engine_that_is_not_on_it(tmp_path):
    with pytest.raises(ValueError, match="takes no --vllm-args"):
        loading.load_engine("owl2", EngineOptions(model=str(tmp_path), vllm_args="--tensor-parallel-size 2"))


def test_vllm_without_the_plugin_beside_it_is_refused_before_it_is_started(monkeypatch):
    engine = importlib.import_module("engines.owl2_vllm.engine")
    monkeypatch.setattr(engine, "is_installed", lambda: False)

    with pytest.raises(ValueError, match="glowl-owl2-vllm is not installed"):
        engine.load(EngineOptions(model="somewhere"))


# --- weights --------------------------------------------------------------------------------------------------------


def test_every_tensor_of_a_checkpoint_has_one_place_and_fused_matrices_are_filled_completely():
    shapes = expected_shapes(small_config())
    targets = {name: target_of(name) for name in shapes}

    assert None not in targets.values()
    assert len(set(targets.values())) == len(shapes)
    whole = {target.parameter for target in targets.values() if target.part is None}
    fused: dict[str, set[int]] = {}
    for target in targets.values():
        if target.part is not None:
            fused.setdefault(target.parameter, set()).add(target.part)
    assert not whole & fused.keys()
    assert fused == {
        f"language_model.layers.{layer}.{name}.weight": set(range(len(parts)))
        for layer in range(2)
        for name, parts in (("self_attn.qkv_proj", QKV_PARTS), ("mlp.gate_up_proj", GATE_UP_PARTS))
    }


@pytest.mark.parametrize(
    ("name", "parameter", "part"),
    [
        ("lm_head.weight", "lm_head.weight", None),
        ("model.embed_tokens.weight", "language_model.embed_tokens.weight", None),
        ("model.norm.weight", "language_model.norm.weight", None),
        (
            "model.layers.3.input_layernorm.multiway.1.weight",
            "language_model.layers.3.input_layernorm.multiway.1.weight",
            None,
        ),
        ("model.layers.3.self_attn.o_proj.weight", "language_model.layers.3.self_attn.o_proj.weight", None),
        ("model.layers.3.self_attn.v_proj.multiway.0.weight", "language_model.layers.3.self_attn.qkv_proj.weight", 2),
        ("model.layers.3.self_attn.k_proj.multiway.1.weight", "language_model.layers.3.self_attn.qkv_proj.weight", 3),
        ("model.layers.3.mlp.up_proj.weight", "language_model.layers.3.mlp.gate_up_proj.weight", 1),
        (
            "model.vision_model.encoder.layers.0.self_attn.query_key_value.bias",
            "vision_model.encoder.layers.0.self_attn.query_key_value.bias",
            None,
        ),
    ],
)
def test_places_of_tensors(name, parameter, part):
    assert target_of(name) == (parameter, part)


def test_constants_of_a_file_have_no_place():
    assert target_of("model.layers.0.self_attn.rotary_emb.inv_freq") is None
    assert target_of("model.visual_abstractor.encoder.layers.1.crossattention.attention.k_pos_embed") is None


# --- what vLLM is told ----------------------------------------------------------------------------------------------


def arguments(built_for: str = "cuda", **options: object) -> dict:
    return engine_arguments(EngineOptions(model="m", **options), Path("/models/m"), small_config(), 3, built_for)


def test_the_published_config_is_given_an_architecture_and_text_stays_ours():
    told = arguments()

    assert told["hf_overrides"] == {"architectures": [plugin.ARCHITECTURE]}
    assert told["skip_tokenizer_init"] is True
    assert told["generation_config"] == "vllm"
    assert (told["model"], told["limit_mm_per_prompt"], told["max_model_len"]) == ("/models/m", {"image": 3}, 128)


@pytest.mark.parametrize(
    ("device", "options", "expected"),
    [
        ("cuda", {}, {"dtype": "auto", "max_num_seqs": 64, "enable_prefix_caching": True}),
        ("cpu", {}, {"dtype": "float32", "max_num_seqs": 8}),
        ("cpu", {"dtype": "bfloat16", "max_batch": 3, "device": "cpu"}, {"dtype": "bfloat16", "max_num_seqs": 3}),
        ("cuda", {"cache_bytes": 0, "device": "cuda"}, {"enable_prefix_caching": False}),
    ],
)
def test_our_options_in_vllms_words(device, options, expected):
    assert expected.items() <= arguments(device, **options).items()


@pytest.mark.parametrize(
    ("device", "options", "said"),
    [
        ("cuda", {"quantization": "int8"}, "--vllm-args '--quantization fp8'"),
        ("cuda", {"attn_implementation": "eager"}, "--attn-implementation"),
        ("cpu", {"device": "cuda"}, "built for cpu"),
        ("cuda", {"device": "cuda:1"}, "CUDA_VISIBLE_DEVICES"),
    ],
)
def test_options_that_vllm_has_otherwise_are_refused_by_name(device, options, said):
    with pytest.raises(ValueError, match=said):
        arguments(device, **options)


def test_an_operators_arguments_win_over_ours_where_they_may():
    ours = {"max_num_seqs": 64, "dtype": "auto", "enable_prefix_caching": True, "model": "/m"}
    parsed = {**ours, "max_num_seqs": 5, "tensor_parallel_size": 2, "enable_prefix_caching": False, "dtype": "half"}

    merged = merge_arguments(
        ours, ["--max-num-seqs", "5", "--tensor-parallel-size=2", "--no-enable-prefix-caching"], parsed
    )

    assert merged == {
        "max_num_seqs": 5, "dtype": "auto", "enable_prefix_caching": False, "model": "/m", "tensor_parallel_size": 2
    }  # fmt: skip


def test_an_operator_cannot_change_whose_prompts_and_answers_they_are():
    with pytest.raises(ValueError, match="may not change model"):
        merge_arguments({"model": "/m"}, ["--model", "other"], {"model": "other"})


# --- prompts and steps ----------------------------------------------------------------------------------------------


def prepared(caller: str = "", *, pixel_hash: str = "aa") -> PreparedRequest:
    sequence = TokenSequence([1, 7, 0, 0, 0, 9], [ImageSpan(2, 3, pixel_hash)])
    return PreparedRequest(sequence, [None], 8, SamplingParams(), CacheScope(caller, "m"))


def test_rows_of_pictures_carry_an_id_that_no_text_has():
    config = small_config()

    ids, spans = mark_rows(prepared(), image_token_id(config))

    assert ids == [1, 7, 50, 50, 50, 9]
    assert spans == [(2, 3)]
    assert image_token_id(config) >= config.vocab_size


def test_markers_of_either_kind_become_the_rows_of_a_picture():
    assert expand([1, IMAGE_TOKEN_ID, 5, 50, 6], 2, 50) == ([1, 50, 50, 5, 50, 50, 6], [(1, 2), (4, 2)])
    assert expand([1, 5], 2, 50) == ([1, 5], [])


def test_caches_are_asked_within_the_callers_scope():
    alice, bob = prepared("alice"), prepared("bob")

    assert salt_of(alice.scope) == salt_of(prepared("alice").scope)
    assert salt_of(alice.scope) != salt_of(bob.scope)
    keys = {*picture_keys(alice), *picture_keys(bob), *picture_keys(prepared("alice", pixel_hash="bb"))}
    assert len(keys) == 3


def test_a_steps_log_probabilities_are_the_likeliest_first_and_the_chosen_tokens_own():
    def entry(probability: float, rank: int) -> SimpleNamespace:
        return SimpleNamespace(logprob=math.log(probability), rank=rank)

    found = {7: entry(0.1, 3), 4: entry(0.6, 1), 5: entry(0.2, 2)}

    (pick,) = picks_of([7], [found], 2)
    (alone,) = picks_of([4], [{4: entry(0.6, 1)}], 0)

    assert (pick.token_id, [id_ for id_, _ in pick.top]) == (7, [4, 5])
    assert np.isclose(pick.logprob, math.log(0.1))
    assert (alone.token_id, alone.top) == (4, ())
    assert [each.token_id for each in picks_of([3, 4], None, None)] == [3, 4]

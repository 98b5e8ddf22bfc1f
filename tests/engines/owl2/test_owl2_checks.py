"""engines.owl2.checks, loading and files: both layouts load; what is wrong with a folder is named before that."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from engines.base import EngineOptions
from engines.owl2 import MPLUGOwl2ForConditionalGeneration, MPLUGOwl2Processor
from engines.owl2 import model as model_module
from engines.owl2.checks import read_config
from engines.owl2.engine import load
from engines.owl2.files import CheckpointError, find_weight_files, read_headers
from engines.owl2.loading import check_files, load_model

NORM = "model.layers.1.input_layernorm.multiway.1.weight"
SHARD = "pytorch_model-2-of-12.bin"


def shard_names(count: int) -> list[str]:
    return [f"pytorch_model-{number}-of-{count}.bin" for number in range(1, count + 1)]


def write_bin_shards(folder: Path, tensors: dict[str, torch.Tensor], count: int = 12) -> None:
    """The published layout: shards without zero padding, 16-bit floats, with the constants that some writers add."""
    index: dict[str, str] = {}
    for number, file in enumerate(shard_names(count)):
        names = sorted(tensors)[number::count]
        torch.save({name: tensors[name] for name in names}, folder / file)
        index |= dict.fromkeys(names, file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


@pytest.fixture
def tensors(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.half() for name, tensor in model.state_dict().items()}


@pytest.fixture
def bin_folder(tmp_path: Path, config: Any, tensors: dict[str, torch.Tensor]) -> Path:
    config.save_pretrained(tmp_path)
    write_bin_shards(tmp_path, tensors)
    return tmp_path


@pytest.fixture
def safe_folder(tmp_path: Path, config: Any, tensors: dict[str, torch.Tensor]) -> Path:
    config.save_pretrained(tmp_path)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    return tmp_path


def load_here(folder: Path) -> Any:
    return load_model(folder, dtype=torch.float32, device=torch.device("cpu"), attn_implementation="sdpa")


@pytest.fixture
def no_model_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on a load that gets past the checks fails."""

    def build(*_: object, **__: object) -> None:
        raise AssertionError("transformers began to load")

    base = model_module.MPLUGOwl2PreTrainedModel.__mro__[1]
    monkeypatch.setattr(base, "from_pretrained", classmethod(build))


@pytest.mark.parametrize("with_constants", [False, True])
@pytest.mark.parametrize("layout", ["bin", "safetensors", "sharded safetensors"])
def test_every_layout_gives_the_same_weights(
    tmp_path: Path, config: Any, tensors: dict[str, torch.Tensor], layout: str, with_constants: bool
) -> None:
    config.save_pretrained(tmp_path)
    stored = dict(tensors)
    if with_constants:
        prefix = "model.visual_abstractor.encoder.layers.0.crossattention.attention"
        stored[f"{prefix}.q_pos_embed"] = torch.zeros(4, 16)
        stored["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(4)
    if layout == "bin":
        write_bin_shards(tmp_path, stored)
    elif layout == "safetensors":
        save_file(stored, tmp_path / "model.safetensors", metadata={"format": "pt"})
    else:
        halves = {f"model-0000{part + 1}-of-00002.safetensors": sorted(stored)[part::2] for part in (0, 1)}
        for file, names in halves.items():
            save_file({name: stored[name] for name in names}, tmp_path / file, metadata={"format": "pt"})
        index = {name: file for file, names in halves.items() for name in names}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))

    loaded = load_here(tmp_path)

    assert {name: tensor.dtype for name, tensor in loaded.state_dict().items()} == dict.fromkeys(tensors, torch.float32)
    for name, tensor in loaded.state_dict().items():
        torch.testing.assert_close(tensor, tensors[name].float(), rtol=0, atol=0)


def test_shards_are_found_in_the_order_of_their_numbers(bin_folder: Path) -> None:
    assert [path.name for path in find_weight_files(bin_folder).paths] == shard_names(12)


def test_bin_files_of_torch_before_1_6_load_too(tmp_path: Path, config: Any, tensors: dict[str, torch.Tensor]) -> None:
    config.save_pretrained(tmp_path)
    torch.save(tensors, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)

    loaded = load_here(tmp_path)

    torch.testing.assert_close(loaded.lm_head.weight, tensors["lm_head.weight"].float())


class _RunsCode:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.usefixtures("no_model_is_built")
def test_a_pickle_that_would_run_code_is_refused_and_does_not(bin_folder: Path, is_zip: bool) -> None:
    trace = bin_folder / "ran"
    payload = {NORM: _RunsCode(trace)}
    if is_zip:
        torch.save(payload, bin_folder / SHARD)
    else:
        (bin_folder / SHARD).write_bytes(pickle.dumps(payload, protocol=2))

    with pytest.raises(CheckpointError, match=rf"{SHARD} is refused.*run code"):
        load_here(bin_folder)

    assert not trace.exists()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def change_index(folder: Path, change: Callable[[dict[str, str]], object]) -> None:
    path = folder / "pytorch_model.bin.index.json"
    index = json.loads(path.read_text())
    change(index["weight_map"])
    path.write_text(json.dumps(index))


def change_shard(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    shard = torch.load(folder / SHARD, weights_only=True)
    change(shard)
    torch.save(shard, folder / SHARD)


BAD_BIN_FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a shard is missing": (lambda folder: (folder / SHARD).unlink(), rf"files that are not there: {SHARD}; with .*"),
    "a shard is cut off": (lambda folder: truncate(folder / SHARD), rf"{SHARD} is truncated: \d+ bytes"),
    "a shard is empty": (lambda folder: (folder / SHARD).write_bytes(b""), rf"{SHARD} is truncated or damaged"),
    "a shard is an error page": (
        lambda folder: (folder / SHARD).write_bytes(b"<html>404</html>"),
        rf"{SHARD} is refused: it is damaged",
    ),
    "a shard is no dict": (lambda folder: torch.save([torch.zeros(1)], folder / SHARD), rf"{SHARD} holds list"),
    "a shard holds numbers": (
        lambda folder: change_shard(folder, lambda shard: shard.update(step=3)),
        rf"{SHARD} holds things that are no tensors: step",
    ),
    "a tensor has another shape": (
        lambda folder: change_shard(folder, lambda shard: shard.update({sorted(shard)[0]: torch.zeros(3)})),
        rf"wrong shape: .* \(file \(3,\), model \(.*\); in {SHARD}\)",
    ),
    "a tensor is integers": (
        lambda folder: change_shard(folder, lambda shard: shard.update({k: v.int() for k, v in shard.items()})),
        rf"wrong dtype: .* \(int32; in {SHARD}\)",
    ),
    "a tensor is missing from its shard": (
        lambda folder: change_shard(folder, lambda shard: shard.pop(sorted(shard)[0])),
        rf"not where the index says: .* \(not in {SHARD}\); missing: model\.",
    ),
    "a tensor is in two shards": (
        lambda folder: change_shard(folder, lambda shard: shard.update({"lm_head.weight": torch.zeros(400, 32)})),
        rf"in two files: lm_head.weight \({shard_names(12)[0]}, {SHARD}\)",
    ),
    "a tensor is unknown": (
        lambda folder: change_shard(folder, lambda shard: shard.update({"model.extra": torch.zeros(1)})),
        "not part of this model: model.extra",
    ),
    "the index leaves the folder": (
        lambda folder: change_index(folder, lambda index: index.update({NORM: "../pytorch_model.bin"})),
        "outside its folder: ../pytorch_model.bin",
    ),
    "the index is empty": (lambda folder: change_index(folder, dict.clear), "has no weight_map"),
    "the index has no metadata": (
        lambda folder: (folder / "pytorch_model.bin.index.json").write_text('{"weight_map": {"a": "b.bin"}}'),
        "has no metadata",
    ),
    "the index is no JSON": (
        lambda folder: (folder / "pytorch_model.bin.index.json").write_text("{"),
        "pytorch_model.bin.index.json cannot be read",
    ),
    "the index is gone": (
        lambda folder: (folder / "pytorch_model.bin.index.json").unlink(),
        "has shards .* but neither model.safetensors.index.json nor",
    ),
}


@pytest.mark.parametrize("case", BAD_BIN_FOLDERS)
@pytest.mark.usefixtures("no_model_is_built")
def test_what_is_wrong_with_bin_shards_is_named_before_anything_loads(bin_folder: Path, case: str) -> None:
    spoil, message = BAD_BIN_FOLDERS[case]
    spoil(bin_folder)

    with pytest.raises(CheckpointError, match=message):
        load_here(bin_folder)
    with pytest.raises(CheckpointError, match=message):
        AutoModelForImageTextToText.from_pretrained(bin_folder)


def append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"more")


def with_header(folder: Path, header: bytes) -> None:
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)


BAD_SAFETENSORS: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut off in the weights": (
        lambda folder: truncate(folder / "model.safetensors"),
        r"model.safetensors is truncated: it has \d+ bytes, its header promises \d+",
    ),
    "cut off in the header": (
        lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:100]),
        "model.safetensors is truncated or no safetensors file: 100 bytes",
    ),
    "empty": (lambda folder: (folder / "model.safetensors").write_bytes(b""), "truncated or no safetensors .* 0 bytes"),
    "too long": (
        lambda folder: append(folder / "model.safetensors"),
        "model.safetensors is damaged",
    ),
    "a header that is no JSON": (lambda folder: with_header(folder, b"{a}"), "no readable safetensors header"),
    "a header of something else": (lambda folder: with_header(folder, b'{"a":1}'), "no readable safetensors header"),
    "no weights at all": (lambda folder: (folder / "model.safetensors").unlink(), "no weights: none of model.safe"),
}


@pytest.mark.parametrize("case", BAD_SAFETENSORS)
@pytest.mark.usefixtures("no_model_is_built")
def test_what_is_wrong_with_safetensors_is_named_before_anything_loads(safe_folder: Path, case: str) -> None:
    spoil, message = BAD_SAFETENSORS[case]
    spoil(safe_folder)

    with pytest.raises(CheckpointError, match=message):
        load_here(safe_folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values.pop("num_attention_heads"), "missing in the top level: num_attention_heads"),
        (lambda values: values.pop("visual_config"), "missing in the top level: visual_config"),
        (
            lambda values: values["visual_config"]["visual_model"].pop("patch_size"),
            r"missing in visual_config.visual_model: patch_size",
        ),
        (lambda values: values.update(visual_config=[]), "visual_config must be an object"),
        (lambda values: values.update(num_key_value_heads=2), "grouped-query attention is not supported"),
        (lambda values: values.update(hidden_size="32"), "hidden_size in the top level must be a positive number"),
        (lambda values: values.update(num_attention_heads=0), "num_attention_heads in the top level must be"),
        (lambda values: values.update(model_type="mplug_owl2_1"), "model_type is 'mplug_owl2_1', not 'mplug_owl2'"),
        (lambda values: values.update(intermediate_size=64), r"wrong shape: model.layers.0.mlp.down_proj.weight"),
        (lambda values: values.update(num_hidden_layers=4), r"missing: model.layers.3"),
        (lambda values: values.update(num_hidden_layers=2), r"not part of this model: model.layers.2"),
    ],
)
@pytest.mark.usefixtures("no_model_is_built")
def test_a_config_that_does_not_fit_is_named_before_anything_loads(
    safe_folder: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    values = json.loads((safe_folder / "config.json").read_text())
    change(values)
    (safe_folder / "config.json").write_text(json.dumps(values))

    with pytest.raises(CheckpointError, match=message):
        load_here(safe_folder)


@pytest.mark.parametrize("content", [None, "", "[]", "{"])
def test_a_folder_without_a_readable_config_is_refused(safe_folder: Path, content: str | None) -> None:
    if content is None:
        (safe_folder / "config.json").unlink()
    else:
        (safe_folder / "config.json").write_text(content)

    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_here(safe_folder)


def test_tied_embeddings_may_be_stored_once(tmp_path: Path, make_config: Callable[..., Any]) -> None:
    model = MPLUGOwl2ForConditionalGeneration(make_config(tie_word_embeddings=True))
    model.save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")

    loaded = load_here(tmp_path)

    torch.testing.assert_close(loaded.lm_head.weight, model.model.embed_tokens.weight)


def test_the_check_lists_what_is_to_be_loaded_with_its_file(bin_folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    headers = check_files(bin_folder, read_config(bin_folder))

    assert {name: header.shape for name, header in headers.items()} == {
        name: tuple(tensor.shape) for name, tensor in tensors.items()
    }
    assert {header.dtype for header in headers.values()} == {"float16"}
    assert read_headers(bin_folder / SHARD).keys() == {
        name for name, header in headers.items() if header.file.name == SHARD
    }


@pytest.mark.parametrize(("stored", "used"), [("pad", "pad"), ("resize", "resize"), (None, "pad"), ("anyres", "none")])
def test_an_adapted_checkpoint_says_how_its_pictures_are_squared(
    bin_folder: Path, checkpoint: Path, stored: str | None, used: str
) -> None:
    values = json.loads((bin_folder / "config.json").read_text()) | {"image_aspect_ratio": stored}
    (bin_folder / "config.json").write_text(json.dumps(values))
    for name in ("tokenizer.model", "tokenizer_config.json", "preprocessor_config.json"):
        (bin_folder / name).write_bytes((checkpoint / name).read_bytes())

    assert MPLUGOwl2Processor.from_pretrained(bin_folder).aspect_ratio == used


async def test_the_engine_tells_a_bad_checkpoint_by_its_file(bin_folder: Path) -> None:
    truncate(bin_folder / SHARD)
    engine = load(EngineOptions(str(bin_folder), device="cpu"))

    with pytest.raises(CheckpointError, match=SHARD):
        await engine.start()
    await engine.aclose()

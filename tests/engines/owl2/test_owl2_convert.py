"""engines.owl2.convert: the output equals the input, an interrupted run goes on, and damage is told."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from engines.base import EngineOptions, GenerationRequest, Message, SamplingParams, TextPart, generate
from engines.owl2 import convert as convert_module
from engines.owl2.checks import read_config
from engines.owl2.convert import MANIFEST, Progress, convert, main, parse_size, plan_shards
from engines.owl2.engine import load
from engines.owl2.files import CheckpointError, TensorHeader, find_weight_files, open_tensors
from engines.owl2.loading import check_files, load_model

GOLDEN = Path(__file__).parents[4] / "shared" / "golden" / "owl2" / "checkpoint_bin"
NUM_SHARDS = 3
SMALL = 40_000
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def tensors(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.half() for name, tensor in model.state_dict().items()}


@pytest.fixture
def source(tmp_path: Path, config: Any, tensors: dict[str, torch.Tensor]) -> Path:
    """A folder like the published one: .bin shards, constants among them, side files, and things to leave behind."""
    folder = tmp_path / "source"
    folder.mkdir()
    config.save_pretrained(folder)
    stored = dict(tensors)
    prefix = "model.visual_abstractor.encoder.layers.0.crossattention.attention"
    stored[f"{prefix}.q_pos_embed"] = torch.zeros(4, 16)
    stored["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(4)
    index: dict[str, str] = {}
    for number in range(NUM_SHARDS):
        file = f"pytorch_model-{number + 1}-of-{NUM_SHARDS}.bin"
        names = sorted(stored)[number::NUM_SHARDS]
        torch.save({name: stored[name] for name in names}, folder / file)
        index |= dict.fromkeys(names, file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    (folder / "tokenizer.model").write_bytes(b"pieces")
    (folder / "README.md").write_text("card")
    (folder / "training_args.bin").write_bytes(b"a pickle")
    (folder / "glowl.json").write_text('{"variant": "random-tiny"}')
    return folder


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "target"


def read_all(folder: Path) -> dict[str, torch.Tensor]:
    read: dict[str, torch.Tensor] = {}
    for path in find_weight_files(folder).paths:
        read |= load_file(path)
    return read


def test_every_tensor_is_kept_and_constants_are_left_behind(
    source: Path, target: Path, tensors: dict[str, torch.Tensor]
) -> None:
    report = convert(source, target, max_shard_bytes=SMALL)

    written = read_all(target)
    assert written.keys() == tensors.keys()
    assert all(torch.equal(written[name], tensors[name]) for name in tensors)
    assert (report.num_tensors, report.num_shards, report.is_exact) == (
        len(tensors),
        len(list(target.glob("*.safetensors"))),
        True,
    )
    assert report.num_shards > 1
    assert all(path.stat().st_size < SMALL + 10_000 for path in target.glob("*.safetensors"))


def test_side_files_come_along_and_pickles_do_not(source: Path, target: Path) -> None:
    convert(source, target)

    names = {path.name for path in target.iterdir()}
    assert names == {
        "README.md",
        "config.json",
        "conversion.json",
        "glowl.json",
        "model-00001-of-00001.safetensors",
        "model.safetensors.index.json",
        "tokenizer.model",
    }
    assert (target / "config.json").read_bytes() == (source / "config.json").read_bytes()


def test_the_output_loads_in_the_engine_and_through_the_auto_class(
    source: Path, target: Path, tensors: dict[str, torch.Tensor]
) -> None:
    convert(source, target, max_shard_bytes=SMALL)

    own = load_model(target, dtype=torch.float32, device=torch.device("cpu"), attn_implementation="sdpa")
    auto = AutoModelForImageTextToText.from_pretrained(target, dtype=torch.float32)

    for loaded in (own, auto):
        assert all(torch.equal(value, tensors[name].float()) for name, value in loaded.state_dict().items())


def test_another_dtype_is_cast_to_and_noted_in_the_config(
    source: Path, target: Path, tensors: dict[str, torch.Tensor]
) -> None:
    report = convert(source, target, dtype="bfloat16")

    assert not report.is_exact
    assert all(torch.equal(value, tensors[name].bfloat16()) for name, value in read_all(target).items())
    config = json.loads((target / "config.json").read_text())
    assert (config["torch_dtype"], "dtype" in config) == ("bfloat16", False)


class StopAfter(Progress):
    """Ends a run while it writes its Nth shard, as Ctrl-C or a kill would."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, num_shards: int) -> None:
        write, self.num_written = convert_module.save_file, 0

        def save_file(tensors: Any, path: Path, **options: Any) -> None:
            if self.num_written == num_shards:
                path.write_bytes(b"half of it")
                raise KeyboardInterrupt
            self.num_written += 1
            write(tensors, path, **options)

        monkeypatch.setattr(convert_module, "save_file", save_file)


def test_an_interrupted_run_goes_on_with_what_is_not_finished(
    source: Path, target: Path, tensors: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a run that ended in the middle of its third shard
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        convert(source, target, max_shard_bytes=SMALL, progress=StopAfter(patch, 2))
    assert not (target / "config.json").exists()
    finished = {path: path.stat().st_mtime_ns for path in target.glob("model-*.safetensors")}
    assert len(finished) == 2
    # and of whose shards the second was damaged afterwards, at the same size
    damaged = sorted(finished)[1]
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\xff")

    # When the same command runs again
    report = convert(source, target, max_shard_bytes=SMALL)

    # Then only the intact one is kept, and the result is whole
    kept = sorted(finished)[0]
    assert (report.num_kept, kept.stat().st_mtime_ns) == (1, finished[kept])
    written = read_all(target)
    assert all(torch.equal(written[name], tensors[name]) for name in tensors)
    assert not list(target.glob(".*"))


def test_a_finished_conversion_is_only_verified_again(source: Path, target: Path) -> None:
    first = convert(source, target, max_shard_bytes=SMALL)
    before = {path: path.stat().st_mtime_ns for path in target.glob("model-*.safetensors")}

    again = convert(source, target, max_shard_bytes=SMALL)

    assert again.num_kept == first.num_shards
    assert {path: path.stat().st_mtime_ns for path in target.glob("model-*.safetensors")} == before


def test_what_does_not_read_back_as_it_was_written_is_an_error(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = convert_module.save_file

    def flip_a_bit(tensors: dict[str, torch.Tensor], path: Path, **options: Any) -> None:
        name = sorted(tensors)[0]
        tensors[name].view(torch.int16).reshape(-1)[0] ^= 1
        write(tensors, path, **options)

    monkeypatch.setattr(convert_module, "save_file", flip_a_bit)

    with pytest.raises(CheckpointError, match=r"model-00001-of-00001\.safetensors: lm_head.weight does not read back"):
        convert(source, target)
    assert not (target / "config.json").exists()


def test_a_target_with_something_else_is_not_touched(source: Path, target: Path, tmp_path: Path) -> None:
    target.mkdir()
    (target / "precious.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="not empty"):
        convert(source, target)
    with pytest.raises(CheckpointError, match="same folder"):
        convert(source, source)
    with pytest.raises(CheckpointError, match="not a folder"):
        convert(source, target / "precious.txt")
    assert [path.name for path in target.iterdir()] == ["precious.txt"]


@pytest.mark.parametrize("change", ["another dtype", "another shard size", "other source files"])
def test_shards_of_another_conversion_are_not_mixed_in(source: Path, target: Path, change: str) -> None:
    convert(source, target, max_shard_bytes=SMALL)
    options: dict[str, Any] = {"max_shard_bytes": SMALL}
    if change == "another dtype":
        options["dtype"] = "float32"
    elif change == "another shard size":
        options["max_shard_bytes"] = 2 * SMALL
    else:
        path = source / f"pytorch_model-1-of-{NUM_SHARDS}.bin"
        shard = torch.load(path, weights_only=True)
        torch.save({**shard, "model.layers.1.self_attn.rotary_emb.inv_freq": torch.zeros(4)}, path)

    with pytest.raises(CheckpointError, match="other files, or with other options"):
        convert(source, target, **options)


def test_a_full_disk_is_told_before_a_shard_is_written(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, 1000))

    with pytest.raises(CheckpointError, match=r"not enough disk for .*target: .* GB to write"):
        convert(source, target)
    assert not list(target.glob("*.safetensors"))


def test_an_incomplete_source_is_named_and_nothing_is_made(source: Path, target: Path) -> None:
    (source / f"pytorch_model-2-of-{NUM_SHARDS}.bin").unlink()

    with pytest.raises(CheckpointError, match=f"pytorch_model-2-of-{NUM_SHARDS}.bin"):
        convert(source, target)
    assert not target.exists()


def test_shards_are_filled_in_order_up_to_the_bound() -> None:
    headers = [
        TensorHeader(name, (size,), "float16", Path("a.bin")) for name, size in zip("abcd", (4, 4, 20, 1), strict=True)
    ]

    shards = plan_shards(headers, "keep", 16)

    assert [[header.name for header in shard.tensors] for shard in shards] == [["a", "b"], ["c"], ["d"]]
    assert [shard.num_bytes for shard in shards] == [16, 40, 2]
    assert shards[2].name == "model-00003-of-00003.safetensors"
    assert len(plan_shards(headers, "float32", 16)) == 4


@pytest.mark.parametrize(
    ("text", "size"), [("2GB", 2 * 10**9), ("1.5 MB", 1_500_000), ("500k", 500_000), ("123", 123), ("10b", 10)]
)
def test_sizes_are_written_with_units_of_ten(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "2GiB", "0", "0.1"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no size"):
        parse_size(text)


def test_the_command_says_how_far_it_is_and_what_it_proved(
    source: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(source), str(target), "--max-shard-size", "40KB"]) == 0
    told = capsys.readouterr()
    assert "every tensor equal to the source's" in told.out
    assert "converting: 100 %" in told.err
    assert "verifying: 100 %" in told.err

    assert main([str(source), str(target), "--max-shard-size", "1ton"]) == 1
    assert capsys.readouterr().err.startswith("error: '1ton' is no size")
    assert main([str(source / "nowhere"), str(target)]) == 1
    assert "no checkpoint folder" in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_process_leaves_a_folder_that_the_next_one_completes(source: Path, target: Path) -> None:
    # Given a process that kills itself, uncatchably, when its second shard has its name
    script = (
        "import os, signal, sys\n"
        "from engines.owl2 import convert\n"
        "replace, count = os.replace, [0]\n"
        "def kill_after_second(a, b):\n"
        "    replace(a, b)\n"
        "    count[0] += str(b).endswith('.safetensors')\n"
        "    if count[0] == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "os.replace = kill_after_second\n"
        "convert.main(sys.argv[1:])\n"
    )
    arguments = [str(source), str(target), "--max-shard-size", str(SMALL)]
    killed = subprocess.run([sys.executable, "-c", script, *arguments], check=False, capture_output=True)
    assert killed.returncode == -9

    report = convert(source, target, max_shard_bytes=SMALL)

    # The second had its name but was not yet written down as finished.
    assert report.num_kept == 1
    assert json.loads((target / MANIFEST).read_text())["is_complete"]


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="the golden data is not here")
def test_the_golden_shards_convert_to_equal_weights(target: Path) -> None:
    convert(GOLDEN, target, max_shard_bytes=100_000)

    before, after = check_files(GOLDEN, read_config(GOLDEN)), check_files(target, read_config(target))
    assert before.keys() == after.keys()
    for name in before:
        with open_tensors(before[name].file) as get_before, open_tensors(after[name].file) as get_after:
            assert torch.equal(get_before(name), get_after(name))


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="the golden data is not here")
async def test_the_engine_answers_from_converted_shards_as_from_the_originals(target: Path) -> None:
    convert(GOLDEN, target, max_shard_bytes=100_000)
    request = GenerationRequest((Message("user", (TextPart("What is it?"),)),), SamplingParams(max_tokens=4))
    texts = []
    for folder in (GOLDEN, target):
        engine = load(EngineOptions(str(folder), device="cpu"))
        await engine.start()
        texts.append((await generate(engine, request)).text)
        await engine.aclose()

    assert texts[0] == texts[1] != ""

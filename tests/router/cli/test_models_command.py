"""`glowl models`: what is found where, and what the converter is started with."""

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from router.cli import models, models_command
from router.cli.main import app
from router.cli.models_command import find_checkpoints


def write_checkpoint(folder: Path, variant: str | None) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"x" * 1000)
    if variant is not None:
        (folder / "glowl.json").write_text(variant)


def write_blob(cache: Path, engine: str, share: float) -> Path:
    """A download of that share; the file is sparse and takes no disk."""
    model = models.FULL_MODELS[engine]
    blob = cache / f"models--{model.hub_id.replace('/', '--')}" / "blobs" / "abc"
    blob.parent.mkdir(parents=True)
    with blob.open("wb") as file:
        file.truncate(int(model.size_bytes * share))
    return blob


def test_every_place_is_looked_at_and_variants_are_read(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    cache, pocket = tmp_path / "hub", tmp_path / "pocket"
    write_checkpoint(models.random_dir(tmp_path) / "glm", '{"variant": "random-tiny"}')
    write_checkpoint(pocket / "owl2", "no json")
    blob = write_blob(cache, "owl2", 1.0)
    snapshot = blob.parent.parent / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    for file in ("config.json", "tokenizer.model"):
        (snapshot / file).write_text("{}")
    (snapshot / "pytorch_model.bin").symlink_to(blob)
    write_blob(cache, "glm", 0.25)

    found = {(one.choice, one.engine): one for one in find_checkpoints(tmp_path, pocket)}

    assert len(found) == 6
    random = found["random", "glm"]
    assert (random.variant, random.num_bytes) == ("random-tiny", 1000 + 2 + len('{"variant": "random-tiny"}'))
    assert found["pocket", "owl2"].variant == "?"
    assert found["pocket", "glm"].variant == ""
    assert (found["full", "owl2"].variant, found["full", "owl2"].missing_bytes) == ("full", 0)
    partial = found["full", "glm"]
    assert (partial.variant, partial.num_bytes + partial.missing_bytes) == ("", models.FULL_MODELS["glm"].size_bytes)


def test_a_folder_that_says_nothing_is_the_full_model(tmp_path):
    write_checkpoint(tmp_path / "glm", None)

    assert models.read_variant(tmp_path / "glm") == "full"


@pytest.mark.parametrize(("lang", "words"), [("en", ("not here", "downloaded")), ("zh", ("不在本机", "已下载"))])
def test_the_list_has_a_line_per_checkpoint_with_an_unbroken_path(tmp_path, monkeypatch, lang, words):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    write_checkpoint(models.random_dir(tmp_path) / "owl2", json.dumps({"variant": "random-tiny"}))
    write_blob(tmp_path / "hub", "glm", 0.5)

    result = CliRunner().invoke(app, ["models", "list", "--data-dir", str(tmp_path), "--lang", lang])

    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert len(lines) == 6
    assert lines[3].startswith("random  owl2  random-tiny")
    assert lines[3].endswith(str(models.random_dir(tmp_path) / "owl2"))
    assert all(word in result.stdout for word in words)
    assert "10.3 GB" in lines[4]
    assert "20.6 GB" in lines[4]


def test_converting_becomes_a_process_that_a_folder_named_engines_cannot_shadow(monkeypatch, tmp_path):
    started = []
    monkeypatch.setattr(models_command, "has_engine_packages", lambda: True)
    monkeypatch.setattr(models_command.os, "execv", lambda path, argv: started.append(argv))
    target = str(tmp_path / "out")

    result = CliRunner().invoke(
        app, ["models", "convert", "-", target, "--dtype", "bfloat16", "--max-shard-size", "1GB"]
    )

    assert result.exit_code == 0
    expected = ["-P", "-m", "engines.owl2.convert", "--dtype=bfloat16", "--max-shard-size=1GB", "--", "-", target]
    assert started == [[sys.executable, *expected]]


def test_converting_needs_torch_and_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(models_command, "has_engine_packages", lambda: False)

    result = CliRunner().invoke(app, ["models", "convert", "somewhere", str(tmp_path)])

    assert (result.exit_code, "glowl[engines]" in result.stderr) == (1, True)


def test_an_unknown_dtype_is_wrong_usage(tmp_path):
    result = CliRunner().invoke(app, ["models", "convert", "somewhere", str(tmp_path), "--dtype", "int8"])

    assert (result.exit_code, "int8" in result.stderr) == (2, True)

"""Which weights `up` picks, and what it believes is already downloaded."""

from pathlib import Path

import pytest

from engines.hub.names import ModelName, model_dir, place_of
from router.cli.models import (
    FULL_MODELS,
    GB,
    bytes_to_download,
    default_choice,
    existing_parent,
    full_name,
    plan,
    present_models,
    random_dir,
    record_full,
)


def write_checkpoints(directory: Path, *names: str) -> None:
    for name in names:
        (directory / name).mkdir(parents=True)
        (directory / name / "config.json").write_text("{}")


def write_blob(cache: Path, name: ModelName, blob: str, size: int) -> None:
    """A sparse file: it takes no disk."""
    blobs = cache / f"models--{name.repo.replace('/', '--')}" / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    with (blobs / blob).open("wb") as file:
        file.truncate(size)


def test_pocket_is_the_default_only_with_both_checkpoints(tmp_path):
    assert default_choice(tmp_path) == "random"
    write_checkpoints(tmp_path, "glm")
    assert default_choice(tmp_path) == "random"
    write_checkpoints(tmp_path, "owl2")
    assert default_choice(tmp_path) == "pocket"


def test_each_choice_gives_each_engine_its_model(tmp_path):
    assert plan("echo", tmp_path).models == {"glm": "echo", "owl2": "echo"}
    assert plan("random", tmp_path).models == {
        "glm": str(random_dir(tmp_path) / "glm"),
        "owl2": str(random_dir(tmp_path) / "owl2"),
    }


def test_full_is_the_revision_that_was_downloaded_last(tmp_path):
    assert str(full_name("glm", tmp_path)) == "zai-org/GLM-4.6V-Flash"
    assert str(full_name("owl2", tmp_path, "modelscope")) == "modelscope:iic/mPLUG-Owl2"
    record_full("glm", ModelName("zai-org/GLM-4.6V-Flash", revision="a" * 40), tmp_path)
    record_full("owl2", ModelName("iic/mPLUG-Owl2", "modelscope", "master"), tmp_path)
    assert full_name("glm", tmp_path).revision == "a" * 40
    assert str(full_name("owl2", tmp_path)) == "modelscope:iic/mPLUG-Owl2@master"
    # Another hub is another download
    assert str(full_name("glm", tmp_path, "modelscope")) == "modelscope:ZhipuAI/GLM-4.6V-Flash"
    # And a record that cannot be read is none
    (tmp_path / "models" / "full.json").write_text("[]")
    assert full_name("glm", tmp_path).revision == ""


@pytest.fixture
def cache(monkeypatch, tmp_path) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_finished_files_and_parts_that_are_resumed_count_and_no_others(tmp_path, cache):
    name, size = FULL_MODELS["glm"].names["huggingface"], FULL_MODELS["glm"].size_bytes
    assert bytes_to_download("glm", name) == size
    write_blob(cache, name, "a" * 64, 10 * GB)
    write_blob(cache, name, "b" * 64 + ".glowl.incomplete", 5 * GB)
    write_blob(cache, name, "c" * 64 + ".1a2b3c4d.incomplete", 3 * GB)  # nobody goes on with this
    assert bytes_to_download("glm", name) == size - 15 * GB


def test_present_counts_only_what_is_whole(tmp_path, cache):
    data_dir, pocket = tmp_path / "data", tmp_path / "pocket"
    assert present_models(data_dir, pocket) == []
    write_checkpoints(pocket, "glm", "owl2")
    write_checkpoints(random_dir(data_dir), "glm", "owl2")
    assert present_models(data_dir, pocket) == ["pocket", "random"]
    # As many bytes as both models have, but of no snapshot
    for model in FULL_MODELS.values():
        write_blob(cache, model.names["huggingface"], "d" * 64, model.size_bytes)
    assert present_models(data_dir, pocket) == ["pocket", "random"]
    # Snapshots, in one of which a shard is a link to nothing
    for model in FULL_MODELS.values():
        folder = model_dir(model.names["huggingface"], place_of("huggingface")) / "snapshots" / ("e" * 40)
        folder.mkdir(parents=True)
        for file in ("config.json", "tokenizer.json"):
            (folder / file).write_text("{}")
        (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "one", "b": "two"}}')
        (folder / "one").write_text("weights")
        (folder / "two").symlink_to(tmp_path / "later")
    assert present_models(data_dir, pocket) == ["pocket", "random"]
    (tmp_path / "later").write_text("weights")
    assert present_models(data_dir, pocket) == ["pocket", "random", "full"]


def test_free_space_is_asked_of_the_nearest_folder_that_exists(tmp_path):
    assert existing_parent(tmp_path / "a" / "b") == tmp_path

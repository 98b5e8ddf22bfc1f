"""Which weights `up` picks, and what it believes is already downloaded."""

from pathlib import Path

import pytest

from router.cli.models import (
    FULL_MODELS,
    HubModel,
    bytes_to_download,
    default_choice,
    existing_parent,
    hub_cache_dir,
    plan,
    present_models,
    random_dir,
)


def write_checkpoints(directory: Path, *names: str) -> None:
    for name in names:
        (directory / name).mkdir(parents=True)
        (directory / name / "config.json").write_text("{}")


def write_blob(cache: Path, model: HubModel, size: int) -> None:
    blobs = cache / f"models--{model.hub_id.replace('/', '--')}" / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    with (blobs / "blob").open("wb") as blob:
        blob.truncate(size)


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
    assert plan("full", tmp_path).models == {
        "glm": "zai-org/GLM-4.6V-Flash",
        "owl2": "MAGAer13/mplug-owl2-llama2-7b",
    }


@pytest.mark.parametrize(
    ("num_gpus", "devices"),
    [(0, {}), (1, {}), (2, {"glm": "cuda:0", "owl2": "cuda:1"}), (8, {"glm": "cuda:0", "owl2": "cuda:1"})],
)
def test_full_models_share_one_gpu_and_split_over_two(tmp_path, num_gpus, devices):
    assert plan("full", tmp_path, num_gpus=num_gpus).devices == devices


def test_the_hub_cache_follows_the_hub_clients_variables():
    assert hub_cache_dir({"HF_HUB_CACHE": "/a", "HF_HOME": "/b"}) == Path("/a")
    assert hub_cache_dir({"HF_HOME": "/b", "XDG_CACHE_HOME": "/c"}) == Path("/b/hub")
    assert hub_cache_dir({"XDG_CACHE_HOME": "/c"}) == Path("/c/huggingface/hub")
    assert hub_cache_dir({}) == Path.home() / ".cache/huggingface/hub"


def test_an_interrupted_download_counts_and_a_rounding_difference_does_not(tmp_path):
    model = HubModel("org/name", 1_000_000)
    assert bytes_to_download(model, tmp_path) == 1_000_000
    write_blob(tmp_path, model, 400_000)
    assert bytes_to_download(model, tmp_path) == 600_000
    write_blob(tmp_path, model, 990_000)
    assert bytes_to_download(model, tmp_path) == 0
    write_blob(tmp_path, model, 1_100_000)
    assert bytes_to_download(model, tmp_path) == 0


def test_what_is_present_is_named(tmp_path):
    cache, data_dir, pocket = tmp_path / "cache", tmp_path / "data", tmp_path / "pocket"
    assert present_models(data_dir, cache, pocket) == []
    write_checkpoints(pocket, "glm", "owl2")
    write_checkpoints(random_dir(data_dir), "glm", "owl2")
    # Sparse files: no disk is used.
    for model in FULL_MODELS.values():
        write_blob(cache, model, model.size_bytes)
    assert present_models(data_dir, cache, pocket) == ["pocket", "random", "full"]


def test_free_space_is_asked_of_the_nearest_folder_that_exists(tmp_path):
    assert existing_parent(tmp_path / "a" / "b") == tmp_path

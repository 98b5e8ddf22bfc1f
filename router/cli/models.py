"""Which weights `glowl up` gives its two engines, and which of them are already here.

In: the value of ``--models``, the installed package, the data folder, the Hugging Face cache. Out: a `ModelPlan` with
what each engine's ``--model`` gets. Looks at files only: loading is the engines' business.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Literal, get_args

ModelChoice = Literal["pocket", "random", "echo", "full"]
MODEL_CHOICES: tuple[ModelChoice, ...] = get_args(ModelChoice)
ENGINE_NAMES = ("glm", "owl2")

GB = 1_000_000_000
# bfloat16 weights of both, their caches and pictures, side by side on one device.
FULL_MEMORY_GB = 44.0


@dataclass(frozen=True, slots=True)
class HubModel:
    """A checkpoint on the Hugging Face hub and the size of its download."""

    hub_id: str
    size_bytes: int


FULL_MODELS: dict[str, HubModel] = {
    "glm": HubModel("zai-org/GLM-4.6V-Flash", 20_600_000_000),
    "owl2": HubModel("MAGAer13/mplug-owl2-llama2-7b", 16_400_000_000),
}


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """What the engines will load.

    Attributes:
        choice: as in ``--models``.
        models: engine name to folder, hub id or ``echo``.
        devices: engine name to device, where the engines' own choice would be worse.
    """

    choice: ModelChoice
    models: Mapping[str, str]
    devices: Mapping[str, str]


def pocket_dir() -> Path:
    """The trained pocket checkpoints inside the package, present or not."""
    return Path(str(files("engines"))) / "pocket" / "weights"


def random_dir(data_dir: Path) -> Path:
    """Where the random checkpoints are kept."""
    return data_dir / "models" / "random-tiny"


def has_checkpoints(directory: Path) -> bool:
    """Whether there is a checkpoint folder for each engine."""
    return all((directory / name / "config.json").is_file() for name in ENGINE_NAMES)


def default_choice(pocket: Path | None = None) -> ModelChoice:
    """``pocket`` where the package carries the trained checkpoints, else ``random``."""
    return "pocket" if has_checkpoints(pocket or pocket_dir()) else "random"


def plan(choice: ModelChoice, data_dir: Path, *, num_gpus: int = 0) -> ModelPlan:
    """What each engine loads for that choice; looks at nothing.

    Args:
        choice: as in ``--models``.
        data_dir: where random checkpoints are kept.
        num_gpus: with two or more, the full models get one each.
    """
    if choice == "echo":
        return ModelPlan(choice, dict.fromkeys(ENGINE_NAMES, "echo"), {})
    if choice == "full":
        devices = {"glm": "cuda:0", "owl2": "cuda:1"} if num_gpus >= 2 else {}
        return ModelPlan(choice, {name: model.hub_id for name, model in FULL_MODELS.items()}, devices)
    directory = pocket_dir() if choice == "pocket" else random_dir(data_dir)
    return ModelPlan(choice, {name: str(directory / name) for name in ENGINE_NAMES}, {})


def hub_cache_dir(environ: Mapping[str, str] | None = None) -> Path:
    """Where the Hugging Face hub client keeps downloads, by its own variables."""
    environ = os.environ if environ is None else environ
    if cache := environ.get("HF_HUB_CACHE"):
        return Path(cache).expanduser()
    if home := environ.get("HF_HOME"):
        return Path(home).expanduser() / "hub"
    base = Path(environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return base / "huggingface" / "hub"


def hub_model_dir(model: HubModel, cache: Path) -> Path:
    """Where the hub client keeps that model: ``blobs`` with the files, ``snapshots`` with links to them."""
    return cache / f"models--{model.hub_id.replace('/', '--')}"


def bytes_to_download(model: HubModel, cache: Path) -> int:
    """How much of a hub model is not in the cache yet; interrupted downloads count, since they are resumed."""
    blobs = hub_model_dir(model, cache) / "blobs"
    try:
        have = sum(blob.stat().st_size for blob in blobs.iterdir())
    except OSError:
        have = 0
    missing = max(0, model.size_bytes - have)
    # Published sizes are rounded.
    return missing if missing > model.size_bytes // 50 else 0


def present_models(data_dir: Path, cache: Path, pocket: Path | None = None) -> list[str]:
    """The choices of ``--models`` (``echo`` apart) that would need nothing made or downloaded."""
    present: list[str] = []
    if has_checkpoints(pocket or pocket_dir()):
        present.append("pocket")
    if has_checkpoints(random_dir(data_dir)):
        present.append("random")
    if all(bytes_to_download(model, cache) == 0 for model in FULL_MODELS.values()):
        present.append("full")
    return present


def existing_parent(path: Path) -> Path:
    """The folder itself or its nearest ancestor that exists: where free space can be asked for."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path

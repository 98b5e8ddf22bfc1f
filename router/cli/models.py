"""Which weights `glowl up` gives its two engines, and which of them are already here.

In: the value of ``--models``, the installed package, the data folder, the hubs' caches. Out: a `ModelPlan` with
what each engine's ``--model`` gets. Looks at files only: loading is the engines' business.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Literal, get_args

from engines.hub.names import Hub, ModelName, model_dir, place_of
from engines.hub.snapshots import PART, Snapshot, find_snapshot
from router.cli.common import write_atomically

ModelChoice = Literal["pocket", "random", "echo", "full"]
MODEL_CHOICES: tuple[ModelChoice, ...] = get_args(ModelChoice)
ENGINE_NAMES = ("glm", "owl2")

GB = 1_000_000_000


@dataclass(frozen=True, slots=True)
class FullModel:
    """One of the real checkpoints.

    Attributes:
        names: what it is called on each hub.
        size_bytes: of its download, about.
    """

    names: Mapping[Hub, ModelName]
    size_bytes: int

    @property
    def hub_id(self) -> str:
        """Its id on the Hugging Face hub."""
        return self.names["huggingface"].repo


FULL_MODELS: dict[str, FullModel] = {
    "glm": FullModel(
        {
            "huggingface": ModelName("zai-org/GLM-4.6V-Flash"),
            "modelscope": ModelName("ZhipuAI/GLM-4.6V-Flash", "modelscope"),
        },
        20_600_000_000,
    ),
    "owl2": FullModel(
        {
            "huggingface": ModelName("MAGAer13/mplug-owl2-llama2-7b"),
            "modelscope": ModelName("iic/mPLUG-Owl2", "modelscope"),
        },
        16_400_000_000,
    ),
}


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """What the engines will load.

    Attributes:
        choice: as in ``--models``.
        models: engine name to folder, or ``echo``.
        devices: engine name to device, where the engines' own choice would be worse.
        shown: engine name to what the user calls its model, where that is not the folder.
        gpus: name and memory of each, where real weights are loaded.
    """

    choice: ModelChoice
    models: Mapping[str, str]
    devices: Mapping[str, str] = field(default_factory=dict)
    shown: Mapping[str, str] = field(default_factory=dict)
    gpus: Sequence[tuple[str, int]] = ()


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


def plan(choice: ModelChoice, data_dir: Path) -> ModelPlan:
    """What each engine loads for that choice, but for ``full``: those have to be looked for."""
    if choice == "echo":
        return ModelPlan(choice, dict.fromkeys(ENGINE_NAMES, "echo"))
    directory = pocket_dir() if choice == "pocket" else random_dir(data_dir)
    return ModelPlan(choice, {name: str(directory / name) for name in ENGINE_NAMES})


def _full_record(data_dir: Path) -> Path:
    return data_dir / "models" / "full.json"


def full_name(engine: str, data_dir: Path, hub: Hub | None = None) -> ModelName:
    """What ``full`` means for an engine: the revision that was downloaded last; before that, the hub's newest.

    Args:
        engine: ``glm`` or ``owl2``.
        data_dir: of `glowl up`.
        hub: where it shall be from; None takes the one that was used last.
    """
    with suppress(OSError, ValueError, KeyError, TypeError):
        recorded = ModelName.parse(json.loads(_full_record(data_dir).read_text(encoding="utf-8"))[engine])
        if recorded is not None and hub in (None, recorded.hub):
            return recorded
    return FULL_MODELS[engine].names[hub or "huggingface"]


def record_full(engine: str, name: ModelName, data_dir: Path) -> None:
    """Remember which revision of a model is used from now on."""
    path = _full_record(data_dir)
    recorded: dict[str, str] = {}
    with suppress(OSError, ValueError, TypeError):
        recorded = dict(json.loads(path.read_text(encoding="utf-8")))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps({**recorded, engine: str(name)}, indent=1))


def find_full(name: ModelName) -> Snapshot | None:
    """What is here of a real checkpoint."""
    return find_snapshot(name, place_of(name.hub))


def bytes_to_download(engine: str, name: ModelName) -> int:
    """How much of a real checkpoint is not here yet, about: 0 only if all of it is; what can be resumed counts."""
    found = find_full(name)
    if found is not None and not found.missing:
        return 0
    size = FULL_MODELS[engine].size_bytes
    have = sum(_size_of(file) for file in model_dir(name, place_of(name.hub)).glob("**/*") if _is_kept(file))
    # Published sizes are rounded, and blobs of another revision may lie there.
    return max(size - have, size // 50)


def bytes_of_full(data_dir: Path) -> int:
    """How much of both is not here yet, about."""
    return sum(bytes_to_download(engine, full_name(engine, data_dir)) for engine in FULL_MODELS)


def _is_kept(file: Path) -> bool:
    """Whether a file counts as downloaded: finished, or a part that will be gone on with."""
    return file.is_file() and not file.is_symlink() and (file.suffix != ".incomplete" or file.name.endswith(PART))


def _size_of(file: Path) -> int:
    with suppress(OSError):
        return file.stat().st_size
    return 0


def present_models(data_dir: Path, pocket: Path | None = None) -> list[str]:
    """The choices of ``--models`` (``echo`` apart) that would need nothing made or downloaded."""
    present: list[str] = []
    if has_checkpoints(pocket or pocket_dir()):
        present.append("pocket")
    if has_checkpoints(random_dir(data_dir)):
        present.append("random")
    if bytes_of_full(data_dir) == 0:
        present.append("full")
    return present


def read_variant(folder: Path) -> str:
    """What a checkpoint says it is in ``glowl.json``; ``full`` without that file, ``?`` if it cannot be read."""
    try:
        return str(json.loads((folder / "glowl.json").read_text(encoding="utf-8"))["variant"])
    except FileNotFoundError:
        return "full"
    except (OSError, ValueError, KeyError, TypeError):
        return "?"


def existing_parent(path: Path) -> Path:
    """The folder itself or its nearest ancestor that exists: where free space can be asked for."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path

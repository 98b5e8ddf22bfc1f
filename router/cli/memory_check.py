"""What models need against what this machine has: the memory lines of `glowl doctor`.

In: a choice of models, what torch reported, the machine's memory. Out: per way of loading (dtype, quantization) the
need, and the widest that fits.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engines.memory import (
    PROCESS_BYTES,
    PUBLISHED_CONFIGS,
    SHARED_TOKENS,
    ModelShape,
    UnknownModelError,
    predict,
    read_shape,
)
from router.cli import models

_ON_GPU = (("bfloat16", "none"), ("bfloat16", "int8"), ("bfloat16", "int4"))
_ON_CPU = (("float32", "none"), *_ON_GPU)


@dataclass(frozen=True, slots=True)
class Option:
    """One way of loading both engines.

    Attributes:
        name: the dtype, or the quantization if there is one.
        need_bytes: by engine.
        fits: whether the machine has that much.
    """

    name: str
    need_bytes: Mapping[str, int]
    fits: bool

    @property
    def total_bytes(self) -> int:
        """Of both engines."""
        return sum(self.need_bytes.values())


def shapes_of(choice: models.ModelChoice, data_dir: Path) -> dict[str, ModelShape]:
    """The shapes of a choice's models, by engine; without the engines whose config is not here and not known.

    Args:
        choice: as in ``--models``.
        data_dir: of `glowl up`.
    """
    shapes = {}
    for engine in models.ENGINE_NAMES:
        if choice == "full":
            found = models.find_full(models.full_name(engine, data_dir))
            config = _read_config(None if found is None else found.folder) or PUBLISHED_CONFIGS[engine]
        else:
            config = _read_config(Path(models.plan(choice, data_dir).models[engine]))
        try:
            shapes[engine] = read_shape(config)
        except UnknownModelError:
            continue
    return shapes


def options_for(shapes: Mapping[str, ModelShape], gpus: Sequence[tuple[str, int]], ram_bytes: int) -> list[Option]:
    """Every way of loading, widest first.

    Args:
        shapes: by engine.
        gpus: name and memory of each; with two or more, each engine gets one.
        ram_bytes: what counts where there is no GPU.
    """
    options = []
    for dtype, quantization in _ON_GPU if gpus else _ON_CPU:
        need = {}
        for engine, shape in shapes.items():
            tokens = min(SHARED_TOKENS, shape.context_tokens)
            weights = predict(shape, dtype=dtype, quantization=quantization, num_tokens=tokens)
            need[engine] = weights.total_bytes + PROCESS_BYTES
        if len(gpus) >= 2:
            fits = all(num_bytes <= memory for num_bytes, (_, memory) in zip(need.values(), gpus, strict=False))
        else:
            fits = sum(need.values()) <= (gpus[0][1] if gpus else ram_bytes)
        options.append(Option(dtype if quantization == "none" else quantization, need, fits))
    return options


def _read_config(folder: Path | None) -> Mapping[str, object]:
    if folder is None:
        return {}
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}

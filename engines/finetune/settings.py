"""What a run of fine-tuning is done with: presets, a TOML file over them, and what is refused by name.

In: a preset's name and a file. Out: frozen `FinetuneSettings`. Without torch.
"""

from __future__ import annotations

import math
import re
import tomllib
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Final


class FinetuneError(ValueError):
    """A run cannot be done as it was asked for; the message says why, in one line.

    Args:
        message: why.
        message_zh: the same in Chinese.
    """

    def __init__(self, message: str, message_zh: str) -> None:
        super().__init__(message)
        self.message_zh = message_zh


@dataclass(frozen=True, slots=True)
class FinetuneSettings:
    """Settings of a run.

    Attributes:
        tuner: ``lora``, the only one that our engines and vLLM serve.
        rank: of the adapter's matrices.
        alpha: their product is scaled by alpha / rank.
        dropout: share of the adapter's inputs that a step leaves out.
        epochs: how often every example is seen.
        max_steps: ends a run early; 0 for no bound.
        learning_rate: at its peak; rises over the ``warmup`` share of the steps, then falls as a cosine.
        warmup: share of all steps, 0 to 1.
        weight_decay: decoupled.
        batch_size: examples per forward and device.
        accumulation: forwards per step.
        checkpointing: compute activations twice instead of keeping them.
        device: ``auto``, ``cpu``, ``cuda``, ...
        dtype: of the base: ``auto`` is bfloat16 where the machine has it, as for serving.
        quantization: of the base: ``none`` or ``int8``.
        max_length: tokens of an example, pictures' rows too; longer ones are left out and counted.
        save_every: steps between two checkpoints.
        log_every: steps between two points of the curve.
        heldout: most held-out examples that are asked before and after; 0 for none.
        seed: of the adapter's first weights, the order of examples and dropout.
    """

    tuner: str = "lora"
    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    epochs: float = 3.0
    max_steps: int = 0
    learning_rate: float = 2e-4
    warmup: float = 0.05
    weight_decay: float = 0.0
    batch_size: int = 4
    accumulation: int = 4
    checkpointing: bool = True
    device: str = "auto"
    dtype: str = "auto"
    quantization: str = "none"
    max_length: int = 4096
    save_every: int = 50
    log_every: int = 5
    heldout: int = 200
    seed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form."""
        return asdict(self)


PRESETS: Final[dict[str, dict[str, Any]]] = {
    "small-card": {"quantization": "int8", "batch_size": 1, "accumulation": 16},
    "one-gpu": {},
    # Pocket models: an activation is small, and a forward short.
    "cpu": {"device": "cpu", "learning_rate": 2e-3, "batch_size": 8, "accumulation": 1, "checkpointing": False},
}
"""Below 24 GB; a card with room for the base in bfloat16; no card."""

_PROMPT_TUNERS: Final = frozenset({"prompt", "prompt-tuning", "prompt_tuning", "p-tuning", "prefix", "prefix-tuning"})
_POSITIVE: Final = (
    *("rank", "alpha", "epochs", "learning_rate", "batch_size", "accumulation"),
    *("max_length", "save_every", "log_every"),
)


def make_settings(
    preset: str | None, file: Path | None = None, *, default: str = "one-gpu", **given: Any
) -> FinetuneSettings:
    """Take a preset, put a file's values over it, and over those what was given by hand.

    Args:
        preset: a key of `PRESETS`; None if none is given by name.
        file: TOML with fields of `FinetuneSettings`; ``preset`` in it counts where none is given by name.
        default: the preset where neither names one.
        given: fields; None is no value.

    Raises:
        FinetuneError: naming the field and what is accepted.
    """
    values = _read(file) if file is not None else {}
    of_file = values.pop("preset", default)
    preset = of_file if preset is None else preset
    if not isinstance(preset, str) or preset not in PRESETS:
        raise FinetuneError(
            f"there is no preset {preset!r}; there are: {', '.join(PRESETS)}",
            f"没有预设 {preset!r}；可用的有：{', '.join(PRESETS)}",
        )
    values = {**PRESETS[preset], **values, **{name: value for name, value in given.items() if value is not None}}
    known = {field.name: type(field.default) for field in fields(FinetuneSettings)}
    for name, value in values.items():
        if name not in known:
            raise FinetuneError(
                f"there is no setting {name!r}; there are: preset, {', '.join(known)}",
                f"没有设置 {name!r}；可用的有：preset, {', '.join(known)}",
            )
        values[name] = _typed(name, value, known[name])
    settings = replace(FinetuneSettings(), **values)
    _check(settings)
    return settings


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise FinetuneError(f"{file} cannot be read: {error.strerror}", f"无法读取 {file}：{error.strerror}") from error
    except ValueError as error:
        raise FinetuneError(f"{file} is no TOML: {error}", f"{file} 不是 TOML：{error}") from error


def _typed(name: str, value: Any, kind: type) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise FinetuneError(
            f"{name} must be of the kind {kind.__name__}, not {value!r}",
            f"{name} 的类型必须是 {kind.__name__}，而不是 {value!r}",
        )
    return value


def _check(settings: FinetuneSettings) -> None:
    if settings.tuner in _PROMPT_TUNERS:
        raise FinetuneError(
            f"tuner {settings.tuner!r} is not supported: neither our engines nor vLLM serve trained prompts of these "
            "models, so nobody could ask for the result; use 'lora'",
            f"不支持 tuner {settings.tuner!r}：本项目的引擎和 vLLM 都不能为这些模型提供训练出的提示词；请使用 'lora'",
        )
    if settings.tuner != "lora":
        raise FinetuneError(
            f"there is no tuner {settings.tuner!r}; there is: lora", f"没有 tuner {settings.tuner!r}；可用的有：lora"
        )
    for name in _POSITIVE:
        if not 0 < getattr(settings, name) < math.inf:
            raise FinetuneError(
                f"{name} must be above 0, not {getattr(settings, name)}",
                f"{name} 必须大于 0，而不是 {getattr(settings, name)}",
            )
    for name in ("max_steps", "weight_decay", "heldout", "seed"):
        if not 0 <= getattr(settings, name) < math.inf:
            raise FinetuneError(
                f"{name} must be 0 or more, not {getattr(settings, name)}",
                f"{name} 必须大于或等于 0，而不是 {getattr(settings, name)}",
            )
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?|mps", settings.device):
        raise FinetuneError(
            f"device must be auto, cpu, cuda, cuda:NUMBER or mps, not {settings.device!r}",
            f"device 必须是 auto、cpu、cuda、cuda:编号 或 mps，而不是 {settings.device!r}",
        )
    for name in ("warmup", "dropout"):
        if not 0 <= getattr(settings, name) < 1:
            raise FinetuneError(
                f"{name} is a share from 0 to below 1, not {getattr(settings, name)}",
                f"{name} 是 0 到 1（不含 1）之间的比例，而不是 {getattr(settings, name)}",
            )
    if settings.quantization not in ("none", "int8"):
        raise FinetuneError(
            f"quantization of a base to train on is none or int8, not {settings.quantization!r}",
            f"训练所用基础模型的 quantization 只能是 none 或 int8，而不是 {settings.quantization!r}",
        )

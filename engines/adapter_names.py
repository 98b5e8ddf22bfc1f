"""Models and LoRA adapters by name: how adapters are given at the start, and how a request's model name asks for one.

In: ``NAME=SOURCE`` texts and model names. Out: pairs, names, refusals. No weights and no torch here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, Final

from engines.base import EngineInfo, InvalidRequestError

MODEL_NAMES: Final[Mapping[str, str]] = MappingProxyType({"glm": "glm-4.6v-flash", "owl2": "mplug-owl2"})
"""The engines, and the names of their models."""

# No colon: it parts the model from the adapter. No comma and no equals sign: they part adapters from each other.
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class UnknownAdapterError(InvalidRequestError):
    """The engine has no adapter of that name."""

    status_code: ClassVar[int] = 404
    default_code: ClassVar[str] = "model_not_found"


def parse_adapter(text: str) -> tuple[str, str]:
    """Read ``NAME=SOURCE``; the source is a folder, a hub id, or whatever else its reader expects.

    Raises:
        ValueError: if a part is missing or the name could not stand in a model name.
    """
    name, equals, source = (part.strip() for part in text.partition("="))
    if not equals or not source:
        raise ValueError(f"an adapter is given as NAME=FOLDER_OR_HUB_ID, not {text!r}")
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name for an adapter: up to 64 letters, digits, '.', '_' and '-'")
    return name, source


def parse_adapters(texts: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Read several, in order.

    Raises:
        ValueError: as `parse_adapter`, and for a name that is given twice.
    """
    adapters = tuple(parse_adapter(text) for text in texts)
    seen: set[str] = set()
    for name, _source in adapters:
        if name.lower() in seen:
            raise ValueError(f"there are two adapters named {name!r} (capitals do not count)")
        seen.add(name.lower())
    return adapters


def lacks_adapter(source: str) -> bool:
    """Whether there is certainly no adapter at a place; a hub id, ``ORG/NAME``, may be one that is not here yet."""
    folder = Path(source)
    try:
        if folder.exists():
            return not (folder / "adapter_config.json").is_file()
    except OSError:  # a name that no file system takes, or no right to look
        return True
    return not _HUB_ID.fullmatch(source)


def split_model(model: str) -> tuple[str, str]:
    """Part a model name into the model and the adapter, which is empty if none is named."""
    base, _, adapter = model.partition(":")
    return base, adapter


def model_with(model: str, adapter: str) -> str:
    """Return the name under which a model with an adapter is asked for and answers; without one, the model's own."""
    return f"{model}:{adapter}" if adapter else model


def find_adapter(wanted: str, known: Sequence[str]) -> str | None:
    """Return an adapter's name as it was given at the start; capitals do not matter, as in every model name."""
    return next((name for name in known if name.lower() == wanted.strip().lower()), None)


def check_adapter(wanted: str, info: EngineInfo) -> None:
    """Refuse an adapter that an engine does not have.

    Raises:
        UnknownAdapterError: listing those that it has.
    """
    if wanted and wanted not in info.adapters:
        raise UnknownAdapterError(describe_unknown(model_with(info.model_id, wanted), info), param="model")


def describe_unknown(model: str, info: EngineInfo) -> str:
    """Say that there is no such model, and which adapters there are."""
    known = ", ".join(f"'{model_with(info.model_id, name)}'" for name in info.adapters)
    return f"The model '{model}' does not exist here; " + (
        f"adapters are: {known}." if known else f"'{info.model_id}' has no adapters."
    )

"""Whether a checkpoint fits the model: found by its config and its files' headers, before any weight is read.

In: a checkpoint folder, and the shapes of the model's tensors. Out: the headers of what is to be loaded, or a
`CheckpointError` that names the file or tensor at fault. Below the model, which calls it when it is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from engines.owl2.config import MPLUGOwl2Config
from engines.owl2.files import (
    FLOAT_DTYPES,
    CheckpointError,
    TensorHeader,
    find_weight_files,
    name_some,
    read_headers,
    read_json,
)

Shapes = Mapping[str, tuple[int, ...]]

# Constants that some files carry and others do not; both are computed here instead (see abstractor.py, language.py).
IGNORED_TENSORS = (r"rotary_emb\.inv_freq$", r"crossattention\.attention\.(q_pos_embed|k_pos_embed)$")
# Without one of these, the published model's value would be used silently; all known tools save them.
_REQUIRED_KEYS: Mapping[tuple[str, ...], tuple[str, ...]] = {
    (): ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "visual_config"),
    ("visual_config",): ("visual_model", "visual_abstractor"),
    ("visual_config", "visual_model"): (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "image_size",
        "patch_size",
    ),
    ("visual_config", "visual_abstractor"): (
        "hidden_size",
        "encoder_hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_learnable_queries",
        "grid_size",
    ),
}
# Arguments of from_pretrained that make it load other files than the folder's own.
_OTHER_SOURCES = ("state_dict", "subfolder", "variant", "gguf_file", "key_mapping", "adapter_name")


def is_ignored(name: str) -> bool:
    """Whether a tensor of a file is a constant that is computed here and not loaded."""
    return any(re.search(pattern, name) for pattern in IGNORED_TENSORS)


def read_config(folder: Path) -> MPLUGOwl2Config:
    """Read ``config.json``.

    Raises:
        CheckpointError: if it is missing, lacks a key that gives the model its shape, or asks for something that is not
            supported.
    """
    file = folder / "config.json"
    if not file.is_file():  # transformers would build the default 7B model instead
        raise CheckpointError(f"checkpoint {folder} has no config.json")
    values = read_json(file)
    if (model_type := values.get("model_type")) != MPLUGOwl2Config.model_type:
        raise CheckpointError(f"{file}: model_type is {model_type!r}, not {MPLUGOwl2Config.model_type!r}")
    for path, keys in _REQUIRED_KEYS.items():
        part: Any = values
        for key in path:
            part = part[key]
        where = ".".join(path) or "the top level"
        if not isinstance(part, dict):
            raise CheckpointError(f"{file}: {where} must be an object")
        if missing := [key for key in keys if part.get(key) is None]:
            raise CheckpointError(f"{file}: missing in {where}: {name_some(missing)}")
        for key in keys:
            value = part[key]
            if not key.startswith("visual_") and (not isinstance(value, int) or value < 1):
                raise CheckpointError(f"{file}: {key} in {where} must be a positive number, not {value!r}")
    try:
        return MPLUGOwl2Config.from_dict(values)
    except (ValueError, TypeError, KeyError, ZeroDivisionError, StrictDataclassError) as error:
        raise CheckpointError(f"{file}: {error}") from error


def check_tensors(folder: Path, config: MPLUGOwl2Config, expected: Shapes) -> dict[str, TensorHeader]:
    """Compare the headers of all weight files with the tensors that the model has; reads no weights.

    Args:
        folder: in either layout.
        config: of the model they are meant for.
        expected: shapes of that model's tensors by name.

    Returns:
        The tensors to load by name; constants that are computed instead are left out.

    Raises:
        CheckpointError: naming the files or tensors at fault.
    """
    files = find_weight_files(folder)
    headers: dict[str, TensorHeader] = {}
    twice, misplaced = set(), set()
    for path in files.paths:
        found = read_headers(path)
        twice |= {f"{name} ({headers[name].file.name}, {path.name})" for name in found.keys() & headers.keys()}
        headers |= found
    for name, file in (files.index or {}).items():
        if name not in headers or headers[name].file.name != file:
            misplaced.add(f"{name} (not in {file})")
    headers = {name: header for name, header in headers.items() if not is_ignored(name)}
    problems = {
        "in two files": {entry for entry in twice if not is_ignored(entry.split(" ")[0])},
        "not where the index says": {entry for entry in misplaced if not is_ignored(entry.split(" ")[0])},
        **_compare(headers, expected),
    }
    problems["missing"] -= _optional(config)
    _raise_problems(str(folder), problems)
    return headers


def _optional(config: MPLUGOwl2Config) -> frozenset[str]:
    return frozenset({"lm_head.weight"} if config.tie_word_embeddings else ())


def _compare(headers: Mapping[str, TensorHeader], expected: Shapes) -> dict[str, set[str]]:
    missing = expected.keys() - headers.keys()
    known = [headers[name] for name in expected.keys() & headers.keys()]
    return {
        "wrong shape": {
            f"{header.name} (file {header.shape}, model {expected[header.name]}; in {header.file.name})"
            for header in known
            if header.shape != expected[header.name]
        },
        "wrong dtype": {
            f"{header.name} ({header.dtype}; in {header.file.name})"
            for header in known
            if header.dtype not in FLOAT_DTYPES
        },
        "missing": missing,
        "not part of this model": headers.keys() - expected.keys(),
    }


def _raise_problems(source: str, problems: Mapping[str, Any]) -> None:
    described = [f"{word}: {name_some(names)}" for word, names in problems.items() if names]
    if described:
        raise CheckpointError(f"checkpoint {source} does not fit mPLUG-Owl2; " + "; ".join(described))


def check_source(source: Any, arguments: Mapping[str, Any], shapes_of: Callable[[MPLUGOwl2Config], Shapes]) -> None:
    """Check a folder before ``from_pretrained`` fills memory: it would draw random values for what is missing first.

    Args:
        source: what ``from_pretrained`` was given; anything but a folder is left to `check_loading_info`.
        arguments: likewise.
        shapes_of: lists the tensors of the model that a config describes.

    Raises:
        CheckpointError: see `read_config` and `check_tensors`.
    """
    if not isinstance(source, str | Path) or not Path(source).is_dir() or any(map(arguments.get, _OTHER_SOURCES)):
        return
    folder, config = Path(source), arguments.get("config")
    if (folder / "config.json").is_file() or not isinstance(config, MPLUGOwl2Config):
        own_config = read_config(folder)
        config = config if isinstance(config, MPLUGOwl2Config) else own_config
    check_tensors(folder, config, shapes_of(config))


def check_loading_info(source: str, info: dict[str, Any]) -> None:
    """Accept a load only if every tensor of the model came from the file, and the file held nothing else.

    transformers itself only warns and leaves missing tensors random, which shows as confident nonsense later.

    Args:
        source: folder or hub id, for the message.
        info: what ``from_pretrained(..., output_loading_info=True)`` reported.

    Raises:
        CheckpointError: naming the tensors at fault.
    """
    mismatched = info["mismatched_keys"]
    problems = {
        "wrong shape": {
            f"{name} (file {tuple(found)}, model {tuple(expected)})" for name, found, expected in mismatched
        },
        "missing": set(info["missing_keys"]) - {entry[0] for entry in mismatched},
        "not part of this model": info["unexpected_keys"],
    }
    _raise_problems(source, problems)

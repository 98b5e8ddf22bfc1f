"""Getting weights into the model: where they are, in which dtype, and whether all of them arrived.

In: a checkpoint folder in either layout (safetensors, or ``pytorch_model-K-of-N.bin`` shards, which transformers reads
with ``weights_only``), or a hub id. Out: a loaded model, or a `CheckpointError` that names the tensor at fault.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch
from huggingface_hub import snapshot_download

from engines.base import Variant

if TYPE_CHECKING:
    from engines.owl2.model import MPLUGOwl2ForConditionalGeneration

# Constants that some files carry and others do not; both are computed here instead (see abstractor.py, language.py).
IGNORED_TENSORS = (r"rotary_emb\.inv_freq$", r"crossattention\.attention\.(q_pos_embed|k_pos_embed)$")

_DOWNLOADED = ["*.json", "*.model", "*.safetensors", "pytorch_model*.bin"]
_MAX_NAMED = 8


class CheckpointError(ValueError):
    """A checkpoint folder is incomplete or does not fit the model; the message names the file or tensor."""


def _name_some(names: Collection[str]) -> str:
    shown = ", ".join(sorted(names)[:_MAX_NAMED])
    return shown if len(names) <= _MAX_NAMED else f"{shown} and {len(names) - _MAX_NAMED} more"


def check_loading_info(source: str, info: dict[str, Any]) -> None:
    """Accept a load only if every tensor of the model came from the file, and the file held nothing else.

    transformers itself only warns and leaves missing tensors random, which shows as confident nonsense later.

    Args:
        source: folder or hub id, for the message.
        info: what ``from_pretrained(..., output_loading_info=True)`` reported.

    Raises:
        CheckpointError: naming the tensors at fault.
    """
    problems = []
    if mismatched := info["mismatched_keys"]:
        described = {f"{name} (file {tuple(found)}, model {tuple(expected)})" for name, found, expected in mismatched}
        problems.append(f"wrong shape: {_name_some(described)}")
    if missing := set(info["missing_keys"]) - {entry[0] for entry in mismatched}:
        problems.append(f"missing: {_name_some(missing)}")
    if unexpected := info["unexpected_keys"]:
        problems.append(f"not part of this model: {_name_some(unexpected)}")
    if problems:
        raise CheckpointError(f"checkpoint {source} does not fit mPLUG-Owl2; " + "; ".join(problems))


def resolve_folder(model: str) -> Path:
    """Find the checkpoint folder, downloading it from the hub if ``model`` is no folder.

    Raises:
        CheckpointError: if there is no such folder and it cannot be downloaded.
    """
    folder = Path(model)
    if folder.is_dir():
        return folder
    if folder.is_absolute() or model.startswith("."):
        raise CheckpointError(f"there is no checkpoint folder {model}")
    try:
        return Path(snapshot_download(model, allow_patterns=_DOWNLOADED))
    except (OSError, ValueError) as error:  # the hub's own errors derive from these two
        raise CheckpointError(f"{model} is neither a folder nor a model that can be downloaded: {error}") from error


def read_variant(folder: Path) -> Variant:
    """Read which variant a folder says it is in ``glowl.json``; no such file means the real model.

    Raises:
        CheckpointError: if the file says something unknown.
    """
    file = folder / "glowl.json"
    if not file.exists():
        return "full"
    try:
        variant = json.loads(file.read_text(encoding="utf-8"))["variant"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file} must be a JSON object with a key 'variant'") from error
    if variant not in get_args(Variant):
        raise CheckpointError(f"{file}: unknown variant {variant!r}, expected one of {', '.join(get_args(Variant))}")
    return variant


def load_model(
    folder: Path, *, dtype: torch.dtype, device: torch.device, attn_implementation: str
) -> MPLUGOwl2ForConditionalGeneration:
    """Load a checkpoint for inference.

    Args:
        folder: in either layout.
        dtype: of all weights; explicit, since the default would be whatever the file has (float16, slow on CPUs).
        device: where the weights go.
        attn_implementation: ``sdpa``, ``eager`` or ``flash_attention_2``, for the decoder.

    Raises:
        CheckpointError: if a file or a tensor is missing or wrong.
    """
    from engines.owl2.model import MPLUGOwl2ForConditionalGeneration  # imports this module's checks

    if not (folder / "config.json").is_file():  # transformers would build the default 7B model instead
        raise CheckpointError(f"checkpoint {folder} has no config.json")
    try:
        model = MPLUGOwl2ForConditionalGeneration.from_pretrained(
            folder, dtype=dtype, attn_implementation=attn_implementation, local_files_only=True
        )
    except OSError as error:
        raise CheckpointError(f"checkpoint {folder} cannot be read: {error}") from error
    return model.to(device).eval()

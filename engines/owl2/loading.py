"""From a checkpoint folder or a hub id to a model on a device, in the dtype that was asked for.

In: a folder in either layout (safetensors, or ``pytorch_model-K-of-N.bin`` shards, read without unpickling code), or a
hub id. Out: a loaded model, or a `CheckpointError` that names the file or tensor at fault. Above the model.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError

from engines.base import Variant
from engines.owl2.checks import check_tensors, read_config
from engines.owl2.config import IMAGE_TOKEN_ID, MPLUGOwl2Config
from engines.owl2.files import CheckpointError, TensorHeader
from engines.owl2.model import MPLUGOwl2ForConditionalGeneration, expected_shapes
from engines.runtime.attention import attention_candidates, load_with_attention
from engines.runtime.quantization import loading_options, on_device

VISION_MODULES = ("model.vision_model", "model.visual_abstractor")
"""What turns pictures into rows of the sequence."""

# Modules kept in full precision: small beside the decoder, and their errors would reach every token.
UNQUANTIZED_MODULES = (*VISION_MODULES, "lm_head")

_DOWNLOADED = ["*.json", "*.model", "*.safetensors", "pytorch_model*.bin"]


def check_files(folder: Path, config: MPLUGOwl2Config) -> dict[str, TensorHeader]:
    """Compare a folder with the model that a config describes; see `engines.owl2.checks.check_tensors`."""
    return check_tensors(folder, config, expected_shapes(config))


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
    folder: Path, *, dtype: torch.dtype, device: torch.device, attn_implementation: str, quantization: str = "none"
) -> MPLUGOwl2ForConditionalGeneration:
    """Load a checkpoint for inference.

    Args:
        folder: in either layout.
        dtype: of all weights; explicit, since the default would be whatever the file has (float16, slow on CPUs).
        device: where the weights go.
        attn_implementation: for the decoder: ``auto``, ``sdpa``, ``eager``, ``flash_attention_2``; the model has the
            next one that works in its place.
        quantization: of the decoder's matrices: ``none``, ``int8`` or ``int4``.

    Raises:
        CheckpointError: if a file or a tensor is missing or wrong.
        ValueError: if that quantization is not possible here.
    """
    config = read_config(folder)
    options = {**on_device(device), **loading_options(quantization, device, dtype, UNQUANTIZED_MODULES)}

    def load(attention: str) -> Any:
        try:
            model: Any = MPLUGOwl2ForConditionalGeneration.from_pretrained(
                folder, config=config, dtype=dtype, attn_implementation=attention, local_files_only=True, **options
            )
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"checkpoint {folder} cannot be read: {error}") from error
        # Weights that were loaded to their place stay there; quantized ones refuse to be moved.
        return (model if options else model.to(device)).eval()

    candidates = attention_candidates(attn_implementation, device, dtype)
    model, _ = load_with_attention(candidates, load, _try_out, fatal=CheckpointError)
    return model


@torch.inference_mode()
def _try_out(model: MPLUGOwl2ForConditionalGeneration) -> None:
    """Let the model read a picture and a word, where the attention may be built for another GPU or another torch.

    torch's own is always there, and a CPU takes seconds to read.
    """
    if model.config._attn_implementation in ("sdpa", "eager"):
        return
    side = model.config.vision.image_size
    pixel_values = torch.zeros((1, 3, side, side), device=model.device, dtype=model.dtype)
    input_ids = torch.tensor([[1, IMAGE_TOKEN_ID, 2]], device=model.device)
    model(input_ids=input_ids, pixel_values=pixel_values, use_cache=False)

"""From a checkpoint name to a model on a device, with the best attention that really works.

In: the fields of `EngineOptions`. Out: transformers' model, and the attention it ended up with.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoModelForImageTextToText

from engines.runtime.kv_cache import memory_errors
from engines.runtime.quantization import loading_options

# Modules kept in full precision: small beside the decoder, and their errors would reach every token.
UNQUANTIZED_MODULES = ("model.visual", "lm_head")
# From the fastest, which few GPUs support, to the one that always works.
_ATTENTION = ("flash_attention_3", "flash_attention_2", "sdpa", "eager")

log = logging.getLogger(__name__)


def attention_candidates(name: str, device: torch.device, dtype: torch.dtype) -> list[str]:
    """List attention implementations, best first; an explicit choice comes first, then what it may fall back to."""
    if name in _ATTENTION[:-1]:
        return list(_ATTENTION[_ATTENTION.index(name) :])
    fallbacks = ["sdpa", "eager"]
    if name != "auto":
        return [name, *(item for item in fallbacks if item != name)]
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16):
        return fallbacks
    capability = torch.cuda.get_device_capability(device)
    flash = []
    if capability[0] == 9 and _is_installed("flash_attn_interface"):
        flash.append("flash_attention_3")
    if capability >= (8, 0) and _is_installed("flash_attn"):
        flash.append("flash_attention_2")
    return [*flash, *fallbacks]


def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def load_model(
    model: str, device: torch.device, dtype: torch.dtype, attn_implementation: str, quantization: str = "none"
) -> tuple[Any, str]:
    """Load the weights with the best attention that works; a broken flash-attn must not keep the engine down.

    An implementation works if it answers a text and a picture: a package that is built for another GPU or another torch
    is found out at the first call, not at its import.

    Args:
        model: a checkpoint folder or a hub id.
        device: where the weights go.
        dtype: what they are converted to.
        attn_implementation: ``auto``, or one of transformers' names.
        quantization: of the decoder's matrices: ``none``, ``int8`` or ``int4``.

    Returns:
        The model in evaluation mode, and the attention it uses.

    Raises:
        OSError: if the checkpoint is not there or not whole.
        ImportError: if not even the plainest attention works (also ValueError and RuntimeError).
        MemoryError: if the weights do not fit.
        ValueError: if that quantization is not possible here.
    """
    options = loading_options(quantization, device, dtype, UNQUANTIZED_MODULES)
    candidates = attention_candidates(attn_implementation, device, dtype)
    loaded: Any = None
    for attention, fallback in zip(candidates, [*candidates[1:], None], strict=True):
        try:
            with memory_errors():
                if loaded is None:
                    loaded = _from_pretrained(model, device, dtype, attention, options)
                else:
                    loaded.set_attn_implementation(attention)
                _try_out(loaded)
        except (ImportError, ValueError, RuntimeError) as error:
            if fallback is None:
                raise
            log.warning("attention %s is not usable (%s); trying %s", attention, error, fallback)
        else:
            return loaded, attention
    raise AssertionError("the last candidate either works or raises")


def _from_pretrained(
    model: str, device: torch.device, dtype: torch.dtype, attention: str, options: Mapping[str, Any]
) -> Any:
    loaded: Any = AutoModelForImageTextToText.from_pretrained(
        model, dtype=dtype, attn_implementation=attention, **options
    )
    # Quantized weights are in place, and their library refuses to move them.
    return (loaded if options else loaded.to(device)).eval()


@torch.inference_mode()
def _try_out(model: Any) -> None:
    """Let the model read the smallest picture there is, and a word behind it."""
    vision = model.config.vision_config
    num_rows, merge = 2, vision.spatial_merge_size
    grid = torch.tensor([[1, num_rows * merge, num_rows * merge]])
    values_per_patch = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    input_ids = torch.tensor([[model.config.image_token_id] * num_rows**2 + [0]])
    types = (input_ids == model.config.image_token_id).int()
    position_ids, _ = model.model.get_rope_index(input_ids, types, image_grid_thw=grid)
    model(
        input_ids=input_ids.to(model.device),
        position_ids=position_ids.to(model.device),
        mm_token_type_ids=types.to(model.device),
        pixel_values=torch.zeros((int(grid.prod()), values_per_patch), device=model.device),
        image_grid_thw=grid.to(model.device),
        use_cache=False,
        logits_to_keep=1,
    )

"""From a checkpoint name and wishes to a model on a device: what ``auto`` means, and which attention really works.

In: the fields of `EngineOptions`. Out: transformers' model, and the attention it ended up with.
"""

from __future__ import annotations

import importlib.util
import logging
from typing import Any

import torch
from transformers import AutoModelForImageTextToText

from engines.quantization import loading_options

# What stays in full precision: small beside the decoder, and its errors would reach every row or every token.
UNQUANTIZED_MODULES = ("model.visual", "lm_head")

log = logging.getLogger(__name__)


def resolve_device(name: str) -> torch.device:
    """Turn ``auto`` into the first CUDA device, else the CPU."""
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """Turn ``auto`` into bfloat16 on CUDA and float32 on the CPU.

    Raises:
        ValueError: for a name that is no floating dtype of torch.
    """
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"dtype must be auto, float32, bfloat16 or float16, not {name!r}")
    return dtype


def attention_candidates(name: str, device: torch.device, dtype: torch.dtype) -> list[str]:
    """List attention implementations, best first; an explicit choice comes first, then what it may fall back to."""
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
        ImportError: if not even the plainest attention can be loaded (also ValueError).
        ValueError: if that quantization is not possible here.
    """
    options = loading_options(quantization, device, dtype, UNQUANTIZED_MODULES)
    candidates = attention_candidates(attn_implementation, device, dtype)
    for attention, fallback in zip(candidates, [*candidates[1:], None], strict=True):
        try:
            loaded: Any = AutoModelForImageTextToText.from_pretrained(
                model, dtype=dtype, attn_implementation=attention, **options
            )
        except (ImportError, ValueError) as error:
            if fallback is None:
                raise
            log.warning("attention %s is not usable (%s); trying %s", attention, error, fallback)
        else:
            # Quantized weights are in place, and their library refuses to move them.
            return (loaded if options else loaded.to(device)).eval(), attention
    raise AssertionError("the last candidate either loads or raises")

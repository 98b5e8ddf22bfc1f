"""Which attention a model gets: the best one that really works, found out before the first request.

In: a name, the device, the dtype; how to load a model, and how to try it out. Out: the model, and the attention that it
uses. Shared by both local engines.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch

from engines.runtime.kv_cache import memory_errors

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


def load_with_attention(
    candidates: Sequence[str],
    load: Callable[[str], Any],
    try_out: Callable[[Any], object],
    fatal: type[BaseException] | tuple[type[BaseException], ...] = (),
) -> tuple[Any, str]:
    """Load a model with the first attention that works; a broken flash-attn must not keep the engine down.

    An implementation works if the model answers with it: a package that is built for another GPU or another torch is
    found out at the first call, not at its import.

    Args:
        candidates: best first.
        load: makes the model with an attention; called until it succeeds once, after that the model is switched.
        try_out: lets the model read something small.
        fatal: errors that no other attention would mend.

    Returns:
        The model, and the attention it uses.

    Raises:
        ImportError: if not even the last attention works (also ValueError and RuntimeError).
        MemoryError: if the weights do not fit.
        OSError: if they cannot be read.
    """
    loaded: Any = None
    for attention, fallback in zip(candidates, [*candidates[1:], None], strict=True):
        try:
            with memory_errors():
                if loaded is None:
                    loaded = load(attention)
                else:
                    loaded.set_attn_implementation(attention)
                try_out(loaded)
        except (ImportError, ValueError, RuntimeError) as error:
            if fallback is None or isinstance(error, fatal):
                raise
            log.warning("attention %s is not usable (%s); trying %s", attention, error, fallback)
        else:
            return loaded, attention
    raise AssertionError("the last candidate either works or raises")


def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None

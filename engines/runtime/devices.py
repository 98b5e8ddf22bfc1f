"""Which device and dtype a model gets, and how much of the device its running batch and its caches may take.

In: the fields of `EngineOptions`. Out: torch's device and dtype; limits of the batch, and an empty prefix cache.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

import torch

from engines.base import EngineOptions
from engines.host_memory import total_bytes
from engines.memory import PROCESS_BYTES, USABLE_SHARE, UnknownModelError, gpu_share, predict, read_shape
from engines.runtime.batching import BatchLimits
from engines.runtime.host_store import HostStore
from engines.runtime.kv_cache import KVShape
from engines.runtime.prefix_cache import PrefixCache

# Rows of the running batch, and tokens of a prompt between two of its steps: enough to keep the hardware busy, few
# enough that running streams need not wait. A GPU's decode step costs the same for many rows, a CPU's soon does not.
_MAX_ROWS: Final = {"cpu": 8, "cuda": 32}
_PREFILL_TOKENS: Final = {"cpu": 128, "cuda": 512}
# Shares of the memory: on CUDA of what weights and activations leave of the engine's share, all but some for gaps
# between tensors; on the CPU of all there is, which others use too.
_BATCH_SHARE: Final = {"cpu": 1 / 4, "cuda": 3 / 4}
_CACHE_SHARE: Final = {"cpu": 1 / 16, "cuda": 1 / 8}
# For a model of neither architecture.
_UNKNOWN_ACTIVATIONS_BYTES: Final = 10**9

# A question with one picture, and an answer.
_LEAST_CONTEXT: Final = 2048

log = logging.getLogger(__name__)


def resolve_device(name: str) -> torch.device:
    """Turn ``auto`` into the first CUDA device, else the CPU."""
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """Turn ``auto`` into float32 on the CPU, bfloat16 on CUDA, and float16 on a card that only emulates bfloat16.

    Raises:
        ValueError: for a name that is no floating dtype of torch.
    """
    if name == "auto":
        if device.type != "cuda":
            return torch.float32
        capability = torch.cuda.get_device_capability(device)
        if capability >= (8, 0):
            return torch.bfloat16
        log.warning("a GPU of compute capability %d.%d has no bfloat16: the model runs in float16", *capability)
        return torch.float16
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"dtype must be auto, float32, bfloat16 or float16, not {name!r}")
    return dtype


def size_batch(
    name: str, options: EngineOptions, config: Mapping[str, Any], shape: KVShape
) -> tuple[BatchLimits, PrefixCache]:
    """Decide what a batch may hold, and make the cache beside it, from the memory that the weights left.

    Args:
        name: of the engine.
        options: may name the sizes, and the share of a GPU.
        config: of the model, as in its ``config.json``.
        shape: of the model's keys and values, on the device where the weights are.

    Raises:
        ValueError: if the share of the GPU is no fraction.
    """
    device = shape.device
    memory = _share_of_gpu(name, options, config, shape) if device.type == "cuda" else total_bytes()
    cache_bytes = options.cache_bytes
    if cache_bytes is None:
        cache_bytes = int(memory * _CACHE_SHARE.get(device.type, 1 / 16))
    batch_bytes = int(memory * _BATCH_SHARE.get(device.type, 1 / 4))
    if device.type == "cuda":
        batch_bytes = max(0, min(batch_bytes, memory - cache_bytes))
    limits = BatchLimits(
        max_rows=options.max_batch or _MAX_ROWS.get(device.type, 8),
        max_tokens=batch_bytes // shape.bytes_per_token,
        prefill_tokens=_PREFILL_TOKENS.get(device.type, 128),
    )
    log.info("%s; prefix cache of %d MB", limits, cache_bytes // 2**20)
    return limits, PrefixCache(cache_bytes, HostStore.beside(device, cache_bytes))


def _share_of_gpu(name: str, options: EngineOptions, config: Mapping[str, Any], shape: KVShape) -> int:
    """Bound this process to its share of the GPU; return the bytes of it for the batch and the cache.

    The bound is torch's own: an allocation beyond it fails as if the card were full, so another engine on the card
    keeps what is its own.
    """
    device = shape.device
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    weights = torch.cuda.memory_allocated(device)
    share, activations = options.gpu_share, _UNKNOWN_ACTIVATIONS_BYTES
    try:
        model = read_shape(config)
    except UnknownModelError:
        share = USABLE_SHARE if share is None else share
    else:
        dtype = str(shape.dtype).removeprefix("torch.")
        if share is None:
            share = gpu_share(name, model, total, dtype=dtype, quantization=options.quantization)
        activations = predict(model, dtype=dtype, num_tokens=0).activations_bytes
    if not 0 < share <= 1:
        raise ValueError(f"the share of the GPU is a number over 0 and up to 1, not {share}")
    torch.cuda.set_per_process_memory_fraction(share, device)
    mine = int(share * total) - PROCESS_BYTES
    log.info("this engine may take %.2f of the GPU: %.1f of %.1f GB", share, share * total / 1e9, total / 1e9)
    if (there := free + weights) < mine:
        log.warning(
            "the GPU has %.1f GB for this engine, less than its share: another program has the rest; see --gpu-share",
            there / 1e9,
        )
    return max(0, min(mine, there) - weights - activations)


def fit_context(context_tokens: int, limits: BatchLimits, shape: KVShape) -> int:
    """Lower a model's context to what one conversation can have here, so that all that is admitted can be allocated.

    Args:
        context_tokens: of the model.
        limits: of the batch.
        shape: of the model's keys and values.

    Raises:
        ValueError: if hardly a question would fit.
    """
    fitting = shape.longest_that_fits(limits.max_tokens)
    if fitting < min(_LEAST_CONTEXT, context_tokens):
        raise ValueError(
            f"beside the weights there is memory for conversations of {fitting} tokens, which is too little: take a "
            "smaller --quantization, a larger --gpu-share, a smaller --cache-mb or a larger device"
        )
    if fitting < context_tokens:
        log.warning("the context is %d tokens instead of %d: memory has no room for more", fitting, context_tokens)
    return min(fitting, context_tokens)

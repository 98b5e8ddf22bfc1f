"""From our engine's options and a checkpoint's config to what vLLM is started with.

In: `EngineOptions` and an `MPLUGOwl2Config`. Out: keyword arguments of vLLM's ``AsyncEngineArgs``. No vLLM here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from engines.base import EngineOptions
from engines.owl2.config import MPLUGOwl2Config
from engines.owl2_vllm.plugin import ARCHITECTURE

# Answers side by side. vLLM admits no more of them than fit its cache, so on a GPU the bound may be generous.
MAX_ROWS: Final = {"cpu": 8, "cuda": 64}

OURS: Final = frozenset({"model", "hf_overrides", "skip_tokenizer_init", "generation_config", "limit_mm_per_prompt"})
"""Arguments that ``--vllm-args`` may not change: prompts, ids and answers would not be ours any more."""


def engine_arguments(
    options: EngineOptions, folder: Path, config: MPLUGOwl2Config, max_images: int, device: str
) -> dict[str, Any]:
    """Say how vLLM is to be started.

    Args:
        options: what the server was given.
        folder: of the checkpoint.
        config: of its model.
        max_images: most pictures of one request.
        device: what this vLLM was built for: ``cpu`` or ``cuda``.

    Raises:
        ValueError: for an option that vLLM has under another name, or not at all.
    """
    if options.quantization != "none":
        raise ValueError(
            f"--quantization {options.quantization} is our own engine's; on vLLM say for example "
            "--vllm-args '--quantization fp8'"
        )
    if options.attn_implementation != "auto":
        raise ValueError("vLLM chooses its attention itself; leave --attn-implementation out")
    if options.device not in ("auto", device):
        raise ValueError(
            f"this vLLM was built for {device}, not for --device {options.device}; which GPU it takes is said by "
            "CUDA_VISIBLE_DEVICES"
        )
    share = {} if options.gpu_share is None or device == "cpu" else {"gpu_memory_utilization": options.gpu_share}
    return {
        **share,
        "model": str(folder),
        # The published config names no architecture, and vLLM finds the model's class by nothing else.
        "hf_overrides": {"architectures": [ARCHITECTURE]},
        # Text is turned into ids and back by our tokenizer: the one that vLLM would load gives other ids.
        "skip_tokenizer_init": True,
        # The checkpoint's file holds sampling defaults (temperature 0.9), which requests here do not have.
        "generation_config": "vllm",
        "limit_mm_per_prompt": {"image": max_images},
        "mm_processor_cache_gb": 0,
        "max_model_len": config.max_position_embeddings,
        "max_num_seqs": options.max_batch or MAX_ROWS[device],
        "dtype": {"cpu": "float32", "cuda": "auto"}[device] if options.dtype == "auto" else options.dtype,
        "enable_prefix_caching": options.cache_bytes != 0,
        "max_logprobs": 20,
    }


def merge_arguments(ours: dict[str, Any], given: Sequence[str], parsed: dict[str, Any]) -> dict[str, Any]:
    """Put what an operator gave vLLM over what we would have.

    Args:
        ours: from `engine_arguments`.
        given: the words of ``--vllm-args``, which say what was given at all.
        parsed: all arguments as vLLM's own parser understood the words.

    Raises:
        ValueError: for an argument that decides about prompts or answers.
    """
    named = {word.partition("=")[0].removeprefix("--").replace("-", "_") for word in given if word.startswith("--")}
    named |= {name.removeprefix("no_") for name in named if name.removeprefix("no_") in parsed}
    named &= parsed.keys()
    if refused := named & OURS:
        raise ValueError(f"--vllm-args may not change {', '.join(sorted(refused))}")
    return {**ours, **{name: parsed[name] for name in named}}

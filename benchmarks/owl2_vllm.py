"""Owl2 on vLLM beside our own engine beside `generate()`: the same prompts, random weights of one shape.

    python -m benchmarks.owl2_vllm                                  # tiny, on the CPU: does it run?
    python -m benchmarks.owl2_vllm --shape 7b --device cuda         # the published shape in bfloat16

With the Python of vLLM's environment (`make .venv-vllm`, or vLLM for CUDA, see engines/owl2_vllm/README.md). What is
measured: `benchmarks/vllm_sides.py`. GLM: `benchmarks/glm_vllm.py`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch

from benchmarks.owl2_serving import (
    Case,
    generate_alone,
    make_batch,
    make_cases,
    make_config,
    make_model,
    prepare,
    serve,
)
from benchmarks.vllm_sides import Sides, answer_all, make_model_folder

BATCHES = {"tiny": (1, 4), "mid": (1, 4, 8), "7b": (1, 8, 32)}
NEW_TOKENS = {"tiny": 16, "mid": 32, "7b": 128}


Answer = Callable[[Sequence[Case], int], object]


def start_generate(shape: str, device: torch.device, dtype: torch.dtype, _is_eager: bool) -> Answer:
    """Plain `generate()`, one request after another: batches of unequal lengths it cannot do with pictures."""
    model = make_model(shape, device, dtype)
    return lambda cases, num_new: [generate_alone(model, case, num_new) for case in cases]


def start_ours(shape: str, device: torch.device, dtype: torch.dtype, _is_eager: bool) -> Answer:
    """Our own running batch, nothing kept between requests."""
    model = make_model(shape, device, dtype)

    def answer(cases: Sequence[Case], num_new: int) -> object:
        batch, _ = make_batch(model, len(cases))
        return serve(batch, [prepare(model, case, num_new) for case in cases])

    return answer


def start_vllm(shape: str, device: torch.device, dtype: torch.dtype, is_eager: bool) -> Answer:
    """VLLM with our plugin, in this process, its weights made up; no prefix cache, as beside it."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    from vllm import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

    from engines.base import EngineOptions
    from engines.owl2_vllm.config import engine_arguments
    from engines.owl2_vllm.plugin import register
    from engines.owl2_vllm.processor import to_engine_input

    register()
    config = make_config(shape)
    folder = make_model_folder("owl2-shape-")
    config.save_pretrained(folder)
    side = config.vision.image_size
    mean_std = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": side, "crop_size": side, **mean_std}))
    options = EngineOptions(model=str(folder), dtype=str(dtype).removeprefix("torch."), cache_bytes=0)
    more: dict[str, Any] = {"distributed_executor_backend": "uni", "load_format": "dummy", "enforce_eager": is_eager}
    if device.type == "cpu":
        more |= {"kv_cache_memory_bytes": 2**28}
    arguments = engine_arguments(options, folder, config, 4, device.type) | more
    vllm = LLMEngine.from_engine_args(EngineArgs(**arguments, disable_log_stats=True))
    model = SimpleNamespace(config=config)

    def answer(cases: Sequence[Case], num_new: int) -> object:
        prompts = [to_engine_input(prepare(model, case, num_new), config) for case in cases]  # type: ignore[arg-type]
        return answer_all(vllm, prompts, num_new)

    return answer


SIDES: Sides[Case] = Sides(
    module="benchmarks.owl2_vllm",
    batches=BATCHES,
    num_new=NEW_TOKENS,
    make_cases=lambda shape, number: make_cases(SimpleNamespace(config=make_config(shape)), number),  # type: ignore[arg-type]
    start={"generate": start_generate, "ours": start_ours, "vllm": start_vllm},
)

if __name__ == "__main__":
    SIDES.main(__doc__)

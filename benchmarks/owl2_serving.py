"""How fast the Owl2 engine serves, against plain `generate()` of the same model and against the hardware's own limits.

    python -m benchmarks.owl2_serving                              # 2 CPU cores, mid-size random model
    python -m benchmarks.owl2_serving --shape 7b --device cuda     # the published shape, random bf16 weights

Three tables, each with its peer measured in the same run:
(a) N requests at once through the scheduler, against the same requests one after another through `generate()`;
(b) time to the first token of a follow-up question about the same picture, against the first question;
(c) one decode step, against the bare matrix products of the same shapes, and against the memory's bandwidth.
On CUDA also (d): memory with bf16, int8 and int4 weights. Ratios are what counts: machines are shared.
"""

from __future__ import annotations

import argparse
import gc
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import GenerationConfig

from benchmarks.floors import copy_bandwidth, products
from benchmarks.printed import table
from engines.base import Delta, EngineError, SamplingParams
from engines.owl2 import MPLUGOwl2Config, MPLUGOwl2ForConditionalGeneration
from engines.owl2.config import IMAGE_TOKEN_ID
from engines.owl2.loading import load_model
from engines.owl2.runner import Owl2Runner, PreparedRequest
from engines.runtime.batching import BatchLimits, ContinuousBatch
from engines.runtime.prefix_cache import CacheScope, PrefixCache


def sizes(width: int, intermediate: int, num_layers: int, num_heads: int, **more: int) -> dict[str, int]:
    """Name the sizes of a part as configs do."""
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    return {**dict(zip(names, (width, intermediate, num_layers, num_heads), strict=True)), **more}


# Decoder, vision tower, abstractor; the published checkpoint's last two are the defaults.
SHAPES: dict[str, tuple[dict[str, int], dict[str, int], dict[str, int]]] = {
    "tiny": (
        sizes(128, 352, 2, 4, vocab_size=512),
        sizes(64, 128, 2, 4, image_size=56),
        sizes(64, 96, 2, 4, encoder_hidden_size=64),
    ),
    "mid": (
        sizes(1024, 2816, 12, 16, vocab_size=8000),
        sizes(512, 2048, 8, 8, image_size=448),
        sizes(512, 1408, 2, 8, encoder_hidden_size=512),
    ),
    "7b": (sizes(4096, 11008, 32, 32, vocab_size=32000), {}, {}),
}


class NoWords:
    """Stands in for a tokenizer: a random model has no vocabulary, and text is not what is measured."""

    def token_bytes(self, _token_id: int) -> bytes:
        """Return no text."""
        return b""


@dataclass
class Collector:
    """A sink that notes when its first token came."""

    first_s: float | None = None
    is_done: bool = False
    error: EngineError | None = None
    num_tokens: int = 0
    is_cancelled: bool = False
    deltas: list[Delta] = field(default_factory=list)

    def put(self, item: Delta | EngineError | None) -> None:
        """Take what the scheduler sends."""
        if item is None:
            self.is_done = True
        elif isinstance(item, EngineError):
            self.error = item
        elif item.usage is not None:
            self.num_tokens = item.usage.completion_tokens


def make_config(shape: str) -> MPLUGOwl2Config:
    """Describe a model of one of the shapes."""
    decoder, vision, abstractor = SHAPES[shape]
    if vision:
        abstractor = {**abstractor, "grid_size": vision["image_size"] // 14, "num_learnable_queries": 64}
        vision = {**vision, "patch_size": 14}
    return MPLUGOwl2Config(
        **decoder,
        num_key_value_heads=decoder["num_attention_heads"],
        max_position_embeddings=2048,
        visual_config={"visual_model": vision, "visual_abstractor": abstractor},
    )


def make_model(shape: str, device: torch.device, dtype: torch.dtype) -> MPLUGOwl2ForConditionalGeneration:
    """Build a random model of one of the shapes."""
    config = make_config(shape)
    torch.manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            model = MPLUGOwl2ForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(default)
    return model.to(device=device, dtype=dtype).eval()


@dataclass
class Case:
    """One request in the form of both sides."""

    ids: list[int]
    pixels: Tensor | None


def make_cases(model: MPLUGOwl2ForConditionalGeneration, num_cases: int, *, has_pictures: bool = True) -> list[Case]:
    """Make requests of unequal length; every other one has a picture, if any."""
    generator = torch.Generator().manual_seed(1)
    size = model.config.vision.image_size
    cases = []
    for index in range(num_cases):
        ids = torch.randint(3, model.config.vocab_size, (24 + 7 * index,), generator=generator).tolist()
        pixels = None
        if has_pictures and index % 2 == 0:
            ids.insert(4, IMAGE_TOKEN_ID)
            pixels = torch.randn((1, 3, size, size), generator=generator)
        cases.append(Case([1, *ids], pixels))
    return cases


def prepare(model: MPLUGOwl2ForConditionalGeneration, case: Case, num_new: int) -> PreparedRequest:
    """Turn a case into what the scheduler takes."""
    rows = model.config.num_image_rows
    return PreparedRequest.make(
        case.ids, case.pixels, rows, num_new, SamplingParams(max_tokens=num_new), CacheScope("", "random")
    )


def make_batch(
    model: MPLUGOwl2ForConditionalGeneration, num_rows: int, cache_bytes: int = 0
) -> tuple[ContinuousBatch[Any, Any], Owl2Runner]:
    """Make a fresh runner and scheduler."""
    # No token ends an answer, so that both sides generate exactly as many.
    runner = Owl2Runner(model, NoWords(), frozenset(), PrefixCache(cache_bytes), num_rows)  # type: ignore[arg-type]
    limits = BatchLimits(max_rows=num_rows, max_tokens=10**9, prefill_tokens=512)
    return ContinuousBatch(runner, limits), runner


def serve(batch: ContinuousBatch[Any, Any], jobs: Sequence[PreparedRequest]) -> list[Collector]:
    """Submit all at once and step until all are done."""
    sinks = [Collector() for _ in jobs]
    for job, sink in zip(jobs, sinks, strict=True):
        batch.submit(job, sink)
    while not batch.is_idle:
        batch.step()
    for sink in sinks:
        if sink.error:
            raise sink.error
    return sinks


def generate_alone(model: MPLUGOwl2ForConditionalGeneration, case: Case, num_new: int) -> None:
    """Answer one request the way the reference worker does: `generate()`, batch size 1."""
    config = GenerationConfig(
        max_new_tokens=num_new, min_new_tokens=num_new, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    inputs: dict[str, Any] = {"input_ids": torch.tensor([case.ids], device=model.device)}
    if case.pixels is not None:
        inputs["pixel_values"] = case.pixels.to(model.device, model.dtype)
    with torch.inference_mode():
        model.generate(**inputs, attention_mask=torch.ones_like(inputs["input_ids"]), generation_config=config)


def clock(device: torch.device, work: Callable[[], object]) -> float:
    """Time one run, the device's queue emptied before and after; seconds."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def alternate(
    device: torch.device, first: Callable[[], object], second: Callable[[], object], runs: int
) -> tuple[float, float]:
    """Time two things in turn, so that a machine that slows down slows both; medians in seconds."""
    first(), second()
    times = [(clock(device, first), clock(device, second)) for _ in range(runs)]
    return statistics.median(a for a, _ in times), statistics.median(b for _, b in times)


def bare_products(model: MPLUGOwl2ForConditionalGeneration, num_rows: int) -> Callable[[], object]:
    """Return the matrix products of one decode step and nothing else: the floor of (c).

    The real weights are used, so that every one of them has to come from memory.
    """
    linears = []
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        linears += [attention.q_proj, attention.k_proj.multiway[0], attention.v_proj.multiway[0], attention.o_proj]
        linears += [mlp.gate_proj, mlp.up_proj, mlp.down_proj]
    linears.append(model.lm_head)
    return products([linear.weight for linear in linears], num_rows)


def decode_weights_bytes(model: MPLUGOwl2ForConditionalGeneration) -> int:
    """Bytes of the weights that a decode step reads."""
    text = sum(p.numel() for name, p in model.model.layers.named_parameters() if "multiway.1" not in name)
    return (text + model.lm_head.weight.numel()) * model.dtype.itemsize


def bench_concurrency(
    model: MPLUGOwl2ForConditionalGeneration, batches: Sequence[int], num_new: int, runs: int
) -> None:
    """Print (a): with pictures in every other request and without any.

    The last column is what the hardware allows at most: reading prompts and pictures is bound by arithmetic, so doing
    it side by side wins nothing, and a decode step of N rows cannot be faster than its bare matrix products.
    """
    rows = []
    for num, has_pictures in [(num, has_pictures) for num in batches for has_pictures in (True, False)]:
        cases = make_cases(model, num, has_pictures=has_pictures)
        jobs = [prepare(model, case, num_new) for case in cases]
        prompts = [prepare(model, case, 1) for case in cases]

        def ours(jobs: Sequence[PreparedRequest] = jobs, num: int = num) -> None:
            # The batch empties a request's list of pictures as it encodes them.
            serve(make_batch(model, num)[0], [replace(job, pictures=[*job.pictures]) for job in jobs])

        def alone(cases: Sequence[Case] = cases) -> None:
            for case in cases:
                generate_alone(model, case, num_new)

        ours_s, alone_s = alternate(model.device, ours, alone, runs)
        prefill_s = statistics.median(clock(model.device, lambda p=prompts, n=num: ours(p, n)) for _ in range(runs))
        one_s, many_s = alternate(model.device, bare_products(model, 1), bare_products(model, num), 10)
        most = (prefill_s + num * num_new * one_s) / (prefill_s + num_new * many_s)
        total = num * num_new
        what = "half with a picture" if has_pictures else "text only"
        rows.append(
            (
                f"{num}, {what}",
                f"{total / ours_s:.1f}",
                f"{total / alone_s:.1f}",
                f"{alone_s / ours_s:.2f}x",
                f"{prefill_s / ours_s:.0%}",
                f"{most:.2f}x",
            )
        )
    table(
        f"(a) requests at once, {num_new} new tokens each",
        ("requests", "scheduler, tokens/s", "generate(), tokens/s", "ratio", "time in prompts", "arithmetic allows"),
        rows,
    )


def bench_follow_up(model: MPLUGOwl2ForConditionalGeneration, runs: int) -> None:
    """Print (b)."""
    case = make_cases(model, 1)[0]
    follow_up = [*case.ids, *range(20, 44)]
    cold_s, warm_s = [], []
    for _ in range(runs + 1):
        batch, _runner = make_batch(model, 1, cache_bytes=2**30)
        cold = prepare(model, case, 1)
        cold_s.append(clock(model.device, lambda batch=batch, cold=cold: serve(batch, [cold])))
        warm = prepare(model, Case(follow_up, case.pixels), 1)
        warm_s.append(clock(model.device, lambda batch=batch, warm=warm: serve(batch, [warm])))
    cold_m, warm_m = statistics.median(cold_s[1:]), statistics.median(warm_s[1:])
    table(
        "(b) time to first token with one picture",
        ("question", "ms", "saved"),
        [("first", f"{1e3 * cold_m:.1f}", ""), ("follow-up", f"{1e3 * warm_m:.1f}", f"{1 - warm_m / cold_m:.0%}")],
    )


def bench_decode(model: MPLUGOwl2ForConditionalGeneration, batches: Sequence[int], runs: int) -> None:
    """Print (c)."""
    bandwidth = copy_bandwidth(model.device, partial(clock, model.device))
    limit_s = decode_weights_bytes(model) / bandwidth
    rows = []
    for num in batches:
        batch, runner = make_batch(model, num)
        for case in make_cases(model, num):
            batch.submit(prepare(model, case, 400), Collector())
        while batch.num_rows < num or batch.num_waiting or any(row.place is None for row in running(batch)):
            batch.step()
        active = running(batch)

        @torch.inference_mode()
        def step(runner: Owl2Runner = runner, active: list[Any] = active) -> None:
            runner.decode_logits(active)

        step_s, floor_s = alternate(model.device, step, bare_products(model, num), runs)
        rows.append(
            (
                num,
                f"{1e3 * step_s:.2f}",
                f"{1e3 * floor_s:.2f}",
                f"{step_s / floor_s:.2f}x",
                f"{num / step_s:.0f}",
                f"{limit_s / step_s:.0%}",
            )
        )
    table(
        f"(c) one decode step; memory copies at {bandwidth / 1e9:.0f} GB/s (reading and writing)",
        ("rows", "step, ms", "bare products, ms", "ratio", "tokens/s", "of the bandwidth limit of one row's step"),
        rows,
    )


def running(batch: ContinuousBatch[Any, Any]) -> list[Any]:
    """Return the rows of a batch."""
    return [entry.row for entry in (*batch._reading, *batch._answering)]


def bench_memory(shape: str, device: torch.device) -> None:
    """Print (d); CUDA only, since that is where weights are quantised for their size."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(shape, torch.device("cpu"), torch.bfloat16)
        model.save_pretrained(folder)
        del model
        for quantization in ("none", "int8", "int4"):
            gc.collect()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            loaded = load_model(
                Path(folder), dtype=torch.bfloat16, device=device, attn_implementation="sdpa", quantization=quantization
            )
            resident = torch.cuda.memory_allocated()
            serve(make_batch(loaded, 1)[0], [prepare(loaded, make_cases(loaded, 1)[0], 32)])
            rows.append((quantization, f"{resident / 1e9:.1f}", f"{torch.cuda.max_memory_allocated() / 1e9:.1f}"))
            del loaded
    table("(d) memory, GB", ("weights", "loaded", "peak while answering"), rows)


def main() -> None:
    """Run what the options ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="mid")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--batches", type=int, nargs="+")
    args = parser.parse_args()
    device = torch.device(args.device)
    dtype = getattr(torch, args.dtype or ("bfloat16" if device.type == "cuda" else "float32"))
    batches = args.batches or ([1, 8, 32] if device.type == "cuda" else [1, 8])
    torch.set_num_threads(args.threads)
    model = make_model(args.shape, device, dtype)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{args.threads} CPU threads"
    print(f"Owl2 serving: {args.shape}, {num_parameters / 1e6:.0f} M parameters, {str(dtype)[6:]}, {card},")
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}"
    print(f"{versions}; medians of {args.runs} alternating runs.")
    bench_concurrency(model, [num for num in batches if num > 1], args.new_tokens, args.runs)
    bench_follow_up(model, args.runs)
    bench_decode(model, batches, max(args.runs, 20))
    if device.type == "cuda":
        del model
        bench_memory(args.shape, device)


if __name__ == "__main__":
    sys.exit(main())

"""What one token costs with GLM: our whole decode step, against the bare forward, and beside `generate()`.

    python -m benchmarks.glm_decode                                  # a CPU core, mid-size random model
    python -m benchmarks.glm_decode --shape 9b --device cuda         # the published shape, random bf16 weights

(a) One step of N running rows through scheduler and runner (attention into our cache, choosing tokens, text), against
the model's forward alone over keys and values that lie there already: the aim is at most 10 % more. `generate()` runs
the same prompts in one padded batch. The bandwidth column compares with reading every weight once.
(b) CUDA only: the forward of (a) as it is, and captured in a CUDA graph with buffers that never move: what a compiled
decode step could win at most.
(c) CUDA only: memory of bf16, int8 and int4 weights, loaded by the engine's own loader, and one step of each.
"""

from __future__ import annotations

import gc
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from benchmarks.floors import copy_bandwidth
from benchmarks.glm_random import Bench, Collector, Served, bare_products, options
from benchmarks.printed import table
from engines.glm.loading import load_model

PROMPT_TOKENS = 192


class FixedKeys(Cache):
    """Keys and values that are there already: nothing is written, so a forward costs only itself."""

    def __init__(self, layers: Sequence[tuple[Tensor, Tensor]]) -> None:
        super().__init__(layers=[])
        self._fixed = layers

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any) -> Any:
        """Return what there is."""
        return self._fixed[layer_idx]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens in front of the new one."""
        return self._fixed[layer_idx][0].shape[2] - 1

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Width of a mask, and which token its first column is."""
        return self._fixed[layer_idx][0].shape[2], 0


def start(bench: Bench, num_rows: int, num_new: int) -> Served:
    """Bring rows to where only decode steps are left."""
    served = bench.make_batch(num_rows)
    for index in range(num_rows):
        served.batch.submit(bench.prepare(bench.make_case(PROMPT_TOKENS - 3 * index, seed=index), num_new), Collector())
    while served.batch.num_rows < num_rows or any(row.place is None for row in served.rows()):
        served.batch.step()
    return served


def bare_forward(bench: Bench, num_rows: int) -> Callable[[], object]:
    """Return the model's forward alone, for as many rows as (a) has, of the same lengths."""
    lengths = [PROMPT_TOKENS - 3 * index + 1 for index in range(num_rows)]
    width, device, dtype = max(lengths), bench.device, bench.model.dtype
    config = bench.config
    size = (num_rows, config.num_key_value_heads, width, config.hidden_size // config.num_attention_heads)
    generator = torch.Generator(device).manual_seed(0)
    layers = [
        tuple(torch.randn(size, generator=generator, device=device, dtype=dtype) for _ in range(2))
        for _ in range(config.num_hidden_layers)
    ]
    cache = FixedKeys(layers)  # type: ignore[arg-type]
    places = torch.tensor(lengths, device=device) - 1
    mask = None
    if num_rows > 1:
        is_hidden = torch.arange(width, device=device) > places[:, None]
        mask = torch.zeros(is_hidden.shape, dtype=dtype, device=device).masked_fill_(is_hidden, float("-inf"))
        mask = mask[:, None, None]
    ids = torch.ones((num_rows, 1), dtype=torch.int64, device=device)
    positions = places[None, :, None].expand(3, -1, -1).contiguous()

    @torch.inference_mode()
    def run() -> Tensor:
        output = bench.model(
            input_ids=ids,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits  # type: ignore[no-any-return]

    return run


def in_a_graph(run: Callable[[], object]) -> Callable[[], object]:
    """Capture a function, whose tensors never move, in a CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def decode_weight_bytes(bench: Bench) -> int:
    """Bytes of the weights that a decode step reads."""
    layers = sum(p.numel() * p.itemsize for p in bench.model.model.language_model.layers.parameters())
    return layers + bench.model.lm_head.weight.numel() * bench.model.lm_head.weight.itemsize


def bench_steps(bench: Bench, batches: Sequence[int], steps: int, runs: int) -> None:
    """Print (a)."""
    bandwidth = copy_bandwidth(bench.device, bench.clock)
    limit_s = decode_weight_bytes(bench) / bandwidth
    rows = []
    for num_rows in batches:
        forward = bare_forward(bench, num_rows)
        cases = [bench.make_case(PROMPT_TOKENS - 3 * index, seed=index) for index in range(num_rows)]
        served = start(bench, num_rows, 10**6)

        def ours(served: Served = served) -> None:
            for _ in range(steps):
                served.batch.step()

        def bare(forward: Callable[[], object] = forward) -> None:
            for _ in range(steps):
                forward()

        def products(run: Callable[[], object] = bare_products(bench, num_rows)) -> None:
            for _ in range(steps):
                run()

        def short(cases: Any = cases) -> None:
            bench.generate(cases, 1)

        def long(cases: Any = cases) -> None:
            bench.generate(cases, 1 + 8 * steps)

        # Rows grow while they are measured; so few steps change their width by little.
        ours_s, bare_s, products_s = (s / steps for s in bench.alternate(ours, bare, products, runs=runs))
        long_s, short_s = bench.alternate(long, short, runs=max(3, runs // 8))
        generate_s = (long_s - short_s) / (8 * steps)
        rows.append(
            (
                num_rows,
                f"{1e3 * ours_s:.2f}",
                f"{1e3 * bare_s:.2f}",
                f"{ours_s / bare_s - 1:+.1%}",
                f"{1e3 * products_s:.2f}",
                f"{1e3 * generate_s:.2f}",
                f"{num_rows / ours_s:.0f}",
                f"{limit_s / ours_s:.0%}",
            )
        )
    head = (
        "rows",
        "our step, ms",
        "bare forward, ms",
        "more",
        "bare products, ms",
        "generate(), ms",
        "tokens/s",
        "of bandwidth",
    )
    table(f"(a) one decode step; memory copies at {bandwidth / 1e9:.0f} GB/s (reading and writing)", head, rows)


def bench_graphs(bench: Bench, batches: Sequence[int], runs: int) -> None:
    """Print (b)."""
    rows = []
    for num_rows in batches:
        forward = bare_forward(bench, num_rows)
        try:
            graph = in_a_graph(forward)
        except RuntimeError as error:  # something in the library's forward asks the host
            rows.append((num_rows, "", f"not captured: {error}".splitlines()[0], ""))
            continue
        plain_s, graph_s = bench.alternate(forward, graph, runs=runs)
        rows.append((num_rows, f"{1e3 * plain_s:.2f}", f"{1e3 * graph_s:.2f}", f"{plain_s / graph_s:.2f}x"))
    table("(b) the bare forward of a step", ("rows", "as it is, ms", "CUDA graph, ms", "ratio"), rows)


def bench_memory(bench: Bench, runs: int) -> None:
    """Print (c); lets the model go."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        bench.model.save_pretrained(folder)
        for quantization in ("none", "int8", "int4"):
            bench.model = None
            gc.collect()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            bench.model, _ = load_model(folder, torch.device("cuda:0"), torch.bfloat16, "auto", quantization)
            resident = torch.cuda.memory_allocated()
            bench.make_batch(1).answer([bench.prepare(bench.make_case(64, [(72, 70)]), 16)])
            peak = torch.cuda.max_memory_allocated()
            cells = []
            for num_rows in (1, 8):
                served = start(bench, num_rows, 10**6)
                (step_s,) = bench.alternate(served.batch.step, runs=max(runs, 20))
                cells.append(f"{num_rows / step_s:.0f}")
            rows.append((quantization, f"{resident / 1e9:.1f}", f"{peak / 1e9:.1f}", *cells))
    head = ("weights", "loaded, GB", "peak with a 1 MP picture, GB", "tokens/s, 1 row", "tokens/s, 8 rows")
    table("(c) memory and speed by quantization", head, rows)


def main() -> None:
    """Run what the options ask for."""
    parser = options(__doc__)
    parser.add_argument("--batches", type=int, nargs="+")
    parser.add_argument("--steps", type=int, default=2, help="decode steps of one measurement")
    args = parser.parse_args()
    bench = Bench.make(args)
    is_cuda = bench.device.type == "cuda"
    batches = args.batches or ([1, 8, 32] if is_cuda else [1, 8])
    bench_steps(bench, batches, args.steps, 8 * args.runs)
    if is_cuda:
        bench_graphs(bench, batches, max(args.runs, 20))
        bench_memory(bench, args.runs)


if __name__ == "__main__":
    sys.exit(main())

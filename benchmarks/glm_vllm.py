"""GLM on vLLM beside our own engine beside `generate()`: prompts of the same lengths, random weights of one shape.

    python -m benchmarks.glm_vllm                                   # tiny, on the CPU: does it run?
    python -m benchmarks.glm_vllm --shape 9b --device cuda          # the published shape in bfloat16
    python -m benchmarks.glm_vllm --shape 9b --device cuda && python -m benchmarks.owl2_vllm --shape 7b --device cuda

The last line is both models; it is meant to take under 8 minutes, which no GPU has shown yet. Use the Python of vLLM's
environment (`make .venv-vllm`, or vLLM for CUDA, see engines/owl2_vllm/README.md); our engine and `generate()` run on
its transformers too. What is measured: `benchmarks/vllm_sides.py`. vLLM is given pictures as pixels and prepares them
itself, within its time; the other two are given them prepared.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks.glm_random import MARKS, SHAPES, Bench, Case, make_config, make_model, make_tokenizer
from benchmarks.vllm_sides import Sides, answer_all, make_model_folder

BATCHES = {"tiny": (1, 4), "mid": (1, 4, 8), "9b": (1, 8, 32)}
NEW_TOKENS = {"tiny": 16, "mid": 32, "9b": 128}
# Of a picture, in patches of 14 px: 144 tokens.
SIDE = 24
# Its tokenizer and processor: vLLM looks for a picture's tokens in the prompt by them.
POCKET = Path(__file__).parents[1] / "engines" / "pocket" / "weights" / "glm"
TOKENS = (
    *(MARKS[0], "<|begin_of_image|>", "<|image|>", "<|end_of_image|>"),
    *("<|begin_of_video|>", "<|video|>", "<|end_of_video|>"),
)

Answer = Callable[[Sequence[int], int], object]


def length_of(index: int) -> int:
    """Tokens of text in a request; every other one has a picture too."""
    return 24 + 7 * index


def make_bench(shape: str, device: torch.device, dtype: torch.dtype) -> tuple[Bench, list[Case]]:
    """Make our model, and its requests."""
    tokenizer = make_tokenizer(SHAPES[shape][0]["vocab_size"])
    bench = Bench(make_model(shape, tokenizer, device, dtype), tokenizer)
    numbers = range(max(BATCHES[shape]))
    return bench, [bench.make_case(length_of(n), [] if n % 2 else [(SIDE, SIDE)], seed=n) for n in numbers]


def start_generate(shape: str, device: torch.device, dtype: torch.dtype, _is_eager: bool) -> Answer:
    """The library's `generate()`, with all requests in one padded batch."""
    bench, cases = make_bench(shape, device, dtype)
    return lambda numbers, num_new: bench.generate([cases[n] for n in numbers], num_new)


def start_ours(shape: str, device: torch.device, dtype: torch.dtype, _is_eager: bool) -> Answer:
    """Our own running batch, nothing kept between requests."""
    bench, cases = make_bench(shape, device, dtype)
    return lambda numbers, num_new: bench.make_batch(len(numbers)).answer(
        [bench.prepare(cases[n], num_new) for n in numbers]
    )


def start_vllm(shape: str, device: torch.device, dtype: torch.dtype, is_eager: bool) -> Answer:
    """VLLM in this process, its weights made up; no prefix cache, as beside it."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    from vllm import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

    folder, ids = make_folder(shape)
    more: dict[str, Any] = {"kv_cache_memory_bytes": 2**28, "block_size": 32} if device.type == "cpu" else {}
    arguments = EngineArgs(
        model=str(folder),
        dtype=str(dtype).removeprefix("torch."),  # type: ignore[arg-type]
        load_format="dummy",
        max_model_len=2048,
        max_num_seqs=max(BATCHES[shape]),
        enable_prefix_caching=False,
        limit_mm_per_prompt={"image": 1},
        mm_processor_cache_gb=0,
        distributed_executor_backend="uni",
        enforce_eager=is_eager,
        disable_log_stats=True,
        **more,
    )
    vllm = LLMEngine.from_engine_args(arguments)
    prompts = [make_prompt(index, ids) for index in range(max(BATCHES[shape]))]
    return lambda numbers, num_new: answer_all(vllm, [prompts[n] for n in numbers], num_new)


def make_folder(shape: str) -> tuple[Path, dict[str, int]]:
    """Write what vLLM reads of a model but its weights; returns the ids of its marks too."""
    folder = make_model_folder("glm-shape-")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        shutil.copy(POCKET / name, folder)
    processor = json.loads((POCKET / "preprocessor_config.json").read_text("utf-8"))
    processor |= {"patch_size": 14, "size": {"shortest_edge": 1, "longest_edge": 10**8}}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    written = json.loads((folder / "tokenizer.json").read_text("utf-8"))["added_tokens"]
    ids = {token["content"]: int(token["id"]) for token in written if token["content"] in TOKENS}
    config = make_config(shape, max(SHAPES[shape][0]["vocab_size"], 2048), ids)
    config.architectures = ["Glm4vForConditionalGeneration"]
    for name in ("image_start", "image_end", "video_start", "video_end"):
        kind, _, place = name.partition("_")
        setattr(config, f"{name}_token_id", ids[f"<|{'begin' if place == 'start' else 'end'}_of_{kind}|>"])
    config.save_pretrained(folder)
    return folder, ids


def make_prompt(index: int, ids: dict[str, int]) -> dict[str, Any]:
    """Make a request of the same length as the other sides have under this number."""
    generator = torch.Generator().manual_seed(index)
    text = torch.randint(0, min(ids.values()), (length_of(index),), generator=generator).tolist()
    if index % 2:
        return {"prompt_token_ids": text}
    side = SIDE * 14
    pixels = torch.randint(0, 256, (side, side, 3), generator=generator, dtype=torch.uint8)
    text[4:4] = [ids["<|image|>"]]
    return {"prompt_token_ids": text, "multi_modal_data": {"image": Image.fromarray(pixels.numpy())}}


SIDES: Sides[int] = Sides(
    module="benchmarks.glm_vllm",
    batches=BATCHES,
    num_new=NEW_TOKENS,
    make_cases=lambda _shape, number: range(number),
    start={"generate": start_generate, "ours": start_ours, "vllm": start_vllm},
)

if __name__ == "__main__":
    SIDES.main(__doc__)

"""What the GLM benchmarks share: a random model of a shape, requests for it, both ways of answering, clocks.

In: a shape's name and a device. Out: numbers that are only compared with numbers of the same run. Random weights say
word salad, at the same cost as true ones.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import AutoModelForImageTextToText, GenerationConfig, Glm4vConfig, StoppingCriteria

from benchmarks.floors import products
from engines.base import Delta, EngineError, SamplingParams
from engines.glm.decoding import Answer
from engines.glm.parsing import AnswerParser, ReasoningSplitter, StreamDetokenizer, TokenBytes
from engines.glm.runner import GlmRunner, Pixels, PreparedRequest
from engines.memory import PUBLISHED_CONFIGS
from engines.runtime.batching import BatchLimits, ContinuousBatch
from engines.runtime.constrained import Constraint
from engines.runtime.prefix_cache import CacheScope, PrefixCache

MARKS = ("<|endoftext|>", "<think>", "</think>", "<|begin_of_box|>", "<|end_of_box|>", "<|image|>")

# (decoder, vision tower); the rest of each config follows from these.
SHAPES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "tiny": (
        {
            **{"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4, "num_attention_heads": 4},
            **{"num_key_value_heads": 2, "vocab_size": 2048},
        },
        {"depth": 2, "hidden_size": 128, "intermediate_size": 352, "out_hidden_size": 128, "num_heads": 4},
    ),
    "mid": (
        {
            **{"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 12, "num_attention_heads": 16},
            **{"num_key_value_heads": 2, "vocab_size": 16384},
        },
        {"depth": 6, "hidden_size": 512, "intermediate_size": 2816, "out_hidden_size": 1024, "num_heads": 8},
    ),
    "9b": (
        dict(PUBLISHED_CONFIGS["glm"]["text_config"]),
        {**PUBLISHED_CONFIGS["glm"]["vision_config"], "num_heads": 12},
    ),
}


def options(description: str | None) -> argparse.ArgumentParser:
    """Make a parser with the options all of them have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="mid")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; with more, CPU time counts idle spinning")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--vocab", type=int, help="tokens of the vocabulary, if not the shape's own")
    return parser


@dataclass
class Bench:
    """A model with everything around it.

    Attributes:
        model: in evaluation mode.
        tokenizer: byte-level BPE with as many tokens as the model has, made up.
    """

    model: Any
    tokenizer: Tokenizer

    @classmethod
    def make(cls, args: argparse.Namespace) -> Bench:
        """Make a random model as the options say, and print what it is."""
        torch.set_num_threads(args.threads)
        device = torch.device(args.device)
        dtype = getattr(torch, args.dtype or ("bfloat16" if device.type == "cuda" else "float32"))
        tokenizer = make_tokenizer(args.vocab or SHAPES[args.shape][0]["vocab_size"])
        model = make_model(args.shape, tokenizer, device, dtype)
        count = sum(parameter.numel() for parameter in model.parameters())
        hardware = (
            torch.cuda.get_device_name(device) if device.type == "cuda" else f"{_cpu_name()}, {args.threads} thread"
        )
        print(f"{args.shape}, {count / 1e6:.1f} M parameters, {str(dtype)[6:]}, {hardware},")
        print(
            f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__};"
        )
        measure = "wall time" if device.type == "cuda" else "process CPU time"
        load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
        print(f"{measure}, medians of {args.runs} alternating runs; load average at the start {load}.")
        return cls(model, tokenizer)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device  # type: ignore[no-any-return]

    @property
    def config(self) -> Any:
        """Of the decoder."""
        return self.model.config.get_text_config()

    def make_answer(self, job: PreparedRequest) -> Answer:
        """Make what turns tokens into text, as the engine does; no token ends an answer, so lengths are as planned."""
        ids = {mark: self.tokenizer.token_to_id(mark) for mark in MARKS}
        splitter = ReasoningSplitter(ids["<think>"], ids["</think>"], {ids["<|begin_of_box|>"], ids["<|end_of_box|>"]})
        parser = AnswerParser(splitter, lambda: StreamDetokenizer(self.tokenizer), job.sampling.stop)
        return Answer(parser, TokenBytes(self.tokenizer), frozenset(), job.max_tokens)

    def make_batch(self, num_rows: int, cache_bytes: int = 0, prefill_tokens: int = 512) -> Served:
        """Make a fresh runner and scheduler."""
        runner = GlmRunner(self.model, self.make_answer, PrefixCache(cache_bytes), num_rows)
        limits = BatchLimits(max_rows=num_rows, max_tokens=10**9, prefill_tokens=prefill_tokens)
        return Served(ContinuousBatch(runner, limits), runner)

    def prepare(
        self, case: Case, max_tokens: int, start_constraint: Callable[[], Constraint] | None = None
    ) -> PreparedRequest:
        """Turn a case into what the scheduler takes."""
        return PreparedRequest.make(
            case.ids,
            case.pictures,
            self.model.config.image_token_id,
            self.model.model.get_rope_index,
            max_tokens,
            SamplingParams(max_tokens=max_tokens),
            CacheScope("", "random"),
            start_constraint=start_constraint,
        )

    def make_case(self, num_text: int, sides: Sequence[tuple[int, int]] = (), seed: int = 0) -> Case:
        """Make a question.

        Args:
            num_text: tokens of text; a few before the pictures, the rest behind.
            sides: height and width of each picture, in patches; even numbers.
            seed: of ids and pixels.
        """
        generator = torch.Generator().manual_seed(seed)
        first = self.tokenizer.token_to_id(MARKS[0])
        ids = torch.randint(0, first, (num_text,), generator=generator).tolist()
        pictures = []
        for height, width in sides:
            values = torch.randn((height * width, 1176), generator=generator)
            picture = Pixels(values, torch.tensor([[1, height, width]]))
            ids[4:4] = [self.model.config.image_token_id] * picture.num_rows
            pictures.append(picture)
        return Case(ids, pictures)

    def generate(
        self, cases: Sequence[Case], num_new: int, on_token: Callable[[], None] | None = None
    ) -> list[list[int]]:
        """Answer with the library's `generate()`, padded on the left if there are several; new ids of each."""
        width = max(len(case.ids) for case in cases)
        pads = [width - len(case.ids) for case in cases]
        image_id = self.model.config.image_token_id
        ids = torch.tensor([[0] * pad + case.ids for pad, case in zip(pads, cases, strict=True)], device=self.device)
        mask = torch.tensor([[0] * pad + [1] * (width - pad) for pad in pads], device=self.device)
        inputs: dict[str, Any] = {
            "input_ids": ids,
            "attention_mask": mask,
            "mm_token_type_ids": (ids == image_id).int(),
        }
        if pictures := [picture for case in cases for picture in case.pictures]:
            values = torch.cat([picture.pixel_values for picture in pictures])
            inputs["pixel_values"] = values.to(self.device, self.model.dtype)
            inputs["image_grid_thw"] = torch.cat([picture.grid_thw for picture in pictures]).to(self.device)
        config = GenerationConfig(
            max_new_tokens=num_new, min_new_tokens=num_new, do_sample=False, eos_token_id=None, pad_token_id=0
        )
        self.model.model.rope_deltas = None
        with torch.inference_mode():
            output = self.model.generate(
                **inputs, generation_config=config, stopping_criteria=[_OnToken(on_token)] if on_token else None
            )
        return output[:, width:].tolist()  # type: ignore[no-any-return]

    def clock(self, work: Callable[[], object]) -> float:
        """Time one run; seconds of `now`."""
        start = self.now()
        work()
        return self.now() - start

    def now(self) -> float:
        """Return wall time with the device's queue empty; on the CPU, CPU time, which others' work does not change."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()

    def alternate(self, *works: Callable[[], object], runs: int) -> list[float]:
        """Time several things in turn, so that what slows the machine down slows all; medians in seconds."""
        for work in works:
            work()
        times: list[list[float]] = [[] for _ in works]
        for run in range(runs):
            for index in range(len(works)):  # each comes first, and behind each other, equally often
                place = (index + run) % len(works)
                times[place].append(self.clock(works[place]))
        return [statistics.median(column) for column in times]


@dataclass(frozen=True)
class Case:
    """One question in the form of both sides."""

    ids: list[int]
    pictures: list[Pixels]


@dataclass
class Served:
    """A scheduler and its runner."""

    batch: ContinuousBatch[Any, Any]
    runner: GlmRunner

    def answer(self, jobs: Sequence[PreparedRequest]) -> list[Collector]:
        """Submit all at once and step until all are done."""
        sinks = [Collector() for _ in jobs]
        for job, sink in zip(jobs, sinks, strict=True):
            self.batch.submit(job, sink)
        while not self.batch.is_idle:
            self.batch.step()
        for sink in sinks:
            sink.check()
        return sinks

    def rows(self) -> list[Any]:
        """Return the rows that are read or answered."""
        return [entry.row for entry in (*self.batch._reading, *self.batch._answering)]


@dataclass
class Collector:
    """A sink that counts."""

    is_cancelled: bool = False
    is_done: bool = False
    error: EngineError | None = None
    num_tokens: int = 0
    text: list[str] = field(default_factory=list)

    def put(self, item: Delta | EngineError | None) -> None:
        """Take what the scheduler sends."""
        if item is None:
            self.is_done = True
        elif isinstance(item, EngineError):
            self.error = item
        else:
            self.text.append(item.text)
            if item.usage is not None:
                self.num_tokens = item.usage.completion_tokens

    def check(self) -> None:
        """Raise what went wrong."""
        if self.error is not None:
            raise self.error


class _OnToken(StoppingCriteria):
    """Stops nothing; is called after each token."""

    def __init__(self, on_token: Callable[[], None]) -> None:
        self._on_token = on_token

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        """Count a token of every row."""
        self._on_token()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def make_config(shape: str, vocab_size: int, marks: Mapping[str, int]) -> Glm4vConfig:
    """Describe a model of one of the shapes.

    Args:
        shape: its name.
        vocab_size: of its tokenizer, and one more.
        marks: ids of ``<|endoftext|>`` and ``<|image|>``, and of whatever else the config is to name.
    """
    decoder, vision = SHAPES[shape]
    num_pairs = decoder["hidden_size"] // decoder["num_attention_heads"] // 4
    return Glm4vConfig(
        text_config={
            **decoder,
            "vocab_size": vocab_size,
            "pad_token_id": marks[MARKS[0]],
            "rope_parameters": {
                **{"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
                "mrope_section": [num_pairs // 4, num_pairs * 3 // 8, num_pairs * 3 // 8],
            },
        },
        vision_config={
            **{"image_size": 336, "patch_size": 14, "in_channels": 3, "temporal_patch_size": 2},
            **{"spatial_merge_size": 2, **vision},
        },
        image_token_id=marks["<|image|>"],
        video_token_id=marks.get("<|video|>", vocab_size - 1),
        tie_word_embeddings=False,
    )


def make_model(shape: str, tokenizer: Tokenizer, device: torch.device, dtype: torch.dtype) -> Any:
    """Build a random model of one of the shapes, on its device."""
    marks = {mark: tokenizer.token_to_id(mark) for mark in MARKS}
    config = make_config(shape, tokenizer.get_vocab_size() + 1, marks)
    torch.manual_seed(0)
    with device:
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype, attn_implementation="sdpa")
    return model.to(device).eval()


def make_tokenizer(vocab_size: int) -> Tokenizer:
    """Make up a byte-level BPE for a model of so many logits; the last tokens are marks. The same each time."""
    chance = random.Random(0)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {character: index for index, character in enumerate(alphabet)}
    # Mostly words and numbers, some bytes of everything else, as in a trained one.
    letters = [c for c in alphabet if c.isascii() and c.isalnum()]
    pieces, merges = [*letters * 4, "Ġ", *alphabet], []
    while len(vocab) < vocab_size - len(MARKS) - 1:
        left, right = chance.choice(pieces), chance.choice(pieces)
        if len(left + right) <= 12 and left + right not in vocab:
            vocab[left + right] = len(vocab)
            merges.append((left, right))
            pieces.append(left + right)
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(mark, special=True) for mark in MARKS])
    return tokenizer


def bare_products(bench: Bench, num_rows: int) -> Callable[[], object]:
    """Return the matrix products of one decode step and nothing else; the weights are the model's own."""
    linears = [
        module
        for name, module in bench.model.model.language_model.named_modules()
        if isinstance(module, torch.nn.Linear) and "layers." in name
    ]
    return products([linear.weight for linear in [*linears, bench.model.lm_head]], num_rows)


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()

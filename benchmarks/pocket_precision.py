"""What bfloat16 and int8 cost the pocket models: accuracy and latency beside float32's, on the same questions.

    python -m benchmarks.pocket_precision [--questions N] [--seed S] [--models DIR]

N questions of each type; a difference counts where its 95 % interval, over the questions pair by pair, leaves out zero.
int8 on a CPU needs `pip install 'glowl[quant]'`; without it that row says so.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from training.pocket.checkpoints import EngineName
from training.pocket.evaluate import (
    DEFAULT_MODELS,
    ENGINES,
    ask_all,
    draw_questions,
    start_engine,
    time_short_answers,
    wilson_interval,
)
from training.pocket.scenes import Question

PRECISIONS = (("float32", "none"), ("bfloat16", "none"), ("float32", "int8"))


async def measure(
    name: EngineName, folder: Path, dtype: str, quantization: str, questions: Sequence[Question], seed: int
) -> tuple[list[bool], dict[str, Any]]:
    """Whether each answer was right, and the latency of short ones."""
    engine, _ = await start_engine(name, folder, dtype, quantization)
    try:
        latency = await time_short_answers(engine, name, seed)
        return [outcome.is_right for outcome in await ask_all(engine, questions)], latency
    finally:
        await engine.aclose()


def main() -> None:
    """Print a table per engine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=100, help="of each type")
    parser.add_argument("--seed", type=int, default=7_368_793)
    parser.add_argument("--models", type=Path, default=DEFAULT_MODELS, help="holds glm/ and owl2/")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("# What fewer bits cost the pocket models\n")
    print(f"`python -m benchmarks.pocket_precision --questions {arguments.questions} --seed {arguments.seed}`\n")
    print(
        f"{os.cpu_count()} CPU cores, one used; Python {platform.python_version()}, torch {torch.__version__}; load "
        f"average at the start {', '.join(f'{load:.1f}' for load in os.getloadavg())}"
    )
    for name in ENGINES:
        questions = draw_questions(name, arguments.questions, arguments.seed)
        print(f"\n### {name}, {len(questions)} questions\n")
        print("| weights | accuracy (95 %) | against float32 (95 %) | worse | short answer, median | 95 % within |")
        print("|---|---|---|---|---|---|")
        reference: list[bool] = []
        for dtype, quantization in PRECISIONS:
            label = dtype if quantization == "none" else quantization
            try:
                right, latency = asyncio.run(
                    measure(name, arguments.models / name, dtype, quantization, questions, arguments.seed)
                )
            except ValueError as error:  # torchao is not installed
                print(f"| {label} | not measured: {error} | | | | |", flush=True)
                continue
            reference = reference or right
            differences = [int(ours) - int(theirs) for ours, theirs in zip(right, reference, strict=True)]
            mean = statistics.fmean(differences)
            half = 1.96 * statistics.stdev(differences) / math.sqrt(len(differences))
            low, high = wilson_interval(sum(right), len(right))
            against = f"{mean:+.4f} ({mean - half:+.4f} to {mean + half:+.4f})" if right is not reference else ""
            worse = ("yes" if mean + half < 0 else "no") if against else ""
            print(
                f"| {label} | {statistics.fmean(right):.3f} ({low:.3f} to {high:.3f}) | {against} | {worse} | "
                f"{1000 * latency['median_s']:.0f} ms | {1000 * latency['p95_s']:.0f} ms |",
                flush=True,
            )


if __name__ == "__main__":
    main()

"""What agreement is worth: how often the final answer is right when draft and final agree by more than some score.

    python -m benchmarks.agreement [--questions N] [--seed S] [--models DIR] [--svg FILE]

The pocket models answer questions whose answers are known. English questions, evenly of all types that the small Owl2
is judged on, are merged by `deep`: GLM's draft beside Owl2's answer, which is final. Chinese two-hop questions are
merged by `compose`: GLM writes the final answer from its draft and Owl2's. Prompt, comparison and judgement are those
of the product and of `training.pocket.evaluate`. The picture needs matplotlib.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import torch

from engines.base import Engine, EngineError
from router.answers.agreement import combine, compare, script_of
from router.answers.merge import compose_prompt
from training.pocket.checkpoints import EngineName
from training.pocket.evaluate import DEFAULT_MODELS, ask, judged_types, start_engine, wilson_interval
from training.pocket.scenes import TYPES, Question, hops, is_right, sample_question
from training.pocket.scenes.asking import Setup
from training.pocket.scenes.layout import SIZES

IN_FLIGHT = 16
THRESHOLDS = tuple(step / 10 for step in range(11))


@dataclass(frozen=True, slots=True)
class Merged:
    """One question and what became of it.

    Attributes:
        score: agreement, None where nothing could be compared.
        basis: what it was computed from.
        is_draft_right: GLM alone.
        is_right: the final answer.
    """

    score: float | None
    basis: tuple[str, ...]
    is_draft_right: bool
    is_right: bool


def draw_english(num: int, seed: int) -> list[Question]:
    """Questions that the preset sends to Owl2, evenly by type."""
    rng = random.Random(f"agreement {seed} en")
    names = [name for name in judged_types("owl2") if TYPES[name].num_images and "en" in TYPES[name].langs["owl2"]]
    return [sample_question(rng, names[index % len(names)], "en") for index in range(num)]


def draw_chinese(num: int, seed: int) -> list[Question]:
    """Two-hop questions about one picture, in Chinese throughout."""
    rng = random.Random(f"agreement {seed} zh")
    questions: list[Question] = []
    while len(questions) < num:
        scenes = hops.scene_hop_in_chinese(rng, None, Setup((1, 6), SIZES, "zh"))
        question = scenes and hops.ask_any_hop(rng, scenes, "zh")
        if question:
            questions.append(question)
    return questions


async def answer_all(name: EngineName, folder: Path, questions: Sequence[Question]) -> list[str]:
    """Ask one engine everything; what it refuses is an empty answer."""
    engine, _ = await start_engine(name, folder)
    try:
        return await _gather(questions, lambda question: _answer(engine, question))
    finally:
        await engine.aclose()


async def _answer(engine: Engine, question: Question) -> str:
    try:
        return (await ask(engine, question)).answer
    except EngineError:
        return ""


async def _gather(questions: Sequence[Question], work: Callable[[Question], Awaitable[str]]) -> list[str]:
    free = asyncio.Semaphore(IN_FLIGHT)

    async def one(question: Question) -> str:
        async with free:
            return await work(question)

    return list(await asyncio.gather(*(one(question) for question in questions)))


def merge_all(
    questions: Sequence[Question], drafts: Sequence[str], findings: Sequence[str], composed: Sequence[str] | None = None
) -> list[Merged]:
    """Compare as `router.answers.merge` does, and judge drafts and final answers."""
    merged = []
    for index, question in enumerate(questions):
        draft, final = drafts[index], (composed or findings)[index]
        agreement = compare(draft, findings[index], question.text)
        if composed and script_of(draft) != script_of(findings[index]):
            agreement = combine(agreement, compare(draft, final, question.text))
        merged.append(Merged(agreement.score, agreement.basis, is_right(question, draft), is_right(question, final)))
    return merged


def curve(merged: Sequence[Merged]) -> list[tuple[float, int, int]]:
    """(threshold, answers with at least that agreement, how many of them are right)."""
    scored = [item for item in merged if item.score is not None]
    points = []
    for threshold in THRESHOLDS:
        above = [item.is_right for item in scored if item.score is not None and item.score >= threshold]
        points.append((threshold, len(above), sum(above)))
    return points


def interval(num_right: int, n: int) -> str:
    """A share with its 95 % interval."""
    low, high = wilson_interval(num_right, n)
    return f"{num_right / n:.3f} ({low:.3f} to {high:.3f})" if n else "-"


def print_table(title: str, merged: Sequence[Merged]) -> None:
    """Print one strategy's curve."""
    n = len(merged)
    unscored = [item for item in merged if item.score is None]
    below = [item for item in merged if item.score is not None and item.score < 0.5]
    print(f"\n## {title}\n")
    print(f"{n} questions. Draft right: {interval(sum(item.is_draft_right for item in merged), n)}. ", end="")
    print(f"Final right: {interval(sum(item.is_right for item in merged), n)}. ", end="")
    print(f"Below 0.5: {interval(sum(item.is_right for item in below), len(below))}, {len(below)} questions. ", end="")
    print(f"Nothing to compare: {len(unscored)}.\n")
    print("| agreement at least | share of questions | final right |\n|---|---|---|")
    for threshold, above, right in curve(merged):
        print(f"| {threshold:.1f} | {above / n:.3f} | {interval(right, above)} |")
    print("\n| computed from | n | final right where it is 0.5 or more | below |\n|---|---|---|---|")
    for basis in sorted({item.basis for item in merged if item.score is not None}):
        group = [item for item in merged if item.basis == basis and item.score is not None]
        agreed = [item.is_right for item in group if item.score is not None and item.score >= 0.5]
        others = [item.is_right for item in group if item.score is not None and item.score < 0.5]
        cells = interval(sum(agreed), len(agreed)), interval(sum(others), len(others))
        print(f"| {', '.join(basis)} | {len(group)} | {cells[0]} | {cells[1]} |")


def draw_svg(curves: dict[str, Sequence[Merged]], file: Path) -> None:
    """Draw the curves with their intervals."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "glowl", "font.family": "sans-serif"})
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 4))
    for (title, merged), colour in zip(curves.items(), ("#1f6f8b", "#c8553d"), strict=True):
        points = [(threshold, right, n) for threshold, n, right in curve(merged) if n]
        xs = [threshold for threshold, _, _ in points]
        low, high = zip(*(wilson_interval(right, n) for _, right, n in points), strict=True)
        axes.plot(xs, [right / n for _, right, n in points], marker="o", color=colour, label=title)
        axes.fill_between(xs, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set(xlabel="agreement at least", ylabel="final answer right", ylim=(None, 1.005), xlim=(-0.02, 1.02))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", frameon=False)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})


async def run(arguments: argparse.Namespace) -> dict[str, list[Merged]]:
    """Ask, merge and judge."""
    models: Path = arguments.models
    english = draw_english(arguments.questions, arguments.seed)
    chinese = draw_chinese(arguments.questions, arguments.seed)
    both = [*english, *chinese]
    deep = await answer_all("owl2", models / "owl2", both)
    glm, _ = await start_engine("glm", models / "glm")
    try:
        drafts = await _gather(both, lambda question: _answer(glm, question))
        prompts = [
            replace(question, text=compose_prompt(question.text, draft, finding, "zh"))
            for question, draft, finding in zip(chinese, drafts[len(english) :], deep[len(english) :], strict=True)
        ]
        composed = await _gather(prompts, lambda question: _answer(glm, question))
    finally:
        await glm.aclose()
    return {
        "English, merged by deep": merge_all(english, drafts[: len(english)], deep[: len(english)]),
        "Chinese two-hop, merged by compose": merge_all(
            chinese, drafts[len(english) :], deep[len(english) :], composed
        ),
    }


def main() -> None:
    """Print the tables, and draw the picture if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=2000, help="of each language")
    parser.add_argument("--seed", type=int, default=7_368_797)
    parser.add_argument("--models", type=Path, default=DEFAULT_MODELS, help="holds glm/ and owl2/")
    parser.add_argument("--svg", type=Path, help="draw the curves into this file")
    arguments = parser.parse_args()
    if arguments.svg and find_spec("matplotlib") is None:
        parser.error("--svg needs matplotlib: pip install matplotlib")
    torch.set_num_threads(1)
    begun = time.monotonic()
    curves = asyncio.run(run(arguments))
    print("# What agreement is worth\n")
    print(f"`python -m benchmarks.agreement --questions {arguments.questions} --seed {arguments.seed}`\n")
    print(
        f"Pocket models; {os.cpu_count()} CPU cores, Python {platform.python_version()}, torch {torch.__version__}, "
        f"{time.monotonic() - begun:.0f} s. Shares with 95 % interval."
    )
    for title, merged in curves.items():
        print_table(title, merged)
    if arguments.svg:
        draw_svg(dict(curves), arguments.svg)


if __name__ == "__main__":
    main()

"""What routing is worth: the pocket models alone, and the two behind the shipped rules, on one mixed set of questions.

    python -m benchmarks.pocket_routing [--questions N] [--seed S] [--models DIR] [--preset NAME]

The set has three parts of N questions each: Chinese about one picture, English about one picture, English about two or
four. Types are those that the model meant for the part is judged on, evenly. Both models get every question; "routed"
takes the answer of the one that the preset chooses from the question's own words and pictures. What a model refuses
counts as wrong. Margins are of the same questions, pair by pair.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import platform
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from engines.base import EngineError
from policies import features
from policies.decide import decide
from policies.rules import load_preset
from training.pocket.checkpoints import EngineName
from training.pocket.evaluate import (
    DEFAULT_MODELS,
    ENGINES,
    ask,
    judged_types,
    start_engine,
    to_request,
    wilson_interval,
)
from training.pocket.scenes import TYPES, Lang, Question, is_right, sample_question

IN_FLIGHT = 16
# Part of the set, language, whose types, and whether they have more than one picture.
PARTS: tuple[tuple[str, Lang, EngineName, bool], ...] = (
    ("Chinese, one picture", "zh", "glm", False),
    ("English, one picture", "en", "owl2", False),
    ("English, several pictures", "en", "owl2", True),
)


@dataclass(frozen=True, slots=True)
class Asked:
    """A question of the set, and the engine that the preset chooses for it."""

    part: str
    question: Question
    choice: EngineName


def draw(num: int, seed: int, preset: str) -> list[Asked]:
    """Draw the set and route it."""
    rules = load_preset(preset)
    asked = []
    for part, lang, engine, has_several in PARTS:
        rng = random.Random(f"routing {seed} {part}")
        types = [
            name
            for name in judged_types(engine)
            if TYPES[name].num_images
            and (TYPES[name].num_images > 1) == has_several
            and lang in TYPES[name].langs[engine]
            and name != "compose"  # no caller asks that
        ]
        for index in range(num):
            question = sample_question(rng, types[index % len(types)], lang)
            keys = tuple(picture.sha256 for picture in to_request(question).messages[0].images)
            decision = decide(features.measure(features.Question(question.text, image_keys=keys)), rules)
            asked.append(Asked(part, question, decision.engine))
    return asked


async def answer(name: EngineName, folder: Path, asked: Sequence[Asked]) -> list[bool | None]:
    """Ask one engine everything; for each question whether it was right, None if it refused."""
    engine, _ = await start_engine(name, folder)
    free = asyncio.Semaphore(IN_FLIGHT)

    async def one(item: Asked) -> bool | None:
        async with free:
            try:
                return is_right(item.question, (await ask(engine, item.question)).answer)
            except EngineError:
                return None

    try:
        return list(await asyncio.gather(*(one(item) for item in asked)))
    finally:
        await engine.aclose()


def share(outcomes: Sequence[bool | None]) -> str:
    """Accuracy with its 95 % interval."""
    num_right = sum(outcome is True for outcome in outcomes)
    low, high = wilson_interval(num_right, len(outcomes))
    return f"{num_right / len(outcomes):.3f} ({low:.3f} to {high:.3f})"


def margin(ours: Sequence[bool | None], theirs: Sequence[bool | None]) -> tuple[float, float]:
    """Difference of two accuracies on the same questions, and half its 95 % interval."""
    differences = [(a is True) - (b is True) for a, b in zip(ours, theirs, strict=True)]
    return statistics.fmean(differences), 1.96 * statistics.stdev(differences) / math.sqrt(len(differences))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=1000, help="of each part")
    parser.add_argument("--seed", type=int, default=7_368_791)
    parser.add_argument("--models", type=Path, default=DEFAULT_MODELS, help="holds glm/ and owl2/")
    parser.add_argument("--preset", default="seed")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    asked = draw(arguments.questions, arguments.seed, arguments.preset)
    outcomes = {name: asyncio.run(answer(name, arguments.models / name, asked)) for name in ENGINES}
    columns = {"GLM alone": outcomes["glm"], "Owl2 alone": outcomes["owl2"]}
    columns["routed"] = [outcomes[item.choice][index] for index, item in enumerate(asked)]

    print("# What routing is worth\n")
    print(f"`python -m benchmarks.pocket_routing --questions {arguments.questions} --seed {arguments.seed}`\n")
    print(
        f"{len(asked)} questions, preset `{arguments.preset}`; {os.cpu_count()} CPU cores, Python "
        f"{platform.python_version()}, torch {torch.__version__}. Accuracy with 95 % interval.\n"
    )
    print(f"| questions | n | {' | '.join(columns)} | to GLM |\n|---|---|{'---|' * len(columns)}---|")
    for part in (*(part for part, *_ in PARTS), "all"):
        where = [index for index, item in enumerate(asked) if part in (item.part, "all")]
        cells = [share([column[index] for index in where]) for column in columns.values()]
        to_glm = sum(asked[index].choice == "glm" for index in where) / len(where)
        print(f"| {part} | {len(where)} | {' | '.join(cells)} | {to_glm:.0%} |")
    print("\n| margin, all questions | difference | 95 % interval | beyond it |\n|---|---|---|---|")
    for name in ("GLM alone", "Owl2 alone"):
        difference, half = margin(columns["routed"], columns[name])
        interval = f"{difference - half:+.3f} to {difference + half:+.3f}"
        print(f"| routed against {name} | {difference:+.3f} | {interval} | {'yes' if difference > half else 'no'} |")
    refused = {name: sum(outcome is None for outcome in outcomes[name]) for name in ENGINES}
    print(f"\nRefused, and counted as wrong: GLM {refused['glm']}, Owl2 {refused['owl2']}.")


if __name__ == "__main__":
    main()

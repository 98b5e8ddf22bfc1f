"""What fine-tuning is worth: pocket models learn what they were never trained on, and keep what they knew.

GLM learns receipts (shop, total, paid; Chinese and English print), Owl2 questions in German. A fifth of the examples or
more are old questions. Held-out pictures are other ones than those trained on. Intervals are of a paired bootstrap over
pictures. Run it on a quiet machine, from the root of a checkout::

    python -m benchmarks.finetune [--engine glm] [--shuffled] [--models DIR] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from engines.base import EngineOptions
from engines.dataset_format import HELDOUT, TRAIN, Example, Part, Turn, write_examples
from engines.finetune.accuracy import ask
from engines.finetune.data import read_dataset
from engines.finetune.run import finetune
from engines.finetune.settings import make_settings
from training.pocket.evaluate import draw_type
from training.pocket.scenes import COLOUR_NAMES, KINDS, TYPES, Question, render

ENGINES = ("glm", "owl2")
NUM_NEW, NUM_OLD = 600, 200
NUM_HELDOUT_NEW, NUM_HELDOUT_OLD = 300, 400
BARS = {"gain": 25.0, "gain_low": 15.0, "loss": 3.0, "seconds": 900.0}
RECEIPTS = ("receipt_total", "receipt_paid", "receipt_shop")
JUDGED = ("receipt_total", "receipt_paid")
_ASKED_IN_GERMAN = ("color_of_shape", "shape_of_color", "count_all")
_GERMAN = {
    **dict(zip(KINDS, ("der Kreis", "das Quadrat", "das Dreieck", "der Stern", "die Raute", "das Kreuz"), strict=True)),
    **{"red": "rot", "orange": "orange", "yellow": "gelb", "green": "gruen", "blue": "blau", "purple": "lila"},
    **{"black": "schwarz", "white": "weiss", "brown": "braun", "pink": "rosa", "gray": "grau", "grey": "grau"},
}
_SETTINGS = {"epochs": 12.0, "batch_size": 16, "save_every": 200, "log_every": 25, "heldout": 0}


@dataclass(frozen=True)
class Gain:
    """A difference of accuracies in points, with its 95 % interval."""

    num: int
    before: float
    after: float
    low: float
    high: float

    @property
    def points(self) -> float:
        """After less before."""
        return self.after - self.before


def in_german(question: Question) -> Question:
    """Ask the same in German; the answer stays English."""
    words = question.text.lower().rstrip("?.!").replace("coloured", "").split()
    named = [_GERMAN[word] for word in words if word in KINDS or word in COLOUR_NAMES]
    text = {
        "color_of_shape": "Welche Farbe hat {0}?",
        "shape_of_color": "Welche Form ist {0}?",
        "count_all": "Wie viele Formen sind im Bild?",
    }[question.type].format(*named)
    return replace(question, type=f"german_{question.type}", text=text)


def draw_new(engine: str, num: int, seed: int) -> list[Question]:
    """Questions of the kind to be learned."""
    types = RECEIPTS if engine == "glm" else _ASKED_IN_GERMAN
    drawn = [question for name in types for question in _draw(engine, name, -(-num // len(types)), seed)]
    return drawn[:num] if engine == "glm" else [in_german(question) for question in drawn[:num]]


def _draw(engine: str, name: str, num: int, seed: int) -> list[Question]:
    drawn = draw_type(engine, name, 2 * num, seed)  # type: ignore[arg-type]
    return drawn[:num] if engine == "glm" else [question for question in drawn if question.lang == "en"][:num]


def draw_old(engine: str, num: int, seed: int) -> list[Question]:
    """Questions that the checkpoint answers already, of all types with a picture."""
    types = [
        name
        for name, info in TYPES.items()
        if engine in info.engines and engine in info.bars and info.num_images and not (info.held_out or info.is_honest)
    ]
    drawn = [question for name in types for question in draw_type(engine, name, -(-num // len(types)), seed)]  # type: ignore[arg-type]
    random.Random(seed).shuffle(drawn)
    return drawn[:num]


def write(folder: Path, name: str, questions: Sequence[Question]) -> list[Example]:
    """Write a part of a data set."""
    examples = []
    for number, question in enumerate(questions):
        pictures = []
        for index, scene in enumerate(question.images):
            pictures.append(f"{Path(name).stem}-{number}-{index}.png")
            render(scene).save(folder / pictures[-1])
        asked = (*(Part(picture=picture) for picture in pictures), Part(text=question.text))
        answer = Turn("assistant", (Part(text=question.answer),))
        examples.append(Example(str(number), (Turn("user", asked), answer), question.lang, question.type))
    write_examples(folder / name, examples)
    return examples


def gain_of(before: Sequence[bool], after: Sequence[bool], seed: int = 0) -> Gain:
    """Compare paired outcomes."""
    was, now = 100.0 * np.asarray(before), 100.0 * np.asarray(after)
    rng = np.random.default_rng(seed)
    means = (now - was)[rng.integers(0, len(was), (4000, len(was)))].mean(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return Gain(len(was), float(was.mean()), float(now.mean()), float(low), float(high))


def run_one(engine: str, models: Path, seed: int, *, is_shuffled: bool) -> dict[str, object]:
    """Train and judge one model; returns its rows of the table."""
    began = time.monotonic()
    options = EngineOptions(str(models / engine), device="cpu", dtype="float32")
    with tempfile.TemporaryDirectory() as place:
        folder, out = Path(place) / "data", Path(place) / "adapter"
        folder.mkdir()
        new = draw_new(engine, NUM_NEW, seed)
        if is_shuffled:
            answers = [question.answer for question in new]
            random.Random(seed).shuffle(answers)
            new = [replace(question, answer=answer) for question, answer in zip(new, answers, strict=True)]
        write(folder, TRAIN, [*new, *draw_old(engine, NUM_OLD, seed)])
        heldout = write(
            folder,
            HELDOUT,
            [*draw_new(engine, NUM_HELDOUT_NEW, seed + 1), *draw_old(engine, NUM_HELDOUT_OLD, seed + 1)],
        )
        data = read_dataset(folder)
        report = finetune(engine, options, folder, make_settings("cpu", None, **_SETTINGS), out)
        answers_before = asyncio.run(ask(engine, options, data, heldout))
        adapted = replace(options, adapters=(("trained", str(out)),))
        answers_after = asyncio.run(ask(engine, adapted, data, heldout))

    def rights(answers: Sequence[str], kinds: Iterable[str]) -> list[bool]:
        wanted = set(kinds)
        pairs = zip(heldout, answers, strict=True)
        return [answer.strip() == example.answer for example, answer in pairs if example.kind in wanted]

    kinds = list(dict.fromkeys(example.kind for example in heldout))
    learned = [kind for kind in kinds if kind.startswith(("receipt_", "german_"))]
    judged = [kind for kind in learned if engine != "glm" or kind in JUDGED]
    rows = {kind: gain_of(rights(answers_before, [kind]), rights(answers_after, [kind])) for kind in learned}
    rows["what is judged"] = gain_of(rights(answers_before, judged), rights(answers_after, judged))
    known = [kind for kind in kinds if kind not in learned]
    rows["old questions"] = gain_of(rights(answers_before, known), rights(answers_after, known))
    return {
        "engine": engine,
        "rows": rows,
        "seconds": time.monotonic() - began,
        "training_seconds": report.seconds,
        "num_steps": report.curve[-1]["step"],
    }


def passed(result: dict[str, object], judged: Sequence[str]) -> bool:
    """Whether each judged row gains enough, old questions lose little, and all of it was in time."""
    rows: dict[str, Gain] = result["rows"]  # type: ignore[assignment]
    gains = [rows[name] for name in judged]
    return (
        all(gain.points >= BARS["gain"] and gain.low > BARS["gain_low"] for gain in gains)
        and rows["old questions"].points >= -BARS["loss"]
        and float(result["seconds"]) <= BARS["seconds"]  # type: ignore[arg-type]
    )


def to_markdown(result: dict[str, object]) -> str:
    """Write one model's table."""
    rows: dict[str, Gain] = result["rows"]  # type: ignore[assignment]
    judged = JUDGED if result["engine"] == "glm" else ("what is judged",)
    lines = [
        f"## {result['engine']}",
        "",
        f"{result['seconds']:.0f} s in all, {result['training_seconds']:.0f} s of it training. "
        f"Bars reached: {'yes' if passed(result, judged) else 'no'}.",
        "",
        "| held-out questions | n | before, % | after, % | gain, points | 95 % interval |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {gain.num} | {gain.before:.1f} | {gain.after:.1f} | {gain.points:+.1f} | "
        f"{gain.low:+.1f} to {gain.high:+.1f} |"
        for name, gain in rows.items()
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train both models and print what it was worth."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.finetune", description=main.__doc__)
    parser.add_argument("--engine", choices=ENGINES, action="append", help="only this one")
    parser.add_argument("--models", type=Path, default=Path("engines/pocket/weights"), help="holds glm/ and owl2/")
    parser.add_argument("--seed", type=int, default=20261129)
    parser.add_argument("--shuffled", action="store_true", help="shuffle the new answers: nothing to learn")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    torch.set_num_threads(os.cpu_count() or 1)
    print(
        f"{NUM_NEW} new and {NUM_OLD} old examples{', new answers shuffled' if options.shuffled else ''}, seed "
        f"{options.seed}; float32; {os.cpu_count()} CPU cores, Python {platform.python_version()}, torch "
        f"{torch.__version__}; load average at the start {', '.join(f'{load:.1f}' for load in os.getloadavg())}"
    )
    results = []
    for engine in options.engine or ENGINES:
        results.append(run_one(engine, options.models, options.seed, is_shuffled=options.shuffled))
        print(f"\n{to_markdown(results[-1])}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1, default=vars) + "\n", "utf-8")


if __name__ == "__main__":
    main()

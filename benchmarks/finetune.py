"""What fine-tuning is worth: pocket models learn what they were never trained on, and keep what they knew.

GLM learns receipts (shop, total, paid; asked in Chinese and English), Owl2 the colour of the shape that is the largest,
the leftmost, ... of a picture. Three in ten examples are old questions. Held-out pictures are other ones than those
trained on. Intervals are of a paired bootstrap over pictures. What `glowl promote` says is said by its own code, of
answers in the form of `glowl eval`. With ``--shuffled`` the new answers are shuffled, each among those of its kind:
there is nothing to learn, and the adapter must be refused. Run it from the root of a checkout::

    python -m benchmarks.finetune [--engine glm] [--shuffled] [--models DIR] [--keep DIR] [--json FILE]
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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engines.base import EngineOptions
from engines.dataset_format import HELDOUT, TRAIN, Example, Part, Turn, write_examples
from engines.finetune import training
from engines.finetune.accuracy import ask
from engines.finetune.data import DataSet, read_dataset
from engines.finetune.run import finetune
from engines.finetune.settings import make_settings
from router.cli.proof_tables import to_sentence
from router.loop.stats.comparison import MARGIN, compare, refusals
from router.loop.stats.results import Answer, Header, groups_of, read_results, slices_of, to_line
from training.pocket.checkpoints import EngineName
from training.pocket.evaluate import draw_type
from training.pocket.scenes import TYPES, Question, Shape, render

ENGINES: tuple[EngineName, ...] = ("glm", "owl2")
NUM_NEW, NUM_OLD = 600, 256
NUM_HELDOUT_NEW, NUM_HELDOUT_OLD = 300, 400
BARS = {"gain": 25.0, "gain_low": 15.0, "loss": 3.0, "seconds": 900.0, "cores": 2}
NAME = "trained"
MODELS: dict[EngineName, str] = {"glm": "glm-4.6v-flash", "owl2": "mplug-owl2"}
RECEIPTS = ("receipt_total", "receipt_paid", "receipt_shop")
JUDGED = ("receipt_total", "receipt_paid")
MOST: dict[str, Callable[[Shape], float]] = {
    "largest": lambda shape: -shape.radius,
    "smallest": lambda shape: shape.radius,
    "leftmost": lambda shape: shape.x,
    "rightmost": lambda shape: -shape.x,
    "highest": lambda shape: shape.y,
    "lowest": lambda shape: -shape.y,
}
_APART = 0.12  # of the picture, between the leftmost and the next
_SETTINGS = {"save_every": 200, "log_every": 25, "heldout": 0}
# Owl2's task is known after 100 steps; what comes after costs old questions about several pictures.
_EPOCHS: dict[EngineName, float] = {"glm": 4.0, "owl2": 1.0}


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


def draw_new(engine: EngineName, num: int, seed: int) -> list[Question]:
    """Questions of the kind to be learned, kinds in turn."""
    if engine == "glm":
        kinds = [draw_type(engine, name, -(-num // len(RECEIPTS)), seed) for name in RECEIPTS]
    else:
        kinds = [draw_most(name, -(-num // len(MOST)), seed) for name in MOST]
    return [question for one_of_each in zip(*kinds, strict=True) for question in one_of_each][:num]


def draw_most(name: str, num: int, seed: int) -> list[Question]:
    """Ask for the colour of the one shape that is the largest, leftmost, ... by far."""
    of_shape = MOST[name]
    is_of_size = name in ("largest", "smallest")
    drawn = []
    for question in draw_type("owl2", name if is_of_size else "at_region", 8 * num, seed):
        shapes = sorted(question.images[0].shapes, key=of_shape)
        if len({shape.colour for shape in shapes}) < 2:
            continue
        if is_of_size or of_shape(shapes[1]) - of_shape(shapes[0]) >= _APART:
            text = f"What colour is the {name} shape?"
            drawn.append(replace(question, type=f"most_{name}", text=text, answer=shapes[0].colour))
    return drawn[:num]


def shuffled(questions: Sequence[Question], seed: int) -> list[Question]:
    """Give each question the answer to another one of its kind."""
    rng = random.Random(seed)
    answers: dict[str, list[str]] = {}
    for question in questions:
        answers.setdefault(question.type, []).append(question.answer)
    for of_kind in answers.values():
        rng.shuffle(of_kind)
    return [replace(question, answer=answers[question.type].pop()) for question in questions]


def draw_old(engine: EngineName, num: int, seed: int) -> list[Question]:
    """Questions that the checkpoint answers already, of all types with a picture."""
    types = [
        name
        for name, info in TYPES.items()
        if engine in info.engines and engine in info.bars and info.num_images and not (info.held_out or info.is_honest)
    ]
    drawn = [question for name in types for question in draw_type(engine, name, -(-num // len(types)), seed)]
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


def gain_of(before: Sequence[bool], after: Sequence[bool]) -> Gain:
    """Compare paired outcomes."""
    was, now = 100.0 * np.asarray(before), 100.0 * np.asarray(after)
    rng = np.random.default_rng(0)
    means = (now - was)[rng.integers(0, len(was), (4000, len(was)))].mean(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return Gain(len(was), float(was.mean()), float(now.mean()), float(low), float(high))


def run_one(engine: EngineName, models: Path, seed: int, place: Path, *, is_shuffled: bool) -> dict[str, Any]:
    """Train and judge one model; returns its rows of the table."""
    began, used = time.monotonic(), time.process_time()
    options = EngineOptions(str(models / engine), device="cpu", dtype="float32")
    folder, out = place / "data", place / "adapter"
    folder.mkdir(parents=True)
    new = draw_new(engine, NUM_NEW, seed)
    write(folder, TRAIN, [*(shuffled(new, seed) if is_shuffled else new), *draw_old(engine, NUM_OLD, seed)])
    asked = [*draw_new(engine, NUM_HELDOUT_NEW, seed + 1), *draw_old(engine, NUM_HELDOUT_OLD, seed + 1)]
    heldout = write(folder, HELDOUT, asked)
    data = read_dataset(folder)
    report = finetune(engine, options, folder, make_settings("cpu", None, epochs=_EPOCHS[engine], **_SETTINGS), out)
    before = asyncio.run(ask(engine, options, data, heldout))
    after = asyncio.run(ask(engine, replace(options, adapters=((NAME, str(out)),)), data, heldout))
    seconds, cpu_seconds = time.monotonic() - began, time.process_time() - used

    was, now = (
        [answer.strip() == each.answer for answer, each in zip(said, heldout, strict=True)] for said in (before, after)
    )
    kinds = list(dict.fromkeys(each.kind for each in heldout))
    learned = [kind for kind in kinds if kind.startswith(("receipt_", "most_"))]
    judged = [kind for kind in learned if engine != "glm" or kind in JUDGED]
    groups = {kind: [kind] for kind in learned} | {"what is judged": judged}
    groups["old questions"] = [kind for kind in kinds if kind not in learned]
    rows = {}
    for name, members in groups.items():
        picked = [index for index, each in enumerate(heldout) if each.kind in members]
        rows[name] = gain_of([was[index] for index in picked], [now[index] for index in picked])
    evidence = place / "results.jsonl"
    write_evidence(evidence, data, heldout, {f"{MODELS[engine]}:base": before, f"{MODELS[engine]}:{NAME}": after})
    return {
        "engine": engine,
        "is_shuffled": is_shuffled,
        "rows": rows,
        "promote": promoted(evidence, MODELS[engine]),
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "training_seconds": report.seconds,
        "num_steps": training.num_steps(report.settings, report.num_examples),
    }


def write_evidence(path: Path, data: DataSet, heldout: Sequence[Example], said: Mapping[str, Sequence[str]]) -> None:
    """Write answers as `glowl eval` does."""
    hashes = {each.id: [image.sha256 for turn in data.messages(each) for image in turn.images] for each in heldout}
    groups = groups_of(list(hashes.items()))
    lines = [to_line(Header(data.digest, len(heldout), str(data.folder)))]
    for arm, answers in said.items():
        served = arm.removesuffix(":base")
        for each, answer in zip(heldout, answers, strict=True):
            found = Answer(each.id, arm, groups[each.id], slices_of(each), each.answer, answer, model=served)
            lines.append(to_line(found))
    path.write_bytes(b"".join(lines))


def promoted(evidence: Path, model: str) -> str:
    """What `glowl promote` says of answers."""
    found = compare(read_results(evidence), f"{model}:base", f"{model}:{NAME}")
    reasons = [to_sentence(reason, MARGIN, "en") for reason in refusals(found)]
    gain = found.gain.to_points() if found.gain else "-"
    return f"refused: {'; '.join(reasons)}" if reasons else f"promoted ({gain} of all held-out questions)"


def passed(result: Mapping[str, Any]) -> bool:
    """Whether what was learned is worth enough and costs little; with shuffled answers, whether it is refused.

    What `promote` says of the others is printed and no bar: few held-out questions of a slice are a reason to refuse.
    """
    if result["is_shuffled"]:
        return str(result["promote"]).startswith("refused")
    rows: Mapping[str, Gain] = result["rows"]
    gains = [rows[name] for name in (JUDGED if result["engine"] == "glm" else ("what is judged",))]
    return (
        all(gain.points >= BARS["gain"] and gain.low > BARS["gain_low"] for gain in gains)
        and rows["old questions"].points >= -BARS["loss"]
        and result["cpu_seconds"] <= BARS["seconds"] * BARS["cores"]
    )


def to_markdown(result: Mapping[str, Any]) -> str:
    """Write one model's table."""
    lines = [
        f"## {result['engine']}{', new answers shuffled' if result['is_shuffled'] else ''}",
        "",
        f"{result['num_steps']} steps; {result['cpu_seconds']:.0f} CPU seconds in all, in {result['seconds']:.0f} s, "
        f"{result['training_seconds']:.0f} s of it training. Bars reached: {'yes' if passed(result) else 'no'}.",
        "",
        f"`glowl promote`: {result['promote']}",
        "",
        "| held-out questions | n | before, % | after, % | gain, points | 95 % interval |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {gain.num} | {gain.before:.1f} | {gain.after:.1f} | {gain.points:+.1f} | "
        f"{gain.low:+.1f} to {gain.high:+.1f} |"
        for name, gain in result["rows"].items()
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train both models and print what it was worth."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.finetune", description=main.__doc__)
    parser.add_argument("--engine", choices=ENGINES, action="append", help="only this one")
    parser.add_argument("--models", type=Path, default=Path("engines/pocket/weights"), help="holds glm/ and owl2/")
    parser.add_argument("--seed", type=int, default=20261129)
    parser.add_argument("--shuffled", action="store_true", help="shuffle the new answers: nothing to learn")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="for data sets, adapters and answers")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # more of them only wait for each other on matrices this small
    print(
        f"{NUM_NEW} new and {NUM_OLD} old examples{', new answers shuffled' if options.shuffled else ''}, seed "
        f"{options.seed}; float32, one thread; {os.cpu_count()} CPU cores, Python {platform.python_version()}, torch "
        f"{torch.__version__}; load average at the start {', '.join(f'{load:.1f}' for load in os.getloadavg())}"
    )
    results = []
    for engine in options.engine or ENGINES:
        with tempfile.TemporaryDirectory() as unkept:
            place = (options.keep or Path(unkept)) / (f"{engine}-shuffled" if options.shuffled else engine)
            results.append(run_one(engine, options.models, options.seed, place, is_shuffled=options.shuffled))
        print(f"\n{to_markdown(results[-1])}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1, default=vars) + "\n", "utf-8")


if __name__ == "__main__":
    main()

"""Makes the sample pictures that `glowl ask --sample` and the README's examples use: drawn scenes with fixed seeds.

In: a report of `evaluate.py`. Out: ``samples/``: small PNG files, and ``samples.json`` with questions and true answers.

Run: ``python -m training.pocket.make_samples --report FILE``
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from training.pocket import SHIPPED
from training.pocket.scenes import Lang, Question, render, sample_question

DEFAULT_FOLDER = SHIPPED / "samples"


@dataclass(frozen=True, slots=True)
class Sample:
    """How one sample is drawn.

    Attributes:
        type: of the question.
        lang: of question and answer; Chinese is answered by GLM, English by Owl2.
        seed: decides everything else; chosen for a picture that is pleasant to look at.
        num_shapes: fewest and most shapes per picture.
        size: width and height in pixels.
        text: the question's words; they stay when the recipe learns others.
    """

    type: str
    lang: Lang
    seed: int
    num_shapes: tuple[int, int]
    size: tuple[int, int]
    text: str

    @property
    def engine(self) -> str:
        """Whose answer it becomes."""
        return "glm" if self.lang == "zh" else "owl2"

    def draw(self) -> Question:
        """The question with its scenes."""
        rng = random.Random(f"sample {self.seed}")  # noqa: S311 - not for secrets
        question = sample_question(rng, self.type, self.lang, num_shapes=self.num_shapes, sizes=[self.size])
        return replace(question, text=self.text)


# The first of each language is the one that `glowl ask` takes by itself.
SAMPLES: Mapping[str, Sample] = {
    "colour": Sample("color_of_shape", "zh", 4, (4, 6), (224, 160), "图中的菱形是什么颜色的？"),
    "count": Sample("count_all", "zh", 4, (5, 6), (224, 160), "一共有多少个图形？"),
    "price": Sample("price_current", "zh", 0, (4, 6), (224, 224), "现在的价格是多少？"),
    "more": Sample(
        "which_more_color", "en", 6, (4, 6), (160, 160), "Which of the two pictures shows more blue shapes?"
    ),
    "which": Sample("which_has", "en", 4, (3, 5), (160, 160), "Which picture has a blue star?"),
    "hop": Sample("hop_largest_kind", "en", 7, (4, 6), (160, 160), "Which colour does the largest cross have?"),
    "beside": Sample(
        "hop_left_of", "en", 3, (4, 6), (160, 160), "What colour is the shape left of the smallest diamond?"
    ),
}


def write_samples(folder: Path, names: Iterable[str] = SAMPLES) -> None:
    """Draw the named samples into a folder; pictures that are no longer wanted are removed."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    wanted: set[str] = set()
    for name in names:
        question = SAMPLES[name].draw()
        files = [f"{name}-{index}.png" for index in range(1, len(question.images) + 1)]
        if len(files) == 1:
            files = [f"{name}.png"]
        for file, scene in zip(files, question.images, strict=True):
            render(scene).save(folder / file, optimize=True)
        wanted.update(files)
        entries.append(
            {
                "name": name,
                "lang": question.lang,
                "pictures": files,
                "question": question.text,
                "answer": question.answer,
            }
        )
    for file in folder.glob("*.png"):
        if file.name not in wanted:
            file.unlink()
    (folder / "samples.json").write_text(json.dumps(entries, indent=1, ensure_ascii=False) + "\n", "utf-8")


def passed(report: Mapping[str, Any]) -> list[str]:
    """The samples whose type the engine that answers them has passed, by a report of `evaluate.py`."""
    types = {engine: part["types"] for engine, part in report["engines"].items()}
    return [name for name, sample in SAMPLES.items() if types[sample.engine].get(sample.type, {}).get("passed")]


def main(arguments: Iterable[str] | None = None) -> None:
    """Draw the sample pictures; with a report, only those of types that were passed."""
    parser = argparse.ArgumentParser(prog="python -m training.pocket.make_samples", description=main.__doc__)
    parser.add_argument("--out", type=Path, default=DEFAULT_FOLDER)
    parser.add_argument("--report", type=Path, metavar="FILE", help="what `evaluate --json FILE` wrote")
    options = parser.parse_args(None if arguments is None else list(arguments))
    names = passed(json.loads(options.report.read_text("utf-8"))) if options.report else list(SAMPLES)

    write_samples(options.out, names)
    for entry in json.loads((options.out / "samples.json").read_text("utf-8")):
        print(f"{entry['name']:<7} {' '.join(entry['pictures'])}  {entry['question']}  {entry['answer']}")


if __name__ == "__main__":
    main()

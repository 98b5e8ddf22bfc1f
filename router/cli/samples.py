"""Sample pictures that come with the package, each with a question and its true answer: for `glowl ask` and the banner.

In: a name, or a language. Out: a `Sample`. Files only: they were drawn by `training/pocket/make_samples.py`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from router.cli.common import Language


@dataclass(frozen=True, slots=True)
class Sample:
    """A question that the pocket checkpoints have learnt to answer.

    Attributes:
        name: what ``--sample`` calls it.
        language: of the question.
        pictures: files, in the question's order.
        question: what to ask.
        answer: the true answer.
    """

    name: str
    language: Language
    pictures: tuple[Path, ...]
    question: str
    answer: str


def samples_dir() -> Path:
    """Where the package keeps them."""
    return Path(str(files("engines"))) / "pocket" / "samples"


def load_samples(directory: Path | None = None) -> list[Sample]:
    """Every sample, in the package's order; none where the package carries none."""
    directory = directory or samples_dir()
    try:
        entries = json.loads((directory / "samples.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    return [
        Sample(
            entry["name"],
            entry["lang"],
            tuple(directory / picture for picture in entry["pictures"]),
            entry["question"],
            entry["answer"],
        )
        for entry in entries
    ]


def default_sample(language: Language, directory: Path | None = None) -> Sample | None:
    """The first sample in a language, else the first of all; None if there are none."""
    samples = load_samples(directory)
    return next((sample for sample in samples if sample.language == language), samples[0] if samples else None)

"""The shipped sample pictures are the ones that the program draws, and their answers follow from their scenes."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.pocket.make_samples import DEFAULT_FOLDER, SAMPLES, main, passed, write_samples
from training.pocket.scenes import TYPES, render

SHIPPED = json.loads((DEFAULT_FOLDER / "samples.json").read_text("utf-8"))


@pytest.mark.parametrize("entry", SHIPPED, ids=lambda entry: entry["name"])
def test_a_shipped_sample_is_the_drawn_one(entry: dict) -> None:
    # Given the scene behind a sample
    question = SAMPLES[entry["name"]].draw()
    # Then question and true answer are those that ship
    assert (entry["question"], entry["answer"], entry["lang"]) == (question.text, question.answer, question.lang)
    # And so are the pictures, another release's smoothing of letters aside
    for file, scene in zip(entry["pictures"], question.images, strict=True):
        with Image.open(DEFAULT_FOLDER / file) as image:
            difference = np.abs(np.asarray(image.convert("RGB"), int) - np.asarray(render(scene), int))
        assert difference.mean() < 2


def test_every_sample_is_of_a_type_its_engine_is_trained_and_judged_on() -> None:
    for sample in SAMPLES.values():
        assert sample.engine in TYPES[sample.type].bars
        assert sample.lang in TYPES[sample.type].langs[sample.engine]


def test_only_samples_of_passed_types_are_drawn(tmp_path: Path) -> None:
    # Given a report in which one type of each engine was passed
    types = {
        "glm": {"color_of_shape": {"passed": True}, "price_current": {"passed": False}},
        "owl2": {"which_has": {"passed": True}},
    }
    report = {"engines": {engine: {"types": scores} for engine, scores in types.items()}}
    assert passed(report) == ["colour", "which"]
    (tmp_path / "report.json").write_text(json.dumps(report))
    # When the samples are drawn into a folder that has all of them
    folder = tmp_path / "samples"
    write_samples(folder)
    main(["--out", str(folder), "--report", str(tmp_path / "report.json")])
    # Then the others are gone
    assert {file.name for file in folder.glob("*.png")} == {"colour.png", "which-1.png", "which-2.png"}
    assert [entry["name"] for entry in json.loads((folder / "samples.json").read_text("utf-8"))] == ["colour", "which"]

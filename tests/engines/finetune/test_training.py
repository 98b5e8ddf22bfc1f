"""engines.finetune on tiny random models: batches, a killed run, and an adapter that its engine serves."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import TrainerCallback

from engines.base import EngineOptions
from engines.dataset_format import Example, Part, Turn, write_examples
from engines.finetune import run, training
from engines.finetune.__main__ import main
from engines.finetune.card import REPORT
from engines.finetune.data import DataSet, read_dataset
from engines.finetune.encoding import IGNORE, Encoded, Student, answer_loss, collate
from engines.finetune.features import FeatureCache
from engines.finetune.settings import FinetuneError, make_settings
from engines.owl2.config import IMAGE_TOKEN_ID
from engines.pocket.random_tiny import make_glm, make_owl2

ENGINES = ("glm", "owl2")
SETTINGS = make_settings(
    "cpu", None, max_steps=6, batch_size=2, accumulation=2, save_every=2, log_every=1, dropout=0.1, warmup=0.3
)

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def example(number: int, pictures: Sequence[str], question: str, answer: str) -> Example:
    parts = (*(Part(picture=picture) for picture in pictures), Part(text=question))
    return Example(str(number), (Turn("user", parts), Turn("assistant", (Part(text=answer),))), "en")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """Pictures and text only, short and long, one with two pictures."""
    folder = tmp_path_factory.mktemp("data")
    for index, colour in enumerate(("red", "blue")):
        Image.new("RGB", (60, 40 + 30 * index), colour).save(folder / f"{colour}.png")
    examples = [
        example(0, ["red.png"], "What is it?", "A red picture."),
        example(1, [], "Hello", "Hello."),
        example(2, ["blue.png"], "图里有什么？", "蓝色"),
        example(3, ["red.png", "blue.png"], "Compare both.", "They differ."),
        example(4, [], "How much is one and one, and what is the weather?", "Two <|user|></s>."),
    ]
    write_examples(folder / "train.jsonl", examples)
    write_examples(folder / "heldout.jsonl", [example(0, ["red.png"], "What?", '{"colour": "red"}')])
    return read_dataset(folder)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("models")
    for name, make in (("glm", make_glm), ("owl2", make_owl2)):
        make(folder / name)
    return {name: folder / name for name in ENGINES}


def learn(name: str, checkpoint: Path) -> Student:
    return run.make_student(name, EngineOptions(str(checkpoint), device="cpu"))


def plain_loss(name: str, student: Any, rows: Encoded, data: DataSet, each: Example) -> float:
    """The model's own loss of one example, its pictures through the tower in the same forward."""
    labels = torch.tensor([rows.labels])
    images = [image for message in data.messages(each) for image in message.images]
    if name == "glm":
        pixels = [student._engine.patchify(image) for image in images]
        inputs: dict[str, Any] = {"input_ids": torch.tensor([rows.ids])}
        if pixels:
            inputs |= {
                "pixel_values": torch.cat([each.pixel_values for each in pixels]),
                "image_grid_thw": torch.cat([each.grid_thw for each in pixels]),
                "mm_token_type_ids": torch.tensor([rows.is_image]).int(),
            }
        return float(student.model(**inputs, labels=labels).loss)
    preparation = student._preparation
    kept, ids, marked = 0, [], []
    for token_id, label, is_image in zip(rows.ids, rows.labels, rows.is_image, strict=True):
        kept = kept + 1 if is_image else 0
        if not is_image or kept % preparation.num_image_rows == 1:
            ids.append(IMAGE_TOKEN_ID if is_image else token_id)
            marked.append(label)
    inputs = {"input_ids": torch.tensor([ids]), "labels": torch.tensor([marked])}
    if images:
        inputs["pixel_values"] = torch.cat([preparation.to_pixels(image) for image in images])
    return float(student.model(**inputs).loss)


@pytest.mark.parametrize("name", ENGINES)
@torch.no_grad()
def test_a_mixed_batch_has_the_loss_of_each_example_alone(
    name: str, checkpoints: dict[str, Path], data: DataSet, tmp_path: Path
) -> None:
    # Given examples with pictures and without
    student = learn(name, checkpoints[name])
    features = FeatureCache(tmp_path, student.revision)
    rows = run.encode_all(student, data, features, 4096)

    # When they are one batch, with features from disk
    batch = collate(rows, features)
    mixed = answer_loss(student.model, student, batch, 1)

    # Then their loss is that of each alone through the whole model, summed
    alone = [plain_loss(name, student, each, data, example) for each, example in zip(rows, data.train, strict=True)]
    lengths = [sum(label != IGNORE for label in each.labels) for each in rows]
    expected = sum(loss * length for loss, length in zip(alone, lengths, strict=True))
    assert float(mixed) == pytest.approx(expected, rel=1e-4)
    # and only answers are learned, each with the token that ends it
    assert all(1 < length < 40 for length in lengths)
    assert all(label == IGNORE for each in rows for label in each.labels[: each.num_prompt])


class Killed(TrainerCallback):
    """Ends a run as a kill does: in the middle of a step, a checkpoint half written."""

    def __init__(self, work: Path) -> None:
        self._work = work

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 3:
            half = self._work / training.CHECKPOINTS / "checkpoint-3"
            half.mkdir()
            (half / "adapter_config.json").write_text("{")
            raise InterruptedError


@pytest.mark.parametrize("name", ENGINES)
def test_a_killed_run_goes_on_onto_the_same_curve(
    name: str, checkpoints: dict[str, Path], data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def go(work: Path) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
        student = learn(name, checkpoints[name])
        features = FeatureCache(tmp_path / "features", student.revision)
        rows = run.encode_all(student, data, features, 4096)
        model = training.with_adapter(student, SETTINGS)
        curve = training.train(student, model, rows, features, SETTINGS, work)
        return curve, {key: value for key, value in model.named_parameters() if value.requires_grad}

    # Given a run to its end
    whole, weights = go(tmp_path / "whole")

    # When another is killed in its fourth step, and goes on
    with monkeypatch.context() as patch:
        patch.setattr(training, "Progress", lambda: Killed(tmp_path / "cut"))
        with pytest.raises(InterruptedError):
            go(tmp_path / "cut")
    curve, resumed = go(tmp_path / "cut")

    # Then curve and weights are those of the whole run, to the bit
    assert [point["step"] for point in whole] == [1, 2, 3, 4, 5, 6]
    assert curve == whole
    assert whole[-1]["loss"] < whole[0]["loss"]
    assert all(torch.equal(resumed[key], value) for key, value in weights.items())
    # and nothing of the base had trained
    assert all(".lora_" in key and "vis" not in key for key in weights)


def test_a_run_leaves_an_adapter_that_the_engine_serves_and_a_card(
    checkpoints: dict[str, Path], data: DataSet, tmp_path: Path
) -> None:
    options, out = EngineOptions(str(checkpoints["owl2"])), tmp_path / "out"
    settings = make_settings("cpu", None, max_steps=1, batch_size=2)

    report = run.finetune("owl2", options, data.folder, settings, out)

    assert report.before is not None
    assert report.after is not None
    assert (report.after.num, list(report.after.fields)) == (1, ["colour"])
    written = json.loads((out / REPORT).read_text("utf-8"))
    assert (written["data"], written["num_shared"], len(written["curve"])) == (data.digest, 1, 0)
    assert "1 pictures are in both parts" in (out / "README.md").read_text("utf-8")
    assert (out / "adapter_model.safetensors").is_file()
    # and it isn't trained over
    with pytest.raises(FinetuneError, match="finished run"):
        run.finetune("owl2", options, data.folder, settings, out, is_resumed=True)
    shutil.rmtree(out / run.WORK / training.CHECKPOINTS, ignore_errors=True)
    (out / REPORT).unlink()
    with pytest.raises(FinetuneError, match="--resume goes on"):
        run.finetune("owl2", options, data.folder, settings, out)
    with pytest.raises(FinetuneError, match="other settings"):
        run.finetune("owl2", options, data.folder, make_settings("cpu", None), out, is_resumed=True)


def test_two_processes_walk_the_curve_of_one(
    checkpoints: dict[str, Path], data: DataSet, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # Given settings of a run in two processes, and in one with batches twice as large
    config, curves, adapters = tmp_path / "run.toml", [], []
    settings = "log_every = 1\nheldout = 0\naccumulation = 1\nwarmup = 0.5\nepochs = 2\nbatch_size = "
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    write_examples(tmp_path / "train.jsonl", data.train[:4])
    for picture in data.folder.glob("*.png"):
        shutil.copy(picture, tmp_path)
    argv = ["owl2", "--data", str(tmp_path), "--model", str(checkpoints["owl2"]), "--preset", "cpu"]
    argv += ["--config", str(config), "--out"]

    # When both run to their end, the first as accelerate starts it
    config.write_text(settings + "1")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [*launch, "engines.finetune", *argv, str(tmp_path / "two")]
    assert subprocess.run(command, env=environment, check=False, timeout=300).returncode == 0
    said = capfd.readouterr()
    assert (said.err.count("base: "), said.out.count("serve it: ")) == (1, 1)
    config.write_text(settings + "2")
    assert main([*argv, str(tmp_path / "one")]) == 0

    # Then losses, learning rates and weights are the same but for the order of sums
    for name in ("two", "one"):
        curves.append(json.loads((tmp_path / name / REPORT).read_text("utf-8"))["curve"])
        adapters.append(load_file(tmp_path / name / "adapter_model.safetensors"))
    assert [point["step"] for point in curves[1]] == [1, 2, 3, 4]
    for two, one in zip(*curves, strict=True):
        assert two == pytest.approx(one, rel=1e-4)
    assert all(torch.allclose(adapters[0][key], weight, atol=2e-4) for key, weight in adapters[1].items())


@pytest.mark.parametrize("name", ENGINES)
def test_what_is_too_long_for_the_model_is_left_out_and_what_is_broken_named(
    name: str, checkpoints: dict[str, Path], data: DataSet, tmp_path: Path
) -> None:
    # Given a data set with a question beyond the model's context in both parts
    long = example(9, [], "what colour " * 20_000, "red")
    write_examples(tmp_path / "train.jsonl", [data.train[0], long])
    write_examples(tmp_path / "heldout.jsonl", [data.heldout[0], long])
    shutil.copy(data.folder / "red.png", tmp_path)
    options = EngineOptions(str(checkpoints[name]))
    settings = make_settings("cpu", None, max_steps=1)

    # When it is trained on, then it counts as left out, and as not answered
    report = run.finetune(name, options, tmp_path, settings, tmp_path / "out")
    assert (report.num_examples, report.num_left_out) == (1, 1)
    assert report.after is not None
    assert report.after.num == 2

    # When a held-out picture is broken, then its example is named
    (tmp_path / "broken.png").write_bytes(b"no picture")
    write_examples(tmp_path / "heldout.jsonl", [example(7, ["broken.png"], "What?", "red")])
    with pytest.raises(FinetuneError, match="held-out example '7' cannot be used: The picture"):
        run.finetune(name, options, tmp_path, settings, tmp_path / "other")
    # and once it is mended, the way out is said
    write_examples(tmp_path / "heldout.jsonl", [data.heldout[0]])
    with pytest.raises(FinetuneError, match="choose another --out, or delete that folder"):
        run.finetune(name, options, tmp_path, settings, tmp_path / "other", is_resumed=True)


# What `glowl finetune` runs, ended by a signal that no process can catch when its second checkpoint is written.
KILLED = """
import os, signal, sys
from engines.finetune import training
from engines.finetune.__main__ import main
from engines.finetune.progress import Progress

class Killed(Progress):
    def on_save(self, args, state, control, **_):
        if state.global_step == 4:
            os.kill(os.getpid(), signal.SIGKILL)

training.Progress = Killed
main(sys.argv[1:])
"""


def test_kill_9_costs_a_run_nothing_but_time(
    checkpoints: dict[str, Path], data: DataSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "run.toml"
    config.write_text("save_every = 2\nlog_every = 1\nbatch_size = 2\ndropout = 0.1\nheldout = 0\n")
    argv = ["owl2", "--data", str(data.folder), "--model", str(checkpoints["owl2"]), "--config", str(config)]
    argv += ["--preset", "cpu", "--max-steps", "6", "--out"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"

    # Given a process that is killed in its fourth step, and a run to its end
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    killed = subprocess.run([sys.executable, "-c", KILLED, *argv, str(cut)], env=environment, check=False, timeout=300)
    assert killed.returncode == -signal.SIGKILL
    assert not (cut / REPORT).exists()
    assert main([*argv, str(whole)]) == 0

    # When the killed run is asked to begin, it says what to do
    assert main([*argv, str(cut)]) == 1
    assert "--resume goes on with it" in capsys.readouterr().err
    # and when it goes on, curve and adapter are those of the run to its end
    assert main([*argv, str(cut), "--resume"]) == 0
    assert "going on from step 4 of 6" in capsys.readouterr().err
    curves = [json.loads((out / REPORT).read_text("utf-8"))["curve"] for out in (whole, cut)]
    assert [point["step"] for point in curves[0]] == [1, 2, 3, 4, 5, 6]
    assert curves[1] == curves[0]
    adapters = [load_file(out / "adapter_model.safetensors") for out in (whole, cut)]
    assert adapters[0].keys() == adapters[1].keys()
    assert all(torch.equal(adapters[1][name], value) for name, value in adapters[0].items())

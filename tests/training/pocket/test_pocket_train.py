"""The training recipe: it learns, it goes on where it stopped, and what it writes is a checkpoint the engines read."""

from __future__ import annotations

import importlib
import json
import signal
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from engines.base import EngineOptions, GenerationRequest, Message, SamplingParams, TextPart, generate
from tests.support.whole import IS_WHOLE
from training.pocket.checkpoints import EngineName
from training.pocket.data import BatchShape, fits
from training.pocket.evaluate import DEFAULT_MODELS, draw_questions, wilson_interval
from training.pocket.scenes import TYPES
from training.pocket.train import (
    Curriculum,
    Progress,
    Recipe,
    Run,
    Stage,
    full_recipe,
    learning_rate,
    main,
    orthogonalise,
    quick_recipe,
)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    """A run that is asked to stop saves itself first; the test process is to end at once again after it."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def tiny_recipe(engine: EngineName) -> Recipe:
    recipe = quick_recipe(engine, 4)
    return replace(recipe, shapes=(BatchShape(2, 1, 128, 24, 3),), dense_pictures=2, log_every=1)


def start(engine: EngineName, out: Path) -> Run:
    return Run(engine, out, tiny_recipe(engine), wants_compile=False)


def curve_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.skipif(not IS_WHOLE, reason="a minute: make test-whole")
def test_a_short_training_sees_colours_and_begins_to_answer(tmp_path: Path) -> None:
    # GLM alone: after as many steps Owl2 names only 23 % of the colours
    recipe = replace(quick_recipe("glm", 60), dense_steps=45, log_every=5)
    Run("glm", tmp_path, recipe, wants_compile=False).train()

    curve = curve_of(tmp_path)
    # One colour of eight is right blindly.
    assert curve[0]["accuracy_colour"] < 0.3
    assert max(point["accuracy_colour"] for point in curve) > 0.5
    first, *_, last = (point["loss"] for point in curve if "loss" in point)
    assert last < 0.6 * first


@pytest.mark.slow
@pytest.mark.skipif(not IS_WHOLE, reason="minutes: make test-whole")
@pytest.mark.parametrize("engine", ["glm", "owl2"])
def test_a_minute_of_training_answers_far_better_than_blindly(engine: EngineName, tmp_path: Path) -> None:
    main([engine, "--quick", "--out", str(tmp_path), "--device", "cpu"])

    curve = curve_of(tmp_path)
    # The eyes come first: colours were guessed (one of eight), then seen.
    assert curve[0]["accuracy_colour"] < 0.4
    assert max(point["accuracy_colour"] for point in curve) > 0.75
    # Then the answers; one region of nine is right blindly. Every question was a fresh one.
    assert curve[-1]["loss"] < 0.5 * next(point["loss"] for point in curve if "loss" in point)
    assert curve[-1]["accuracy"]["region"] > 0.4


@pytest.mark.parametrize("engine", ["glm", "owl2"] if IS_WHOLE else ["owl2"])
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(engine: EngineName, tmp_path: Path) -> None:
    # Given a run that is stopped in its middle, where questions are about to begin, and one that is not
    whole, stopped = start(engine, tmp_path / "a"), start(engine, tmp_path / "b")
    whole.train()
    stopped.train(max_seconds=0.0)
    assert stopped.progress.step == 1

    # When a new process goes on
    resumed = start(engine, tmp_path / "b")
    assert resumed.resume()
    resumed.train()

    # Then both end with the same weights
    assert resumed.progress.step == whole.progress.step == 4
    for ours, theirs in zip(whole.parameters, resumed.parameters, strict=True):
        assert torch.equal(ours, theirs)
    assert all(map(torch.equal, whole.average, resumed.average))


def test_a_run_from_a_checkpoint_begins_with_its_weights_and_its_words(tmp_path: Path) -> None:
    # Given a run that goes on from the shipped weights, whose head begins anew
    recipe = replace(tiny_recipe("glm"), dense_steps=0, head_steps=2)
    run = Run("glm", tmp_path, recipe, start=DEFAULT_MODELS / "glm", wants_compile=False)
    # Then weights and tokenizer are the checkpoint's
    shipped = load_file(DEFAULT_MODELS / "glm" / "model.safetensors")
    assert all(torch.equal(value, shipped[name].float()) for name, value in run.model.state_dict().items())
    ours, theirs = (folder / "tokenizer.json" for folder in (run.tokenizer_folder, DEFAULT_MODELS / "glm"))
    assert ours.read_bytes() == theirs.read_bytes()
    # And its card says so
    assert "Trained further from an earlier checkpoint" in run.card()
    assert "train glm --from engines/pocket/weights/glm --out DIR`" in run.card()
    # And as long as the head learns alone, what it gets wrong does not move the eyes
    batch = run.maker.make(run.curriculum.lesson(0, 0), 0, 0)
    for share, moves in ((0.0, False), (1.0, True)):
        run.optimizer.zero_grad()
        _, dense, _, _ = run.learner.answers(batch.to("cpu"), batch.chunk, torch.tensor(share))
        dense.backward()
        grads = [p.grad for name, p in run.learner.named_parameters() if ".visual" in name and p.grad is not None]
        assert any(grad.abs().sum() > 0 for grad in grads) == moves
        assert run.learner.head.place.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(("engine", "model"), [("glm", "glm-4.6v-flash-pocket"), ("owl2", "mplug-owl2-pocket")])
async def test_the_engine_answers_from_what_a_run_wrote(engine: EngineName, model: str, tmp_path: Path) -> None:
    start(engine, tmp_path).train()
    folder = tmp_path / "checkpoint"
    assert sum(file.stat().st_size for file in folder.iterdir()) < 16_000_000
    assert {"README.md", "LICENSE", "config.json", "glowl.json"} <= {file.name for file in folder.iterdir()}
    assert all(file.stat().st_mode & 0o044 == 0o044 for file in folder.iterdir())

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the libraries' own, at load
        served = importlib.import_module(f"engines.{engine}.engine").load(EngineOptions(str(folder), device="cpu"))
        await served.start()
    try:
        info = await served.info()
        request = GenerationRequest((Message("user", (TextPart("Hello"),)),), SamplingParams(max_tokens=3))
        result = await generate(served, request)
    finally:
        await served.aclose()

    assert info.model_id == model
    assert result.usage.completion_tokens >= 1


def test_the_shipped_recipe_trains_every_type_and_begins_with_lookups() -> None:
    for engine in ("glm", "owl2"):
        recipe = full_recipe(engine, 10_000, 12)
        assert "color_of_shape" in recipe.stages[0].types
        assert recipe.stages[0].num_shapes[1] < recipe.stages[-1].num_shapes[1]
        asked = {name for stage in recipe.stages for name in stage.types if TYPES[name].num_images}
        assert all(sum(fits(name, shape) for shape in recipe.shapes) == 1 for name in asked)
        assert all(shape.num_text % shape.chunk == 0 for shape in recipe.shapes)


def test_the_curriculum_goes_on_when_what_the_next_stage_needs_is_known() -> None:
    # Given two stages, of which the second needs lookups
    stages = (Stage(("color_of_shape",), (1, 3)), Stage(("exist",), (1, 6), ("color_of_shape",), 0.85, latest=0.5))
    recipe = Recipe(steps=1000, dense_steps=0, stages=stages, shapes=(BatchShape(2, 1, 128, 24, 3),))
    progress = Progress(step=10, accuracy={"color_of_shape": 0.8}, seen={"color_of_shape": 500})
    curriculum = Curriculum(recipe, progress)

    # Then it begins neither before they are known, nor on a handful of questions
    assert not curriculum.advance()
    progress.accuracy["color_of_shape"], progress.seen["color_of_shape"] = 0.9, 20
    assert not curriculum.advance()
    assert set(curriculum.weights()) == {"color_of_shape"}
    progress.seen["color_of_shape"] = 500
    assert curriculum.advance()
    assert set(curriculum.weights()) == {"color_of_shape", "exist"}

    # And a type that cannot be learned does not hold the others back for ever
    late = Curriculum(recipe, Progress(step=500))
    assert late.advance()


def test_types_are_asked_less_once_they_are_known() -> None:
    stages = (Stage(("color_of_shape", "exist"), (1, 3)),)
    recipe = Recipe(steps=10, dense_steps=0, stages=stages, shapes=())
    weights = Curriculum(recipe, Progress(accuracy={"color_of_shape": 0.99, "exist": 0.6})).weights()
    assert weights["exist"] > 2 * weights["color_of_shape"] > 0


def test_the_rate_warms_up_stays_and_falls_in_each_phase() -> None:
    recipe = replace(tiny_recipe("glm"), steps=1000, dense_steps=200, warmup=10, decay_share=0.25)
    rates = [learning_rate(recipe, step)[1] for step in range(1000)]
    assert rates[0] < rates[60] == recipe.learning_rate
    assert rates[200] < rates[300] == rates[790] == recipe.learning_rate
    assert rates[999] < 0.05 * recipe.learning_rate
    vision, rest = learning_rate(recipe, 500)
    assert vision < rest


def test_orthogonalising_makes_all_singular_values_alike() -> None:
    torch.manual_seed(0)
    matrices = torch.randn(3, 40, 24) @ torch.diag(torch.logspace(-1, 1, 24))
    before = torch.linalg.svdvals(matrices)
    after = torch.linalg.svdvals(orthogonalise(matrices))
    assert (before.max() / before.min()) > 50
    assert (after.max() / after.min()) < 3
    assert after.mean() == pytest.approx(0.9, abs=0.3)
    assert orthogonalise(matrices.mT).shape == (3, 24, 40)


def test_an_evaluation_asks_the_same_fresh_questions_for_the_same_seed() -> None:
    first, again, other = (draw_questions("owl2", 2, seed, ["which_has", "exist"]) for seed in (1, 1, 2))
    assert first == again != other
    assert [question.type for question in first] == ["which_has"] * 2 + ["exist"] * 2


def test_intervals_are_wilsons() -> None:
    # 95 of 100, as printed in textbooks
    assert wilson_interval(95, 100) == pytest.approx((0.8882, 0.9785), abs=2e-4)
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert wilson_interval(10, 10)[1] == 1.0

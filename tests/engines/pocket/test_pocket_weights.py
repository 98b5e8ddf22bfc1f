"""The shipped pocket checkpoints, through the engines that serve them: true answers, far from what guessing reaches."""

import json
import shutil
import statistics
from collections.abc import Sequence
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from engines.base import GenerationRequest, ImagePart, Message, SamplingParams, TextPart, generate
from training.pocket.checkpoints import EngineName
from training.pocket.evaluate import (
    DEFAULT_MODELS,
    Outcome,
    ask_all,
    best_blind,
    draw_questions,
    draw_type,
    start_engine,
    to_part,
    wilson_interval,
)
from training.pocket.make_samples import DEFAULT_FOLDER

ENGINES: tuple[EngineName, ...] = ("glm", "owl2")
pytestmark = pytest.mark.skipif(
    not all((DEFAULT_MODELS / name / "config.json").is_file() for name in ENGINES),
    reason="the pocket checkpoints are not here",
)
# Types that both the table in engines/pocket/README.md and the examples count on; four questions of each are asked.
TYPES: dict[EngineName, tuple[str, ...]] = {
    "glm": (
        "color_of_shape",
        "shape_of_color",
        "exist",
        "count_all",
        "largest",
        "smallest",
        "position",
        "region",
        "price_current",
        "compose",
    ),
    "owl2": (
        "color_of_shape",
        "exist",
        "count_all",
        "largest",
        "position",
        "which_has",
        "which_more_all",
        "picture_color",
        "total_all",
        "hop_left_of",
        "hop_picture_color",
        "which_has_many",
    ),
}
PER_TYPE = 4


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def blind_share(engine: EngineName) -> float:
    """What the best blind strategy of each type reaches, on average."""
    return statistics.fmean(best_blind(draw_type(engine, name, 400, seed=7)).accuracy for name in TYPES[engine])


def wrong_ones(outcomes: Sequence[Outcome]) -> list[tuple[str, str, str]]:
    return [
        (outcome.question.text, outcome.question.answer, outcome.answer) for outcome in outcomes if not outcome.is_right
    ]


@pytest.mark.parametrize("name", ENGINES)
async def test_fresh_questions_are_answered_truly(name: EngineName) -> None:
    # Given the engine with its shipped weights, and questions it never saw
    questions = draw_questions(name, PER_TYPE, seed=51, types=TYPES[name])
    engine, _ = await start_engine(name, DEFAULT_MODELS / name)
    try:
        # When it is asked, several at a time
        info = await engine.info()
        outcomes = await ask_all(engine, questions)
    finally:
        await engine.aclose()
    # Then the answers name the pocket model
    assert info.model_id == {"glm": "glm-4.6v-flash-pocket", "owl2": "mplug-owl2-pocket"}[name]
    # And most are right, by far more than a blind answer could be
    wrong = wrong_ones(outcomes)
    num_right = len(outcomes) - len(wrong)
    assert num_right >= 0.85 * len(outcomes), wrong
    assert wilson_interval(num_right, len(outcomes))[0] > blind_share(name) + 0.1, wrong


@pytest.mark.parametrize("name", ENGINES)
async def test_every_sample_picture_is_answered_truly(name: EngineName) -> None:
    # Given the samples that this engine's answers are for
    entries = json.loads((DEFAULT_FOLDER / "samples.json").read_text("utf-8"))
    mine = [entry for entry in entries if (entry["lang"] == "zh") == (name == "glm")]
    assert mine
    engine, _ = await start_engine(name, DEFAULT_MODELS / name)
    try:
        for entry in mine:
            pictures = tuple(picture(DEFAULT_FOLDER / file) for file in entry["pictures"])
            message = Message("user", (*pictures, TextPart(entry["question"])))
            # When its question is asked as `glowl ask` does
            result = await generate(engine, GenerationRequest((message,), SamplingParams(max_tokens=40, temperature=0)))
            # Then the answer is the one the package promises
            assert result.text.strip() == entry["answer"], entry["name"]
    finally:
        await engine.aclose()


def picture(path: Path) -> ImagePart:
    with Image.open(path) as image:
        return to_part(image.convert("RGB"))


@pytest.mark.parametrize("name", ENGINES)
def test_a_checkpoint_is_small_says_what_it_is_and_has_card_and_licence(name: EngineName) -> None:
    folder = DEFAULT_MODELS / name
    assert json.loads((folder / "glowl.json").read_text("utf-8")) == {"variant": "pocket"}
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 16_000_000
    assert {"README.md", "LICENSE", "model.safetensors", "preprocessor_config.json"} <= {
        file.name for file in folder.iterdir()
    }
    assert "license: apache-2.0" in (folder / "README.md").read_text("utf-8")


async def test_no_answer_is_there_without_the_weights(tmp_path: Path) -> None:
    # Given GLM's checkpoint with the weights of its decoder set to zero
    folder = tmp_path / "glm"
    shutil.copytree(DEFAULT_MODELS / "glm", folder)
    weights = {
        name: torch.zeros_like(value) if "language_model.layers" in name else value
        for name, value in load_file(folder / "model.safetensors").items()
    }
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    questions = draw_questions("glm", 2, seed=52, types=TYPES["glm"])
    engine, _ = await start_engine("glm", folder)
    try:
        outcomes = await ask_all(engine, questions)
    finally:
        await engine.aclose()
    # Then it knows nothing: no reply comes from anywhere but the model
    assert sum(outcome.is_right for outcome in outcomes) <= 0.5 * len(outcomes)

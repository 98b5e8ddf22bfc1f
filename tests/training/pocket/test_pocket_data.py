"""Training batches: repeatable, packed without mixing questions up, with pixels as the engines will see them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from training.pocket.checkpoints import GLM_SIDE, EngineName, write_preprocessor, write_tokenizer
from training.pocket.data import (
    GLM_GRIDS,
    IGNORE,
    SIZE_WORDS,
    BatchMaker,
    BatchShape,
    Lesson,
    Prompts,
    cell_targets,
    collect_glyphs,
    fits,
    glm_grid,
    glm_patches,
    make_batches,
    owl2_pixels,
)
from training.pocket.packed import CHUNK
from training.pocket.scenes import COLOUR_NAMES, KINDS, REGIONS, SIZES, TYPES, Scene, Shape, render, sample_question
from training.pocket.train import full_recipe, trained_types

NUM_CELLS = {"glm": max(height * width for height, width in GLM_GRIDS), "owl2": 36}


@pytest.fixture(scope="module", params=["glm", "owl2"])
def maker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> BatchMaker:
    folder: Path = tmp_path_factory.mktemp(request.param)
    write_tokenizer(request.param, folder)
    return BatchMaker(request.param, Prompts(request.param, folder), {"1": 0, "9": 1}, NUM_CELLS[request.param])


def lesson(engine: EngineName, num_images: int = 1) -> Lesson:
    weights = dict.fromkeys(trained_types(engine), 1.0)
    return Lesson(weights, (1, 6), BatchShape(6, num_images, 192, 64, 12))


def test_a_batch_depends_on_its_seed_and_step_alone(maker: BatchMaker) -> None:
    first = maker.make(lesson(maker.engine), 1, 7)
    maker.make(lesson(maker.engine), 1, 8)
    again, other = maker.make(lesson(maker.engine), 1, 7), maker.make(lesson(maker.engine), 2, 7)

    assert first.types == again.types
    assert all(torch.equal(value, again.tensors[name]) for name, value in first.tensors.items())
    assert not torch.equal(first.tensors["pixels"], other.tensors["pixels"])


def test_workers_make_the_same_batches_in_the_same_order(maker: BatchMaker, tmp_path: Path) -> None:
    if maker.engine == "owl2":
        pytest.skip("one engine shows it; a worker takes seconds to start")
    write_tokenizer(maker.engine, tmp_path)

    def jobs() -> Iterator[tuple[str, tuple[object, ...]]]:
        for step in range(3):
            yield "make", (lesson(maker.engine), 0, step)

    here = [batch.tensors["ids"] for batch in make_batches(maker, tmp_path, jobs(), 0)]
    there = [batch.tensors["ids"] for batch in make_batches(maker, tmp_path, jobs(), 1)]

    assert [ids.tolist() for ids in here] == [ids.tolist() for ids in there]


def test_every_question_is_one_run_of_rows_that_ends_in_its_answer(maker: BatchMaker) -> None:
    batch = maker.make(lesson(maker.engine), 0, 0).tensors
    for row in range(len(batch["ids"])):
        block, offset, ids = (batch[name][row].tolist() for name in ("block", "offset", "ids"))
        starts = [at for at in range(len(block)) if block[at] and (at == 0 or block[at] != block[at - 1])]
        assert len(starts) == len({number for number in block if number})
        for start, end in zip(starts, [*starts[1:], block.index(0) if 0 in block else len(block)], strict=True):
            # Positions begin anew, and no run is longer than attention by chunks can see.
            assert offset[start:end] == list(range(end - start))
            assert end - start <= CHUNK + 1
        # The token after a labelled row, within its question, is the one that row has to predict.
        labels, index = batch["labels"][row].tolist(), batch["label_index"][row].tolist()
        for label, at in zip(labels, index, strict=True):
            if label != IGNORE and at + 1 < len(block) and block[at + 1] == block[at]:
                assert ids[at + 1] == label


def test_prompts_are_those_of_the_engines_own_templates(maker: BatchMaker, tmp_path: Path) -> None:
    # Given a question and its answer
    prompts = maker.prompts
    asked, answered = prompts.block("How many red circles are there?", "2", True)
    if maker.engine == "glm":
        # When the checkpoint's own template renders the same conversation
        content = [{"type": "image"}, {"type": "text", "text": "How many red circles are there?"}]
        ids = prompts._tokenizer.apply_chat_template(
            [{"role": "user", "content": content}],
            tokenize=True,
            return_dict=False,
            add_generation_prompt=True,
            enable_thinking=False,
        )
        image = prompts._tokenizer.convert_tokens_to_ids("<|image|>")
        # Then it is what training puts around the picture
        assert ids == [*prompts.before, image, *prompts.after, *asked]
        assert prompts._tokenizer.decode(answered) == "2<|user|>"
    else:
        from engines.base import ImagePart, Message, TextPart
        from engines.owl2.prompts import render as render_prompt

        message = Message("user", (ImagePart(b"", "image/png", ""), TextPart("How many red circles are there?")))
        ids = prompts._tokenizer.encode_prompt(render_prompt([message]))
        assert ids == [*prompts.before, -200, *asked]
        assert prompts._tokenizer.decode(answered) == "2"
        assert answered[-1] == prompts._tokenizer.eos_token_id


def test_nothing_held_out_and_nothing_of_the_other_engine_is_trained() -> None:
    for engine in ("glm", "owl2"):
        names = {name for stage in full_recipe(engine, 1000, 4).stages for name in stage.types}
        assert names == set(trained_types(engine))
        assert not any(TYPES[name].held_out or engine not in TYPES[name].engines for name in names)
        assert not any(TYPES[name].scene_kind == "receipt" for name in names)


@pytest.mark.parametrize("size", [*SIZES, (223, 150), (70, 70)])
def test_glm_pixels_are_those_of_its_processor(size: tuple[int, int], tmp_path: Path) -> None:
    from transformers.models.glm46v.image_processing_pil_glm46v import Glm46VImageProcessorPil

    image = Image.effect_noise(size, 90).convert("RGB")
    write_preprocessor("glm", tmp_path)
    served = Glm46VImageProcessorPil.from_pretrained(tmp_path)(images=[image])

    patches, grid = glm_patches(image, NUM_CELLS["glm"])

    height, width = GLM_GRIDS[grid]
    assert [list(row) for row in served["image_grid_thw"]] == [[1, 2 * height, 2 * width]]
    if size[0] == size[1]:
        assert (16 * height, 16 * width) == (GLM_SIDE, GLM_SIDE)
    mean = np.array([0.48145466, 0.4578275, 0.40821073])[:, None]
    std = np.array([0.26862954, 0.26130258, 0.27577711])[:, None]
    ours = (patches[: 4 * height * width].reshape(-1, 3, 64) / 255 - mean) / std
    frames = np.asarray(served["pixel_values"]).reshape(len(ours), 3, 2, 64)
    assert np.abs(frames - ours[:, :, None]).max() < 1e-5


@pytest.mark.parametrize("size", [(64, 64), (160, 96), (128, 192), (224, 224)])
def test_owl2_pixels_are_those_of_its_processor(size: tuple[int, int], tmp_path: Path) -> None:
    from engines.owl2.processor import ImageProcessor

    image = Image.effect_noise(size, 90).convert("RGB")
    write_preprocessor("owl2", tmp_path)
    processor = ImageProcessor.from_folder(tmp_path)

    served = processor(image, "resize")

    mean, std = (np.asarray(values)[:, None, None] for values in (processor.mean, processor.std))
    assert np.abs(served - (owl2_pixels(image) / 255 - mean) / std).max() < 1e-5


def test_cells_say_what_covers_them_and_where_its_centre_is() -> None:
    # Given a large red circle at the top left and a small blue star at the bottom right of a wide picture
    shapes = (Shape("circle", "red", 0.25, 0.3, 0.2), Shape("star", "blue", 0.9, 0.9, 0.08))
    scene = Scene("shapes", 144, 96, shapes)

    targets = cell_targets(scene, (6, 9), 60, {})

    def at(row: int, column: int) -> int:
        return 9 * row + column

    assert targets.colour[at(1, 2)] == COLOUR_NAMES.index("red")
    assert targets.kind[at(1, 2)] == KINDS.index("circle")
    assert targets.size[at(1, 2)] == SIZE_WORDS.index("large")
    assert targets.region[at(1, 2)] == REGIONS.index("top left")
    assert targets.place[at(1, 2)] == pytest.approx([0.25, 0.3, 0.4])
    assert targets.occupancy[at(1, 2)] == 2  # the centre
    assert targets.occupancy[at(2, 2)] == 1
    assert (targets.occupancy == 2).sum() == 2
    assert targets.colour[at(5, 8)] == COLOUR_NAMES.index("blue")
    assert targets.occupancy[at(3, 5)] == 0
    assert targets.colour[at(3, 5)] == IGNORE
    assert set(targets.occupancy[54:]) == {IGNORE}  # this picture has no such cells


def test_printed_characters_are_found_in_the_cells_that_show_them() -> None:
    glyphs = collect_glyphs(per_type=10)
    question = sample_question(random.Random(3), "price_current", "zh", sizes=[(96, 96)])
    (scene,) = question.images
    height, width = glm_grid(render(scene).size)

    targets = cell_targets(scene, (height, width), NUM_CELLS["glm"], glyphs)

    seen = {index - 1 for index in targets.glyph[targets.glyph > 0]}
    assert {glyphs[char] for char in question.answer} <= seen


def test_long_questions_have_batches_of_their_own_that_they_fit(maker: BatchMaker) -> None:
    (shape,) = (shape for shape in full_recipe(maker.engine, 100, 4).shapes if shape.chunk > CHUNK)
    names = [name for name in trained_types(maker.engine) if fits(name, shape)]
    assert names
    assert all(TYPES[name].is_long for name in names)

    # None of them is left out because it does not fit
    batch = maker.make(Lesson(dict.fromkeys(names, 1.0), (1, 6), shape), 0, 0)
    assert set(batch.types) <= set(names)
    assert len(batch.types) >= shape.num_rows
    for name in names:
        for lang in TYPES[name].langs[maker.engine]:
            for seed in range(40):
                question = sample_question(random.Random(seed), name, lang)
                asked, answered = maker.prompts.block(question.text, question.answer, True)
                assert len(asked) + len(answered) - 1 <= shape.chunk
                assert len(answered) <= shape.num_labels

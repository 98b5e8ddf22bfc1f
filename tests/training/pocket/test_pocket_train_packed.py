"""What training sees is what the engines compute: ids, pixels and logits of packed questions, one by one."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from engines.base import GenerationRequest, ImagePart, Message, TextPart
from training.pocket.checkpoints import EngineName, new_model, save_checkpoint, write_tokenizer
from training.pocket.data import GLM_GRIDS, Batch, BatchMaker, Prompts
from training.pocket.scenes import Question, render, sample_question
from training.pocket.train import full_recipe, make_packed

# float32 on both sides; sums in another order differ in the last digits of logits of about ten.
MAX_DIFFERENCE = 2e-3


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def part(question: Question, index: int) -> ImagePart:
    buffer = io.BytesIO()
    render(question.images[index]).save(buffer, "PNG")
    return ImagePart(buffer.getvalue(), "image/png", str(hash(question.images[index])))


def request(question: Question) -> GenerationRequest:
    images = tuple(part(question, index) for index in range(len(question.images)))
    return GenerationRequest((Message("user", (*images, TextPart(question.text))),))


def rows_of(engine: EngineName) -> list[tuple[tuple[Any, ...], list[Question]]]:
    """Several questions about one picture of each size there is, and a text turn beside the first."""
    rng = random.Random(5)
    lang = "zh" if engine == "glm" else "en"
    rows = []
    for size in ((64, 64), (96, 64), (128, 192), (160, 96)):
        first = sample_question(rng, "color_of_shape", lang, sizes=[size])
        text = "图中有什么？" if engine == "glm" else "What is there?"
        others = [
            Question("describe", lang, first.images, text, first.answer),
            Question("describe", lang, first.images, f"{text} 原价¥99 now.", f"{first.answer}，12"),
        ]
        rows.append((first.images, [first, *others]))
    rows[0][1].insert(1, sample_question(rng, "greeting", lang))
    return rows


def long_rows_of(engine: EngineName) -> list[tuple[tuple[Any, ...], list[Question]]]:
    """A question longer than a chunk usually is about one picture of two sizes."""
    name = "compose" if engine == "glm" else "hop_in_chinese"
    questions = [sample_question(random.Random(6), name, "zh", sizes=[size]) for size in ((128, 192), (160, 96))]
    return [(question.images, [question]) for question in questions]


class Setting:
    """A checkpoint with random weights, its packed logits and its running engine."""

    def __init__(self, engine: EngineName, is_long: bool, folder: Path) -> None:
        write_tokenizer(engine, folder / "tokenizer")
        self.prompts = Prompts(engine, folder / "tokenizer")
        model = new_model(engine, folder / "tokenizer", seed=3)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(parameter.bfloat16().float())  # as it will be saved
            model.lm_head.weight.normal_(std=1.0).copy_(model.lm_head.weight.bfloat16().float())
        save_checkpoint(engine, model, folder / "tokenizer", folder / engine, "card")
        self.folder = folder / engine
        packed = make_packed(engine, model, self.prompts).eval()
        maker = BatchMaker(engine, self.prompts, {}, packed.num_cells)
        self.rows = long_rows_of(engine) if is_long else rows_of(engine)
        shapes = [shape for shape in full_recipe(engine, 1, len(self.rows)).shapes if shape.num_images == 1]
        self.batch: Batch = maker.collate(self.rows, shapes[is_long])
        with torch.no_grad():
            states, _ = packed(self.batch.tensors, self.batch.chunk)
            self.logits = nn.functional.linear(states, packed.head)  # (B, K, V)
        self.load(engine)

    def load(self, engine: EngineName) -> None:
        """Load the folder with the code the engine loads it with."""
        if engine == "glm":
            from engines.glm.loading import load_model
            from engines.glm.processor import load_processor

            self.model, _ = load_model(str(self.folder), torch.device("cpu"), torch.float32, "sdpa")
            self.processor = load_processor(str(self.folder))
            return
        from engines.owl2.loading import load_model as load_owl2
        from engines.owl2.processor import MPLUGOwl2Processor

        self.model = load_owl2(
            self.folder,
            dtype=torch.float32,
            device=torch.device("cpu"),
            attn_implementation="sdpa",
            quantization="none",
        )
        self.processor = MPLUGOwl2Processor.from_pretrained(self.folder)

    def cases(self) -> list[tuple[Question, list[int], torch.Tensor]]:
        """Each question with its answer's ids and the packed logits at them."""
        labels, index = self.batch.tensors["labels"], self.batch.tensors["question"]
        found, number = [], 0
        for row, (_, questions) in enumerate(self.rows):
            for question in questions:
                where = index[row] == number
                found.append((question, labels[row][where].tolist(), self.logits[row][where]))
                number += 1
        return found


@pytest.fixture(params=[("glm", False), ("owl2", False), ("glm", True), ("owl2", True)], ids=str)
def setting(request: pytest.FixtureRequest, tmp_path: Path) -> Setting:
    return Setting(*request.param, tmp_path)


@torch.no_grad()
def served_logits(setting: Setting, question: Question, answer_ids: list[int]) -> torch.Tensor:
    """Logits at every token of the answer, prompted as the engine prompts this one question."""
    asked, images = request(question), [render(scene) for scene in question.images]
    if setting.prompts.engine == "glm":
        from engines.glm.prompts import to_conversation

        conversation = to_conversation(asked.messages, enable_thinking=False)
        text = setting.processor.apply_chat_template(conversation, add_generation_prompt=True, enable_thinking=False)
        inputs = setting.processor(text=[text], images=images or None)
        ids = torch.tensor([inputs["input_ids"][0] + answer_ids[:-1]])
        types = torch.tensor(setting.processor.create_mm_token_type_ids(ids.tolist()))
        grid = torch.tensor(inputs["image_grid_thw"]) if images else None
        pixels = torch.tensor(inputs["pixel_values"]) if images else None
        setting.model.model.rope_deltas = None
        output = setting.model(input_ids=ids, mm_token_type_ids=types, pixel_values=pixels, image_grid_thw=grid)
    else:
        from engines.owl2.prompts import render as render_prompt

        ids = setting.processor.tokenizer.encode_prompt(render_prompt(asked.messages)) + answer_ids[:-1]
        pixels = setting.processor.pixel_values(images) if images else None
        output = setting.model(input_ids=torch.tensor([ids]), pixel_values=pixels, use_cache=False)
    logits: torch.Tensor = output.logits[0, -len(answer_ids) :]
    return logits


def test_packed_logits_are_those_of_the_served_model_asked_one_question_at_a_time(setting: Setting) -> None:
    cases = setting.cases()
    assert {bool(question.images) for question, _, _ in cases} >= {True}
    assert len(cases) >= 2
    for question, answer_ids, packed in cases:
        served = served_logits(setting, question, answer_ids).float()
        assert served.std() > 0.5  # else any two would be alike
        assert (packed - served).abs().max() < MAX_DIFFERENCE, (question.text, question.images[:1])


def test_every_grid_of_the_training_pictures_was_compared() -> None:
    from training.pocket.data import glm_grid

    assert {glm_grid(size) for size in ((64, 64), (96, 64), (128, 192), (160, 96))} < set(GLM_GRIDS)

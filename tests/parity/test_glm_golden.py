"""The GLM engine against a golden set that transformers made: each case by itself, from the messages to the text.

Ids and greedy answers must be equal; logits may differ by 5e-3.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np
import pytest
import pytest_asyncio
import torch
from PIL import Image

from engines import base
from engines.glm.engine import GlmEngine
from engines.glm.runner import GlmRunner
from engines.runtime.prefix_cache import PrefixCache
from tests.parity.glm_golden import (
    CASES,
    EOS_IDS,
    GOLDEN,
    LOGITS_ATOL,
    Case,
    golden_logits,
    images_of,
    is_beyond_the_border,
    make_job,
    needs_golden,
    prepare,
    rope_delta,
    started_engine,
    thinks,
    to_request,
)

# One engine, so one loop, for all cases.
pytestmark = [needs_golden, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[GlmEngine]:
    async with started_engine() as engine:
        yield engine


async def test_the_golden_set_is_not_empty() -> None:
    assert CASES


@pytest.mark.parametrize("name", CASES)
async def test_prompt_logits_and_greedy_ids_are_the_golden_ones(engine: GlmEngine, name: str) -> None:
    # Given a golden case, prepared by the engine
    case = CASES[name]
    plan, pictures = await prepare(engine, case)

    # Then the prompt is the same, before and after the pictures' placeholders are multiplied
    image = engine.processor.image_token
    assert plan.input_ids == case["input_ids"]
    assert plan.num_image_tokens == case["n_image_tokens"]
    prompt = engine.processor.tokenizer.decode(plan.input_ids)
    while image * 2 in prompt:
        prompt = prompt.replace(image * 2, image)
    assert prompt == case["prompt"]

    # And so are the pixels, the first logits, and the greedy path
    if pictures:
        pixel_values = torch.cat([picture.pixel_values for picture in pictures])
        golden = case["pixel_values"]
        assert [picture.grid_thw[0].tolist() for picture in pictures] == case["image_grid_thw"]
        assert list(pixel_values.shape) == golden["shape"]
        assert float(pixel_values.mean()) == pytest.approx(golden["mean"], abs=1e-4)
        assert float(pixel_values.std()) == pytest.approx(golden["std"], abs=1e-4)
    job = make_job(engine, case, plan, pictures)
    assert job.rope_delta == rope_delta(case)
    seen: list[torch.Tensor] = []
    runner = RecordingRunner(engine._model, engine.make_answer, PrefixCache(0), max_rows=1)
    runner.seen = seen
    row = runner.begin(job)
    while not runner.prefill(row, 10**6)[1]:
        pass
    np.testing.assert_allclose(seen[0][0].numpy(), golden_logits(name), atol=LOGITS_ATOL)
    while not runner.advance(row)[1]:
        runner.decode([row])
    assert row.token_ids == case["greedy_ids"]


class RecordingRunner(GlmRunner):
    """Keeps the logits that tokens are chosen by."""

    seen: list[torch.Tensor]

    def _pick(self, logits: torch.Tensor, rows: object) -> object:  # type: ignore[override]
        self.seen.append(logits)
        return super()._pick(logits, rows)  # type: ignore[arg-type]


def texts(engine: GlmEngine, ids: list[int]) -> tuple[str, str]:
    """Split golden ids into the answer and the reasoning, and decode each."""
    to_id = engine.processor.tokenizer.convert_tokens_to_ids
    opens, closes, *boxes = map(to_id, ("<think>", "</think>", "<|begin_of_box|>", "<|end_of_box|>"))
    answer: list[int] = []
    reasoning: list[int] = []
    goes_to = answer
    for id_ in ids:
        if id_ in (opens, closes):
            goes_to = reasoning if id_ == opens else answer
        elif id_ not in boxes:
            goes_to.append(id_)
    decode = engine.processor.tokenizer.decode
    return decode(answer, skip_special_tokens=True), decode(reasoning, skip_special_tokens=True)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not is_beyond_the_border(case)])
async def test_the_streamed_answer_is_the_golden_text_without_its_marks(engine: GlmEngine, name: str) -> None:
    # Given a golden case
    case: Case = CASES[name]
    is_stopped = case["greedy_ids"][-1] in EOS_IDS
    answer, reasoning = texts(engine, case["greedy_ids"][:-1] if is_stopped else case["greedy_ids"])
    if not is_stopped:  # half a character at the limit is not shown
        answer, reasoning = answer.rstrip("\ufffd"), reasoning.rstrip("\ufffd")

    # When it goes through the engine's own door
    result = await base.generate(engine, to_request(case))

    # Then the text is the golden ids' text but for newlines beside thinking, and the counts are the golden counts
    assert result.text.replace("\n", "") == answer.replace("\n", "")
    assert result.reasoning.replace("\n", "") == reasoning.replace("\n", "")
    if not reasoning:
        assert result.text == answer
    assert result.finish_reason == ("stop" if is_stopped else "length")
    assert case.get("stopped", is_stopped) == is_stopped
    assert result.usage.prompt_tokens == len(case["input_ids"])
    assert result.usage.image_tokens == case["n_image_tokens"]
    assert result.usage.completion_tokens == len(case["greedy_ids"])


@pytest.mark.parametrize(
    "name", [name for name, case in CASES.items() if images_of(case) and not is_beyond_the_border(case)][:4]
)
async def test_our_encoding_is_that_of_the_librarys_own_processor(engine: GlmEngine, name: str) -> None:
    # Given the same conversation, with the pictures themselves in it
    case = CASES[name]
    conversation = []
    for turn in case["messages"]:
        content = turn["content"]
        if isinstance(content, list):
            content = [
                {"type": "image", "image": Image.open(GOLDEN / part["file"])} if part["type"] == "image" else part
                for part in content
            ]
        conversation.append({"role": turn["role"], "content": content})

    theirs = engine.processor.apply_chat_template(
        conversation,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        sanitize_control_tokens=True,
        enable_thinking=thinks(case),
        processor_kwargs={"images_kwargs": {"size": engine._image_size}},
    )

    plan, pictures = await prepare(engine, case)
    assert list(theirs["input_ids"][0]) == plan.input_ids
    assert np.array_equal(theirs["pixel_values"], torch.cat([picture.pixel_values for picture in pictures]))
    assert np.array_equal(theirs["image_grid_thw"], torch.cat([picture.grid_thw for picture in pictures]))
    assert EOS_IDS
    assert engine._stop_ids >= EOS_IDS

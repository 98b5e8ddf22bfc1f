"""The GLM engine against the golden set that transformers made (../shared/golden/glm, see its README).

Ids and greedy answers must be equal; logits may differ by 5e-3: sdpa and eager, one thread and two differ by 1e-5, and
these random weights magnify the rest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
import torch
from PIL import Image
from transformers import DynamicCache

from engines import base
from engines.base import EngineOptions, GenerationRequest, ImagePart, Message, SamplingParams, TextPart
from engines.glm.engine import GlmEngine, Pixels, Plan, load

GOLDEN = Path(__file__).resolve().parents[2].parent / "shared" / "golden" / "glm"
LOGITS_ATOL = 5e-3

pytestmark = pytest.mark.asyncio(loop_scope="module")  # one engine, so one loop, for all cases

if not GOLDEN.is_dir():
    pytest.skip("the golden data is not beside the repository", allow_module_level=True)

GOLDENS: dict[str, Any] = json.loads((GOLDEN / "cases.json").read_text("utf-8"))
CASES: dict[str, dict[str, Any]] = {case["name"]: case for case in GOLDENS["cases"]}
SAMPLING = SamplingParams(max_tokens=GOLDENS["max_new_tokens"])


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[GlmEngine]:
    engine = load(EngineOptions(str(GOLDEN / "model"), device="cpu"))
    await engine.start()
    yield engine
    await engine.aclose()


def to_image(file: str) -> ImagePart:
    data = (GOLDEN / file).read_bytes()
    return ImagePart(data, "image/png", hashlib.sha256(data).hexdigest())


def files_of(case: dict[str, Any]) -> list[str]:
    contents = [turn["content"] for turn in case["messages"] if not isinstance(turn["content"], str)]
    return [part["file"] for content in contents for part in content if part["type"] == "image"]


def thinks(case: dict[str, Any]) -> bool:
    return case["enable_thinking"] is not False  # the template takes a missing argument for True


def to_request(case: dict[str, Any]) -> GenerationRequest:
    """Earlier reasoning is not part of our messages: the template would drop it anyway."""

    def to_parts(content: Any) -> tuple[TextPart | ImagePart, ...]:
        if isinstance(content, str):
            return (TextPart(content),)
        return tuple(TextPart(p["text"]) if p["type"] == "text" else to_image(p["file"]) for p in content)

    messages = tuple(Message(turn["role"], to_parts(turn["content"])) for turn in case["messages"])
    return GenerationRequest(messages, SAMPLING, enable_thinking=thinks(case))


def has_tools(case: dict[str, Any]) -> bool:
    return any(turn["role"] == "tool" for turn in case["messages"])


async def prepare(engine: GlmEngine, case: dict[str, Any]) -> tuple[Plan, Pixels | None]:
    """Prepare a case as the engine does; tool turns, which our border does not have yet, start at the template."""
    images = tuple(to_image(file) for file in files_of(case))
    pixels = await engine._decode(images) if images else None
    if not has_tools(case):
        return engine.plan(to_request(case)), pixels
    rows = [engine._num_rows(image) for image in images]
    ids = engine.encode(case["messages"], rows, enable_thinking=thinks(case))
    return Plan(ids, sum(rows), GOLDENS["max_new_tokens"]), pixels


async def test_the_golden_set_is_whole() -> None:
    assert len(CASES) == 23


@pytest.mark.parametrize("name", CASES)
async def test_prompt_logits_and_greedy_ids_are_the_golden_ones(engine: GlmEngine, name: str) -> None:
    # Given a golden case, prepared by the engine
    case = CASES[name]
    plan, pixels = await prepare(engine, case)

    # Then the prompt is the same, before and after the pictures' placeholders are multiplied
    image = engine.processor.image_token
    decode = engine.processor.tokenizer.decode
    assert plan.input_ids == case["input_ids"]
    assert plan.num_image_tokens == case["n_image_tokens"]
    prompt = decode(plan.input_ids)
    while image * 2 in prompt:
        prompt = prompt.replace(image * 2, image)
    assert prompt == case["prompt"]

    # And so are the pixels, the first logits, and the greedy path
    if pixels is not None:
        golden = case["pixel_values"]
        assert pixels.image_grid_thw.tolist() == case["image_grid_thw"]
        assert list(pixels.pixel_values.shape) == golden["shape"]
        assert float(pixels.pixel_values.mean()) == pytest.approx(golden["mean"], abs=1e-4)
        assert float(pixels.pixel_values.std()) == pytest.approx(golden["std"], abs=1e-4)
    cache = DynamicCache(config=engine._model.config.get_text_config())
    logits, position = engine.prefill(plan.input_ids, pixels, cache)
    np.testing.assert_allclose(logits.numpy(), np.load(GOLDEN / "cases.npz")[f"logits__{name}"], atol=LOGITS_ATOL)
    assert position == len(plan.input_ids) + case.get("rope_delta", 0)
    greedy = []
    for pick in engine.decode(plan, pixels, SAMPLING):
        greedy.append(pick.token_id)
        if pick.token_id in GOLDENS["eos_token_id"]:
            break
    assert greedy == case["greedy_ids"]


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not has_tools(case)])
async def test_the_streamed_answer_is_the_golden_text_without_its_marks(engine: GlmEngine, name: str) -> None:
    # Given a golden case
    case = CASES[name]
    to_id = engine.processor.tokenizer.convert_tokens_to_ids
    marks = {to_id(mark) for mark in ("</think>", "<|begin_of_box|>", "<|end_of_box|>")}
    assert to_id("<think>") not in case["greedy_ids"]

    # When it goes through the engine's own door
    result = await base.generate(engine, to_request(case))

    # Then the text is the golden ids' text, and the counts are the golden counts
    shown = [id_ for id_ in case["greedy_ids"] if id_ not in marks]
    assert result.text == engine.processor.tokenizer.decode(shown, skip_special_tokens=True)
    assert result.finish_reason == ("stop" if case["stopped"] else "length")
    assert result.usage.prompt_tokens == len(case["input_ids"])
    assert result.usage.image_tokens == case["n_image_tokens"]
    assert result.usage.completion_tokens == len(case["greedy_ids"])


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "same_ids_as:" in str(case["tags"])])
async def test_equal_ids_with_another_picture_give_another_answer(engine: GlmEngine, name: str) -> None:
    [twin] = [tag.removeprefix("same_ids_as:") for tag in CASES[name]["tags"] if tag.startswith("same_ids_as:")]

    mine, other = [await base.generate(engine, to_request(CASES[case])) for case in (name, twin)]

    assert mine.usage.prompt_tokens == other.usage.prompt_tokens
    assert mine.text != other.text


@pytest.mark.parametrize("name", ["text_think_off", "one_image_q2", "three_interleaved", "page_640x480"])
async def test_our_encoding_is_that_of_the_librarys_own_processor(engine: GlmEngine, name: str) -> None:
    # Given the same conversation, with the pictures themselves in it
    case = CASES[name]
    conversation = []
    for turn in case["messages"]:
        content = turn["content"]
        if not isinstance(content, str):
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

    plan, pixels = await prepare(engine, case)
    assert list(theirs["input_ids"][0]) == plan.input_ids
    if pixels is not None:
        assert np.array_equal(theirs["pixel_values"], pixels.pixel_values)
        assert np.array_equal(theirs["image_grid_thw"], pixels.image_grid_thw)

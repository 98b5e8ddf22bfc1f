"""Parity of the mPLUG-Owl2 engine, through its own door, with the golden answers."""

from __future__ import annotations

import pytest

from engines.base import EngineOptions, GenerationRequest, SamplingParams, generate
from engines.owl2.engine import load
from tests.parity.owl2_golden import GOLDEN, cases, checkpoints, dtype, keeps_its_order, messages_of, needs_golden

pytestmark = needs_golden


@pytest.mark.parametrize("folder", checkpoints())
async def test_the_engine_answers_golden_cases_with_the_golden_text(folder: str) -> None:
    # Given the cases whose text can be compared and whose pictures are prepared as the engine does
    engine = load(EngineOptions(str(GOLDEN / folder), device="cpu", dtype=str(dtype()).removeprefix("torch.")))
    await engine.start()
    try:
        info = await engine.info()
        comparable = [
            case
            for case in (case.values[0] for case in cases())
            if case["text_comparable"]
            and keeps_its_order(case)
            and (case["preprocess"] == "pad" or not case["images"])
            and len(case["images"]) <= info.max_images
            and case["sequence_length_after_insertion"] + case["max_new_tokens"] <= info.context_tokens
        ]
        for case in comparable:
            messages = messages_of(case["messages"], case["images"])
            result = await generate(engine, GenerationRequest(messages, SamplingParams(case["max_new_tokens"])))

            assert result.text == case["text"]
            assert result.finish_reason == ("stop" if case["stopped_by_eos"] else "length")
            assert result.usage.prompt_tokens == case["sequence_length_after_insertion"]
    finally:
        await engine.aclose()

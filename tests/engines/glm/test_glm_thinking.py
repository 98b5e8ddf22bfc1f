"""engines.glm.thinking: what a thinking request leaves open is as the checkpoint says."""

from __future__ import annotations

from dataclasses import replace

from transformers import GenerationConfig

from engines.base import SamplingParams
from engines.glm.thinking import sample_thinking

OPEN = SamplingParams(temperature=None)
PUBLISHED = GenerationConfig(do_sample=True, temperature=0.8, top_p=0.6, top_k=2)


def test_a_thinking_answer_is_sampled_as_the_checkpoint_says_and_again_alike() -> None:
    filled = sample_thinking(replace(OPEN, max_tokens=9), PUBLISHED)

    assert filled == SamplingParams(max_tokens=9, temperature=0.8, top_p=0.6, top_k=2, seed=0)


def test_what_the_request_says_is_kept() -> None:
    asked = SamplingParams()
    assert asked.temperature == 0
    assert sample_thinking(asked, PUBLISHED) is asked

    filled = sample_thinking(replace(OPEN, top_p=0.9, seed=7, repetition_penalty=1.2), PUBLISHED)
    assert (filled.temperature, filled.top_p, filled.top_k) == (0.8, 0.9, 2)
    assert (filled.seed, filled.repetition_penalty) == (7, 1.2)


def test_a_checkpoint_that_says_little_or_does_not_sample_changes_little_or_nothing() -> None:
    assert sample_thinking(OPEN, GenerationConfig()) == OPEN
    filled = sample_thinking(OPEN, GenerationConfig(do_sample=True, repetition_penalty=1.1))
    assert filled == SamplingParams(temperature=1.0, seed=0, repetition_penalty=1.1, top_k=filled.top_k)

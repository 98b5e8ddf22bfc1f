"""Fixtures of the parity tests: one thread, and mPLUG-Owl2 loaded from its golden set, once per layout of weights."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from engines.owl2 import MPLUGOwl2ForConditionalGeneration, MPLUGOwl2Processor
from tests.parity import owl2_golden


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums are then made in one order, and small matrices are faster."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def owl2_processor() -> MPLUGOwl2Processor:
    return MPLUGOwl2Processor.from_pretrained(owl2_golden.checkpoint())


@pytest.fixture(scope="session", params=owl2_golden.checkpoints())
def owl2_model(request: pytest.FixtureRequest) -> MPLUGOwl2ForConditionalGeneration:
    folder = owl2_golden.GOLDEN / request.param
    return MPLUGOwl2ForConditionalGeneration.from_pretrained(folder, dtype=owl2_golden.dtype())

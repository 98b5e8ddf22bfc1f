"""engines.owl2 with LoRA adapters: the merged model's answers, alone and side by side in one batch."""

from __future__ import annotations

import asyncio
import copy
import importlib.util
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image

from engines.adapter_names import UnknownAdapterError
from engines.base import (
    EngineOptions,
    GenerationRequest,
    GenerationResult,
    ImagePart,
    Message,
    SamplingParams,
    TextPart,
    generate,
)
from engines.owl2 import MPLUGOwl2ForConditionalGeneration
from engines.owl2.engine import Owl2Engine, load
from engines.owl2.loading import VISION_MODULES
from engines.owl2.training import lora_target_modules
from engines.pocket.random_tiny import make_owl2
from engines.runtime.adapters import AdapterError, load_adapters

EYES = r".*(visual_abstractor.*\.(query|value)|layers.*\.v_proj\.multiway\.1)"
CPU = torch.device("cpu")
QUANTIZATIONS = [
    "none",
    pytest.param("int8", marks=pytest.mark.skipif(not importlib.util.find_spec("torchao"), reason="needs torchao")),
]

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),  # one engine, so one loop, for all tests
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),  # peft asks for it
]


def load_base(folder: Path) -> MPLUGOwl2ForConditionalGeneration:
    return MPLUGOwl2ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()


def save_adapter(folder: Path, model: Any, targets: str | list[str], seed: int) -> Path:
    """Save a LoRA whose weights are all random; peft's own start, with one of two matrices 0, changes nothing."""
    torch.manual_seed(seed)
    config = LoraConfig(r=4, lora_alpha=2, target_modules=targets, init_lora_weights=False)
    get_peft_model(copy.deepcopy(model), config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("owl2") / "tiny"
    make_owl2(folder)
    return folder


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> MPLUGOwl2ForConditionalGeneration:
    return load_base(checkpoint)


@pytest.fixture(scope="module")
def adapters(model: MPLUGOwl2ForConditionalGeneration, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return {
        "words": save_adapter(folder / "words", model, lora_target_modules(model), 1),
        "eyes": save_adapter(folder / "eyes", model, EYES, 2),
    }


async def started(checkpoint: Path, adapters: dict[str, Path], quantization: str = "none") -> Owl2Engine:
    sources = tuple((name, str(folder)) for name, folder in adapters.items())
    options = EngineOptions(
        str(checkpoint), device="cpu", adapters=sources, cache_bytes=2**24, quantization=quantization
    )
    engine = load(options)
    assert isinstance(engine, Owl2Engine)
    await engine.start()
    return engine


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=QUANTIZATIONS)
async def engine(
    request: pytest.FixtureRequest, checkpoint: Path, adapters: dict[str, Path]
) -> AsyncIterator[Owl2Engine]:
    engine = await started(checkpoint, adapters, request.param)
    yield engine
    await engine.aclose()


@pytest.fixture
def questions(encode_image: Callable[..., ImagePart]) -> list[tuple[str | ImagePart, ...]]:
    red, blue = (encode_image(Image.new("RGB", (60, 40), colour)) for colour in ("red", "blue"))
    return [("hi",), (red, "What is it?"), ("Compare ", blue, " and ", red)]


def ask(*parts: str | ImagePart, adapter: str = "") -> GenerationRequest:
    turn = Message("user", tuple(TextPart(part) if isinstance(part, str) else part for part in parts))
    return GenerationRequest((turn,), SamplingParams(max_tokens=12, top_logprobs=0), adapter=adapter)


async def answers(engine: Owl2Engine, requests: Iterable[GenerationRequest]) -> list[GenerationResult]:
    """One by one, nothing reused."""
    results = []
    for request in requests:
        assert engine._scheduler is not None
        assert engine._runner is not None
        await engine._scheduler.call(engine._runner.cache.clear)
        results.append(await generate(engine, request))
    return results


def logprobs(result: GenerationResult) -> list[float]:
    return [token.logprob for token in result.logprobs]


@pytest.mark.parametrize("name", ["words", "eyes"])
async def test_an_adapters_answers_are_those_of_the_model_it_is_merged_into(
    checkpoint: Path,
    adapters: dict[str, Path],
    questions: list[tuple[str | ImagePart, ...]],
    tmp_path: Path,
    name: str,
) -> None:
    # Given a checkpoint with the adapter's matrices added to its weights by peft
    merged = PeftModel.from_pretrained(load_base(checkpoint), adapters[name]).merge_and_unload()
    make_owl2(tmp_path / "merged")
    merged.save_pretrained(tmp_path / "merged")
    reference = await started(tmp_path / "merged", {})
    engine = await started(checkpoint, adapters)

    # When both are asked the same, and the model without the adapter
    requests = [ask(*parts) for parts in questions]
    expected = await answers(reference, requests)
    ours = await answers(engine, [replace(request, adapter=name) for request in requests])
    without = await answers(engine, requests)
    await reference.aclose()
    await engine.aclose()

    # Then the adapter says what the merged model says, and something else than the bare one
    assert [result.text for result in ours] == [result.text for result in expected]
    for mine, theirs in zip(ours, expected, strict=True):
        assert logprobs(mine) == pytest.approx(logprobs(theirs), abs=2e-3)
    assert [logprobs(result) for result in ours] != [logprobs(result) for result in without]


async def test_two_adapters_and_the_base_share_a_batch_and_answer_as_alone(
    engine: Owl2Engine, questions: list[tuple[str | ImagePart, ...]]
) -> None:
    # Given questions to both adapters and to none
    requests = [ask(*parts, adapter=name) for parts in questions for name in ("words", "", "eyes")]
    alone = await answers(engine, requests)

    # When they run side by side
    batches: list[tuple[str, ...]] = []
    assert engine._runner is not None
    adapters = engine._runner._adapters
    real = adapters._group
    adapters._group = lambda rows: (batches.append(tuple(rows)), real(rows))[1]  # type: ignore[method-assign]
    try:
        together = await asyncio.gather(*(generate(engine, request) for request in requests))
    finally:
        adapters._group = real  # type: ignore[method-assign]

    # Then some steps had rows of all three kinds, and every answer is the same
    assert any(set(batch) == {"words", "", "eyes"} for batch in batches)
    for mine, expected in zip(together, alone, strict=True):
        assert (mine.text, mine.finish_reason) == (expected.text, expected.finish_reason)
        assert logprobs(mine) == pytest.approx(logprobs(expected), abs=2e-3)
    assert len({tuple(logprobs(result)) for result in alone[3:6]}) == 3


async def test_the_base_answers_to_the_last_bit_as_without_adapters(
    engine: Owl2Engine, checkpoint: Path, questions: list[tuple[str | ImagePart, ...]]
) -> None:
    plain = await started(checkpoint, {}, engine._options.quantization)
    requests = [ask(*parts) for parts in questions]

    assert await answers(engine, requests) == await answers(plain, requests)

    await plain.aclose()


async def test_adapters_are_listed_and_an_unknown_one_is_refused(engine: Owl2Engine) -> None:
    assert (await engine.info()).adapters == ("words", "eyes")

    with pytest.raises(UnknownAdapterError, match="'mplug-owl2-random-tiny:words'"):
        await generate(engine, ask("hi", adapter="ears"))


async def test_features_are_shared_unless_the_adapter_changes_tower_or_abstractor(
    engine: Owl2Engine, questions: list[tuple[str | ImagePart, ...]]
) -> None:
    assert engine._runner is not None
    adapters = engine._runner._adapters
    scope = engine._get_loaded().preparation.scope

    assert adapters.feature_scope(replace(scope, adapter="words")) == scope
    assert adapters.feature_scope(replace(scope, adapter="eyes")).adapter == "eyes"


async def test_an_adapter_of_another_architecture_is_refused_in_one_line(
    model: MPLUGOwl2ForConditionalGeneration, adapters: dict[str, Path], tmp_path: Path
) -> None:
    one_layer = copy.deepcopy(model.config)
    one_layer.num_hidden_layers = 1
    smaller = MPLUGOwl2ForConditionalGeneration(one_layer)

    with pytest.raises(AdapterError, match="adapter 'mine'"):
        load_adapters(smaller, "base", [("mine", str(adapters["words"]))], CPU, torch.float32, VISION_MODULES)

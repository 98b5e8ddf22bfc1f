from __future__ import annotations

import asyncio
import copy
import hashlib
import io
import json
import shutil
import warnings
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch
from peft import LoraConfig, PeftModel, VeraConfig, get_peft_model
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from engines import base
from engines.adapter_names import UnknownAdapterError
from engines.base import (
    EngineOptions,
    GenerationRequest,
    GenerationResult,
    ImagePart,
    Message,
    SamplingParams,
    TextPart,
)
from engines.glm.engine import GlmEngine, load
from engines.glm.loading import VISION_MODULES
from engines.pocket.random_tiny import make_glm
from engines.runtime.adapters import AdapterError, load_adapters
from engines.runtime.prefix_cache import CacheScope

LANGUAGE = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_up_proj|down_proj)"
BOTH = r".*(language_model.*\.(q_proj|v_proj)|visual\.blocks.*\.qkv)"
CPU = torch.device("cpu")

pytestmark = pytest.mark.asyncio(loop_scope="module")  # one engine, so one loop, for all tests


def picture(colour: str) -> ImagePart:
    buffer = io.BytesIO()
    Image.new("RGB", (120, 90), colour).save(buffer, "PNG")
    return ImagePart(buffer.getvalue(), "image/png", hashlib.sha256(buffer.getvalue()).hexdigest())


RED = picture("red")


def ask(*parts: str | ImagePart, adapter: str = "", caller: str = "") -> GenerationRequest:
    turn = Message("user", tuple(TextPart(part) if isinstance(part, str) else part for part in parts))
    return GenerationRequest((turn,), SamplingParams(max_tokens=12, top_logprobs=0), adapter=adapter, caller=caller)


def save_adapter(folder: Path, model: Any, targets: str | list[str], seed: int, **config: Any) -> Path:
    """Save a LoRA whose weights are all random; peft's own start, with one of two matrices 0, changes nothing."""
    torch.manual_seed(seed)
    options = {"r": 4, "lora_alpha": 2, "task_type": "CAUSAL_LM", "init_lora_weights": False, **config}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft and transformers disagree about a name
        adapted = get_peft_model(copy.deepcopy(model), LoraConfig(target_modules=targets, **options))
        adapted.save_pretrained(folder)
    return folder


def load_base(folder: Path) -> Any:
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("glm")
    make_glm(folder)
    return folder


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> Any:
    return load_base(checkpoint)


@pytest.fixture(scope="module")
def adapters(checkpoint: Path, model: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return {
        "words": save_adapter(folder / "words", model, LANGUAGE, 1),
        "eyes": save_adapter(folder / "eyes", model, BOTH, 2, use_rslora=True, rank_pattern={"v_proj": 2}),
    }


def options(checkpoint: Path, adapters: dict[str, Path]) -> EngineOptions:
    sources = tuple((name, str(folder)) for name, folder in adapters.items())
    return EngineOptions(str(checkpoint), device="cpu", adapters=sources, cache_bytes=2**24)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(checkpoint: Path, adapters: dict[str, Path]) -> AsyncIterator[GlmEngine]:
    engine = load(options(checkpoint, adapters))
    await engine.start()
    yield engine
    await engine.aclose()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plain_engine(checkpoint: Path) -> AsyncIterator[GlmEngine]:
    engine = load(options(checkpoint, {}))
    await engine.start()
    yield engine
    await engine.aclose()


QUESTIONS: list[tuple[str | ImagePart, ...]] = [("hi",), (RED, "图里有什么？"), ("a ", picture("blue"), "b", RED)]


async def answers(engine: GlmEngine, requests: Iterable[GenerationRequest]) -> list[GenerationResult]:
    """One by one, nothing reused."""
    results = []
    for request in requests:
        assert engine._scheduler is not None
        assert engine._runner is not None
        await engine._scheduler.call(engine._runner.cache.clear)
        results.append(await base.generate(engine, request))
    return results


def logprobs(result: GenerationResult) -> list[float]:
    return [token.logprob for token in result.logprobs]


async def test_the_engine_lists_its_adapters_before_and_after_it_is_loaded(
    checkpoint: Path, adapters: dict[str, Path], engine: GlmEngine
) -> None:
    assert (await load(options(checkpoint, adapters)).info()).adapters == ("words", "eyes")
    assert (await engine.info()).adapters == ("words", "eyes")


@pytest.mark.parametrize("name", ["words", "eyes"])
async def test_an_adapters_answers_are_those_of_the_model_it_is_merged_into(
    checkpoint: Path, adapters: dict[str, Path], engine: GlmEngine, plain_engine: GlmEngine, tmp_path: Path, name: str
) -> None:
    # Given a checkpoint with the adapter's matrices added to its weights by peft
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        merged = PeftModel.from_pretrained(load_base(checkpoint), adapters[name]).merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    shutil.copytree(checkpoint, tmp_path / "all")
    shutil.copytree(tmp_path / "merged", tmp_path / "all", dirs_exist_ok=True)
    reference = load(options(tmp_path / "all", {}))
    await reference.start()

    # When both are asked the same, and the model without either
    requests = [ask(*parts) for parts in QUESTIONS]
    expected = await answers(reference, requests)
    ours = await answers(engine, [replace(request, adapter=name) for request in requests])
    without = await answers(plain_engine, requests)
    await reference.aclose()

    # Then the adapter says what the merged model says, and something else than the bare one
    assert [result.text for result in ours] == [result.text for result in expected]
    for mine, theirs in zip(ours, expected, strict=True):
        assert logprobs(mine) == pytest.approx(logprobs(theirs), abs=2e-3)
    assert [result.text for result in ours] != [result.text for result in without]


async def test_an_engine_with_adapters_answers_to_the_last_bit_as_one_without_where_none_is_asked_for(
    engine: GlmEngine, plain_engine: GlmEngine
) -> None:
    requests = [ask(*parts) for parts in QUESTIONS]

    assert await answers(engine, requests) == await answers(plain_engine, requests)


async def test_rows_with_different_adapters_share_a_batch_and_answer_as_alone(engine: GlmEngine) -> None:
    # Given questions to both adapters and to none
    requests = [ask(*parts, adapter=name) for parts in QUESTIONS for name in ("words", "", "eyes")]
    alone = await answers(engine, requests)

    # When they run side by side
    batches: list[tuple[str, ...]] = []
    assert engine._runner is not None
    adapters = engine._runner._adapters
    real = adapters._group
    adapters._group = lambda rows: (batches.append(tuple(rows)), real(rows))[1]  # type: ignore[method-assign]
    try:
        together = await asyncio.gather(*(base.generate(engine, request) for request in requests))
    finally:
        adapters._group = real  # type: ignore[method-assign]

    # Then some steps had rows of all three kinds, and every answer is the same
    assert any(set(batch) == {"words", "", "eyes"} for batch in batches)
    for mine, expected in zip(together, alone, strict=True):
        assert (mine.text, mine.finish_reason) == (expected.text, expected.finish_reason)
        assert logprobs(mine) == pytest.approx(logprobs(expected), abs=2e-3)


async def test_a_forward_of_mixed_rows_is_that_of_each_row_alone(model: Any, adapters: dict[str, Path]) -> None:
    own = copy.deepcopy(model)
    sources = [(name, str(folder)) for name, folder in adapters.items()]
    applied = load_adapters(own, "base", sources, CPU, torch.float32, VISION_MODULES).applied
    ids = torch.arange(35).reshape(5, 7)
    rows = ["words", "", "eyes", "words", ""]

    with torch.inference_mode():
        with applied(rows):
            mixed = own(input_ids=ids).logits
        for row, name in enumerate(rows):
            with applied([name]):
                torch.testing.assert_close(mixed[row], own(input_ids=ids[row : row + 1]).logits[0], atol=1e-3, rtol=0)
        # Without an adapter, and after one, it is the model as it was
        assert torch.equal(own(input_ids=ids).logits, model(input_ids=ids).logits)
        assert torch.equal(mixed[1], model(input_ids=ids).logits[1])


async def test_what_is_added_is_what_peft_adds(model: Any, adapters: dict[str, Path]) -> None:
    own = copy.deepcopy(model)
    loaded = load_adapters(own, "base", [("eyes", str(adapters["eyes"]))], CPU, torch.float32, VISION_MODULES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peft_model = PeftModel.from_pretrained(copy.deepcopy(model), adapters["eyes"])
    ids = torch.arange(14).reshape(2, 7)

    with torch.inference_mode(), loaded.applied(["eyes"]):
        torch.testing.assert_close(own(input_ids=ids).logits, peft_model(input_ids=ids).logits, atol=1e-3, rtol=0)


async def test_an_error_in_a_forward_leaves_no_adapter_behind(model: Any, adapters: dict[str, Path]) -> None:
    own = copy.deepcopy(model)
    loaded = load_adapters(own, "base", [("words", str(adapters["words"]))], CPU, torch.float32, VISION_MODULES)

    with pytest.raises(RuntimeError, match="boom"), loaded.applied(["words"]):
        raise RuntimeError("boom")

    ids = torch.arange(7)[None]
    with torch.inference_mode():
        assert torch.equal(own(input_ids=ids).logits, model(input_ids=ids).logits)


async def test_keys_and_values_are_never_shared_between_adapters(engine: GlmEngine) -> None:
    # Given an answered question
    await answers(engine, [ask(RED, "what?", adapter="words")])

    # When others ask the same of another adapter, of none, and of the same
    cached = [
        (await base.generate(engine, ask(RED, "what?", adapter=name))).usage.cached_tokens
        for name in ("eyes", "", "words")
    ]

    # Then only the last found it
    assert cached[:2] == [0, 0]
    assert cached[2] > 0


async def test_a_pictures_features_are_shared_unless_the_adapter_changes_the_vision_tower(engine: GlmEngine) -> None:
    # Given that the bare model has seen a picture
    assert engine._runner is not None
    await answers(engine, [ask(RED, "what?")])
    cache = engine._runner.cache

    async def num_encoded(adapter: str) -> int:
        before = cache.stats.num_feature_misses
        await base.generate(engine, ask("other beginning", RED, adapter=adapter))
        return cache.stats.num_feature_misses - before

    assert [await num_encoded(name) for name in ("words", "eyes", "eyes")] == [0, 1, 0]
    # Which adapters do is known by name
    scope = CacheScope("me", "m", adapter="words")
    feature_scope = engine._runner._adapters.feature_scope
    assert feature_scope(scope) == replace(scope, adapter="")
    assert feature_scope(replace(scope, adapter="eyes")).adapter == "eyes"


async def test_an_unknown_adapter_is_refused_by_name(engine: GlmEngine, plain_engine: GlmEngine) -> None:
    with pytest.raises(UnknownAdapterError, match=r"'glm-4\.6v-flash-random-tiny:words'"):
        await base.generate(engine, ask("hi", adapter="nope"))
    with pytest.raises(UnknownAdapterError, match="has no adapters"):
        await base.generate(plain_engine, ask("hi", adapter="words"))


# -- what cannot be used ends the start -----------------------------------------------------------------------------


def refusal(model: Any, source: Path | str, base_model: str = "base") -> str:
    with pytest.raises(AdapterError) as caught:
        load_adapters(copy.deepcopy(model), base_model, [("mine", str(source))], CPU, torch.float32, VISION_MODULES)
    message = str(caught.value)
    assert message.startswith(f"adapter 'mine' ({source}) cannot be used: ")
    assert "\n" not in message
    assert len(message) < 800
    return message


def changed(folder: Path, source: Path, config: dict[str, Any] | None = None, weights: Any = None) -> Path:
    """Copy an adapter with changes to its config or its matrices."""
    folder.mkdir()
    written = json.loads((source / "adapter_config.json").read_text()) | (config or {})
    (folder / "adapter_config.json").write_text(json.dumps(written))
    matrices = load_file(source / "adapter_model.safetensors")
    save_file(weights(matrices) if weights else matrices, folder / "adapter_model.safetensors")
    return folder


async def test_an_adapter_that_is_not_there_is_named(model: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "adapter_config.json" in refusal(model, tmp_path / "empty")


async def test_damaged_files_are_refused(model: Any, tmp_path: Path, adapters: dict[str, Path]) -> None:
    folder = changed(tmp_path / "a", adapters["words"])
    (folder / "adapter_model.safetensors").write_bytes(b"no")
    refusal(model, folder)
    (folder / "adapter_config.json").write_text("{")
    refusal(model, folder)


async def test_an_adapter_for_another_architecture_is_refused(
    model: Any, tmp_path: Path, adapters: dict[str, Path]
) -> None:
    wider = changed(
        tmp_path / "wide",
        adapters["words"],
        weights=lambda m: {k: torch.cat([v, v], 1) if "lora_A" in k else v for k, v in m.items()},
    )
    assert "this model needs" in refusal(model, wider)
    deeper = changed(
        tmp_path / "deep",
        adapters["words"],
        weights=lambda m: m | {k.replace("layers.0", "layers.77"): v.clone() for k, v in m.items()},
    )
    assert "no place for" in refusal(model, deeper)
    other = changed(tmp_path / "other", adapters["words"], {"target_modules": ["Wqkv"]})
    assert "Wqkv" in refusal(model, other)


async def test_another_rank_than_the_config_says_is_refused(
    model: Any, tmp_path: Path, adapters: dict[str, Path]
) -> None:
    assert "this model needs (8," in refusal(model, changed(tmp_path / "r8", adapters["words"], {"r": 8}))
    assert "r" in refusal(model, changed(tmp_path / "r0", adapters["words"], {"r": 0}))


async def test_a_missing_matrix_is_refused_and_not_left_random(
    model: Any, tmp_path: Path, adapters: dict[str, Path]
) -> None:
    def without_last(matrices: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        del matrices[max(key for key in matrices if "lora_B" in key)]
        return matrices

    assert "has no lora_B for" in refusal(model, changed(tmp_path / "a", adapters["words"], weights=without_last))


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
    ],
)
async def test_kinds_of_lora_that_do_more_are_refused(
    model: Any, tmp_path: Path, adapters: dict[str, Path], config: dict[str, Any], word: str
) -> None:
    assert word in refusal(model, changed(tmp_path / "a", adapters["words"], config))


async def test_modules_that_are_no_matrices_are_refused(model: Any, tmp_path: Path) -> None:
    folder = save_adapter(tmp_path / "embed", model, ["embed_tokens"], 3)
    assert "embed_tokens" in refusal(model, folder)
    folder = save_adapter(tmp_path / "patch", model, r".*patch_embed\.proj", 3)
    assert "Conv3d" in refusal(model, folder)


async def test_other_methods_than_lora_are_refused(model: Any, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        vera = get_peft_model(copy.deepcopy(model), VeraConfig(target_modules=r".*language_model.*\.q_proj", r=4))
        vera.save_pretrained(tmp_path)
    assert "only LORA is supported" in refusal(model, tmp_path)


async def test_an_adapter_of_another_model_of_the_hub_is_refused_and_one_of_a_folder_is_not(
    model: Any, tmp_path: Path, adapters: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    def trained_on(name: str) -> Path:
        return changed(tmp_path / name.replace("/", "_"), adapters["words"], {"base_model_name_or_path": name})

    theirs = trained_on("zai-org/GLM-4.1V-9B-Thinking")
    assert "this is zai-org/GLM-4.6V-Flash" in refusal(model, theirs, "zai-org/GLM-4.6V-Flash")

    # The same model under another owner or in a folder is no other model
    for name in ("ZhipuAI/GLM-4.6V-Flash", "/models/my-flash"):
        load_adapters(
            copy.deepcopy(model),
            "zai-org/GLM-4.6V-Flash",
            [("a", str(trained_on(name)))],
            CPU,
            torch.float32,
            VISION_MODULES,
        )
    assert "/models/my-flash" in caplog.text


async def test_a_bad_adapter_fails_the_start_of_the_engine(checkpoint: Path, tmp_path: Path) -> None:
    engine = load(options(checkpoint, {"mine": tmp_path}))

    with pytest.raises(AdapterError, match="adapter 'mine'"):
        await engine.start()
    await engine.aclose()

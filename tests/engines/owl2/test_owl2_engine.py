"""engines.owl2.engine and decoding: streaming, stopping, cancelling and refusing, on a tiny random checkpoint."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from engines.base import (
    ContextLengthError,
    Delta,
    EngineOptions,
    EngineUnavailableError,
    GenerationRequest,
    ImagePart,
    InvalidImageError,
    InvalidRequestError,
    Message,
    SamplingParams,
    TextPart,
    TooManyImagesError,
    generate,
)
from engines.owl2 import MPLUGOwl2Config
from engines.owl2 import engine as engine_module
from engines.owl2.decoding import Sampler, StopStrings
from engines.owl2.engine import Owl2Engine, load, max_images_for
from engines.owl2.weights import CheckpointError

NUM_IMAGE_ROWS = 5


def ask(*parts: str | ImagePart, **sampling: object) -> GenerationRequest:
    turned = tuple(TextPart(part) if isinstance(part, str) else part for part in parts)
    return GenerationRequest((Message("user", turned),), SamplingParams(**sampling))  # type: ignore[arg-type]


async def collect(engine: Owl2Engine, request: GenerationRequest) -> list[Delta]:
    return [delta async for delta in engine.stream(request)]


@pytest.fixture
async def engine(checkpoint: Path) -> AsyncIterator[Owl2Engine]:
    engine = load(EngineOptions(str(checkpoint), device="cpu"))
    assert isinstance(engine, Owl2Engine)
    await engine.start()
    yield engine
    await engine.aclose()


@pytest.fixture
def picture(encode_image: Callable[..., ImagePart]) -> ImagePart:
    return encode_image(Image.new("RGB", (40, 20), (200, 30, 30)))


def without_eos(engine: Owl2Engine) -> None:
    """Let the random model go on until a limit, so that tests do not hang on where it happens to end."""
    loaded = engine._loaded
    assert loaded is not None
    engine._loaded = engine_module.LoadedCheckpoint(loaded.model, loaded.processor, frozenset(), loaded.info)


async def test_info_tells_the_variant_the_context_and_the_image_limit(engine: Owl2Engine) -> None:
    info = await engine.info()

    assert (info.name, info.model_id) == ("owl2", "mplug-owl2-random-tiny")
    assert (info.context_tokens, info.max_images) == (128, 4)


async def test_before_the_start_the_engine_is_unavailable(checkpoint: Path) -> None:
    engine = load(EngineOptions(str(checkpoint)))

    with pytest.raises(EngineUnavailableError):
        await engine.info()
    with pytest.raises(EngineUnavailableError):
        await generate(engine, ask("Hi?"))
    await engine.aclose()


async def test_only_the_last_delta_has_a_finish_reason_and_the_usage(engine: Owl2Engine, picture: ImagePart) -> None:
    without_eos(engine)
    deltas = await collect(engine, ask("What is in the picture?", picture, max_tokens=9))

    *first, last = deltas
    loaded = engine._loaded
    assert loaded is not None
    prompt = "USER: <|image|>What is in the picture? ASSISTANT:"
    num_text_tokens = len(loaded.processor.tokenizer.encode_with_images(prompt)) - 1
    assert all(delta.finish_reason is None and delta.usage is None and delta.text for delta in first)
    assert last.finish_reason == "length"
    assert last.usage is not None
    assert last.usage.completion_tokens == 9
    assert last.usage.image_tokens == NUM_IMAGE_ROWS
    assert last.usage.prompt_tokens == num_text_tokens + NUM_IMAGE_ROWS


async def test_the_streamed_text_is_the_decoding_of_what_generate_gives(engine: Owl2Engine, picture: ImagePart) -> None:
    without_eos(engine)
    result = await generate(engine, ask(picture, "What is in the picture?", max_tokens=40))

    loaded = engine._loaded
    assert loaded is not None
    image = Image.new("RGB", (40, 20), (200, 30, 30))
    inputs = loaded.processor("USER: <|image|>What is in the picture? ASSISTANT:", [image])
    output = loaded.model.generate(**inputs, max_new_tokens=40, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert result.text == loaded.processor.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :].tolist())


async def test_an_eos_token_ends_the_answer_with_stop(engine: Owl2Engine) -> None:
    without_eos(engine)
    loaded = engine._loaded
    assert loaded is not None
    inputs = loaded.processor("USER: Hi? ASSISTANT:")
    output = loaded.model.generate(**inputs, max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0)
    generated = output[0, inputs["input_ids"].shape[1] :].tolist()
    end = next(index for index, token_id in enumerate(generated) if index >= 2 and token_id not in generated[:index])
    engine._loaded = engine_module.LoadedCheckpoint(
        loaded.model, loaded.processor, frozenset({generated[end]}), loaded.info
    )

    result = await generate(engine, ask("Hi?", max_tokens=8))

    assert result.finish_reason == "stop"
    assert result.text == loaded.processor.tokenizer.decode(generated[:end])
    assert result.usage.completion_tokens == end + 1


async def test_a_stop_string_ends_the_answer_and_is_not_part_of_it(engine: Owl2Engine) -> None:
    without_eos(engine)
    whole = (await generate(engine, ask("Hi?", max_tokens=30))).text
    stop = whole[10:13]

    result = await generate(engine, ask("Hi?", max_tokens=30, stop=(stop,)))

    assert result.text == whole[: whole.index(stop)]
    assert result.finish_reason == "stop"
    assert result.usage.completion_tokens < 30


async def test_text_held_back_for_a_stop_string_that_never_came_is_sent_in_the_end(engine: Owl2Engine) -> None:
    without_eos(engine)
    whole = (await generate(engine, ask("Hi?", max_tokens=30))).text

    deltas = await collect(engine, ask("Hi?", max_tokens=30, stop=(whole[-2:] + "\x00",)))

    assert "".join(delta.text for delta in deltas) == whole
    assert deltas[-1].text.endswith(whole[-2:])
    assert deltas[-1].finish_reason == "length"


async def test_a_seed_repeats_an_answer_and_another_seed_changes_it(engine: Owl2Engine) -> None:
    without_eos(engine)

    async def answer(seed: int) -> str:
        return (await generate(engine, ask("Hi?", max_tokens=20, temperature=1.5, seed=seed))).text

    assert await answer(7) == await answer(7)
    assert await answer(7) != await answer(-8)


async def test_unasked_the_answer_is_bounded_by_the_context_left(engine: Owl2Engine) -> None:
    without_eos(engine)
    result = await generate(engine, ask("Hi?"))

    assert result.finish_reason == "length"
    assert result.usage.prompt_tokens + result.usage.completion_tokens == 128


async def test_an_answer_that_asks_for_more_than_the_context_ends_where_the_context_does(engine: Owl2Engine) -> None:
    result = await generate(engine, ask("Hi?", max_tokens=100_000))

    assert result.finish_reason == "length"
    assert result.usage.prompt_tokens + result.usage.completion_tokens == 128


async def test_a_prompt_over_the_context_is_refused_with_the_excess(engine: Owl2Engine) -> None:
    with pytest.raises(ContextLengthError, match=r"\d+ more than fit this model's context of 128") as caught:
        await generate(engine, ask("one two three " * 60))

    assert caught.value.param == "messages"


async def test_too_many_images_are_refused_before_any_is_decoded(engine: Owl2Engine) -> None:
    broken = ImagePart(b"no picture", "image/png", "0" * 64)

    with pytest.raises(TooManyImagesError, match=r"5 images .* at most 4"):
        await generate(engine, ask("Hi?", *[broken] * 5))


async def test_a_truncated_image_is_refused_and_the_engine_lives_on(engine: Owl2Engine, picture: ImagePart) -> None:
    half = ImagePart(picture.data[:60], picture.media_type, picture.sha256)

    with pytest.raises(InvalidImageError) as caught:
        await generate(engine, ask(half, "Hi?"))

    assert caught.value.code == "image_parse_error"
    assert (await generate(engine, ask(picture, "Hi?", max_tokens=1))).usage.completion_tokens == 1


async def test_a_conversation_must_end_with_the_user(engine: Owl2Engine) -> None:
    messages = (Message("user", (TextPart("q"),)), Message("assistant", (TextPart("a"),)))

    for wrong in (messages, ()):
        with pytest.raises(InvalidRequestError, match="last message"):
            await generate(engine, GenerationRequest(wrong))


async def test_closing_the_stream_stops_the_model_within_one_step(
    engine: Owl2Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_eos(engine)
    steps, may_go_on = [], threading.Event()
    real = engine_module.decode_tokens

    def counted(*args: object) -> object:
        for token_id in real(*args):  # type: ignore[arg-type]
            steps.append(token_id)
            if len(steps) > 3:
                may_go_on.wait(30)
            yield token_id

    monkeypatch.setattr(engine_module, "decode_tokens", counted)
    stream = engine.stream(ask("Hi?"))
    await anext(stream)
    await stream.aclose()
    may_go_on.set()
    monkeypatch.undo()
    await generate(engine, ask("Hi?", max_tokens=1))  # runs behind the cancelled one

    assert len(steps) <= 4


async def test_closing_the_engine_ends_a_running_stream_with_an_error(engine: Owl2Engine) -> None:
    without_eos(engine)
    stream = engine.stream(ask("Hi?"))
    await anext(stream)
    closing = asyncio.create_task(engine.aclose())

    with pytest.raises(EngineUnavailableError):
        _ = [delta async for delta in stream]
    await closing
    with pytest.raises(EngineUnavailableError):
        await engine.info()


async def test_requests_side_by_side_get_the_answers_they_get_alone(engine: Owl2Engine, picture: ImagePart) -> None:
    requests = [ask("Hi?", max_tokens=6), ask(picture, "Hi?", max_tokens=6), ask("one two", max_tokens=6)]
    alone = [(await generate(engine, request)).text for request in requests]

    together = await asyncio.gather(*(generate(engine, request) for request in requests))

    assert [result.text for result in together] == alone


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("preprocessor_config.json", {"size": 32, "crop_size": 32}, "32 px"),
        ("glowl.json", {"variant": "huge"}, "huge"),
        ("config.json", {"vocab_size": 300}, "embed_tokens"),
    ],
)
async def test_a_folder_that_does_not_fit_together_stops_the_start(
    checkpoint: Path, tmp_path: Path, file: str, change: dict[str, object], message: str
) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "copy")
    (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | change))
    engine = load(EngineOptions(str(folder), device="cpu"))

    with pytest.raises(CheckpointError, match=message):
        await engine.start()
    await engine.aclose()


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.model", "preprocessor_config.json"])
async def test_a_missing_file_stops_the_start_with_its_name(checkpoint: Path, tmp_path: Path, file: str) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "copy")
    (folder / file).unlink()
    engine = load(EngineOptions(str(folder), device="cpu"))

    with pytest.raises(CheckpointError, match=file):
        await engine.start()
    await engine.aclose()


@pytest.mark.parametrize(("context", "queries", "expected"), [(2048, 64, 4), (512, 64, 1), (1024, 64, 3), (64, 64, 1)])
def test_the_image_limit_follows_from_the_context(
    make_config: Callable[..., MPLUGOwl2Config], context: int, queries: int, expected: int
) -> None:
    config = make_config(max_position_embeddings=context)
    config.abstractor.num_learnable_queries = queries

    assert max_images_for(config) == expected


def test_stop_strings_are_cut_wherever_the_pieces_break() -> None:
    text, stop = "one, two END three", "END"
    for first in range(len(text)):
        for second in range(first, len(text)):
            stops = StopStrings((stop, "never"))
            shown = "".join(stops.push(piece) for piece in (text[:first], text[first:second], text[second:]))

            assert shown + stops.finish() == "one, two "
            assert stops.is_stopped


def test_text_that_only_begins_a_stop_string_is_shown_in_the_end() -> None:
    stops = StopStrings(("END", ""))

    assert stops.push("the E") == "the "
    assert stops.push("N") == ""
    assert stops.finish() == "EN"
    assert not stops.is_stopped


def test_the_earliest_of_several_stop_strings_counts() -> None:
    stops = StopStrings(("three", "two"))

    assert stops.push("one two three") == "one "
    assert stops.push("more") == ""


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    logits = torch.tensor([0.1, 0.4, 0.3, 0.2]).log()

    def drawn(top_p: float) -> set[int]:
        sampler = Sampler(SamplingParams(temperature=1.0, top_p=top_p, seed=1), torch.device("cpu"))
        return {sampler(logits) for _ in range(300)}

    assert drawn(0.4) == {1}
    assert drawn(0.5) == {1, 2}
    assert drawn(1.0) == {0, 1, 2, 3}
    assert drawn(1e-9) == {1}


def test_no_temperature_and_next_to_none_are_greedy() -> None:
    for temperature in (0.0, 1e-30):
        sampler = Sampler(SamplingParams(temperature=temperature, seed=1), torch.device("cpu"))
        assert {sampler(torch.tensor([1.0, 1.01, 0.5])) for _ in range(20)} == {1}

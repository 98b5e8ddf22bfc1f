"""engines.owl2.engine and decoding: streaming, stopping, cancelling and refusing, on a tiny random checkpoint."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from PIL import Image

from engines.base import (
    ContextLengthError,
    Delta,
    EngineOptions,
    EngineOverloadedError,
    EngineUnavailableError,
    GenerationRequest,
    ImagePart,
    InvalidImageError,
    InvalidRequestError,
    Message,
    SamplingParams,
    TextPart,
    TooManyImagesError,
    Usage,
    generate,
)
from engines.owl2 import MPLUGOwl2Config
from engines.owl2.decoding import Answer
from engines.owl2.engine import Owl2Engine, load
from engines.owl2.files import CheckpointError
from engines.owl2.prompts import render
from engines.owl2.requests import max_images_for
from engines.owl2.tokenizer import Owl2Tokenizer
from engines.runtime.sampling import Pick

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
    assert engine._runner is not None
    engine._runner.eos_token_ids = frozenset()


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
    num_text_tokens = len(loaded.preparation.processor.tokenizer.encode_with_images(prompt)) - 1
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
    inputs = loaded.preparation.processor("USER: <|image|>What is in the picture? ASSISTANT:", [image])
    output = loaded.model.generate(**inputs, max_new_tokens=40, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert result.text == loaded.preparation.processor.tokenizer.decode(
        output[0, inputs["input_ids"].shape[1] :].tolist()
    )


async def test_an_eos_token_ends_the_answer_with_stop(engine: Owl2Engine) -> None:
    without_eos(engine)
    loaded = engine._loaded
    assert loaded is not None
    inputs = loaded.preparation.processor("USER: Hi? ASSISTANT:")
    output = loaded.model.generate(**inputs, max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0)
    generated = output[0, inputs["input_ids"].shape[1] :].tolist()
    end = next(index for index, token_id in enumerate(generated) if index >= 2 and token_id not in generated[:index])
    assert engine._runner is not None
    engine._runner.eos_token_ids = frozenset({generated[end]})

    result = await generate(engine, ask("Hi?", max_tokens=8))

    assert result.finish_reason == "stop"
    assert result.text == loaded.preparation.processor.tokenizer.decode(generated[:end])
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


async def test_a_text_that_cannot_fit_is_refused_without_tokenizing_it(
    engine: Owl2Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Owl2Tokenizer, "encode_prompt", lambda *_: pytest.fail("it was tokenized"))

    with pytest.raises(ContextLengthError, match=r"at least \d+ tokens, \d+ more than fit this model's context of 128"):
        await generate(engine, ask("请问谢谢，" * 2000))


@pytest.mark.parametrize("text", ["请问谢谢，", "one two ", "😀", "</s>", " ", "\n", "\u2581"])
def test_no_text_that_fits_is_over_the_bound(checkpoint: Path, text: str) -> None:
    tokenizer = Owl2Tokenizer.from_folder(checkpoint)
    prompt = render((Message("user", (TextPart(text * 40),)),))

    assert tokenizer.longest_token is not None
    assert tokenizer.least_chars(prompt) <= len(tokenizer.encode_prompt(prompt)) * tokenizer.longest_token


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


def conversation(
    *texts: str, picture: ImagePart | None = None, caller: str = "", **sampling: object
) -> GenerationRequest:
    """Turns of the user and the assistant in alternation, the picture in the first."""
    messages = []
    for index, text in enumerate(texts):
        parts = (picture, TextPart(text)) if picture is not None and index == 0 else (TextPart(text),)
        messages.append(Message("assistant" if index % 2 else "user", parts))
    return GenerationRequest(tuple(messages), SamplingParams(**sampling), caller=caller)  # type: ignore[arg-type]


async def test_a_follow_up_question_reads_only_what_is_new(engine: Owl2Engine, picture: ImagePart) -> None:
    # Given an answered question about a picture
    first = await generate(engine, conversation("What is in the picture?", picture=picture, max_tokens=8))
    assert first.usage.cached_tokens == 0

    # When another follows, from the same caller and from a stranger
    turns = ("What is in the picture?", first.text, "one two three")
    follow_up = await generate(engine, conversation(*turns, picture=picture, max_tokens=8))
    stranger = await generate(engine, conversation(*turns, picture=picture, max_tokens=8, caller="stranger"))

    # Then the first question is not read again, at least, and nobody's answer depends on that
    assert follow_up.usage.cached_tokens >= first.usage.prompt_tokens
    assert stranger.usage.cached_tokens == 0
    assert follow_up.text == stranger.text


async def test_a_re_encoded_picture_with_equal_pixels_is_the_same_picture(
    engine: Owl2Engine, encode_image: Callable[..., ImagePart]
) -> None:
    image = Image.new("RGB", (40, 20), (9, 200, 30))
    first, again, other = (
        encode_image(image),
        encode_image(image, compress_level=0),
        encode_image(Image.new("RGB", (40, 20), (10, 200, 30))),
    )
    assert first.sha256 != again.sha256
    await generate(engine, ask(first, "Hi?", max_tokens=2))

    hits = [(await generate(engine, ask(each, "Hi?", max_tokens=2))).usage.cached_tokens for each in (again, other)]

    assert hits[0] > hits[1]
    assert hits[1] < NUM_IMAGE_ROWS + 5  # only what is before the picture


async def test_with_the_cache_turned_off_nothing_is_reused(checkpoint: Path, picture: ImagePart) -> None:
    engine = load(EngineOptions(str(checkpoint), device="cpu", cache_bytes=0))
    await engine.start()
    try:
        results = [await generate(engine, ask(picture, "Hi?", max_tokens=4)) for _ in range(2)]
    finally:
        await engine.aclose()

    assert [result.usage.cached_tokens for result in results] == [0, 0]
    assert results[0].text == results[1].text


async def test_there_is_one_log_probability_per_token_with_the_likeliest_beside_it(engine: Owl2Engine) -> None:
    without_eos(engine)

    result = await generate(engine, ask("Hi?", max_tokens=30, top_logprobs=2))

    assert len(result.logprobs) == 30
    assert all(len(entry.top) == 2 and entry.top[0].logprob >= entry.logprob for entry in result.logprobs)
    text = b"".join(entry.data for entry in result.logprobs).removeprefix(b" ").decode(errors="replace")
    assert text == result.text


@pytest.mark.parametrize(
    ("stop", "text", "num_logprobs"),
    [
        ("", "abASSISTANTcd", 5),
        ("c", "abASSISTANT", 3),
        ("cd", "abASSISTANT", 3),
        ("b", "a", 1),
        ("TANT", "abASSIS", 3),
    ],
)
def test_a_stop_string_takes_the_log_probabilities_of_its_tokens_with_it(
    checkpoint: Path, stop: str, text: str, num_logprobs: int
) -> None:
    # Given an answer of four letters and a word, which are a token each
    tokenizer = Owl2Tokenizer.from_folder(checkpoint)
    ids = {tokenizer.token_bytes(token_id).lstrip(): token_id for token_id in range(tokenizer.vocab_size)}
    token_ids = [ids[token] for token in (b"a", b"b", b"ASSISTANT", b"c", b"d")]
    answer = Answer(tokenizer, SamplingParams(stop=(stop,)), frozenset(), max_tokens=5)

    # When it ends, at a stop string or by itself
    deltas = []
    for token_id in token_ids:
        deltas.append(answer.push(Pick(token_id, -1.0)))
        if answer.finish_reason is not None:
            break
    deltas.append(answer.finish(Usage()))

    # Then tokens of which nothing is shown have no log probability, and no other is missing
    shown = "".join(delta.text for delta in deltas if delta is not None)
    logprobs = [entry for delta in deltas if delta is not None for entry in delta.logprobs]
    assert shown.replace(" ", "") == text
    assert [entry.token for entry in logprobs] == [
        tokenizer.token_text(token_id) for token_id in token_ids[:num_logprobs]
    ]
    assert answer.finish_reason == ("stop" if stop else "length")


@pytest.mark.parametrize(("num_left", "shown"), [(0, "a\U0001f989"), (1, "a"), (3, "a")])
def test_a_character_that_max_tokens_cuts_is_not_shown(checkpoint: Path, num_left: int, shown: str) -> None:
    tokenizer = Owl2Tokenizer.from_folder(checkpoint)
    token_ids = tokenizer.encode("a\U0001f989")[1:]
    token_ids = token_ids[: len(token_ids) - num_left]
    answer = Answer(tokenizer, SamplingParams(), frozenset(), max_tokens=len(token_ids))

    deltas = [answer.push(Pick(token_id)) for token_id in token_ids] + [answer.finish(Usage())]

    assert "".join(delta.text for delta in deltas if delta is not None) == shown


async def test_closing_one_stream_frees_its_row_and_leaves_the_others_alone(engine: Owl2Engine) -> None:
    # Given two streams
    without_eos(engine)
    expected = (await generate(engine, ask("one two", max_tokens=60))).text
    staying = asyncio.create_task(generate(engine, ask("one two", max_tokens=60)))
    leaving = engine.stream(ask("Hi?"))
    await anext(leaving)

    # When one is closed
    await leaving.aclose()

    # Then the other gets its answer, and no row is left
    assert (await staying).text == expected
    assert engine._scheduler is not None
    await engine._scheduler.call(lambda: None)  # behind the step that ended it
    assert engine._scheduler.num_running == 0
    assert engine._runner is not None
    assert not engine._runner._places


async def test_more_requests_than_rows_and_line_hold_are_refused(checkpoint: Path) -> None:
    engine = load(EngineOptions(str(checkpoint), device="cpu", max_batch=1, max_queue=1))
    await engine.start()
    try:
        results = await asyncio.gather(
            *(generate(engine, ask("Hi?", max_tokens=3)) for _ in range(5)), return_exceptions=True
        )
    finally:
        await engine.aclose()

    assert sum(isinstance(result, EngineOverloadedError) for result in results) == 3


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

"""What every engine promises, checked over the echo engine in this process, over TCP, a unix socket and a balancer.

The hook for further engines: a module that defines its own fixture ``engine`` (a started engine that takes pictures)
and imports the cases of the first half runs them over that engine; `test_local_engines.py` does so. The cases of the
second half need an engine whose answers are known, so they run over the echo only, through each of ``TRANSPORTS``;
`test_remote_engines.py` runs those over another server's wire that such a wire can pass.
"""

import asyncio
import contextlib
import hashlib
import io
import math
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from PIL import Image

from engines.base import (
    ContextLengthError,
    Delta,
    Engine,
    EngineError,
    EngineOverloadedError,
    EngineTimeoutError,
    EngineUnavailableError,
    GenerationFailedError,
    GenerationRequest,
    ImagePart,
    InvalidImageError,
    InvalidRequestError,
    Message,
    SamplingParams,
    TextPart,
    TokenLogprob,
    TooManyImagesError,
    Usage,
    generate,
)
from engines.echo import EchoEngine
from engines.http.balancer import BalancedClient
from engines.http.client import EngineClient
from engines.http.server import listening
from engines.origin import Origin

TRANSPORTS = ["in-process", "tcp", "unix-socket", "balanced"]


def picture(color: str = "red", size: tuple[int, int] = (64, 48)) -> ImagePart:
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, "PNG")
    return as_picture(file.getvalue())


def as_picture(data: bytes) -> ImagePart:
    return ImagePart(data, "image/png", hashlib.sha256(data).hexdigest())


def question(text: str, *images: ImagePart, **sampling: object) -> GenerationRequest:
    return GenerationRequest(
        messages=(Message("user", (*images, TextPart(text))),),
        sampling=SamplingParams(**({"max_tokens": 8} | sampling)),
    )


async def deltas_of(engine: Engine, request: GenerationRequest) -> list[Delta]:
    return [delta async for delta in engine.stream(request)]


@dataclass
class Subject:
    """The engine under test, and the echo that it really is, perhaps in front of a connection."""

    engine: Engine
    echo: EchoEngine


@contextlib.asynccontextmanager
async def reached_by(transport: str, echo: EchoEngine) -> AsyncIterator[Engine]:
    async with contextlib.AsyncExitStack() as stack:
        if transport == "in-process":
            await echo.start()
            yield echo
            await echo.aclose()
            return
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="glowl"))  # tmp_path is too long for a socket
        uds = Path(folder, "engine.sock") if transport == "unix-socket" else None
        url = await stack.enter_async_context(listening(echo, uds=uds))
        client: EngineClient | BalancedClient = EngineClient(url, timeout_s=30.0)
        if transport == "balanced":  # beside a server that is dead
            client = BalancedClient([EngineClient("http://127.0.0.1:1", timeout_s=30.0), client])
        stack.push_async_callback(client.aclose)
        await client.start()
        yield client


@pytest.fixture(params=TRANSPORTS)
async def open_echo(request: pytest.FixtureRequest) -> AsyncIterator[Callable[..., object]]:
    """Make an echo with the given knobs and reach it by the transport."""
    async with contextlib.AsyncExitStack() as stack:

        async def open_(**knobs: object) -> Subject:
            echo = EchoEngine(**knobs)
            return Subject(await stack.enter_async_context(reached_by(request.param, echo)), echo)

        yield open_


@pytest.fixture
def counts_image_tokens() -> bool:
    """Whether the engine tells the pictures' part of the prompt's tokens; servers of other makes do not."""
    return True


@pytest.fixture
async def engine(open_echo) -> Engine:
    return (await open_echo(context_tokens=512, max_images=3)).engine


# --- first half: any engine -----------------------------------------------------------------------------------------


async def test_info_tells_the_role_the_variant_and_the_limits(engine):
    info = await engine.info()

    assert info.name in ("glm", "owl2")
    assert info.variant == "full" or info.model_id.endswith(info.variant)
    assert info.context_tokens > 0
    assert info.max_images >= 1


async def test_only_the_last_delta_has_finish_reason_and_usage(engine, counts_image_tokens):
    deltas = await deltas_of(engine, question("What is this?", picture()))

    assert [delta.finish_reason for delta in deltas[:-1]] == [None] * (len(deltas) - 1)
    assert [delta.usage for delta in deltas[:-1]] == [None] * (len(deltas) - 1)
    assert deltas[-1].finish_reason in ("stop", "length")
    usage = deltas[-1].usage
    assert usage.completion_tokens > 0
    assert (usage.image_tokens > 0) == counts_image_tokens
    assert usage.image_tokens < usage.prompt_tokens


async def test_a_prompt_is_counted_as_its_answer_uses_it(engine, counts_image_tokens):
    request = question("What is this?", picture())

    counted = await engine.count(request)

    if not counts_image_tokens:  # such a server counts a picture otherwise
        assert counted is None
        return
    usage = (await generate(engine, request)).usage
    assert (counted.prompt_tokens, counted.image_tokens) == (usage.prompt_tokens, usage.image_tokens)


async def test_greedy_answers_repeat_and_joined_deltas_are_the_whole_answer(engine):
    request = question("图里有什么?", picture())

    deltas = await deltas_of(engine, request)
    whole = await generate(engine, request)

    assert whole.text == "".join(delta.text for delta in deltas)
    assert whole.finish_reason == deltas[-1].finish_reason
    assert whole.usage.completion_tokens == deltas[-1].usage.completion_tokens


async def test_an_answer_is_no_longer_than_max_tokens(engine):
    result = await generate(engine, question("Tell me a long story.", max_tokens=3))

    assert result.usage.completion_tokens <= 3
    assert result.usage.completion_tokens == 3 or result.finish_reason == "stop"


async def test_a_stop_string_ends_the_answer_and_is_no_part_of_it(engine):
    whole = (await generate(engine, question("What is this?", picture()))).text
    if len(whole) < 3:
        pytest.skip("this checkpoint answers with too little text to stop in")
    stop = whole[len(whole) // 2 :][:2]

    result = await generate(engine, question("What is this?", picture(), stop=("never", stop)))

    assert result.text == whole[: whole.index(stop)]
    assert (result.finish_reason, result.stop_sequence) == ("stop", stop)


async def test_log_probabilities_are_those_of_the_answers_tokens_or_refused_by_name(engine):
    result, refused = None, ""
    try:
        result = await generate(engine, question("What is this?", picture(), top_logprobs=3))
    except InvalidRequestError as error:
        refused = error.param

    if result is None:
        assert refused == "logprobs"
        return
    assert 0 < len(result.logprobs) <= result.usage.completion_tokens
    for token in result.logprobs:
        assert -math.inf < token.logprob <= 0
        assert [other.logprob for other in token.top] == sorted((other.logprob for other in token.top), reverse=True)
        # Greedy decoding takes the likeliest token.
        assert not token.top or (len(token.top) == 3 and token.top[0].data == token.data)
    assert b"".join(token.data for token in result.logprobs).decode(errors="replace").strip() == result.text.strip()
    without = await generate(engine, question("What is this?", picture()))
    assert (without.text, without.logprobs) == (result.text, ())


async def test_an_answer_closed_half_way_leaves_the_engine_ready_for_the_next(engine):
    stream = engine.stream(question("Tell me a long story.", max_tokens=64))
    await anext(stream)
    await stream.aclose()

    result = await generate(engine, question("And now?"))

    assert result.usage.completion_tokens > 0


async def test_requests_made_together_are_answered_as_if_alone(engine):
    requests = [question("What is this?", picture(color)) for color in ("red", "green", "blue")]
    alone = [await generate(engine, request) for request in requests]

    together = await asyncio.gather(*(generate(engine, request) for request in requests))

    assert [result.text for result in together] == [result.text for result in alone]


async def test_bytes_that_are_no_picture_are_refused_and_the_engine_lives_on(engine):
    with pytest.raises(InvalidImageError):
        await generate(engine, question("What is this?", as_picture(b"plain text")))

    assert (await generate(engine, question("And this?", picture()))).usage.completion_tokens > 0


async def test_more_pictures_than_the_engine_takes_are_refused(engine):
    max_images = (await engine.info()).max_images

    with pytest.raises(TooManyImagesError):
        await generate(engine, question("How many?", *[picture()] * (max_images + 1)))


async def test_a_prompt_over_the_context_is_refused(engine):
    context_tokens = (await engine.info()).context_tokens

    with pytest.raises(ContextLengthError):
        await generate(engine, question("word " * (context_tokens + 1)))


# --- second half: engines whose answers are known -------------------------------------------------------------------


async def test_the_answer_arrives_exactly(open_echo):
    subject = await open_echo(name="owl2")

    result = await generate(subject.engine, question("Two?", picture(), picture(size=(8, 9)), max_tokens=None))

    assert result.text == "[echo owl2] 2 pictures (64x48 png, 8x9 png), question: Two?"
    assert result.finish_reason == "stop"
    assert result.usage == Usage(prompt_tokens=3, completion_tokens=10, image_tokens=2)


async def test_everything_a_request_says_reaches_the_engine_unchanged(open_echo):
    # Given pictures whose bytes would not survive being decoded and encoded again
    subject = await open_echo()
    images = [picture("red"), as_picture(picture("blue").data + bytes(range(256)))]
    request = GenerationRequest(
        messages=(
            Message("system", (TextPart("Be short.\n"),)),
            Message("user", (TextPart("first "), images[0], TextPart(" then "), images[1])),
            Message("assistant", (TextPart('Ja "so" \\ \u2028'),)),
            Message("user", (TextPart("猫 🦉 \u0000 e\u0301"),)),
        ),
        sampling=SamplingParams(
            max_tokens=7, temperature=0.5, top_p=0.25, seed=2**40, stop=("\n", "停"), top_logprobs=3
        ),
        enable_thinking=True,
        request_id="req-1",
        caller="alice",
        origin=Origin("door-1"),
    )

    await generate(subject.engine, request)

    # But for the end of the id, which is another for each call
    told = subject.echo.last_request
    assert told.request_id.startswith("req-1")
    assert told.origin.request_id == "door-1"
    assert replace(told, request_id="req-1", origin=request.origin) == request


async def test_text_of_any_script_and_line_ending_arrives_as_it_left(open_echo):
    subject = await open_echo()
    for text in ("猫🦉和👩‍👩‍👧‍👦", "naïve Ω \u2028\u2029\x85 end", 'data: {"a": 1}\n\ndata: [DONE]\n\n', "a\r\nb\rc"):
        result = await generate(subject.engine, question(text, max_tokens=None))

        assert result.text == f"[echo glm] no pictures, question: {text}"


async def test_an_answer_comes_in_several_deltas(open_echo):
    subject = await open_echo()

    deltas = await deltas_of(subject.engine, question("one two three", max_tokens=None))

    # What arrives together may be told together, but for the end.
    *said, last = [delta.text for delta in deltas]
    assert "".join(said).endswith(" one two three")
    assert last == ""


async def test_log_probabilities_arrive_with_the_words_they_are_of(open_echo):
    subject = await open_echo()

    deltas = await deltas_of(subject.engine, question("猫 two", max_tokens=None, top_logprobs=2))

    assert all(delta.text == "".join(token.token for token in delta.logprobs) for delta in deltas)
    assert deltas[-2].logprobs[-1:] == (TokenLogprob(" two", 0.0, b" two"),)


async def test_an_answer_cut_at_max_tokens_says_length(open_echo):
    subject = await open_echo()

    result = await generate(subject.engine, question("one two three", max_tokens=6))

    assert result.text == "[echo glm] no pictures, question: one"
    assert result.finish_reason == "length"
    assert result.usage.completion_tokens == 6


async def test_reasoning_is_kept_apart_from_the_answer_and_counted(open_echo):
    subject = await open_echo(name="glm")
    request = GenerationRequest((Message("user", (TextPart("why so"),)),), enable_thinking=True)

    result = await generate(subject.engine, request)

    assert result.reasoning == "[echo glm] the question has 2 words"
    assert result.text == "[echo glm] no pictures, question: why so"
    assert result.usage.reasoning_tokens == 7
    assert result.usage.completion_tokens == 14


async def test_closing_the_stream_cancels_the_generation(open_echo):
    subject = await open_echo()
    stream = subject.engine.stream(question("word " * 200, max_tokens=1000))
    await anext(stream)

    subject.echo.delta_delay_s = 3600.0
    await stream.aclose()

    await subject.echo.wait_for(lambda echo: echo.num_cancelled == 1)
    assert subject.echo.num_running == 0


async def test_cancelling_a_caller_who_waits_for_the_first_delta_cancels_the_generation(open_echo):
    subject = await open_echo(delta_delay_s=3600.0)
    caller = asyncio.create_task(generate(subject.engine, question("anybody there?")))
    await subject.echo.wait_for(lambda echo: echo.num_running == 1)

    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller

    await subject.echo.wait_for(lambda echo: echo.num_cancelled == 1)
    assert subject.echo.num_running == 0


async def test_an_answer_read_to_its_end_was_not_cancelled(open_echo):
    subject = await open_echo()

    await generate(subject.engine, question("done?"))

    await subject.echo.wait_for(lambda echo: echo.num_running == 0)
    assert subject.echo.num_cancelled == 0


ERRORS = [
    InvalidRequestError("wrong", param="messages"),
    ContextLengthError("too long by 7"),
    InvalidImageError("broken", param="messages[0]"),
    InvalidImageError("broken", code="image_parse_error"),
    TooManyImagesError("too many"),
    EngineOverloadedError("busy"),
    EngineUnavailableError("gone"),
    EngineTimeoutError("slow"),
    GenerationFailedError("raised"),
]


async def read_into(texts, stream):
    async for delta in stream:
        texts.append(delta.text)


@pytest.mark.parametrize("num_before", [0, 2], ids=["at-once", "in-mid-answer"])
async def test_every_error_arrives_as_the_class_it_was_raised_as(open_echo, num_before):
    subject = await open_echo(fail_after_deltas=num_before)
    for raised in ERRORS:
        subject.echo.fail_with = raised
        stream = subject.engine.stream(question("what goes wrong?"))

        received: list[str] = []
        with pytest.raises(EngineError) as caught:
            await read_into(received, stream)

        assert type(caught.value) is type(raised)
        assert (caught.value.code, caught.value.param) == (raised.code, raised.param)
        assert raised.message in caught.value.message  # a balancer that is left without any names its other servers too
        assert "".join(received) == ("[echo glm]" if num_before else "")


async def test_many_answers_run_side_by_side_without_mixing(open_echo):
    # Given answers that are all under way before any may end
    subject = await open_echo(delta_delay_s=3600.0)
    callers = [
        asyncio.create_task(generate(subject.engine, question(f"number {number}", max_tokens=None)))
        for number in range(40)
    ]
    await subject.echo.wait_for(lambda echo: echo.num_running == 40)

    # When one of them is cancelled
    callers[7].cancel()
    await asyncio.wait([callers[7]])
    await subject.echo.wait_for(lambda echo: echo.num_cancelled == 1)

    # Then the others run on, and break off only when the engine closes
    assert subject.echo.num_running == 39
    assert not any(caller.done() for caller in callers if caller is not callers[7])
    await subject.echo.aclose()
    results = await asyncio.gather(*callers, return_exceptions=True)
    assert sum(isinstance(result, EngineUnavailableError) for result in results) == 39


async def test_a_closed_engine_refuses(open_echo):
    subject = await open_echo()
    await subject.engine.aclose()

    with pytest.raises(EngineUnavailableError):
        await generate(subject.engine, question("anybody there?"))

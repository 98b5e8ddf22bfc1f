"""engines.owl2_vllm.engine over a stand-in for vLLM: turns, refusals, leaving, and a process that ends."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator, Callable

import pytest
from PIL import Image

pytest.importorskip("torch")
pytest.importorskip("transformers")

from engines.base import (
    ContextLengthError,
    EngineOptions,
    EngineOverloadedError,
    EngineUnavailableError,
    GenerationFailedError,
    GenerationRequest,
    Message,
    SamplingParams,
    TextPart,
    TooManyImagesError,
    generate,
    hash_caller,
)
from engines.owl2.files import CheckpointError
from engines.owl2.runner import PreparedRequest
from engines.owl2_vllm.engine import Owl2VllmEngine
from engines.owl2_vllm.steps import BackendGoneError, Step
from engines.pocket.random_tiny import make_owl2
from engines.runtime.sampling import Pick
from tests.support.pictures import to_part

EOS = 2


class StandIn:
    """Answers with the ids it is given, one a step, when it may."""

    def __init__(self) -> None:
        self.max_rows = 1
        self.context_tokens = 90
        self.numbers = "stand-in"
        self.answer: list[int] = [300, 301, EOS]
        self.error: Exception | None = None
        self.may_step = asyncio.Event()
        self.may_step.set()
        self.running: list[PreparedRequest] = []
        self.seen: list[PreparedRequest] = []
        self.left = asyncio.Event()
        self.began = asyncio.Event()
        self.num_forgotten = 0
        self.is_closed = False
        self.has_ended = asyncio.Event()
        self.observe: Callable[[int, int, float], None] = lambda *_: None

    async def stream(self, prepared: PreparedRequest, eos_token_ids: frozenset[int]) -> AsyncGenerator[Step, None]:
        assert EOS in eos_token_ids
        self.running.append(prepared)
        self.seen.append(prepared)
        self.began.set()
        try:
            for token_id in self.answer[: prepared.max_tokens]:
                await self.may_step.wait()
                if self.error is not None:
                    raise self.error
                yield Step((Pick(token_id),), 3)
        finally:
            self.running.remove(prepared)
            self.left.set()

    async def forget(self) -> None:
        self.num_forgotten += 1

    async def ended(self) -> None:
        await self.has_ended.wait()

    async def aclose(self) -> None:
        self.is_closed = True


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "owl2"
    make_owl2(folder)
    return folder


@pytest.fixture
def backend() -> StandIn:
    return StandIn()


@pytest.fixture
async def engine(folder, backend) -> AsyncIterator[Owl2VllmEngine]:
    async def start(options, checkpoint, config, observe):
        assert checkpoint == folder
        backend.observe = observe
        return backend

    engine = Owl2VllmEngine(EngineOptions(model=str(folder), max_queue=1), start)
    await engine.start()
    yield engine
    await engine.aclose()


def ask(text: str = "What is it?", caller: str = "", **sampling: object) -> GenerationRequest:
    return GenerationRequest(
        (Message("user", (TextPart(text),)),), SamplingParams(**({"max_tokens": 8} | sampling)), caller=caller
    )


async def until_one_waits(engine: Owl2VllmEngine) -> None:
    while not engine.waiting():  # noqa: ASYNC110 - nobody is told that a request has begun to wait
        await asyncio.sleep(0.001)


async def test_the_warm_up_reads_text_and_a_picture_and_leaves_nothing_in_the_caches(engine, backend):
    assert [len(prepared.pictures) for prepared in backend.seen] == [0, 1]
    assert backend.num_forgotten == 1


async def test_an_answer_ends_with_its_token_and_counts_what_was_read(engine, backend):
    result = await generate(engine, ask())

    tokenizer = engine._get_loaded().preparation.processor.tokenizer
    assert result.text == tokenizer.decode([300, 301])
    assert result.finish_reason == "stop"
    assert (result.usage.completion_tokens, result.usage.cached_tokens) == (3, 3)
    assert result.usage.prompt_tokens == len(backend.seen[-1].sequence)


async def test_a_stop_string_ends_the_answer_and_frees_the_row(engine, backend):
    text = (await generate(engine, ask())).text
    backend.left.clear()

    result = await generate(engine, ask(stop=(text[-1],)))

    assert (result.text, result.finish_reason) == (text[:-1], "stop")
    assert backend.left.is_set()
    assert not backend.running


async def test_an_answer_without_an_end_is_a_failure_and_not_an_empty_answer(engine, backend):
    backend.answer = [300]

    with pytest.raises(GenerationFailedError):
        await generate(engine, ask())


async def test_a_caller_who_leaves_frees_the_row(engine, backend):
    stream = engine.stream(ask())
    await anext(stream)
    assert backend.running

    await stream.aclose()

    assert not backend.running


async def test_callers_take_turns_and_one_more_than_may_wait_is_refused(engine, backend):
    # Given a row that is taken and one request that waits for it
    backend.may_step.clear()
    backend.began.clear()
    first = asyncio.create_task(generate(engine, ask(caller="alice")))
    await backend.began.wait()
    second = asyncio.create_task(generate(engine, ask(caller="bob")))
    await until_one_waits(engine)

    # Then it is known who waits, vLLM has only one, and a third is refused
    assert [(wait.caller, wait.num_waiting) for wait in engine.waiting()] == [(hash_caller("bob"), 1)]
    assert len(backend.running) == 1
    with pytest.raises(EngineOverloadedError):
        await generate(engine, ask(caller="carol"))

    # And when the row is free the second is answered
    backend.may_step.set()
    assert (await first).text == (await second).text
    assert engine.waiting() == ()


async def test_a_caller_who_leaves_while_waiting_is_no_longer_waiting(engine, backend):
    backend.may_step.clear()
    backend.began.clear()
    first = asyncio.create_task(generate(engine, ask()))
    await backend.began.wait()
    second = asyncio.create_task(generate(engine, ask(caller="bob")))
    await until_one_waits(engine)

    second.cancel()
    await asyncio.wait([second])

    assert engine.waiting() == ()
    backend.may_step.set()
    assert (await first).finish_reason == "stop"
    assert (await generate(engine, ask())).finish_reason == "stop"


async def test_a_process_that_ends_makes_the_server_unready_and_every_request_unavailable(engine, backend):
    assert engine.trouble() == ""
    backend.error = BackendGoneError("gone")

    with pytest.raises(EngineUnavailableError):
        await generate(engine, ask())

    assert "process has ended" in engine.trouble()
    with pytest.raises(EngineUnavailableError, match="process has ended"):
        await generate(engine, ask())


async def test_a_process_that_ends_while_nobody_asks_is_noticed(engine, backend):
    ended = asyncio.create_task(engine.ended())
    backend.has_ended.set()

    assert "process has ended" in await ended
    with pytest.raises(EngineUnavailableError):
        await generate(engine, ask())


async def test_a_request_that_failed_alone_leaves_the_others_alone(engine, backend):
    backend.error = GenerationFailedError("this one")
    with pytest.raises(GenerationFailedError):
        await generate(engine, ask())
    backend.error = None

    assert (await generate(engine, ask())).finish_reason == "stop"
    assert engine.trouble() == ""


async def test_what_cannot_be_answered_is_refused_before_vllm_sees_it(engine, backend):
    num_before = len(backend.seen)
    info = await engine.info()
    message = Message("user", (*[to_part(Image.new("RGB", (9, 9)))] * (info.max_images + 1), TextPart("How many?")))
    with pytest.raises(TooManyImagesError):
        await generate(engine, dataclasses.replace(ask(), messages=(message,)))

    assert len(backend.seen) == num_before


async def test_a_context_that_the_operator_shortened_is_the_one_that_is_told(engine):
    assert (await engine.info()).context_tokens == 90
    with pytest.raises(ContextLengthError):
        await generate(engine, ask("word " * 100))


async def test_its_metrics_are_what_vllm_says_after_a_step(engine, backend):
    backend.observe(3, 1, 0.25)

    state = engine.state()

    assert (state.num_running, state.num_waiting, state.kv_usage) == (3, 1, 0.25)
    text = engine.meters.expose(state, is_ready=True)[0].decode()
    assert "glowl_engine_kv_cache_usage_ratio 0.25" in text
    assert "glowl_engine_batch_rows_count 1.0" in text


async def test_a_broken_checkpoint_is_named_before_vllm_is_started(folder, tmp_path):
    async def start(*_):
        raise AssertionError("not with a broken checkpoint")

    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    engine = Owl2VllmEngine(EngineOptions(model=str(tmp_path)), start)

    with pytest.raises(CheckpointError):
        await engine.start()
    with contextlib.suppress(Exception):
        await engine.aclose()


async def test_closing_while_vllm_starts_ends_it_as_soon_as_it_has(folder, backend):
    may_start, begun = asyncio.Event(), asyncio.Event()

    async def start(*_):
        begun.set()
        await may_start.wait()
        return backend

    engine = Owl2VllmEngine(EngineOptions(model=str(folder)), start)
    starting = asyncio.create_task(engine.start())
    await begun.wait()
    starting.cancel()
    await asyncio.wait([starting])
    closing = asyncio.create_task(engine.aclose())
    may_start.set()
    await closing

    assert backend.is_closed


async def test_closing_ends_vllm(engine, backend):
    await engine.aclose()

    assert backend.is_closed
    with pytest.raises(EngineUnavailableError):
        await engine.info()

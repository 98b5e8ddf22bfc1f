from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import pytest

from engines.base import (
    Delta,
    EngineOverloadedError,
    EngineUnavailableError,
    GenerationFailedError,
    InvalidImageError,
)
from engines.batching import Emit, IsCancelled, ModelThread, Work


@pytest.fixture
async def thread() -> AsyncIterator[ModelThread]:
    thread = ModelThread("test-model", max_queue=2)
    yield thread
    await thread.aclose()


class Gate:
    """Work that says when it runs and goes on only when it is let."""

    def __init__(self, text: str = "done") -> None:
        self.text = text
        self.started = threading.Event()
        self.go = threading.Event()
        self.was_cancelled = threading.Event()

    def __call__(self, emit: Emit, is_cancelled: IsCancelled) -> None:
        self.started.set()
        for _ in range(10_000):  # bounded, so that a broken cancellation fails a test instead of hanging it
            if self.go.wait(0.001):
                break
            if is_cancelled():
                self.was_cancelled.set()
                return
        emit(Delta(text=self.text))

    async def wait_started(self) -> None:
        assert await asyncio.to_thread(self.started.wait, 10)


async def collect(stream: AsyncGenerator[Delta, None]) -> str:
    async with aclosing(stream) as deltas:
        return "".join([delta.text async for delta in deltas])


def saying(*texts: str) -> Work:
    def work(emit: Emit, _is_cancelled: IsCancelled) -> None:
        for text in texts:
            emit(Delta(text=text))

    return work


async def test_deltas_arrive_in_the_order_in_which_they_were_emitted(thread: ModelThread) -> None:
    assert await collect(thread.stream(saying("a", "b", "c"))) == "abc"


async def test_requests_run_one_at_a_time_in_the_order_of_arrival(thread: ModelThread) -> None:
    # Given a running request and two in line
    order: list[str] = []
    gate = Gate()

    def noting(name: str) -> Work:
        def work(emit: Emit, _is_cancelled: IsCancelled) -> None:
            order.append(name)
            emit(Delta(text=name))

        return work

    running = asyncio.create_task(collect(thread.stream(gate)))
    await gate.wait_started()
    second = asyncio.create_task(collect(thread.stream(noting("second"))))
    await asyncio.sleep(0)
    third = asyncio.create_task(collect(thread.stream(noting("third"))))
    await asyncio.sleep(0)

    # When the first is done
    assert order == []
    gate.go.set()

    # Then the others follow in order
    assert await asyncio.gather(running, second, third) == ["done", "second", "third"]
    assert order == ["second", "third"]


async def test_all_work_runs_on_one_and_the_same_thread(thread: ModelThread) -> None:
    names = [await thread.call(lambda: threading.current_thread().name) for _ in range(3)]

    assert names == ["test-model"] * 3


async def test_one_request_more_than_may_wait_is_refused_and_the_others_are_served(thread: ModelThread) -> None:
    # Given one running and two waiting, which is the limit
    gate = Gate()
    tasks = [asyncio.create_task(collect(thread.stream(gate)))]
    await gate.wait_started()
    tasks += [asyncio.create_task(collect(thread.stream(saying("ok")))) for _ in range(2)]
    await asyncio.sleep(0)
    assert thread.num_waiting == 2

    # When another one comes
    with pytest.raises(EngineOverloadedError):
        await collect(thread.stream(saying("too many")))

    # Then those before it are not disturbed
    gate.go.set()
    assert await asyncio.gather(*tasks) == ["done", "ok", "ok"]
    assert thread.num_waiting == 0


async def test_a_waiting_request_whose_caller_left_frees_its_place_at_once_and_never_runs(thread: ModelThread) -> None:
    # Given a full line behind a running request
    gate = Gate()
    running = asyncio.create_task(collect(thread.stream(gate)))
    await gate.wait_started()
    unwanted = [Gate(), Gate()]
    leaving = [asyncio.create_task(collect(thread.stream(work))) for work in unwanted]
    await asyncio.sleep(0)

    # When both waiting callers leave
    for task in leaving:
        task.cancel()
    await asyncio.gather(*leaving, return_exceptions=True)

    # Then there is room again, although the thread has not come to them yet
    assert thread.num_waiting == 0
    served = asyncio.create_task(collect(thread.stream(saying("served"))))
    gate.go.set()
    assert await asyncio.gather(running, served) == ["done", "served"]
    assert not any(work.started.is_set() for work in unwanted)


async def test_closing_a_running_stream_cancels_the_work_and_frees_the_thread(thread: ModelThread) -> None:
    # Given a stream whose work has emitted something and goes on
    gate = Gate()

    def work(emit: Emit, is_cancelled: IsCancelled) -> None:
        emit(Delta(text="first"))
        gate(emit, is_cancelled)

    stream = thread.stream(work)
    assert (await anext(stream)).text == "first"

    # When the caller closes it
    await stream.aclose()

    # Then the work is told, and the next request runs
    assert await asyncio.to_thread(gate.was_cancelled.wait, 10)
    assert await collect(thread.stream(saying("next"))) == "next"


async def test_cancelling_the_task_that_waits_for_a_delta_cancels_the_work(thread: ModelThread) -> None:
    gate = Gate()
    task = asyncio.create_task(collect(thread.stream(gate)))
    await gate.wait_started()

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert await asyncio.to_thread(gate.was_cancelled.wait, 10)


async def test_an_engine_error_reaches_the_caller_as_it_is_and_the_thread_lives_on(thread: ModelThread) -> None:
    # Given work that emits, then refuses
    def work(emit: Emit, _is_cancelled: IsCancelled) -> None:
        emit(Delta(text="before"))
        raise InvalidImageError("no picture", code="image_parse_error")

    stream = thread.stream(work)
    assert (await anext(stream)).text == "before"
    with pytest.raises(InvalidImageError) as caught:
        await anext(stream)

    assert caught.value.code == "image_parse_error"
    assert await collect(thread.stream(saying("alive"))) == "alive"


@pytest.mark.parametrize("error", [RuntimeError("secret detail"), SystemExit(1)])
async def test_any_other_error_becomes_a_failed_generation_that_names_only_its_kind(
    thread: ModelThread, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def work(_emit: Emit, _is_cancelled: IsCancelled) -> None:
        raise error

    with pytest.raises(GenerationFailedError) as caught:
        await collect(thread.stream(work))

    assert type(error).__name__ in caught.value.message
    assert "secret detail" not in caught.value.message
    assert "generation failed" in caplog.text
    assert await collect(thread.stream(saying("alive"))) == "alive"


async def test_a_call_returns_the_result_or_raises_what_the_function_raised(thread: ModelThread) -> None:
    def fail() -> None:
        raise OSError("no such checkpoint")

    assert await thread.call(lambda: 42) == 42
    with pytest.raises(OSError, match="no such checkpoint"):
        await thread.call(fail)
    assert await thread.call(lambda: None) is None


async def test_shutting_down_cancels_the_running_request_and_refuses_the_waiting_ones() -> None:
    # Given one running, one waiting stream and one waiting call
    thread = ModelThread("closing", max_queue=4)
    gate = Gate()
    running = asyncio.create_task(collect(thread.stream(gate)))
    await gate.wait_started()
    waiting = asyncio.create_task(collect(thread.stream(saying("never"))))
    calling = asyncio.create_task(thread.call(lambda: "never"))
    await asyncio.sleep(0)

    # When the thread closes
    await thread.aclose()

    # Then nothing hangs: the running work saw it, the others are told
    assert gate.was_cancelled.is_set()
    assert await running == ""
    for refused in (waiting, calling):
        with pytest.raises(EngineUnavailableError):
            await refused


async def test_after_shutdown_every_use_is_refused_and_closing_again_is_harmless() -> None:
    thread = ModelThread("closed", max_queue=1)
    await thread.aclose()

    with pytest.raises(EngineUnavailableError):
        await collect(thread.stream(saying("late")))
    with pytest.raises(EngineUnavailableError):
        await thread.call(lambda: "late")
    await thread.aclose()

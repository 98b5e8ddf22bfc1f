"""Single flight: one run for all who ask the same at once, for as long as one of them still listens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from engines.base import Delta, GenerationFailedError, GenerationRequest, Message, SamplingParams, TextPart
from engines.echo import EchoEngine
from router.cache.flights import Flights, SharedStream, flight_of
from router.jobs.job import BranchPlan
from router.output_format import OutputFormat
from tests.support.jobs import DECISION, PAIR, make_spec
from tests.support.pictures import png

REQUEST = GenerationRequest((Message("user", (png("red"), TextPart("What is it?"))),), caller="alice")
# So slow that nothing ends by itself while a test looks on.
SLOW_S = 600.0


@pytest.fixture
async def engine() -> AsyncIterator[EchoEngine]:
    engine = EchoEngine()
    await engine.start()
    yield engine
    await engine.aclose()


@pytest.fixture
def flights() -> Flights:
    return Flights()


async def read(stream: SharedStream) -> str:
    async with aclosing(stream):
        return "".join([delta.text async for delta in stream])


async def test_a_hundred_equal_requests_are_one_run(engine: EchoEngine, flights: Flights) -> None:
    streams = [flights.stream("glm", engine, replace(REQUEST, request_id=str(number))) for number in range(100)]

    texts = await asyncio.gather(*map(read, streams))

    assert engine.num_started == 1
    assert len(set(texts)) == 1
    assert "What is it?" in texts[0]
    assert [stream.is_joined for stream in streams] == [False] + [True] * 99
    assert flights.num_joined == 99


OTHER = {
    "owner": replace(REQUEST, caller="bob"),
    "picture": replace(REQUEST, messages=(Message("user", (png("blue"), TextPart("What is it?"))),)),
    "question": replace(REQUEST, messages=(Message("user", (png("red"), TextPart("What was it?"))),)),
    "role": replace(REQUEST, messages=(Message("system", REQUEST.messages[0].parts),)),
    "sampling": replace(REQUEST, sampling=SamplingParams(max_tokens=3)),
    "thinking": replace(REQUEST, enable_thinking=True),
    "adapter": replace(REQUEST, adapter="tags"),
}


@pytest.mark.parametrize("name", OTHER)
async def test_another_request_is_a_run_of_its_own(flights: Flights, name: str) -> None:
    engine = EchoEngine(adapters=("tags",))
    await engine.start()
    streams = [flights.stream("glm", engine, REQUEST), flights.stream("glm", engine, OTHER[name])]

    await asyncio.gather(*map(read, streams))
    assert engine.num_started == 2


async def test_another_engine_is_a_run_of_its_own(engine: EchoEngine, flights: Flights) -> None:
    await asyncio.gather(*(read(flights.stream(name, engine, REQUEST)) for name in ("glm", "owl2")))

    assert engine.num_started == 2


async def test_who_joins_late_gets_all_of_it(engine: EchoEngine, flights: Flights) -> None:
    first = flights.stream("glm", engine, REQUEST)
    beginning = [await anext(first) for _ in range(3)]
    second = flights.stream("glm", engine, REQUEST)

    assert second.is_joined
    assert await read(second) == "".join(delta.text for delta in beginning) + await read(first)
    assert engine.num_started == 1


async def test_who_leaves_takes_nothing_from_the_others(engine: EchoEngine, flights: Flights) -> None:
    first, second = (flights.stream("glm", engine, REQUEST) for _ in range(2))
    await anext(first)
    await first.aclose()

    assert "What is it?" in await read(second)
    assert engine.num_cancelled == 0


async def test_the_last_one_who_leaves_ends_the_run(engine: EchoEngine, flights: Flights) -> None:
    engine.delta_delay_s = SLOW_S
    streams = [flights.stream("glm", engine, REQUEST) for _ in range(2)]
    readers = [asyncio.create_task(read(stream)) for stream in streams]
    await engine.wait_for(lambda engine: engine.num_running == 1)
    readers[0].cancel()
    await asyncio.gather(readers[0], return_exceptions=True)
    assert engine.num_running == 1
    readers[1].cancel()
    await engine.wait_for(lambda engine: engine.num_running == 0)

    assert engine.num_cancelled == 1


async def test_a_failure_is_everybodys_and_nobodys_who_comes_later(engine: EchoEngine, flights: Flights) -> None:
    engine.fail_with = GenerationFailedError("no")
    engine.fail_after_deltas = 2
    streams = [flights.stream("glm", engine, REQUEST) for _ in range(3)]
    found = await asyncio.gather(*map(read, streams), return_exceptions=True)
    engine.fail_with = None

    assert [type(each) for each in found] == [GenerationFailedError] * 3
    assert "What is it?" in await read(flights.stream("glm", engine, REQUEST))


async def test_a_stream_that_was_closed_or_read_has_nothing_more(engine: EchoEngine, flights: Flights) -> None:
    stream = flights.stream("glm", engine, REQUEST)
    await stream.aclose()
    await stream.aclose()

    assert [delta async for delta in stream] == list[Delta]()
    await engine.wait_for(lambda engine: engine.num_running == 0)


PICTURE = {"type": "image", "sha256": "a" * 64}
TEXT = {"type": "text", "text": "What is it?"}
OTHER_JOBS: dict[str, dict[str, Any]] = {
    "owner": {"owner": "bob"},
    "question": {"messages": [{"role": "user", "parts": [PICTURE, {**TEXT, "text": "What was it?"}]}]},
    "picture": {"messages": [{"role": "user", "parts": [{**PICTURE, "sha256": "b" * 64}, TEXT]}]},
    "order": {"messages": [{"role": "user", "parts": [TEXT, PICTURE]}]},
    "role": {"messages": [{"role": "system", "parts": [PICTURE, TEXT]}]},
    "sampling": {"sampling": SamplingParams(max_tokens=8)},
    "branches": {"branches": (*PAIR[:1], BranchPlan("deep", "owl2", enable_thinking=True))},
    "strategy": {"strategy": "compose"},
    "language": {"language": "zh"},
    "adapter": {"adapter": "tags"},
    "adapter's engine": {"adapter_engine": "owl2"},
    "promoted": {"promoted": {"owl2": "bills"}},
    "format": {"output_format": OutputFormat("json_object")},
    "decision": {"decision": {**DECISION, "degraded": ["owl2 is away"]}},
}
SAME_JOBS: dict[str, dict[str, Any]] = {
    "id": {},
    "metadata": {"metadata": {"a": "b"}},
    "background": {"is_background": True},
    "webhook": {"webhook_url": "https://example.com/hook"},
    "preset": {"decision": {**DECISION, "preset": "other"}},
}


def asking(**changes: Any) -> str:
    return flight_of(make_spec(**{"messages": [{"role": "user", "parts": [PICTURE, TEXT]}], **changes}))


@pytest.mark.parametrize("name", OTHER_JOBS)
def test_a_job_that_asks_something_else_or_for_another_owner_shares_no_run(name: str) -> None:
    assert asking(**OTHER_JOBS[name]) != asking()


@pytest.mark.parametrize("name", SAME_JOBS)
def test_what_changes_no_answer_parts_no_jobs(name: str) -> None:
    assert asking(**SAME_JOBS[name]) == asking()

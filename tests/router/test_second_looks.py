"""Fast questions that are asked again: which, how they are noted, and that nobody sees the answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any, cast
from unittest.mock import AsyncMock, MagicMock

import pytest
from redis.asyncio import Redis

from engines.base import Message, SamplingParams, TextPart
from engines.echo import EchoEngine
from policies.features import Hints
from policies.rules import load_preset
from router.call import Again, Call
from router.dispatch import Dispatcher
from router.errors import QueueUnavailableError
from router.health import EngineMonitor
from router.jobs.job import Job
from router.jobs.store import JobStore
from router.promotion.records import Promotion
from router.routing import Router
from router.second_looks import SecondLooks, looked_again_id
from router.second_looks import ask as ask_again

CALL = Call((Message("user", (TextPart("图里有什么？"),)),), SamplingParams(), Hints(), "glowl", "local")
SHADOW = Promotion("receipts", share=0.5)

Ask = Callable[..., Any]


@pytest.fixture
async def glm() -> AsyncIterator[EchoEngine]:
    engine = EchoEngine("glm", adapters=("receipts",))
    await engine.start()
    yield engine
    await engine.aclose()


@pytest.fixture
async def ask(redis: Redis, glm: EchoEngine) -> Ask:
    """Returns what asks one question to its end, and returns its record with those of what is asked again."""
    engines: Any = {"glm": glm, "owl2": EchoEngine("owl2")}
    rules = load_preset("seed")

    async def run(looks: SecondLooks, call: Call = CALL, *, reads_all: bool = True) -> tuple[Job, dict[str, Job]]:
        store = JobStore(redis)
        dispatcher = Dispatcher(
            engines=engines,
            store=store,
            queue=cast("Any", AsyncMock()),
            hub=cast("Any", MagicMock(follow=lambda *_: cast("Any", _nothing()))),
            monitor=EngineMonitor(engines),
            router=Router(lambda: rules),
            looks=looks,
        )
        running = await dispatcher.start(call)
        if reads_all:
            async for _event in running.events:
                pass
        else:
            await running.events.aclose()
        await dispatcher.aclose()
        again = {}
        for kind in ("second_look", "shadow"):
            job = await store.get(looked_again_id(running.job.id, cast("Any", kind)))
            if job is not None:
                again[kind] = job
        return running.job, again

    return run


async def _nothing() -> AsyncIterator[Any]:
    return
    yield


def _looks(*chances: float, share: float = 0.1, shadow: Promotion | None = None) -> SecondLooks:
    numbers = list(chances)
    return SecondLooks(share, shadow=lambda: shadow or Promotion(), keeps=lambda _: True, chance=lambda: numbers.pop(0))


async def test_a_drawn_question_becomes_a_deep_job_of_lowest_priority_that_no_list_shows(
    ask: Ask, redis: Redis
) -> None:
    job, again = await ask(_looks(0.05))

    assert job.spec.decision["second_look"] == {"probability": 0.1, "is_drawn": True}
    spec = again["second_look"].spec
    assert spec.decision["again"] == {"kind": "second_look", "response_id": job.id}
    assert [branch.name for branch in spec.branches] == ["draft", "deep"]
    assert (spec.priority, spec.is_background, spec.is_stored, spec.webhook_url) == ("batch", True, False, None)
    page = await JobStore(redis).list_jobs("local")
    assert page is not None
    assert [each.id for each in page.jobs] == [job.id]


async def test_one_that_is_not_drawn_keeps_with_which_probability_it_could_have_been(ask: Ask) -> None:
    job, again = await ask(_looks(0.1))

    assert job.spec.decision["second_look"] == {"probability": 0.1, "is_drawn": False}
    assert again == {}


async def test_an_adapter_in_the_shadow_is_asked_the_same_by_the_fast_route(ask: Ask) -> None:
    job, again = await ask(_looks(0.4, share=0.0, shadow=SHADOW))

    assert job.spec.decision["shadow"] == {"probability": 0.5, "is_drawn": True, "adapter": "receipts"}
    spec = again["shadow"].spec
    assert (spec.adapter, [branch.name for branch in spec.branches]) == ("receipts", ["fast"])
    assert job.spec.adapter == ""


@pytest.mark.parametrize(
    "call",
    [
        replace(CALL, hints=Hints(route="fast")),
        replace(CALL, hints=Hints(engine="glm")),
    ],
    ids=["route", "engine"],
)
async def test_a_question_whose_route_its_caller_chose_is_not_drawn(call: Call, ask: Ask) -> None:
    job, again = await ask(_looks(), call)

    assert "second_look" not in job.spec.decision
    assert again == {}


async def test_what_may_not_be_kept_is_not_asked_again(ask: Ask) -> None:
    job, again = await ask(SecondLooks(1.0))

    assert "second_look" not in job.spec.decision
    assert again == {}


async def test_an_answer_that_its_client_did_not_want_is_not_asked_again(ask: Ask) -> None:
    _, again = await ask(_looks(0.0), replace(CALL, is_streamed=True), reads_all=False)

    assert again == {}


async def test_what_cannot_be_asked_again_now_disturbs_nobody() -> None:
    async def refuse(_call: Call) -> Any:
        raise QueueUnavailableError("redis is away")

    await ask_again(refuse, replace(CALL, again=Again("second_look", "resp_1")))

"""What the router makes of old queues: for whom they count, until when, and what it does not take for one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest

from engines.base import EngineInfo, ImagePart, Message, SamplingParams, TextPart, hash_caller
from policies.decision import EngineHealth, Health
from policies.features import Hints
from policies.rules import QueueLimits
from router.call import Call
from router.errors import QueueUnavailableError
from router.jobs.backlog import Backlog, Backlogs, Line
from router.jobs.eta import Pace
from router.overload import OverloadWatch

CALL = Call((Message("user", (TextPart("What is it?"),)),), SamplingParams(), Hints(), "glowl", "ann")
BATCH_LINE = replace(CALL, priority="batch")


class Monitor:
    """Knows that both engines are up, and how many pictures GLM takes."""

    def health(self) -> Health:
        return Health({"glm": EngineHealth(), "owl2": EngineHealth()})

    def __init__(self) -> None:
        self.waits_s = {"glm": 0.0, "owl2": 0.0}
        self.own_waits_s: dict[str, dict[str, float]] = {"glm": {}, "owl2": {}}

    def waits(self, name: str) -> tuple[float, dict[str, float]]:
        return self.waits_s[name], self.own_waits_s[name]

    def num_waiting(self, name: str) -> int:
        return int(self.waits_s[name])

    def info(self, name: str) -> EngineInfo:
        return EngineInfo(name, name, "echo", 9, 2)


class Bench:
    """A watch whose queues and clock are the test's own."""

    def __init__(self) -> None:
        self.now = 0.0
        self.lines: dict[str, tuple[Line, ...]] = {}
        self.is_away = False
        self.limits = QueueLimits(glm=60, owl2=300)
        self.monitor = Monitor()
        self.watch = OverloadWatch(cast("Any", self.monitor), self.read, lambda: self.limits, clock=lambda: self.now)

    async def read(self) -> Backlogs:
        if self.is_away:
            raise QueueUnavailableError("redis is away")
        return Backlogs(
            {
                name: Backlog(
                    Pace(10.0), 1.0, ((), lines, ()), (0, len(lines), 0), (0, sum(x.num_waiting for x in lines), 0)
                )
                for name, lines in self.lines.items()
            }
        )

    async def look(self, **ages: float) -> None:
        """Read queues in which an owner of each waits for so long."""
        self.lines = {name: (Line("bob", 1, age_s, age_s),) for name, age_s in ages.items()}
        await self.watch.look()

    def of(self, engine: str, call: Call = CALL) -> EngineHealth:
        return self.watch.health(call).of(engine)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_before_the_first_look_nothing_is_known_and_nothing_is_overloaded(bench: Bench) -> None:
    assert bench.watch.health(CALL) == Health({"glm": EngineHealth(), "owl2": EngineHealth()})
    assert bench.watch.status() == {}


async def test_the_age_of_a_queue_is_its_engines(bench: Bench) -> None:
    await bench.look(owl2=301.234)

    assert bench.of("owl2") == EngineHealth(queue_age_s=301.2, was_overloaded=True)
    assert bench.of("glm") == EngineHealth()
    assert bench.watch.health(CALL).estimated_deep_ms == 20_000
    assert bench.watch.status() == {
        "owl2": {"num_waiting": 1, "num_waiting_at_engine": 0, "queue_age_s": 301.2, "overloaded": True}
    }


async def test_an_overload_is_remembered_down_to_half_of_the_limit_and_no_longer(bench: Bench) -> None:
    seen = []
    for age_s in (200, 301, 200, 151, 150, 200):
        await bench.look(owl2=age_s)
        seen.append(bench.of("owl2").was_overloaded)

    assert seen == [False, True, True, True, False, False]


async def test_two_processes_come_to_the_same_conclusions(bench: Bench) -> None:
    other = Bench()
    for age_s in (10, 400, 250, 100, 250):
        await bench.look(owl2=age_s)
        await other.look(owl2=age_s)
        assert bench.watch.health(CALL) == other.watch.health(CALL)


async def test_numbers_that_are_too_old_are_not_known_any_more(bench: Bench) -> None:
    await bench.look(owl2=400)
    bench.is_away = True
    bench.now = 4.9
    with pytest.raises(QueueUnavailableError):
        await bench.watch.look()
    assert bench.of("owl2").queue_age_s == 400

    bench.now = 5.0
    with pytest.raises(QueueUnavailableError):
        await bench.watch.look()

    assert bench.of("owl2") == EngineHealth()
    assert bench.watch.health(CALL).estimated_deep_ms is None
    assert bench.watch.status() == {}


async def test_glm_is_asked_directly_so_its_queue_of_jobs_is_old_for_background_work_alone(bench: Bench) -> None:
    await bench.look(glm=100)

    assert bench.of("glm") == EngineHealth()
    assert bench.of("glm", replace(CALL, is_background=True)) == EngineHealth(queue_age_s=100, was_overloaded=True)


async def test_a_line_of_a_batch_may_wait(bench: Bench) -> None:
    await bench.look(owl2=4000, glm=4000)

    assert bench.of("owl2", BATCH_LINE) == EngineHealth()
    assert bench.of("glm", replace(BATCH_LINE, is_background=True)) == EngineHealth()


async def test_an_owners_own_long_line_is_old_for_it_alone(bench: Bench) -> None:
    bench.lines = {"owl2": (Line("ann", 50, 400.0, 8.0),)}
    await bench.watch.look()

    assert bench.of("owl2") == EngineHealth(queue_age_s=400, was_overloaded=True)
    assert bench.of("owl2", replace(CALL, owner="bob")) == EngineHealth(queue_age_s=8)


async def test_who_waits_at_an_engine_comes_on_top_of_who_waits_for_a_worker(bench: Bench) -> None:
    bench.monitor.waits_s = {"glm": 61.0, "owl2": 40.0}
    await bench.look(glm=10, owl2=200)

    assert bench.of("glm") == EngineHealth(queue_age_s=61, was_overloaded=True)
    assert bench.of("glm", replace(CALL, is_background=True)).queue_age_s == 71
    assert bench.of("owl2") == EngineHealth(queue_age_s=240)


async def test_an_owners_own_wait_at_an_engine_is_remembered_for_it_alone(bench: Bench) -> None:
    bench.monitor.own_waits_s["glm"] = {hash_caller("ann"): 61.0}
    await bench.look()
    assert bench.of("glm") == EngineHealth(queue_age_s=61, was_overloaded=True)
    assert bench.of("glm", replace(CALL, owner="bob")) == EngineHealth()

    bench.monitor.own_waits_s["glm"] = {hash_caller("ann"): 40.0}
    await bench.look()
    assert bench.of("glm") == EngineHealth(queue_age_s=40, was_overloaded=True)


async def test_a_watch_that_has_stopped_looking_knows_nothing(bench: Bench) -> None:
    bench.monitor.waits_s["glm"] = 61.0
    await bench.look(owl2=400)
    bench.now += 5

    assert (bench.of("glm").queue_age_s, bench.of("owl2").queue_age_s) == (0.0, 0.0)


async def test_glm_is_known_to_be_overloaded_while_redis_is_away(bench: Bench) -> None:
    bench.is_away, bench.monitor.waits_s = True, {"glm": 61.0, "owl2": 0.0}
    with pytest.raises(QueueUnavailableError):
        await bench.watch.look()

    assert bench.of("glm") == EngineHealth(queue_age_s=61, was_overloaded=True)


async def test_without_a_limit_nothing_is_overloaded(bench: Bench) -> None:
    bench.limits = QueueLimits()
    await bench.look(owl2=4000)

    assert bench.of("owl2") == EngineHealth(queue_age_s=4000)


def test_only_glm_answers_by_a_schema_and_only_owl2_takes_pictures_in_groups(bench: Bench) -> None:
    images = tuple(ImagePart(b"", "image/png", str(number)) for number in range(3))
    schema = replace(CALL, sampling=SamplingParams(json_schema={"type": "object"}))
    many = replace(CALL, messages=(Message("user", images),))

    assert [bench.of(name, schema).can_take_over for name in ("glm", "owl2")] == [True, False]
    assert [bench.of(name, many).can_take_over for name in ("glm", "owl2")] == [False, True]

"""Another policy, estimated from the log of the one in use."""

from __future__ import annotations

import random
import zlib
from dataclasses import replace

import pytest

from router.loop.stats.records import Exchange, Route
from router.loop.stats.replay import replay
from tests.support.logs import RIGHT, WRONG, exchange, simulated_log


def _deep(_exchange: Exchange) -> Route:
    return "deep"


def _fast(_exchange: Exchange) -> Route:
    return "fast"


def test_sending_all_deep_is_estimated_from_the_second_looks() -> None:
    generator = random.Random(5)
    num_held = 0
    for _ in range(8):
        found = replay(simulated_log(generator, 0.03, num_documents=150), _deep)
        assert found.gain is not None
        num_held += found.gain.low <= 0.03 <= found.gain.high

    assert num_held >= 6
    assert (found.deep_before, found.deep_after) == (0.0, 1.0)
    assert found.seconds == pytest.approx(4.0)


def test_answering_all_fast_is_known_exactly_where_there_are_drafts() -> None:
    # Given that the deeper answer is better for a third of the questions that went deep, half of all
    deep = [exchange(f"d{n}", route="deep", fast=WRONG if n % 3 == 0 else RIGHT, deep=RIGHT) for n in range(60)]
    fast = [exchange(f"f{n}") for n in range(60)]

    found = replay(deep + fast, _fast)

    assert found.gain is not None
    assert found.gain.estimate == pytest.approx(-20 / 120)
    assert found.gain.high < 0
    assert (found.num_changed, found.num_known, found.num_hidden) == (60, 60, 0)
    assert found.seconds == pytest.approx(-2.0)


def test_the_same_decisions_change_nothing() -> None:
    found = replay([exchange(str(n)) for n in range(30)], _fast)

    assert (found.why, found.gain, found.num_changed) == ("same", None, 0)


def test_what_never_had_a_chance_is_not_guessed() -> None:
    seen = [exchange(f"s{n}", deep=RIGHT, probability=0.5) for n in range(60)]
    hidden = [exchange(f"h{n}", probability=0.0) for n in range(10)]

    found = replay(seen + hidden, _deep)

    assert (found.why, found.gain, found.num_hidden) == ("hidden", None, 10)


def test_a_handful_of_second_looks_is_not_enough() -> None:
    found = replay([exchange(str(n), deep=RIGHT if n < 19 else None, probability=0.01) for n in range(500)], _deep)

    assert (found.why, found.gain, found.num_known) == ("few", None, 19)


def test_second_looks_that_were_lost_count_as_not_known() -> None:
    # Given that the engine was away for every other second look, and that one document in four gains: those of the
    # half whose mean comes from the three that do not
    halves: dict[int, list[str]] = {0: [], 1: []}
    for number in range(2_000):
        halves[zlib.crc32(str(number).encode()) & 1].append(str(number))
    exchanges = []
    for fast, names in ((WRONG, halves[0][:100]), (RIGHT, halves[1][:300])):
        for place, name in enumerate(names):
            one = exchange(name, fast=fast, deep=RIGHT if place % 2 else None, probability=1.0)
            exchanges.append(replace(one, is_drawn=True))

    found = replay(exchanges, _deep)

    assert found.gain is not None
    assert found.gain.estimate == pytest.approx(0.25)


def test_no_log_is_no_answer() -> None:
    assert replay([], _deep).why == "same"

"""What the runs of a unit say again is not sent again."""

from __future__ import annotations

import pytest

from router.api.said import Runs, Said
from router.jobs.job import Event


def delta(text: str, *, unit: str = "deep", epoch: int = 1) -> Event:
    return Event("delta", unit, text=text, epoch=epoch)


def test_each_run_of_each_unit_is_told_apart() -> None:
    runs = Runs()
    runs.add(delta("red "))
    runs.add(delta("green", unit="draft"))
    runs.add(delta("blue", epoch=2))

    assert runs.add(delta("square")).text == "red square"


@pytest.mark.parametrize(
    ("sent", "again", "rest"),
    [("", "red", "red"), ("red", "re", ""), ("red", "red", ""), ("red", "red square", " square")],
    ids=["the first words", "behind", "as far", "beyond"],
)
def test_a_run_that_repeats_what_was_sent_adds_what_is_new(sent: str, again: str, rest: str) -> None:
    said = Runs().add(delta(again, epoch=2))

    assert not said.differs_from(Said(sent))
    assert said.after(Said(sent)).text == rest


@pytest.mark.parametrize(("sent", "again"), [("red", "blue"), ("red", "rot"), ("red square", "red circle, and more")])
def test_a_run_that_says_something_else_is_noticed(sent: str, again: str) -> None:
    assert Runs().add(delta(again, epoch=2)).differs_from(Said(sent))

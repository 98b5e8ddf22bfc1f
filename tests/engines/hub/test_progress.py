"""Bytes, rate and time left, as they are told."""

import pytest

from engines.hub.progress import Progress, Watcher, in_words
from engines.hub.words import WORDS, Note


def test_rate_and_time_left_are_those_of_late_and_told_only_so_often():
    now = 0.0
    told: list[Progress] = []
    watcher = Watcher(told.append, lambda _: None, every_s=10.0, clock=lambda: now)
    watcher.begin(100_000_000_000, 4_000_000_000)
    # Fast at first, then at a tenth of it
    for second in range(1, 101):
        now = float(second)
        watcher.moved(100_000_000 if second <= 50 else 10_000_000)
    assert len(told) == 10
    assert str(told[0]) == "5.00 of 100.00 GB, 100.0 MB/s, 16 min left"
    assert told[-1].rate == pytest.approx(10e6, rel=0.3)
    assert told[-1].done_bytes == 4_000_000_000 + 50 * 110_000_000
    # And at the end, whatever the time is
    watcher.end()
    assert len(told) == 11


def test_what_is_thrown_away_is_no_rate_below_zero():
    now = 0.0
    told: list[Progress] = []
    watcher = Watcher(told.append, lambda _: None, every_s=0.0, clock=lambda: now)
    watcher.begin(1000, 500)
    now = 1.0
    watcher.moved(-500)
    assert (told[-1].rate, told[-1].left_s) == (0.0, None)
    assert str(told[-1]) == "0.00 of 0.00 GB, 0.0 MB/s"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(5, "5 s"), (89, "89 s"), (90, "2 min"), (3500, "58 min"), (3599, "1 h 00 min"), (11100, "3 h 05 min")],
)
def test_times_are_in_words(seconds, words):
    assert in_words(seconds) == words


def test_a_note_may_hold_another():
    inner = Note("away", endpoint="https://hub", reason="refused")
    assert str(Note("retry", why=inner, delay_s=2.0)) == "https://hub cannot be reached (refused); trying again in 2 s"
    assert all("\n" not in words for words in WORDS.values())

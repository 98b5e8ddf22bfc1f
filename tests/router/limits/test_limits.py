"""Limits as they are written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.limits.limits import MAX_LIMIT, UNLIMITED, Limits

NUMBER = st.none() | st.integers(UNLIMITED, MAX_LIMIT)


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("", Limits()),
        ("requests=60/min", Limits(requests_per_minute=60)),
        (" tokens = 100k / min ,concurrent=8,", Limits(tokens_per_minute=100_000, max_requests=8)),
        ("tokens=2M,pictures=30/minute", Limits(tokens_per_minute=2_000_000, pictures_per_minute=30)),
        ("megapixels=500/m,jobs=1K", Limits(megapixels_per_minute=500, max_unfinished_jobs=1000)),
        ("requests=none,tokens=NONE", Limits(requests_per_minute=UNLIMITED, tokens_per_minute=UNLIMITED)),
    ],
)
def test_what_is_written_is_read(text: str, limits: Limits) -> None:
    assert Limits.parse(text) == limits


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("60", "NAME=NUMBER"),
        ("request=60", "out of requests, pictures"),
        ("requests=", "requests=100k/min, or requests=none"),
        ("requests=-1", "requests=100k/min"),
        ("requests=1.5", "requests=100k/min"),
        ("requests=60/s", "requests=100k/min"),
        ("concurrent=8/min", "concurrent=8, or"),
        ("requests=0", "requests=none lifts it"),
        ("tokens=101M", "1 to 100000000"),
        ("megapixels=1M", "1 to 100000;"),
        ("requests=1,requests=2", "twice"),
    ],
)
def test_what_is_no_limit_is_refused_and_told_what_is(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Limits.parse(text)


@given(st.builds(Limits, NUMBER, NUMBER, st.none() | st.integers(0, MAX_LIMIT // 1000), NUMBER, NUMBER, NUMBER))
def test_limits_are_written_as_they_are_read(limits: Limits) -> None:
    assert Limits.parse(str(limits)) == limits


def test_an_owner_keeps_what_is_said_of_it_and_takes_the_rest_from_the_default() -> None:
    default = Limits(requests_per_minute=60, tokens_per_minute=1000)
    own = Limits(tokens_per_minute=5, requests_per_minute=UNLIMITED, max_requests=2)

    assert own.over(default) == own
    assert Limits(max_requests=2).over(default) == Limits(60, None, None, 1000, 2)
    assert Limits().over(default) == default

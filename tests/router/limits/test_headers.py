"""What an answer tells of limits."""

from __future__ import annotations

import pytest

from router.limits.headers import to_duration, to_headers
from router.limits.limits import Limits
from router.limits.meters import Standing, to_subject


@pytest.mark.parametrize(
    ("microseconds", "text"),
    [
        (0, "0ms"),
        (1, "1ms"),
        (20_000, "20ms"),
        (999_001, "1s"),
        (1_000_000, "1s"),
        (8_640_000, "8.64s"),
        (59_999_999, "1m0s"),
        (86_400_500, "1m26.401s"),
        (360_000_000, "6m0s"),
    ],
)
def test_times_are_written_as_openai_writes_them(microseconds: int, text: str) -> None:
    assert to_duration(microseconds) == text


def test_of_several_limits_the_tightest_is_told() -> None:
    owner = to_subject("owner", "a", Limits(requests_per_minute=100, megapixels_per_minute=2))
    key = to_subject("key", "k", Limits(requests_per_minute=10))

    headers = to_headers(
        [owner, key],
        [Standing((50, None, 1500, None), (9, None, 7, None)), Standing((6, None, None, None), (8, None, None, None))],
    )

    said = {name.decode().removeprefix("x-ratelimit-"): value.decode() for name, value in headers}
    assert said == {
        "limit-requests": "100",
        "remaining-requests": "50",
        "reset-requests": "1ms",
        "limit-megapixels": "2",
        "remaining-megapixels": "1",
        "reset-megapixels": "1ms",
    }

"""Files of weights: what is read, what is refused, and that the score follows them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from policies import multi_hop_weights
from policies.complexity import score
from policies.multi_hop_weights import WeightsError, parse, shipped, to_text

TEXT = "戴红帽子的人左边的杯子是什么颜色？"


def _changed(**values: Any) -> str:
    stored = json.loads(to_text(shipped()))
    stored["zh"] |= values
    return json.dumps(stored)


def test_the_score_follows_the_weights_in_use() -> None:
    before, name = score(TEXT, "zh"), multi_hop_weights.fingerprint()
    multi_hop_weights.use(parse(_changed(bias=-20.0), shipped()))
    try:
        assert score(TEXT, "zh") < 0.01 < before
        assert multi_hop_weights.fingerprint() != name
    finally:
        multi_hop_weights.use(None)

    assert (score(TEXT, "zh"), multi_hop_weights.fingerprint()) == (before, name)


def test_what_is_written_is_read_again() -> None:
    assert parse(to_text(shipped(), "a note"), shipped()) == shipped()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("no JSON", "no file of multi-hop weights"),
        ("{}", "no file of multi-hop weights"),
        (_changed(cues={}), "these cues are missing"),
        (_changed(length=-1.0), "none but the bias below 0"),
        (_changed(length="x"), "no file of multi-hop weights"),
        (_changed(bias=float("nan")), "must be a number"),
    ],
)
def test_a_file_that_would_score_wrongly_is_refused(text: str, says: str) -> None:
    with pytest.raises(WeightsError, match=says):
        parse(text, shipped())

"""What a call is charged before it is begun."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from PIL import Image

from engines.base import EngineInfo, ImagePart, Message, SamplingParams, TextPart
from engines.token_costs import TokenCosts
from policies.features import Hints
from router.call import Call
from router.costs import to_cost, tokens_of_text
from router.jobs.job import BranchPlan
from router.limits.meters import Cost
from tests.support.jobs import make_spec

GLM = EngineInfo("glm", "m", "full", 65_536, 16, costs=TokenCosts())
OWL2 = EngineInfo("owl2", "m", "full", 2048, 4, costs=TokenCosts(512, 512, tokens_per_picture=65))
INFOS = {"glm": GLM, "owl2": OWL2}
FAST = (BranchPlan("fast", "glm"),)
PAIR = (BranchPlan("draft", "glm"), BranchPlan("deep", "owl2"))
AROUND = 24 + 6


def picture(width: int, height: int) -> ImagePart:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, "PNG")
    return ImagePart(buffer.getvalue(), "image/png", "0")


def make_call(*parts: str | ImagePart, max_tokens: int | None = None, **more: object) -> Call:
    turn = Message("user", tuple(TextPart(part) if isinstance(part, str) else part for part in parts))
    return Call((turn,), SamplingParams(max_tokens=max_tokens), Hints(), "glowl", "local", **more)  # type: ignore[arg-type]


def cost(call: Call, *branches: BranchPlan, strategy: str = "deep") -> Cost:
    spec = make_spec(branches=branches, strategy=strategy, sampling=call.sampling, batch_id=call.batch_id)
    return to_cost(call.messages, spec, INFOS, counts_tokens=True)


@pytest.mark.parametrize(
    ("text", "engine", "num_tokens"),
    [
        ("", "glm", 0),
        ("abc", "glm", 1),
        ("abcd", "owl2", 2),
        ("你好", "glm", 2),
        ("你好", "owl2", 4),
        ("你好abc", "glm", 3),
    ],
)
def test_text_is_counted_by_its_length(text: str, engine: str, num_tokens: int) -> None:
    assert tokens_of_text(text, engine) == num_tokens


def test_a_direct_answer_costs_what_it_reads_and_may_write() -> None:
    assert cost(make_call("你好", max_tokens=50), *FAST) == Cost(1, 0, 0, AROUND + 2 + 50)
    assert cost(make_call("你好"), *FAST).tokens == AROUND + 2 + 1024
    assert cost(make_call("你好"), BranchPlan("fast", "glm", enable_thinking=True)).tokens == AROUND + 2 + 4096


def test_pictures_cost_what_each_engine_makes_of_them() -> None:
    call = make_call("abc", picture(280, 140), picture(1, 1), max_tokens=10)

    assert cost(call, *FAST) == Cost(1, 2, 40 + 1, AROUND + 1 + (10 * 5 + 9) + 10)
    assert cost(call, *PAIR).tokens == (AROUND + 1 + 59 + 10) + (AROUND + 1 + 130 + 10)


def test_who_writes_the_final_answer_reads_the_others() -> None:
    call = make_call("abc", max_tokens=10)
    alone = AROUND + 1

    assert cost(call, *PAIR, strategy="compose").tokens == 2 * (alone + 10) + (alone + 20 + 10)


def test_groups_of_pictures_cost_each_its_own() -> None:
    call = make_call("abc", *[picture(28, 28)] * 6, max_tokens=10)
    groups = [BranchPlan("deep.1", "owl2", pictures=(1, 4)), BranchPlan("deep.2", "owl2", pictures=(5, 6))]
    alone = AROUND + 1

    found = cost(call, *groups).tokens

    assert found == (alone + 4 * 65 + 10) + (alone + 2 * 65 + 10) + (alone + 20 + 10)


def test_no_more_is_reserved_than_the_context_holds() -> None:
    assert cost(make_call("abc", max_tokens=100_000), BranchPlan("deep", "owl2")).tokens == 2048
    assert cost(make_call("你" * 5000, max_tokens=100), BranchPlan("deep", "owl2")).tokens == AROUND + 10_000 + 1


def test_of_an_engine_that_says_nothing_the_published_numbers_are_taken() -> None:
    call = make_call(picture(28, 28))
    spec = make_spec(branches=PAIR, sampling=SamplingParams(max_tokens=5))
    silent = {"glm": replace(GLM, costs=None), "owl2": None}

    assert to_cost(call.messages, spec, silent, counts_tokens=True).tokens == AROUND + 9 + 5 + AROUND + 65 + 5
    assert to_cost(call.messages, spec, silent, counts_tokens=False).tokens == 0


def test_a_line_of_a_batch_is_no_request() -> None:
    assert cost(make_call("abc", batch_id="batch_1"), *FAST).requests == 0

"""What is said and done when an engine fails: refusals with their field, notes with what happened."""

from __future__ import annotations

import re

import pytest

import router.work.asking  # noqa: F401  has kinds of its own
from engines.base import (
    EngineError,
    EngineOverloadedError,
    EngineTimeoutError,
    EngineUnavailableError,
    GenerationFailedError,
    InvalidImageError,
    Message,
    SamplingParams,
    TextPart,
)
from policies.decision import EngineHealth, Health
from policies.features import Hints
from policies.rules import load_preset
from router.call import Call
from router.failover import to_router_error, with_failure
from router.routing import Router


def kinds_of(kind: type[EngineError]) -> list[type[EngineError]]:
    """An error and all of its kind that the product has."""
    below = [each for each in kind.__subclasses__() if each.__module__.startswith(("engines.", "router."))]
    return [kind, *(each for one in below for each in kinds_of(one))]


@pytest.mark.parametrize("code", ["image_parse_error", "image_too_large", "invalid_image"])
def test_what_an_engine_finds_wrong_with_a_picture_is_told_in_both_languages_and_by_its_field(code: str) -> None:
    found = InvalidImageError("A picture of 4020x20 pixels is too long.", code=code, param="messages[0].content[0]")
    told = to_router_error(found)
    assert (told.status, told.code, told.param, told.message) == (400, code, found.param, found.message)
    assert "图片" in told.message_zh


@pytest.mark.parametrize("kind", kinds_of(EngineError), ids=lambda kind: kind.__name__)
def test_whatever_an_engine_refuses_is_told_in_both_languages(kind: type[EngineError]) -> None:
    told = to_router_error(kind("It says why."))

    assert told.message == "It says why."
    assert re.search("[\u4e00-\u9fff]{4,}", told.message_zh)


@pytest.mark.parametrize(
    ("error", "note", "note_zh"),
    [
        (GenerationFailedError("no chunk"), "glm gave no answer that can be read", "没有给出可读的回答"),
        (EngineTimeoutError("nothing"), "glm did not answer in time", "未能及时作答"),
        (EngineUnavailableError("gone"), "glm is down", "glm 不可用"),
        (EngineOverloadedError("full"), "glm is full", "glm 已满负荷"),
    ],
)
def test_a_note_says_what_glm_did_rather_than_that_it_is_down(error: EngineError, note: str, note_zh: str) -> None:
    router = Router(lambda: load_preset("seed"))
    turn = Message("user", (TextPart("你好"),))
    call = Call(messages=(turn,), sampling=SamplingParams(), hints=Hints(), model="glowl", owner="a")
    health = Health(engines={"glm": EngineHealth(is_up=False), "owl2": EngineHealth()})

    decision = with_failure(router.route(call, health), error).decision

    assert note in " ".join(decision.degraded)
    assert note_zh in " ".join(decision.degraded_zh)

"""When two requests are the same question: a table of what counts, and of what doesn't."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from engines.base import ImagePart, Message, SamplingParams, TextPart
from policies.features import Hints
from policies.rules import load_preset
from router.cache.keys import CacheKey, RulesRevision, to_key
from router.call import CacheUse, Call
from router.output_format import OutputFormat
from tests.support.pictures import png

PICTURE = png("red")
CALL = Call(
    messages=(Message("user", (PICTURE, TextPart("What is it?"))),),
    sampling=SamplingParams(),
    hints=Hints(),
    model="glowl",
    owner="alice",
)


def key_of(call: Call, revisions: dict[str, str] | None = None, rules: str = "r") -> CacheKey:
    key = to_key(call, revisions or {"glm": "m@1"}, rules)
    assert key is not None
    return key


SAME: dict[str, dict[str, Any]] = {
    "metadata": {"metadata": {"a": "b"}},
    "streaming": {"is_streamed": True},
    "background": {"is_background": True},
    "a webhook": {"webhook_url": "https://example.com"},
    "its id": {"response_id": "resp_1", "keep_s": 9},
    "another name of the same model": {"model": "auto"},
    "who carries the draft": {"draft_as": "none"},
    "what is echoed": {"echo": {"user": "u"}},
    "what is stored": {"is_stored": False, "cache": CacheUse(reads=True)},
    "the time of its pictures": {"fetch_ms": 3.0},
}
OTHER: dict[str, dict[str, Any]] = {
    "another owner": {"owner": "bob"},
    "another question": {"messages": (Message("user", (PICTURE, TextPart("What was it?"))),)},
    "the picture behind the text": {"messages": (Message("user", (TextPart("What is it?"), PICTURE)),)},
    "another role": {"messages": (Message("system", (PICTURE, TextPart("What is it?"))),)},
    "a picture more": {"messages": (Message("user", (PICTURE, PICTURE, TextPart("What is it?"))),)},
    "a picture of another size": {"messages": (Message("user", (png("red", 9), TextPart("What is it?"))),)},
    "a seed": {"sampling": SamplingParams(seed=1)},
    "fewer tokens": {"sampling": SamplingParams(max_tokens=5)},
    "a stop": {"sampling": SamplingParams(stop=("x",))},
    "log probabilities": {"sampling": SamplingParams(top_logprobs=0)},
    "a schema": {"sampling": SamplingParams(json_schema="{}")},
    "a route": {"hints": Hints(route="deep")},
    "an engine": {"hints": Hints(engine="glm")},
    "a deadline": {"hints": Hints(deadline_ms=5)},
    "a tier": {"hints": Hints(service_tier="priority")},
    "a merge": {"strategy": "compose"},
    "a dial": {"dial": 0.5},
    "an adapter": {"adapter": "tags"},
    "thinking": {"wants_thinking": True},
    "a format": {"output_format": OutputFormat("json_object")},
}


@pytest.mark.parametrize("name", SAME)
def test_what_changes_no_answer_is_no_part_of_the_key(name: str) -> None:
    assert key_of(replace(CALL, **SAME[name])) == key_of(CALL)


@pytest.mark.parametrize("name", OTHER)
def test_what_may_change_the_answer_is_part_of_the_key(name: str) -> None:
    assert key_of(replace(CALL, **OTHER[name])).question != key_of(CALL).question


def test_other_weights_and_other_rules_are_other_questions() -> None:
    assert key_of(CALL, {"glm": "m@2"}).question != key_of(CALL).question
    assert key_of(CALL, rules="s").question != key_of(CALL).question


def test_another_release_finds_nothing_old(monkeypatch: pytest.MonkeyPatch) -> None:
    old = key_of(CALL)
    monkeypatch.setattr("router.cache.keys._RELEASE", "99.0")
    assert key_of(CALL).question != old.question


def test_pictures_of_one_size_are_the_same_question_with_other_names_for_the_answers() -> None:
    red, blue = key_of(CALL), key_of(with_picture(png("blue")))

    assert red.question == blue.question
    assert red.sent != blue.sent
    assert red.name(["a"]) != blue.name(["b"])
    assert red.name(["a"]) == blue.name(["a"])


def test_the_order_of_pictures_counts() -> None:
    pair = key_of(with_picture(png("red"), png("blue")))

    assert pair.sent != key_of(with_picture(png("blue"), png("red"))).sent
    assert pair.name(["a", "b"]) != pair.name(["b", "a"])


@pytest.mark.parametrize(
    ("sampling", "is_repeatable"),
    [
        (SamplingParams(), True),
        (SamplingParams(temperature=0.7), False),
        (SamplingParams(temperature=0.7, seed=0), True),
    ],
)
def test_only_greedy_and_seeded_answers_are_the_same_again(sampling: SamplingParams, is_repeatable: bool) -> None:
    assert (to_key(replace(CALL, sampling=sampling), {}, "") is not None) == is_repeatable


def test_bytes_that_are_no_picture_have_no_key() -> None:
    assert to_key(with_picture(ImagePart(b"GIF89a", "image/gif", "0")), {}, "") is None


def test_the_revision_of_the_rules_is_that_of_their_content() -> None:
    rules, revision = load_preset("seed"), RulesRevision()

    assert revision.of(rules) == RulesRevision().of(load_preset("seed"))
    assert revision.of(rules.turned(0.9)) != revision.of(rules)


def with_picture(*pictures: ImagePart) -> Call:
    return replace(CALL, messages=(Message("user", (*pictures, TextPart("What is it?"))),))

"""What of a call and its surroundings reaches the policy, and which branches a decision becomes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engines.base import ImagePart, Message, SamplingParams, TextPart
from policies.decide import decide
from policies.decision import EngineHealth, Health
from policies.features import Hints
from policies.rules import Rules, load_preset, load_rules
from router import routing
from router.bootstrap import load_rules_source
from router.call import Call
from router.output_format import OutputFormat
from router.questions import CONTINUE
from router.routing import Router, has_fields, plan_branches, plan_merge

UP = Health()


def turn(text: str, *pictures: str, role: Any = "user") -> Message:
    images = [ImagePart(name.encode(), "image/png", name) for name in pictures]
    return Message(role, (*images, TextPart(text)))


def call(*messages: Message, **changes: Any) -> Call:
    return replace(Call(messages, SamplingParams(), Hints(), "glowl", "local"), **changes)


def router(rules: Rules | None = None) -> Router:
    chosen = rules or load_preset("seed")
    return Router(lambda: chosen)


def seed_with(tmp_path: Path, extra: str) -> Rules:
    """The default preset with a few lines more."""
    shipped = Path(__file__).parents[2] / "policies" / "presets" / "seed.yaml"
    path = tmp_path / "rules.yaml"
    path.write_text(
        shipped.read_text(encoding="utf-8").replace("\nrules:", f"\n{extra}\n\nrules:", 1), encoding="utf-8"
    )
    return load_rules(path)


@pytest.mark.parametrize(
    ("preset", "text", "changes", "branches", "strategy"),
    [
        ("seed", "图里有什么？", {}, [("fast", "glm", False)], "single"),
        ("seed", "What is it?", {}, [("draft", "glm", False), ("deep", "owl2", False)], "deep"),
        ("seed", "What is it?", {"hints": Hints(engine="owl2")}, [("deep", "owl2", False)], "single"),
        ("seed", "What is it?", {"hints": Hints(engine="glm")}, [("fast", "glm", False)], "single"),
        ("glm-only", "What is it?", {}, [("fast", "glm", False)], "single"),
        ("glm-thinking", "What is it?", {}, [("draft", "glm", False), ("thinking", "glm", True)], "deep"),
        (
            "panel",
            "What is it?",
            {},
            [("draft", "glm", False), ("thinking", "glm", True), ("deep", "owl2", False)],
            "deep",
        ),
    ],
)
def test_every_preset_asks_whom_it_promises(
    preset: str, text: str, changes: dict[str, Any], branches: list[tuple[str, str, bool]], strategy: str
) -> None:
    asked = call(turn(text), **changes)
    routed = router(load_preset(preset)).route(asked, UP)

    planned = plan_branches(asked, routed.decision, UP)

    assert [(branch.name, branch.engine, branch.enable_thinking) for branch in planned] == branches
    assert plan_merge(planned, None, routed.features.language) == strategy


def test_a_deep_job_has_no_draft_while_glm_is_down() -> None:
    health = Health(engines={"glm": EngineHealth(is_up=False)})
    asked = call(turn("What is it?"))

    planned = plan_branches(asked, router().route(asked, health).decision, health)

    assert [branch.name for branch in planned] == ["deep"]


def test_a_chinese_job_is_composed_unless_the_caller_says_otherwise() -> None:
    asked = call(turn("哪张更红？", "a", "b"))
    planned = plan_branches(asked, router().route(asked, UP).decision, UP)

    assert plan_merge(planned, None, "zh") == "compose"
    assert plan_merge(planned, "deep", "zh") == "deep"


@pytest.mark.parametrize(
    ("wanted", "names_fields", "strategy"),
    [(None, True, "fields"), (None, False, "compose"), ("compose", True, "compose"), ("fields", False, "fields")],
)
def test_json_is_merged_by_field_where_a_schema_names_them(
    wanted: str | None, names_fields: bool, strategy: str
) -> None:
    planned = plan_branches(call(turn("x")), router().route(call(turn("What is it?")), UP).decision, UP)

    assert plan_merge(planned, wanted, "en", has_schema=True, has_fields=names_fields) == strategy
    assert plan_merge(planned[:1], wanted, "en", has_schema=True, has_fields=names_fields) == "single"


@pytest.mark.parametrize(
    ("kind", "schema", "expected"),
    [
        ("json_schema", '{"type":"object"}', True),
        ("json_schema", '{"type":"string","pattern":"^a"}', False),
        ("json_object", '{"type":"object"}', False),
    ],
)
def test_a_schema_has_fields_if_answers_can_be_held_against_it(kind: Any, schema: str, expected: bool) -> None:
    asked = call(turn("x"), sampling=SamplingParams(json_schema=schema), output_format=OutputFormat(kind, "a"))

    assert has_fields(asked) is expected
    assert not has_fields(call(turn("x")))


TEN = tuple(f"p{number}" for number in range(10))
GROUPS = ["deep-1", "deep-2", "deep-3"]


@pytest.mark.parametrize(
    ("preset", "limits", "changes", "names"),
    [
        ("seed", {"glm": 16, "owl2": 16}, {}, ["draft", "deep"]),
        ("seed", {"glm": 16, "owl2": 4}, {}, ["draft", *GROUPS]),
        ("seed", {"glm": None, "owl2": None}, {}, ["draft", *GROUPS]),
        ("seed", {"glm": 9, "owl2": 4}, {}, GROUPS),
        ("seed", {"glm": 16, "owl2": 4}, {"hints": Hints(engine="owl2")}, GROUPS),
        ("panel", {"glm": 16, "owl2": 4}, {}, ["draft", "thinking", *GROUPS]),
        ("panel", {"glm": 9, "owl2": 4}, {}, GROUPS),
        ("glm-thinking", {"glm": 16, "owl2": 4}, {}, ["draft", "thinking"]),
    ],
)
def test_owl2_has_as_many_branches_as_its_pictures_take_and_glm_only_those_it_sees_all_pictures_in(
    preset: str, limits: dict[str, int | None], changes: dict[str, Any], names: list[str]
) -> None:
    asked = call(turn("Which is the oldest?", *TEN), **changes)
    decision = router(load_preset(preset)).route(asked, UP).decision

    assert [branch.name for branch in plan_branches(asked, decision, UP, limits)] == names


@pytest.mark.parametrize(
    ("wanted", "language", "options", "strategy"),
    [
        (None, "en", {}, "deep"),
        (None, "zh", {}, "compose"),
        ("compose", "en", {}, "compose"),
        ("deep", "zh", {}, "deep"),
        ("fields", "en", {"has_schema": True}, "compose"),
        (None, "en", {"has_schema": True, "has_fields": True}, "compose"),
        ("deep", "en", {"has_schema": True}, "compose"),
        (None, "zh", {"is_alone": True}, "deep"),
        ("compose", "zh", {"is_alone": True}, "deep"),
    ],
)
def test_what_groups_found_is_composed_by_glm_unless_owl2_alone_was_asked(
    wanted: str | None, language: str, options: dict[str, bool], strategy: str
) -> None:
    branches = plan_branches(call(turn("x", *TEN)), router().route(call(turn("x", *TEN)), UP).decision, UP, {"glm": 4})

    assert [branch.name for branch in branches] == GROUPS
    assert plan_merge(branches, wanted, language, **options) == strategy


def test_the_dial_moves_what_counts_as_hard() -> None:
    text = "图中左边第二个人手里拿的东西比右边的贵多少？"
    routes = {dial: router().route(call(turn(text, "a"), dial=dial), UP).decision.route for dial in (0.0, 1.0)}

    assert routes == {0.0: "fast", 1.0: "deep"}


@pytest.mark.parametrize("ours", CONTINUE.values())
@pytest.mark.parametrize(("asked", "route"), [("图里有什么？", "fast"), ("What is it?", "deep")])
def test_an_answer_that_is_continued_is_routed_as_its_question(ours: str, asked: str, route: str) -> None:
    # Given an answer that a client began, and our words behind it that ask to go on
    chat = [turn("hello"), turn("Hi.", role="assistant"), turn(asked, "a"), turn('{"what": ', role="assistant")]

    routed = router().route(call(*chat, turn(ours)), UP)

    # Then the question is what the user asked, with its picture, and nothing of ours
    assert routed.decision.route == route
    assert routed.features == router().route(call(*chat[:3]), UP).features


def test_a_sticky_conversation_keeps_its_route_until_the_pictures_change(tmp_path: Path) -> None:
    sticky = router(seed_with(tmp_path, "sticky: true"))
    chat = [turn("图里有什么？", "a"), turn("一只猫", role="assistant")]

    same = sticky.route(call(*chat, turn("And what is it doing?")), UP).decision
    changed = sticky.route(call(*chat, turn("And what is this doing?", "b")), UP).decision
    loose = router().route(call(*chat, turn("And what is it doing?")), UP).decision

    assert (same.route, changed.route, loose.route) == ("fast", "deep", "deep")


def test_a_long_sticky_conversation_keeps_its_first_route_and_decides_few_turns_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decided: list[object] = []
    monkeypatch.setattr(routing, "decide", lambda *args: decided.append(args) or decide(*args))
    sticky = router(seed_with(tmp_path, "sticky: true"))
    chat = [turn("图里有什么？", "a"), turn("一只猫", role="assistant")]
    more = [turn("And what is it doing?"), turn("It sleeps.", role="assistant")] * 100

    assert sticky.route(call(*chat, *more, turn("And what is it doing?")), UP).decision.route == "fast"
    assert len(decided) == routing._MAX_DECIDED_AGAIN + 1


def test_a_quota_bounds_the_share_of_an_owners_jobs_and_nobody_elses(tmp_path: Path) -> None:
    bounded = router(seed_with(tmp_path, "quotas: {deep: 0.25}"))
    english = call(turn("What is it?"))

    routes = []
    for _ in range(12):
        decision = bounded.route(english, UP).decision
        bounded.count(english, decision)
        routes.append(decision.route)

    assert routes[0] == "deep"
    assert routes.count("deep") == 5
    assert bounded.route(replace(english, owner="another"), UP).decision.route == "deep"


def test_a_rules_file_counts_as_soon_as_it_is_good(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    shipped = Path(__file__).parents[2] / "policies" / "presets"
    path.write_text((shipped / "seed.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    current, file = load_rules_source(str(path))
    live = Router(current)
    english = call(turn("What is it?"))
    assert file is not None
    assert live.route(english, UP).decision.route == "deep"

    path.write_text("rules: [", encoding="utf-8")
    assert live.route(english, UP).decision.route == "deep"
    assert file.error is not None

    path.write_text((shipped / "glm-only.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    assert live.route(english, UP).decision.route == "fast"
    assert file.error is None

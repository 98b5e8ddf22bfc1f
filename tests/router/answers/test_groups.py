"""Many pictures: how they are split, what each group is told, and what becomes of the findings."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.base import Box, SamplingParams, Usage
from policies.text import Text
from router.answers import groups, merge
from router.api.objects import to_hybrid
from router.jobs.job import MERGE, BranchPlan, Job, JobSpec, Unit
from router.jobs.results import FinalAnswer, UnitResult
from router.work import overdue
from tests.support.jobs import make_spec

BROKEN = {"code": "invalid_image", "message": "cut off", "param": None, "status": 400, "retryable": False}
DRAFT = BranchPlan("draft", "glm")
THREE = (
    BranchPlan("deep-1", "owl2", pictures=(1, 4)),
    BranchPlan("deep-2", "owl2", pictures=(5, 7)),
    BranchPlan("deep-3", "owl2", pictures=(8, 10)),
)


def text(value: str) -> dict[str, str]:
    return {"type": "text", "text": value}


def picture(number: int) -> dict[str, str]:
    return {"type": "image", "sha256": f"p{number}", "media_type": "image/png"}


def user(*parts: dict[str, str]) -> dict[str, Any]:
    return {"role": "user", "parts": list(parts)}


def make(question: str = "How many owls?", **changes: Any) -> JobSpec:
    turn = user(*(picture(number) for number in range(1, 11)), text(question))
    return make_spec(**{"messages": [turn], "branches": (DRAFT, *THREE), **changes})


def job(spec: JobSpec | None = None, **said: str | None) -> Job:
    """A job whose branches said what is given, or failed; those not named say their name."""
    spec = spec or make()
    units = {}
    for branch in spec.branches:
        answer = said.get(branch.name.replace("-", "_"), f"{branch.name} said")
        error = None if answer else BROKEN
        result = UnitResult(text=answer or "", model=branch.engine, usage=Usage(10, 2), error=error)
        units[branch.name] = Unit(branch.name, "completed" if answer else "failed", 1, 0, result)
    return Job(spec, "in_progress", units)


def shown(spec: JobSpec, branch: BranchPlan) -> list[list[str]]:
    """Each turn's parts, pictures by their names."""
    turns = groups.shown_to(spec, branch)
    return [[part.get("sha256") or part["text"] for part in turn["parts"]] for turn in turns]


@pytest.mark.parametrize(
    ("number", "most", "spans"),
    [
        (0, 4, ()),
        (1, 4, ((1, 1),)),
        (4, 4, ((1, 4),)),
        (5, 4, ((1, 3), (4, 5))),
        (8, 4, ((1, 4), (5, 8))),
        (10, 4, ((1, 4), (5, 7), (8, 10))),
        (3, 1, ((1, 1), (2, 2), (3, 3))),
    ],
)
def test_pictures_are_split_into_as_few_groups_as_hold_them(
    number: int, most: int, spans: tuple[tuple[int, int], ...]
) -> None:
    assert groups.split(number, most) == spans


@settings(derandomize=True, deadline=None, max_examples=200)
@given(number=st.integers(0, 200), most=st.integers(1, 20))
def test_every_picture_is_in_one_group_in_order_and_the_sizes_differ_by_one_at_most(number: int, most: int) -> None:
    spans = groups.split(number, most)

    sizes = [last - first + 1 for first, last in spans]
    assert [picture for first, last in spans for picture in range(first, last + 1)] == list(range(1, number + 1))
    assert max(sizes, default=0) <= most
    assert max(sizes, default=0) - min(sizes, default=0) <= 1
    assert len(spans) == -(-number // most)


@pytest.mark.parametrize(
    ("number", "most", "names"),
    [(0, 4, ["deep"]), (4, 4, ["deep"]), (5, None, ["deep-1", "deep-2"]), (10, 4, ["deep-1", "deep-2", "deep-3"])],
)
def test_only_what_does_not_fit_is_answered_in_groups(number: int, most: int | None, names: list[str]) -> None:
    branches = groups.to_branches(number, most)

    assert [branch.name for branch in branches] == names
    assert all((branch.pictures is None) == (len(branches) == 1) for branch in branches)


parts = st.lists(st.sampled_from(["picture", "text"]), min_size=1, max_size=8)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(turns=st.lists(parts, min_size=1, max_size=3), most=st.integers(1, 3))
def test_the_groups_of_any_conversation_are_shown_all_of_it_once(turns: list[list[str]], most: int) -> None:
    # Given a conversation of texts and pictures in any order
    number = 0
    messages: list[dict[str, Any]] = []
    texts: list[str] = []
    for turn in turns:
        made = []
        for kind in turn:
            number += kind == "picture"
            made.append(picture(number) if kind == "picture" else text(f"t{len(texts)}"))
            if kind == "text":
                texts.append(f"t{len(texts)}")
        messages.append(user(*made))
    spec = make_spec(messages=messages, branches=groups.to_branches(number, most))

    # When each group is shown its part
    seen: list[str] = []
    for branch in groups.groups_of(spec):
        said = [part for turn in shown(spec, branch) for part in turn]
        mine = [part for part in said if part.startswith("p") and part[1:].isdigit()]
        seen += mine
        # Then it sees no more pictures than it may, and every text in its order
        assert 0 < len(mine) <= most
        assert [part for part in said if part.startswith("t") and part[1:].isdigit()] == texts
    assert seen == ([f"p{each}" for each in range(1, number + 1)] if number > most else [])


@pytest.mark.parametrize(
    ("language", "words"),
    [("en", "You see pictures 5-7 of 10 here"), ("zh", "一共有 10 张图片，这里依次给出第 5-7 张图片")],
)
def test_a_group_is_told_which_pictures_of_how_many_it_sees(language: str, words: str) -> None:
    turns = shown(make(language=language), THREE[1])

    assert turns[0][:4] == ["p5", "p6", "p7", "How many owls?"]
    assert words in turns[0][4]
    assert len(turns[0]) == 5


def test_a_branch_that_is_no_group_is_given_the_conversation_as_it_is() -> None:
    spec = make(messages=[user(text("First?"), picture(1))])

    assert groups.shown_to(spec, DRAFT) == spec.messages


def test_pictures_sent_after_the_question_come_before_it() -> None:
    spec = make(messages=[user(text("How many owls?"), *(picture(number) for number in range(1, 11)))])

    assert shown(spec, THREE[0])[0][:5] == ["p1", "p2", "p3", "p4", "How many owls?"]


def test_among_texts_a_note_stands_where_a_group_does_not_see_pictures() -> None:
    # Given pictures that the text around them names
    turn = user(*(part for number in range(1, 11) for part in (text(f"{number}:"), picture(number))), text("Which?"))

    seen = shown(make(messages=[turn]), THREE[2])[0]

    assert seen[:4] == ["1:", "[picture 1 is not shown here]", "2:", "[picture 2 is not shown here]"]
    assert seen[14:22] == ["8:", "p8", "9:", "p9", "10:", "p10", "Which?", seen[21]]


def test_earlier_turns_keep_their_words_and_say_which_pictures_they_had() -> None:
    # Given a follow-up to a turn with eight of the ten pictures
    first = user(*(picture(number) for number in range(1, 9)), text("What are these?"))
    answer = {"role": "assistant", "parts": [text("Owls.")]}
    spec = make(messages=[first, answer, user(picture(9), picture(10), text("And these?"))])

    seen = shown(spec, THREE[1])

    notes = ("[pictures 1-4 are not shown here]", "[picture 8 is not shown here]")
    assert seen[0] == [notes[0], "p5", "p6", "p7", notes[1], "What are these?"]
    assert seen[1] == ["Owls."]
    assert seen[2][0] == "And these?"
    assert "You see pictures 5-7 of 10" in seen[2][1]


@pytest.mark.parametrize(("context", "tokens"), [(2048, 341), (131072, 512), (128, 32)])
def test_findings_together_leave_room_in_the_context_they_are_put_together_in(context: int, tokens: int) -> None:
    asked = SamplingParams(max_tokens=5, temperature=0.5, stop=("x",), top_logprobs=2, json_schema="{}", seed=1)
    spec = make(sampling=asked)

    given_to = groups.sampling_for(spec, THREE[0], context)

    assert given_to == SamplingParams(max_tokens=tokens, temperature=0.5, seed=1)
    assert groups.sampling_for(spec, DRAFT, context) == asked


@pytest.mark.parametrize(
    ("language", "findings"),
    [
        ("en", "Pictures 1-4: deep-1 said\n\nPictures 5-7 could not be analysed.\n\nPictures 8-10: deep-3 said"),
        ("zh", "第 1-4 张图片：deep-1 said\n\n第 5-7 张图片未能分析。\n\n第 8-10 张图片：deep-3 said"),
    ],
)
def test_the_findings_become_one_text_in_the_order_of_the_pictures(language: str, findings: str) -> None:
    folded = groups.fold(job(make(language=language), deep_2=None))

    deep = folded.units["deep"]
    assert deep.state == "completed"
    assert deep.result is not None
    assert (deep.result.text, deep.result.usage) == (findings, Usage(30, 6))
    assert [branch.name for branch in folded.spec.branches] == ["draft", "deep"]
    assert set(folded.units) == {"draft", "deep"}
    assert folded.spec.decision["degraded"] == ["pictures 5-7 could not be analysed by owl2 (invalid_image): cut off"]
    assert folded.spec.decision["degraded_zh"] == ["owl2 未能分析第 5-7 张图片（invalid_image）：cut off"]


def test_a_single_picture_is_named_as_one() -> None:
    spec = make(
        branches=(BranchPlan("deep-1", "owl2", pictures=(1, 9)), BranchPlan("deep-2", "owl2", pictures=(10, 10)))
    )

    folded = groups.fold(job(spec, deep_2=None))

    assert folded.units["deep"].result is not None
    assert folded.units["deep"].result.text.endswith("Picture 10 could not be analysed.")


def test_a_group_whose_answer_was_cut_makes_the_findings_a_cut_answer_and_boxes_count_all_pictures() -> None:
    whole = job()
    cut = UnitResult(text="a", finish_reason="length", boxes=(Box(0, 0, 1, 1, image=1),))

    deep = groups.fold(
        Job(whole.spec, "in_progress", {**whole.units, "deep-2": Unit("deep-2", "completed", 1, 0, cut)})
    )

    assert deep.units["deep"].result is not None
    assert deep.units["deep"].result.finish_reason == "length"
    assert deep.units["deep"].result.boxes == (Box(0, 0, 1, 1, image=5),)


def test_a_job_without_groups_is_left_alone() -> None:
    pair = Job(make_spec(), "in_progress", {"draft": Unit("draft", "completed"), "deep": Unit("deep", "failed")})

    assert groups.fold(pair) is pair
    assert not groups.wants_reduce(pair)
    final = FinalAnswer("text", "m", "owl2", "single")
    assert groups.finished(pair, pair, final) is final


@pytest.mark.parametrize(
    ("changes", "said", "wanted"),
    [
        ({"strategy": "deep"}, {}, True),
        ({"strategy": "deep"}, {"deep_1": None}, True),
        ({"strategy": "deep"}, {"deep_1": None, "deep_2": None, "deep_3": None}, False),
        ({"strategy": "compose"}, {}, False),
        ({"strategy": "compose"}, {"draft": None}, True),
        ({"strategy": "compose", "branches": THREE}, {}, True),
        ({"strategy": "compose", "sampling": SamplingParams(json_schema="{}")}, {"draft": None}, False),
    ],
)
def test_findings_become_an_answer_before_the_merge_only_where_it_would_not_make_one(
    changes: dict[str, Any], said: dict[str, None], wanted: bool
) -> None:
    assert groups.wants_reduce(job(make(**changes), **said)) == wanted


@pytest.mark.parametrize(
    ("language", "words"), [("en", "in English"), ("zh", "用中文"), ("other", "the language of the")]
)
def test_one_answer_is_asked_for_in_the_language_of_the_question_and_with_all_findings(
    language: str, words: str
) -> None:
    prompt = groups.reduce_prompt(job(make("{} or {0}?", language=language), deep_3=None))

    assert all(piece in prompt for piece in (words, "10", "{} or {0}?", "deep-1 said", "deep-2 said"))
    assert prompt.index("deep-1 said") < prompt.index("deep-2 said")
    assert groups.groups_of(make())[2].pictures == (8, 10)
    assert ("Pictures 8-10 could not" in prompt) == (language != "zh")


def test_findings_that_are_too_long_are_cut_each_by_itself() -> None:
    long = job(deep_1="a" * 50, deep_2="b" * 50)

    prompt = groups.reduce_prompt(long, most_chars=20)

    assert "Pictures 1-4: " + "a" * 20 + "...\n" in prompt
    assert "Pictures 5-7: " + "b" * 20 + "...\n" in prompt
    assert "Pictures 8-10: deep-3 said\n" in prompt


def test_the_reduce_sees_the_conversation_without_its_pictures() -> None:
    first = user(*(picture(number) for number in range(1, 9)), text("What are these?"))
    turns = groups.reduce_messages(job(make(messages=[first, user(picture(9), picture(10), text("And these?"))])))

    assert [part["text"] for part in turns[0]["parts"]] == ["[pictures 1-8 are not shown here]", "What are these?"]
    assert [part["type"] for part in turns[1]["parts"]] == ["text"]
    assert "Question: And these?" in turns[1]["parts"][0]["text"]


def final_of(made: Job, folded: Job) -> FinalAnswer:
    outcome = merge.resolve(folded, made.spec.question)
    assert isinstance(outcome, FinalAnswer)
    return groups.finished(made, folded, outcome)


@pytest.mark.parametrize(
    ("engine", "branches", "draft", "strategy"),
    [("owl2", (DRAFT, *THREE), "d", "deep"), ("owl2", THREE, "d", "deep"), ("glm", (DRAFT, *THREE), None, "compose")],
)
def test_the_reduced_answer_is_the_merges_deep_answer_and_names_what_is_missing(
    engine: str, branches: tuple[BranchPlan, ...], draft: str | None, strategy: str
) -> None:
    made = job(make(branches=branches, strategy=strategy), draft=draft, deep_2=None)
    result = UnitResult(text="Seven.", model="m", usage=Usage(5, 1))

    final = final_of(made, groups.reduced(groups.fold(made), engine, result))

    assert final.text == "Seven.\n\nPictures 5-7 could not be analysed."
    assert (final.engine, final.model, final.strategy) == (engine, "m", strategy)
    assert final.usage == Usage(10 * len(branches) + 5, 2 * len(branches) + 1)
    assert "pictures 5-7 could not be analysed by owl2 (invalid_image): cut off" in final.degraded


def test_findings_that_nobody_reduced_name_what_is_missing_once() -> None:
    made = job(deep_2=None)

    final = final_of(made, groups.not_reduced(groups.fold(made), "owl2", Text("gone", "没了"), is_last=True))

    assert final.text.count("could not be analysed") == 1
    assert final.text.startswith("Pictures 1-4: deep-1 said")
    assert (
        final.degraded[-1] == "what was found in the groups of pictures could not be made into one answer by owl2: gone"
    )
    assert final.degraded_zh[-1] == "owl2 未能将各组图片的分析结果合成一个回答：没了"


def test_a_draft_in_the_place_of_all_groups_is_said_to_be_one() -> None:
    made = job(draft="Seven.", deep_1=None, deep_2=None, deep_3=None)

    final = final_of(made, groups.fold(made))

    assert (final.text, final.engine, final.strategy) == ("Seven.", "glm", "draft")
    assert final.degraded == ("owl2 gave no answer (invalid_image): cut off",)


def test_if_all_fail_there_is_no_answer_but_the_first_groups_error() -> None:
    outcome = merge.resolve(groups.fold(job(draft=None, deep_1=None, deep_2=None, deep_3=None)), "q")

    assert isinstance(outcome, merge.NoAnswer)
    assert outcome.error["code"] == "invalid_image"


def test_compose_gives_glm_the_findings_of_all_groups() -> None:
    made = job(make(strategy="compose", language="zh"), deep_3=None)

    request = merge.resolve(groups.fold(made), made.spec.question)

    assert isinstance(request, merge.ComposeRequest)
    assert "第 1-4 张图片：deep-1 said\n\n第 5-7 张图片：deep-2 said\n\n第 8-10 张图片未能分析。" in request.prompt
    composed = merge.composed(request, UnitResult(text="七只。", model="glm"))
    assert isinstance(composed, FinalAnswer)
    final = groups.finished(made, groups.fold(made), composed)
    assert (final.text, final.strategy) == ("七只。\n\n第 8-10 张图片未能分析。", "compose")


def test_json_is_left_as_it_is_where_pictures_are_missing() -> None:
    made = job(make(strategy="compose", sampling=SamplingParams(json_schema="{}")), deep_3=None)
    folded = groups.fold(made)

    final = groups.finished(made, folded, FinalAnswer("{}", "glm", "glm", "compose"))

    assert final.text == "{}"


@pytest.mark.parametrize(
    ("draft", "text_of"),
    [
        ("Seven.", "Seven."),
        (None, "Pictures 1-4: deep-1 said\n\nPictures 5-7 could not be analysed.\n\nPictures 8-10: x"),
    ],
)
def test_past_its_deadline_a_job_ends_with_the_draft_rather_than_with_some_groups(
    draft: str | None, text_of: str
) -> None:
    # Given a job one of whose groups still runs
    made = job(make(deadline_ms=5), draft=draft, deep_3="x")
    running = Job(made.spec, "in_progress", {**made.units, "deep-2": Unit("deep-2", "in_progress", 1)})

    final = overdue.settle(running, "deadline")

    assert isinstance(final, FinalAnswer)
    assert final.text == text_of
    assert any("deadline of 5 ms" in sentence for sentence in final.degraded)
    assert any("could not be made into one answer" in sentence for sentence in final.degraded) == (draft is None)


def test_a_job_with_groups_reads_back_from_its_record_whoever_wrote_it() -> None:
    spec = make()

    written = orjson.loads(orjson.dumps(spec.to_dict()))
    older = {**written, "branches": [{"name": "deep", "engine": "owl2"}]}
    newer = {**written, "branches": [{**branch, "unheard_of": 1} for branch in written["branches"]]}

    assert JobSpec.from_dict(written) == spec == JobSpec.from_dict(newer)
    assert JobSpec.from_dict(older).branches == (BranchPlan("deep", "owl2"),)


@pytest.mark.parametrize(
    ("branches", "unit"), [((DRAFT, *THREE), MERGE), ((DRAFT, BranchPlan("deep", "owl2")), "deep")]
)
def test_the_final_answer_of_groups_is_written_by_the_merge(branches: tuple[BranchPlan, ...], unit: str) -> None:
    assert make(branches=branches).final_unit == unit


def test_callers_see_each_group_with_its_pictures_and_state() -> None:
    assert to_hybrid(job(deep_2=None))["groups"] == [
        {"branch": "deep-1", "pictures": [1, 4], "state": "completed"},
        {"branch": "deep-2", "pictures": [5, 7], "state": "failed"},
        {"branch": "deep-3", "pictures": [8, 10], "state": "completed"},
    ]
    pair = make_spec()
    queued = Job(pair, "queued", {branch.name: Unit(branch.name, "queued") for branch in pair.branches})
    assert "groups" not in to_hybrid(queued)

"""The first hour of a new user, through the engines: what is known is answered, all else gets the honest sentence."""

from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("torch")
pytest.importorskip("transformers")

from training.pocket.checkpoints import EngineName
from training.pocket.evaluate import DEFAULT_MODELS, ENGINES, ask_all, start_engine
from training.pocket.scenes import Question, Scene, Shape, TextLine
from training.pocket.scenes.outside_words import HONEST

CASES = yaml.safe_load(Path(__file__).with_name("new_user.yaml").read_text("utf-8"))


def is_chinese(text: str) -> bool:
    return any("\u3400" <= char <= "\u9fff" for char in text)


def scenes_of(name: str) -> tuple[Scene, ...]:
    """The picture of a case; none for a question by itself."""
    picture: dict[str, Any] = CASES["pictures"][name]
    if not picture:
        return ()
    width, height = picture["size"]
    if "family" in picture:
        return (Scene("outside", width, height, seed=picture["seed"], values=(("family", picture["family"]),)),)
    paper = tuple(picture.get("paper", (250, 250, 250)))
    if "lines" in picture:
        lines = tuple(TextLine(text, x, y, size, (24, 24, 28)) for text, x, y, size in picture["lines"])
        return (Scene("poster", width, height, lines=lines, background=paper),)
    shapes = []
    for entry in picture["shapes"]:
        colour, kind, *numbers = entry.split()
        shapes.append(Shape(kind, colour, *map(float, numbers), turn=picture.get("turn", 0.0)))
    kind = "shapes" if shapes else "outside"
    hollow = picture.get("hollow", False)
    return (Scene(kind, width, height, tuple(shapes), background=paper, is_hollow=hollow),)


def questions_for(engine: EngineName) -> list[Question]:
    found = []
    for case in CASES["questions"]:
        lang = "zh" if is_chinese(case["text"]) else "en"
        if engine in case.get("engines", ["glm"] if lang == "zh" else list(ENGINES)):
            answer = HONEST[lang] if case["answer"] == "unknown" else case["answer"]
            found.append(Question("exist", lang, scenes_of(case["picture"]), case["text"], answer))
    return found


def test_half_of_the_sixty_are_beyond_what_the_models_know() -> None:
    cases = CASES["questions"]
    assert len(cases) == 60
    assert sum(case["answer"] == "unknown" for case in cases) == 30
    assert {case["picture"] for case in cases} == set(CASES["pictures"])
    assert sum(is_chinese(case["text"]) for case in cases) >= 20


@pytest.mark.parametrize("name", ENGINES)
async def test_known_questions_are_answered_and_all_else_gets_the_honest_sentence(name: EngineName) -> None:
    card = DEFAULT_MODELS / name / "README.md"
    if not card.is_file() or HONEST["en"] not in card.read_text("utf-8"):
        pytest.skip("the shipped weights were not yet taught what they do not know")
    engine, _ = await start_engine(name, DEFAULT_MODELS / name)
    try:
        outcomes = await ask_all(engine, questions_for(name))
    finally:
        await engine.aclose()
    wrong = [(o.question.text, o.question.answer, o.answer) for o in outcomes if not o.is_right]
    unknown = [o for o in outcomes if o.question.answer in HONEST.values()]
    # Two of sixty may be missed: the bars leave 5 % of what is unknown, and machines round differently
    assert len(wrong) <= len(outcomes) // 30, wrong
    assert len(unknown) >= 0.4 * len(outcomes)

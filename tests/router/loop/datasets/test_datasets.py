"""From kept exchanges to a data set on disk."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw
from typer.testing import CliRunner

from engines.base import ImagePart
from engines.dataset_format import DatasetError, parse_example, read_examples, write_examples
from engines.finetune.data import read_dataset
from router.cli.kept import read_kept
from router.cli.main import app
from router.loop.datasets.build import build, split
from router.loop.datasets.card import export_llava, export_openai, to_llava
from router.loop.datasets.select import Candidate, draw, right_answer, select
from router.loop.pictures import group_near, look_at
from router.loop.records import Exchange, Feedback
from router.loop.store import LoopStore
from tests.support.exchanges import exchange


def _page(number: int, form: str = "PNG") -> ImagePart:
    rng = random.Random(number)
    page = Image.new("RGB", (160, 224), "white")
    for row in range(10):
        ImageDraw.Draw(page).rectangle((8, 10 + 21 * row, 8 + rng.randint(15, 140), 22 + 21 * row), fill="black")
    file = io.BytesIO()
    page.save(file, form)
    return ImagePart(file.getvalue(), f"image/{form.lower()}", hashlib.sha256(file.getvalue()).hexdigest())


def _asked(number: int, pictures: Sequence[ImagePart] = (), **changes: Any) -> Exchange:
    """An exchange of its own question about pictures."""
    question = str(changes.pop("question", f"Total of {number}?"))
    parts: list[dict[str, str]] = [{"type": "image", "sha256": each.sha256} for each in pictures]
    parts.append({"type": "text", "text": question})
    made = exchange(
        number,
        question=question,
        messages=[{"role": "user", "parts": parts}],
        pictures=tuple(each.sha256 for each in pictures),
        conflicts=(),
        agreement=0.7,
    )
    return replace(made, **changes)


UP, DOWN = Feedback("up"), Feedback("down")


def test_exchanges_are_selected_for_a_reason() -> None:
    exchanges = [
        _asked(1, feedback=Feedback("down", "43")),
        _asked(2, feedback=UP),
        _asked(3, conflicts=({"kind": "number"},)),
        _asked(4, agreement=0.2),
        _asked(5),
        _asked(6, agreement=0.1, again="resp_5"),
        _asked(7, agreement=0.1, final=""),
    ]
    found = {each.exchange.id[5:]: (each.reasons, each.right) for each in select(exchanges)}
    assert found == {
        "1": (("corrected", "down"), "43"),
        "2": (("up",), "42"),
        "3": (("conflict",), None),
        "4": (("low",), None),
    }
    assert [each.exchange.id for each in select(exchanges, ["low"], low=0.8)] == [f"resp_{n}" for n in (1, 2, 3, 4, 5)]


def test_the_right_answer_is_what_somebody_said() -> None:
    as_json = _asked(1, final='{"shop": "南园", "total": 4}')
    assert right_answer(replace(as_json, feedback=Feedback(None, {"total": 5}))) == '{"total": 5}'
    assert right_answer(replace(as_json, feedback=Feedback(None, None, {"total": 5}))) == '{"shop": "南园", "total": 5}'
    assert right_answer(replace(as_json, final="no JSON", feedback=Feedback(None, None, {"total": 5}))) is None
    assert right_answer(replace(as_json, feedback=DOWN)) is None
    # What both models say counts only if that is asked for, and nobody has said otherwise
    agreed = _asked(2, agreement=1.0)
    assert (right_answer(agreed), right_answer(agreed, trusts_agreement=True)) == (None, "42")
    assert right_answer(replace(agreed, feedback=DOWN), trusts_agreement=True) is None
    assert [each.exchange.id for each in draw([agreed, _asked(3), as_json], set(), 5)] == ["resp_2"]


def test_near_copies_are_never_on_both_sides() -> None:
    # Given forty pages, each with a recompressed copy that another question is about, and one question about two pages
    pages = [(_page(number), _page(number, "JPEG")) for number in range(40)]
    looks = {look.sha256: look for pair in pages for look in map(look_at, pair)}
    near = group_near({sha256: look.small for sha256, look in looks.items()})
    exchanges = [_asked(2 * number + side, [pair[side]]) for number, pair in enumerate(pages) for side in (0, 1)]
    exchanges.append(_asked(100, [pages[0][0], pages[1][1]]))
    # When they are parted
    parts = split(exchanges, near, 0.3)
    # Then a page and its copy are on one side, and both sides have some
    assert all(parts[f"resp_{2 * number}"] == parts[f"resp_{2 * number + 1}"] for number in range(40))
    assert parts["resp_0"] == parts["resp_2"] == parts["resp_100"]
    assert 0.1 < sum(parts.values()) / len(parts) < 0.5
    # And a question about a page of each side would join them
    one, other = (next(n for n in range(40) if parts[f"resp_{2 * n}"] is is_held) for is_held in (True, False))
    joined = split([*exchanges, _asked(101, [pages[one][0], pages[other][0]])], near, 0.3)
    assert joined[f"resp_{2 * one}"] == joined[f"resp_{2 * other}"] == joined["resp_101"]
    # And what is held out stays so when more comes
    more = [*exchanges, *(_asked(200 + number, [_page(200 + number)]) for number in range(10))]
    assert {name: is_held for name, is_held in split(more, near, 0.3).items() if name in parts} == parts
    # Copies that come later among it, whichever of both has the smaller hash
    originals = [_asked(number, [page]) for number, (page, _) in enumerate(pages)]
    copies = [_asked(300 + number, [copy]) for number, (_, copy) in enumerate(pages)]
    before, after = split(originals, near, 0.3), split([*copies, *originals], near, 0.3)
    assert {name: after[name] for name in before} == before


def test_the_same_words_after_another_conversation_are_another_question() -> None:
    def asked(number: int, about: str, right: str) -> Candidate:
        turns = [("user", about), ("assistant", "Yes."), ("user", "And the total?")]
        messages = [{"role": role, "parts": [{"type": "text", "text": text}]} for role, text in turns]
        return Candidate(_asked(number, question="And the total?", messages=messages), ("corrected",), right)

    made = build([asked(1, "A bill of 4 lines", "4"), asked(2, "A bill of 5 lines", "5")], {})
    assert ({each.answer for each in made.train + made.heldout}, made.dropped) == ({"4", "5"}, {})


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A store with examples, and with what is wrong in every way."""
    folder = tmp_path / "loop"
    pages = [_page(number) for number in range(12)]
    long, empty, missing = _page(90), _page(91), _page(92)
    with LoopStore(folder) as store:
        for number, page in enumerate(pages):
            store.put(_asked(number, [page], language="zh" if number % 2 else "en"), [(look_at(page), page)], 9e9)
            store.put_feedback(f"resp_{number}", "own_a", Feedback("down", f"{number}.00") if number < 8 else UP)
        for number, page, correction in ((50, long, "x" * 9000), (51, empty, " "), (52, missing, "4")):
            store.put(_asked(number, [page]), [(look_at(page), page if page is not missing else None)], 9e9)
            store.put_feedback(f"resp_{number}", "own_a", Feedback("down", correction))
        for number, correction in ((60, "1"), (61, "2"), (62, "7"), (63, "7")):
            store.put(_asked(number, question="Same?" if number < 62 else "Twice?"), [], 9e9)
            store.put_feedback(f"resp_{number}", "own_a", Feedback("down", correction))
        store.put(_asked(70, agreement=0.1), [], 9e9)
    return folder


def _run(*arguments: object, code: int = 0, typed: str = "") -> str:
    done = CliRunner().invoke(app, ["dataset", *map(str, arguments)], env={"LC_ALL": "C"}, input=typed)
    assert done.exit_code == code, done.output
    return " ".join(done.output.split())


def test_a_data_set_is_built_checked_and_exported(kept: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    said = _run("build", folder, "--loop", kept, "--heldout", "0.3")
    # Then the files are as the format says, and nothing that is wrong is in them
    train, heldout = (list(read_examples(folder / name)) for name in ("train.jsonl", "heldout.jsonl"))
    assert heldout
    assert {each.id for each in train + heldout} == {f"resp_{number}" for number in range(12)} | {"resp_62"}
    answers = {each.id: each.answer for each in train + heldout}
    assert (answers["resp_3"], answers["resp_9"], answers["resp_62"]) == ("3.00", "42", "7")
    assert {each.slice for each in train + heldout} == {"zh", "en"}
    for reason, number in (
        *(("too long", 1), ("empty", 1), ("picture missing", 1), ("no right answer yet", 1)),
        *(("same question, different answers", 2), ("same question and answer twice", 1)),
    ):
        assert f"left out: {number} ({reason})" in said
    # And the card says so
    card = _run("card", folder)
    assert f"| all | {len(train)} | {len(heldout)} |" in card
    assert "| corrected | 9 |" in card
    assert "| none | 1 |" in card
    assert "already" in _run("build", folder, "--loop", kept, code=1)

    # When it is exported, then other trainers find every picture
    _run("export", folder, "--form", "openai", "--out", tmp_path / "openai")
    lines = [json.loads(line) for line in (tmp_path / "openai/train.jsonl").read_text("utf-8").splitlines()]
    assert len(lines) == len(train)
    first = next(each for each in lines if each["messages"][0]["content"][0]["type"] == "image_url")
    url = first["messages"][0]["content"][0]["image_url"]["url"]
    assert base64.b64decode(url.removeprefix("data:image/png;base64,")).startswith(b"\x89PNG")
    _run("export", folder, "--form", "llava", "--out", tmp_path / "llava")
    found = json.loads((tmp_path / "llava/heldout.json").read_text("utf-8"))
    assert found == [to_llava(each) for each in heldout]
    assert all((tmp_path / "llava" / each["image"]).is_file() for each in found if "image" in each)
    assert found[0]["conversations"][0]["value"].startswith("<image>\nTotal of")


def test_a_wrong_line_is_named(kept: Path, tmp_path: Path) -> None:
    _run("build", tmp_path / "set", "--loop", kept)
    with (tmp_path / "set/train.jsonl").open("a") as file:
        file.write("{}\n")
    assert "train.jsonl, line" in _run("card", tmp_path / "set", code=1)


def test_without_right_answers_the_way_to_them_is_said(tmp_path: Path) -> None:
    with LoopStore(tmp_path) as store:
        store.put(_asked(1, agreement=0.1), [], 9e9)
    assert "1 answers wait" in _run("build", tmp_path / "set", "--loop", tmp_path, code=1)
    assert "Switch capture on" in _run("review", "--loop", tmp_path / "none", code=1)


def test_a_reviewer_says_what_is_right(tmp_path: Path) -> None:
    # Given four answers of which the draft says 41 and the final one 42
    with LoopStore(tmp_path) as store:
        for number in range(1, 6):
            store.put(_asked(number, agreement=0.1, question=f"Total of \x1b[2J{number}?"), [], 9e9)
    # When the newest is right, of the next GLM's, the third is skipped, and the fourth is corrected
    said = _run("review", "--loop", tmp_path, typed="y\ng\ns\n43 a@b.cn\nq\n")
    # Then that is kept, and the rest still waits
    assert "3 kept" in said
    # And no question drives the terminal
    assert "? Total of [2J5?" in said
    assert "\x1b" not in said
    with LoopStore(tmp_path) as store:
        right = {each.id: right_answer(each) for each in store.select()}
    assert right == {"resp_5": "42", "resp_4": "41", "resp_3": None, "resp_2": "43 [email]", "resp_1": None}
    assert "2 answers wait" in _run("review", "--loop", tmp_path, typed="q\n")


def test_feedback_counts_whichever_machine_it_was_sent_to(tmp_path: Path) -> None:
    with LoopStore(tmp_path / "one") as one, LoopStore(tmp_path / "two") as two:
        for number in (1, 2):
            one.put(_asked(number), [], 9e9)
            one.put_feedback(f"resp_{number}", "own_a", Feedback("up", at=50.0 * number))
            two.put_feedback(f"resp_{number}", "own_a", Feedback("down", "43", at=75.0))
    exchanges, _ = read_kept([tmp_path / "one", tmp_path / "two"], "en")
    # Then the newest counts
    assert {each.id: right_answer(each) for each in exchanges} == {"resp_1": "43", "resp_2": "42"}
    exchanges, _ = read_kept([tmp_path / "one"], "en")
    assert {each.id: right_answer(each) for each in exchanges} == {"resp_1": "42", "resp_2": "42"}


def test_a_picture_of_a_later_turn_stays_there_in_llava_form(tmp_path: Path) -> None:
    # Given a picture that comes with the second question, and one that stands in a text only
    def user(*parts: dict[str, object]) -> dict[str, object]:
        return {"role": "user", "content": list(parts)}

    picture = {"type": "image_url", "image_url": {"url": "images/a.png"}}
    second = user(picture, {"type": "text", "text": "What is it?"})
    hello, hi = user({"type": "text", "text": "What is <image>?"}), {"role": "assistant", "content": "A mark."}
    lines = [
        {"id": "1", "slice": "en", "messages": [hello, hi, second, {"role": "assistant", "content": "red"}]},
        {"id": "2", "slice": "en", "messages": [hello, hi]},
    ]
    source = tmp_path / "source"
    (source / "images").mkdir(parents=True)
    Image.new("RGB", (4, 4), "red").save(source / "images/a.png")
    write_examples(source / "train.jsonl", [parse_example(line) for line in lines])

    # When it is exported, and read again by fine-tuning
    export_llava(source, tmp_path / "out")
    first, other = read_dataset(tmp_path / "out").train

    # Then the picture is where it was, and the typed marker is text
    assert [turn.parts[0].picture for turn in first.turns] == ["", "", "images/a.png", ""]
    assert (first.turns[2].text, first.turns[0].text) == ("What is it?", "What is <image >?")
    assert other.pictures == ()


def test_no_character_of_a_text_ends_a_line_for_openai(tmp_path: Path) -> None:
    question = {"role": "user", "content": [{"type": "text", "text": "a\u2028b\u2029c\x85d"}]}
    answer = {"role": "assistant", "content": "e\u2028f"}
    (tmp_path / "set").mkdir()
    example = parse_example({"id": "a1", "messages": [question, answer], "slice": "en"})
    write_examples(tmp_path / "set/train.jsonl", [example])

    export_openai(tmp_path / "set", tmp_path / "out")

    (line,) = (tmp_path / "out/train.jsonl").read_text("utf-8").splitlines()
    assert json.loads(line)["messages"] == [question, answer]


@pytest.mark.parametrize("export", [export_openai, export_llava])
def test_what_is_no_data_set_is_not_exported(tmp_path: Path, export: Callable[[Path, Path], object]) -> None:
    with pytest.raises(DatasetError, match="is no data set"):
        export(tmp_path / "missing", tmp_path / "out")
    assert not (tmp_path / "out").exists()

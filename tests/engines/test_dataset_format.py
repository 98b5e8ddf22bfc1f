from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engines.dataset_format import DatasetError, parse_example, read_examples, to_json, write_examples

LINE: dict[str, Any] = {
    "id": "a1",
    "messages": [
        {"role": "system", "content": "Short."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "合计\u2028是多少？"},
                {"type": "image_url", "image_url": {"url": "images/ab.png"}},
            ],
        },
        {"role": "assistant", "content": "42"},
    ],
    "slice": "zh",
    "kind": "receipt",
}


def _with(**changes: Any) -> dict[str, Any]:
    return LINE | changes


def _asked(url: str) -> dict[str, Any]:
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "?"}]
    return _with(messages=[{"role": "user", "content": content}, {"role": "assistant", "content": "1"}])


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/ab.png").write_bytes(b"x")
    example = parse_example(LINE)
    assert write_examples(tmp_path / "train.jsonl", [example]) == 1
    assert list(read_examples(tmp_path / "train.jsonl")) == [example]
    assert len((tmp_path / "train.jsonl").read_text("utf-8").splitlines()) == 1
    assert to_json(example) == LINE
    assert (example.question, example.answer, example.pictures) == ("合计\u2028是多少？", "42", ("images/ab.png",))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], "not a JSON object"),
        (_with(id=""), "`id`"),
        (_with(slice=None), "`slice`"),
        (_with(kind=3), "`kind`"),
        (_with(messages=[]), "`messages`"),
        (_with(messages=LINE["messages"][:2]), "the last one assistant"),
        (_with(messages=[*LINE["messages"], *LINE["messages"]]), "in turn"),
        (_with(messages=[{"role": "tool", "content": ""}]), "`role`"),
        (_with(messages=[{"role": "user", "content": 3}]), "`content`"),
        (_with(messages=[*LINE["messages"][:2], {"role": "assistant", "content": " "}]), "is empty"),
        (_with(messages=[LINE["messages"][1], LINE["messages"][1] | {"role": "assistant"}]), "only the user's"),
        (_asked("../secret.png"), "inside the folder"),
        (_asked("/etc/passwd"), "inside the folder"),
        (_asked("images\\..\\a.png"), "inside the folder"),
        (_asked("https://example.com/a.png"), "inside the folder"),
        (_asked(""), "inside the folder"),
    ],
)
def test_what_is_wrong_is_said(value: Any, said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        parse_example(value)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (json.dumps(LINE), "there is no picture images/ab.png"),
        ("{", "Expecting"),
        ('"\\u00', "line 3"),
    ],
)
def test_the_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    text_only = json.dumps(
        _with(id="b", messages=[{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}])
    )
    (tmp_path / "heldout.jsonl").write_text(f"{text_only}\n\n{line}\n", "utf-8")
    with pytest.raises(DatasetError, match=r"heldout\.jsonl, line 3") as caught:
        list(read_examples(tmp_path / "heldout.jsonl"))
    assert said in str(caught.value)


def test_an_id_stands_once(tmp_path: Path) -> None:
    line = json.dumps(LINE)
    (tmp_path / "train.jsonl").write_text(f"{line}\n{line}\n", "utf-8")
    with pytest.raises(DatasetError, match=r"line 2.*used before"):
        list(read_examples(tmp_path / "train.jsonl", checks_pictures=False))

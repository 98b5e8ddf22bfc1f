"""What is in a data set, in words and numbers, and the same data set in other trainers' forms.

In: its examples. Out: Markdown, statistics, LLaVA's JSON.
"""

from __future__ import annotations

import base64
import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from engines.dataset_format import HELDOUT, IMAGES, TRAIN, DatasetError, Example, read_examples, to_json
from engines.image_header import sniff_media_type
from engines.json_text import to_one_line

_MARKER: Final = "<image>"
_NAMES: Final = {TRAIN: "train.json", HELDOUT: "heldout.json"}


def to_card(
    train: Sequence[Example],
    heldout: Sequence[Example],
    about: Mapping[str, str],
    dropped: Mapping[str, int],
    reasons: Mapping[str, int],
    groups: int,
) -> str:
    """Return the card of a data set, Markdown.

    Args:
        train: its examples.
        heldout: likewise.
        about: what it was made of.
        dropped: candidates that are in neither part, by reason.
        reasons: examples by reason of selection.
        groups: sets of pictures that show the same.
    """
    lines = ["# Data set", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {_cell(value)} |" for name, value in about.items()]
    lines += [
        f"| groups of near copies | {groups} |",
        "",
        "## Examples",
        "",
        "| slice | train | held out |",
        "|---|---|---|",
    ]
    parts = [Counter(example.slice for example in part) for part in (train, heldout)]
    lines += [f"| {_cell(name)} | {parts[0][name]} | {parts[1][name]} |" for name in sorted({*parts[0], *parts[1]})]
    lines += [f"| all | {len(train)} | {len(heldout)} |"]
    lines += _table("Selected because", "reason", reasons)
    lines += _table("Pictures", "kind", Counter(example.kind or "none" for example in (*train, *heldout)))
    lines += _table("Left out", "reason", dropped)
    chars = sorted(len(example.answer) for example in (*train, *heldout))
    if chars:
        lines += [
            "",
            f"Answers have {chars[0]} to {chars[-1]} characters, half of them at most {chars[len(chars) // 2]}.",
        ]
    lines += [
        "",
        "No picture of a held-out example, nor a near copy of one, is in the other part. Addresses and numbers of "
        "people in texts were replaced when the answers were kept; names, and what is in pictures, were not.",
    ]
    return "\n".join(lines) + "\n"


def export_llava(folder: Path, out: Path) -> dict[str, int]:
    """Write a data set as LLaVA and most trainers read it; returns how many examples each file has.

    Args:
        folder: of a data set.
        out: made.

    Raises:
        DatasetError: if it is no data set, or a line is wrong.
        OSError: if it cannot be read or written.
    """
    _check(folder)
    (out / IMAGES).mkdir(parents=True, exist_ok=True)
    counts = {}
    for name, wanted in _NAMES.items():
        examples = list(read_examples(folder / name)) if (folder / name).is_file() else []
        for path in {path for example in examples for path in example.pictures}:
            (out / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / path, out / path)
        text = json.dumps([to_llava(example) for example in examples], ensure_ascii=False, indent=1)
        (out / wanted).write_text(text + "\n", "utf-8")
        counts[wanted] = len(examples)
    return counts


def _check(folder: Path) -> None:
    if not any((folder / name).is_file() for name in _NAMES):
        raise DatasetError(
            f"{folder} is no data set: it has neither {TRAIN} nor {HELDOUT}",
            f"{folder} 不是数据集：既没有 {TRAIN}，也没有 {HELDOUT}",
        )


def to_llava(example: Example) -> dict[str, Any]:
    """Return an example in LLaVA's form: ``<image>`` stands for a picture; system words go before the question.

    The form has no way to write the marker as text, so one that a user typed becomes ``<image >``.
    """
    turns: list[dict[str, str]] = []
    before = ""
    for turn in example.turns:
        text = "\n".join(_MARKER if part.picture else _without_markers(part.text) for part in turn.parts)
        if turn.role == "system":
            before = f"{text}\n"
            continue
        turns.append({"from": "human" if turn.role == "user" else "gpt", "value": before + text})
        before = ""
    found: dict[str, Any] = {"id": example.id, "conversations": turns}
    if pictures := list(example.pictures):
        found["image"] = pictures[0] if len(pictures) == 1 else pictures
    return found


def _without_markers(text: str) -> str:
    return text.replace("<image>", "<image >").replace("<|image|>", "<|image |>")


def export_openai(folder: Path, out: Path) -> dict[str, int]:
    """Write a data set as OpenAI takes it for fine-tuning, pictures inside; returns how many lines each file has.

    Args:
        folder: of a data set.
        out: made.

    Raises:
        DatasetError: if it is no data set, or a line is wrong.
        OSError: if it cannot be read or written.
    """
    _check(folder)
    out.mkdir(parents=True, exist_ok=True)
    counts = {}
    for name in _NAMES:
        examples = read_examples(folder / name) if (folder / name).is_file() else iter(())
        counts[name] = 0
        with (out / name).open("w", encoding="utf-8", newline="\n") as file:
            for example in examples:
                messages = to_json(example)["messages"]
                for part in (part for each in messages if each["role"] == "user" for part in each["content"]):
                    if part["type"] == "image_url":
                        part["image_url"]["url"] = _to_data_url(folder / part["image_url"]["url"])
                file.write(to_one_line(json.dumps({"messages": messages}, ensure_ascii=False)) + "\n")
                counts[name] += 1
    return counts


def _to_data_url(path: Path) -> str:
    data = path.read_bytes()
    return f"data:{sniff_media_type(data) or 'image/png'};base64,{base64.b64encode(data).decode()}"


def _table(title: str, head: str, counts: Mapping[str, int]) -> list[str]:
    if not counts:
        return []
    rows = [f"| {_cell(name)} | {number} |" for name, number in sorted(counts.items())]
    return ["", f"## {title}", "", f"| {head} | number |", "|---|---|", *rows]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")

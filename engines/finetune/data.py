"""A data set as messages of our own, with the picture files read when they are needed.

In: a folder in the form of `engines.dataset_format`, or LLaVA's lists in ``train.json`` and ``heldout.json``. Out: a
`DataSet` with a hash of all that it holds.
"""

from __future__ import annotations

import json
import mimetypes
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from engines.base import ImagePart, Message, TextPart
from engines.dataset_format import HELDOUT, TRAIN, DatasetError, Example, parse_example, read_examples
from engines.finetune.settings import FinetuneError

_MARKERS = ("<image>", "<|image|>")


@dataclass(frozen=True, slots=True)
class DataSet:
    """Examples to train on, and examples to be judged on.

    Attributes:
        folder: where their pictures are.
        train: never empty.
        heldout: may be.
        digest: SHA-256 of every example and picture, in hex.
        num_shared: pictures that are in both parts: each makes the judgement worth less.
    """

    folder: Path
    train: tuple[Example, ...]
    heldout: tuple[Example, ...]
    digest: str
    num_shared: int

    def messages(self, example: Example) -> tuple[Message, ...]:
        """Return an example's conversation up to the answer, its pictures as bytes.

        Raises:
            OSError: if a picture cannot be read.
        """
        return tuple(
            Message(
                turn.role,
                tuple(
                    read_picture(self.folder / part.picture) if part.picture else TextPart(part.text)
                    for part in turn.parts
                ),
            )
            for turn in example.turns[:-1]
        )


def read_picture(file: Path) -> ImagePart:
    """Read a picture as a caller would send it."""
    data = file.read_bytes()
    return ImagePart(data, mimetypes.guess_type(file.name)[0] or "image/png", sha256(data).hexdigest())


def read_dataset(folder: Path) -> DataSet:
    """Read a data set.

    Raises:
        FinetuneError: naming the file and the line.
    """
    try:
        train = tuple(_read_part(folder, TRAIN))
        heldout = tuple(_read_part(folder, HELDOUT, is_needed=False))
    except DatasetError as error:
        raise FinetuneError(str(error), error.message_zh) from error
    except OSError as error:
        file = error.filename or folder
        raise FinetuneError(f"{file} cannot be read: {error.strerror}", f"无法读取 {file}：{error.strerror}") from error
    if not train:
        raise FinetuneError(f"{folder / TRAIN} holds no example", f"{folder / TRAIN} 中没有样本")
    digest = sha256()
    digests: dict[str, str] = {}
    for example in (*train, *heldout):
        digest.update(repr(example).encode())
        for picture in example.pictures:
            if picture not in digests:
                digests[picture] = sha256((folder / picture).read_bytes()).hexdigest()
            digest.update(digests[picture].encode())
    seen, judged = ({digests[name] for each in part for name in each.pictures} for part in (train, heldout))
    return DataSet(folder, train, heldout, digest.hexdigest(), len(seen & judged))


def _read_part(folder: Path, name: str, *, is_needed: bool = True) -> Iterator[Example]:
    lines, llava = folder / name, (folder / name).with_suffix(".json")
    if lines.is_file():
        yield from read_examples(lines)
    elif llava.is_file():
        yield from _read_llava(llava)
    elif is_needed:
        raise DatasetError(
            f"{folder} has neither {name} nor {llava.name}", f"{folder} 中既没有 {name}，也没有 {llava.name}"
        )


def _read_llava(path: Path) -> Iterator[Example]:
    """Read a LLaVA-style list: ``{"id", "image", "conversations": [{"from": "human" or "gpt", "value"}]}``."""
    try:
        samples = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise DatasetError(f"{path.name} is no JSON: {error}", f"{path.name} 不是 JSON：{error}") from error
    if not isinstance(samples, list):
        raise DatasetError(f"{path.name} is no list of samples", f"{path.name} 不是样本列表")
    for number, sample in enumerate(samples, 1):
        try:
            example = parse_example(_of_llava(sample, number))
        except (DatasetError, KeyError, TypeError, AttributeError) as error:
            raise DatasetError.at(f"{path.name}, sample {number}", f"{path.name} 第 {number} 个样本", error) from error
        for picture in example.pictures:
            if not (path.parent / picture).is_file():
                missing = DatasetError(f"there is no picture {picture}", f"没有图片 {picture}")
                raise DatasetError.at(f"{path.name}, sample {number}", f"{path.name} 第 {number} 个样本", missing)
        yield example


def _of_llava(sample: dict[str, Any], number: int) -> dict[str, Any]:
    """Write a sample as a line of ours; a marker is where its picture goes, before the first text if there is none."""
    named = sample.get("image", [])
    pictures = [named] if isinstance(named, str) else list(named)
    messages: list[dict[str, Any]] = []
    asked = [turn["value"] for turn in sample["conversations"] if turn["from"] == "human"]
    has_marker = any(marker in text for text in asked for marker in _MARKERS)
    for turn in sample["conversations"]:
        text = turn["value"]
        if turn["from"] != "human":
            messages.append({"role": "system" if turn["from"] == "system" else "assistant", "content": text})
            continue
        marker = next((marker for marker in _MARKERS if marker in text), None)
        pieces = text.split(marker) if marker else [text]
        content: list[dict[str, Any]] = []
        if not has_marker:
            content = [_picture(pictures.pop(0)) for _ in list(pictures)]
        for index, piece in enumerate(pieces):
            if index:
                if not pictures:
                    raise DatasetError("it has more markers than pictures", "标记比图片多")
                content.append(_picture(pictures.pop(0)))
            if piece.strip():
                content.append({"type": "text", "text": piece.strip()})
        messages.append({"role": "user", "content": content})
    if pictures:
        raise DatasetError("it has more pictures than markers", "图片比标记多")
    return {"id": str(sample.get("id", number)), "slice": str(sample.get("slice", "all")), "messages": messages}


def _picture(name: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": name}}

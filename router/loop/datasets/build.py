"""A data set out of selected exchanges: examples, checked, parted into what is learned and what is held out.

In: candidates, and what is known of their pictures. Out: a `Dataset`, which `write` puts into a folder of
`engines.dataset_format`. No picture of a held-out example, nor a near copy of one, is in the other part.
"""

from __future__ import annotations

import hashlib
import shutil
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from engines.dataset_format import (
    CARD,
    HELDOUT,
    IMAGES,
    TRAIN,
    DatasetError,
    Example,
    parse_example,
    write_examples,
)
from router.loop.datasets.card import to_card
from router.loop.datasets.select import Candidate
from router.loop.pictures import Groups, group_near
from router.loop.records import Exchange
from router.loop.store import Kept

MAX_CHARS: Final = 8000
_SUFFIXES: Final = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/webp": "webp",
    "image/gif": "gif",
    "image/bmp": "bmp",
}


@dataclass(frozen=True, slots=True)
class Dataset:
    """What goes into a folder.

    Attributes:
        train: examples to learn from.
        heldout: those that accuracy is measured on.
        files: of their pictures, by the path in the folder.
        dropped: how many candidates are in neither part, by reason.
        reasons: how many examples there are for each reason of selection.
        groups: how many sets of pictures there are that show the same.
    """

    train: tuple[Example, ...]
    heldout: tuple[Example, ...]
    files: Mapping[str, Path] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)
    reasons: Mapping[str, int] = field(default_factory=dict)
    groups: int = 0


def build(
    candidates: Sequence[Candidate], pictures: Mapping[str, Kept], *, heldout: float = 0.2, max_chars: int = MAX_CHARS
) -> Dataset:
    """Make examples of candidates, and part them.

    Args:
        candidates: selected; those whose right answer nobody has said are dropped.
        pictures: by SHA-256.
        heldout: share of the groups that is held out, 0 to 1.
        max_chars: examples with more, question and answer together, are dropped.
    """
    dropped: Counter[str] = Counter()
    examples: dict[str, Example] = {}
    asked: dict[str, set[str]] = defaultdict(set)
    sources: dict[str, Candidate] = {}
    for candidate in candidates:
        found = _to_example(candidate, pictures, max_chars)
        if isinstance(found, str):
            dropped[found] += 1
            continue
        examples[found.id], sources[found.id] = found, candidate
        asked[_question_of(candidate.exchange)].add(_plain(found.answer))
    kept: list[Example] = []
    seen: set[str] = set()
    for example in examples.values():
        question = _question_of(sources[example.id].exchange)
        if len(asked[question]) > 1:
            dropped["same question, different answers"] += 1
        elif question in seen:
            dropped["same question and answer twice"] += 1
        else:
            kept.append(example)
            seen.add(question)
    near = group_near({sha256: each.look.small for sha256, each in pictures.items()})
    parts = split([sources[example.id].exchange for example in kept], near, heldout)
    files = {path: file for example in kept for path, file in _files_of(sources[example.id].exchange, pictures)}
    return Dataset(
        train=tuple(example for example in kept if not parts[example.id]),
        heldout=tuple(example for example in kept if parts[example.id]),
        files=files,
        dropped=dict(dropped),
        reasons=Counter(reason for example in kept for reason in sources[example.id].reasons),
        groups=len(
            {near[sha256] for example in kept for sha256 in sources[example.id].exchange.pictures if sha256 in near}
        ),
    )


def split(exchanges: Sequence[Exchange], near: Mapping[str, str], share: float) -> dict[str, bool]:
    """Say of each exchange, by id, whether it is held out.

    Exchanges that show the same picture, or near copies, are on the same side; without pictures, those that ask the
    same. The side follows from a group's oldest exchange, so what was held out once is held out when more comes; unless
    what comes shows that two groups are one.

    Args:
        exchanges: to be parted.
        near: the group of each picture.
        share: that is held out.
    """
    keys = {each.id: _keys_of(each, near) for each in exchanges}
    groups = Groups(key for each in keys.values() for key in each)
    for first, *others in keys.values():
        for other in others:
            groups.join(first, other)
    group_of = {name: groups.find(found[0]) for name, found in keys.items()}
    places: dict[str, float] = {}
    for each in sorted(exchanges, key=lambda each: (each.at, each.id)):
        places.setdefault(group_of[each.id], _place_of(next(iter(each.pictures), f"text {_plain(each.question)}")))
    held = {group for group, place in places.items() if place < share}
    if not held and share > 0 and len(places) > 1:  # of a few groups chance may take none
        held = {min(places, key=places.__getitem__)}
    return {name: group in held for name, group in group_of.items()}


def _place_of(name: str) -> float:
    """Return a number from 0 to below 1 that follows from a name and looks random."""
    return int(hashlib.sha256(f"heldout {name}".encode()).hexdigest()[:13], 16) / 16**13


def write(dataset: Dataset, folder: Path, about: Mapping[str, str]) -> None:
    """Write a data set.

    Args:
        dataset: what to write.
        folder: made; must not have a data set in it.
        about: lines of the card: what it was made of.

    Raises:
        DatasetError: if there is a data set already.
        OSError: if it cannot be written.
    """
    if (folder / TRAIN).exists() or (folder / HELDOUT).exists():
        raise DatasetError(f"there is a data set in {folder} already", f"{folder} 中已有数据集")
    (folder / IMAGES).mkdir(parents=True, exist_ok=True)
    for path, file in dataset.files.items():
        shutil.copyfile(file, folder / path)
    write_examples(folder / TRAIN, dataset.train)
    write_examples(folder / HELDOUT, dataset.heldout)
    card = to_card(dataset.train, dataset.heldout, about, dataset.dropped, dataset.reasons, dataset.groups)
    (folder / CARD).write_text(card, "utf-8")


def _to_example(candidate: Candidate, pictures: Mapping[str, Kept], max_chars: int) -> Example | str:
    """Return an example, or why there is none."""
    exchange, right = candidate.exchange, candidate.right
    if right is None:
        return "no right answer yet"
    if not right.strip() or not (exchange.question.strip() or exchange.pictures):
        return "empty"
    if sum(len(part.get("text", "")) for each in exchange.messages for part in each["parts"]) + len(right) > max_chars:
        return "too long"
    paths = dict(_files_of(exchange, pictures))
    by_hash = {Path(path).stem: path for path in paths}
    if any(sha256 not in by_hash for sha256 in exchange.pictures):
        return "picture missing"
    messages = [
        {"role": each["role"], "content": [_to_part(part, by_hash) for part in each["parts"]]}
        for each in exchange.messages
    ]
    kind = pictures[exchange.pictures[0]].look.kind if exchange.pictures else ""
    line = {
        "id": exchange.id,
        "messages": [*messages, {"role": "assistant", "content": right}],
        "slice": "pages" if exchange.is_multi_page else exchange.language or "other",
        **({"kind": kind} if kind else {}),
    }
    try:
        return parse_example(line)
    except DatasetError:
        return "turns out of order"


def _to_part(part: Mapping[str, str], by_hash: Mapping[str, str]) -> dict[str, object]:
    if part["type"] == "text":
        return {"type": "text", "text": part["text"]}
    return {"type": "image_url", "image_url": {"url": by_hash[part["sha256"]]}}


def _files_of(exchange: Exchange, pictures: Mapping[str, Kept]) -> list[tuple[str, Path]]:
    found = []
    for sha256 in exchange.pictures:
        kept = pictures.get(sha256)
        if kept is not None and kept.file is not None and kept.file.is_file():
            found.append((f"{IMAGES}/{sha256}.{_SUFFIXES.get(kept.look.media_type, 'bin')}", kept.file))
    return found


def _keys_of(exchange: Exchange, near: Mapping[str, str]) -> list[str]:
    return [near.get(sha256, sha256) for sha256 in exchange.pictures] or [f"text {_plain(exchange.question)}"]


def _question_of(exchange: Exchange) -> str:
    """Return all that was asked: "and the total?" is another question after another conversation."""
    turns = [
        f"{each['role']} {_plain(''.join(part.get('text', '') for part in each['parts']))}"
        for each in exchange.messages
    ]
    return "\n".join([*turns, _plain(exchange.question), *exchange.pictures])


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())

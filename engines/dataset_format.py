"""A data set in a folder: examples in lines of JSON, their pictures as files beside them.

In: a folder with ``train.jsonl``, ``heldout.jsonl`` and ``images/``. Out: `Example`s, each checked, and the same back
as lines. Without torch: the router writes such folders, fine-tuning and evaluation read them. ``docs/datasets.md``
describes the form for people.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal

from engines.json_text import to_one_line

TRAIN: Final = "train.jsonl"
HELDOUT: Final = "heldout.jsonl"
CARD: Final = "card.md"
IMAGES: Final = "images"

Role = Literal["system", "user", "assistant"]
_ROLES: Final = frozenset({"system", "user", "assistant"})


class DatasetError(ValueError):
    """A file of a data set cannot be used; the message names the file and the line.

    Args:
        message: what is wrong.
        message_zh: the same in Chinese.
    """

    def __init__(self, message: str, message_zh: str) -> None:
        super().__init__(message)
        self.message_zh = message_zh

    @classmethod
    def at(cls, place: str, place_zh: str, error: Exception) -> DatasetError:
        """Say where an error is; one that is not ours is in English in both."""
        return cls(f"{place}: {error}", f"{place_zh}：{getattr(error, 'message_zh', error)}")


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a message: exactly one of both is set.

    Attributes:
        text: what is said.
        picture: a path inside the folder, with forward slashes.
    """

    text: str = ""
    picture: str = ""


@dataclass(frozen=True, slots=True)
class Turn:
    """One message.

    Attributes:
        role: who speaks.
        parts: in order.
    """

    role: Role
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """All that is said, pictures left out."""
        return "\n".join(part.text for part in self.parts if not part.picture)


@dataclass(frozen=True, slots=True)
class Example:
    """A conversation that ends with the wanted answer.

    Attributes:
        id: unique in its file.
        turns: the last is the assistant's, the one before it the user's.
        slice: what its accuracy is counted under, such as ``zh``, ``en`` or ``pages``.
        kind: of picture or question; empty if nothing was said of it.
    """

    id: str
    turns: tuple[Turn, ...]
    slice: str
    kind: str = ""

    @property
    def question(self) -> str:
        """The last question's text."""
        return self.turns[-2].text

    @property
    def answer(self) -> str:
        """The wanted answer."""
        return self.turns[-1].text

    @property
    def pictures(self) -> tuple[str, ...]:
        """The paths of all pictures, in order."""
        return tuple(part.picture for turn in self.turns for part in turn.parts if part.picture)


def read_examples(path: Path, *, checks_pictures: bool = True) -> Iterator[Example]:
    """Read a file of examples, one at a time; empty lines are passed over.

    Args:
        path: a ``.jsonl`` file; its pictures lie in the folder it is in.
        checks_pictures: a picture that is not there is an error.

    Raises:
        DatasetError: naming the file and line.
        OSError: if the file cannot be read.
    """
    seen: set[str] = set()
    # Bytes, as str.splitlines() and universal newlines would cut inside a text.
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                example = parse_example(json.loads(line))
                if example.id in seen:
                    raise DatasetError(f"the id {example.id!r} was used before", f"id {example.id!r} 已在前面使用")
                for picture in example.pictures if checks_pictures else ():
                    if not (path.parent / picture).is_file():
                        raise DatasetError(f"there is no picture {picture}", f"没有图片 {picture}")
            except ValueError as error:  # DatasetError, bad JSON, bad UTF-8
                raise DatasetError.at(f"{path.name}, line {number}", f"{path.name} 第 {number} 行", error) from None
            seen.add(example.id)
            yield example


def parse_example(value: Any) -> Example:
    """Make an example of one line's JSON.

    Raises:
        DatasetError: saying what is wrong with it.
    """
    if not isinstance(value, dict):
        raise DatasetError("it is not a JSON object", "不是 JSON 对象")
    messages = value.get("messages")
    if not isinstance(messages, list) or not messages:
        raise DatasetError("`messages` must be a list of messages", "`messages` 必须是消息列表")
    turns = tuple(_parse_turn(message) for message in messages)
    roles = [turn.role for turn in turns]
    if roles[0] == "system":
        roles = roles[1:]
    if not roles or roles != ["user", "assistant"] * (len(roles) // 2):
        raise DatasetError(
            "the roles must be user and assistant in turn, the last one assistant; system may come first",
            "角色必须是 user 与 assistant 交替，最后一个是 assistant；开头可以是 system",
        )
    if any(part.picture for turn in turns if turn.role != "user" for part in turn.parts):
        raise DatasetError("only the user's messages may have pictures", "只有 user 的消息可以带图片")
    if not turns[-1].text.strip():
        raise DatasetError("the assistant's last message is empty", "assistant 的最后一条消息为空")
    return Example(_text_of(value, "id"), turns, _text_of(value, "slice"), _text_of(value, "kind", default=""))


def to_json(example: Example) -> dict[str, Any]:
    """Return what `parse_example` reads."""
    found: dict[str, Any] = {
        "id": example.id,
        "messages": [{"role": turn.role, "content": _to_content(turn)} for turn in example.turns],
        "slice": example.slice,
    }
    return found | {"kind": example.kind} if example.kind else found


def write_examples(path: Path, examples: Iterable[Example]) -> int:
    """Write a file of examples; returns how many.

    Raises:
        OSError: if it cannot be written.
    """
    lines = [to_one_line(json.dumps(to_json(example), ensure_ascii=False)) + "\n" for example in examples]
    path.write_text("".join(lines), "utf-8", newline="\n")
    return len(lines)


def _to_content(turn: Turn) -> str | list[dict[str, Any]]:
    if turn.role != "user":
        return turn.text
    return [
        {"type": "image_url", "image_url": {"url": part.picture}}
        if part.picture
        else {"type": "text", "text": part.text}
        for part in turn.parts
    ]


def _parse_turn(message: Any) -> Turn:
    if not isinstance(message, dict) or message.get("role") not in _ROLES:
        raise DatasetError(
            "each message needs a `role`: system, user or assistant", "每条消息都需要 `role`：system、user 或 assistant"
        )
    content = message.get("content")
    if isinstance(content, str):
        return Turn(message["role"], (Part(text=content),))
    if not isinstance(content, list):
        raise DatasetError("`content` must be a text or a list of parts", "`content` 必须是文本或内容列表")
    return Turn(message["role"], tuple(_parse_part(part) for part in content))


def _parse_part(part: Any) -> Part:
    match part:
        case {"type": "text", "text": str(text)}:
            return Part(text=text)
        case {"type": "image_url", "image_url": {"url": str(url)}}:
            return Part(picture=_checked(url))
    raise DatasetError(
        "a part must be a text, or an `image_url` with a `url`", "内容必须是文本，或带 `url` 的 `image_url`"
    )


def _checked(url: str) -> str:
    """Refuse what does not lie in the folder: a data set is read on other machines, and its paths must lead nowhere."""
    path = PurePosixPath(url)
    if not url or ":" in url or "\\" in url or "\0" in url or path.is_absolute() or ".." in path.parts:
        raise DatasetError(
            f"a picture is a path inside the folder, such as {IMAGES}/a.png, not {url[:80]!r}",
            f"图片必须是目录内的路径，例如 {IMAGES}/a.png，而不是 {url[:80]!r}",
        )
    return str(path)


def _text_of(value: dict[str, Any], name: str, default: str | None = None) -> str:
    found = value.get(name, default)
    if not isinstance(found, str) or (not found and default is None):
        raise DatasetError(f"`{name}` must be a text", f"`{name}` 必须是文本")
    return found

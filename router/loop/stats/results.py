"""What `glowl eval` asked and was answered: a file of JSON lines that grows while it runs.

In: answers, one after another. Out: the same again, from a file of an earlier run. The first line says what was
measured (`Header`), each further one is an answer (`Answer`); of two answers to one question in one way, the later
counts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from engines.dataset_format import Example
from engines.json_text import to_one_line
from policies.language import detect
from router.loop.stats.metrics import NO_ANSWER, Scores, score

KIND: Final = "glowl.evaluation"
SEVERAL_PICTURES: Final = "pages"


class ResultsError(ValueError):
    """A file is no file of results; the message says why."""


@dataclass(frozen=True, slots=True)
class Header:
    """What was measured.

    Attributes:
        questions: SHA-256 of the questions and the right answers, pictures included.
        num_questions: how many there are.
        data: the folder, as it was written; for people.
    """

    questions: str
    num_questions: int
    data: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer to one question.

    Attributes:
        id: of the question.
        arm: who was asked in which way: a model name, or ``glowl@fast``.
        group: questions of one group share pictures, and are not independent of each other.
        slices: under which its score is counted.
        right: the wanted answer.
        said: the answer; None if there is none.
        error: why there is none.
        model: who answered, as the service says.
        revision: of the weights that answered; empty if the service does not say.
        seconds: until the whole answer was there.
        adapter_revision: of the weights with the adapter that answered; empty if none did, or the service does not say.
    """

    id: str
    arm: str
    group: str
    slices: tuple[str, ...]
    right: str
    said: str | None = None
    error: str = ""
    model: str = ""
    revision: str = ""
    seconds: float = 0.0
    adapter_revision: str = ""

    @property
    def scores(self) -> Scores:
        """How good it is; none at all is as bad as a wrong one."""
        return NO_ANSWER if self.said is None else score(self.right, self.said)


@dataclass(frozen=True, slots=True)
class Results:
    """All of a file.

    Attributes:
        header: its first line.
        answers: by arm, then by the question's id.
    """

    header: Header
    answers: Mapping[str, Mapping[str, Answer]] = field(default_factory=dict)

    def missing(self, arm: str) -> int:
        """Return how many questions have not been put to an arm, or not been answered for a passing reason."""
        return self.header.num_questions - len(self.answers.get(arm, {}))


def read_results(path: Path) -> Results:
    """Read a file; a last line that was cut off by the end of its process is passed over.

    Raises:
        ResultsError: if it is none of ours.
        OSError: if it cannot be read.
    """
    lines = path.read_bytes().splitlines()
    try:
        first = json.loads(lines[0])
        if first.pop("object") != KIND:
            raise ValueError(first)
        header = Header(**first)
    except (IndexError, KeyError, ValueError, TypeError, AttributeError):
        raise ResultsError(f"{path} is no file that `glowl eval` has written") from None
    answers: dict[str, dict[str, Answer]] = {}
    for number, line in enumerate(lines[1:], 2):
        try:
            found = json.loads(line)
            answer = Answer(**{**found, "slices": tuple(found["slices"])})
        except (ValueError, TypeError, KeyError):
            if number == len(lines):
                break
            raise ResultsError(f"{path}, line {number} is no answer") from None
        answers.setdefault(answer.arm, {})[answer.id] = answer
    return Results(header, answers)


def to_line(value: Header | Answer) -> bytes:
    """Write a line of the file."""
    found: dict[str, Any] = asdict(value)
    if isinstance(value, Header):
        found = {"object": KIND, **found}
    return to_one_line(json.dumps(found, ensure_ascii=False)).encode() + b"\n"


def slices_of(example: Example) -> tuple[str, ...]:
    """Name what a question's score is counted under: what the data set says, its language, and several pictures."""
    names = {example.slice, detect(example.question)}
    if len(set(example.pictures)) > 1:
        names.add(SEVERAL_PICTURES)
    return tuple(sorted(names - {"", "none"}))


def groups_of(questions: Sequence[tuple[str, Sequence[str]]]) -> dict[str, str]:
    """Name the group of each question: those that share a picture, directly or by way of a third, are of one.

    Args:
        questions: the id of each, with the hashes of its pictures; one without any is a group of its own.
    """
    above: dict[str, str] = {}

    def top(name: str) -> str:
        while above.setdefault(name, name) != name:
            name = above[name]
        return name

    for name, hashes in questions:
        for each in hashes:
            above[top(each)] = top(hashes[0])
        if not hashes:
            top(f"question {name}")
    return {name: top(hashes[0] if hashes else f"question {name}") for name, hashes in questions}


def iter_answers(results: Results, arm: str) -> Iterator[Answer]:
    """Yield an arm's answers, in the order of their ids."""
    of_arm = results.answers.get(arm, {})
    return (of_arm[name] for name in sorted(of_arm))

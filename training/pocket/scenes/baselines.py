"""What an answerer could reach without understanding the question, and when a reply counts as right.

In: questions. Out: the share of right answers of each shortcut, to be printed beside every score.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

from training.pocket.scenes.nouns import Question

# Fewer examples of the very same text say nothing about what its answers usually are.
_FEWEST_SAME_TEXT = 8


def blind_baselines(questions: Sequence[Question]) -> dict[str, float]:
    """Accuracy of strategies that do not answer the question, by name.

    "majority" gives the most frequent answer for the question's type, language and form, "majority of the text" for
    the very same words; both are learned on one half of the questions and judged on the other. "any visible candidate"
    names one of the things a glance would offer. The others are each type's own shortcuts: "the fuller picture".

    Args:
        questions: of one type; of several, only strategies that all of them know are listed.

    Raises:
        ValueError: fewer than two questions.
    """
    if len(questions) < 2:
        raise ValueError("baselines need at least two questions")
    baselines = {
        "majority": _majority(questions, by_text=False),
        "majority of the text": _majority(questions, by_text=True),
    }
    if all(question.candidates for question in questions):
        shares = [(question.answer in question.candidates) / len(question.candidates) for question in questions]
        baselines["any visible candidate"] = sum(shares) / len(shares)
    names = set.intersection(*({name for name, _ in question.guesses} for question in questions))
    for name in sorted(names):
        right = sum(dict(question.guesses)[name] == question.answer for question in questions)
        baselines[name] = right / len(questions)
    return baselines


def blind_baseline(questions: Sequence[Question]) -> float:
    """Accuracy of the best strategy of `blind_baselines`."""
    return max(blind_baselines(questions).values())


def _majority(questions: Sequence[Question], *, by_text: bool) -> float:
    """Accuracy of the most frequent answer, learned on the other half."""
    right = 0
    halves = questions[::2], questions[1::2]
    for judged, learned in (halves, halves[::-1]):
        by_form: defaultdict[object, Counter[str]] = defaultdict(Counter)
        for question in learned:
            by_form[_form(question)][_class_of(question)] += 1
            by_form[question.text][_class_of(question)] += 1
        for question in judged:
            seen = by_form[_form(question)]
            if by_text and by_form[question.text].total() >= _FEWEST_SAME_TEXT:
                seen = by_form[question.text]
            if seen:
                right += seen.most_common(1)[0][0] == _class_of(question)
    return right / len(questions)


def _form(question: Question) -> tuple[str, str, str]:
    return question.type, question.lang, question.form


def _class_of(question: Question) -> str:
    return question.answer_class or question.answer


def is_right(question: Question, reply: str) -> bool:
    """Whether a reply says what was asked for.

    Case, spaces at the ends and a final full stop do not count. A description is right when it names exactly the same
    shapes, in any order.
    """
    said, expected = _plain(reply), _plain(question.answer)
    if question.type == "describe":
        return _parts(said) == _parts(expected)
    return said == expected


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold().rstrip(".。!！")


def _parts(text: str) -> list[str]:
    text = re.sub(r"^(there (is|are) |图中有)", "", text)
    parts = re.split(r",\s*(?:and\s+)?|\s+and\s+|、|和", text)
    return sorted(part.strip() for part in parts)

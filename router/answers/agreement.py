"""How far two answers to the same question say the same.

In: two texts and the question. Out: `Agreement`: a score, what it was computed from, and where the two contradict each
other. Pure functions; `merge` calls them.

Four things are compared, each only where both texts have it: numbers, yes or no, which of the offered options is named,
and words. The first three decide: the score is the lowest of them, and words only scale it between that value and 60 %
of it. With nothing decisive, the score is that of the words.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Final, Literal

from router.answers.quantities import Quantity, fold, plain, take_quantities

Kind = Literal["number", "yes_no", "choice", "field"]
Script = Literal["han", "latin", "other"]

# Two answers with the same number or the same yes may use entirely different words.
_DECISIVE_SHARE: Final = 0.6
_MAX_SHOWN: Final = 20
_MAX_CHARS: Final = 20_000

_LATIN_WORD: Final = re.compile(r"[a-zÀ-ɏ][a-z0-9À-ɏ]*(?:'[a-z]+)?")
_HAN: Final = re.compile(r"[㐀-鿿]")
_HAN_RUN: Final = re.compile(r"[㐀-鿿]+")
_OTHER_WORD: Final = re.compile(r"[^\W\d_a-zÀ-ɏ㐀-鿿]+")
_FUNCTION_WORDS_EN: Final = (
    "a an the is are was were be been am it its there this that these those they he she in on at of to and i can see "
    "has have picture image photo shows show shown yes no"
)
_FUNCTION_WORDS: Final = frozenset(_FUNCTION_WORDS_EN.split())
# Split a run of Han characters here: roughly, the rest are the words with meaning.
_HAN_FUNCTION: Final = re.compile(r"[的了着吗呢啊吧是在有和与及]|图中|图片中?|图里")

_NEGATED: Final = r"(?:not|no|never|none|neither|cannot)\b|\w+n't\b"
_EN_NO: Final = re.compile(r"(?:no|nope|false|incorrect|not\s+really)\b(?!\s*\.?\s*\d)")
_EN_YES: Final = re.compile(r"(?:yes|yeah|yep|true|correct|indeed|definitely)\b")
_EN_STATED: Final = re.compile(
    r"(?:(?:in|on)\s+(?:the|this)\s+(?:picture|image|photo)\W+)?(?:there\s+(?:is|are|was|were)|(?:it|he|she|they)\s+(?:is|are|does|do|has|have|can))\b"
)
_EN_FIRST: Final = re.compile(r"[^.!?;,\n]*")
_ZH_NO: Final = re.compile(r"(?:不(?![仅但过同确清知]|错)|没(?!错)|否|并非|并不|并没|未|错(?!过|落))")
_ZH_YES: Final = re.compile(
    r"(?:是的|是(?=$|[,.!;、。])|对(?=$|[,.!;、。的])|没错|确实|正确|的确|有的|有(?=$|[,.!;、。]))"
)
_ZH_HEAD: Final = r"(?:(?:这|那|该)?(?:张)?(?:图片|图像|照片|画面|图)?(?:中|里|上)?(?:的)?[^,.!?;、。]{0,6}?)"
_ZH_STATED_NO: Final = re.compile(rf"{_ZH_HEAD}(?:没有|不是|并没有|并不是|不存在|看不到|不在|没)")
_ZH_STATED_YES: Final = re.compile(
    r"(?:(?:这|该)?(?:张)?(?:图片|图像|照片|画面|图)(?:中|里|上)?(?:确实)?)?(?:有|存在)(?![没些时点人])"
)
_EN_POLAR: Final = re.compile(
    r"(?:^|[.!?,;\n]\s*)(?:is|are|was|were|does|do|did|can|could|has|have|will|would|should)(?:n't)?\s+(?!not)\w"
)
_ZH_POLAR: Final = re.compile(r"吗|是否|是不是|有没有|能不能|对不对|会不会|可不可以|有无")
_EN_COUNT: Final = re.compile(r"\bhow\s+many\b|\bnumber\s+of\b|\bcount\b")
_ZH_COUNT: Final = re.compile(r"多少|几[个只张条辆位人件本块把朵棵座颗种名]|数量")
_NONE_AT_ALL: Final = re.compile(
    r"(?:there\s+(?:is|are)\s+)?(?:no|none|not\s+any|zero)\b|(?:图[中里]?|图片[中里])?(?:没有|无)"
)

_LETTER_OPTION: Final = re.compile(r"(?:^|(?<=[\s(,;:,。?]))\(?([a-h])\s*[.):、]\s*")
_LETTER_ANSWER: Final = re.compile(
    r"(?:(?:the\s+)?(?:correct\s+)?(?:answer|option|choice)(?:\s+is)?\s*:?\s*|(?:正确)?(?:答案|选项)(?:是|为)?\s*:?\s*|选择?\s*)?"
    r"\(?([a-h])(?:[).,:、;。]|\s*$|(?=[㐀-鿿]))"
)
_CLAUSE_END: Final = re.compile(r"[.?!;:\n]")


@dataclass(frozen=True, slots=True)
class Conflict:
    """One thing that two answers say differently.

    Attributes:
        kind: ``number``, ``yes_no``, ``choice``, or ``field`` of a JSON answer.
        first: what GLM said; of numbers, those that only it names.
        second: what was held against it: what Owl2 said, or the composed answer.
        path: of a field, its JSON pointer.
    """

    kind: Kind
    first: Any
    second: Any
    path: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form."""
        place = {} if self.path is None else {"path": self.path}
        return {"kind": self.kind, **place, "first": self.first, "second": self.second}


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far two answers say the same.

    Attributes:
        score: 0 to 1; None if they have nothing that can be compared, such as different scripts and no numbers.
        basis: what was compared: ``numbers``, ``yes_no``, ``choice``, ``tokens``, ``fields``; with ``composed``, also
            against the composed answer.
        conflicts: where they contradict each other.
    """

    score: float | None = None
    basis: tuple[str, ...] = ()
    conflicts: tuple[Conflict, ...] = ()


def compare(first: str, second: str, question: str = "") -> Agreement:
    """Score how far two answers agree.

    Numbers are equal however they are written (1,200 and 1.2千, 50% and 百分之五十, 1.5 kg and 1500 g); their score is
    the F1 of the two multisets. Yes or no, and the option named, are equal or not. Words are Latin words and pairs of
    neighbouring Han characters, without function words and without the words of the question; their score is the F1 of
    multisets, and they are only compared in one script.

    Args:
        first: GLM's answer.
        second: the other one.
        question: what was asked: whether it is about yes or no, a count, or offers options.
    """
    left, right, asked = (fold(text[:_MAX_CHARS]).strip() for text in (first, second, question))
    parts: dict[str, float] = {}
    conflicts: list[Conflict] = []
    numbers = _numbers(left, asked), _numbers(right, asked)
    if numbers[0] and numbers[1] and not all(each.is_article for side in numbers for each in side):
        num_shared, only_left, only_right = _match(*numbers)
        parts["numbers"] = 2 * num_shared / (2 * num_shared + len(only_left) + len(only_right))
        if only_left and only_right:
            conflicts.append(Conflict("number", _shown(only_left), _shown(only_right)))
    said = _yes_or_no(left, asked), _yes_or_no(right, asked)
    if said[0] is not None and said[1] is not None:
        parts["yes_no"] = float(said[0] == said[1])
        if said[0] != said[1]:
            conflicts.append(Conflict("yes_no", *("yes" if each else "no" for each in said)))
    chosen = _choices(left, right, asked)
    if chosen is not None:
        parts["choice"] = float(chosen[0] == chosen[1])
        if chosen[0] != chosen[1]:
            conflicts.append(Conflict("choice", *chosen))
    decisive = min(parts.values(), default=None)
    words = _word_score(left, right, asked, is_all_there_is=decisive is None)
    if words is not None:
        parts["tokens"] = words
    if decisive is None:
        score = words
    else:
        score = decisive if words is None else decisive * (_DECISIVE_SHARE + (1 - _DECISIVE_SHARE) * words)
    return Agreement(None if score is None else round(score, 3), tuple(parts), tuple(conflicts))


def combine(earlier: Agreement, composed: Agreement) -> Agreement:
    """Join what two answers in different scripts had in common with what the composed answer made of the first.

    The lower score counts: a composed answer that only repeats the draft agrees with it whatever Owl2 had found.
    """
    scores = [each.score for each in (earlier, composed) if each.score is not None]
    basis = dict.fromkeys((*earlier.basis, *composed.basis, *(("composed",) if composed.basis else ())))
    kinds = {conflict.kind for conflict in earlier.conflicts}
    later = (conflict for conflict in composed.conflicts if conflict.kind not in kinds)
    return Agreement(min(scores, default=None), tuple(basis), (*earlier.conflicts, *later))


def script_of(text: str) -> Script | None:
    """Return the script that most of a text's words are in; None for a text without words."""
    folded = fold(text)
    counts: dict[Script, int] = {
        "latin": len(_LATIN_WORD.findall(folded)),
        "han": len(_HAN.findall(folded)),
        "other": len(_OTHER_WORD.findall(folded)),
    }
    script = max(counts, key=lambda name: counts[name])
    return script if counts[script] else None


def _numbers(text: str, question: str) -> list[Quantity]:
    """Find what is counted; "one" and 一 are numbers only where there is no other, or a count is asked for."""
    found, _ = take_quantities(text)
    if _EN_COUNT.search(question) or _ZH_COUNT.search(question):
        if not found and _NONE_AT_ALL.match(text):
            return [Quantity(Decimal(0))]
        found = [replace(each, is_article=False) for each in found]
    return [each for each in found if not each.is_article] or found


def _match(left: list[Quantity], right: list[Quantity]) -> tuple[int, list[Quantity], list[Quantity]]:
    """Pair off equal quantities: with their units first, then with a unit that only one of the two names."""
    num_shared = 0
    for left_key, right_key in ((_exactly, _exactly), (_with_unit, _without_unit), (_without_unit, _with_unit)):
        shared = Counter(map(left_key, left)) & Counter(map(right_key, right))
        del shared[None]
        num_shared += shared.total()
        left, right = _without(left, left_key, shared), _without(right, right_key, shared)
    return num_shared, left, right


def _exactly(quantity: Quantity) -> Hashable:
    return quantity.unit, quantity.base


def _with_unit(quantity: Quantity) -> Hashable:
    return quantity.value if quantity.unit not in ("", "date", "time") else None


def _without_unit(quantity: Quantity) -> Hashable:
    return None if quantity.unit else quantity.value


def _without(
    quantities: list[Quantity], key: Callable[[Quantity], Hashable], taken: Counter[Hashable]
) -> list[Quantity]:
    left = Counter(taken)
    rest = []
    for quantity in quantities:
        if left[key(quantity)] > 0:
            left[key(quantity)] -= 1
        else:
            rest.append(quantity)
    return rest


def _shown(quantities: list[Quantity]) -> list[str]:
    return sorted(each.shown for each in quantities)[:_MAX_SHOWN]


def _yes_or_no(text: str, question: str) -> bool | None:
    """Return what an answer begins with; a bare statement or denial counts if the question asks for yes or no."""
    if _ZH_YES.match(text) or _EN_YES.match(text):
        return True
    if _EN_NO.match(text) or _ZH_NO.match(text):
        return False
    if question and not _EN_POLAR.search(question) and not _ZH_POLAR.search(question):
        return None
    first = _EN_FIRST.match(text)
    clause = first[0] if first else ""
    if _ZH_STATED_NO.match(text):
        return False
    if re.search(rf"\b(?:{_NEGATED})", clause):
        return False
    if _ZH_STATED_YES.match(text) or (clause.startswith("there ") and _EN_STATED.match(text)):
        return True
    return None


def _choices(left: str, right: str, question: str) -> tuple[str, str] | None:
    """Return which of the question's options each answer names, if each names exactly one."""
    letters = _letter_options(question)
    if len(letters) >= 2:
        named = [_letter_of(text, letters) for text in (left, right)]
    else:
        options = _offered(question)
        if len(options) < 2:
            return None
        named = [_only_one(text, {option: option for option in options}) for text in (left, right)]
    if named[0] is None or named[1] is None:
        return None
    return named[0], named[1]


def _letter_options(question: str) -> dict[str, str]:
    """Read options marked by letters in order from A: ``A. red  B. blue``."""
    marks: list[re.Match[str]] = []
    for match in _LETTER_OPTION.finditer(question):
        if match[1] == "abcdefgh"[len(marks) % 8]:
            marks.append(match)
    ends = [mark.start() for mark in marks[1:]] + [len(question)] * bool(marks)
    return {mark[1].upper(): plain(question[mark.end() : end]) for mark, end in zip(marks, ends, strict=True)}


def _letter_of(text: str, options: dict[str, str]) -> str | None:
    match = _LETTER_ANSWER.match(text)
    if match is not None and match[1].upper() in options:
        return match[1].upper()
    return _only_one(text, {letter: words for letter, words in options.items() if words})


def _offered(question: str) -> list[str]:
    """Read the options of "A or B" and A还是B, as short as tells them apart."""
    if "还是" in question:
        before, after = question.rsplit("还是", 1)
        before = re.split(r"[,.?!;:、。]|(?<=.)[是在为有](?=.)", before)[-1]
        after = re.split(r"[,.?!;:、。]", after)[0].rstrip("的呢吗啊 ")
        before = before.strip().rstrip("的")
        while len(before) > 1 and len(after) > 1 and before[-1] == after[-1]:
            before, after = before[:-1], after[:-1]
        while len(before) > 1 and len(after) > 1 and before[0] == after[0]:
            before, after = before[1:], after[1:]
        after = after.strip()
        before = before.strip()[-len(after) :] if after else ""
        return [before, after] if before and after and before != after else []
    before, found, after = question.partition(" or ")
    before, after = _CLAUSE_END.split(before)[-1], _CLAUSE_END.split(after)[0]
    if not found:
        return []
    pieces = [piece.strip() for piece in before.split(",") if piece.strip()]
    options: list[str] = []
    for piece in reversed(pieces):
        words = _content(_LATIN_WORD.findall(piece))
        if words:
            options.insert(0, words[-1])
        if len(piece.split()) > 2:
            break
    last = _content(_LATIN_WORD.findall(after))
    options = list(dict.fromkeys([*options, *last[:1]]))
    return options if len(options) > 1 else []


def _only_one(text: str, options: dict[str, str]) -> str | None:
    """Return the one option whose words a text has, denied ones aside."""
    named = []
    for name, words in options.items():
        is_han = _HAN.search(words) is not None
        pattern = re.escape(words) if is_han else rf"(?<![a-z]){re.escape(words)}(?![a-z])"
        asserted = (
            rf"(?<!不是)(?<!没有)(?<!并非){pattern}"
            if is_han
            else rf"(?<!not )(?<!not a )(?<!not the )(?<!no ){pattern}"
        )
        if re.search(asserted, text):
            named.append(name)
    return named[0] if len(named) == 1 else None


def _word_score(left: str, right: str, question: str, *, is_all_there_is: bool) -> float | None:
    scripts = script_of(left), script_of(right)
    if scripts[0] is None or scripts[0] != scripts[1]:
        return None
    counted = [_tokens(text, with_function_words=is_all_there_is) for text in (left, right)]
    known = set(_tokens(question))
    new = [Counter({token: number for token, number in each.items() if token not in known}) for each in counted]
    if new[0] and new[1]:
        counted = new
    return _f1(*counted) if counted[0] and counted[1] else None


def _tokens(text: str, *, with_function_words: bool = False) -> Counter[str]:
    """Count the words of a text, or pairs of Han characters; function words only where there are no others."""
    text = take_quantities(text)[1]
    words, runs = _LATIN_WORD.findall(text), _HAN_RUN.findall(text)
    pieces = [piece for run in runs for piece in _HAN_FUNCTION.split(run) if piece]
    content = _content(words)
    if with_function_words and not content and not pieces:
        content, pieces = words, runs
    tokens = Counter(map(_singular, content))
    tokens.update(_OTHER_WORD.findall(text))
    for piece in pieces:
        tokens.update([piece[i : i + 2] for i in range(len(piece) - 1)] or [piece])
    return tokens


def _content(words: list[str]) -> list[str]:
    return [word for word in words if word not in _FUNCTION_WORDS]


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _f1(left: Counter[str], right: Counter[str]) -> float:
    return 2 * (left & right).total() / (left.total() + right.total())

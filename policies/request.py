"""First step of a decision: tell what is asked from what comes with it.

In: the text of a user's turn. Out: the request in its own words. Taken out are what it brings (pasted text, code, logs,
SQL, tables, e-mails, formulas, long quotations), courtesy (greetings, thanks, forms of address), wishes about form and
length, and the frames that client libraries put around a question. Language, cues and length are read from the rest.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

from policies import request_guards as guards
from policies import request_words as words

Kind = Literal["code", "formula", "log", "mail", "quotation", "table", "text"]
# Where a formula was: "solve" beside one is more than one step.
FORMULA: Final = "\ufffc"
# What is left of a sentence that was all formula or quotation.
_MARKS: Final = f"x{FORMULA}{words.EDGE}"
# A request stands at the head or at the tail of what is pasted with it; more would only cost time.
_MAX_SIDE_CHARS: Final = 800
_MAX_COLONS: Final = 3
# Of more lines or sentences, the first and the last half are read.
_MAX_LINES: Final = 80
# No courtesy and no wish about form is longer than this in one clause.
_MAX_CLAUSE_CHARS: Final = 80
# Of a whole turn that thanks and says goodbye.
_MAX_COURTESY_CHARS: Final = 120
# Longer than this, a paragraph that asks nothing is brought along; a shorter one says what the question is about.
_MAX_CONTEXT_WORDS: Final = 24
# The same for sentences on other lines than the one that asks.
_MAX_APART_WORDS: Final = 12
_WIDE_MARKS: Final = tuple((mark, unicodedata.normalize("NFKC", mark)) for mark in "，？！：；（）")
# Marks around a whole turn stand in one another seldom, and no deeper.
_MAX_WRAPS: Final = 4


@dataclass(frozen=True, slots=True)
class Request:
    """What a turn asks, apart from what it brings.

    Attributes:
        text: the request, width variants folded, one sentence a line; empty if nothing but courtesy and form was said.
        spoken: the words that show the language: the request, or the courtesy where there is nothing else.
        is_courtesy: the turn greets, thanks or agrees and asks nothing.
        answer_language: "zh" or "en" if the turn says in which language to answer; None if it doesn't.
    """

    text: str
    spoken: str
    is_courtesy: bool = False
    answer_language: Literal["en", "zh"] | None = None


def find_request(text: str) -> Request:
    """Find the request in a turn.

    Args:
        text: any string. Of a long one the first and last 800 characters are read.
    """
    return _find(bound(text))


def bound(text: str) -> str:
    """Return a text, or the head and the tail of a long one; a code fence that the cut opens or closes stays one."""
    if len(text) <= 2 * _MAX_SIDE_CHARS:
        return text
    head, tail = text[:_MAX_SIDE_CHARS], text[-_MAX_SIDE_CHARS:]
    if head.count("```") % 2:
        head += "\n```"
    if tail.count("```") % 2:
        tail = f"```\n{tail}"
    return f"{head}\n{tail}"


def find_answer_language(text: str) -> Literal["en", "zh"] | None:
    """Return the language that a text, such as a system prompt, asks the answer to be in."""
    return _answer_language(_fold(text))


def _fold(text: str) -> str:
    """Fold width variants; what grows by that is cut again."""
    text = bound(text)
    if text.isascii():
        return text
    # Of most Chinese only the marks change; then asking whether anything else would is ten times cheaper than doing it.
    for wide, narrow in _WIDE_MARKS:
        text = text.replace(wide, narrow)
    return text if unicodedata.is_normalized("NFKC", text) else bound(unicodedata.normalize("NFKC", text))


class _Sentence:
    """One sentence of prose, its courtesy taken out, and what the choice between request and paste looks at."""

    __slots__ = ("_size", "asks", "is_han", "is_sure", "line", "points", "text", "whole")

    def __init__(self, text: str, line: int, whole: str) -> None:
        self.text = text
        self.line = line
        self.whole = whole
        self.is_han = words.HAN.search(text) is not None
        self.asks = self.is_sure = self.points = False
        self._size = -1.0

    @property
    def size(self) -> float:
        """Length in words."""
        if self._size < 0:
            self._size = guards.num_han(self.text) / 1.7 + len(words.LATIN_WORD.findall(self.text))
        return self._size

    def judge(self) -> None:
        """Find out whether it asks, and whether it speaks of a text; needed only where there are several."""
        if self.is_han:
            # "帮我看看" asks, and is courtesy.
            said = (self.text,) if self.text == self.whole else (self.text, self.whole)
            self.is_sure = any(map(guards.surely_asks_in_chinese, said))
            self.asks = self.is_sure or any(map(words.may_ask_in_chinese, said))
            self.points = self.asks and guards.points_in_chinese(self.text)
        else:
            self.asks = self.is_sure = words.asks_in_latin(self.text)
            self.points = self.asks and words.EN_POINTS.search(self.text) is not None
        if self.asks and self.text.endswith(":"):
            # What is to be proved or worked out is the request itself; what is to be translated is not.
            self.points = words.WORKS_OUT.match(self.text) is None


@lru_cache(maxsize=16)
def _find(text: str) -> Request:
    """The language, the score and the pictures of one request all start from this, so that it is kept for a moment."""
    folded = _unwrap(_fold(text).replace("\r\n", "\n").replace("\r", "\n"))
    if (whole := folded.strip()) and len(whole) <= _MAX_COURTESY_CHARS and words.ONLY_COURTESY.fullmatch(whole):
        return Request(text="", spoken=words.EMOJI.sub(" ", whole).strip(), is_courtesy=True)
    brought: set[Kind] = set()
    answer_language = _answer_language(folded)
    prose = _take_blocks(folded if folded.isascii() else words.EMOJI.sub(" ", folded), brought)
    prose = _take_labelled_question(prose, brought)
    sentences: list[_Sentence] = []
    polite: list[str] = []
    has_form = False
    for number, line in enumerate(_prose_lines(prose, brought)):
        for sentence in _ends(_split(line)):
            kept, was_polite, was_form = _strip_courtesy(sentence)
            if was_polite:
                polite.append(sentence)
            has_form |= was_form
            if kept.strip(_MARKS):
                sentences.append(_Sentence(kept, number, sentence))
    chosen = _choose(sentences)
    if len(chosen) < len(sentences):
        brought.add("text")
    kept_text = "\n".join(sentence.text for sentence in chosen)
    return Request(
        text=kept_text,
        spoken=kept_text if words.LETTER.search(kept_text) else " ".join(polite) or prose.strip(),
        is_courtesy=bool(polite) and not sentences and not has_form and not brought,
        answer_language=answer_language,
    )


def _unwrap(text: str) -> str:
    """Take off what stands around the whole turn: marks, tags, mentions, signatures, and a letter's closing."""
    for _ in range(_MAX_WRAPS):
        inner = _unwrap_once(text.strip())
        if inner == text or not words.LETTER.search(inner):
            break
        text = inner
    return text


def _unwrap_once(text: str) -> str:
    if "[" in text or "<" in text:
        text = words.TURN_MARK.sub("\n", text).strip()
    if "*" in text or "~~" in text:
        text = words.EMPHASIS.sub(r"\2", text)
    for pattern in (words.MENTION, words.TAG):
        if found := pattern.match(text):
            text = text[found.end() :]
    for pattern, mark in ((words.TAG_AT_END, words.TAG_MARK), (words.SENT_FROM, words.SENDER_MARK)):
        if mark.search(text) and (found := pattern.search(text)) and not _asks(found[0].strip()):
            text = text[: found.start()]
    found = words.LETTER_END.search(text) if "\n" in text else None
    # A letter that is brought along keeps its closing: by that it is known.
    if found and not _asks(found["name"] or "") and not _has_salutation(text):
        text = text[: found.start()]
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if lines and all(line.startswith(">") and not line.startswith(">>>") for line in lines):
        text = "\n".join(line.lstrip("> \t") for line in lines)
    for pattern in (words.WHOLE_UNDERLINED, words.HEADING, words.WHOLE_QUOTATION):
        if found := pattern.fullmatch(text.strip()):
            text = found[found.lastindex or 0]
    return text


def _has_salutation(text: str) -> bool:
    return any(words.MAIL_SALUTATION.match(line.strip()) for line in text.split("\n"))


def _take_blocks(text: str, brought: set[Kind]) -> str:
    """Take out what has marks around it: fences, formulas, markup; long quotations, where words are left outside."""

    def take(pattern: re.Pattern[str], kind: Kind, mark: str, text: str) -> str:
        taken, count = pattern.subn(mark, text)
        if count:
            brought.add(kind)
        return taken

    if "```" in text or "~~~" in text:
        text = take(words.FENCED, "code", "\n", text)
    if "`" in text:
        text = take(words.INLINE_CODE, "code", " ", text)
    if "$" in text or "\\" in text:
        text = take(words.FORMULA_BLOCK, "formula", f" {FORMULA} ", text)
    if "{" in text:
        text = take(words.JSON_BLOCK, "code", " ", text)
    if "<" in text:
        text = take(words.MARKUP_BLOCK, "code", " ", text)
    unquoted = words.LONG_QUOTATION.sub(" x ", text) if words.QUOTE.search(text) else text
    if unquoted != text and words.LETTER.search(unquoted.replace(" x ", " ")):
        brought.add("quotation")
        return unquoted
    return text


def _take_labelled_question(text: str, brought: set[Kind]) -> str:
    """In "Question: ... Answer:", a frame that client libraries write, only what the label names is the request."""
    labels = list(words.QUESTION_LABEL.finditer(text)) if ":" in text else []
    if not labels:
        return text
    found = labels[-1]
    rest = text[found.end() :]
    answer = words.ANSWER_LABEL.search(rest)
    if answer is not None and rest[answer.end() :].strip():
        return text  # a dialogue, or a worked example: not a frame
    question = rest[: answer.start()] if answer is not None else rest
    if not words.LETTER.search(question):
        return text
    if words.LETTER.search(text[: found.start()]):
        brought.add("text")
    return question


def _prose_lines(text: str, brought: set[Kind]) -> Iterator[str]:
    """Yield the lines that are prose; note what kind the others are."""
    lines = _ends(text.split("\n"))
    if len(lines) == 1:
        yield text
        return
    num_separators = _csv_lines(lines)
    has_headers = sum(words.MAIL_HEADER.match(line.strip()) is not None for line in lines) >= 2
    in_mail = False
    for index, line in enumerate(lines):
        stripped = line.strip()
        if not stripped:
            continue
        if has_headers and words.MAIL_HEADER.match(stripped):
            in_mail = True
            brought.add("mail")
            continue
        if words.MAIL_SALUTATION.match(stripped):
            later = "\n".join(lines[index + 1 :])
            if in_mail or words.MAIL_CLOSING.search(later):
                in_mail = True
                brought.add("mail")
                continue
        if in_mail:
            # The letter ends with its closing, or where a paragraph in another voice asks something.
            if words.MAIL_CLOSING.match(stripped):
                in_mail = False
                if index + 1 < len(lines) and len(lines[index + 1].split()) <= 4 and not _asks(lines[index + 1]):
                    lines[index + 1] = ""
                continue
            if index == _last(lines) and index and not lines[index - 1].strip():
                is_other_script = bool(words.HAN.search(stripped)) != bool(words.HAN.search("".join(lines[:index])))
                if is_other_script or _asks(stripped):
                    yield stripped
            continue
        kind: Kind | None = "table" if index in num_separators else _line_kind(stripped)
        if kind is None:
            yield stripped
        else:
            brought.add(kind)


def _ends(parts: list[str]) -> list[str]:
    """Return the parts, or the first and the last of many."""
    return parts if len(parts) <= _MAX_LINES else [*parts[: _MAX_LINES // 2], *parts[-_MAX_LINES // 2 :]]


def _asks(line: str) -> bool:
    asks = words.asks_in_chinese if words.HAN.search(line) else words.asks_in_latin
    return any(asks(sentence) for sentence in _split(line))


def _last(lines: list[str]) -> int:
    return max(index for index, line in enumerate(lines) if line.strip())


def _line_kind(line: str) -> Kind | None:
    """Say what a line is that is not speech: code, a log, a table, a formula, a quoted line. None = prose."""
    if words.QUOTED_LINE.match(line):
        return "quotation"
    if words.LOG_LINE.match(line):
        return "log"
    if words.TABLE_LINE.match(line):
        return "table"
    if words.RULE_LINE.fullmatch(line):
        return "text"
    if words.HAN.search(words.NOT_PROSE_HAN.sub("", line)) is None and words.CODE_LINE.search(line):
        return "code"
    if words.FORMULA_LINE.fullmatch(line):
        return "formula"
    return None


def _csv_lines(lines: list[str]) -> set[int]:
    """Return the numbers of the lines that make a table: neighbours with the same number of commas, tabs or gaps."""
    found: set[int] = set()
    counts = []
    for line in lines:
        stripped = line.strip()
        cells = words.CELL_BORDER.split(stripped)
        is_cells = (
            len(cells) >= 2 and all(len(cell) <= 24 for cell in cells) and not words.SENTENCE_END.search(stripped)
        )
        if not is_cells or len(cells) < 3:
            # Cells with one blank between them: short, and with numbers or Chinese in them, so no English sentence.
            apart = stripped.split()
            is_short = len(apart) >= 3 and max(map(len, apart)) <= 8 and not words.SENTENCE_END.search(stripped)
            if is_short and words.CELL_TEXT.search(stripped):
                cells, is_cells = apart, True
        counts.append(len(cells) if is_cells else 0)
    for index in range(1, len(counts)):
        # Two cells with a comma between them may be a sentence; with tabs, or three, they are not.
        fewest = 2 if "\t" in lines[index] and "\t" in lines[index - 1] else 3
        if counts[index] == counts[index - 1] >= fewest:
            found |= {index - 1, index}
    return found


def _split(line: str) -> list[str]:
    """Split a line into sentences; a colon after words that ask for something ends one too."""
    sentences: list[str] = []
    for piece in guards.sentences(line):
        part = piece.strip()
        for _ in range(_MAX_COLONS):
            head, colon, tail = part.partition(":")
            if not (colon and tail.strip() and words.INTRODUCES.search(head)):
                break
            sentences.append(f"{head.strip()}:")
            part = tail.strip()
        if part:
            sentences.append(part)
    return sentences


def _strip_courtesy(sentence: str) -> tuple[str, bool, bool]:
    """Take courtesy and wishes about form out of a sentence.

    Returns:
        What is left (empty if nothing), and whether courtesy and whether form was found.
    """
    bare = sentence.strip(words.EDGE)
    if not bare:
        return "", False, False
    if not words.HAN.search(bare):
        return _strip_latin(sentence, bare)
    was_polite = was_form = False
    kept: list[str] = []
    parts = guards.clauses(sentence)
    has_prohibition = guards.PROHIBITION.search(sentence) is not None
    for index in range(0, len(parts), 2):
        inner = parts[index].strip(words.EDGE)
        if not inner:
            continue
        if len(inner) <= _MAX_CLAUSE_CHARS and guards.may_be_kept_out(inner, has_prohibition=has_prohibition):
            if guards.is_courtesy(inner):
                was_polite = True
                continue
            if guards.is_form(inner):
                was_form = True
                continue
        kept += parts[index : index + 2]
    if not kept:
        return "", was_polite, was_form
    text = "".join(kept).strip()
    stripped = guards.without_ending(guards.without_opening(text))
    if not words.HAN.search(stripped) and not words.LATIN_WORD.search(stripped):
        return "", True, was_form
    was_polite |= stripped != text
    stripped = stripped.lstrip(",、:;) ").rstrip(",、;( ")
    # What hands something over still does.
    handed = ":" if sentence.endswith(":") and not stripped.endswith(":") else ""
    return stripped + handed, was_polite, was_form


def _strip_latin(sentence: str, bare: str) -> tuple[str, bool, bool]:
    if words.EN_COURTESY.fullmatch(bare):
        return "", True, False
    if words.EN_FORM.fullmatch(bare) and not sentence.rstrip().endswith("?"):
        return "", False, True
    stripped = words.EN_ENDING.sub("", words.EN_OPENING.sub("", sentence, count=1))
    if not words.LETTER.search(stripped):
        return (sentence.strip(), False, False) if not words.LETTER.search(sentence) else ("", True, False)
    if stripped != sentence and words.EN_COURTESY.fullmatch(stripped.strip(words.EDGE)):
        return "", True, False
    return stripped.strip(), stripped != sentence, False


def _choose(sentences: list[_Sentence]) -> list[_Sentence]:
    """Choose the sentences that are the request; the others are what it brings."""
    if len(sentences) < 2:
        return sentences
    for sentence in sentences:
        sentence.judge()
    asking = [sentence for sentence in sentences if sentence.is_sure]
    if asking:
        # Beside a question, a question word in a statement is part of what is told.
        for sentence in sentences:
            sentence.asks = sentence.is_sure or (sentence.asks and any(one.line == sentence.line for one in asking))
    asking = [sentence for sentence in sentences if sentence.asks]
    if not asking:
        return _without_an_asker(sentences)
    leader = _leader(asking)
    script = leader.is_han
    index = sentences.index(leader)
    chosen = []
    for number, sentence in enumerate(sentences):
        if sentence is leader:
            chosen.append(sentence)
        elif sentence.is_han != script:
            continue
        elif leader.points and number > index and leader.text.endswith(":"):
            if words.FURTHER_STEP.match(sentence.text):
                chosen.append(sentence)
        elif sentence.asks:
            if sentence.line == leader.line or not leader.points or words.FURTHER_STEP.match(sentence.text):
                chosen.append(sentence)
        elif not leader.points:
            chosen.append(sentence)
    return [sentence for sentence in chosen if sentence.asks] if _is_too_long(chosen, leader) else chosen


def _is_too_long(chosen: list[_Sentence], leader: _Sentence) -> bool:
    """Whether the sentences that ask nothing say more than what the question is about; the first of many show it."""
    size = apart = 0.0
    for sentence in chosen:
        if not sentence.asks:
            size += sentence.size
            if sentence.line != leader.line:
                apart += sentence.size
            if size > _MAX_CONTEXT_WORDS or apart > _MAX_APART_WORDS:
                return True
    return False


def _without_an_asker(sentences: list[_Sentence]) -> list[_Sentence]:
    """Of sentences that ask nothing ("In the picture there is"), take all that are short, else the shorter end."""
    sentences = [sentence for sentence in sentences if not sentence.text.endswith(":")] or sentences
    is_one_script = len({sentence.is_han for sentence in sentences}) == 1
    if is_one_script and sum(sentence.size for sentence in sentences) <= _MAX_CONTEXT_WORDS:
        return sentences
    first = [sentence for sentence in sentences if sentence.line == sentences[0].line]
    last = [sentence for sentence in sentences if sentence.line == sentences[-1].line]
    shorter = min(first, last, key=lambda part: sum(sentence.size for sentence in part))
    return [sentence for sentence in shorter if sentence.is_han == shorter[0].is_han]


def _leader(asking: list[_Sentence]) -> _Sentence:
    """Of several sentences that ask, the one that speaks of what was brought, else the first or last that is short."""
    for sentence in asking:
        if sentence.points:
            return sentence
    first, last = asking[0], asking[-1]
    if first.is_han != last.is_han and first.size > 2 * _MAX_CONTEXT_WORDS and last.size < first.size:
        return last
    return first


def _answer_language(folded: str) -> Literal["en", "zh"] | None:
    if not any(name in folded for name in words.LANGUAGES):
        return None
    said = [found.lastgroup for found in words.ANSWER_LANGUAGE.finditer(folded)]
    if not said:
        return None
    return "zh" if said[-1] in ("zh_in_zh", "zh_in_en") else "en"

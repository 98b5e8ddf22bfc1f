"""Whether an audit log is as it was written.

In: the folder. Out: what each process wrote, and every place where a line was changed, taken out, moved or cut.

What cannot be seen: a chain whose end was replaced by whoever could write the folder, head file and all. Against that,
keep the last hash of each chain elsewhere, and ask whether the log still has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from policies.text import Text
from router.audit import texts
from router.audit.chain import DayFile, HeadError, Line, Link, files_in, read_head, read_line

# Longer than any line that is written, whose texts are cut.
MAX_LINE_BYTES: Final = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that no crash explains.

    Attributes:
        file: its name.
        line: counted from 1; 0 if it is about the whole file.
        text: what is wrong.
    """

    file: str
    line: int
    text: Text


@dataclass(slots=True)
class Chain:
    """What one process wrote.

    Attributes:
        name: of the process.
        days: first and last.
        num_lines: on all of them.
        head: its end, as far as the lines are right.
        notes: what a crash or the retention explains.
    """

    name: str
    days: tuple[str, str]
    num_lines: int = 0
    head: Link = field(default_factory=Link)
    notes: list[Text] = field(default_factory=list)


@dataclass(slots=True)
class Report:
    """What was found.

    Attributes:
        chains: in the order of their names.
        problems: in the order of files and lines.
        wanted: hashes that were asked for and are in no line.
    """

    chains: list[Chain] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    wanted: set[str] = field(default_factory=set)

    @property
    def is_good(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems and not self.wanted


def verify(folder: Path, wanted: frozenset[str] = frozenset()) -> Report:
    """Read the whole log.

    Args:
        folder: of the log.
        wanted: hashes of lines, kept elsewhere, that must be in it.

    Raises:
        OSError: if a file cannot be read.
    """
    # First, so that no head is ahead of the lines that are read after it while the log is being written.
    by_chain: dict[str, list[DayFile]] = {}
    files = files_in(folder)
    heads = {file: _read_head(folder, file) for file in files}
    for file in files:
        by_chain.setdefault(file.chain, []).append(file)
    report = Report(wanted=set(wanted))
    marks: dict[DayFile, dict[int, str]] = {}
    for _, days in sorted(by_chain.items()):
        reader = _ChainReader(folder, days, heads, report)
        report.chains.append(reader.read())
        for mark, link in reader.marks:
            marks.setdefault(mark, {})[link.number] = link.hash
    _check_marks(folder, marks, files, report)
    report.problems.sort(key=lambda each: (each.file, each.line))
    return report


class _ChainReader:
    """Reads the files of one process, day by day.

    Attributes:
        marks: how far other chains had come when this one began.
    """

    def __init__(self, folder: Path, files: list[DayFile], heads: dict[DayFile, Link | Text], report: Report) -> None:
        self.marks: list[tuple[DayFile, Link]] = []
        self._folder = folder
        self._files = files
        self._heads = heads
        self._report = report
        self._chain = Chain(files[0].chain, (files[0].day, files[-1].day))
        self._expected: Link | None = None
        # The hash of the line before is not known after one whose own hash is wrong.
        self._is_sure = True
        self._has_stopped = False

    def read(self) -> Chain:
        for file in self._files:
            self._read_file(file, is_last=file == self._files[-1])
        if not self._has_stopped:
            self._chain.notes.append(texts.NOT_ENDED)
        return self._chain

    def _read_file(self, file: DayFile, *, is_last: bool) -> None:
        number, head = 0, self._heads[file]
        at_head = ""
        for number, (text, is_whole) in enumerate(_lines(self._folder / file.name), 1):
            if not is_whole:
                if is_last:
                    self._chain.notes.append(texts.CUT_LINE.fill(line=number))
                else:
                    self._problem(file, number, texts.CHANGED)
                break
            line = read_line(text)
            self._check(file, number, line)
            self._chain.num_lines += 1
            self._report.wanted.discard(line.hash if line.is_intact else "")
            if line.is_intact:
                is_head = isinstance(head, Link) and line.number == head.number
                at_head = line.hash if is_head else at_head
                self._has_stopped = line.record.get("kind") == "stop"
                if line.record.get("chain", file.chain) != file.chain:
                    self._problem(file, number, texts.OTHER_CHAIN)
                self._note_marks(line)
        reached = self._expected.number if self._expected is not None else 0
        if isinstance(head, Text):
            self._chain.notes.append(head)
        elif head.number > reached:
            self._problem(file, number + 1, texts.END_MISSING.fill(number=head.number - reached))
        elif at_head and at_head != head.hash:
            self._problem(file, 0, texts.OTHER_END)

    def _check(self, file: DayFile, number: int, line: Line) -> None:
        if not line.is_intact:
            self._problem(file, number, texts.CHANGED)
            number_here = self._expected.number + 1 if self._expected is not None else max(line.number, 1)
            self._expected, self._is_sure = Link(number_here, line.hash), False
            return
        expected = self._expected
        if expected is None:
            if line.number > 1:
                self._chain.notes.append(texts.BEGINS_LATER.fill(number=line.number))
        elif line.number > expected.number + 1:
            self._problem(file, number, texts.MISSING.fill(number=line.number - expected.number - 1))
        elif line.number <= expected.number:
            self._problem(file, number, texts.MOVED)
            return
        elif self._is_sure and line.before != expected.hash:
            self._problem(file, number, texts.OTHER_BEFORE)
        self._expected, self._is_sure, self._chain.head = line.link, True, line.link

    def _note_marks(self, line: Line) -> None:
        others = line.record.get("others")
        for each in others if isinstance(others, list) else []:
            file = DayFile(str(each["day"]), str(each["chain"]))
            self.marks.append((file, Link(int(each["n"]), str(each["hash"]))))

    def _problem(self, file: DayFile, line: int, text: Text) -> None:
        self._report.problems.append(Problem(file.name, line, text))


def _read_head(folder: Path, file: DayFile) -> Link | Text:
    """Return how far a file went, or why that is not known."""
    try:
        head = read_head(folder / file.head_name)
    except HeadError as error:
        return texts.HEAD_UNREADABLE.fill(file=file.head_name, why=error)
    return texts.NO_HEAD.fill(file=file.head_name) if head is None else head


def _check_marks(folder: Path, marks: dict[DayFile, dict[int, str]], files: list[DayFile], report: Report) -> None:
    """Miss what a later process had seen: days before the first are gone by the retention."""
    for file, links in marks.items():
        if file.day < files[0].day:
            continue
        if file not in files:
            report.problems.append(Problem(file.name, 0, texts.FILE_MISSING))
            continue
        found = {
            line.number: line.hash for text, _ in _lines(folder / file.name) if (line := read_line(text)).is_intact
        }
        if any(found.get(number) != hash_ for number, hash_ in links.items()):
            report.problems.append(Problem(file.name, 0, texts.REWRITTEN))


def _lines(path: Path) -> Iterator[tuple[bytes, bool]]:
    """Yield each line, and whether it has its end."""
    with path.open("rb") as file:
        while text := file.readline(MAX_LINE_BYTES):
            yield text.removesuffix(b"\n"), text.endswith(b"\n")

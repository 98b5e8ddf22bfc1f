"""How much structure a JSON text has, counted while it arrives, before a parser builds anything of it.

In: the pieces of a UTF-8 JSON text, cut anywhere. Out: nothing, or a refusal as soon as there is more than one request
can need. A body of 8 MB can hold 300,000 content parts; validating them stops the event loop for seconds, while the
same 8 MB of one picture take milliseconds. So bytes alone are no bound.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from router import texts
from router.errors import BadRequestError

# Commas outside strings, for each object and list that is accepted: members of objects and lists of numbers.
_COMMAS_PER_ITEM: Final = 8
# A text has at most a name and a value for each comma or bracket, and then one.
_STRINGS_PER_COMMA: Final = 2
_MAX_SHOWN: Final = 64
_NESTED: Final = (dict, list)
_STRING: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
# In a piece so short all strings are found in one go; a picture's megabytes are passed over faster by their end.
_SHORT_BYTES: Final = 16 * 1024
# To the end of a string, or of the piece; a backslash at the end of a piece is left over.
_REST_OF_STRING: Final = re.compile(rb"(?:[^\"\\]++|\\.)*+", re.DOTALL)


class JsonCounter:
    """Counts objects, lists, commas, colons and strings.

    Args:
        max_items: objects and lists that are accepted.
    """

    def __init__(self, max_items: int) -> None:
        self._max_items = max_items
        self._max_commas = max_items * _COMMAS_PER_ITEM
        self._max_strings = (self._max_commas + max_items) * _STRINGS_PER_COMMA
        self._items = self._commas = self._strings = self._members = 0
        self._is_in_string = False
        self._skips_first = False

    def feed(self, piece: bytes) -> None:
        """Count the next bytes.

        Raises:
            BadRequestError: if there are too many of anything by now.
        """
        if len(piece) <= _SHORT_BYTES and not self._is_in_string:
            bare, num_strings = _STRING.subn(b"", piece)
            if b'"' not in bare:  # no string goes on in the next piece
                self._count(bare, 0, len(bare))
                self._strings += num_strings
                self._check()
                return
        at = 0
        while at < len(piece):
            if self._is_in_string:
                at = self._pass_string(piece, at)
                continue
            quote = piece.find(b'"', at)
            end = len(piece) if quote < 0 else quote
            self._count(piece, at, end)
            if quote >= 0:
                self._strings += 1
                self._is_in_string = True
            self._check()
            at = end + 1

    def _count(self, bare: bytes, start: int, end: int) -> None:
        self._items += bare.count(b"{", start, end) + bare.count(b"[", start, end)
        self._commas += bare.count(b",", start, end)
        self._members += bare.count(b":", start, end)

    def _check(self) -> None:
        if self._items > self._max_items or self._commas > self._max_commas or self._strings > self._max_strings:
            raise _too_many(self._max_items, self._max_commas)

    def check_names(self, text: bytes, content: object) -> None:
        """Refuse an object that has a name twice: a parser keeps the last one only, and a picture may be in the first.

        Objects that lost no member have as many as there were colons, so that only what is refused is parsed again.

        Args:
            text: all that was counted.
            content: what a parser made of it.

        Raises:
            BadRequestError: naming the first name that comes twice.
        """
        if _num_members(content) == self._members:
            return
        name = find_repeated_name(text)
        if name is not None:
            name = name[:_MAX_SHOWN]
            raise BadRequestError(texts.REPEATED_NAME.fill(name=name), code="repeated_name", param=name)

    def _pass_string(self, piece: bytes, at: int) -> int:
        """Return where what comes behind the string begins, or the end of the piece."""
        if self._skips_first:
            self._skips_first = False
            at += 1
        quote = piece.find(b'"', at)
        end = len(piece) if quote < 0 else quote
        if piece.find(b"\\", at, end) >= 0:  # rare; pictures have none
            found = _REST_OF_STRING.match(piece, at)
            assert found is not None  # it matches the empty text too
            end = found.end()
        if end >= len(piece):
            return len(piece)
        if piece[end] == ord("\\"):
            self._skips_first = True
            return len(piece)
        self._is_in_string = False
        return end + 1


def find_repeated_name(text: bytes | str) -> str | None:
    """Return the first name that an object has twice.

    Args:
        text: valid JSON.
    """
    try:
        json.loads(text, object_pairs_hook=_with_names_once)
    except _RepeatedNameError as error:
        return str(error)
    return None


class _RepeatedNameError(ValueError):
    """An object has a name twice."""


def _with_names_once(members: list[tuple[str, Any]]) -> None:
    names: set[str] = set()
    for name, _ in members:
        if name in names:
            raise _RepeatedNameError(name)
        names.add(name)


def _num_members(content: object) -> int:
    """Count the members of all objects."""
    found, left = 0, [content]
    while left:
        node = left.pop()
        if isinstance(node, dict):
            found += len(node)
            left += [each for each in node.values() if isinstance(each, _NESTED)]
        elif isinstance(node, list):
            left += [each for each in node if isinstance(each, _NESTED)]
    return found


def _too_many(max_items: int, max_commas: int) -> BadRequestError:
    return BadRequestError(
        texts.TOO_MANY_PARTS.fill(max_items=max_items, max_commas=max_commas), code="too_many_values"
    )

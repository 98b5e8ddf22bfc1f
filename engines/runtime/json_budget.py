"""When a text inside a JSON answer is long enough, and when the whole answer has to come to its end.

In: the bytes of each chosen token, and how many tokens the answer may have. Out: what the next token had better begin
with. A model that never closes a text would otherwise write until the limit, and the answer would be no JSON.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Literal

Wish = Literal["", "quote", "bracket"]

_QUOTE: Final = ord('"')
_ESCAPE: Final = ord("\\")
_OPENING: Final = frozenset(b"{[")
_CLOSING: Final = frozenset(b"}]")
_COMMA: Final = frozenset(b",}]")
# Smallest bound of a string, in tokens; names and dates fit.
_LEAST_TEXT: Final = 16
# For brackets, and for tokens shorter than the average.
_MARGIN_TOKENS: Final = 12
# A model repeats itself: this many tokens, with at most that many different ones.
_CIRCLE_TOKENS: Final = 64
_CIRCLE_KINDS: Final = 10


class JsonBudget:
    """Follows one answer. Texts share what is left of its tokens; the last of them are kept for what must follow.

    Args:
        max_tokens: of the whole answer, thinking included.
        num_texts: places of the schema where a text without a length of its own may stand.
        num_fixed: tokens that a shortest answer has: so many are kept for its end, fewer as it proceeds.
        num_repeated: tokens of what may come again at any time, such as one element of each list.
        is_nested: what may come again may hold itself.
    """

    def __init__(
        self, max_tokens: int, num_texts: int, num_fixed: int, num_repeated: int, *, is_nested: bool = False
    ) -> None:
        self._num_left = max_tokens
        self._num_texts = num_texts
        self._num_least = min(num_repeated + _MARGIN_TOKENS, max_tokens // 2)
        self._num_kept = min(num_fixed + num_repeated + _MARGIN_TOKENS, max_tokens // 2)
        self._num_per_level = 1 + (num_repeated if is_nested else 0)
        self._depth = 0
        self._is_text = self._is_escaped = self._is_value = False
        self._num_text_left = 0
        self._recent: deque[int] = deque(maxlen=_CIRCLE_TOKENS)

    @property
    def wish(self) -> Wish:
        """What the next token had better begin with; a grammar that allows no such token goes on as it likes."""
        is_over = self._num_left <= self._num_kept + self._depth * self._num_per_level
        if not self._is_text:
            return "bracket" if is_over else ""
        is_circling = len(self._recent) == _CIRCLE_TOKENS and len(set(self._recent)) <= _CIRCLE_KINDS
        return "quote" if is_over or is_circling or self._num_text_left <= 0 else ""

    def skip(self) -> None:
        """Count a token that is no part of the JSON."""
        self._num_left -= 1

    def push(self, token_id: int, data: bytes) -> None:
        """Take the next token."""
        self._num_left -= 1
        is_inside, is_at_top = self._is_text, self._depth <= 1
        for byte in data:
            self._take(byte)
        if is_inside and self._is_text:
            self._num_text_left -= 1
            self._recent.append(token_id)
        elif is_at_top:
            self._num_kept = max(self._num_kept - 1, self._num_least)

    def _take(self, byte: int) -> None:
        if self._is_text:
            if self._is_escaped:
                self._is_escaped = False
            elif byte == _ESCAPE:
                self._is_escaped = True
            elif byte == _QUOTE:
                self._is_text, self._is_value = False, True
        elif byte == _QUOTE:
            self._is_text = True
            self._recent.clear()
            share = (self._num_left - self._num_kept) // max(self._num_texts, 1)
            self._num_text_left = max(share, _LEAST_TEXT)
        else:
            if byte in _COMMA and self._is_value:
                self._num_texts -= 1
            self._is_value = False  # a string before a colon was a name
            self._depth += (byte in _OPENING) - (byte in _CLOSING)

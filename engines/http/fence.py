"""JSON out of a Markdown fence, as servers send it that only tell the model to write JSON.

In: an answer's text, piece by piece. Out: the same text; of an answer that is one fenced block, what is in the block.
"""

from __future__ import annotations

from typing import Final

_FENCE: Final = "```"


class Unfenced:
    """Reads one answer; what begins with a fence is kept back until its end."""

    def __init__(self) -> None:
        self._held = ""
        self._is_plain = False

    def take(self, text: str) -> str:
        """Return what may be shown after this piece."""
        if self._is_plain:
            return text
        self._held += text
        start = self._held.lstrip()[: len(_FENCE)]
        if _FENCE.startswith(start):  # it is a fence, or may become one
            return ""
        self._is_plain = True
        return self._held

    def finish(self) -> str:
        """Return what was kept back, without its fence if that is closed and nothing stands around it."""
        if self._is_plain:
            return ""
        text = self._held.strip()
        if len(text) < 2 * len(_FENCE) or not text.endswith(_FENCE):
            return self._held
        block = text[len(_FENCE) : -len(_FENCE)]
        language, line_end, lines = block.partition("\n")
        if line_end and (not language.strip() or language.strip().isalnum()):
            return lines.strip()
        return block.removeprefix("json").strip()

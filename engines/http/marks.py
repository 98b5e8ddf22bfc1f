"""Marks in another server's answer: thinking and boxes that come as text are taken out of it.

In: deltas as the server sent them. Out: deltas with answer, reasoning and boxes apart, as our own servers send them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, Literal

from engines.base import Delta, GenerationRequest
from engines.boxes import BoxReader, MarkedText
from engines.images import upright_size


class _Thoughts:
    """Takes the thinking out of an answer that begins with it, as a server without a reasoning parser sends it."""

    _OPENING: Final = "<think>"
    _CLOSING: Final = "</think>"

    def __init__(self) -> None:
        self._held = ""
        self._state: Literal["undecided", "thinking", "thought", "answering"] = "undecided"

    def push(self, text: str) -> tuple[str, str]:
        """Take the next text; return the answer and the thinking that it certainly brings."""
        if self._state == "thought":  # the lines between thinking and answer are of neither
            text = text.lstrip("\n")
            self._state = "answering" if text else "thought"
        if self._state in ("answering", "thought"):
            return text, ""
        self._held += text
        if self._state == "undecided":
            bare = self._held.lstrip()
            if len(bare) < len(self._OPENING) and self._OPENING.startswith(bare):
                return "", ""
            if not bare.startswith(self._OPENING):
                self._state = "answering"
                return self._let_go(), ""
            self._state, self._held = "thinking", bare.removeprefix(self._OPENING)
        thought, closing, rest = self._held.partition(self._CLOSING)
        if closing:
            rest, self._held = rest.lstrip("\n"), ""
            self._state = "answering" if rest else "thought"
            return rest, thought
        # What may be the beginning of the closing tag is held back.
        kept = next((n for n in range(len(self._CLOSING) - 1, 0, -1) if thought.endswith(self._CLOSING[:n])), 0)
        self._held = thought[len(thought) - kept :]
        return "", thought[: len(thought) - kept]

    def finish(self) -> tuple[str, str]:
        """Return what was held back to the end."""
        held = self._let_go()
        return ("", held) if self._state == "thinking" else (held, "")

    def _let_go(self) -> str:
        held, self._held = self._held, ""
        return held


class AnswerMarks:
    """Reads the boxes and the thinking in another server's answer to a request, and takes their marks out."""

    def __init__(self, request: GenerationRequest) -> None:
        self._text = MarkedText(BoxReader(lambda: [upright_size(image) for image in request.images]))
        self._reasoning = MarkedText()
        self._thoughts = _Thoughts()

    def read(self, delta: Delta) -> Delta:
        """Return what a delta certainly brings."""
        said, thought = self._thoughts.push(delta.text)
        text, boxes = self._text.push(said)
        reasoning, _ = self._reasoning.push(delta.reasoning + thought)
        return replace(delta, text=text, reasoning=reasoning, boxes=(*delta.boxes, *boxes))

    def finish(self) -> Delta:
        """Return what was held back to the end."""
        said, thought = self._thoughts.finish()
        text, boxes = self._text.push(said)
        reasoning, _ = self._reasoning.push(thought)
        return Delta(text=text + self._text.finish(), reasoning=reasoning + self._reasoning.finish(), boxes=boxes)

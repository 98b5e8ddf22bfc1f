"""The marks of GLM that servers of other makes leave in the text: ends of turns, thinking, boxes.

In: the deltas of such a server, whose marks may be split over several. Out: the same without marks: what was thought
is reasoning, what was between box marks is boxes, and what follows the end of the turn is left out.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, Literal

from engines.base import Delta, FinishReason, GenerationRequest, TokenLogprob
from engines.boxes import BoxReader, MarkedText, num_begun
from engines.images import upright_size

_THINK: Final = "<think>"
_THOUGHT: Final = "</think>"
_ASSISTANT: Final = "<|assistant|>"
# GLM ends its turn with one of these; a server that does not know them as ends shows them, and what the model makes up
# of the turns after it.
_ENDS: Final = ("<|user|>", "<|endoftext|>", _ASSISTANT, "<|observation|>", "<|system|>")


class AnswerMarks:
    """Reads the marks in another server's answer to a request, and takes them out.

    Args:
        request: what was asked.
    """

    def __init__(self, request: GenerationRequest) -> None:
        self._end = _TurnEnd()
        self._thoughts = _Thoughts(may_think=request.enable_thinking)
        self._text = MarkedText(BoxReader(lambda: [upright_size(image) for image in request.images]))
        self._reasoning_end = _TurnEnd()
        self._reasoning = MarkedText()

    @property
    def is_over(self) -> bool:
        """The model has ended its turn, whatever the server says."""
        return self._end.is_over or self._reasoning_end.is_over

    def read(self, delta: Delta) -> Delta:
        """Return what a delta certainly brings; nothing once the turn is over."""
        if self.is_over:
            return Delta()
        told = self._reasoning_end.push(delta.reasoning)
        if told:
            self._thoughts.note_reasoning()
        said, thought = self._thoughts.push("" if self._reasoning_end.is_over else self._end.push(delta.text))
        text, boxes = self._text.push(said)
        reasoning, _ = self._reasoning.push(told + thought)
        logprobs = _before_end(delta.logprobs) if self.is_over else delta.logprobs
        return replace(delta, text=text, reasoning=reasoning, boxes=(*delta.boxes, *boxes), logprobs=logprobs)

    def finish(self, finish_reason: FinishReason | None) -> Delta:
        """Return what was held back to the end.

        Args:
            finish_reason: as the server said it.
        """
        told = self._reasoning_end.finish()
        said, thought = self._thoughts.push(self._end.finish())
        rest, rest_thought = self._thoughts.finish(is_cut=finish_reason == "length" and not self.is_over)
        text, boxes = self._text.push(said + rest)
        reasoning, _ = self._reasoning.push(told + thought + rest_thought)
        return Delta(text=text + self._text.finish(), reasoning=reasoning + self._reasoning.finish(), boxes=boxes)


class _TurnEnd:
    """Cuts a text at the first mark that ends the turn."""

    def __init__(self) -> None:
        self._held = ""
        self._has_text = self._has_opening = False
        self.is_over = False

    def push(self, text: str) -> str:
        """Add a piece; return the text that is certain."""
        self._held += text
        while True:
            places = [(self._held.find(mark), mark) for mark in _ENDS]
            place, mark = min(((at, mark) for at, mark in places if at >= 0), default=(-1, ""))
            if mark != _ASSISTANT or self._has_text or self._held[:place].strip():
                break
            # Before the first word it is the prompt's own last mark, which the server repeats.
            self._held = self._held[place + len(mark) :]
            self._has_opening = True
        if self._has_opening and not self._has_text:
            self._held = self._held.lstrip("\n")
            place = self._held.find(mark) if mark else -1
        self.is_over = place >= 0
        certain = self._held[: place if self.is_over else len(self._held) - num_begun(self._held, _ENDS)]
        self._has_text = self._has_text or bool(certain.strip())
        if not self.is_over and not self._has_text:  # what is blank goes with a mark that may follow
            return ""
        self._held = "" if self.is_over else self._held[len(certain) :]
        return certain

    def finish(self) -> str:
        """Return what was held back and turned out to be text."""
        rest, self._held = self._held, ""
        return rest


class _Thoughts:
    """Takes the thinking out of an answer that begins with it, as a server without a reasoning parser sends it.

    Some servers leave out the opening tag, since their template or their tokenizer keeps it: then what precedes the
    closing one was thought. What was sent cannot be taken back, so a model that may think is read up to that tag first.

    Args:
        may_think: the request lets the model think. Otherwise a closing tag alone is a stray mark, and is dropped.
    """

    def __init__(self, *, may_think: bool) -> None:
        self._may_think = may_think
        self._held = ""
        self._is_open = self._has_answer = False
        self._state: Literal["undecided", "unopened", "thinking", "thought", "answering"] = "undecided"

    def note_reasoning(self) -> None:
        """Learn that the server tells reasoning apart: its text is the answer."""
        if self._state in ("undecided", "unopened"):
            self._state = "thought"

    def push(self, text: str) -> tuple[str, str]:
        """Take the next text; return the answer and the thinking that it certainly brings."""
        self._held += text
        if self._state == "undecided":
            bare = self._held.lstrip()
            if len(bare) < len(_THINK) and _THINK.startswith(bare):
                return "", ""
            if bare.startswith(_THINK):
                self._state, self._held = "thinking", bare.removeprefix(_THINK)
            else:
                self._state = "unopened" if self._may_think else "answering"
        if self._state == "unopened":
            thought, closing, rest = self._held.partition(_THOUGHT)
            if not closing:
                return "", ""
            # An answer that writes of both tags has opened one before.
            self._state, self._held = ("answering", self._held) if _THINK in thought else ("thought", rest)
            thought = "" if self._state == "answering" else thought
        elif self._state == "thinking":
            thought, closing, rest = self._held.partition(_THOUGHT)
            if not closing:
                kept = num_begun(thought, (_THOUGHT,))
                self._held = thought[len(thought) - kept :]
                return "", thought[: len(thought) - kept]
            self._state, self._held = "thought", rest
        else:
            thought = ""
        return self._answer(), thought

    def finish(self, *, is_cut: bool) -> tuple[str, str]:
        """Return what was held back to the end.

        Args:
            is_cut: the server stopped because there was no more room: what had no tag yet was still being thought.
        """
        held, self._held = self._held, ""
        is_thought = self._state == "thinking" or (self._state == "unopened" and is_cut)
        return ("", held) if is_thought else (held, "")

    def _answer(self) -> str:
        """Let go of what is certain of the answer, without closing tags that close nothing."""
        shown: list[str] = []
        while True:
            if self._state == "thought":  # the lines between thinking and answer are of neither
                self._held = self._held.lstrip("\n")
                if not self._held:
                    break
                self._state = "answering"
            before, closing, rest = self._held.partition(_THOUGHT)
            if not closing:
                break
            self._has_answer = self._has_answer or bool(before.strip())
            if not self._has_answer:
                self._state, before = "thought", ""
            shown.append(before + closing if self._is_open or _THINK in before else before)
            self._is_open = False
            self._held = rest
        num_certain = len(self._held) - num_begun(self._held, (_THINK, _THOUGHT))
        certain = self._held[:num_certain]
        self._is_open = self._is_open or _THINK in certain
        self._has_answer = self._has_answer or bool(certain.strip())
        if self._has_answer:  # before it, what is blank goes with a tag that may follow
            shown.append(certain)
            self._held = self._held[num_certain:]
        return "".join(shown)


def _before_end(logprobs: tuple[TokenLogprob, ...]) -> tuple[TokenLogprob, ...]:
    """Return the tokens before the mark that ended the turn."""
    place = next((place for place, each in enumerate(logprobs) if each.token in _ENDS), len(logprobs))
    return logprobs[:place]

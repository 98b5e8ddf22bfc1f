"""From token ids to what the caller sees: reasoning apart from the answer, boxes read, stop strings honoured.

In: one generated id after another. Out: `Delta`s whose texts, joined, are exactly the decoded answer and reasoning.
Pure apart from the tokenizer that is handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal, Protocol

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from engines.base import Box, Delta
from engines.boxes import BoxReader
from engines.runtime.sampling import StopStrings
from engines.tool_text import CallReader

Channel = Literal["text", "reasoning"]


class Detokenizer(Protocol):
    """Turns a growing list of ids into text, piece by piece."""

    def push(self, token_id: int) -> str:
        """Add one id; return the text that became certain."""
        ...

    def flush(self) -> str:
        """Return what was held back; nothing may be pushed afterwards."""
        ...


class StreamDetokenizer:
    """`Detokenizer` over a fast tokenizer: holds ids back until their bytes are whole characters.

    Args:
        tokenizer: special tokens are skipped; it must not be reconfigured by another thread meanwhile.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)
        self._ids: list[int] = []
        self._num_chars = 0

    def push(self, token_id: int) -> str:
        """Add one id; return the text that became certain."""
        self._ids.append(token_id)
        text = self._stream.step(self._tokenizer, token_id) or ""
        self._num_chars += len(text)
        return text

    def flush(self) -> str:
        """Return what the stream still holds: bytes that will not become a character any more, as U+FFFD."""
        return self._tokenizer.decode(self._ids, skip_special_tokens=True)[self._num_chars :]


class TokenBytes:
    """The bytes of single ids of a byte-level tokenizer, which need not be whole characters.

    Args:
        tokenizer: its vocabulary writes each byte as one visible character: the printable ones of Latin-1 as they are,
            the others, in order, as the characters from U+0100 on.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._added = {id_: token.content.encode() for id_, token in tokenizer.get_added_tokens_decoder().items()}
        visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
        hidden = [byte for byte in range(0x100) if byte not in visible]
        self._byte_of = {chr(byte): byte for byte in visible}
        self._byte_of |= {chr(0x100 + place): byte for place, byte in enumerate(hidden)}

    def of(self, token_id: int) -> bytes:
        """Return an id's bytes; none for an id beyond the vocabulary, which the output layer may be padded to."""
        if token_id in self._added:
            return self._added[token_id]
        return bytes(self._byte_of[character] for character in self._tokenizer.id_to_token(token_id) or "")


class ReasoningSplitter:
    """Sends each id to the reasoning or to the answer, and swallows the marks between them.

    Works by id, not by text, so that a model *quoting* ``<think>`` in plain characters changes nothing.

    Args:
        think_id: id of ``<think>``.
        think_end_id: id of ``</think>``; without a ``<think>`` before it, it is swallowed like any other mark.
        hidden_ids: ids that are layout for machines, such as the box marks.
    """

    def __init__(self, think_id: int, think_end_id: int, hidden_ids: Collection[int] = ()) -> None:
        self._think_id = think_id
        self._think_end_id = think_end_id
        self._hidden_ids = frozenset(hidden_ids)
        self.channel: Channel = "text"
        self.num_reasoning_tokens = 0

    def route(self, token_id: int) -> Channel | None:
        """Say where an id belongs; None for a mark that nobody sees."""
        if self.channel == "reasoning" or token_id == self._think_id:
            self.num_reasoning_tokens += 1
        if token_id == self._think_id:
            self.channel = "reasoning"
            return None
        if token_id == self._think_end_id:
            self.channel = "text"
            return None
        return None if token_id in self._hidden_ids else self.channel


class BoxMarks:
    """Finds what stands between the two box marks of an answer, by id, and has it read.

    Only marks make a box: four numbers in brackets are a list, a range or a row of a table as well. Text between marks
    that holds no coordinates is a short answer, and nothing is lost but the marks. Boxes in the reasoning are thoughts.

    Args:
        start_id: id of ``<|begin_of_box|>``.
        end_id: id of ``<|end_of_box|>``.
        reader: of this answer.
        make_detokenizer: a fresh detokenizer for every pair of marks: what the caller sees of the text may be held
            back, trimmed or cut at a stop string.
    """

    def __init__(
        self, start_id: int, end_id: int, reader: BoxReader, make_detokenizer: Callable[[], Detokenizer]
    ) -> None:
        self._start_id = start_id
        self._end_id = end_id
        self._reader = reader
        self._make_detokenizer = make_detokenizer
        self._marked: list[int] | None = None

    def push(self, token_id: int) -> None:
        """Take an id of the answer."""
        if self._marked is not None:
            self._marked.append(token_id)

    def push_mark(self, token_id: int) -> tuple[Box, ...]:
        """Take an id that nobody sees; return the boxes that it completes."""
        if token_id == self._start_id:
            self._marked = []
        elif token_id == self._end_id and self._marked is not None:
            detokenizer = self._make_detokenizer()
            marked = "".join(map(detokenizer.push, self._marked)) + detokenizer.flush()
            self._marked = None
            return self._reader.read(marked)
        return ()

    def say(self, text: str) -> None:
        """Take note of a piece of the answer: it may name the picture that the next box is in."""
        self._reader.say(text)


class AnswerParser:
    """Everything between a generated id and a `Delta`.

    Newlines that the model writes between ``</think>`` and its answer, and after ``<think>``, are layout and dropped.

    Args:
        splitter: routes ids.
        make_detokenizer: a fresh detokenizer; the answer and the reasoning get one each.
        stop: stop strings of the answer; the reasoning is not searched.
        boxes: reads what stands between box marks; None leaves boxes unread.
        calls: reads function calls; None leaves their marks in the text.
        call_marks: the marks of calls, by id.

    Attributes:
        channel: where the last id belonged; None for a mark that nobody sees.
        num_answer_chars: characters of the answer so far, those that a stop string holds back or swallows included.
    """

    def __init__(
        self,
        splitter: ReasoningSplitter,
        make_detokenizer: Callable[[], Detokenizer],
        stop: Sequence[str] = (),
        boxes: BoxMarks | None = None,
        calls: CallReader | None = None,
        call_marks: Mapping[int, str] | None = None,
    ) -> None:
        self._make_detokenizer = make_detokenizer
        self._calls = calls
        self._call_marks = call_marks or {}
        self._call_text = make_detokenizer()
        self._blank = ""
        self._splitter = splitter
        self._boxes = boxes
        self._detokenizers: dict[Channel, Detokenizer] = {"text": make_detokenizer(), "reasoning": make_detokenizer()}
        self._stops = StopStrings(tuple(stop))
        self.channel: Channel | None = None
        self.num_answer_chars = 0
        self._skips_newlines: dict[Channel, bool] = {"text": False, "reasoning": True}

    @property
    def stopped_by(self) -> str:
        """The stop string that was met, after which ids are no part of the answer; empty before that."""
        return self._stops.found

    @property
    def num_reasoning_tokens(self) -> int:
        """Ids spent on thinking, the think marks included."""
        return self._splitter.num_reasoning_tokens

    def push(self, token_id: int) -> Delta | None:
        """Add one id; return what became visible, None if nothing did."""
        channel = self.channel = self._splitter.route(token_id)
        if channel is None:
            if self._splitter.channel == "reasoning":
                self._skips_newlines["text"] = True
                return None
            boxes = self._boxes.push_mark(token_id) if self._boxes is not None else ()
            return Delta(boxes=boxes) if boxes else None
        if self._calls is not None and channel == "text":
            mark = self._call_marks.get(token_id)
            if mark is not None or self._calls.has_begun:
                return self._push_call(self._calls, token_id, mark)
        if self._boxes is not None and channel == "text":
            self._boxes.push(token_id)
        return self._to_delta(channel, self._detokenizers[channel].push(token_id))

    @property
    def has_calls(self) -> bool:
        """Whether the answer calls functions."""
        return self._calls is not None and self._calls.has_begun

    def finish(self, *, is_cut: bool = False) -> Delta | None:
        """Return everything held back at the end of the generation.

        Args:
            is_cut: it ended before the model was done.

        Raises:
            GenerationFailedError: if the model ended its answer in the middle of a function call.
        """
        if self._calls is not None:
            self._calls.finish(is_cut=is_cut)
            if self._calls.has_begun:
                return None
        reasoning = self._trim("reasoning", self._detokenizers["reasoning"].flush())
        text = self._trim("text", self._detokenizers["text"].flush())
        self.num_answer_chars += len(text)
        text = self._blank + self._stops.push(text) + self._stops.finish()
        return Delta(text=text, reasoning=reasoning) if text or reasoning else None

    def _push_call(self, calls: CallReader, token_id: int, mark: str | None) -> Delta | None:
        """Take a token from the first mark of a call on; what was held back of the text is before it."""
        self.channel = None
        text = ""
        if not calls.has_begun:
            text = self._stops.push(self._detokenizers["text"].flush()) + self._stops.finish()
            text = (self._blank + text).rstrip()
        if mark is None:
            told = calls.text(self._call_text.push(token_id))
        else:
            told = (*calls.text(self._call_text.flush()), *calls.mark(mark))
            self._call_text = self._make_detokenizer()
        return Delta(text=text, tool_calls=told) if text or told else None

    def _to_delta(self, channel: Channel, text: str) -> Delta | None:
        text = self._trim(channel, text)
        if channel == "text":
            if self._boxes is not None:
                self._boxes.say(text)
            self.num_answer_chars += len(text)
            text = self._stops.push(text)
            if self._calls is not None:  # the white space before a call is layout
                whole = self._blank + text
                text = whole.rstrip()
                self._blank = whole[len(text) :]
            return Delta(text=text) if text else None
        return Delta(reasoning=text) if text else None

    def _trim(self, channel: Channel, text: str) -> str:
        if self._skips_newlines[channel]:
            text = text.lstrip("\n")
            self._skips_newlines[channel] = not text
        return text

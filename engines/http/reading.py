"""An answer as its server sends it, read up to what may be shown.

In: the bytes of a stream of events, as they come. Out: after each read one delta of all that it brought; at the end why
the answer ended and what it took. What is no answer, or too much of one, is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Final

from engines.base import (
    Delta,
    EngineError,
    FinishReason,
    GenerationFailedError,
    GenerationRequest,
    InvalidRequestError,
    Usage,
)
from engines.http import answers, sse
from engines.http.content import AnswerContent

NOTHING: Final = Delta()


class AnswerReader:
    """Reads one answer.

    Args:
        request: what was asked.
        max_chars: longest text and reasoning that can be an answer to it.
        is_foreign: the server is of another make.
        url: of the server, for operators.

    Attributes:
        finish_reason: why the answer ended, as its server says; None until then.
        usage: what it took, likewise.
        is_done: nothing more of it is to be read.
    """

    def __init__(self, request: GenerationRequest, *, max_chars: int, is_foreign: bool, url: str) -> None:
        self._request = request
        self._content = AnswerContent(request, is_foreign=is_foreign)
        self._parser = sse.EventParser()
        self._lacks_logprobs = request.sampling.top_logprobs is not None
        self._room = max_chars
        self._url = url
        self._texts: list[str] = []
        self._shown: list[Delta] = []
        self.finish_reason: FinishReason | None = None
        self._stop_sequence = ""
        self.usage = Usage()
        self.is_done = False

    @property
    def is_over(self) -> bool:
        """A mark has ended the answer: it is whole, and only its token counts may still come."""
        return self._content.is_over

    def feed(self, received: bytes) -> tuple[bool, EngineError | None]:
        """Read on.

        Returns:
            Whether there was an event; and what is wrong with the answer, to be raised when what came before was taken:
            `InvalidRequestError` if log probabilities were asked for and the text comes without them,
            `GenerationFailedError` for what is no answer, or more than one can be, or the error that an event carries.
        """
        payloads: list[bytes] = []
        try:
            payloads = self._parser.feed(received)
            self._read_all(payloads)
        except EngineError as error:
            return bool(payloads), error
        return bool(payloads), None

    def take(self) -> Delta:
        """Return what may be shown since the last time, as one; `NOTHING` if nothing may."""
        if not self._shown:
            return NOTHING
        shown, self._shown = self._shown, []
        return shown[0] if len(shown) == 1 else _joined(shown)

    async def finish(self) -> Delta:
        """Return what was kept back, with the reason for which the answer ended and what it took.

        Raises:
            GenerationFailedError: if JSON was asked for, and the finished answer is none or breaks the schema.
        """
        last = await self._content.finish(self.finish_reason)
        # Servers name ends of turns in the same place.
        is_asked = last.finish_reason == "stop" and self._stop_sequence in self._request.sampling.stop
        return replace(
            last,
            usage=answers.bound_usage(self.usage, self._request.sampling),
            stop_sequence=self._stop_sequence if is_asked else "",
        )

    def _read_all(self, payloads: Sequence[bytes]) -> None:
        try:
            for payload in payloads:
                if payload == sse.DONE:
                    self.is_done = True
                    break
                found = answers.read_event(payload)
                if isinstance(found, str):
                    if self.finish_reason is None:
                        self._texts.append(found)
                    continue
                self._read_texts()
                is_over = self.finish_reason is not None or self.is_over
                self.finish_reason = _worse(self.finish_reason, found.finish_reason)
                self.usage = found.usage or self.usage
                self._stop_sequence = found.stop_sequence or self._stop_sequence
                if not is_over:
                    self._read(found)
        finally:
            self._read_texts()

    def _read_texts(self) -> None:
        """Read the texts that came one after another as one."""
        if self._texts:
            text = "".join(self._texts)
            self._texts.clear()
            if not self.is_over:
                self._read(Delta(text=text))

    def _read(self, delta: Delta) -> None:
        self._room -= len(delta.text) + len(delta.reasoning) + sum(len(each.arguments) for each in delta.tool_calls)
        if self._room < 0:
            raise GenerationFailedError("The engine does not end its answer.", detail=self._url)
        self._lacks_logprobs = self._lacks_logprobs and not delta.logprobs
        if self._lacks_logprobs and delta.text:
            raise InvalidRequestError("This engine gives no log probabilities: leave 'logprobs' out.", param="logprobs")
        shown = self._content.read(delta)
        if shown != NOTHING:
            self._shown.append(shown)


_BY_SEVERITY: Final[tuple[FinishReason | None, ...]] = (None, "stop", "tool_calls", "length", "content_filter")


def _worse(first: FinishReason | None, second: FinishReason | None) -> FinishReason | None:
    """Of two ends that a server told, the one that says more against the answer."""
    return second if first is None else max(first, second, key=_BY_SEVERITY.index)


def _joined(deltas: Sequence[Delta]) -> Delta:
    return Delta(
        text="".join(each.text for each in deltas),
        reasoning="".join(each.reasoning for each in deltas),
        logprobs=tuple(chain.from_iterable(each.logprobs for each in deltas)),
        boxes=tuple(chain.from_iterable(each.boxes for each in deltas)),
        tool_calls=tuple(chain.from_iterable(each.tool_calls for each in deltas)),
    )

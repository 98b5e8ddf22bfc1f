"""What the runs of a job's units have said, and what of it is new.

In: the deltas of a job. Out: texts with their logprobs, from which streams send only what they have not sent.
"""

from __future__ import annotations

from dataclasses import dataclass

from engines.base import TokenLogprob
from engines.tools import GrowingCalls, ToolCall, ToolCallDelta
from router.jobs.job import Event


@dataclass
class Said:
    """What one run of a unit has written so far, or what of it was sent."""

    text: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()

    def add(self, text: str, logprobs: tuple[TokenLogprob, ...]) -> None:
        """Take in what came next."""
        self.text += text
        self.logprobs += logprobs

    def differs_from(self, sent: Said) -> bool:
        """Whether it is neither a beginning of what was sent nor goes on from it."""
        return not (self.text.startswith(sent.text) or sent.text.startswith(self.text))

    def after(self, sent: Said) -> Said:
        """Return what is new, if it does not differ from what was sent; nothing while it repeats that."""
        return Said(self.text[len(sent.text) :], self.logprobs[len(sent.logprobs) :])


class SaidCalls:
    """Which pieces of an answer's calls were sent."""

    def __init__(self) -> None:
        self._sent = GrowingCalls()

    def __len__(self) -> int:
        return len(self._sent)

    def add(self, piece: ToolCallDelta) -> None:
        """Take note of a piece that is sent."""
        self._sent.add(piece)

    def newest(self) -> ToolCall:
        """Return the newest call, as far as it was sent."""
        return self._sent.whole()[-1]

    def rest_of(self, calls: tuple[ToolCall, ...]) -> list[ToolCallDelta] | None:
        """Return what of the whole calls is still to be sent; None if they are others than those that were sent."""
        sent = self._sent.whole()
        for call, known in zip(calls, sent, strict=False):
            if (call.id, call.name) != (known.id, known.name) or not call.arguments.startswith(known.arguments):
                return None
        if len(sent) > len(calls):
            return None
        rest: list[ToolCallDelta] = []
        for index, call in enumerate(calls):
            if index >= len(sent):
                rest.append(ToolCallDelta(index, call.id, call.name, call.arguments))
            elif more := call.arguments[len(sent[index].arguments) :]:
                rest.append(ToolCallDelta(index, arguments=more))
        return rest


class Runs:
    """What each run of each unit has said.

    A unit whose worker died is run again, and usually repeats itself (greedy decoding does): then nothing is sent
    twice. If it says something else, `Said.differs_from` shows it, and the stream decides what to do.
    """

    def __init__(self) -> None:
        self._said: dict[tuple[str, int], Said] = {}

    def add(self, event: Event) -> Said:
        """Take in a delta; return all that its run has said so far."""
        said = self._said.setdefault((event.unit, event.epoch), Said())
        said.add(event.text, event.logprobs)
        return said

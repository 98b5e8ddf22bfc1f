"""What the runs of a job's units have said, and what of it is new.

In: the deltas of a job. Out: texts with their logprobs, from which streams send only what they have not sent.
"""

from __future__ import annotations

from dataclasses import dataclass

from engines.base import TokenLogprob
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

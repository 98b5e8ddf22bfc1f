"""How a question ended, in numbers: what metrics count of it, and nothing that was said.

In: an answer of this process, or what the scripts that end jobs left in redis. Out: `Ended`.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import orjson

Change = Literal["", "same", "reworded", "contradicted"]


class Run(NamedTuple):
    """The last run of one part of a job.

    Attributes:
        queue: that it waited in; empty for a direct answer, which waits in none.
        engine: that was asked; empty if none was.
        queue_s: from the acceptance of the job to the beginning of the run; None where nothing waited.
        first_token_s: from its beginning to its first text; None without text.
        took_s: all of it.
        prompt_tokens: read.
        completion_tokens: written.
    """

    queue: str = ""
    engine: str = ""
    queue_s: float | None = None
    first_token_s: float | None = None
    took_s: float | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Ended(NamedTuple):
    """A question that has ended.

    Attributes:
        route: ``fast`` or ``deep``.
        engine: that the final answer is of.
        state: of the job.
        cache: what the answer cache was to it; empty for nothing.
        took_s: from the question to the final answer.
        first_token_s: from the question to the first text of any answer; None without any.
        draft_to_final_s: from the end of the draft to the final answer; None without a draft.
        merge_s: from the beginning of the merge to the end; None without one.
        agreement: of draft and final answer, 0 to 1; None if they were not compared.
        change: what became of the draft; empty without one.
        runs: that were made for it.
    """

    route: str
    engine: str
    state: str
    cache: str = ""
    took_s: float | None = None
    first_token_s: float | None = None
    draft_to_final_s: float | None = None
    merge_s: float | None = None
    agreement: float | None = None
    change: Change = ""
    runs: tuple[Run, ...] = ()


def from_entry(entry: bytes) -> Ended:
    """Read what ``lua/include/counted.lua`` wrote when a job ended.

    A field that is missing was not known there, or to the release that wrote it.
    """
    facts, state, accepted, completed, follows, measured = entry.decode().split("\n", 5)
    known: dict[str, Any] = orjson.loads(facts) if facts else {}
    said: dict[str, Any] = orjson.loads(measured) if measured else {}
    accepted_at, completed_at = _number(accepted), _number(completed)

    def since(name: str) -> float | None:
        return _between(said.get(name), completed_at)

    # What was run for another job was counted with that one.
    runs = () if follows else tuple(_run(row) for row in said.get("runs", ()))
    return Ended(
        route=known.get("route", ""),
        engine=said.get("engine") or known.get("engine", ""),
        state=state,
        cache="joined" if follows else known.get("cache", ""),
        took_s=_between(accepted_at, completed_at),
        first_token_s=None if follows else _between(accepted_at, said.get("first_token_at")),
        draft_to_final_s=since("draft_ended_at"),
        merge_s=None if follows else since("merge_began_at"),
        agreement=said.get("agreement"),
        change=said.get("change", ""),
        runs=runs,
    )


def _run(row: list[Any]) -> Run:
    return Run(*row)


def _number(word: str) -> float | None:
    return float(word) if word else None


def _between(first: float | None, last: float | None) -> float | None:
    """Return the seconds between two readings of one clock, which may have been set back."""
    return None if first is None or last is None else max(last - first, 0.0)

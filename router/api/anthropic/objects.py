"""From a job to the message that clients of Anthropic see, whole or event by event.

In: a `Job` and its answer, or steps of its telling. Out: JSON-able dicts with the ``hybrid`` extension.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Final

from engines.base import Usage
from engines.tools import ToolCall, ToolCallDelta, arguments_of
from router.api.objects import draft_title, item_id, to_hybrid
from router.api.telling import Step, Telling
from router.jobs.job import Job
from router.jobs.results import FinalAnswer, UnitResult

Json = dict[str, Any]

_STOP_REASONS: Final = {
    "stop": "end_turn",
    "length": "max_tokens",
    "content_filter": "refusal",
    "tool_calls": "tool_use",
}
PING: Final[Json] = {"type": "ping"}


def to_message(job: Job, answer: FinalAnswer | UnitResult) -> Json:
    """Return the message of an answer: the final one, or a draft whose final is still to come."""
    content: list[Json] = []
    if _shows_draft(job) and job.draft is not None and job.draft.text and job.draft is not answer:
        thinking = draft_title(job.spec) + job.draft.text
        content.append({"type": "thinking", "thinking": thinking, "signature": _signature(job)})
    calls = [block for call in answer.tool_calls if (block := _to_block(call)) is not None]
    if answer.text or not calls:
        content.append({"type": "text", "text": answer.text})
    content += calls
    return {
        **_head(job, answer.model),
        "content": content,
        **_stop(answer),
        "usage": _to_usage(answer.written),
        "hybrid": to_hybrid(job),
    }


async def to_events(telling: Telling, steps: AsyncIterator[Step]) -> AsyncGenerator[Json, None]:
    """Yield the events of a message that is sent while it is written.

    One block is open at a time: the draft, as thinking, if it is shown so; then the text; then each call. A message
    that calls nothing has a text block even where the answer is empty, since clients read the first one.

    Args:
        telling: the answer.
        steps: of it.
    """
    blocks = _Blocks()
    yield {
        "type": "message_start",
        "message": {**_head(telling.job, telling.model), "usage": _to_usage(Usage()), "hybrid": to_hybrid(telling.job)},
    }
    async for step in steps:
        if step.kind == "ping":
            yield PING
        elif step.kind == "draft":
            if _shows_draft(telling.job):
                for event in blocks.write("thinking", step.text):
                    yield event
        elif step.kind == "text":
            for event in (*blocks.sign(_signature(telling.job)), *blocks.write("text", step.text)):
                yield event
        elif step.call is not None:
            for event in (*blocks.sign(_signature(telling.job)), *blocks.call(step.call)):
                yield event
        elif step.answer is not None:
            for event in (*blocks.sign(_signature(telling.job)), *blocks.end()):
                yield event
            yield {
                "type": "message_delta",
                "delta": _stop(step.answer),
                "usage": _to_usage(step.answer.written),
                "hybrid": to_hybrid(telling.job),
            }
            yield {"type": "message_stop"}


class _Blocks:
    """The content blocks of a stream, one after the other."""

    def __init__(self) -> None:
        self._index = -1
        self._kind = ""
        self._has_answer = False

    def write(self, kind: str, text: str) -> list[Json]:
        """Add text to the open block of this kind, or begin one; an empty text adds nothing."""
        events: list[Json] = []
        if self._kind != kind:
            empty = {"type": "thinking", "thinking": "", "signature": ""} if kind == "thinking" else None
            events += self._open(empty or {"type": "text", "text": ""})
        if text:
            events.append(self._delta({"type": f"{kind}_delta", kind: text}))
        return events

    def call(self, piece: ToolCallDelta) -> list[Json]:
        """Begin a call's block with its first piece, and add to the text of its arguments."""
        events: list[Json] = []
        if piece.name:
            events += self._open({"type": "tool_use", "id": piece.id, "name": piece.name, "input": {}})
        if piece.arguments:
            events.append(self._delta({"type": "input_json_delta", "partial_json": piece.arguments}))
        return events

    def sign(self, signature: str) -> list[Json]:
        """End thinking with its signature; does nothing where there is none open."""
        if self._kind != "thinking":
            return []
        return [self._delta({"type": "signature_delta", "signature": signature}), *self._close()]

    def end(self) -> list[Json]:
        """End the answer; if it has no block, it gets an empty text."""
        return [*([] if self._has_answer else self.write("text", "")), *self._close()]

    def _open(self, block: Json) -> list[Json]:
        closed = self._close()
        self._index, self._kind = self._index + 1, block["type"]
        self._has_answer = self._has_answer or self._kind != "thinking"
        return [*closed, {"type": "content_block_start", "index": self._index, "content_block": block}]

    def _close(self) -> list[Json]:
        if not self._kind:
            return []
        self._kind = ""
        return [{"type": "content_block_stop", "index": self._index}]

    def _delta(self, delta: Json) -> Json:
        return {"type": "content_block_delta", "index": self._index, "delta": delta}


def _head(job: Job, model: str) -> Json:
    return {
        "id": f"msg_{job.id.removeprefix('resp_')}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def _shows_draft(job: Job) -> bool:
    return job.spec.draft_as == "reasoning"


def _to_block(call: ToolCall) -> Json | None:
    """Return the block of a call; None for one that the limit cut: there is no way to say that it is not to be run."""
    try:
        return {"type": "tool_use", "id": call.id, "name": call.name, "input": arguments_of(call.arguments)}
    except ValueError:
        return None


def _signature(job: Job) -> str:
    """Return what stands for a signature: clients send it back with the thinking, and drop thinking without one."""
    return item_id(job.id, 0, "reasoning")


def _stop(answer: FinalAnswer | UnitResult) -> Json:
    if answer.stop_sequence:
        return {"stop_reason": "stop_sequence", "stop_sequence": answer.stop_sequence}
    return {"stop_reason": _STOP_REASONS.get(answer.finish_reason, "end_turn"), "stop_sequence": None}


def _to_usage(usage: Usage) -> Json:
    """Return usage as messages have it: input tokens are those that were read anew."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
    }

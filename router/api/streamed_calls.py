"""The events of function calls in a stream of the Responses API.

In: pieces of calls, call after call. Out: events without their sequence numbers. Each call is an item of its own; it
ends when the next one begins, or with the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from engines.tools import ToolCall, ToolCallDelta
from router.api.call_items import call_item, call_item_id
from router.api.said import SaidCalls

Json = dict[str, Any]


class StreamedCalls:
    """The calls of one stream.

    Attributes:
        said: what was told of them.
    """

    def __init__(self) -> None:
        self.said = SaidCalls()
        self._first = 0
        self._job_id = ""
        self._is_open = False

    def write(self, job_id: str, pieces: Sequence[ToolCallDelta], num_before: int) -> list[Json]:
        """Return the events of pieces of calls.

        Args:
            job_id: of the response.
            pieces: in order.
            num_before: items before the first call; counts at the first piece.
        """
        out: list[Json] = []
        if not len(self.said):
            self._first, self._job_id = num_before, job_id
        for piece in pieces:
            if piece.index == len(self.said):
                out += self.close("completed")
                self.said.add(ToolCallDelta(piece.index, piece.id, piece.name))
                self._is_open = True
                item = call_item(self._item_id, ToolCall(piece.id, piece.name, ""), "in_progress")
                out.append({"type": "response.output_item.added", "output_index": self._index, "item": item})
            if piece.arguments:
                self.said.add(ToolCallDelta(piece.index, arguments=piece.arguments))
                told = {"type": "response.function_call_arguments.delta", **self._place, "delta": piece.arguments}
                out.append(told)
        return out

    def close(self, status: Literal["completed", "incomplete"]) -> list[Json]:
        """Return the last events of the newest call, if it has not ended."""
        if not self._is_open:
            return []
        self._is_open = False
        call = self.said.newest()
        done = {"type": "response.function_call_arguments.done", **self._place}
        item = call_item(self._item_id, call, status)
        return [
            {**done, "name": call.name, "arguments": call.arguments},
            {"type": "response.output_item.done", "output_index": self._index, "item": item},
        ]

    @property
    def _index(self) -> int:
        return self._first + len(self.said) - 1

    @property
    def _item_id(self) -> str:
        return call_item_id(self._job_id, len(self.said) - 1)

    @property
    def _place(self) -> Json:
        return {"item_id": self._item_id, "output_index": self._index}

"""Function calls as output items of a response.

In: calls, or pieces of them. Out: JSON-able items.
"""

from __future__ import annotations

from typing import Any

from engines.tools import ToolCall

Json = dict[str, Any]


def call_item(item: str, call: ToolCall, status: str) -> Json:
    """Return an output item: a call, with its arguments as far as they are known."""
    return {
        "id": item,
        "type": "function_call",
        "status": status,
        "call_id": call.id,
        "name": call.name,
        "arguments": call.arguments,
    }


def call_item_id(job_id: str, index: int) -> str:
    """Return the id of a call's item, by its number in the answer."""
    return f"fc_{job_id.removeprefix('resp_')}_{index}"


def call_items(job_id: str, calls: tuple[ToolCall, ...], *, is_cut: bool) -> list[Json]:
    """Return the items of an answer's calls; of one that was cut, the last is incomplete."""
    return [
        call_item(
            call_item_id(job_id, index),
            call,
            "incomplete" if is_cut and index == len(calls) - 1 else "completed",
        )
        for index, call in enumerate(calls)
    ]

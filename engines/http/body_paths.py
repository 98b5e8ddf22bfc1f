"""Where in a body something is wrong, by the names that its sender wrote.

In: one of pydantic's errors, and the body. Out: the place as OpenAI writes it, ``messages[0].content``. Beside the
names of fields, pydantic's locations have the tags and types of unions, and places in what a validator made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

Step = int | str


def path_of(fault: Any, body: object) -> str:
    """Return where in a body an error is; empty if it is the body itself.

    Args:
        fault: one of ``ValidationError.errors()``, with its input.
        body: what was validated. What comes behind a step that is not in it is left out.
    """
    location: Sequence[Step] = fault["loc"]
    last = location[-1:] if fault["type"] == "missing" else ()
    found = fault["input"]
    readings = list(_readings(location[: len(location) - len(last)], body))
    # In {"type": "text", "text": {"text": 5}}, at ("text", "text"), the first is a tag, though such a field is there.
    names = next((names for names, node in readings if node is found or node == found), readings[0][0])
    return write_path((*names, *last))


def write_path(steps: Sequence[Step]) -> str:
    """Write names and indexes: ``messages[0].content``."""
    path = ""
    for step in steps:
        path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else step
    return path


def _readings(location: Sequence[Step], node: Any) -> Iterator[tuple[tuple[Step, ...], object]]:
    """Yield each choice of the steps that may be names and indexes, and what they lead to; the longest first."""
    if not location:
        yield (), node
        return
    step, rest = location[0], location[1:]
    if _has(node, step):
        for names, end in _readings(rest, node[step]):
            yield (step, *names), end
    yield from _readings(rest, node)


def _has(node: object, step: Step) -> bool:
    if isinstance(step, str):
        return isinstance(node, dict) and step in node
    return isinstance(node, list) and step < len(node)

"""JSON out of what a model without constrained decoding wrote.

In: its text, and the JSON Schema that was asked for. Out: the value, which satisfies the schema; or `InvalidJsonError`
with a sentence that the model can mend its answer by. Pure functions; they may take a second on hostile texts, so that
tasks call them in a thread.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from typing import Any, Final

import json_repair

from engines.json_check import LENIENT_DECODER, check_depth, parse, to_check

# Repair time grows with the square of the length: at worst 1 s for 8,000 characters.
_MAX_MENDED_CHARS: Final = 8_000
_MAX_READ_CHARS: Final = 200_000
_MAX_SCHEMA_SHOWN: Final = 4_000
_MAX_OPENINGS: Final = 50
_OPENING: Final = re.compile(r"[{\[]")
_FENCE: Final = re.compile(r"```[a-zA-Z]*+\n?+(.*?)```", re.DOTALL)  # no second way to read a fence that is not closed

_REPAIR_EN: Final = (
    "That is not what was asked for: {problem}. Write the same answer again as JSON that satisfies this JSON Schema, "
    "and nothing else:\n{schema}"
)


class InvalidJsonError(Exception):
    """A text holds no JSON that satisfies the schema; the message says what is wrong with it."""


def read_json(text: str, json_schema: str) -> Any:
    """Read the JSON value in a model's answer, mending what such answers usually have wrong.

    The text as it is, what stands in a fence, and what begins at a bracket are tried, in this order; at last, what
    begins at the first bracket is mended: quotes, commas, brackets that are missing.

    Raises:
        InvalidJsonError: if none satisfies the schema.
        UncheckableSchemaError: if that cannot be found out.
    """
    check = to_check(json_schema)
    problem = "it is no JSON"
    for value in _candidates(text):
        found = check(value)
        if found is None:
            return value
        problem = found
    raise InvalidJsonError(problem)


def dump_json(value: Any) -> str:
    """Write a value as the engines do that are held to a schema: without white space."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def repair_prompt(problem: str, json_schema: str) -> str:
    """Return the prompt for a model after an answer that does not satisfy the schema.

    In English whatever the question is in: the one model that is told so follows English best.
    """
    return _REPAIR_EN.format(problem=problem, schema=json_schema[:_MAX_SCHEMA_SHOWN])


def _candidates(text: str) -> Iterator[Any]:
    text = text.strip()[:_MAX_READ_CHARS]
    for place in dict.fromkeys((text, *(match[1].strip() for match in _FENCE.finditer(text)))):
        with contextlib.suppress(ValueError):
            yield parse(place)
    openings = [match.start() for match in _OPENING.finditer(text)]
    end = 0
    for start in openings[:_MAX_OPENINGS]:
        if start >= end:
            with contextlib.suppress(ValueError, RecursionError):
                value, end = LENIENT_DECODER.raw_decode(text, start)
                check_depth(value)
                yield value
    if openings and len(text) - openings[0] <= _MAX_MENDED_CHARS:
        last = max(text.rfind("}"), text.rfind("]")) + 1
        for place in dict.fromkeys((text[openings[0] : max(last, openings[0])], text[openings[0] :])):
            with contextlib.suppress(ValueError, RecursionError, TypeError):
                yield parse(dump_json(json_repair.loads(place, skip_json_loads=True)))

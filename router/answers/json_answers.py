"""JSON out of what a model without constrained decoding wrote.

In: its text, and the JSON Schema that was asked for. Out: the value, which satisfies the schema; or `InvalidJsonError`
with a sentence that the model can mend its answer by. Pure functions; they may take a second on hostile texts, so that
tasks call them in a thread.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from typing import Any, Final

import json_repair
import orjson
from jsonschema import Draft202012Validator, FormatChecker, validators
from jsonschema.exceptions import ValidationError

from engines.json_schema import FORMATS, nodes

# Mending takes time that grows with the square of the length: 8,000 characters take a second at worst.
_MAX_MENDED_CHARS: Final = 8_000
_MAX_READ_CHARS: Final = 200_000
# A page of 200 lines takes some ten thousand checks. A schema whose parts refer to one another can take 2**100.
_MAX_CHECKS: Final = 50_000
# Each failure writes down what failed: of a long text under many alternatives, gigabytes.
_CHARS_PER_CHECK: Final = 200
_MAX_DEPTH: Final = 100
# Other formats are annotations, as the engine that is held to a schema takes them.
_FORMATS: Final = FormatChecker(sorted(FORMATS & Draft202012Validator.FORMAT_CHECKER.checkers.keys()))
_MAX_SHOWN: Final = 300
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


class UncheckableSchemaError(Exception):
    """Whether a value satisfies this schema cannot be found out safely here."""


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


def can_check(json_schema: str) -> bool:
    """Whether answers can be held against a schema here.

    Not with patterns: Python's regular expressions can take for ever on a pattern made for that, and both the pattern
    and, in effect, the text are the caller's.
    """
    return not any(
        "pattern" in node or "patternProperties" in node or isinstance(node.get("items"), list)
        for node, _ in nodes(orjson.loads(json_schema))
    )


def to_check(json_schema: str) -> Callable[[Any], str | None]:
    """Return a function that says what is wrong with a value; None if nothing is.

    The function raises `UncheckableSchemaError` if the value cannot be checked within bounds.

    Raises:
        UncheckableSchemaError: for a schema that `can_check` refuses.
    """
    if not can_check(json_schema):
        raise UncheckableSchemaError("it has patterns")
    schema = orjson.loads(json_schema)

    def check(value: Any) -> str | None:
        num_left = _MAX_CHECKS

        def spend(number: int) -> None:
            nonlocal num_left
            num_left -= number
            if num_left < 0:
                raise UncheckableSchemaError("it takes too many steps")

        def counted(
            keyword: Callable[..., Iterator[ValidationError] | None],
        ) -> Callable[..., Iterator[ValidationError]]:
            def run(*arguments: Any) -> Iterator[ValidationError]:
                spend(1)
                for failure in keyword(*arguments) or ():
                    spend(len(failure.message) // _CHARS_PER_CHECK)
                    yield failure

            return run

        keywords = {name: counted(keyword) for name, keyword in Draft202012Validator.VALIDATORS.items()}
        validator = validators.extend(Draft202012Validator, keywords)  # type: ignore[no-untyped-call]
        try:
            error = next(validator(schema, format_checker=_FORMATS).iter_errors(value), None)
        except UncheckableSchemaError:
            raise
        except Exception as failure:  # the schema is a caller's: it may refer to itself without end, or be malformed
            raise UncheckableSchemaError(f"{type(failure).__name__}") from failure
        return None if error is None else _shown(error)

    return check


def dump_json(value: Any) -> str:
    """Write a value as the engines do that are held to a schema: without white space."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def repair_prompt(problem: str, json_schema: str) -> str:
    """Return what a model is told after an answer that does not satisfy the schema.

    In English whatever the question is in: the one model that is told so follows English best.
    """
    return _REPAIR_EN.format(problem=problem, schema=json_schema[:_MAX_SCHEMA_SHOWN])


def parse(text: str) -> Any:
    """Read strict JSON.

    Raises:
        ValueError: if it is none, or holds what JSON does not have.
    """
    try:
        value = json.loads(text, parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    _check_depth(value)
    return value


def _check_depth(value: Any) -> None:
    """Refuse what later walks, which call themselves, could not follow."""
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [
            item
            for each in level
            if isinstance(each, dict | list)
            for item in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return
    raise ValueError("nested too deep")


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
                value, end = _DECODER.raw_decode(text, start)
                _check_depth(value)
                yield value
    if openings and len(text) - openings[0] <= _MAX_MENDED_CHARS:
        last = max(text.rfind("}"), text.rfind("]")) + 1
        for place in dict.fromkeys((text[openings[0] : max(last, openings[0])], text[openings[0] :])):
            with contextlib.suppress(ValueError, RecursionError, TypeError):
                yield parse(dump_json(json_repair.loads(place, skip_json_loads=True)))


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


_DECODER: Final = json.JSONDecoder(parse_constant=_refuse)


def _shown(error: ValidationError) -> str:
    place = "/".join(str(step) for step in error.absolute_path)
    message = error.message if len(error.message) <= _MAX_SHOWN else error.message[:_MAX_SHOWN] + "..."
    return f"at {place}: {message}" if place else message

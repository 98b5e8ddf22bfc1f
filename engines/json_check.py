"""Strict JSON, and whether a value satisfies a JSON Schema, within bounds.

In: text and a schema, both of which may be made to hang their reader. Out: the value; a sentence that says what is
wrong with it, or None. Pure functions; they may take a second on hostile texts, so that tasks call them in a thread.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from typing import Any, Final

import orjson
from jsonschema import Draft202012Validator, FormatChecker, validators
from jsonschema.exceptions import ValidationError

from engines.json_schema import FORMATS, nodes

# A page of 200 lines takes some ten thousand checks. A schema whose parts refer to one another can take 2**100.
_MAX_CHECKS: Final = 50_000
# Each failure writes down what failed: of a long text under many alternatives, gigabytes.
_CHARS_PER_CHECK: Final = 200
_MAX_DEPTH: Final = 100
# Other formats are annotations, as the engine that is held to a schema takes them.
_FORMATS: Final = FormatChecker(sorted(FORMATS & Draft202012Validator.FORMAT_CHECKER.checkers.keys()))
_MAX_SHOWN: Final = 300


class UncheckableSchemaError(Exception):
    """Whether a value satisfies this schema cannot be found out safely here."""


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


def parse(text: str) -> Any:
    """Read strict JSON.

    Raises:
        ValueError: if it is none, or holds what JSON does not have.
    """
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_to_object)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    check_depth(value)
    return value


def check_depth(value: Any) -> None:
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


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):  # it would be written as Infinity
        raise ValueError(f"{digits[:40]} is too large")
    return number


def _to_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):  # readers differ in which of two values they take
        raise ValueError("a key stands twice in an object")
    return value


# For a text in which JSON is looked for: an object with a key twice is better than none.
LENIENT_DECODER: Final = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite)


def _shown(error: ValidationError) -> str:
    place = "/".join(str(step) for step in error.absolute_path)
    message = error.message if len(error.message) <= _MAX_SHOWN else error.message[:_MAX_SHOWN] + "..."
    return f"at {place}: {message}" if place else message

"""What a body or a query of a wrong shape is refused with.

In: pydantic's errors, and the body. Out: one refusal, of the first thing that is wrong, in English and Chinese.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from engines.http.body_paths import path_of, write_path
from policies.text import Text
from router.api import texts
from router.errors import BadRequestError

# What pydantic says of an object is about the field that tells its kind.
_OF_TYPE: Final = ("union_tag_invalid", "union_tag_not_found", "refused_part", "unknown_type")
_UNKNOWN: Final = "unknown_parameter"
_BESIDE: Final = {"picture_beside": texts.PICTURE_BESIDE, "text_beside": texts.TEXT_BESIDE}


def to_invalid(error: ValidationError, body: object, under: str = "") -> BadRequestError:
    """Return the refusal that a body of a wrong shape amounts to.

    Args:
        error: what is wrong with it.
        body: what was validated.
        under: the field that it came in; empty if it is the request's body.
    """

    def place_of(fault: Any) -> str:
        inner = path_of(fault, body)
        path = f"{under}.{inner}" if under and inner else under or inner
        names_field = fault["type"] == _UNKNOWN or fault["type"] in _BESIDE
        field = "type" if fault["type"] in _OF_TYPE else fault["ctx"]["name"] if names_field else ""
        return f"{path}.{field}" if path and field else path or field

    return _refusal(error.errors(), place_of)


def to_invalid_query(error: RequestValidationError) -> BadRequestError:
    """Return the refusal of a wrong value in a path or a query."""
    return _refusal(list(error.errors()), lambda fault: write_path(fault["loc"][1:]))


def _refusal(faults: list[Any], place_of: Callable[[Any], str]) -> BadRequestError:
    # Of a field that may be several things, pydantic says what is wrong with each; the deepest place says most.
    field = faults[0]["loc"][:1]
    first = max((each for each in faults if each["loc"][:1] == field), key=lambda each: len(each["loc"]))
    kind, context, path = first["type"], first.get("ctx", {}), place_of(first)
    if kind in ("missing", "union_tag_not_found"):
        said = texts.MISSING_PARAMETER.fill(param=path)
        return BadRequestError(said, code="missing_required_parameter", param=path)
    if kind == "unknown_type":
        return BadRequestError(texts.UNKNOWN_TYPE.fill(param=path, **context), code="unsupported_value", param=path)
    if kind == _UNKNOWN:
        said = texts.UNKNOWN_OPTION.fill(param=path, **context)
        return BadRequestError(said, code="unknown_parameter", param=path)
    if kind in _BESIDE:
        said = texts.UNSUPPORTED_VALUE.fill(param=path, advice=_BESIDE[kind].fill(**context))
        return BadRequestError(said, code="unsupported_value", param=path)
    says = texts.SHAPES[kind].fill(**context) if kind in texts.SHAPES else Text.same(first["msg"])
    here = (each["type"] for each in faults if len(each["loc"]) == len(first["loc"]) and place_of(each) == path)
    kinds = dict.fromkeys(texts.KINDS.get(each) for each in here)
    if len(kinds) > 1 and None not in kinds:
        says = texts.ONE_OF_KINDS.fill(kinds=texts.OR_KIND.join(each for each in kinds if each is not None))
    said = texts.INVALID_PARAMETER if path else texts.INVALID_BODY
    return BadRequestError(said.fill(param=path, says=says), code="invalid_value", param=path or None)

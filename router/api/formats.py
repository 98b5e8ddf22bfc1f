"""How an answer is to be formatted, in each of the ways that clients ask for it.

In: validated requests. Out: an `OutputFormat` and the text of its JSON Schema; or a refusal that names the field.
"""

from __future__ import annotations

from typing import Any

import orjson

from engines.json_schema import ANY_OBJECT, JsonSchemaError, check_schema, to_schema_text
from policies.text import Text
from router.api import texts
from router.api.other_fields import unsupported
from router.api.schemas import ChatRequest, Hybrid, JsonSchemaFormat, ResponsesRequest
from router.errors import BadRequestError
from router.output_format import OutputFormat
from router.templates import NAMES, template_schema


def to_chat_format(request: ChatRequest) -> tuple[OutputFormat | None, str | None]:
    """Read how the answer is to be formatted, and the text of its JSON Schema; two Nones for prose.

    Raises:
        BadRequestError: for a schema that cannot be kept, an unknown template, or more than one format.
    """
    wanted = request.response_format
    ways: dict[str, tuple[str, JsonSchemaFormat | None]] = {}
    if wanted is not None and (wanted.type != "text" or wanted.json_schema or wanted.flat_schema is not None):
        schema = wanted.json_schema
        if schema is None and wanted.flat_schema is not None:
            schema = JsonSchemaFormat(schema=wanted.flat_schema)
        ways["response_format"] = (wanted.type, schema)
    if request.guided_json is not None:
        ways["guided_json"] = ("json_schema", _to_schema(request.guided_json, "guided_json"))
    for name, value in (request.structured_outputs or {}).items():
        if name == "json" and value is not None:
            ways["structured_outputs"] = ("json_schema", _to_schema(value, "structured_outputs.json"))
        elif name == "json_object" and isinstance(value, bool):
            ways |= {"structured_outputs": ("json_object", None)} if value else {}
        elif value is not None and value is not False:
            raise unsupported(f"structured_outputs.{name[:64]}", texts.JSON_SCHEMA_ONLY)
    if len(ways) > 1:
        names = ", ".join(ways)
        raise unsupported(list(ways)[1], texts.SEND_ONE_OF.fill(names=names))
    for param, (kind, schema) in ways.items():
        if kind == "json_schema" and schema is None:
            raise _missing("response_format.json_schema")
        return _to_format(kind, schema, request.hybrid, param)
    return _to_format("text", None, request.hybrid, "response_format")


def _to_schema(value: dict[str, Any] | str, param: str) -> JsonSchemaFormat:
    """Read a schema that may come as its text."""
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            value = ""
    if not isinstance(value, dict):
        raise unsupported(param, texts.SEND_SCHEMA)
    return JsonSchemaFormat(schema=value)


def to_responses_format(request: ResponsesRequest) -> tuple[OutputFormat | None, str | None]:
    """Read how the answer is to be formatted, like `to_chat_format`.

    Raises:
        BadRequestError: likewise.
    """
    wanted, param = request.text.format if request.text else None, "text.format"
    schema = None
    if wanted is not None and wanted.json_schema is not None:
        schema = JsonSchemaFormat.model_validate(wanted.model_dump(by_alias=True))
    if wanted is not None and wanted.type == "json_schema" and schema is None:
        raise _missing("text.format.schema")
    return _to_format(wanted.type if wanted else "text", schema, request.hybrid, param)


def _to_format(
    kind: str, schema: JsonSchemaFormat | None, hybrid: Hybrid, param: str
) -> tuple[OutputFormat | None, str | None]:
    if hybrid.template is not None:
        if kind != "text":
            raise unsupported("hybrid.template", texts.TEMPLATE_IS_FORMAT.fill(param=param))
        if hybrid.template not in NAMES:
            known = ", ".join(f"'{name}'" for name in NAMES)
            raise BadRequestError(
                texts.UNKNOWN_TEMPLATE.fill(template=hybrid.template, known=known),
                code="unknown_template",
                param="hybrid.template",
            )
        text = to_schema_text(template_schema(hybrid.template))
        return OutputFormat("json_schema", hybrid.template, strict=True, template=hybrid.template), text
    if kind == "text" and schema is not None:
        raise unsupported(f"{param}.type", texts.SEND_JSON_SCHEMA)
    if schema is None:
        return (OutputFormat("json_object"), ANY_OBJECT) if kind == "json_object" else (None, None)
    try:
        checked = check_schema(schema.json_schema)
    except JsonSchemaError as error:
        refusal = Text(error.message, error.message_zh)
        raise BadRequestError(refusal, code=error.code, param=param) from error
    dropped = checked.dropped_patterns
    return OutputFormat(
        "json_schema", schema.name, schema.description, schema.strict, dropped_patterns=dropped
    ), checked.text


def _missing(param: str) -> BadRequestError:
    return BadRequestError(texts.MISSING_PARAMETER.fill(param=param), code="missing_required_parameter", param=param)

"""JSON instead of prose: what a caller asked for, and how the model is told.

In: a JSON Schema, which travels as `SamplingParams.json_schema` and is enforced by the engine. Out: the format as it is
echoed to the caller, and the words under a question that name the fields. The schema alone makes an answer valid; the
words make it a good one, since the model doesn't see the schema.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import orjson

from engines.base import GenerationRequest, Message, TextPart
from engines.json_schema import resolve
from router.templates import template_schema

_MAX_FIELDS: Final = 80
_MAX_CHARS: Final = 4000
_MAX_LEVELS: Final = 6


@dataclass(frozen=True, slots=True)
class OutputFormat:
    """What was asked for, without the schema itself, which is in the sampling knobs.

    Attributes:
        type: ``json_object`` or ``json_schema``.
        name: of the schema.
        description: of the schema.
        strict: as the caller said it; an answer is held to the schema either way.
        template: name of the shipped template, if it was one.
    """

    type: Literal["json_object", "json_schema"]
    name: str = ""
    description: str | None = None
    strict: bool | None = None
    template: str | None = None

    def to_wire(self, json_schema: str | None) -> dict[str, Any]:
        """Return ``text.format`` of a Responses object."""
        if self.type == "json_object":
            return {"type": "json_object"}
        return {
            "type": "json_schema",
            "name": self.name,
            "description": self.description,
            "schema": orjson.loads(json_schema or "{}"),
            "strict": self.strict,
        }


def with_instruction(
    request: GenerationRequest, output_format: OutputFormat | None, language: str
) -> GenerationRequest:
    """Put the words about the format under the last user turn of a request that is held to a schema.

    Under it, because what comes before a picture and its question is then the same as without a format, and need not be
    computed again.
    """
    schema = request.sampling.json_schema
    if schema is None or output_format is None:
        return request
    *earlier, last = request.messages
    turn = Message(last.role, (*last.parts, TextPart("\n\n" + instruction(output_format, schema, language))))
    return replace(request, messages=(*earlier, turn))


def instruction(output_format: OutputFormat, json_schema: str, language: str) -> str:
    """Write the words: that JSON is wanted, and the names, kinds and descriptions of its fields.

    Args:
        output_format: what was asked for.
        json_schema: its text.
        language: ``zh`` for Chinese; anything else is English.
    """
    is_zh = language == "zh"
    if output_format.type == "json_object":
        return "请只用一个 JSON 对象回答。" if is_zh else "Answer with one JSON object and nothing else."
    if output_format.template is not None:
        schema = template_schema(output_format.template, "zh" if is_zh else "en")
    else:
        schema = orjson.loads(json_schema)
    head = "请只用 JSON 回答。" if is_zh else "Answer with JSON and nothing else."
    about = str(output_format.description or schema.get("description") or schema.get("title") or "")
    lines = [head + (f"{'内容' if is_zh else ' Subject'}{'：' if is_zh else ': '}{about}" if about else "")]
    fields = list(_outline(schema, schema, 0))[:_MAX_FIELDS]
    if fields:
        lines.append("字段：" if is_zh else "Fields:")
        lines += fields
    if any("null" in field for field in fields):
        lines.append("看不到的内容填 null。" if is_zh else "Write null for what cannot be seen.")
    return "\n".join(lines)[:_MAX_CHARS]


def _outline(schema: Any, root: dict[str, Any], level: int) -> Iterator[str]:
    schema = _followed(schema, root)
    if level > _MAX_LEVELS:
        return
    for option in (*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("allOf", ())):
        yield from _outline(option, root, level)
    if isinstance(items := schema.get("items"), dict):
        yield from _outline(items, root, level)
    for name, field in schema.get("properties", {}).items():
        field = field if isinstance(field, dict) else {}
        about = field.get("description") or field.get("title")
        about = about or _followed(field, root).get("description")
        yield f"{'  ' * level}- {name} ({_kind(field, root)})" + (f": {about}" if about else "")
        yield from _outline(field, root, level + 1)


def _kind(field: Any, root: dict[str, Any]) -> str:
    field = _followed(field, root)
    if "enum" in field or "const" in field:
        values = field.get("enum", [field.get("const")])
        return " | ".join(orjson.dumps(value).decode() for value in values[:20])
    options = (*field.get("anyOf", ()), *field.get("oneOf", ()))
    if options:
        return " | ".join(dict.fromkeys(_kind(option, root) for option in options))
    kinds = field.get("type", "any")
    return " | ".join(kinds) if isinstance(kinds, list) else str(kinds)


def _followed(schema: Any, root: dict[str, Any]) -> dict[str, Any]:
    for _ in range(_MAX_LEVELS):
        if not isinstance(schema, dict) or "$ref" not in schema:
            break
        schema = resolve(root, schema["$ref"])
    return schema if isinstance(schema, dict) else {}

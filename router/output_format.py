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
from engines.json_schema import FORMATS, resolve
from policies.text import Text
from router import texts
from router.templates import template_schema

_MAX_FIELDS: Final = 80
_MAX_CHARS: Final = 4000
_MAX_LEVELS: Final = 6
_MAX_VALUES: Final = 20
_MAX_NOTES: Final = 10
_MAX_PLACE: Final = 200
# A schema of 80 fields takes some 500 steps; 20,000 take 40 ms.
_MAX_STEPS: Final = 20_000


@dataclass(frozen=True, slots=True)
class OutputFormat:
    """What was asked for, without the schema itself, which is in the sampling knobs.

    Attributes:
        type: ``json_object`` or ``json_schema``.
        name: of the schema.
        description: of the schema.
        strict: as the caller said it; an answer is held to the schema either way.
        template: name of the shipped template, if it was one.
        dropped_patterns: places in the schema of patterns that are not kept, only the format beside each.
    """

    type: Literal["json_object", "json_schema"]
    name: str = ""
    description: str | None = None
    strict: bool | None = None
    template: str | None = None
    dropped_patterns: tuple[str, ...] = ()

    @property
    def degraded(self) -> list[Text]:
        """What of the format is not kept."""
        return [
            texts.PATTERN_NOT_KEPT.fill(place=place[:_MAX_PLACE] or texts.TOP)
            for place in self.dropped_patterns[:_MAX_NOTES]
        ]

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
    outline = _Outline(schema)
    outline.add(schema)
    fields = outline.lines
    if fields:
        lines.append("字段：" if is_zh else "Fields:")
        lines += fields
    if any("null" in field for field in fields):
        lines.append("看不到的内容填 null。" if is_zh else "Write null for what cannot be seen.")
    return "\n".join(lines)[:_MAX_CHARS]


class _Outline:
    """Writes down the fields of a schema: at most so many lines, in at most so many steps, whatever refers to what.

    Definitions that refer to one another can be walked on 2**n paths, or without end.

    Args:
        root: the whole schema, in which references are looked up.
    """

    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        self._num_left = _MAX_STEPS
        self.lines: list[str] = []

    def add(self, schema: Any, level: int = 0) -> None:
        """Write one line per property, and those of its own properties indented under it."""
        if level > _MAX_LEVELS:
            return
        for part in self._parts(schema, ("anyOf", "oneOf", "allOf", "items")):
            for name, field in part.get("properties", {}).items():
                if len(self.lines) >= _MAX_FIELDS:
                    return
                self.lines.append(f"{'  ' * level}- {name} ({self._kind(field)})" + self._about(field))
                self.add(field, level + 1)

    def _about(self, field: Any) -> str:
        if not isinstance(field, dict):
            return ""
        about = field.get("description") or field.get("title") or self._followed(field).get("description")
        return f": {about}" if about else ""

    def _kind(self, field: Any) -> str:
        kinds: dict[str, None] = {}
        for part in self._parts(field, ("anyOf", "oneOf")):
            if "enum" in part or "const" in part:
                values = part.get("enum", [part.get("const")])[:_MAX_VALUES]
                kinds |= dict.fromkeys(orjson.dumps(value).decode() for value in values)
            elif not any(part.get(keyword) for keyword in ("anyOf", "oneOf")):
                types = part.get("type", "any")
                # The engine keeps the formats that it knows; any other is a hint that only words can give.
                hint = f", {part['format'][:_MAX_PLACE]}" if part.get("format", "date") not in FORMATS else ""
                kinds |= dict.fromkeys(
                    f"{kind}{hint if kind == 'string' else ''}"
                    for kind in (types if isinstance(types, list) else [types])
                )
            if len(kinds) >= _MAX_VALUES:
                break
        return " | ".join(list(kinds)[:_MAX_VALUES]) or "any"

    def _parts(self, schema: Any, keywords: tuple[str, ...]) -> Iterator[dict[str, Any]]:
        """Yield what speaks about one value: the schemas under ``keywords``, then the schema itself; each of them once.

        With a list of its own instead of calls: a chain of definitions may be longer than Python's stack.
        """
        seen: set[int] = set()
        waiting: list[tuple[Any, bool]] = [(schema, False)]
        while waiting and self._num_left > 0:
            self._num_left -= 1
            part, is_open = waiting.pop()
            if is_open:
                yield part
                continue
            part = self._followed(part)
            if id(part) in seen:
                continue
            seen.add(id(part))
            waiting.append((part, True))
            inner = [option for keyword in keywords for option in _as_list(part.get(keyword))]
            waiting += [(option, False) for option in reversed(inner) if isinstance(option, dict)]

    def _followed(self, schema: Any) -> dict[str, Any]:
        for _ in range(_MAX_LEVELS):
            if not isinstance(schema, dict) or "$ref" not in schema:
                break
            schema = resolve(self._root, schema["$ref"])
        return schema if isinstance(schema, dict) else {}


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]

"""What JSON Schema a caller may ask an answer to follow: bounds and keywords, without a tokenizer and without torch.

In: a schema as it came over the wire. Out: its compact text, as `SamplingParams.json_schema` carries it, or a refusal
that names the keyword. The router asks here at its door, the engine again before it compiles.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Final

import orjson

from engines.base import InvalidRequestError

MAX_SCHEMA_BYTES: Final = 100_000
MAX_SCHEMA_DEPTH: Final = 64
"""Of the JSON text: a schema inside ``properties`` of another is two levels further in."""

ANY_OBJECT: Final = '{"type":"object"}'
"""The schema that ``json_object`` stands for."""

# The compiler calls itself for every level of every definition that a `$ref` leads to: at about four times as many
# levels as this, a chain of definitions overflows its thread's stack, and the process is gone.
_MAX_REF_DEPTH: Final = 512
# Whether several patterns that hold at once leave any string is found out by trying: 14 take 0.1 s, 20 take 20 s.
_MAX_INTERSECTED_PATTERNS: Final = 8

# The compiler knows no larger numbers and would take these for the largest it knows, which is another bound.
_MAX_NUMBER: Final = 2**63 - 1

_SCHEMA_KEYWORDS: Final = ("items", "additionalItems", "additionalProperties")
_LIST_KEYWORDS: Final = ("anyOf", "oneOf", "allOf", "prefixItems")
_DICT_KEYWORDS: Final = ("properties", "patternProperties", "$defs", "definitions")
_COMBINERS: Final = ("anyOf", "oneOf", "allOf", "$ref")
_PATTERNS: Final = ("pattern", "format", "patternProperties")
# Each says something about the answer that cannot be checked token by token, or that the compiler does not know.
_UNSUPPORTED: Final = frozenset(
    {
        "not",
        "if",
        "then",
        "else",
        "contains",
        "minContains",
        "maxContains",
        "uniqueItems",
        "propertyNames",
        "dependentRequired",
        "dependentSchemas",
        "dependencies",
        "unevaluatedProperties",
        "unevaluatedItems",
        "$dynamicRef",
        "$recursiveRef",
    }
)
ACCEPTED: Final = (
    "type, enum, const, properties, required, additionalProperties, patternProperties, items, prefixItems, anyOf, "
    "allOf, oneOf with options that exclude each other, $ref within the schema, and bounds on numbers, lengths and "
    "counts"
)


class JsonSchemaError(InvalidRequestError):
    """A schema that no answer can be held to; the message names what is wrong and says what is accepted.

    Args:
        message: in English.
        message_zh: the same in Chinese.
    """

    default_code: ClassVar[str] = "invalid_json_schema"

    def __init__(self, message: str, *, message_zh: str = "", param: str | None = "response_format") -> None:
        super().__init__(message, param=param)
        self.message_zh = message_zh or message


def to_schema_text(schema: dict[str, Any]) -> str:
    """Check a schema and write it as compact JSON; properties keep their order, which the answer will have.

    Raises:
        JsonSchemaError: if it is too large or too deep, refers to something outside, or holds a keyword that cannot be
            guaranteed.
    """
    try:
        text = orjson.dumps(schema)
    except (orjson.JSONEncodeError, RecursionError) as error:  # too deep, a lone surrogate, an integer over 64 bits
        raise JsonSchemaError(f"The JSON Schema cannot be written as JSON: {error}.") from error
    if len(text) > MAX_SCHEMA_BYTES:
        raise JsonSchemaError(
            f"The JSON Schema has {len(text)} bytes; at most {MAX_SCHEMA_BYTES} are accepted.",
            message_zh=f"JSON Schema 有 {len(text)} 字节；最多接受 {MAX_SCHEMA_BYTES} 字节。",
        )
    if _depth(schema) > MAX_SCHEMA_DEPTH:
        raise JsonSchemaError(
            f"The JSON Schema is nested too deep: at most {MAX_SCHEMA_DEPTH} levels of JSON are accepted.",
            message_zh=f"JSON Schema 嵌套过深：最多接受 {MAX_SCHEMA_DEPTH} 层。",
        )
    refs: set[str] = set()
    num_patterns, is_intersected = 0, False
    for node, path in nodes(schema):
        _check_keywords(node, path)
        num_patterns += sum(keyword in node for keyword in _PATTERNS)
        is_intersected = is_intersected or _intersects(node)
        if "$ref" in node:
            refs.add(_check_ref(node["$ref"], path))
    if is_intersected and num_patterns > _MAX_INTERSECTED_PATTERNS:
        raise JsonSchemaError(
            f"The JSON Schema is too complex: a schema that combines others by allOf or $ref may hold at most "
            f"{_MAX_INTERSECTED_PATTERNS} of pattern, format and patternProperties; this one holds {num_patterns}.",
            message_zh=f"JSON Schema 过于复杂：使用 allOf 或 $ref 组合时，pattern、format、patternProperties "
            f"合计最多 {_MAX_INTERSECTED_PATTERNS} 个，当前为 {num_patterns} 个。",
        )
    if sum(_depth(resolve(schema, ref)) for ref in refs) > _MAX_REF_DEPTH:
        raise JsonSchemaError(
            f"The JSON Schema is too complex: what its {len(refs)} references lead to may be {_MAX_REF_DEPTH} levels "
            "of JSON deep in all.",
            message_zh=f"JSON Schema 过于复杂：{len(refs)} 个引用所指内容的总深度最多为 {_MAX_REF_DEPTH} 层。",
        )
    return text.decode()


def from_schema_text(text: str) -> dict[str, Any]:
    """Read and check the text of a schema.

    Raises:
        JsonSchemaError: as `to_schema_text` does, or if it is no JSON object.
    """
    try:
        schema = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise JsonSchemaError(f"The JSON Schema is not valid JSON: {error}.") from error
    if not isinstance(schema, dict):
        raise JsonSchemaError("The JSON Schema must be a JSON object.", message_zh="JSON Schema 必须是 JSON 对象。")
    to_schema_text(schema)
    return schema


def unsupported(keyword: str, path: str = "") -> JsonSchemaError:
    """Make the refusal of one keyword."""
    where = f" (at {path})" if path else ""
    return JsonSchemaError(
        f"The JSON Schema keyword '{keyword}'{where} cannot be guaranteed. Accepted are {ACCEPTED}.",
        message_zh=f"无法保证 JSON Schema 关键字 '{keyword}'{where}。可用：{ACCEPTED}。",
    )


def _check_keywords(node: dict[str, Any], path: str) -> None:
    for keyword in node:
        # Said to be false, it asks for nothing.
        if keyword in _UNSUPPORTED and not (keyword == "uniqueItems" and node[keyword] is False):
            raise unsupported(keyword, path)
    for keyword, sign in (("minimum", 1), ("exclusiveMinimum", 1), ("maximum", -1), ("exclusiveMaximum", -1)):
        bound = node.get(keyword)
        if isinstance(bound, int | float) and bound * sign >= _MAX_NUMBER:
            raise unsupported(f"{keyword}: {bound}", path)


def _check_ref(ref: Any, path: str) -> str:
    if not isinstance(ref, str) or not (ref == "#" or ref.startswith("#/")):
        raise JsonSchemaError(
            f"The JSON Schema's '$ref' at {path or 'the top'} must point into the schema itself, such as "
            "'#/$defs/Item'.",
            message_zh=f"JSON Schema 中 {path or '顶层'} 的 '$ref' 必须指向该 schema 内部，例如 '#/$defs/Item'。",
        )
    return ref


def resolve(schema: dict[str, Any], ref: str) -> Any:
    """Return what a reference within a schema leads to.

    Raises:
        JsonSchemaError: if it leads nowhere.
    """
    found: Any = schema
    for step in ref.split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and key.isdigit() and int(key) < len(found):
            found = found[int(key)]
        elif isinstance(found, dict) and key in found:
            found = found[key]
        else:
            raise JsonSchemaError(
                f"The JSON Schema's '$ref' to '{ref}' leads nowhere.",
                message_zh=f"JSON Schema 的 '$ref' '{ref}' 没有对应内容。",
            )
    return found


def _intersects(node: dict[str, Any]) -> bool:
    """Whether several schemas hold for one value at a time here."""
    all_of = node.get("allOf")
    if isinstance(all_of, list) and len(all_of) > 1:
        return True
    return sum(keyword in node for keyword in _COMBINERS) > 1 or (
        any(keyword in node for keyword in _COMBINERS)
        and any(keyword in node for keyword in (*_PATTERNS, "properties"))
    )


def nodes(schema: Any, path: str = "") -> Iterator[tuple[dict[str, Any], str]]:
    """Yield every schema inside a schema, with its place; a property that is named like a keyword is none."""
    if not isinstance(schema, dict):
        return
    yield schema, path
    for keyword, value in schema.items():
        place = f"{path}/{keyword}"
        if keyword in _SCHEMA_KEYWORDS and isinstance(value, dict):
            yield from nodes(value, place)
        elif (keyword in _LIST_KEYWORDS or keyword in _SCHEMA_KEYWORDS) and isinstance(value, list):
            for index, item in enumerate(value):
                yield from nodes(item, f"{place}/{index}")
        elif keyword in _DICT_KEYWORDS and isinstance(value, dict):
            for key, item in value.items():
                yield from nodes(item, f"{place}/{key}")


def _depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max((_depth(item) for item in value.values()), default=0)
    if isinstance(value, list):
        return 1 + max((_depth(item) for item in value), default=0)
    return 0

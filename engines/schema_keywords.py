"""What each keyword of a JSON Schema may hold, which of them ask for nothing, and which cannot be guaranteed.

In: one node of a schema, whatever its caller wrote there. Out: the same node in a form that every later step can trust:
keywords have their shapes, those that say nothing are gone, some are written in a simpler way that means the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any, ClassVar, Final

import orjson

from engines.base import InvalidRequestError

ACCEPTED: Final = (
    "type, enum, const, properties, required, additionalProperties, patternProperties, items, prefixItems, anyOf, "
    "allOf, oneOf with options that exclude each other, $ref within the schema, and bounds on numbers, lengths and "
    "counts"
)
# Formats that the compiler enforces. Any other is an annotation, as in JSON Schema.
FORMATS: Final = frozenset(
    {"date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"}
)
_TYPES: Final = ("string", "number", "integer", "boolean", "array", "object", "null")

# The compiler would silently clamp larger numbers, which is another bound.
_MAX_NUMBER: Final = 2**63 - 1
_MAX_COUNT: Final = 2**31 - 1
# Each remainder is a state of the compiler's: 300,007 of them take 3 s, 10,000 are over its own limit in mid-answer.
_MAX_REMAINDERS: Final = 5_000


class JsonSchemaError(InvalidRequestError):
    """A schema that no answer can be held to; the message names what is wrong and says what is accepted.

    Args:
        message: in English.
        message_zh: the same in Chinese.
    """

    default_code: ClassVar[str] = "invalid_json_schema"

    def __init__(self, message: str, *, message_zh: str = "") -> None:
        super().__init__(message, param="response_format")
        self.message_zh = message_zh or message


def unsupported(keyword: str, path: str = "") -> JsonSchemaError:
    """Make the refusal of one keyword."""
    where = f" (at {path})" if path else ""
    return JsonSchemaError(
        f"The JSON Schema keyword '{keyword}'{where} cannot be guaranteed. Accepted are {ACCEPTED}.",
        message_zh=f"无法保证 JSON Schema 关键字 '{keyword}'{where}。可用：{ACCEPTED}。",
    )


def wrong_shape(keyword: str, path: str, expected: tuple[str, str]) -> JsonSchemaError:
    """Make the refusal of what a keyword holds.

    Args:
        keyword: its name.
        path: JSON pointer to the schema it is in.
        expected: what it may hold, in English and in Chinese.
    """
    english, chinese = expected
    return JsonSchemaError(
        f"The JSON Schema's '{keyword}' at {path or 'the top'} must be {english}.",
        message_zh=f"JSON Schema 中 {path or '顶层'} 的 '{keyword}' 必须是{chinese}。",
    )


def tidy(node: dict[str, Any], path: str, follow: Callable[[Any], Any]) -> bool:
    """Check and simplify one node in place; the schemas inside it are not looked at.

    Args:
        node: a schema.
        path: JSON pointer to it.
        follow: returns what a schema that is only a reference refers to.

    Returns:
        Whether a pattern was dropped that cannot be kept, beside a format that is.

    Raises:
        JsonSchemaError: naming the keyword and its place, for a wrong shape and for what cannot be guaranteed.
    """
    # Serialisers write null for what is not set.
    for keyword in [keyword for keyword, value in node.items() if value is None and keyword in _SHAPES]:
        del node[keyword]
    _read_older_drafts(node)
    for keyword, value in node.items():
        if keyword in _SHAPES:
            is_right, expected = _SHAPES[keyword]
            if not is_right(value):
                raise wrong_shape(keyword, path, expected)
    for keyword in _COUNTS & node.keys():
        node[keyword] = int(node[keyword])  # 1.0 is a whole number too
    _drop_unused(node)
    _drop_idle(node)
    _rewrite(node, follow)
    for keyword in node:
        if keyword in _UNSUPPORTED:
            raise unsupported(keyword, path)
    _check_numbers(node, path)
    for pattern in node.get("patternProperties", ()):
        if is_beyond_regular(pattern):
            raise _not_regular("patternProperties", path)
    if "pattern" not in node or not is_beyond_regular(node["pattern"]):
        return False
    if node.get("format") not in FORMATS:
        raise _not_regular("pattern", path)
    del node["pattern"]
    return True


def is_beyond_regular(pattern: str) -> bool:
    """Whether a regular expression looks around, back, or for the edge of a word, which no token mask can follow."""
    place, is_class = 0, False
    while place < len(pattern):
        character = pattern[place]
        if character == "\\":
            if not is_class and _BEYOND_ESCAPE.match(pattern, place):
                return True
            place += 2
        elif is_class:
            is_class = character != "]"
            place += 1
        elif character == "[":
            is_class = True
            place = _CLASS_START.match(pattern, place).end()  # type: ignore[union-attr]
        elif _BEYOND_GROUP.match(pattern, place):
            return True
        else:
            place += 1
    return False


_CLASS_START: Final = re.compile(r"\[\^?\]?")  # a bracket that comes first is text
_BEYOND_GROUP: Final = re.compile(r"\(\?(?:[=!>(#]|<[=!]|P[=>])")
_BEYOND_ESCAPE: Final = re.compile(r"\\(?:[bBGK1-9]|k[<{'])")


def _not_regular(keyword: str, path: str) -> JsonSchemaError:
    where = f" at {path}" if path else ""
    return JsonSchemaError(
        f"The JSON Schema's '{keyword}'{where} cannot be guaranteed: look-around (such as (?!...)), \\b and "
        "backreferences are not accepted. Write it without them; or send a 'format' beside it, such as 'email', and "
        "the format alone is kept.",
        message_zh=f"无法保证 JSON Schema 中的 '{keyword}'{where}：不支持环视（如 (?!...)）、\\b 和反向引用。"
        "请改写，或同时提供 'format'（如 'email'），此时只保证该格式。",
    )


# --- shapes -----------------------------------------------------------------------------------------------------------


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 and value == int(value)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _is_schema(value: object) -> bool:
    return isinstance(value, dict | bool)


def _is_schemas(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_schema, value))


def _is_items(value: object) -> bool:
    return _is_schema(value) or _is_schemas(value)


def _is_named_schemas(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_schema, value.values()))


def _is_named_texts(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_texts, value.values()))


def _is_dependencies(value: object) -> bool:
    return isinstance(value, dict) and all(_is_schema(item) or _is_texts(item) for item in value.values())


def _is_values(value: object) -> bool:
    return isinstance(value, list) and bool(value)


def _is_type(value: object) -> bool:
    kinds = value if isinstance(value, list) and value else [value]
    return all(isinstance(kind, str) and kind in _TYPES for kind in kinds)


_Shape = tuple[Callable[[object], bool], tuple[str, str]]
_COUNT: Final[_Shape] = (_is_count, ("a whole number of at least 0", "不小于 0 的整数"))
_NUMBER: Final[_Shape] = (_is_number, ("a number", "数字"))
_TEXT: Final[_Shape] = (_is_text, ("a string", "字符串"))
_TEXTS: Final[_Shape] = (_is_texts, ("a list of strings", "字符串列表"))
_FLAG: Final[_Shape] = (_is_flag, ("true or false", " true 或 false"))
_SCHEMA: Final[_Shape] = (_is_schema, ("a schema: an object, true or false", "一个 schema：对象、true 或 false"))
_SCHEMAS: Final[_Shape] = (
    _is_schemas,
    ("a list of schemas, each an object, true or false", " schema 列表，每项为对象、true 或 false"),
)
_NAMED: Final[_Shape] = (
    _is_named_schemas,
    ("an object of schemas, each an object, true or false", "由 schema 组成的对象，每个值为对象、true 或 false"),
)
_COUNTS: Final = frozenset(
    {"minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties", "minContains", "maxContains"}
)
_SHAPES: Final[dict[str, _Shape]] = {
    "type": (
        _is_type,
        (
            'one of "string", "number", "integer", "boolean", "array", "object" and "null" (in quotes), or a list of '
            "them",
            ' "string"、"number"、"integer"、"boolean"、"array"、"object"、"null"（带引号）之一，或由它们组成的列表',
        ),
    ),
    "enum": (_is_values, ("a list of at least one value", "至少含一个值的列表")),
    "required": _TEXTS,
    **dict.fromkeys(sorted(_COUNTS), _COUNT),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"), _NUMBER),
    **dict.fromkeys(("pattern", "format", "$ref", "$dynamicRef"), _TEXT),
    **dict.fromkeys(("uniqueItems", "$recursiveAnchor"), _FLAG),
    "items": (_is_items, ("a schema: an object, true or false", "一个 schema：对象、true 或 false")),
    **dict.fromkeys(
        (
            "additionalItems",
            "additionalProperties",
            "not",
            "if",
            "then",
            "else",
            "contains",
            "propertyNames",
            "unevaluatedItems",
            "unevaluatedProperties",
        ),
        _SCHEMA,
    ),
    **dict.fromkeys(("anyOf", "oneOf", "allOf", "prefixItems"), _SCHEMAS),
    **dict.fromkeys(("properties", "patternProperties", "dependentSchemas"), _NAMED),
    # Only those of them that are referred to are looked into.
    **dict.fromkeys(("$defs", "definitions"), (lambda value: isinstance(value, dict), ("an object", "对象"))),
    "dependentRequired": (_is_named_texts, ("an object of lists of strings", "由字符串列表组成的对象")),
    "dependencies": (
        _is_dependencies,
        ("an object of schemas or lists of strings", "由 schema 或字符串列表组成的对象"),
    ),
}
KEYWORDS: Final = frozenset(_SHAPES) | {"const"}
"""All that ask for something, or lead to what does; others are annotations."""


def _read_older_drafts(node: dict[str, Any]) -> None:
    """Read what drafts 3 and 4 wrote with true and false."""
    for keyword, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if isinstance(node.get(keyword), bool):
            is_exclusive = node.pop(keyword)
            if is_exclusive and bound in node:
                node[keyword] = node.pop(bound)
    if node.get("required") is False:
        del node["required"]


def _check_numbers(node: dict[str, Any], path: str) -> None:
    for keyword, sign in (("minimum", 1), ("exclusiveMinimum", 1), ("maximum", -1), ("exclusiveMaximum", -1)):
        bound = node.get(keyword)
        if bound is not None and bound * sign >= _MAX_NUMBER:
            raise unsupported(f"{keyword}: {bound}", path)
    for keyword in _COUNTS & node.keys():
        if node[keyword] > _MAX_COUNT:
            if keyword.startswith("min"):
                raise unsupported(f"{keyword}: {node[keyword]}", path)
            del node[keyword]  # no answer is that long
    if "multipleOf" in node:
        step = node["multipleOf"]
        if step <= 0:
            raise wrong_shape("multipleOf", path, ("a number over 0", "大于 0 的数字"))
        exact = Decimal(repr(step))
        digits = int(exact.scaleb(-min(int(exact.as_tuple().exponent), 0)))
        if digits > _MAX_REMAINDERS:
            raise JsonSchemaError(
                f"The JSON Schema is too complex: 'multipleOf' at {path or 'the top'} is {step}; without its decimal "
                f"point it may be at most {_MAX_REMAINDERS}.",
                message_zh=f"JSON Schema 过于复杂：{path or '顶层'} 的 'multipleOf' 为 {step}；"
                f"去掉小数点后最多为 {_MAX_REMAINDERS}。",
            )


# --- what asks for nothing --------------------------------------------------------------------------------------------

_APPLIES_TO: Final[dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(("minLength", "maxLength", "pattern", "format"), ("string",)),
    **dict.fromkeys(
        ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"), ("number", "integer")
    ),
    **dict.fromkeys(
        (
            "items",
            "prefixItems",
            "additionalItems",
            "minItems",
            "maxItems",
            "uniqueItems",
            "contains",
            "minContains",
            "maxContains",
            "unevaluatedItems",
        ),
        ("array",),
    ),
    **dict.fromkeys(
        (
            "properties",
            "required",
            "additionalProperties",
            "patternProperties",
            "propertyNames",
            "minProperties",
            "maxProperties",
            "dependentRequired",
            "dependentSchemas",
            "dependencies",
            "unevaluatedProperties",
        ),
        ("object",),
    ),
}
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
# What all properties of an object of named ones share is written out for each.
_MAX_REPEATED_BYTES: Final = 50_000
COMBINERS: Final = ("anyOf", "oneOf", "allOf", "$ref")


def is_anything(schema: Any) -> bool:
    """Whether a schema is true or has none of the keywords that ask for something."""
    return schema is True or (isinstance(schema, dict) and not KEYWORDS & schema.keys())


def _drop_unused(node: dict[str, Any]) -> None:
    """Drop keywords about other types than the node's own."""
    kinds = node.get("type")
    if kinds is None:
        return
    kinds = kinds if isinstance(kinds, list) else [kinds]
    for keyword in [keyword for keyword in node if keyword in _APPLIES_TO]:
        if not set(_APPLIES_TO[keyword]) & set(kinds):
            del node[keyword]


def _drop_idle(node: dict[str, Any]) -> None:
    """Drop keywords that are true of every answer."""
    is_idle: dict[str, Callable[[Any], bool]] = {
        "anyOf": lambda value: not value,
        "oneOf": lambda value: not value,
        "allOf": lambda value: not value,
        "not": lambda value: value is False,
        "if": lambda _: "then" not in node and "else" not in node,
        "then": lambda value: "if" not in node or is_anything(value),
        "else": lambda value: "if" not in node or is_anything(value),
        "minContains": lambda _: "contains" not in node,
        "maxContains": lambda _: "contains" not in node,
        "contains": lambda _: node.get("minContains") == 0 and "maxContains" not in node,
        "uniqueItems": lambda value: not value or node.get("maxItems", 2) <= 1,
        "dependentRequired": lambda value: not any(value.values()),
        "dependentSchemas": lambda value: all(map(is_anything, value.values())),
        "dependencies": lambda value: all(item == [] or is_anything(item) for item in value.values()),
        "unevaluatedProperties": lambda value: is_anything(value) or "additionalProperties" in node,
        "unevaluatedItems": lambda value: is_anything(value) or isinstance(node.get("items"), dict | bool),
    }
    for _ in range(2):  # dropping the first may leave the other one empty
        for keyword in [keyword for keyword in is_idle if keyword in node]:
            if is_idle[keyword](node[keyword]):
                del node[keyword]


def _rewrite(node: dict[str, Any], follow: Callable[[Any], Any]) -> None:
    """Say in supported keywords what can be said in them."""
    if not any(keyword in node for keyword in COMBINERS):
        if node.get("unevaluatedProperties") is False:
            node["additionalProperties"] = node.pop("unevaluatedProperties")
        if node.get("unevaluatedItems") is False and not isinstance(node.get("items"), list):
            node["items"] = node.pop("unevaluatedItems")
    if "propertyNames" in node:
        names = _to_names(follow(node["propertyNames"]))
        if names is not None:
            del node["propertyNames"]
            _name_properties(node, names)


def _to_names(schema: Any) -> dict[str, Any] | None:
    """Return what is asked of the names of properties, without what is true of every name; None if it is no schema."""
    if schema is True:
        return {}
    if not isinstance(schema, dict):
        return None
    names = {keyword: value for keyword, value in schema.items() if keyword in KEYWORDS}
    kinds = names.pop("type", "string")
    if "string" not in (kinds if isinstance(kinds, list) else [kinds]):
        return None
    if names.get("minLength") == 0:
        del names["minLength"]
    return {keyword: value for keyword, value in names.items() if value is not None}


def _name_properties(node: dict[str, Any], names: dict[str, Any]) -> None:
    """Say which properties an object may have; names that cannot be said so stay, and are refused then."""
    if not names:
        return
    properties, others = node.get("properties", {}), node.get("additionalProperties", True)
    if set(names) <= {"enum", "const"} and "patternProperties" not in node:
        wanted = names.get("enum", [names.get("const")])
        allowed = [name for name in wanted if isinstance(name, str)] if isinstance(wanted, list) else []
        if allowed and len(allowed) * len(orjson.dumps(others)) <= _MAX_REPEATED_BYTES:
            node["properties"] = {name: properties.get(name, others) for name in allowed}
            node["additionalProperties"] = False
            return
    is_pattern = set(names) == {"pattern"} and isinstance(names["pattern"], str)
    if is_pattern and not properties and "patternProperties" not in node:
        node["patternProperties"] = {names["pattern"]: others}
        node["additionalProperties"] = False
        return
    node["propertyNames"] = names

"""What JSON Schema a caller may ask an answer to follow: bounds and keywords, without a tokenizer and without torch.

In: a schema as it came over the wire. Out: its compact text, as `SamplingParams.json_schema` carries it, or a refusal
that names the keyword and its place. The router asks here at its door, the engine again before it compiles.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, unquote

import orjson

from engines.schema_keywords import ACCEPTED, COMBINERS, FORMATS, JsonSchemaError, tidy, unsupported, wrong_shape

__all__ = [
    "ACCEPTED",
    "ANY_OBJECT",
    "FORMATS",
    "MAX_SCHEMA_BYTES",
    "MAX_SCHEMA_DEPTH",
    "CheckedSchema",
    "JsonSchemaError",
    "check_schema",
    "from_schema_text",
    "nodes",
    "resolve",
    "shortest_answer",
    "to_schema_text",
    "unsupported",
]

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
# Whatever must follow is looked ahead at with every token: 20,000 bytes take 10 ms a token, 90,000 take 45 ms.
_MAX_SHORTEST_BYTES: Final = 20_000
# The compiler takes four items for each property that may be left out, at most 2,000, and finds that out slowly: 3,000
# such properties took 14 s.
_MAX_OPTIONAL: Final = 450

# Of a reference, of a place in a message, and of each name in it, in characters.
_MAX_REF: Final = 2_000
_MAX_PLACE: Final = 300
_MAX_STEP: Final = 64

_SCHEMA_KEYWORDS: Final = ("items", "additionalItems", "additionalProperties")
_LIST_KEYWORDS: Final = ("anyOf", "oneOf", "allOf", "prefixItems")
_DICT_KEYWORDS: Final = ("properties", "patternProperties")


@dataclass(frozen=True, slots=True)
class CheckedSchema:
    """A schema that an answer can be held to.

    Attributes:
        text: compact JSON. Properties keep their order, which the answer will have.
        dropped_patterns: places (JSON pointers) of patterns that cannot be kept; a format beside each is.
    """

    text: str
    dropped_patterns: tuple[str, ...] = ()


def check_schema(schema: dict[str, Any]) -> CheckedSchema:
    """Check a schema and write it as text.

    Only what the top of the schema leads to counts: a definition that nothing refers to may hold anything.

    Raises:
        JsonSchemaError: if it is too large, too deep or no schema, refers to something outside, or holds a keyword that
            cannot be guaranteed.
    """
    try:
        text = orjson.dumps(schema)
    except (orjson.JSONEncodeError, RecursionError) as error:  # too deep, a lone surrogate, an integer over 64 bits
        raise JsonSchemaError(f"The JSON Schema cannot be written as JSON: {error}.") from error
    _check_size(text)
    root = orjson.loads(text)
    depths: dict[int, int] = {}
    if _depth(root, depths) > MAX_SCHEMA_DEPTH:
        raise JsonSchemaError(
            f"The JSON Schema is nested too deep: at most {MAX_SCHEMA_DEPTH} levels of JSON are accepted.",
            message_zh=f"JSON Schema 嵌套过深：最多接受 {MAX_SCHEMA_DEPTH} 层。",
        )
    root.pop("x-guidance", None)  # would change the compiler's options
    dropped: list[str] = []
    targets: dict[int, Any] = {}  # by id: many spellings may lead to one place
    num_patterns, is_intersected = 0, False
    for node, path in nodes(root):
        if tidy(node, path, lambda schema: _follow(root, schema)):
            dropped.append(path)
        _check_optional(node, path)
        num_patterns += ("pattern" in node) + ("patternProperties" in node) + (node.get("format") in FORMATS)
        is_intersected = is_intersected or _intersects(node)
        if "$ref" in node:
            target = _check_ref(node, path, root)
            targets[id(target)] = target
    if is_intersected and num_patterns > _MAX_INTERSECTED_PATTERNS:
        raise JsonSchemaError(
            f"The JSON Schema is too complex: a schema that combines others by allOf or $ref may hold at most "
            f"{_MAX_INTERSECTED_PATTERNS} of pattern, format and patternProperties; this one holds {num_patterns}.",
            message_zh=f"JSON Schema 过于复杂：使用 allOf 或 $ref 组合时，pattern、format、patternProperties "
            f"合计最多 {_MAX_INTERSECTED_PATTERNS} 个，当前为 {num_patterns} 个。",
        )
    if sum(depths.get(each, 0) for each in targets) > _MAX_REF_DEPTH:
        raise JsonSchemaError(
            f"The JSON Schema is too complex: what its {len(targets)} references lead to may be {_MAX_REF_DEPTH} "
            "levels of JSON deep in all.",
            message_zh=f"JSON Schema 过于复杂：{len(targets)} 个引用所指内容的总深度最多为 {_MAX_REF_DEPTH} 层。",
        )
    if math.isinf(_Sizes(root, 0).of(root, 0)):
        raise JsonSchemaError(
            "No JSON satisfies the JSON Schema: it asks for a value that contains itself without end, or for one that "
            "it does not allow.",
            message_zh="没有任何 JSON 满足该 JSON Schema：它要求的值无限地包含自身，或不被它自己允许。",
        )
    if (size := shortest_answer(root)) > _MAX_SHORTEST_BYTES:
        raise JsonSchemaError(
            f"The JSON Schema asks for too much: its shortest answer has {size} bytes, at most {_MAX_SHORTEST_BYTES} "
            "are accepted.",
            message_zh=f"JSON Schema 要求的内容过多：最短的回答也有 {size} 字节；最多接受 {_MAX_SHORTEST_BYTES} 字节。",
        )
    text = orjson.dumps(root)
    _check_size(text)  # a reference may have become longer
    return CheckedSchema(text.decode(), tuple(dropped))


def _check_size(text: bytes) -> None:
    if len(text) > MAX_SCHEMA_BYTES:
        raise JsonSchemaError(
            f"The JSON Schema has {len(text)} bytes; at most {MAX_SCHEMA_BYTES} are accepted.",
            message_zh=f"JSON Schema 有 {len(text)} 字节；最多接受 {MAX_SCHEMA_BYTES} 字节。",
        )


def to_schema_text(schema: dict[str, Any]) -> str:
    """Check a schema and write it as compact JSON, like `check_schema`.

    Raises:
        JsonSchemaError: likewise.
    """
    return check_schema(schema).text


def from_schema_text(text: str) -> dict[str, Any]:
    """Read and check the text of a schema.

    Raises:
        JsonSchemaError: as `check_schema` does, or if it is no JSON object.
    """
    try:
        schema = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise JsonSchemaError(f"The JSON Schema is not valid JSON: {error}.") from error
    if not isinstance(schema, dict):
        raise JsonSchemaError("The JSON Schema must be a JSON object.", message_zh="JSON Schema 必须是 JSON 对象。")
    checked: dict[str, Any] = orjson.loads(to_schema_text(schema))
    return checked


def resolve(schema: dict[str, Any], ref: str) -> Any:
    """Return what a reference within a schema leads to.

    Raises:
        JsonSchemaError: if it leads nowhere.
    """
    found: Any = schema
    for step in ref.split("/")[1:]:
        key = unquote(step).replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and key.isdecimal() and len(key) <= _MAX_REF and int(key) < len(found):
            found = found[int(key)]
        elif isinstance(found, dict) and key in found:
            found = found[key]
        else:
            raise JsonSchemaError(
                f"The JSON Schema's '$ref' to '{ref}' leads nowhere.",
                message_zh=f"JSON Schema 的 '$ref' '{ref}' 没有对应内容。",
            )
    return found


def nodes(root: Any) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield every schema that the top leads to, once, with its place; a property named like a keyword is none.

    A node may be changed when it is yielded, before what is inside it is looked for.

    Raises:
        JsonSchemaError: for a reference that leads nowhere.
    """
    seen: set[int] = set()
    waiting: list[tuple[Any, str]] = [(root, "")]
    while waiting:
        node, path = waiting.pop()
        if not isinstance(node, dict) or id(node) in seen:
            continue
        seen.add(id(node))
        yield node, path
        waiting.extend(reversed(list(_inner(node, path, root))))


def _inner(node: dict[str, Any], path: str, root: Any) -> Iterator[tuple[Any, str]]:
    for keyword, value in node.items():
        place = _place(path, keyword)
        if keyword in _SCHEMA_KEYWORDS and isinstance(value, dict):
            yield value, place
        elif keyword in _LIST_KEYWORDS or keyword in _SCHEMA_KEYWORDS:
            if isinstance(value, list):
                yield from ((item, _place(place, str(index))) for index, item in enumerate(value))
        elif keyword in _DICT_KEYWORDS and isinstance(value, dict):
            yield from ((item, _place(place, key)) for key, item in value.items())
        elif keyword == "$ref" and isinstance(value, str):
            yield resolve(root, value), unquote(value[:_MAX_PLACE]).removeprefix("#")


def _place(path: str, step: str) -> str:
    """Go one step further, in a text that stays short: each of thousands of nodes has one."""
    return path if len(path) > _MAX_PLACE else f"{path}/{step[:_MAX_STEP]}"


def _follow(root: Any, schema: Any) -> Any:
    for _ in range(MAX_SCHEMA_DEPTH):
        if not isinstance(schema, dict) or not isinstance(schema.get("$ref"), str):
            break
        schema = resolve(root, schema["$ref"])
    return schema


def _check_ref(node: dict[str, Any], path: str, root: Any) -> Any:
    """Return what a node refers to; the reference is written as other readers of JSON Schema want it."""
    ref = node["$ref"]
    if not (ref == "#" or ref.startswith("#/")) or len(ref) > _MAX_REF:
        raise wrong_shape(
            "$ref",
            path,
            ("a place in the schema itself, such as '#/$defs/Item'", "该 schema 内部的位置，例如 '#/$defs/Item'"),
        )
    target = resolve(root, ref)
    if not isinstance(target, dict | bool):
        raise JsonSchemaError(
            f"The JSON Schema's '$ref' at {path or 'the top'} leads to '{ref}', which is no schema.",
            message_zh=f"JSON Schema 中 {path or '顶层'} 的 '$ref' 指向 '{ref}'，那里不是 schema。",
        )
    node["$ref"] = quote(unquote(ref), safe="#/~$!&'()*+,;=:@-._")
    return target


def _check_optional(node: dict[str, Any], path: str) -> None:
    num_optional = len(node.get("properties", {}).keys() - set(node.get("required", ())))
    if num_optional > _MAX_OPTIONAL:
        raise JsonSchemaError(
            f"The JSON Schema is too complex: {num_optional} of the 'properties' at {path or 'the top'} are not "
            f"required; at most {_MAX_OPTIONAL} may be optional.",
            message_zh=f"JSON Schema 过于复杂：{path or '顶层'} 的 'properties' 中有 {num_optional} 个非必需属性，"
            f"最多 {_MAX_OPTIONAL} 个。",
        )


def _intersects(node: dict[str, Any]) -> bool:
    """Whether several schemas hold for one value at a time here."""
    all_of = node.get("allOf")
    if isinstance(all_of, list) and len(all_of) > 1:
        return True
    return sum(keyword in node for keyword in COMBINERS) > 1 or (
        any(keyword in node for keyword in COMBINERS)
        and any(keyword in node for keyword in ("pattern", "format", "patternProperties", "properties"))
    )


def _depth(value: Any, known: dict[int, int]) -> int:
    """Return how many levels a value has, and note it for every list and object inside."""
    if not isinstance(value, dict | list):
        return 0
    inner = value.values() if isinstance(value, dict) else value
    depth = known[id(value)] = 1 + max((_depth(item, known) for item in inner), default=0)
    return depth


# --- how long an answer must be ---------------------------------------------------------------------------------------

_MAX_SIZE_STEPS: Final = 50_000
_MAX_SIZE_CALLS: Final = 200


def shortest_answer(schema: dict[str, Any], *, items: int = 0) -> int:
    """Return the size in bytes of a shortest answer, as JSON without white space: an estimate from below.

    What cannot be known in bounded time, or has no shortest answer, counts as one byte.

    Args:
        schema: checked.
        items: how many elements an array has at least, and a map one, even where the schema asks for fewer. A schema
            that is part of its own elements then has no shortest answer.
    """
    size = _Sizes(schema, items).of(schema, 0)
    return 1 if math.isinf(size) else int(size)


class _Sizes:
    """Sizes of shortest answers, each worked out once.

    Args:
        root: the schema.
        items: see `shortest_answer`.
    """

    def __init__(self, root: dict[str, Any], items: int) -> None:
        self._root = root
        self._items = items
        self._known: dict[int, float] = {}
        self._open: set[int] = set()
        self._num_left = _MAX_SIZE_STEPS

    def of(self, node: Any, level: int) -> float:
        if not isinstance(node, dict):
            return math.inf if node is False else 1
        if (known := self._known.get(id(node))) is not None:
            return known
        self._num_left -= 1
        if level > _MAX_SIZE_CALLS or self._num_left < 0:
            return 1
        if id(node) in self._open:
            return math.inf  # what contains itself is no shorter than itself
        self._open.add(id(node))
        size = self._work_out(node, level + 1)
        self._open.discard(id(node))
        if not math.isinf(size):  # which may only be so from where the walk came
            self._known[id(node)] = size
        return size

    def _work_out(self, node: dict[str, Any], level: int) -> float:
        if "const" in node or "enum" in node:
            values = node["enum"] if "enum" in node else [node["const"]]
            return min((len(orjson.dumps(value)) for value in values), default=1)
        sizes = [self._own(node, level)]
        sizes += [min(self.of(option, level) for option in node[word]) for word in ("anyOf", "oneOf") if node.get(word)]
        sizes += [self.of(part, level) for part in node.get("allOf", ())]
        if "$ref" in node:
            sizes.append(self.of(resolve(self._root, node["$ref"]), level))
        return max(sizes)

    def _own(self, node: dict[str, Any], level: int) -> float:
        kinds = node.get("type")
        if kinds is None:
            return 1
        return min([self._of_kind(kind, node, level) for kind in (kinds if isinstance(kinds, list) else [kinds])])

    def _of_kind(self, kind: str, node: dict[str, Any], level: int) -> float:
        if kind == "object":
            properties, others = node.get("properties", {}), node.get("additionalProperties", True)
            names = dict.fromkeys(node.get("required", ()))
            if node.get("patternProperties"):
                others = True  # which pattern a name has is not looked at: a byte, from below
            if self._items and isinstance(others, dict):
                names |= {"": None}  # an element too, under some name
            parts: list[float] = [
                len(name.encode()) + 3 + self.of(properties.get(name, others), level) for name in names
            ]
            return 2 + sum(parts) + max(len(parts) - 1, 0.0)
        if kind == "array":
            first = node.get("prefixItems", [])
            num_items: int = max(node.get("minItems", 0), min(self._items, node.get("maxItems", self._items)))
            rest = node.get("items", True)
            head = sum([self.of(item, level) for item in first[:num_items]])
            num_rest = max(num_items - len(first), 0)
            tail = num_rest * self.of(True if isinstance(rest, list) else rest, level) if num_rest else 0
            return 2.0 + head + tail + max(num_items - 1, 0)
        if kind == "string":
            return 2 + int(node.get("minLength", 0))
        return 4 if kind in ("boolean", "null") else 1

"""A JSON value of another type than a field's is refused, in every shape; none is turned into another value."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from router.api import routes
from router.api.schemas import ChatRequest, WireModel

for module in pkgutil.iter_modules(routes.__path__):
    importlib.import_module(f"{routes.__name__}.{module.name}")

# One value of each type, and the numbers and words that lenient readers take for another type.
VALUES: dict[str, list[Any]] = {
    "boolean": [True, False],
    "integer": [1, 0, 900],
    "number": [0.5],
    "string": ["1", "0.5", "900", "true", "yes", "no", ""],
    "null": [],
    "object": [{"a": 1}],
    "array": [[1]],
}
HELLO = {"model": "glowl", "messages": [{"role": "user", "content": "你好"}]}


def shapes(base: type[WireModel] = WireModel) -> Iterator[type[WireModel]]:
    for shape in sorted(base.__subclasses__(), key=lambda each: each.__name__):
        yield shape
        yield from shapes(shape)


def types_of(schema: dict[str, Any], root: dict[str, Any]) -> set[str]:
    """The JSON types that a field takes; empty if it takes all."""
    if "$ref" in schema:
        return types_of(root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    found = {schema["type"]} if "type" in schema else set()
    for each in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        found |= types_of(each, root)
    return found | ({"integer"} if "number" in found else set())


def wrong_for(shape: type[WireModel]) -> Iterator[tuple[str, Any]]:
    """Each field of one type or several, with each value of another."""
    root = shape.model_json_schema()
    for name, field in root.get("properties", {}).items():
        types = types_of(field, root)
        for kind in VALUES if types else ():
            if kind not in types:
                yield from ((name, value) for value in VALUES[kind])


@pytest.mark.parametrize("shape", dict.fromkeys(shapes()), ids=lambda shape: shape.__name__)
def test_no_field_takes_a_value_of_another_type(shape: type[WireModel]) -> None:
    for name, value in wrong_for(shape):
        with pytest.raises(ValidationError) as caught:
            shape.model_validate({name: value})
        assert name in {error["loc"][0] for error in caught.value.errors()}, (name, value)


def test_all_shapes_are_looked_at() -> None:
    names = {shape.__name__ for shape in shapes()}

    assert {"ChatRequest", "ResponsesRequest", "Hybrid", "InferenceRequest", "VisionRequest"} <= names
    assert {"OutputExpiresAfter", "BatchCreate", "SecretRotate", "EndpointCreate", "EndpointUpdate"} <= names
    assert {name for name, _ in wrong_for(ChatRequest)} >= {"max_tokens", "temperature", "stream", "n", "logprobs"}


@pytest.mark.parametrize("field", ["max_tokens", "seed", "top_logprobs", "n"])
def test_a_whole_number_with_a_point_is_the_same_number(field: str) -> None:
    sent = {**HELLO, field: 2.0}

    assert getattr(ChatRequest.model_validate(sent), field) == 2
    for wrong in (2.5, float("inf"), float("nan")):
        with pytest.raises(ValidationError):
            ChatRequest.model_validate({**sent, field: wrong})


@pytest.mark.parametrize(
    ("path", "body", "param", "en", "zh"),
    [
        ("/v1/chat/completions", {**HELLO, "stream": "yes"}, "stream", "a valid boolean", "布尔值"),
        ("/v1/route", {**HELLO, "hybrid": {"dial": True}}, "hybrid.dial", "a valid number", "数字"),
        ("/v1/responses", {"model": "glowl", "input": "hi", "seed": "5"}, "seed", "a valid integer", "整数"),
        ("/api/v1/inference", {"prompt": "hi", "max_tokens": True}, "max_tokens", "a valid integer", "整数"),
        (
            "/v1/vision/completion",
            {"prompt": "hi", "temperature": 3},
            "temperature",
            "less than or equal to 2",
            "大于 2",
        ),
    ],
)
def test_the_refusal_names_the_field_and_its_type(
    http: httpx.Client, path: str, body: Any, param: str, en: str, zh: str
) -> None:
    for language, word in (("en", en), ("zh", zh)):
        response = http.post(path, json=body, headers={"accept-language": language})

        error = response.json()["error"]
        assert (response.status_code, error["code"], error["param"]) == (400, "invalid_value", param)
        assert word in error["message"]


def test_a_number_that_json_does_not_have_is_no_json(http: httpx.Client) -> None:
    body = b'{"model": "glowl", "messages": [{"role": "user", "content": "hi"}], "x": NaN}'

    assert http.post("/v1/chat/completions", content=body).json()["error"]["code"] == "invalid_json"

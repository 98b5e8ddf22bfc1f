"""A refusal of a wrong shape names a place that its sender can find: each step is in the body, or missing from it."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import orjson
import pytest
from pydantic import ValidationError

from engines.base import EngineError
from engines.http.requests import from_chat_body
from router.api.anthropic.shapes import MessagesRequest
from router.api.invalid import to_invalid
from router.api.routes.webhooks import EndpointCreate
from router.api.schemas import ChatRequest, ClosedModel, CompactRequest, FeedbackRequest, ResponsesRequest, WireModel
from router.api.tools import to_tool_use
from router.errors import RouterError
from tests.router.api.test_strict_types import shapes

Json = dict[str, Any]
Fault = tuple[str, str, str]

# What is missing may be named, under what was sent.
MISSING = ("missing_required_parameter", "unknown_parameter", "unsupported_value")
ENGLISH = re.compile(r"[a-z]{3,} [a-z]{3,} [a-z]{3,}")
URL = "data:image/png;base64,iVBORw0KGgo="
TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
CHAT: Json = {
    "model": "glowl",
    "messages": [
        {"role": "system", "content": "Be short."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": URL}}],
        },
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "content": "yes", "tool_call_id": "a"},
        {"role": "user", "content": "So?"},
    ],
    "stop": ["a", "b"],
    "tools": [TOOL],
    "hybrid": {"route": "fast", "dial": 0.5},
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
}
RESPONSES: Json = {
    "model": "glowl",
    "input": [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "What?"}]},
        {"role": "user", "content": [{"type": "input_image", "image_url": URL}]},
        {"type": "item_reference", "id": "msg_1"},
        {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "a", "output": [{"type": "input_text", "text": "yes"}]},
        {"type": "compaction", "encrypted_content": "x"},
    ],
    "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}},
    "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}}],
    "include": ["x"],
}
MESSAGES: Json = {
    "model": "glowl",
    "max_tokens": 9,
    "system": [{"type": "text", "text": "Be short."}],
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What?"},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}},
                {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
                {"type": "image", "source": {"type": "file", "file_id": "file_1"}},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm"},
                {"type": "tool_use", "id": "a", "name": "f", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "a",
                    "content": [
                        {"type": "text", "text": "yes"},
                        {"type": "image", "source": {"type": "url", "url": "u"}},
                    ],
                }
            ],
        },
    ],
    "tools": [{"type": "custom", "name": "f", "input_schema": {"type": "object"}}],
    "tool_choice": {"type": "tool", "name": "f"},
    "output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}},
}
FEEDBACK: Json = {"rating": "up", "correction": {"a": 1}, "fields": {"a": 1}, "comment": "good"}
ENDPOINT: Json = {"name": "n", "url": "https://example.com", "event_types": ["response.completed"]}
NO_FORMAT = {name: value for name, value in CHAT.items() if name != "response_format"}


def refused(model: type[WireModel]) -> Callable[[Json], Fault | None]:
    """What a body is refused with at the api; None if it is not."""

    def read(body: Json) -> Fault | None:
        try:
            request = model.model_validate(body)
            if isinstance(request, ChatRequest | ResponsesRequest):
                to_tool_use(request)
        except ValidationError as error:
            found: RouterError = to_invalid(error, body)
        except RouterError as error:
            found = error
        else:
            return None
        return found.param or "", found.code, found.message_zh

    return read


def refused_by_engine(body: Json) -> Fault | None:
    try:
        from_chat_body(orjson.dumps(body))
    except EngineError as error:
        return error.param or "", error.code, ""
    return None


def places(node: Any, path: tuple[int | str, ...] = ()) -> Iterator[tuple[int | str, ...]]:
    if path:
        yield path
    for step, child in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield from places(child, (*path, step))


def changed(body: Json, path: tuple[int | str, ...], value: Any) -> Json:
    """The body with another value at a place, or with nothing there if it is `places`."""
    copied = copy.deepcopy(body)
    node: Any = copied
    for step in path[:-1]:
        node = node[step]
    if value is places:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return copied


def missing_steps(body: Any, path: str) -> list[str]:
    """The steps of a path from the first on that is not in the body."""
    steps = re.findall(r"\[\d+\]|[^.\[\]]+", path)
    for place, step in enumerate(steps):
        key: Any = int(step[1:-1]) if step[0] == "[" else step
        if not (isinstance(body, dict) and key in body) and not (isinstance(body, list) and key in range(len(body))):
            return steps[place:]
        body = body[key]
    return []


SURFACES = {
    "chat": (CHAT, refused(ChatRequest)),
    "responses": (RESPONSES, refused(ResponsesRequest)),
    "compact": ({"model": "glowl", "input": RESPONSES["input"]}, refused(CompactRequest)),
    "messages": (MESSAGES, refused(MessagesRequest)),
    "feedback": (FEEDBACK, refused(FeedbackRequest)),
    "webhook endpoint": (ENDPOINT, refused(EndpointCreate)),
    "engine": (NO_FORMAT, refused_by_engine),
}


@pytest.mark.parametrize("surface", SURFACES)
def test_each_step_of_a_refused_place_is_one_that_the_sender_wrote(surface: str) -> None:
    body, read = SURFACES[surface]
    assert read(body) is None or surface == "engine"  # the engine knows no part of type refusal
    num_refused = 0

    for path in places(body):
        for value in (5, "text", [5], {"text": 5}, {"type": "text", "text": {"text": 5}}, [{"type": 5}], [{}], places):
            sent = changed(body, path, value)
            found = read(sent)
            if found is None:
                continue
            num_refused += 1
            param, code, said_zh = found
            odd = missing_steps(sent, param)
            assert not odd or (len(odd) == 1 and (code in MISSING or surface == "engine")), (path, value, found)
            assert not ENGLISH.search(said_zh), (path, value, said_zh)
    assert num_refused > len(list(places(body)))


def test_a_field_that_is_named_like_its_objects_type_is_told_from_it() -> None:
    body = {"model": "glowl", "messages": [{"role": "user", "content": [{"type": "text", "text": {"text": 5}}]}]}
    for model in (ChatRequest, MessagesRequest):
        found = refused(model)(body)
        assert found is not None
        assert found[0] == "messages[0].content[0].text"


@pytest.mark.parametrize(
    ("model", "part", "param", "code"),
    [
        (ChatRequest, {"type": "strange"}, "type", "invalid_value"),
        (ChatRequest, {"type": 5}, "type", "invalid_value"),
        (ChatRequest, {"type": "input_audio"}, "type", "invalid_value"),
        (ChatRequest, {}, "type", "missing_required_parameter"),
        (MessagesRequest, {"type": "document"}, "type", "unsupported_value"),
        (MessagesRequest, {"type": "image", "source": {"type": "s3"}}, "source.type", "unsupported_value"),
        (MessagesRequest, {"type": "image", "source": {"type": "base64"}}, "source.data", "missing_required_parameter"),
        (MessagesRequest, {"type": "image", "source": {"type": "base64", "data": 5}}, "source.data", "invalid_value"),
        (
            MessagesRequest,
            {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": 5}]},
            "content[0].text",
            "invalid_value",
        ),
    ],
)
def test_what_is_wrong_with_a_part_is_told_at_its_place(
    model: type[WireModel], part: Json, param: str, code: str
) -> None:
    text = {"type": "text", "text": "hi"}

    found = refused(model)({"model": "glowl", "messages": [{"role": "user", "content": [text, part]}]})

    assert found is not None
    assert found[:2] == (f"messages[0].content[1].{param}", code)


PICTURE = "data:image/png;base64,aGk="
# Each surface: its body, the field of its turns, a text part and a picture.
TURNS: dict[str, tuple[type[WireModel], str, Json, Json]] = {
    "chat": (
        ChatRequest,
        "messages",
        {"type": "text", "text": "hi"},
        {"type": "image_url", "image_url": {"url": PICTURE}},
    ),
    "responses": (
        ResponsesRequest,
        "input",
        {"type": "input_text", "text": "hi"},
        {"type": "input_image", "image_url": PICTURE},
    ),
    "messages": (
        MessagesRequest,
        "messages",
        {"type": "text", "text": "hi"},
        {"type": "image", "source": {"type": "base64", "data": "aGk="}},
    ),
}


def refused_turn(surface: str, turn: Json) -> tuple[str | None, str | None, str] | None:
    model, field, _, _ = TURNS[surface]
    return refused(model)({"model": "glowl", field: [{"role": "user", **turn}]})


@pytest.mark.parametrize("surface", TURNS)
@pytest.mark.parametrize(
    "name", ["images", "image", "image_url", "imageUrl", "attachments", "experimental_attachments", "file_ids", "photo"]
)
def test_a_picture_in_a_field_of_others_is_refused_and_not_dropped(surface: str, name: str) -> None:
    _, field, text, picture = TURNS[surface]

    in_turn = refused_turn(surface, {"content": "hi", name: [PICTURE]})
    beside_text = refused_turn(surface, {"content": [picture, {**text, name: {"url": PICTURE}}]})

    assert in_turn is not None
    assert beside_text is not None
    assert in_turn[:2] == (f"{field}[0].{name}", "unsupported_value")
    assert beside_text[:2] == (f"{field}[0].content[1].{name}", "unsupported_value")
    assert f"'{picture['type']}'" in in_turn[2]


@pytest.mark.parametrize("surface", TURNS)
def test_a_question_inside_a_picture_is_refused_and_not_dropped(surface: str) -> None:
    _, field, _, picture = TURNS[surface]

    found = refused_turn(surface, {"content": [{**picture, "text": "What is this?"}]})

    assert found is not None
    assert found[:2] == (f"{field}[0].content[0].text", "unsupported_value")


@pytest.mark.parametrize("surface", TURNS)
@pytest.mark.parametrize("empty", [None, [], "", {}])
def test_an_empty_field_for_pictures_changes_nothing(surface: str, empty: object) -> None:
    _, _, text, picture = TURNS[surface]
    content = [{**text, "image_url": empty}, {**picture, "text": empty, "id": "a"}]

    assert refused_turn(surface, {"content": content, "images": empty, "name": "x", "cache_control": {"a": 1}}) is None


SHAPES = {shape.__name__: shape for shape in shapes()}
# What others define, or defined: unknown names in it are their clients', and change nothing here, as in a chat.
OPEN = {"CompactRequest", "InferenceRequest", "VisionRequest"}


@pytest.mark.parametrize("name", [name for name, each in SHAPES.items() if (each.__doc__ or "").startswith("``POST")])
def test_no_body_drops_a_field_in_silence(name: str) -> None:
    shape = SHAPES[name]
    if issubclass(shape, ClosedModel):
        found = refused(shape)({"raiting": "up"})
        assert found is not None
        assert found[:2] == ("raiting", "unknown_parameter")
        assert all(field in found[2] for field in shape.model_fields)
    else:
        assert shape.model_config.get("extra") == "allow" or name in OPEN  # `router.api.other_fields` sees to it


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/responses/resp_1/feedback", {"rating": "up", "coment": "good"}),
        ("POST", "/v1/responses/{stored}", {"metadata": {}, "store": False}),
        ("POST", "/v1/webhook_endpoints", {**ENDPOINT, "events": []}),
        ("POST", "/v1/webhook_endpoints/whe_1", {"events": []}),
        ("POST", "/v1/webhook_endpoints/whe_1/rotate_secret", {"keep_old_secret": True}),
        ("POST", "/v1/webhook_endpoints/whe_1/test", {"event_type": "response.completed", "url": "x"}),
        (
            "POST",
            "/v1/batches",
            {"input_file_id": "f", "endpoint": "/v1/responses", "completion_window": "24h", "expires_after": {}},
        ),
    ],
)
def test_each_route_of_our_own_refuses_an_unknown_field_by_name(
    http: httpx.Client, method: str, path: str, body: Json
) -> None:
    stored = http.post("/v1/responses", json={"model": "glowl", "input": "你好"}).json()["id"]

    answer = http.request(method, path.format(stored=stored), json=body, headers={"accept-language": "zh"})

    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "unknown_parameter", list(body)[-1])
    assert "可用的有" in error["message"]


def test_a_form_with_an_unknown_field_is_refused_and_nothing_is_kept(http: httpx.Client) -> None:
    before = http.get("/v1/files").json()["data"]
    files = {"file": ("lines.jsonl", b"{}\n")}

    answer = http.post("/v1/files", data={"purpose": "batch", "expire_after[seconds]": "3600"}, files=files)

    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "unknown_parameter")
    assert error["param"] == "expire_after[seconds]"
    assert "expires_after[seconds]" in error["message"]
    assert http.get("/v1/files").json()["data"] == before


@pytest.mark.parametrize("seconds", ["9" * 5000, "3599", "-1", "٣٦٠٠", "1e4", ""])
def test_a_file_is_kept_for_no_time_that_is_out_of_bounds(http: httpx.Client, seconds: str) -> None:
    form = {"purpose": "batch", "expires_after[anchor]": "created_at", "expires_after[seconds]": seconds}

    answer = http.post("/v1/files", data=form, files={"file": ("lines.jsonl", b"{}\n")})

    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "invalid_value", "expires_after")

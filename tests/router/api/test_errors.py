"""Rubbish in, an OpenAI error envelope out, and the server goes on."""

from __future__ import annotations

import base64
import io
import re
from typing import Any

import httpx
import orjson
import pytest
from PIL import Image
from pydantic import ValidationError

from router.api.schemas import ChatRequest, ResponsesRequest
from tests.journeys.conftest import picture


def truncated() -> str:
    """A picture whose header is fine and whose pixels are cut off; only a full decode shows it."""
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()[:600]).decode()


def data_url(data: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def chat(*parts: Any, **fields: Any) -> dict[str, Any]:
    return {"model": "glowl", "messages": [{"role": "user", "content": list(parts)}], **fields}


def image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


TEXT = {"type": "text", "text": "图里有什么？"}
HELLO = {"model": "glowl", "messages": [{"role": "user", "content": "你好"}]}

REFUSED = [
    # body, status, code, param
    ({}, 400, "missing_required_parameter", "model"),
    ({"model": "glowl"}, 400, "missing_required_parameter", "messages"),
    ({"model": "glowl", "messages": []}, 400, "invalid_value", "messages"),
    ({"model": "glowl", "messages": "hi"}, 400, "invalid_value", "messages"),
    ({"model": "glowl", "messages": [{"role": "alien", "content": "x"}]}, 400, "invalid_value", "messages[0].role"),
    ({"model": "glowl", "messages": [{"role": "system", "content": " "}]}, 400, "empty_message", "messages"),
    ({"model": "glowl", "messages": [{"role": "assistant", "content": ""}]}, 400, "empty_message", "messages"),
    ({"model": "glowl", "messages": [{"role": "user", "content": " "}]}, 400, "empty_message", "messages"),
    ({"model": "glowl", "messages": [{"role": "user"}]}, 400, "empty_message", "messages"),
    ({"model": "glowl", "messages": [{"role": "user", "content": "\u200b\u2060"}]}, 400, "empty_message", "messages"),
    (chat({"type": "text", "text": "\ufeff"}, {"type": "text", "text": "\u3164"}), 400, "empty_message", "messages"),
    ({**HELLO, "model": "gpt-4o"}, 404, "model_not_found", "model"),
    ({**HELLO, "temperature": "hot"}, 400, "invalid_value", "temperature"),
    ({**HELLO, "temperature": 3}, 400, "invalid_value", "temperature"),
    ({**HELLO, "max_tokens": 0}, 400, "invalid_value", "max_tokens"),
    ({**HELLO, "n": 2}, 400, "unsupported_value", "n"),
    ({**HELLO, "logprobs": "yes please"}, 400, "invalid_value", "logprobs"),
    ({**HELLO, "logprobs": True, "top_logprobs": 21}, 400, "invalid_value", "top_logprobs"),
    ({**HELLO, "logprobs": True, "top_logprobs": -1}, 400, "invalid_value", "top_logprobs"),
    ({**HELLO, "top_logprobs": 3}, 400, "unsupported_value", "top_logprobs"),
    ({**HELLO, "seed": 2**63}, 400, "invalid_value", "seed"),
    ({**HELLO, "max_tokens": 10**30}, 400, "invalid_value", "max_tokens"),
    ({**HELLO, "max_completion_tokens": 10**30}, 400, "invalid_value", "max_completion_tokens"),
    ({**HELLO, "hybrid": {"deadline_ms": 10**30}}, 400, "invalid_value", "hybrid.deadline_ms"),
    ({**HELLO, "model": "m" * 257}, 400, "invalid_value", "model"),
    ({**HELLO, "metadata": {"a": 5}}, 400, "invalid_value", "metadata.a"),
    ({**HELLO, "tools": [{"type": "function"}]}, 400, "missing_required_parameter", "tools[0].function"),
    ({**HELLO, "response_format": {"type": "xml"}}, 400, "invalid_value", "response_format.type"),
    ({**HELLO, "response_format": {"type": "json_schema"}}, 400, None, "response_format.json_schema"),
    ({**HELLO, "response_format": {"type": "json_object"}, "stop": "}"}, 400, "unsupported_value", "stop"),
    ({**HELLO, "hybrid": {"template": "poem"}}, 400, "unknown_template", "hybrid.template"),
    ({**HELLO, "hybrid": {"merge": "fields"}}, 400, "unsupported_value", "hybrid.merge"),
    ({**HELLO, "stop": list("abcde")}, 400, "unsupported_value", "stop"),
    ({**HELLO, "hybrid": {"rout": "deep"}}, 400, "unknown_parameter", "hybrid.rout"),
    ({**HELLO, "hybrid": {"route": "deep", "max_wait": 0}}, 400, "unknown_parameter", "hybrid.max_wait"),
    ({**HELLO, "hybrid": {"async_": "auto"}}, 400, "unknown_parameter", "hybrid.async_"),
    ({**HELLO, "hybrid": {"route": "sideways"}}, 400, "invalid_value", "hybrid.route"),
    ({**HELLO, "metadata": {"webhook_url": "ftp://x"}}, 400, "invalid_url", "metadata.webhook_url"),
    ({**HELLO, "metadata": {str(i): "x" for i in range(17)}}, 400, "unsupported_value", "metadata"),
    (chat({"type": "input_audio", "input_audio": {}}), 400, "invalid_value", "messages[0].content[0].type"),
    (
        chat(TEXT, image("data:image/png;base64,!!!!")),
        400,
        "invalid_base64_image",
        "messages[0].content[1].image_url.url",
    ),
    (chat(TEXT, image(data_url(b"no picture at all"))), 400, None, "messages[0].content[1].image_url.url"),
    (chat(TEXT, image(data_url(b"\x89PNG\r\n\x1a\n" + b"\0" * 120_000))), 400, None, None),
    (chat(TEXT, image(picture("red", (2000, 1000)))), 400, None, "messages[0].content[1].image_url.url"),
    (chat(TEXT, image("http://127.0.0.1:9/x.png")), 400, None, "messages[0].content[1].image_url.url"),
    (chat(TEXT, image("file:///etc/passwd")), 400, None, "messages[0].content[1].image_url.url"),
    (chat(TEXT, *(image(picture("red", (8 + i, 8))) for i in range(5))), 400, "too_many_images", None),
    (
        chat(TEXT, *(image(picture("red", (8 + i, 8))) for i in range(4)), hybrid={"route": "fast"}),
        400,
        "too_many_images",
        None,
    ),
    (
        chat({"type": "text", "text": "很长 " * 300}, hybrid={"route": "fast"}),
        400,
        "context_length_exceeded",
        None,
    ),
    (chat({"type": "text", "text": "你" * 400_000}), 413, "request_too_large", None),
]


def check_envelope(response: httpx.Response) -> dict[str, Any]:
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert response.headers["x-request-id"]
    return error


@pytest.mark.parametrize(("body", "status", "code", "param"), REFUSED)
def test_rubbish_is_refused_with_the_field_at_fault(
    http: httpx.Client, body: dict[str, Any], status: int, code: str | None, param: str | None
) -> None:
    response = http.post("/v1/chat/completions", json=body)

    error = check_envelope(response)
    assert response.status_code == status, error
    if code is not None:
        assert error["code"] == code
    if param is not None:
        assert error["param"] == param
    assert http.post("/v1/chat/completions", json=HELLO).status_code == 200


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ([], "an object"),
        ({**HELLO, "messages": {}}, "a valid array"),
        ({**HELLO, "messages": ["hi"]}, "an object"),
        ({**HELLO, "messages": [{"role": "user", "content": ["hi"]}]}, "an object"),
        (chat({"type": "image_url", "image_url": "https://example.com/a.png"}), "an object"),
        ({**HELLO, "hybrid": 3}, "an object"),
        ({**HELLO, "metadata": []}, "an object"),
        ({**HELLO, "response_format": "json"}, "an object"),
    ],
)
def test_a_wrong_shape_is_told_in_the_words_of_json(http: httpx.Client, body: Any, word: str) -> None:
    # When a shape is wrong
    message = http.post("/v1/chat/completions", json=body).json()["error"]["message"]
    # Then neither Python's types nor our classes are named to who sent JSON
    assert word in message
    assert not re.search("dictionary|instance|list", message)


@pytest.mark.parametrize("raw", [b"", b"not json", b"[1, 2]", b'{"model":', b"\xff\xfe\x00"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/route", "/api/v1/inference"])
def test_a_body_that_is_no_json_object_is_a_400(http: httpx.Client, path: str, raw: bytes) -> None:
    response = http.post(path, content=raw)

    check_envelope(response)
    assert response.status_code == 400


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"model": "glowl", "input": []}, "no_user_message", "input"),
        ({"model": "glowl", "input": 5}, "invalid_value", "input"),
        ({"model": "glowl", "input": "x", "background": True, "store": False}, "unsupported_value", "store"),
        (
            {"model": "glowl", "input": "x", "previous_response_id": "resp_no"},
            "previous_response_not_found",
            "previous_response_id",
        ),
        ({"model": "glowl", "input": "x", "previous_response_id": "r" * 257}, "invalid_value", "previous_response_id"),
        ({"model": "glowl", "input": "x", "max_output_tokens": 10**30}, "invalid_value", "max_output_tokens"),
        ({"model": "glowl", "input": "x", "top_logprobs": 21}, "invalid_value", "top_logprobs"),
        (
            {"model": "glowl", "input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
            "file_not_found",
            "input[0].content[0].file_id",
        ),
    ],
)
def test_rubbish_responses_are_refused(http: httpx.Client, body: dict[str, Any], code: str, param: str) -> None:
    response = http.post("/v1/responses", json=body)

    error = check_envelope(response)
    assert error["code"] == code
    assert error["param"] == param


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("PUT", "/v1/chat/completions", 405),
        ("GET", "/v1/responses/resp_nothing", 404),
        ("POST", "/v1/responses/resp_nothing/cancel", 404),
        ("DELETE", "/v1/responses/resp_nothing", 404),
        ("GET", "/v1/jobs/resp_nothing", 404),
        ("GET", "/v1/responses/resp_*", 404),
        ("GET", "/v1/responses/%00%ff%0d%0a", 404),
        ("GET", "/v1/responses/resp_x%7Cmerge", 404),
        ("GET", "/v1/responses/..%2F..%2Fjob:resp_x", 404),
        ("GET", "/v1/responses/%ED%A0%80", 404),
        ("DELETE", "/v1/responses/*", 404),
        ("GET", "/v1/models/gpt-4o", 404),
        ("GET", "/v1/responses/resp_nothing?stream=maybe", 400),
    ],
)
def test_every_error_is_an_envelope(http: httpx.Client, method: str, path: str, status: int) -> None:
    response = http.request(method, path)

    check_envelope(response)
    assert response.status_code == status


@pytest.mark.parametrize("field", ["messages", "input", "stop", "content", "include"])
def test_a_list_with_a_million_errors_is_refused_for_its_first(field: str) -> None:
    rubbish: list[Any] = [5] * 1_000_000
    body = {"model": "glowl", "messages": [{"role": "user", "content": "x"}], "input": "x", field: rubbish}
    if field == "content":
        body["messages"] = [{"role": "user", "content": rubbish}]
    shape = ResponsesRequest if field in ("input", "include") else ChatRequest

    with pytest.raises(ValidationError) as caught:
        shape.model_validate_json(orjson.dumps(body))

    assert caught.value.error_count() <= 2  # of a text or a list: no text, and the first item is wrong


@pytest.mark.parametrize(
    ("question", "en", "zh"),
    [
        ("", "is empty", "为空"),
        (" \n\u3000", "is empty", "为空"),
        ("\x00\x1f", "There is nothing to read", "没有可读的内容"),
        ("\u200b", "There is nothing to read", "没有可读的内容"),
    ],
)
def test_an_empty_message_and_one_that_cannot_be_read_are_told_apart(
    http: httpx.Client, question: str, en: str, zh: str
) -> None:
    body = {"model": "glowl", "messages": [{"role": "user", "content": question}]}
    for language, said in (("en", en), ("zh", zh)):
        refused = http.post("/v1/chat/completions", json=body, headers={"accept-language": language})

        assert said in check_envelope(refused)["message"]


@pytest.mark.parametrize("half", ["\\ud83d", "\\ud83dx", "\\ud83d\\u0041", "\\ude00"])
def test_half_of_a_surrogate_pair_is_called_so(http: httpx.Client, half: str) -> None:
    body = '{"model": "glowl", "messages": [{"role": "user", "content": "HALF"}]}'.replace("HALF", half)
    for language, said in (("en", "half of a surrogate pair"), ("zh", "半个代理对")):
        refused = http.post("/v1/chat/completions", content=body, headers={"accept-language": language})

        error = check_envelope(refused)
        assert (refused.status_code, error["code"]) == (400, "invalid_json")
        assert said in error["message"]


def test_a_number_too_large_for_json_is_refused_before_it_is_a_job(http: httpx.Client) -> None:
    body = {"model": "glowl", "messages": [{"role": "user", "content": "What is it?"}], "seed": 10**30}

    response = http.post("/v1/chat/completions", json=body)

    assert response.status_code == 400
    assert check_envelope(response)["param"] == "seed"


def test_what_an_engine_says_is_wrong_is_named_as_the_endpoint_calls_it(http: httpx.Client) -> None:
    body = {"model": "glowl", "input": "很长 " * 300, "hybrid": {"route": "fast"}}

    error = check_envelope(http.post("/v1/responses", json=body))

    assert (error["code"], error["param"]) == ("context_length_exceeded", "input")


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/responses", "/api/v1/inference", "/v1/vision/completion"]
)
def test_the_key_is_asked_for_before_the_body_is_read(keyed_api: Any, path: str) -> None:
    with httpx.Client(base_url=keyed_api.url, trust_env=False) as http:
        assert http.post(path, content=b"not json").status_code == 401


async def test_a_caller_who_hangs_up_while_sending_is_no_bug_of_ours(api: Any, caplog: Any) -> None:
    sent: list[Any] = []
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": [], "query_string": b""}

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await api._app({**scope, "scheme": "http", "server": ("x", 80), "root_path": ""}, receive, send)

    assert sent[0]["status"] == 499
    assert not caplog.records


def test_messages_are_chinese_for_those_who_prefer_it(http: httpx.Client) -> None:
    body = {**HELLO, "model": "gpt-4o"}

    chinese = http.post("/v1/chat/completions", json=body, headers={"accept-language": "zh-CN,zh;q=0.9,en;q=0.8"})
    english = http.post("/v1/chat/completions", json=body, headers={"accept-language": "en-GB,zh;q=0.5"})

    assert "不存在" in chinese.json()["error"]["message"]
    assert "does not exist" in english.json()["error"]["message"]


def test_a_key_is_asked_for_once_keys_are_configured(keyed_api: Any) -> None:
    with httpx.Client(base_url=keyed_api.url, trust_env=False) as http:
        missing = http.post("/v1/chat/completions", json=HELLO)
        wrong = http.post("/v1/chat/completions", json=HELLO, headers={"authorization": "Bearer eve"})
        right = http.post("/v1/chat/completions", json=HELLO, headers={"authorization": "Bearer alice"})

    assert (missing.status_code, wrong.status_code, right.status_code) == (401, 401, 200)
    assert check_envelope(wrong)["code"] == "invalid_api_key"


def test_somebody_elses_response_does_not_exist(keyed_api: Any) -> None:
    alice, bob = {"authorization": "Bearer alice"}, {"authorization": "Bearer bob"}
    with httpx.Client(base_url=keyed_api.url, trust_env=False) as http:
        mine = http.post("/v1/responses", json={"model": "glowl", "input": "你好"}, headers=alice).json()["id"]

        assert http.get(f"/v1/responses/{mine}", headers=alice).status_code == 200
        for method, path in [("GET", ""), ("POST", "/cancel"), ("DELETE", ""), ("GET", "/input_items")]:
            refused = http.request(method, f"/v1/responses/{mine}{path}", headers=bob)
            assert refused.status_code == 404
            assert check_envelope(refused)["code"] == "response_not_found"
        assert http.get(f"/v1/jobs/{mine}", headers=bob).status_code == 404
        assert http.get(f"/v1/responses/{mine}", headers=alice).status_code == 200

"""More than any request needs is refused early, and what a request may need is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import orjson
import pytest

from tests.support.servers import AppServer

HELLO = {"role": "user", "content": "你好"}
PART = {"type": "text", "text": "a"}
IN_PART = {"type": "input_text", "text": "a"}


CHAT = "/v1/chat/completions"


def chat(*messages: Any, **fields: Any) -> dict[str, Any]:
    return {"model": "glowl", "messages": list(messages), **fields}


# Made when they are sent: who only collects tests need not build them.
BOMBS: list[tuple[str, Callable[[], dict[str, Any]]]] = [
    (CHAT, lambda: chat({"role": "user", "content": [PART] * 300_000})),
    (CHAT, lambda: chat(*[HELLO] * 100_000)),
    (CHAT, lambda: chat(HELLO, tools=[{}] * 100_000)),
    (CHAT, lambda: chat(HELLO, stop=["a"] * 500_000)),
    (CHAT, lambda: chat(HELLO, unheard_of={str(key): [] for key in range(100_000)})),
    ("/v1/route", lambda: chat(*[HELLO] * 100_000)),
    ("/v1/responses", lambda: {"model": "glowl", "input": [{"role": "user", "content": [IN_PART] * 100_000}]}),
    ("/v1/responses", lambda: {"model": "glowl", "input": "a", "include": ["b"] * 500_000}),
    ("/v1/webhook_endpoints", lambda: {"name": "a", "url": "https://example.com", "event_types": ["a"] * 500_000}),
    ("/v1/webhook_secret/rotate", lambda: {"a": [[]] * 100_000}),
    ("/v1/batches", lambda: {"metadata": {str(key): "" for key in range(500_000)}}),
]


@pytest.mark.parametrize(("path", "bomb"), BOMBS, ids=lambda value: value if isinstance(value, str) else "")
def test_many_tiny_parts_are_refused_wherever_they_are(
    keyless_twin: AppServer, path: str, bomb: Callable[[], dict[str, Any]]
) -> None:
    body = bomb()
    with httpx.Client(base_url=keyless_twin.url, trust_env=False, timeout=300) as http:
        answer = http.post(path, content=orjson.dumps(body))
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "too_many_values")


@pytest.mark.parametrize("split", [1, 30])
def test_more_text_than_any_model_reads_is_refused_however_it_is_split(keyless_twin: AppServer, split: int) -> None:
    text = "x" * (2_100_000 // split)
    for path in (CHAT, "/v1/route", "/v1/responses"):
        name, kind = ("input", "input_text") if path == "/v1/responses" else ("messages", "text")
        content = [{"type": kind, "text": text}] * split
        with httpx.Client(base_url=keyless_twin.url, trust_env=False, timeout=300) as http:
            body = {"model": "glowl", name: [{"role": "user", "content": content}]}
            answer = http.post(path, content=orjson.dumps(body), headers={"accept-language": "zh"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")
        assert "2000000" in answer.json()["error"]["message"]


def test_a_long_conversation_with_a_large_schema_is_no_bomb(keyless_twin: AppServer) -> None:
    turns = [{"role": role, "content": [PART]} for role in ("user", "assistant")] * 600
    texts = {"role": "user", "content": "{[,]}" * 20_000}
    with httpx.Client(base_url=keyless_twin.url, trust_env=False, timeout=300) as http:
        body = {
            "model": "glowl",
            "messages": [*turns, texts],
            "x": {str(key): {"type": "string"} for key in range(4000)},
        }
        answer = http.post("/v1/route", content=orjson.dumps(body))
    assert answer.status_code == 200, answer.text

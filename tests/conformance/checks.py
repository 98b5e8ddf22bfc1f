"""The checks of the open Responses suite, in our own words: ``python checks.py BASE_URL MODEL``.

In: a server's base URL, and ``openresponses-types`` (the specification's shapes as pydantic models) in the environment.
Out: JSON, one object a check: its ``id`` in the suite, whether it passed, and why not. Runs in an environment of its
own, so it uses nothing of ours.

Source: github.com/openresponses/openresponses, src/lib/compliance-tests.ts, specification of 2026-04-24.
"""

from __future__ import annotations

import base64
import functools
import http.client
import json
import struct
import sys
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable
from typing import Any, Union
from urllib.parse import urlsplit

import openresponses_types as shapes
from pydantic import TypeAdapter, ValidationError

Json = dict[str, Any]
Check = Callable[[str, str], list[str]]

TIMEOUT_S = 300
OBJECT = TypeAdapter(shapes.ResponseResource)
_EVENTS = [getattr(shapes, name) for name in vars(shapes) if name.endswith("StreamingEvent")]
EVENT: TypeAdapter[Any] = TypeAdapter(Union[tuple(_EVENTS)])  # noqa: UP007


def turn(role: str, content: Any, **fields: Any) -> Json:
    """Return an input message."""
    return {"type": "message", "role": role, "content": content, **fields}


def red_square() -> str:
    """Return a small picture as a data URL."""
    rows = b"".join(b"\0" + b"\xff\0\0" * 32 for _ in range(32))
    data = b"\x89PNG\r\n\x1a\n"
    for kind, body in (
        (b"IHDR", struct.pack(">IIBBBBB", 32, 32, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ):
        data += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return "data:image/png;base64," + base64.b64encode(data).decode()


def post(base_url: str, path: str, body: Json) -> tuple[int, str]:
    """Return the status and the text of an answer."""
    request = urllib.request.Request(base_url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def wrong_in(adapter: TypeAdapter[Any], text: str, of: str = "") -> list[str]:
    """Return what is not of the specification's shape; numbers are numbers here, as they are for the suite."""
    try:
        adapter.validate_json(text, strict=True)
    except ValidationError as error:
        return [f"{of}{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
    return []


def answered(base_url: str, model: str, messages: list[Json], wants: str = "", **fields: Any) -> list[str]:
    """Ask, and return what is wrong: with the status, the shape, or what there is in it.

    Args:
        base_url: of the server.
        model: its name.
        messages: the input.
        wants: an output item of this type; empty for a completed response with any.
        fields: of the request.
    """
    status, text = post(base_url, "/responses", {"model": model, "input": messages, "stream": False, **fields})
    if status != 200:
        return [f"HTTP {status}: {text[:200]}"]
    if wrong := wrong_in(OBJECT, text):
        return wrong
    return wrong_response(json.loads(text), wants)


def wrong_response(response: Json, wants: str = "") -> list[str]:
    """Return what is wrong with a response of the right shape."""
    kinds = [item["type"] for item in response["output"]]
    if wants:
        return [] if wants in kinds else [f"no {wants} among the output items {kinds}"]
    return [
        *([] if kinds else ["no output items"]),
        *([] if response["status"] == "completed" else [f"the status is {response['status']}"]),
    ]


def streamed(base_url: str, model: str) -> list[str]:
    """Stream an answer: each event has its shape, and the last one a completed response."""
    body = {"model": model, "input": [turn("user", "Count from 1 to 5.")], "stream": True}
    status, text = post(base_url, "/responses", body)
    if status != 200:
        return [f"HTTP {status}: {text[:200]}"]
    data = [line.removeprefix("data:").strip() for line in text.split("\n") if line.startswith("data:")]
    events = [each for each in data if each != "[DONE]"]
    wrong = [error for each in events for error in wrong_in(EVENT, each, f"{json.loads(each).get('type')}: ")[:3]]
    if wrong or not events:
        return wrong or ["no events"]
    last = json.loads(events[-1]).get("response")
    return ["the last event has no response"] if last is None else wrong_response(last)


def phase_shape(_base_url: str, _model: str) -> list[str]:
    """The shape itself knows phases; no server is asked, as in the suite."""
    phases = {each.value for each in shapes.Phase}
    return [] if {"commentary", "final_answer"} <= phases else [f"the phases are {sorted(phases)}"]


def websocket(base_url: str, _model: str) -> list[str]:
    """Ask for a WebSocket, without which none of these checks begins."""
    url = urlsplit(base_url)
    connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=TIMEOUT_S)
    key = base64.b64encode(b"sixteen bytes 16").decode()
    headers = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Key": key, "Sec-WebSocket-Version": "13"}
    connection.request("GET", f"{url.path}/responses", headers=headers)
    status = connection.getresponse().status
    connection.close()
    return ["there is a WebSocket; these checks do not speak it yet" if status == 101 else f"no WebSocket: {status}"]


def compacted(base_url: str, model: str) -> list[str]:
    """Ask for a shorter conversation."""
    status, text = post(base_url, "/responses/compact", {"model": model, "input": [turn("user", "Say OK.")]})
    return [f"HTTP {status}: {text[:200]}"] if status != 200 else wrong_in(TypeAdapter(shapes.CompactResource), text)


def compact_without_model(base_url: str, _model: str) -> list[str]:
    """Ask for one without saying of which model: a 400 or 422."""
    status, _text = post(base_url, "/responses/compact", {"input": [turn("user", "Say OK.")]})
    return [] if status in (400, 422) else [f"HTTP {status}"]


WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a place now",
    "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
}
ALICE = [turn("user", "My name is Alice."), turn("assistant", "Hello Alice!"), turn("user", "What is my name?")]
PICTURE = [
    {"type": "input_text", "text": "What is in this picture?"},
    {"type": "input_image", "image_url": red_square()},
]
PHASES = [
    turn("user", "Look up the capital of France."),
    turn("assistant", "I am looking it up.", phase="commentary"),
    turn("assistant", "Paris.", phase="final_answer"),
    turn("user", "And of Italy?"),
]


def asking(*messages: Json, **fields: Any) -> Check:
    """Return a check of one answer."""
    return functools.partial(answered, messages=list(messages), **fields)


CHECKS: dict[str, Check] = {
    "basic-response": asking(turn("user", "Say hello in exactly 3 words.")),
    "assistant-phase": asking(*PHASES),
    "response-output-phase-schema": phase_shape,
    "streaming-response": streamed,
    "websocket-response": websocket,
    "websocket-sequential-responses": websocket,
    "websocket-continuation": websocket,
    "websocket-reconnect-store-false-recovery": websocket,
    "websocket-previous-response-not-found": websocket,
    "websocket-failed-continuation-evicts-cache": websocket,
    "websocket-compact-new-chain": websocket,
    "system-prompt": asking(turn("system", "You are a pirate."), turn("user", "Say hello.")),
    "tool-calling": asking(turn("user", "What is the weather in Paris?"), tools=[WEATHER], wants="function_call"),
    "image-input": asking(turn("user", PICTURE)),
    "multi-turn": asking(*ALICE),
    "compact-response": compacted,
    "compact-missing-model": compact_without_model,
}


def main(base_url: str, model: str) -> None:
    """Check all, and print what came of it."""
    results = []
    for name, check in CHECKS.items():
        wrong = check(base_url, model)
        results.append({"id": name, "passed": not wrong, "why": "; ".join(wrong)})
    print(json.dumps({"specification": shapes.__spec_version__, "checks": results}))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""The checks of the open Responses suite, in our own words: ``python checks.py BASE_URL MODEL [SCRIPT]``.

In: a server's base URL; what the question is to contain for an engine that calls functions by script. Of the
environment: ``openresponses-types`` (the specification's shapes as pydantic models) and ``websockets``.
Out: JSON, one object a check: its ``id`` in the suite, whether it passed, and why not. Runs in an environment of its
own, so it uses nothing of ours.

Source: github.com/openresponses/openresponses, src/lib/compliance-tests.ts, specification of 2026-04-24.
"""

from __future__ import annotations

import base64
import functools
import json
import struct
import sys
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable
from typing import Any, Union

import openresponses_types as shapes
from pydantic import TypeAdapter, ValidationError
from websockets.sync.client import connect

Json = dict[str, Any]
Check = Callable[[str, str], list[str]]

TIMEOUT_S = 300
OBJECT = TypeAdapter(shapes.ResponseResource)
_EVENTS = [getattr(shapes, name) for name in vars(shapes) if name.endswith("StreamingEvent")]
SOCKET_ERROR: TypeAdapter[Any] = TypeAdapter(shapes.WebSocketErrorEvent)
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


class Socket:
    """A WebSocket to the server; each turn is read up to its last event.

    Args:
        base_url: of the server.
        model: its name.
    """

    def __init__(self, base_url: str, model: str) -> None:
        self._opening = connect(f"ws{base_url.removeprefix('http')}/responses", open_timeout=TIMEOUT_S, proxy=None)
        self._model = model
        self.wrong: list[str] = []

    def __enter__(self) -> Socket:
        self._socket = self._opening.__enter__()
        return self

    def __exit__(self, *ended: Any) -> None:
        self._opening.__exit__(*ended)

    def turn(self, asked: Any, **fields: Any) -> Json:
        """Ask; returns the last event. What is not of the specification's shape is added to ``wrong``."""
        self._socket.send(json.dumps({"type": "response.create", "model": self._model, "input": asked, **fields}))
        while True:
            text = self._socket.recv(TIMEOUT_S)
            event: Json = json.loads(text)
            shape = SOCKET_ERROR if event["type"] == "error" and "status" in event else EVENT
            self.wrong += wrong_in(shape, str(text), f"{event['type']}: ")[:3]
            if event["type"] in ("error", "response.completed", "response.failed", "response.incomplete"):
                return event

    def completed(self, asked: Any, **fields: Any) -> str:
        """Ask for what must be answered; returns the response's id."""
        last = self.turn(asked, **fields)
        self.wrong += wrong_response(last["response"]) if "response" in last else [f"refused: {last}"]
        return str(last.get("response", {}).get("id"))

    def unknown(self, previous: str, asked: Any = "Go on.") -> None:
        """Go on from what must not be known."""
        last = self.turn(asked, store=False, previous_response_id=previous)
        code = (last.get("error") or {}).get("code")
        self.wrong += [] if code == "previous_response_not_found" else [f"no previous_response_not_found but {code}"]


def socket_response(base_url: str, model: str) -> list[str]:
    """Stream a response."""
    with Socket(base_url, model) as socket:
        socket.completed([turn("user", "Count from 1 to 3.")])
        return socket.wrong


def socket_sequence(base_url: str, model: str) -> list[str]:
    """Ask twice on one connection."""
    with Socket(base_url, model) as socket:
        ids = {socket.completed(f"Say {word}.", store=False) for word in ("first", "second")}
        return socket.wrong + ([] if len(ids) == 2 else ["both responses have one id"])


def socket_continuation(base_url: str, model: str) -> list[str]:
    """Go on from a response that is not stored."""
    with Socket(base_url, model) as socket:
        first = socket.completed("The word is cobalt.", store=False)
        socket.completed("Which word?", store=False, previous_response_id=first)
        return socket.wrong


def socket_reconnect(base_url: str, model: str) -> list[str]:
    """Find nothing of an unstored response on another connection, and begin anew there."""
    with Socket(base_url, model) as socket:
        first = socket.completed("The word is copper.", store=False)
    with Socket(base_url, model) as other:
        other.unknown(first)
        other.completed("The word was copper. Which word?", store=False)
        return socket.wrong + other.wrong


def socket_not_found(base_url: str, model: str) -> list[str]:
    """Go on from what never was."""
    with Socket(base_url, model) as socket:
        socket.unknown("resp_that_never_was")
        return socket.wrong


def socket_eviction(base_url: str, model: str) -> list[str]:
    """Go on with the result of a call that nobody made; afterwards what it went on from is gone."""
    with Socket(base_url, model) as socket:
        first = socket.completed("The word is ember.", store=False)
        result = {"type": "function_call_output", "call_id": "call_nobody", "output": "none"}
        failed = socket.turn([result], store=False, previous_response_id=first)
        socket.wrong += [] if failed["type"] in ("error", "response.failed") else ["such a result was taken"]
        socket.unknown(first)
        return socket.wrong


def socket_after_compaction(base_url: str, model: str) -> list[str]:
    """Begin with a compacted conversation."""
    status, text = post(base_url, "/responses/compact", {"model": model, "input": AGREED})
    if status != 200:
        return [f"HTTP {status}: {text[:200]}"]
    with Socket(base_url, model) as socket:
        socket.completed([*json.loads(text)["output"], turn("user", "When is the launch?")], store=False)
        return socket.wrong


def compacted(base_url: str, model: str) -> list[str]:
    """Ask for a shorter conversation."""
    body = {"model": model, "input": AGREED, "prompt_cache_key": "compaction"}
    status, text = post(base_url, "/responses/compact", body)
    if status != 200:
        return [f"HTTP {status}: {text[:200]}"]
    kinds = [item["type"] for item in json.loads(text)["output"]]
    missing = [] if "compaction" in kinds else [f"no compaction among the items {kinds}"]
    return wrong_in(TypeAdapter(shapes.CompactResource), text) + missing


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
AGREED = [turn("user", "We launch on Tuesday."), turn("assistant", "Tuesday it is.")]
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


def calls_a_function(base_url: str, model: str, script: str) -> list[str]:
    """Ask what a function knows, and leave it to the model whether it calls it."""
    question = "\n".join(part for part in ("What is the weather in Paris?", script) if part)
    return answered(base_url, model, [turn("user", question)], tools=[WEATHER], wants="function_call")


def asking(*messages: Json, **fields: Any) -> Check:
    """Return a check of one answer."""
    return functools.partial(answered, messages=list(messages), **fields)


CHECKS: dict[str, Check] = {
    "basic-response": asking(turn("user", "Say hello in exactly 3 words.")),
    "assistant-phase": asking(*PHASES),
    "response-output-phase-schema": phase_shape,
    "streaming-response": streamed,
    "websocket-response": socket_response,
    "websocket-sequential-responses": socket_sequence,
    "websocket-continuation": socket_continuation,
    "websocket-reconnect-store-false-recovery": socket_reconnect,
    "websocket-previous-response-not-found": socket_not_found,
    "websocket-failed-continuation-evicts-cache": socket_eviction,
    "websocket-compact-new-chain": socket_after_compaction,
    "system-prompt": asking(turn("system", "You are a pirate."), turn("user", "Say hello.")),
    "image-input": asking(turn("user", PICTURE)),
    "multi-turn": asking(*ALICE),
    "compact-response": compacted,
    "compact-missing-model": compact_without_model,
}


def main(base_url: str, model: str, script: str = "") -> None:
    """Check all, and print what came of it."""
    results = []
    checks = {**CHECKS, "tool-calling": functools.partial(calls_a_function, script=script)}
    for name, check in checks.items():
        began = time.monotonic()
        try:
            wrong = check(base_url, model)
        except Exception as error:  # such as no answer in time: the other checks are worth knowing
            wrong = [repr(error)]
        said = "failed" if wrong else "passed"
        print(f"{name}: {said}, {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
        results.append({"id": name, "passed": not wrong, "why": "; ".join(wrong)})
    print(json.dumps({"specification": shapes.__spec_version__, "checks": results}))


if __name__ == "__main__":
    main(*sys.argv[1:])

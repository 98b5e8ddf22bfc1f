"""What the gateway benchmark compares with: an upstream that answers at once, and two bare pass-throughs.

    python -m benchmarks.gateway_peers upstream|fastapi|asgi PORT [UPSTREAM_URL]

In: OpenAI chat completions. Out: the upstream's one answer, whole or as a stream. The pass-throughs read a body, send
it on and send back what comes: no key, no limit, no policy, no picture is looked at. They are the floor of what a
gateway in Python costs with usual parts (FastAPI, httpx) and with careful ones (raw ASGI, aiohttp).
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any, Final

import aiohttp
import httptools
import httpx
import orjson
import uvicorn
import uvloop
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

MODEL: Final = "GLM-4.6V-Flash-echo"
PIECES: Final = (
    "图中",
    "有一",
    "盏台灯",
    "和两",
    "本书",
    "，书",
    "旁边",
    "是一",
    "只白",
    "色的",
    "杯子",
    "，杯",
    "里装",
    "着温",
    "热的",
    "茶。",
)
_HEAD: Final = {"id": "chatcmpl-0", "created": 1767225600, "model": MODEL}
_USAGE: Final = {"prompt_tokens": 700, "completion_tokens": len(PIECES), "total_tokens": 700 + len(PIECES)}
_SSE: Final = ((b"content-type", b"text/event-stream"),)
_JSON: Final = ((b"content-type", b"application/json"),)


def _event(payload: Any) -> bytes:
    return b"data: " + (payload if isinstance(payload, bytes) else orjson.dumps(payload)) + b"\n\n"


def _chunk(delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return _event({**_HEAD, "object": "chat.completion.chunk", "choices": [choice]})


def _whole() -> bytes:
    message = {"role": "assistant", "content": "".join(PIECES)}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return orjson.dumps({**_HEAD, "object": "chat.completion", "choices": [choice], "usage": _USAGE})


def _events() -> list[bytes]:
    return [
        _chunk({"role": "assistant", "content": ""}),
        *(_chunk({"content": piece}) for piece in PIECES),
        _chunk({}, "stop"),
        _event({**_HEAD, "object": "chat.completion.chunk", "choices": [], "usage": _USAGE}),
        _event(b"[DONE]"),
    ]


def _models() -> bytes:
    own = {"engine": "glm", "variant": "echo", "context_tokens": 131072, "max_images": 64}
    model = {"id": MODEL, "object": "model", "created": 0, "owned_by": "glowl", "max_model_len": 131072, "glowl": own}
    return orjson.dumps({"object": "list", "data": [model]})


def _response(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body


# Each event is a chunk of its own, as engines send them; all leave in one write.
_STREAM: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    + b"".join(b"%x\r\n%s\r\n" % (len(event), event) for event in _events())
    + b"0\r\n\r\n"
)
_PLAIN: Final = _response(_whole())
_GETS: Final = {b"/v1/models": _response(_models())}


class Upstream(asyncio.Protocol):
    """Answers every chat completion with the same words as soon as its body is there."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin a connection."""
        self._transport = transport
        self._parser = httptools.HttpRequestParser(self)
        self._url, self._tail = b"", b""
        self._is_streamed = False

    def data_received(self, data: bytes) -> None:
        """Read on."""
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        """Take the path."""
        self._url, self._tail, self._is_streamed = url, b"", False

    def on_body(self, body: bytes) -> None:
        """Look for the wish for a stream; a piece may end in the middle of it."""
        seen = self._tail + body
        self._is_streamed = self._is_streamed or b'"stream":true' in seen or b'"stream": true' in seen
        self._tail = seen[-16:]

    def on_message_complete(self) -> None:
        """Answer."""
        if self._parser.get_method() == b"GET":
            answer = _GETS.get(self._url, _response(b"{}"))
        else:
            answer = _STREAM if self._is_streamed else _PLAIN
        self._transport.write(answer)  # type: ignore[attr-defined]


async def _serve_upstream(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port, backlog=512)
    await server.serve_forever()


def make_fastapi(upstream: str) -> FastAPI:
    """Make the pass-through of FastAPI and httpx as most people write it."""
    app = FastAPI()
    client = httpx.AsyncClient(base_url=upstream, limits=httpx.Limits(max_connections=None), trust_env=False)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        body = await request.json()
        if not body.get("stream"):
            found = await client.post("/v1/chat/completions", json=body)
            return Response(found.content, found.status_code, media_type="application/json")
        answer = await client.send(client.build_request("POST", "/v1/chat/completions", json=body), stream=True)
        return StreamingResponse(answer.aiter_raw(), answer.status_code, media_type="text/event-stream")

    return app


class RawPassThrough:
    """The pass-through of plain ASGI and aiohttp: bytes in, bytes out.

    Args:
        upstream: base URL.
    """

    def __init__(self, upstream: str) -> None:
        self._url = f"{upstream}/v1/chat/completions"
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        pieces, is_whole = [], False
        while not is_whole:
            message = await receive()
            pieces.append(message.get("body", b""))
            is_whole = not message.get("more_body", False)
        headers = {"content-type": "application/json"}
        async with self._session.post(self._url, data=b"".join(pieces), headers=headers) as answer:
            kind = _SSE if answer.content_type == "text/event-stream" else _JSON
            await send({"type": "http.response.start", "status": answer.status, "headers": list(kind)})
            async for piece in answer.content.iter_any():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def main() -> None:
    """Serve one of them."""
    what, port = sys.argv[1], int(sys.argv[2])
    if what == "upstream":
        uvloop.run(_serve_upstream(port))
        return
    app: Any = make_fastapi(sys.argv[3]) if what == "fastapi" else RawPassThrough(sys.argv[3])
    uvicorn.run(app, port=port, log_level="warning", access_log=False, lifespan="off")


if __name__ == "__main__":
    main()

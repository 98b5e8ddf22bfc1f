"""A stand-in for `vllm serve`: its wire over any engine of ours, quirks included.

Written from what vLLM 0.12 sends, without `engines.http`, so that both sides do not share one misunderstanding: a
chunk with only the role comes first and one with only the usage last; thinking is on unless switched off; the model's
name is compared; refusals are all a plain 400; pictures are not counted apart; unknown fields are ignored; an answer
given up in mid-stream is an event with ``error``, and then ``[DONE]`` all the same.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web

from engines.base import (
    ContextLengthError,
    Delta,
    Engine,
    EngineError,
    EngineOverloadedError,
    EngineUnavailableError,
    GenerationRequest,
    ImagePart,
    InvalidImageError,
    InvalidRequestError,
    Message,
    Part,
    SamplingParams,
    TextPart,
    TokenLogprob,
    TooManyImagesError,
)

MODEL = "zai-org/GLM-4.6V-Flash"


class VllmServer:
    """One server over one engine, which it neither starts nor closes.

    Args:
        engine: gives the answers.
        model: the one name it goes by.
        api_key: asked for under ``/v1``; None asks for none.
        adapters: names of LoRA modules.
        reasoning_field: ``reasoning_content``, or ``reasoning`` as newer versions call it.
        unknown_fields: refused by name, one at a time, as strict hosted servers do.

    Attributes:
        bodies: the requests it understood, in order.
        num_refused: requests with a field of ``unknown_fields``.
        url: where it listens, after `start`.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        model: str = MODEL,
        api_key: str | None = None,
        adapters: tuple[str, ...] = (),
        reasoning_field: str = "reasoning_content",
        unknown_fields: tuple[str, ...] = (),
    ) -> None:
        self._engine = engine
        self._model = model
        self._api_key = api_key
        self._adapters = adapters
        self._reasoning_field = reasoning_field
        self._unknown_fields = unknown_fields
        self._runner: web.AppRunner | None = None
        self.bodies: list[dict[str, Any]] = []
        self.num_refused = 0
        self.url = ""

    async def start(self, port: int = 0) -> None:
        app = web.Application(client_max_size=256 * 1024 * 1024)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/health", self._health)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", port).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        """Be gone: connections break, new ones are refused."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            for connection in list(runner.server.connections if runner.server else ()):
                if connection.transport is not None:
                    connection.transport.abort()
            await runner.cleanup()

    async def _health(self, _request: web.Request) -> web.Response:
        return web.Response()

    async def _models(self, request: web.Request) -> web.Response:
        if not self._is_allowed(request):
            return web.json_response({"error": "Unauthorized"}, status=401)
        info = await self._engine.info()
        card = {"object": "model", "created": 1, "owned_by": "vllm"}
        entries = [{**card, "id": self._model, "root": "/m", "parent": None, "max_model_len": info.context_tokens}]
        entries += [{**card, "id": name, "root": "/l", "parent": self._model} for name in self._adapters]
        return web.json_response({"object": "list", "data": entries})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        if not self._is_allowed(request):
            return web.json_response({"error": "Unauthorized"}, status=401)
        body = json.loads(await request.read())
        for field in self._unknown_fields:
            if field in body:
                self.num_refused += 1
                return _refuse(400, f"Unrecognized request argument supplied: {field}")
        if body["model"] not in (self._model, *self._adapters):
            return _refuse(404, f"The model `{body['model']}` does not exist.", "NotFoundError", "model")
        self.bodies.append(body)
        deltas = self._engine.stream(_to_request(body, adapter=body["model"] if body["model"] != self._model else ""))
        async with contextlib.aclosing(deltas):
            try:
                first = await anext(deltas)
            except EngineError as error:
                return await self._refuse_engine_error(error)
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
            await response.prepare(request)
            await response.write(_event(self._chunk(delta={"role": "assistant", "content": ""})))
            try:
                await self._send(response, first, body)
                async for delta in deltas:
                    await self._send(response, delta, body)
            except EngineError as error:
                await response.write(_event({"error": _details(500, error.message, "InternalServerError")}))
            await response.write(b"data: [DONE]\n\n")
        return response

    async def _send(self, response: web.StreamResponse, delta: Delta, body: dict[str, Any]) -> None:
        if delta.reasoning:
            await response.write(_event(self._chunk(delta={self._reasoning_field: delta.reasoning})))
        if delta.text or delta.logprobs:
            logprobs = {"content": [_to_entry(token) for token in delta.logprobs]} if delta.logprobs else None
            await response.write(_event(self._chunk(delta={"content": delta.text}, logprobs=logprobs)))
        if delta.finish_reason is None:
            return
        last = self._chunk(delta={"content": ""}, finish_reason=delta.finish_reason)
        last["choices"][0]["stop_reason"] = delta.stop_sequence or None
        await response.write(_event(last))
        if body.get("stream_options", {}).get("include_usage") and delta.usage is not None:
            usage = {
                "prompt_tokens": delta.usage.prompt_tokens,
                "total_tokens": delta.usage.prompt_tokens + delta.usage.completion_tokens,
                "completion_tokens": delta.usage.completion_tokens,
                "prompt_tokens_details": {"cached_tokens": delta.usage.cached_tokens},
            }
            await response.write(_event({**self._chunk(delta={}), "choices": [], "usage": usage}))

    async def _refuse_engine_error(self, error: EngineError) -> web.Response:
        info = await self._engine.info()
        if isinstance(error, ContextLengthError):
            limit = info.context_tokens
            return _refuse(
                400,
                f"This model's maximum context length is {limit} tokens. However, your request has {limit + 1} input "
                f"tokens. Please reduce the length of the input messages.",
            )
        if isinstance(error, TooManyImagesError):
            return _refuse(400, f"At most {info.max_images} image(s) may be provided in one prompt.")
        if isinstance(error, InvalidImageError):
            return _refuse(400, "cannot identify image file <_io.BytesIO object at 0x7f3c5c0b9f40>")
        if isinstance(error, InvalidRequestError):
            return _refuse(400, error.message, param=error.param)
        if isinstance(error, EngineOverloadedError):
            return web.Response(status=429, text="too many requests", headers={"Retry-After": "7"})
        if isinstance(error, EngineUnavailableError):
            return web.Response(status=503)
        return _refuse(500, error.message, "InternalServerError")

    def _is_allowed(self, request: web.Request) -> bool:
        return self._api_key is None or request.headers.get("Authorization") == f"Bearer {self._api_key}"

    def _chunk(
        self, delta: dict[str, Any], finish_reason: str | None = None, logprobs: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": self._model}
        return {**head, "choices": [choice]}


@contextlib.asynccontextmanager
async def serving(engine: Engine, **options: Any) -> AsyncIterator[VllmServer]:
    server = VllmServer(engine, **options)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def _to_request(body: dict[str, Any], adapter: str) -> GenerationRequest:
    wanted = body.get("response_format") or {"type": "text"}
    schema = {"json_object": {"type": "object"}, "json_schema": wanted.get("json_schema", {}).get("schema")}
    return GenerationRequest(
        messages=tuple(Message(message["role"], _to_parts(message["content"])) for message in body["messages"]),
        sampling=SamplingParams(
            max_tokens=body.get("max_tokens"),
            temperature=body.get("temperature", 1.0),
            top_p=body.get("top_p", 1.0),
            seed=body.get("seed"),
            stop=tuple(body.get("stop", ())),
            top_logprobs=body.get("top_logprobs", 0) if body.get("logprobs") else None,
            json_schema=json.dumps(schema[wanted["type"]]) if wanted["type"] in schema else None,
        ),
        enable_thinking=body.get("chat_template_kwargs", {}).get("enable_thinking", True),
        caller=body.get("cache_salt", ""),
        adapter=adapter,
    )


def _to_parts(content: str | list[dict[str, Any]]) -> tuple[Part, ...]:
    if isinstance(content, str):
        return (TextPart(content),)
    parts: list[Part] = []
    for part in content:
        if part["type"] == "text":
            parts.append(TextPart(part["text"]))
        else:
            head, _, data = part["image_url"]["url"].partition(";base64,")
            picture = base64.b64decode(data, validate=True)
            parts.append(ImagePart(picture, head.removeprefix("data:"), hashlib.sha256(picture).hexdigest()))
    return tuple(parts)


def _to_entry(token: TokenLogprob) -> dict[str, Any]:
    top = [{"token": other.token, "logprob": other.logprob, "bytes": list(other.data)} for other in token.top]
    return {"token": token.token, "logprob": token.logprob, "bytes": list(token.data), "top_logprobs": top}


def _details(code: int, message: str, kind: str, param: str | None = None) -> dict[str, Any]:
    return {"message": message, "type": kind, "param": param, "code": code}


def _refuse(status: int, message: str, kind: str = "BadRequestError", param: str | None = None) -> web.Response:
    return web.json_response({"error": _details(status, message, kind, param)}, status=status)


def _event(payload: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(payload).encode() + b"\n\n"

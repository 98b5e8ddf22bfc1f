"""The ASGI application that serves one engine: its life, its routes, and refusals as OpenAI's error envelopes.

In: OpenAI chat-completions requests. Out: JSON or server-sent events, and whether the engine is ready. A client that
disconnects cancels the generation.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Final, Literal

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from engines.adapter_names import check_adapter, find_adapter, model_with
from engines.base import (
    CanEnd,
    CountsTokens,
    Delta,
    Engine,
    EngineEndedError,
    EngineError,
    EngineInfo,
    EngineUnavailableError,
    GenerationFailedError,
    GenerationRequest,
    HasTrouble,
    HasWaiting,
    generate,
)
from engines.http import answers, errors, models, requests
from engines.http.exits import one_line
from engines.meters import EngineMeters, EngineState, HasMeters
from engines.origin import ORIGIN, Origin

if TYPE_CHECKING:
    from engines.traces.sdk import Traces

MAX_BODY_BYTES: Final = 256 * 1024 * 1024
_PARSE_ASIDE_BYTES: Final = 1024 * 1024  # parsing more than this would hold up the other streams for milliseconds
_CLOSE_S: Final = 5.0
_RETRY_AFTER_S: Final = 1

State = Literal["loading", "ready", "failed", "stopping"]

log = logging.getLogger(__name__)


class EngineHost:
    """An engine's life in this process: loading, ready or failed, stopping.

    Args:
        engine: loaded by `run`, not before.
        traces: of this process; None keeps none.

    Attributes:
        engine: the engine.
        stopping: done as soon as running answers should be broken off. Exists while `run` does.
        is_stuck: the engine did not close in time, so a thread of it is still busy.
        loaded: set once the engine can answer.
        failed: set once the engine can answer nothing, now or ever: it cannot be loaded, or has ended by itself.
        error: why; an `EngineEndedError` if it was loaded.
    """

    stopping: asyncio.Future[None]

    def __init__(self, engine: Engine, traces: Traces | None = None) -> None:
        self.engine = engine
        self._traces = traces
        self.state: State = "loading"
        self.reason = "the engine is loading"
        self.is_stuck = False
        self.loaded = asyncio.Event()
        self.failed = asyncio.Event()
        self.error: Exception | None = None
        self._info: EngineInfo | None = None
        self._meters = EngineMeters()

    @property
    def meters(self) -> EngineMeters:
        """Count what it answers: the engine's own if it has some."""
        return self.engine.meters if isinstance(self.engine, HasMeters) else self._meters

    def stream(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        """Pass on what the engine answers, and count it."""
        if self._traces is not None and self._info is not None:
            model = model_with(self._info.model_id, request.adapter)
            return self.meters.follow(self._traces.follow(self.engine.stream, request, model, "server"), request)
        return self.meters.follow(self.engine.stream(request), request)

    @asynccontextmanager
    async def run(self, _app: Starlette | None = None) -> AsyncIterator[None]:
        """Load in the background while the block runs, and close the engine after it."""
        self.stopping = asyncio.get_running_loop().create_future()
        living = asyncio.create_task(self._live(), name="load engine")
        try:
            yield
        finally:
            self.stop()
            living.cancel()
            try:
                async with asyncio.timeout(_CLOSE_S):
                    await asyncio.gather(living, return_exceptions=True)
                    await self.engine.aclose()
            except TimeoutError:
                self.is_stuck = True
                log.warning("the engine did not close within %.0f s", _CLOSE_S)

    def stop(self) -> None:
        """Break off running answers and refuse new ones."""
        self.state, self.reason = "stopping", "the engine is shutting down"
        if not self.stopping.done():
            self.stopping.set_result(None)

    def require_ready(self) -> EngineInfo:
        """Describe the loaded engine.

        Raises:
            EngineUnavailableError: if it is not ready; the message says why.
        """
        if self.state != "ready" or self._info is None:
            raise EngineUnavailableError(f"Not ready: {self.reason}.")
        return self._info

    async def _live(self) -> None:
        await self._load()
        if self.state == "ready" and isinstance(self.engine, CanEnd):
            reason = await self.engine.ended()
            self.state, self.reason = "stopping", reason
            self.error = EngineEndedError(reason)
            self.failed.set()

    async def _load(self) -> None:
        began = time.monotonic()
        try:
            await self.engine.start()
            self._info = await self.engine.info()
        except Exception as error:  # whatever a checkpoint or a driver raises; /readyz and the process's end say it
            self.state, self.reason = "failed", f"the engine failed to load: {one_line(error)}"
            self.error = error
            log.debug("load failed", exc_info=True)
            self.failed.set()
        else:
            self.state, self.reason = "ready", ""
            self.loaded.set()
            log.info("%s is ready after %.1f s", self._info.model_id, time.monotonic() - began)


def create_app(engine: Engine) -> Starlette:
    """Make the ASGI application that serves one engine; its lifespan loads and closes the engine."""
    return app_of(EngineHost(engine))


def app_of(host: EngineHost) -> Starlette:
    """Make the application of a host that the caller keeps."""
    created = int(time.time())

    async def healthz(_request: Request) -> Response:
        return _json({"status": "ok"})

    async def readyz(_request: Request) -> Response:
        if host.state == "ready" and isinstance(host.engine, HasTrouble) and (trouble := host.engine.trouble()):
            return _json({"status": "stuck", "reason": trouble}, 503)
        status_code = {"ready": 200, "failed": 500}.get(host.state, 503)
        body: dict[str, object] = {"status": host.state, "reason": host.reason}
        if host.state == "ready" and isinstance(host.engine, HasWaiting):
            body["waiting"] = [asdict(each) for each in host.engine.waiting()]
        return _json(body, status_code)

    async def list_models(_request: Request) -> Response:
        return Response(models.to_models(host.require_ready(), created), media_type="application/json")

    async def count_tokens(request: Request) -> Response:
        info = host.require_ready()
        if not isinstance(host.engine, CountsTokens):
            raise HTTPException(404)
        generation = _with_adapter((await _read_chat(request)).generation, info)
        counted = await host.engine.count(generation)
        if counted is None:
            raise HTTPException(404)
        return _json({"input_tokens": counted.prompt_tokens, "image_tokens": counted.image_tokens})

    async def metrics(request: Request) -> Response:
        is_ready = host.state == "ready"
        state = host.engine.state() if isinstance(host.engine, HasMeters) else EngineState()
        text, content_type = host.meters.expose(state, is_ready=is_ready, accept=request.headers.get("accept", ""))
        return Response(text, headers={"content-type": content_type})

    return Starlette(
        routes=[
            Route("/v1/chat/completions", _ChatCompletions(host), methods=["POST"]),
            Route(requests.COUNT_PATH, count_tokens, methods=["POST"]),
            Route("/v1/models", list_models),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", metrics),
        ],
        exception_handlers={EngineError: _refuse_engine_error, HTTPException: _refuse_http, Exception: _refuse_crash},
        lifespan=host.run,
    )


class _ChatCompletions:
    """ASGI endpoint of ``POST /v1/chat/completions``.

    It works below Starlette's responses because it must notice a caller who hangs up before the first byte is sent.
    """

    def __init__(self, host: EngineHost) -> None:
        self._host = host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        ORIGIN.set(_origin_of(request))
        info = self._host.require_ready()
        try:
            chat = await _read_chat(request)
        except ClientDisconnect:  # hung up while still sending: nobody is left to answer
            return
        generation = replace(_with_adapter(chat.generation, info), origin=ORIGIN.get())
        head = answers.CompletionHead(
            completion_id=f"chatcmpl-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=model_with(info.model_id, generation.adapter),
            include_usage=chat.include_usage,
            has_logprobs=generation.sampling.top_logprobs is not None,
        )
        events = _EventStream(send, head, _request_id(request))
        if chat.stream:
            answering = asyncio.create_task(self._stream(generation, events))
        else:
            answering = asyncio.create_task(self._complete(generation, head, request, send))
        gone = asyncio.create_task(_wait_for_disconnect(receive))
        try:
            await asyncio.wait({answering, gone, self._host.stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            answering.cancel()
            gone.cancel()
            await asyncio.gather(answering, gone, return_exceptions=True)
        if not answering.cancelled():
            answering.result()  # raises what the engine raised before anything was sent
        elif self._host.stopping.done():
            error = EngineUnavailableError("The engine is shutting down.")
            if not events.is_started:
                raise error
            await events.fail(error)

    async def _complete(
        self, generation: GenerationRequest, head: answers.CompletionHead, request: Request, send: Send
    ) -> None:
        result = await generate(self._host, generation)
        response = Response(
            answers.to_completion(result, head),
            media_type="application/json",
            headers={"x-request-id": _request_id(request)},
        )
        await response(request.scope, request.receive, send)

    async def _stream(self, generation: GenerationRequest, events: _EventStream) -> None:
        """Send every delta; the status line waits for the first one, so that early errors have their own status."""
        try:
            is_finished = False
            async with contextlib.aclosing(self._host.stream(generation)) as deltas:
                async for delta in deltas:
                    await events.send_delta(delta)
                    is_finished = delta.finish_reason is not None
            if not is_finished:
                raise GenerationFailedError("The engine ended its answer without saying why.")
            await events.close()
        except Exception as error:
            if not events.is_started:
                raise
            if not isinstance(error, EngineError):
                log.exception("the engine failed in the middle of an answer")
                error = GenerationFailedError("The engine failed in the middle of its answer.")
            await events.fail(error)


def _with_adapter(generation: GenerationRequest, info: EngineInfo) -> GenerationRequest:
    """Return a request with its adapter's own name.

    Raises:
        UnknownAdapterError: if there is no such adapter.
    """
    wanted = generation.adapter
    found = replace(generation, adapter=find_adapter(wanted, info.adapters) or wanted)
    check_adapter(found.adapter, info)
    return found


class _EventStream:
    """The server-sent events of one answer; the status line goes out with the first."""

    def __init__(self, send: Send, head: answers.CompletionHead, request_id: str) -> None:
        self._send = send
        self._head = head
        self._request_id = request_id
        self.is_started = False

    async def send_delta(self, delta: Delta) -> None:
        events = answers.to_events(delta, self._head)
        if not self.is_started:
            self.is_started = True
            headers = {
                "content-type": "text/event-stream; charset=utf-8",
                "cache-control": "no-cache",
                "x-accel-buffering": "no",
                "x-request-id": self._request_id,
            }
            raw_headers = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
            await self._send({"type": "http.response.start", "status": 200, "headers": raw_headers})
            events = answers.to_first_event(self._head) + events
        if events:
            await self._send({"type": "http.response.body", "body": events, "more_body": True})

    async def close(self) -> None:
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def fail(self, error: EngineError) -> None:
        await self._send({"type": "http.response.body", "body": errors.to_error_event(error), "more_body": False})


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _read_chat(request: Request) -> requests.ChatRequest:
    received: list[bytes] = []
    num_bytes = 0
    async for chunk in request.stream():
        num_bytes += len(chunk)
        if num_bytes > MAX_BODY_BYTES:
            raise HTTPException(413, f"The body is too large: at most {MAX_BODY_BYTES} bytes are accepted.")
        received.append(chunk)
    body = b"".join(received)
    if num_bytes > _PARSE_ASIDE_BYTES:
        return await asyncio.to_thread(requests.from_chat_body, body, _request_id(request))
    return requests.from_chat_body(body, _request_id(request))


def _request_id(request: Request) -> str:
    """The caller's own id, or one made up at the first call."""
    if not hasattr(request.state, "request_id"):
        request.state.request_id = request.headers.get("x-request-id", "")[:128] or f"req_{uuid.uuid4().hex}"
    return str(request.state.request_id)


def _origin_of(request: Request) -> Origin:
    """Say what a call is made for: the request at the api, or the call itself where nobody says so."""
    # Header values are read as latin-1; our client sends UTF-8.
    origin_id = request.headers.get(requests.ORIGIN_HEADER, "")[:512].encode("latin-1").decode(errors="replace")
    call_id = _request_id(request)
    parent, state = request.headers.get("traceparent", "")[:256], request.headers.get("tracestate", "")[:512]
    return Origin(origin_id[:128], call_id, parent, state) if origin_id else Origin(call_id, "", parent, state)


def _json(payload: object, status_code: int = 200) -> Response:
    return Response(orjson.dumps(payload), status_code, media_type="application/json")


async def _refuse_engine_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, EngineError)
    headers = {"x-request-id": _request_id(request)}
    if error.status_code in (429, 503):
        headers["retry-after"] = str(_RETRY_AFTER_S)
    elif error.status_code >= 500 and not error.retryable:
        headers["x-should-retry"] = "false"
    body = errors.to_error(error.message, status_code=error.status_code, code=error.code, param=error.param)
    return Response(body, error.status_code, headers, "application/json")


async def _refuse_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed", 413: "request_too_large"}.get(
        error.status_code, "invalid_request"
    )
    message = error.detail
    if error.status_code in (404, 405):
        message = f"{request.method} {request.url.path}: {error.detail}."
    headers = {**(error.headers or {}), "x-request-id": _request_id(request)}
    body = errors.to_error(message, status_code=error.status_code, code=code)
    return Response(body, error.status_code, headers, "application/json")


async def _refuse_crash(request: Request, _error: Exception) -> Response:
    """Answer for a bug; uvicorn logs the traceback, since Starlette raises the error on."""
    body = errors.to_error("The engine server failed.", status_code=500, code="server_error")
    return Response(body, 500, {"x-request-id": _request_id(request)}, "application/json")

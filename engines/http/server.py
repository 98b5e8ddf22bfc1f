"""One engine behind HTTP: ``python -m engines.http.server NAME --model PATH`` or, in process, `listening`.

In: OpenAI chat-completions requests on a TCP port or a unix socket. Out: JSON or server-sent events, and whether the
engine is ready. It listens at once and loads the engine meanwhile; a caller who hangs up cancels the generation.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import importlib
import importlib.util
import logging
import os
import pkgutil
import re
import signal
import socket
import sys
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final, Literal

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send
from uvicorn.loops.auto import auto_loop_factory

import engines
from engines import echo
from engines.adapter_names import check_adapter, find_adapter, model_with, parse_adapters
from engines.base import (
    Delta,
    Engine,
    EngineError,
    EngineInfo,
    EngineOptions,
    EngineUnavailableError,
    GenerationFailedError,
    GenerationRequest,
    HasTrouble,
    HasWaiting,
    generate,
)
from engines.http import answers, errors, models, requests

DEFAULT_PORTS: Final = {"glm": 8101, "owl2": 8102}  # the same as in the router's settings
MAX_BODY_BYTES: Final = 256 * 1024 * 1024
_PARSE_ASIDE_BYTES: Final = 1024 * 1024  # parsing more than this would hold up the other streams for milliseconds
_KEEP_ALIVE_S: Final = 30  # longer than clients keep idle connections, so that none is closed as it is used again
_DRAIN_S: Final = 3
_CLOSE_S: Final = 5.0
_RETRY_AFTER_S: Final = 1

State = Literal["loading", "ready", "failed", "stopping"]

log = logging.getLogger(__name__)


class EngineHost:
    """An engine's life in this process: loading, ready or failed, stopping.

    Args:
        engine: loaded by `run`, not before.

    Attributes:
        engine: the engine.
        stopping: done as soon as running answers should be broken off. Exists while `run` does.
        is_stuck: the engine did not close in time, so a thread of it is still busy.
    """

    stopping: asyncio.Future[None]

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.state: State = "loading"
        self.reason = "the engine is loading"
        self.is_stuck = False
        self._info: EngineInfo | None = None

    @asynccontextmanager
    async def run(self, _app: Starlette | None = None) -> AsyncIterator[None]:
        """Load in the background while the block runs, and close the engine after it."""
        self.stopping = asyncio.get_running_loop().create_future()
        loading = asyncio.create_task(self._load(), name="load engine")
        try:
            yield
        finally:
            self.stop()
            loading.cancel()
            try:
                async with asyncio.timeout(_CLOSE_S):
                    await asyncio.gather(loading, return_exceptions=True)
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

    async def _load(self) -> None:
        began = time.monotonic()
        try:
            await self.engine.start()
            self._info = await self.engine.info()
        except Exception as error:  # whatever a checkpoint or a driver raises; /readyz and the log say it
            self.state, self.reason = "failed", f"the engine failed to load: {type(error).__name__}: {error}"
            log.debug("load failed", exc_info=True)
            log.error("%s", self.reason)
        else:
            self.state, self.reason = "ready", ""
            log.info("%s is ready after %.1f s", self._info.model_id, time.monotonic() - began)


def create_app(engine: Engine) -> Starlette:
    """Make the ASGI application that serves one engine; its lifespan loads and closes the engine."""
    return _create_app(EngineHost(engine))


def _create_app(host: EngineHost) -> Starlette:
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

    return Starlette(
        routes=[
            Route("/v1/chat/completions", _ChatCompletions(host), methods=["POST"]),
            Route("/v1/models", list_models),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
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
        info = self._host.require_ready()
        try:
            chat = await _read_chat(request)
        except ClientDisconnect:  # hung up while still sending: nobody is left to answer
            return
        wanted = chat.generation.adapter
        generation = replace(chat.generation, adapter=find_adapter(wanted, info.adapters) or wanted)
        check_adapter(generation.adapter, info)
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
        result = await generate(self._host.engine, generation)
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
            async with contextlib.aclosing(self._host.engine.stream(generation)) as deltas:
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


class _Uvicorn(uvicorn.Server):
    """uvicorn that ends when told, and leaves signals to whoever owns the process: `main`, or a test run."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ending = asyncio.Event()

    async def main_loop(self) -> None:
        # Its own loop wakes ten times a second, to refresh a date header that is off and to see whether to end.
        await self.ending.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def listening(
    engine: Engine, *, host: str = "127.0.0.1", port: int = 0, uds: str | Path | None = None
) -> AsyncIterator[str]:
    """Serve an engine on this event loop until the block ends.

    Args:
        engine: loaded in the background, closed at the end.
        host: address to listen on.
        port: 0 takes a free one.
        uds: path of a unix socket to listen on instead; only this user may connect to it.

    Yields:
        The base URL, connectable at once: ``http://127.0.0.1:8101`` or ``unix:///path``.

    Raises:
        OSError: if the address cannot be listened on.
    """
    async with _listening(EngineHost(engine), host, port, uds) as url:
        yield url


@asynccontextmanager
async def _listening(engine_host: EngineHost, host: str, port: int, uds: str | Path | None) -> AsyncIterator[str]:
    with _bound_socket(host, port, uds) as (listener, url):
        config = uvicorn.Config(
            _create_app(engine_host),
            lifespan="on",
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=_DRAIN_S,
        )
        server = _Uvicorn(config)
        serving = asyncio.create_task(server.serve([listener]), name="serve engine")
        try:
            yield url
        finally:
            if server.started:
                engine_host.stop()
            server.ending.set()
            await serving


@contextlib.contextmanager
def _bound_socket(host: str, port: int, uds: str | Path | None) -> Iterator[tuple[socket.socket, str]]:
    if uds is None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # The protocol is named because asyncio sends small events at once (TCP_NODELAY) only where it sees it; left at
        # 0, every answer on a kept connection takes 40 ms more.
        with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            listener.listen(2048)
            yield listener, f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        return
    path = Path(uds).absolute()
    _remove_stale_socket(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        listener.listen(2048)
        try:
            yield listener, f"unix://{path}"
        finally:
            path.unlink(missing_ok=True)


def _remove_stale_socket(path: Path) -> None:
    """Remove what a killed process left behind.

    Raises:
        OSError: if a live process listens there.
    """
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
        else:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


class DeferredEngine:
    """An engine whose module is imported, and which is made, by `start`: importing torch takes seconds.

    Args:
        load: makes the engine; called once, on another thread.
    """

    def __init__(self, load: Callable[[], Engine]) -> None:
        self._load = load
        self._loading: asyncio.Future[Engine] | None = None

    async def info(self) -> EngineInfo:
        """Describe the engine.

        Raises:
            EngineUnavailableError: before it is loaded.
        """
        return await self._engine().info()

    async def start(self) -> None:
        """Import, load and warm up."""
        self._loading = asyncio.ensure_future(asyncio.to_thread(self._load))
        engine = await asyncio.shield(self._loading)
        await engine.start()

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        """Generate an answer.

        Raises:
            EngineError: what the engine raises; `EngineUnavailableError` before it is loaded.
        """
        async with contextlib.aclosing(self._engine().stream(request)) as deltas:
            async for delta in deltas:
                yield delta

    async def aclose(self) -> None:
        """Wait for an import that is under way, since it cannot be broken off, then close what it made."""
        if self._loading is None:
            return
        with contextlib.suppress(Exception):  # `start` has raised it already
            engine = await asyncio.shield(self._loading)
            await engine.aclose()

    def _engine(self) -> Engine:
        if self._loading is None or not self._loading.done():
            raise EngineUnavailableError("The engine is loading.")
        return self._loading.result()


def load_engine(name: str, options: EngineOptions) -> Engine:
    """Make the engine that a name and a model stand for; nothing heavy is imported before its ``start``.

    Args:
        name: a folder under ``engines/`` that has an ``engine.py`` with ``load(options)``.
        options: ``model="echo"`` gives the echo engine of that name.

    Raises:
        ValueError: if there is no such engine, no such checkpoint folder or no such adapter, or if torch or, with
            adapters, peft is not installed.
    """
    if options.adapters and name != "glm":
        raise ValueError(f"engine '{name}' takes no adapters; only 'glm' does")
    if options.model == "echo":
        return echo.load(name, options)
    if name not in _engine_names():
        raise ValueError(f"there is no engine named '{name}'; there are: {', '.join(_engine_names())}")
    missing = [package for package in ("torch", "transformers") if importlib.util.find_spec(package) is None]
    if missing:
        raise ValueError(
            f"engine '{name}' needs {' and '.join(missing)}, not installed here: pip install 'glowl[engines]'"
        )
    model = Path(options.model).expanduser()
    if model.is_dir():
        if not (model / "config.json").is_file():
            raise ValueError(f"{model} is no checkpoint folder: it has no config.json")
    elif not _is_hub_id(options.model):
        raise ValueError(f"there is no checkpoint folder at {model}")

    if options.adapters and importlib.util.find_spec("peft") is None:
        raise ValueError("adapters need peft, not installed here: pip install 'glowl[adapters]'")
    for adapter, source in options.adapters:
        folder = Path(source).expanduser()
        if folder.is_dir():
            if not (folder / "adapter_config.json").is_file():
                raise ValueError(f"adapter '{adapter}': {folder} is no adapter's folder: it has no adapter_config.json")
        elif not _is_hub_id(source):
            raise ValueError(f"adapter '{adapter}': there is no folder at {folder}")

    def load() -> Engine:
        engine: Engine = importlib.import_module(f"engines.{name}.engine").load(options)
        return engine

    return DeferredEngine(load)


def _is_hub_id(name: str) -> bool:
    return re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) is not None


def _engine_names() -> list[str]:
    folders = [Path(path) for path in engines.__path__]
    packages = [module.name for module in pkgutil.iter_modules(engines.__path__) if module.ispkg]
    return [name for name in packages if any((folder / name / "engine.py").is_file() for folder in folders)]


def main(argv: Sequence[str] | None = None) -> int:
    """Run an engine server until SIGTERM or Ctrl-C.

    Returns:
        0 after a signal; 1, with one line on stderr, if it cannot start.
    """
    arguments = _parse(argv)
    logging.basicConfig(
        level=arguments.log_level.upper(),
        format=f"%(asctime)s %(levelname)s {arguments.name}: %(message)s",
        stream=sys.stderr,
    )
    # Its "Started server process" lines say nothing that ours do not.
    logging.getLogger("uvicorn").setLevel(logging.DEBUG if arguments.log_level == "debug" else logging.WARNING)
    try:
        adapters = parse_adapters(arguments.adapter)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    options = EngineOptions(
        model=arguments.model,
        device=arguments.device,
        dtype=arguments.dtype,
        attn_implementation=arguments.attn_implementation,
        max_queue=arguments.max_queue,
        max_batch=arguments.max_batch,
        cache_bytes=None if arguments.cache_mb is None else arguments.cache_mb * 2**20,
        quantization=arguments.quantization,
        adapters=adapters,
    )
    port = DEFAULT_PORTS.get(arguments.name, 8100) if arguments.port is None else arguments.port
    try:
        engine = load_engine(arguments.name, options)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    with asyncio.Runner(loop_factory=auto_loop_factory(use_subprocess=False)) as runner:
        try:
            runner.run(_serve_until_signal(engine, arguments.host, port, arguments.uds))
        except OSError as error:
            where = arguments.uds or f"{arguments.host} port {port}"
            print(f"error: cannot listen on {where}: {error.strerror or error}", file=sys.stderr)
            return 1
    return 0


async def _serve_until_signal(engine: Engine, host: str, port: int, uds: str | None) -> None:
    signalled = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, signalled.set)
    engine_host = EngineHost(engine)
    async with _listening(engine_host, host, port, uds) as url:
        log.info("listening on %s, loading the engine", url)
        await signalled.wait()
        log.info("stopping")
    if engine_host.is_stuck:
        # A thread is deep in a load or a decode step that cannot be broken off; leaving normally would wait for it.
        logging.shutdown()
        os._exit(0)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="glowl engine", description="Serve one engine over HTTP.")
    parser.add_argument("name", help="which engine: glm, owl2")
    parser.add_argument("--model", required=True, help="checkpoint folder, hub id, or 'echo' for no weights at all")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, help="port, 0 for a free one (default: 8101 for glm, 8102 for owl2)")
    parser.add_argument("--uds", help="listen on this unix socket instead of a port")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: %(default)s)")
    parser.add_argument("--dtype", default="auto", help="auto, bfloat16, float16, float32 (default: %(default)s)")
    parser.add_argument(
        "--attn-implementation", default="auto", help="auto, sdpa, eager, flash_attention_2 (default: %(default)s)"
    )
    parser.add_argument(
        "--quantization", default="none", choices=("none", "int8", "int4"), help="of the decoder (default: %(default)s)"
    )
    parser.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="NAME=FOLDER_OR_HUB_ID",
        help="a LoRA adapter, asked for as MODEL:NAME (glm only; may be given several times)",
    )
    parser.add_argument("--max-queue", type=int, default=64, help="requests that may wait (default: %(default)s)")
    parser.add_argument("--max-batch", type=int, help="requests answered side by side (default: by the device)")
    parser.add_argument("--cache-mb", type=int, help="kept for reuse between requests, MiB (default: by the memory)")
    parser.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())

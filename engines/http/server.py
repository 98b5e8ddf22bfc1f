"""One engine behind HTTP: ``python -m engines.http.server NAME --model PATH`` or, in process, `listening`.

In: a TCP port or a unix socket to listen on. Out: the application of `app.py`, served until a signal comes. It listens
at once and loads the engine meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import logging
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import uvicorn
from uvicorn.loops.auto import auto_loop_factory

from engines.adapter_names import parse_adapters
from engines.base import Engine, EngineEndedError, EngineOptions
from engines.http.address import DEFAULT_PORTS, url_host
from engines.http.app import EngineHost, app_of
from engines.http.exits import HOPELESS, exit_status, one_line
from engines.http.loading import load_engine
from engines.http.notify import notify
from engines.logs import LOG_FORMATS, start_logging
from engines.traces.start import start_traces

if TYPE_CHECKING:
    from engines.traces.sdk import Traces

_KEEP_ALIVE_S: Final = 30  # longer than clients keep idle connections, so that none is closed as it is used again
_DRAIN_S: Final = 3


log = logging.getLogger("engines.http.server")  # it is run as a program


class _Uvicorn(uvicorn.Server):
    """uvicorn that ends when told, and leaves signals to the owner of the process: `main`, or a test run."""

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
    engine: Engine,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    uds: str | Path | None = None,
    traces: Traces | None = None,
) -> AsyncIterator[str]:
    """Serve an engine on this event loop until the block ends.

    Args:
        engine: loaded in the background, closed at the end.
        host: address to listen on.
        port: 0 takes a free one.
        uds: path of a unix socket to listen on instead; only this user may connect to it.
        traces: of this process; None keeps none.

    Yields:
        The base URL, connectable at once: ``http://127.0.0.1:8101`` or ``unix:///path``.

    Raises:
        OSError: if the address cannot be listened on.
    """
    async with _listening(EngineHost(engine, traces), host, port, uds) as url:
        yield url


@asynccontextmanager
async def _listening(engine_host: EngineHost, host: str, port: int, uds: str | Path | None) -> AsyncIterator[str]:
    with _bound_socket(host, port, uds) as (listener, url):
        config = uvicorn.Config(
            app_of(engine_host),
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
            yield listener, f"http://{url_host(host)}:{listener.getsockname()[1]}"
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run an engine server until SIGTERM or Ctrl-C.

    Returns:
        0 after a signal; with one line on stderr, 1 if it cannot listen, and one of `engines.http.exits` if the engine
        cannot be had or loaded, or ends by itself.
    """
    arguments = _parse(argv)
    start_logging(arguments.name, arguments.log_level, arguments.log_format)
    # Its "Started server process" lines say nothing that ours do not.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    try:
        adapters = parse_adapters(arguments.adapter)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return HOPELESS
    options = EngineOptions(
        model=arguments.model,
        device=arguments.device,
        dtype=arguments.dtype,
        attn_implementation=arguments.attn_implementation,
        max_queue=arguments.max_queue,
        max_batch=arguments.max_batch,
        cache_bytes=None if arguments.cache_mb is None else arguments.cache_mb * 2**20,
        quantization=arguments.quantization,
        gpu_share=arguments.gpu_share,
        adapters=adapters,
        vllm_args=arguments.vllm_args,
    )
    port = DEFAULT_PORTS.get(arguments.name, 8100) if arguments.port is None else arguments.port
    try:
        engine = load_engine(arguments.name, options)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return HOPELESS
    with asyncio.Runner(loop_factory=auto_loop_factory(use_subprocess=False)) as runner:
        try:
            return runner.run(_serve(arguments, engine, port))
        except OSError as error:
            where = arguments.uds or f"{arguments.host} port {port}"
            print(f"error: cannot listen on {where}: {error.strerror or error}", file=sys.stderr)
            return 1


async def _serve(arguments: argparse.Namespace, engine: Engine, port: int) -> int:
    """Serve until a signal comes, or until the engine fails to load or ends; returns the exit status."""
    signalled = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, signalled.set)
    traces = start_traces(arguments.name)
    engine_host = EngineHost(engine, traces)
    async with _listening(engine_host, arguments.host, port, arguments.uds) as url:
        log.info("listening on %s, loading the engine", url)
        telling = asyncio.create_task(_tell_when_loaded(engine_host))
        ends = [asyncio.create_task(event.wait()) for event in (signalled, engine_host.failed)]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for task in (telling, *ends):
            task.cancel()
        log.info("stopping")
    error = None if signalled.is_set() else engine_host.error
    if error is not None:
        # The last line of the log: `glowl up` shows it.
        what = "" if isinstance(error, EngineEndedError) else f" cannot load {arguments.model}"
        print(f"error: {arguments.name}{what}: {one_line(error)}", file=sys.stderr, flush=True)
    status = 0 if error is None else exit_status(error)
    if traces is not None:
        traces.end()
    if engine_host.is_stuck:
        # A thread is deep in a load or a decode step that cannot be broken off: the event loop's end would wait for it.
        _leave(status)
    return status


async def _tell_when_loaded(engine_host: EngineHost) -> None:
    await engine_host.loaded.wait()
    notify("READY=1")


def _leave(status: int) -> NoReturn:
    """End the process at once, with its output written.

    A normal end takes every module down first: with torch 1.8 s of CPU, which on a busy machine is more time than a
    supervisor gives between SIGTERM and SIGKILL.
    """
    for child in multiprocessing.active_children():  # vLLM's would go on and keep the GPU
        child.kill()
    logging.shutdown()
    sys.stdout.flush()
    os._exit(status)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="glowl engine", description="Serve one engine over HTTP.")
    parser.add_argument("name", help="which engine: glm, owl2; owl2_vllm where glowl-owl2-vllm is installed")
    parser.add_argument(
        "--model",
        required=True,
        help="checkpoint folder, [modelscope:]ORG/NAME[@REVISION], or 'echo' for no weights at all",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    ports = ", ".join(f"{port} for {name}" for name, port in DEFAULT_PORTS.items())
    parser.add_argument("--port", type=int, help=f"port, 0 for a free one (default: {ports})")
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
        help="a LoRA adapter, asked for as MODEL:NAME (may be given several times)",
    )
    parser.add_argument("--max-queue", type=int, default=64, help="requests that may wait (default: %(default)s)")
    parser.add_argument("--max-batch", type=int, help="requests answered side by side (default: by the device)")
    parser.add_argument("--cache-mb", type=int, help="kept for reuse between requests, MiB (default: by the memory)")
    parser.add_argument(
        "--vllm-args", default="", metavar="'--ARG VALUE ...'", help="passed on to vLLM, for example tensor parallelism"
    )
    parser.add_argument(
        "--gpu-share",
        type=_share,
        metavar="FRACTION",
        default="auto",
        help="how much of the GPU this engine may take, over 0 and up to 1; auto shares it with the other model "
        "(default: %(default)s)",
    )
    parser.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    parser.add_argument(
        "--log-format", default="auto", choices=LOG_FORMATS, help="auto: human on a terminal, else json"
    )
    return parser.parse_args(argv)


def _share(text: str) -> float | None:
    try:
        share = None if text == "auto" else float(text)
    except ValueError:
        share = 0.0
    if share is not None and not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"auto, or a number over 0 and up to 1, not {text!r}")
    return share


if __name__ == "__main__":
    _leave(main())

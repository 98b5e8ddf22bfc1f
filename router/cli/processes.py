"""`glowl api`, `glowl worker`, `glowl engine`: each turns this process into one of Glowl's processes.

In: options over the environment. Out: a server or a worker that runs until SIGTERM. `glowl up` starts these same
commands, so that what compose, systemd and a laptop run is one thing.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from uuid import uuid4

import typer

from router.cli.access import has_owners, needs_owners, refuse_access
from router.cli.common import detect_language, fail, load_settings, write_atomically
from router.cli.secrets import is_for_engine, keep
from router.cli.texts import say

if TYPE_CHECKING:
    from router.settings import Settings

ENGINE_NAMES = ("glm", "owl2")
InsecureOption = Annotated[
    bool | None,
    typer.Option(
        "--insecure", help="Answer without keys on any address, as long as there are neither keys nor owners."
    ),
]


def has_engine_packages() -> bool:
    """Whether torch and transformers are installed; looks only, imports neither."""
    return find_spec("torch") is not None and find_spec("transformers") is not None


def engine_argv(name: str, **options: str | int | Path | Sequence[str] | None) -> list[str]:
    """The command that runs one engine server; options that are None are left to its own defaults, lists repeated."""
    # -P: a folder named `engines` in the user's current directory must not shadow ours.
    argv = [sys.executable, "-P", "-m", "engines.http.server", name]
    for option, given in options.items():
        values = [] if given is None else [given] if isinstance(given, str | int | Path) else given
        for value in values:
            argv += [f"--{option.replace('_', '-')}", str(value)]
    return argv


def adapters_of(name: str, settings: Settings) -> list[str]:
    """The settings' adapters for one engine, each as its option says it."""
    return [f"{adapter}={source}" for adapter, source in settings.adapters_of(name)]


def api(
    host: Annotated[str | None, typer.Option(help="Address to listen on; default GLOWL_HOST or 127.0.0.1.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port to listen on; default GLOWL_PORT or 8000.")
    ] = None,
    insecure: InsecureOption = None,
) -> None:
    """Serve the public API (needs redis and the engine servers to answer anything)."""
    settings = load_settings()
    given = (("host", host), ("port", port), ("insecure", insecure))
    settings = settings.model_copy(update={name: value for name, value in given if value is not None})
    # Without redis it is not known: then the api starts, and refuses until it is.
    if needs_owners(settings) and asyncio.run(has_owners(settings.redis_url)) is False:
        fail(refuse_access(settings, detect_language()), code=2)

    from engines.http.address import url_host
    from engines.logs import start_logging
    from engines.traces.start import start_traces
    from policies.rules import RulesError
    from router.allocator import keep_freed_memory
    from router.app import create_app
    from router.serve import ApiServer
    from router.settings import SettingsError

    keep_freed_memory()
    start_logging("api", settings.log_level_of("api"), settings.log_format)
    try:
        app = create_app(settings, start_traces("api"))
    except RulesError as error:
        fail(f"GLOWL_PRESET: {error}", code=2)
    except SettingsError as error:
        fail(str(error), code=2)
    server = ApiServer(app, settings)
    # What is there by now stays. A full collection that looks through it stops everybody for tens of milliseconds.
    gc.collect()
    gc.freeze()
    # Uvicorn shuts down and then raises the signal again; a requested stop is no error.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server.run()
    if not server.started:
        fail(f"the api could not start on {url_host(settings.host)}:{settings.port}; the lines above say why")


class ReadySign:
    """The file that says that a worker is ready, by its pid, and that it is alive, by being touched.

    Args:
        path: where it is.

    Attributes:
        problem: why it could not be written, for the user; empty if it could.
    """

    def __init__(self, path: Path) -> None:
        self.problem = ""
        self._path = path

    def clear(self) -> None:
        """Empty the file: what an earlier worker left there may name a pid that is ours now.

        Raises:
            typer.Exit: after one line, if it cannot be written: without it nobody would ever take the worker for ready.
        """
        try:
            write_atomically(self._path, "")
        except OSError as error:
            fail(f"cannot write {self._path}: {error.strerror}; give --ready-file a place this user can write to")

    def write(self, **_: object) -> None:
        """Say that the worker is ready; one that cannot, ends."""
        try:
            write_atomically(self._path, f"{os.getpid()}\n")
        except OSError as error:
            self.problem = f"cannot write {self._path}: {error.strerror}; stopping"
            os.kill(os.getpid(), signal.SIGTERM)

    def touch(self) -> None:
        """Say that the worker is alive."""
        with contextlib.suppress(OSError):  # gone, or the disk is full: the caller handles both
            os.utime(self._path)


def worker(
    ready_file: Annotated[
        Path | None, typer.Option(help="Write this process's id here once jobs are being taken from the queue.")
    ] = None,
    queues: Annotated[
        str | None,
        typer.Option(
            help="Take only these, comma-separated: glm, owl2 (what asks them), light (other merges), webhooks"
        ),
    ] = None,
) -> None:
    """Run the job worker (Celery): branches, merges, webhooks."""
    settings = load_settings()

    from celery.signals import worker_ready
    from celery.worker import state

    from engines.logs import start_logging
    from engines.traces.start import start_traces
    from router.jobs.queue import QUEUES, queue_name
    from router.worker import create_worker, log_redis_in_one_line

    taken = [queue_name(name.strip()) for name in queues.split(",")] if queues else list(QUEUES)
    if unknown := sorted(set(taken) - set(QUEUES)):
        raise typer.BadParameter(f"{', '.join(unknown)}: choose from glm, owl2, light, webhooks", param_hint="--queues")

    sign = ReadySign(ready_file) if ready_file is not None else None
    if sign is not None:
        sign.clear()
        worker_ready.connect(sign.write, weak=False)
    start_logging("worker", settings.log_level_of("worker"), settings.log_format, adapt=log_redis_in_one_line)
    try:
        app = create_worker(settings, on_beat=None if sign is None else sign.touch, traces=start_traces("worker"))
    except OSError as error:
        fail(f"GLOWL_WORKER_METRICS: {error.strerror or error}")
    run: Callable[[list[str]], object] = app.worker_main  # celery's own types say that it never returns
    try:
        run(
            [
                "--quiet",  # its banner is no line of a log
                "worker",
                # Tasks only wait for engines and redis: threads are enough, and nothing forks.
                "--pool=threads",
                f"--concurrency={settings.worker_concurrency}",
                f"--queues={','.join(taken)}",
                f"--hostname=glowl-{os.getpid()}-{uuid4().hex[:6]}@%h",
                "--without-gossip",
                "--without-mingle",
            ]
        )
    finally:
        if sign is not None and sign.problem:
            fail(sign.problem)
    if state.should_stop:  # not 0, as after a signal: its consumer is dead, and a supervisor starts another
        raise typer.Exit(1)


def engine(
    name: Annotated[str, typer.Argument(metavar="glm|owl2", help="Which engine.")],
    model: Annotated[
        str,
        typer.Option(
            metavar="FOLDER|[modelscope:]ORG/NAME[@REVISION]|echo",
            help="A checkpoint folder, a model on the Hugging Face hub or ModelScope, or `echo` for no weights.",
        ),
    ],
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port to listen on.")] = None,
    uds: Annotated[Path | None, typer.Option(help="Listen on this unix socket instead.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, bfloat16, float16 or float32.")] = None,
    attn_implementation: Annotated[str | None, typer.Option(help="auto, sdpa, eager or flash_attention_2.")] = None,
    quantization: Annotated[str | None, typer.Option(help="none, int8 or int4: fewer bits for the decoder.")] = None,
    max_queue: Annotated[int | None, typer.Option(min=1, help="Requests that may wait before 429.")] = None,
    max_batch: Annotated[int | None, typer.Option(min=1, help="Requests answered side by side.")] = None,
    cache_mb: Annotated[int | None, typer.Option(min=0, help="Kept for reuse between requests, MiB.")] = None,
    gpu_share: Annotated[
        str | None,
        typer.Option(metavar="FRACTION|auto", help="How much of the GPU it may take; auto shares it with the other."),
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FOLDER_OR_HUB_ID",
            help="A LoRA adapter, asked for as MODEL:NAME; may be given several times; "
            "default GLOWL_GLM_ADAPTERS or GLOWL_OWL2_ADAPTERS.",
        ),
    ] = None,
) -> None:
    """Serve one engine: it owns one model's weights and speaks the OpenAI chat wire."""
    if name not in ENGINE_NAMES:
        raise typer.BadParameter(f"{name!r} is neither 'glm' nor 'owl2'", param_hint="NAME")
    if model != "echo" and not has_engine_packages():
        fail(say("engines.missing", detect_language()))
    settings = load_settings()
    argv = engine_argv(
        name,
        model=model,
        host=host,
        port=port,
        uds=uds,
        device=device,
        dtype=dtype,
        attn_implementation=attn_implementation,
        quantization=quantization,
        max_queue=max_queue,
        max_batch=max_batch,
        cache_mb=cache_mb,
        gpu_share=gpu_share,
        adapter=adapter or adapters_of(name, settings),
        log_level=settings.log_level_of(name).lower(),
        log_format=settings.log_format,
    )
    # A new process image, because torch must never be loaded into the command line's own.
    os.execve(argv[0], argv, keep(os.environ, is_for_engine))  # noqa: S606

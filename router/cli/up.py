"""`glowl up`: the whole product on one machine, nothing configured.

In: options and the environment. Out: redis, both engines, worker, api and ui as children of this process, one line per
event, a banner once all are ready. Everything that can be refused is refused before the first child starts.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Literal

import typer

from engines.adapter_names import lacks_adapter
from router.cli import models, secrets
from router.cli.common import (
    Language,
    LanguageOption,
    command_name,
    fail,
    load_settings,
    parse_language,
    write_atomically,
)
from router.cli.net import (
    PortInUseError,
    base_url,
    check_port,
    free_port,
    http_get,
    http_status,
    is_loopback,
    local_address,
)
from router.cli.policy import load_preset_or_file
from router.cli.processes import engine_argv, has_engine_packages
from router.cli.redis_check import look_at
from router.cli.redis_server import (
    RedisMissingError,
    find_redis,
    ping,
    redis_argv,
    redis_url,
    replies,
)
from router.cli.samples import default_sample
from router.cli.supervisor import Event, ProcessSpec, Supervisor, guarded_argv
from router.cli.texts import say
from router.redis_address import shown

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status

    from router.settings import Settings

UI_PORT = 7860
# The api looks at its engines every second.
ENGINES_SEEN_TIMEOUT_S = 10.0
UP_DRAIN_S = 2.0
# How long one look at a child that was ready may take; a busy machine answers the next one.
ALIVE_TIMEOUT_S = 5.0
# From the end of the drain to the end of the process: webhooks under way, and closing down.
STOP_MARGIN_S = 8.0
# Whatever waits for an engine has a worker of its own: one that hangs takes all places of that worker, and no others.
WORKERS = {"worker": "glm", "worker-owl2": "owl2", "worker-light": "light,webhooks"}
# Enough for the lock, the pid files and the first lines of the logs.
_PROBE_BYTES = 64 * 1024
# Left free beside a download: caches, logs, the system itself.
DISK_MARGIN_BYTES = 2 * models.GB


def up(
    host: Annotated[str | None, typer.Option(help="Address the api listens on; default 127.0.0.1.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port the api listens on; default 8000; 0: any free one.")
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where models, redis files and logs are kept.")] = None,
    ui: Annotated[bool, typer.Option("--ui/--no-ui", help="Start the browser interface where it is installed.")] = True,
    model_choice: Annotated[
        str | None,
        typer.Option("--models", metavar="pocket|random|echo|full", help="Which weights; default: the best at hand."),
    ] = None,
    quantization: Annotated[
        Literal["none", "int8", "int4"] | None,
        typer.Option(help="Fewer bits for both decoders, where `glowl doctor` says that only these fit."),
    ] = None,
    ready_file: Annotated[
        Path | None, typer.Option(help="Write the base URL here once everything is ready; removed at the end.")
    ] = None,
    lang: LanguageOption = None,
) -> None:
    """Start everything on this machine; Ctrl-C stops it."""
    language = parse_language(lang)
    settings = load_settings()
    settings = settings.model_copy(
        update={
            "host": settings.host if host is None else host,
            "port": settings.port if port is None else port,
            "data_dir": (settings.data_dir if data_dir is None else data_dir).expanduser().resolve(),
        }
    )
    # The api alone reads the rules; it would be started again and again.
    load_preset_or_file(settings.preset, variable="GLOWL_PRESET")
    choice = _parse_choice(model_choice, language)
    layout = Layout(settings.data_dir)
    layout.make(language)
    with _locked(layout, settings, language):
        settings = _with_checked_port(settings, language)
        plan = _prepare_models(
            choice,
            layout,
            language,
            elsewhere=settings.named_engines,
            adapters=() if "glm" in settings.named_engines else settings.glm_adapters,
        )
        specs = build_specs(settings, layout, plan, wants_ui=ui, language=language, quantization=quantization)
        if ready_file is not None:
            ready_file.unlink(missing_ok=True)
        if not is_loopback(settings.host) and not settings.api_keys:
            typer.echo(say("up.open", language, host=settings.host), err=True)
        try:
            code = asyncio.run(_supervise(specs, settings, layout, plan, ready_file, language))
        finally:
            if ready_file is not None:
                ready_file.unlink(missing_ok=True)
    raise typer.Exit(code)


@dataclass(frozen=True, slots=True)
class Layout:
    """The folders of one data directory."""

    data_dir: Path

    @property
    def run_dir(self) -> Path:
        """Sockets, pid files, the lock."""
        return self.data_dir / "run"

    @property
    def log_dir(self) -> Path:
        """One file per process."""
        return self.data_dir / "logs"

    @property
    def redis_dir(self) -> Path:
        """The append-only file."""
        return self.data_dir / "redis"

    def worker_ready(self, name: str) -> Path:
        """The file that holds the pid of the worker of that name that last became ready."""
        return self.run_dir / f"{name}.ready"

    def make(self, language: Language) -> None:
        """Create the folders, and make sure that each can be written to.

        Raises:
            typer.Exit: after one line, if one cannot: no child could start, and each would say so at length.
        """
        for directory in (self.data_dir, self.run_dir, self.log_dir, self.redis_dir):
            try:
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                # Folders that are there may be on a disk that is full, or mounted read-only since.
                with tempfile.TemporaryFile(dir=directory) as probe:
                    probe.write(bytes(_PROBE_BYTES))
            except OSError as error:
                fail(say("up.data_dir", language, path=directory, reason=error.strerror))


def _parse_choice(value: str | None, language: Language) -> models.ModelChoice:
    if value is None:
        return models.default_choice()
    for choice in models.MODEL_CHOICES:
        if choice == value:
            return choice
    fail(say("up.models.unknown", language, value=value), code=2)


@contextmanager
def _locked(layout: Layout, settings: Settings, language: Language) -> Iterator[IO[str]]:
    """Hold the data directory for this process; the kernel lets go when the process ends, however it ends."""
    path = layout.run_dir / "up.lock"
    with path.open("a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            holder = lock.read().strip() or "?"
            fail(say("up.locked", language, holder=holder, data_dir=layout.data_dir))
        _describe_holder(lock, settings)
        yield lock


def _describe_holder(lock: IO[str], settings: Settings) -> None:
    lock.seek(0)
    lock.truncate()
    lock.write(f"pid {os.getpid()}")
    if settings.port:
        lock.write(f", {base_url(settings.host, settings.port)}")
    lock.flush()


def _with_checked_port(settings: Settings, language: Language) -> Settings:
    try:
        if settings.port == 0:
            return settings.model_copy(update={"port": free_port(settings.host)})
        check_port(settings.host, settings.port)
    except PortInUseError as error:
        fail(say("up.port", language, where=error))
    return settings


def _prepare_models(
    choice: models.ModelChoice,
    layout: Layout,
    language: Language,
    *,
    elsewhere: Collection[str] = (),
    adapters: Sequence[tuple[str, str]] = (),
) -> models.ModelPlan:
    """Make sure that the engines will find what they are told to load; those that run elsewhere need nothing.

    Raises:
        typer.Exit: after one line, if they could not.
    """
    if choice == "echo" or set(models.ENGINE_NAMES) <= set(elsewhere):
        return models.plan(choice, layout.data_dir)
    if not has_engine_packages():
        fail(say("up.engines.missing", language))
    if adapters and find_spec("peft") is None:
        fail(say("up.adapters.missing", language))
    for name, source in adapters:
        if lacks_adapter(source):
            fail(say("up.adapter.nowhere", language, name=name, source=source))
    if choice == "pocket" and not models.has_checkpoints(models.pocket_dir()):
        fail(say("up.pocket.missing", language))
    if choice == "random" and not models.has_checkpoints(models.random_dir(layout.data_dir)):
        _make_random(layout, language)
    if choice == "full":
        return models.plan(choice, layout.data_dir, num_gpus=_check_full(language, elsewhere))
    return models.plan(choice, layout.data_dir)


def _make_random(layout: Layout, language: Language) -> None:
    directory = models.random_dir(layout.data_dir)
    typer.echo(say("up.random.making", language, directory=directory))
    # Made beside its place and moved there whole: an interrupted start leaves nothing half made.
    unfinished = directory.with_name(f".{directory.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    log = layout.log_dir / "random_tiny.log"
    argv = [sys.executable, "-P", "-m", "engines.pocket.random_tiny", str(unfinished)]
    with log.open("wb") as output:
        made = subprocess.run(  # noqa: S603
            guarded_argv(argv, signal.SIGKILL),
            stdout=output,
            stderr=output,
            env=secrets.keep(os.environ, secrets.is_for_other),
            check=False,
        )
    if made.returncode != 0 or not models.has_checkpoints(unfinished):
        fail(say("up.random.failed", language, log=log))
    shutil.rmtree(directory, ignore_errors=True)
    unfinished.rename(directory)


def _check_full(language: Language, elsewhere: Collection[str]) -> int:
    """Say what ``--models full`` will download and refuse what cannot fit; returns the number of GPUs."""
    from router.cli.torch_probe import probe_torch

    cache = models.hub_cache_dir()
    missing = {
        name: models.bytes_to_download(model, cache)
        for name, model in models.FULL_MODELS.items()
        if name not in elsewhere
    }
    size = sum(missing.values())
    if size == 0:
        typer.echo(say("up.full.present", language, cache=cache))
    else:
        free = shutil.disk_usage(models.existing_parent(cache)).free
        sizes = {"size_gb": size / models.GB, "free_gb": free / models.GB, "cache": cache}
        if free < size + DISK_MARGIN_BYTES:
            fail(say("up.full.disk", language, **sizes))
        parts = " + ".join(
            f"{models.FULL_MODELS[name].hub_id} {num_bytes / models.GB:.1f} GB"
            for name, num_bytes in missing.items()
            if num_bytes
        )
        typer.echo(say("up.full.download", language, parts=parts, **sizes))
    gpus = probe_torch().gpus
    if not gpus:
        typer.echo(say("up.full.cpu", language), err=True)
    elif not elsewhere and len(gpus) == 1 and gpus[0][1] < models.FULL_MEMORY_GB * models.GB:
        gpu, memory = gpus[0]
        need_gb = models.FULL_MEMORY_GB
        typer.echo(say("up.full.memory", language, gpu=gpu, memory_gb=memory / models.GB, need_gb=need_gb), err=True)
    return len(gpus)


def build_specs(
    settings: Settings,
    layout: Layout,
    plan: models.ModelPlan,
    *,
    wants_ui: bool,
    language: Language,
    quantization: str | None = None,
) -> list[ProcessSpec]:
    """Turn settings into the processes to run, in the order in which they are shown.

    Raises:
        typer.Exit: after one line, if there is no redis to be had.
    """
    try:
        redis = find_redis()
    except RedisMissingError as error:
        fail(str(error))
    specs: list[ProcessSpec] = []
    if redis.binary is None:
        used_redis_url = redis.url
        found = asyncio.run(look_at(used_redis_url))
        if found.problem:
            fail(f"REDIS_URL: {say(found.problem, language, url=shown(used_redis_url), detail=found.detail)}")
    else:
        redis_address = local_address(layout.run_dir / "redis.sock")
        used_redis_url = redis_url(redis_address)
        specs.append(
            ProcessSpec(
                name="redis",
                argv=redis_argv(redis.binary, redis_address, layout.redis_dir),
                is_ready=_answers_ping(used_redis_url),
                is_alive=_replies(used_redis_url),
                inherits=secrets.is_for_other,
                layer=0,
                # It writes its file out on SIGTERM; nothing else may cut that short.
                death_signal=signal.SIGTERM,
            )
        )
    elsewhere = settings.named_engines
    addresses = {name: local_address(layout.run_dir / f"{name}.sock") for name in models.ENGINE_NAMES}
    env = {
        "REDIS_URL": used_redis_url,
        "GLOWL_GLM_URL": settings.glm_url if "glm" in elsewhere else addresses["glm"].url,
        "GLOWL_OWL2_URL": settings.owl2_url if "owl2" in elsewhere else addresses["owl2"].url,
        "GLOWL_DATA_DIR": str(layout.data_dir),
        "GLOWL_HOST": settings.host,
        "GLOWL_PORT": str(settings.port),
    }
    # Whoever presses Ctrl-C waits; and what is handed back then is run at the next start.
    is_set = settings.model_fields_set
    drain_s = settings.drain_s if "drain_s" in is_set else UP_DRAIN_S
    notice_s = settings.drain_notice_s if "drain_notice_s" in is_set else 0.0
    env |= {"GLOWL_DRAIN_S": f"{drain_s:g}", "GLOWL_DRAIN_NOTICE_S": f"{notice_s:g}"}
    stop_timeout_s = drain_s + notice_s + STOP_MARGIN_S
    for name, address in addresses.items():
        if name in elsewhere:
            continue
        listen: dict[str, str | int | Path | None] = (
            {"uds": address.uds} if address.uds is not None else {"host": "127.0.0.1", "port": address.port}
        )
        adapters = settings.glm_adapters if name == "glm" else ()
        argv = engine_argv(
            name,
            model=plan.models[name],
            device=plan.devices.get(name),
            quantization=quantization,
            adapter=[f"{adapter}={source}" for adapter, source in adapters],
            **listen,
        )
        specs.append(
            ProcessSpec(
                name,
                tuple(argv),
                is_ready=_answers_ok(address.url, "/readyz"),
                is_alive=_answers(address.url, "/healthz"),
                inherits=secrets.is_for_engine,
            )
        )
    glowl = (sys.executable, "-P", "-m", "router.cli")
    for name, queues in WORKERS.items():
        ready = layout.worker_ready(name)
        argv = [*glowl, "worker", "--queues", queues, "--ready-file", str(ready)]
        specs.append(
            ProcessSpec(
                name,
                tuple(argv),
                is_ready=_file_names_pid(ready),
                is_alive=_is_touched(ready),
                env=env,
                inherits=secrets.is_for_worker,
                layer=2,
                stop_timeout_s=stop_timeout_s,
            )
        )
    api_url = base_url(settings.host, settings.port)
    specs.append(
        ProcessSpec(
            "api",
            (*glowl, "api"),
            is_ready=_answers_ok(api_url, "/healthz"),
            is_alive=_answers(api_url, "/healthz"),
            env=env,
            inherits=secrets.is_for_api,
            layer=3,
            stop_timeout_s=stop_timeout_s,
        )
    )
    if wants_ui and has_ui():
        specs.append(_ui_spec(api_url))
    return specs


def has_ui() -> bool:
    """Whether this installation carries the browser interface and what it needs."""
    return find_spec("gradio") is not None and find_spec("router.ui") is not None


def _ui_spec(api_url: str) -> ProcessSpec:
    try:
        check_port("127.0.0.1", UI_PORT)
        port = UI_PORT
    except PortInUseError:
        port = free_port("127.0.0.1")
    ui_env = {
        "GLOWL_URL": api_url,
        "GRADIO_SERVER_NAME": "127.0.0.1",
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_ANALYTICS_ENABLED": "False",
    }
    argv = (sys.executable, "-P", "-m", "router.ui")
    url = base_url("127.0.0.1", port)
    return ProcessSpec(
        "ui",
        argv,
        is_ready=_answers_ok(url, "/"),
        is_alive=_answers(url, "/"),
        env=ui_env,
        inherits=secrets.is_for_other,
        layer=3,
    )


Probe = Callable[[int], Awaitable[bool]]


def _answers_ping(url: str) -> Probe:
    async def is_ready(_pid: int) -> bool:
        return await ping(url) is not None

    return is_ready


def _answers_ok(url: str, path: str) -> Probe:
    async def is_ready(_pid: int) -> bool:
        return await http_status(url, path) == 200

    return is_ready


def _answers(url: str, path: str) -> Probe:
    """Whether a server says anything at all: a 503 is the answer of a process that is alive."""

    async def is_alive(_pid: int) -> bool:
        return await http_status(url, path, timeout_s=ALIVE_TIMEOUT_S) is not None

    return is_alive


def _replies(url: str) -> Probe:
    async def is_alive(_pid: int) -> bool:
        return await replies(url, timeout_s=ALIVE_TIMEOUT_S)

    return is_alive


def _is_touched(path: Path) -> Probe:
    """Whether a file changes between two looks; times are compared with each other, never with a clock."""
    seen: dict[int, int] = {}

    async def is_alive(pid: int) -> bool:
        for _ in range(10):
            with suppress(OSError):
                changed = path.stat().st_mtime_ns  # noqa: ASYNC240
                if seen.get(pid) != changed:
                    seen.clear()
                    seen[pid] = changed
                    return True
            await asyncio.sleep(ALIVE_TIMEOUT_S / 10)
        return False

    return is_alive


async def _until_engines_are_seen(url: str) -> None:
    """Wait until the api itself has noticed both engines: it looks once a second, and they may just have come up."""
    deadline = asyncio.get_running_loop().time() + ENGINES_SEEN_TIMEOUT_S
    while asyncio.get_running_loop().time() < deadline:
        answer = await http_get(url, "/readyz")
        if answer is not None and set(json.loads(answer[1])["engines"].values()) == {"up"}:
            return
        await asyncio.sleep(0.1)


def _file_names_pid(path: Path) -> Probe:
    # The pid tells this run's file from one that an earlier, killed worker left behind.
    async def is_ready(pid: int) -> bool:
        try:
            return path.read_text(encoding="utf-8").strip() == str(pid)  # noqa: ASYNC240
        except OSError:
            return False

    return is_ready


async def _supervise(
    specs: list[ProcessSpec],
    settings: Settings,
    layout: Layout,
    plan: models.ModelPlan,
    ready_file: Path | None,
    language: Language,
) -> int:
    from rich.console import Console

    console = Console(highlight=False)
    details = {name: f"{name} = {model}" for name, model in plan.models.items()}
    screen = Screen(console, [spec.name for spec in specs], layout.log_dir, details, language)
    supervisor = Supervisor(specs, run_dir=layout.run_dir, log_dir=layout.log_dir, on_event=screen.show)
    url = base_url(settings.host, settings.port)
    ui = next((spec for spec in specs if spec.name == "ui"), None)
    ui_url = base_url("127.0.0.1", int(ui.env["GRADIO_SERVER_PORT"])) if ui is not None else None

    async def announce() -> None:
        await _until_engines_are_seen(url)
        needs_key = bool(settings.api_keys)
        for line in banner(url, ui_url, plan.choice, layout.data_dir, language, needs_key=needs_key):
            screen.line(line)
        if ready_file is not None:
            write_atomically(ready_file, url + "\n")

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Under nohup a closing terminal is no reason to stop.
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            loop.add_signal_handler(number, supervisor.request_stop)
    screen.begin()
    try:
        return await supervisor.run(announce)
    finally:
        screen.end()
        for name in WORKERS:
            layout.worker_ready(name).unlink(missing_ok=True)


def banner(
    url: str, ui_url: str | None, choice: str, data_dir: Path, language: Language, *, needs_key: bool = False
) -> list[str]:
    """The lines shown once everything is ready; the examples can be copied as they stand."""
    is_pocket = choice == "pocket"
    question = say("up.banner.question.pocket" if is_pocket else "up.banner.question", language)
    body = f'{{"model":"glowl","messages":[{{"role":"user","content":"{question}"}}]}}'
    key = " -H 'Authorization: Bearer YOUR_KEY'" if needs_key else ""
    curl = f"curl {url}/v1/chat/completions{key} -H 'Content-Type: application/json' -d {shlex.quote(body)}"
    sample = default_sample(language)
    ask = f"{command_name()} ask " + (f"--sample {sample.name}" if sample else shlex.quote(question))
    if url != base_url("127.0.0.1", 8000):
        ask += f" --url {url}"
    if needs_key:
        ask += " --api-key YOUR_KEY"
    lines = ["", say("up.banner", language, url=url, models=choice, data_dir=data_dir)]
    if ui_url is not None:
        lines.append(f"{say('up.banner.ui', language)} {ui_url}")
    return [*lines, say("up.banner.try", language), f"  {curl}", f"  {ask}", ""]


class Screen:
    """Draws events: plain lines always, and on a terminal a spinner naming what is still starting."""

    def __init__(
        self, console: Console, names: list[str], log_dir: Path, details: dict[str, str], language: Language
    ) -> None:
        self._console = console
        self._waiting = list(names)
        self._log_dir = log_dir
        self._details = details
        self._language = language
        self._status: Status | None = None

    def begin(self) -> None:
        """Show the spinner, on a terminal."""
        if self._console.is_terminal:
            self._status = self._console.status(self._waiting_text())
            self._status.start()

    def end(self) -> None:
        """Take the spinner away."""
        if self._status is not None:
            self._status.stop()
            self._status = None

    def line(self, text: str) -> None:
        """Print one line as it is: never wrapped, so that it can be copied, and never read as markup."""
        # Redirected to a file on a full disk: that must not end what runs.
        with suppress(OSError):
            self._console.print(text, markup=False, soft_wrap=True)

    def show(self, event: Event) -> None:
        """Draw one event."""
        language = self._language
        values: dict[str, object] = {"name": event.name, "seconds": event.seconds, "log": event.log_path}
        if event.exit_code is not None:
            values["how"] = exit_text(event.exit_code, language)
        elif event.reason:
            values["how"] = say("up.unstartable", language, reason=event.reason)
        match event.kind:
            case "ready":
                detail = self._details.get(event.name, "")
                self.line(say("up.ready", language, detail=detail, **values).rstrip())
                self._now_waiting(without=event.name)
            case "hung":
                self.line(say("up.hung", language, **values))
            case "starting":
                self.line(say("up.starting", language, logs=self._log_dir, **values))
            case "died" | "gave_up":
                self.line(say(f"up.{event.kind}", language, **values))
                for line in event.log_tail:
                    self.line(f"    {line}")
                if event.kind == "gave_up":
                    self.line(say("up.gave_up.ends", language, name=event.name))
            case "all_ready":
                self.end()
            case "disk_low":
                self.line(say("up.disk_low", language, free_gb=event.free_bytes / models.GB, logs=self._log_dir))
            case "stopping" | "killing" | "stopped":
                self.end()
                self.line(say(f"up.{event.kind}", language))

    def _now_waiting(self, *, without: str) -> None:
        self._waiting = [name for name in self._waiting if name != without]
        if self._status is not None:
            self._status.update(self._waiting_text())

    def _waiting_text(self) -> str:
        return say("up.waiting", self._language, names=", ".join(self._waiting))


def exit_text(exit_code: int, language: Language) -> str:
    """``exit status 1`` or ``ended by SIGKILL``."""
    if exit_code >= 0:
        return say("up.exit", language, code=exit_code)
    name = str(-exit_code)
    with suppress(ValueError):
        name = signal.Signals(-exit_code).name
    return say("up.signal", language, signal=name)

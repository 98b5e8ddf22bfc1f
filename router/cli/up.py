"""`glowl up`: the whole product on one machine, nothing configured.

In: options and the environment. Out: redis, both engines, worker and api as children of this process, one line per
event, a banner once all are ready. Everything that can be refused is refused before the first child starts.
"""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from engines.hub.names import Hub
from router.cli import models
from router.cli.access import check_tokens, has_owners, needs_owners, refuse_access
from router.cli.common import Language, LanguageOption, fail, load_settings, parse_language, write_atomically
from router.cli.data_folder import Layout, locked
from router.cli.full_models import Sources
from router.cli.model_setup import parse_choice, prepare_models
from router.cli.net import PortInUseError, base_url, check_port, free_port, http_get, http_status
from router.cli.policy import load_preset_or_file, score_as_set
from router.cli.processes import InsecureOption
from router.cli.screen import Screen, banner
from router.cli.specs import UI_PORT, WORKERS, build_specs
from router.cli.supervision import ProcessSpec
from router.cli.supervisor import Supervisor
from router.cli.texts import say
from router.cli.vllm import choose_vllm

if TYPE_CHECKING:
    from router.settings import Settings

# The api looks at its engines every second.
ENGINES_SEEN_TIMEOUT_S = 10.0


def up(
    host: Annotated[str | None, typer.Option(help="Address the api listens on; default 127.0.0.1.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port the api listens on; default 8000; 0: any free one.")
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where models, redis files and logs are kept.")] = None,
    ui: Annotated[
        bool, typer.Option("--ui/--no-ui", help="Show the page's address, and serve it on port 7860 too.")
    ] = True,
    model_choice: Annotated[
        str | None,
        typer.Option("--models", metavar="pocket|random|echo|full", help="Which weights; default: the best at hand."),
    ] = None,
    quantization: Annotated[
        Literal["none", "int8", "int4"] | None,
        typer.Option(help="Fewer bits for both decoders, where `glowl doctor` says that only these fit."),
    ] = None,
    hub: Annotated[Hub | None, typer.Option(help="Where --models full downloads from; default: as last time.")] = None,
    glm: Annotated[Path | None, typer.Option(metavar="DIR", help="GLM from this folder of yours.")] = None,
    owl2: Annotated[Path | None, typer.Option(metavar="DIR", help="mPLUG-Owl2 from this folder of yours.")] = None,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Download the full models also if this machine cannot run them.")
    ] = False,
    insecure: InsecureOption = None,
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
            "insecure": settings.insecure if insecure is None else insecure,
            "data_dir": (settings.data_dir if data_dir is None else data_dir).expanduser().resolve(),
        }
    )
    # The api alone reads these; it would be started again and again.
    load_preset_or_file(score_as_set(settings).preset, variable="GLOWL_PRESET")
    check_tokens(settings)
    choice = parse_choice(model_choice, language)
    layout = Layout(settings.data_dir)
    layout.make(language)
    url = base_url(settings.host, settings.port) if settings.port else None
    with locked(layout, url, language):
        settings = _with_ui_port(_with_checked_port(settings, language), wants_ui=ui)
        plan = prepare_models(
            choice,
            layout,
            language,
            elsewhere=settings.named_engines,
            adapters={
                engine: settings.adapters_of(engine)
                for engine in models.ENGINE_NAMES
                if engine not in settings.named_engines
            },
            sources=Sources(
                hub=hub,
                folders={
                    name: folder.expanduser().resolve()
                    for name, folder in (("glm", glm), ("owl2", owl2))
                    if folder is not None
                },
                quantization=quantization or "none",
                is_anyway=anyway,
            ),
        )
        vllm = choose_vllm(settings, plan, language, quantization=quantization)
        specs = build_specs(settings, layout, plan, language=language, quantization=quantization, vllm=vllm)
        if ready_file is not None:
            ready_file.unlink(missing_ok=True)
        if settings.insecure and not settings.is_only_local and not settings.asks_for_keys:
            typer.echo(say("up.open", language, host=settings.host), err=True)
        try:
            code = asyncio.run(_supervise(specs, settings, layout, plan, ready_file, language, wants_ui=ui))
        finally:
            layout.redis_url_path.unlink(missing_ok=True)
            if ready_file is not None:
                ready_file.unlink(missing_ok=True)
    raise typer.Exit(code)


def _with_checked_port(settings: Settings, language: Language) -> Settings:
    try:
        if settings.port == 0:
            return settings.model_copy(update={"port": free_port(settings.host)})
        check_port(settings.host, settings.port)
    except PortInUseError as error:
        fail(say("up.port", language, where=error))
    return settings


def _with_ui_port(settings: Settings, *, wants_ui: bool) -> Settings:
    """Give the page its usual port, unless the settings name one or somebody else listens there."""
    if not wants_ui:
        return settings.model_copy(update={"ui_port": 0})
    port = settings.ui_port if "ui_port" in settings.model_fields_set else UI_PORT
    try:
        check_port(settings.host, port)
    except PortInUseError:
        port = 0
    return settings.model_copy(update={"ui_port": port})


async def _until_engines_are_seen(url: str) -> None:
    """Wait until the api itself has noticed both engines: it looks once a second, and they may just have come up."""
    deadline = asyncio.get_running_loop().time() + ENGINES_SEEN_TIMEOUT_S
    while asyncio.get_running_loop().time() < deadline:
        answer = await http_get(url, "/readyz")
        if answer is not None and set(json.loads(answer[1])["engines"].values()) == {"up"}:
            return
        await asyncio.sleep(0.1)


async def _supervise(
    specs: list[ProcessSpec],
    settings: Settings,
    layout: Layout,
    plan: models.ModelPlan,
    ready_file: Path | None,
    language: Language,
    *,
    wants_ui: bool,
) -> int:
    from rich.console import Console

    console = Console(highlight=False)
    details = {name: f"{name} = {plan.shown.get(name, model)}" for name, model in plan.models.items()}
    screen = Screen(console, [spec.name for spec in specs], layout.log_dir, details, language)
    supervisor = Supervisor(specs, run_dir=layout.run_dir, log_dir=layout.log_dir, on_event=screen.show)
    url = base_url(settings.host, settings.port)
    ui_url = f"{base_url(settings.host, settings.ui_port or settings.port)}/ui/" if wants_ui else None

    redis_url = next(spec for spec in specs if spec.name == "api").env["REDIS_URL"] or settings.redis_url
    if any(spec.name == "redis" for spec in specs):
        write_atomically(layout.redis_url_path, redis_url + "\n")  # for `glowl owners` and `glowl keys`

    async def may_go_on() -> bool:
        # Redis runs now, so this is known. Fail before the models are loaded: no client could ask.
        if not needs_owners(settings) or await has_owners(redis_url) is not False:
            return True
        from router.settings import default_data_dir

        folder = None if layout.data_dir == default_data_dir().resolve() else layout.data_dir
        screen.line(refuse_access(settings, language, folder))
        return False

    async def announce() -> None:
        await _until_engines_are_seen(url)
        needs_key = await http_status(url, "/v1/models") == 401
        flags = {"needs_key": needs_key, "has_metrics": settings.metrics}
        for line in banner(url, ui_url, plan.choice, layout.data_dir, language, **flags):
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
        return await supervisor.run(announce, may_go_on)
    finally:
        screen.end()
        for name in WORKERS:
            layout.worker_ready(name).unlink(missing_ok=True)

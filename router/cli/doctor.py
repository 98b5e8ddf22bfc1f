"""`glowl doctor`: what stands between this machine and `glowl up`, and what to do about it.

In: nothing but the machine. Out: one line per check, ok, warn or fail; exit status 1 if one failed. It changes nothing
and never loads torch into itself.
"""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from engines.host_memory import available_bytes
from engines.hub.names import place_of
from router.cli import models
from router.cli.access import has_owners
from router.cli.common import Language, LanguageOption, load_settings, parse_language
from router.cli.data_folder import Layout
from router.cli.memory_check import options_for, shapes_of
from router.cli.model_setup import parse_choice
from router.cli.models_command import describe, find_checkpoints
from router.cli.net import PortInUseError, base_url, check_port, http_status
from router.cli.redis_check import look_at
from router.cli.redis_server import RedisMissingError, find_redis
from router.cli.texts import say
from router.cli.torch_probe import TorchReport, probe_torch
from router.redis_address import check_redis_url, shown

if TYPE_CHECKING:
    from engines.base import EngineInfo
    from router.settings import Settings

MIN_PYTHON = (3, 11)
MIN_FREE_BYTES = models.GB

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report: what was looked at, how it is, and what to do unless it is ok."""

    name: str
    status: Status
    text: str


def doctor(
    data_dir: Annotated[Path | None, typer.Option(help="The data folder `glowl up` would use.")] = None,
    model_choice: Annotated[
        str | None,
        typer.Option("--models", metavar="pocket|random|echo|full", help="Which weights; default: as `glowl up`."),
    ] = None,
    lang: LanguageOption = None,
) -> None:
    """Check this machine for everything `glowl up` needs."""
    language = parse_language(lang)
    choice = None if model_choice is None else parse_choice(model_choice, language)
    settings = load_settings()
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    colours = {"ok": "green", "warn": "yellow", "fail": "bold red"}
    has_failed = False
    directory = (data_dir or settings.data_dir).expanduser().resolve()
    for check in examine(directory, settings.host, settings.port or 8000, language, choice=choice, settings=settings):
        has_failed |= check.status == "fail"
        mark = Text(f"{check.status:<5}", style=colours[check.status])
        console.print(Text.assemble(mark, f"{check.name:<13} {check.text}"), soft_wrap=True)
    console.print(say("doctor.summary.fail" if has_failed else "doctor.summary.ok", language), soft_wrap=True)
    raise typer.Exit(1 if has_failed else 0)


def examine(
    data_dir: Path,
    host: str,
    port: int,
    language: Language,
    *,
    choice: models.ModelChoice | None = None,
    settings: Settings | None = None,
    probe: Callable[[], TorchReport] = probe_torch,
) -> Iterator[Check]:
    """Run every check, yielding each as soon as it is known.

    Args:
        data_dir: the folder `glowl up` would use.
        host: where its api would listen.
        port: the same.
        language: of the texts.
        choice: the models that shall run; None takes those that `glowl up` would.
        settings: whose engine servers to ask, where a URL is set; None asks none.
        probe: looks at torch.
    """
    yield check_python(language)
    yield Check("glowl", "ok", metadata.version("glowl"))
    report = probe()
    yield check_torch(report, language)
    yield check_gpu(report, language)
    yield check_attention(report, language)
    yield check_transformers(language)
    yield check_redis(language, num_replicas=0 if settings is None else settings.redis_wait)
    if settings is not None:
        for name in sorted(settings.named_engines):
            yield from check_engine(name, settings, language)
    yield check_disk(data_dir, language)
    yield check_models(data_dir, bool(report.version), language)
    yield from check_memory(choice or models.default_choice(), data_dir, report, language)
    yield check_api_port(host, port, language)
    if settings is not None:
        yield check_access(settings, data_dir, language)


def check_python(language: Language) -> Check:
    """The interpreter."""
    version = platform.python_version()
    if sys.version_info < MIN_PYTHON:
        return Check("python", "fail", say("doctor.python.old", language, version=version))
    return Check("python", "ok", f"{version} ({sys.executable})")


def check_torch(report: TorchReport, language: Language) -> Check:
    """Whether torch is there and whole."""
    if report.error:
        return Check("torch", "fail", say("doctor.torch.broken", language, reason=report.error))
    if not report.version:
        return Check("torch", "warn", say("doctor.torch.missing", language))
    return Check("torch", "ok", f"{report.version}, CUDA {report.cuda}" if report.cuda else report.version)


def check_gpu(report: TorchReport, language: Language) -> Check:
    """Which GPUs torch can use."""
    if not report.gpus:
        return Check("gpu", "warn", say("doctor.gpu.none", language))
    return Check("gpu", "ok", "; ".join(f"{name}, {memory / models.GB:.0f} GB" for name, memory in report.gpus))


def check_attention(report: TorchReport, language: Language) -> Check:
    """Which attention the engines will use."""
    version = installed_version("flash-attn")
    if version is not None and report.gpus:
        return Check("attention", "ok", say("doctor.attention.flash", language, version=version))
    return Check("attention", "ok", say(f"doctor.attention.sdpa{'_gpu' if report.gpus else ''}", language))


def check_transformers(language: Language) -> Check:
    """Whether transformers is in the range this release was tested with."""
    version = installed_version("transformers")
    if version is None:
        return Check("transformers", "warn", say("doctor.torch.missing", language))
    wanted = supported_range("transformers")
    from packaging.specifiers import SpecifierSet

    if wanted and version not in SpecifierSet(wanted):
        text = say("doctor.transformers.range", language, version=version, range=wanted)
        return Check("transformers", "fail", text)
    return Check("transformers", "ok", version)


def check_redis(language: Language, *, num_replicas: int = 0) -> Check:
    """Which redis `glowl up` would use, and whether one that others run can be used and keeps what was accepted."""
    try:
        choice = find_redis()
    except RedisMissingError as error:
        return Check("redis", "fail", error.text.of(language))
    if choice.source == "env":
        try:
            check_redis_url(choice.url)
        except ValueError as error:
            return Check("redis", "fail", f"REDIS_URL: {error}")
        found = asyncio.run(look_at(choice.url, num_replicas=num_replicas))
        if found.problem:
            return Check("redis", "fail", f"REDIS_URL: {found.say(choice.url, language)}")
        text = say("doctor.redis.env", language, url=shown(choice.url), version=found.version)
        if found.risk:
            return Check("redis", "warn", text + say(found.risk, language, detail=found.detail))
        return Check("redis", "ok", text)
    text = say(f"doctor.redis.{choice.source}", language, binary=choice.binary, version=choice.version)
    if num_replicas:  # what `glowl up` starts has none
        return Check("redis", "fail", say("redis.replicas", language, url=text, detail=f"0 < {num_replicas}"))
    return Check("redis", "ok", text)


def check_engine(name: str, settings: Settings, language: Language) -> Iterator[Check]:
    """Whether each of an engine's servers answers, takes the key, and has the same model as the first."""
    found = asyncio.run(_ask_servers(name, settings))
    models_found = [info.model_id for _, info in found if not isinstance(info, str)]
    for url, info in found:
        if isinstance(info, str):
            # One of several servers may be missing: the others do its work.
            text = say("doctor.engine.down", language, url=url, reason=info)
            yield Check(name, "warn" if models_found else "fail", text)
            continue
        values = {"url": url, "model": info.model_id, "tokens": info.context_tokens}
        if info.model_id == models_found[0]:
            yield Check(name, "ok", say("doctor.engine", language, **values))
        else:
            text = say("doctor.engine.other", language, first=models_found[0], **values)
            yield Check(name, "warn", text)


async def _ask_servers(name: str, settings: Settings) -> list[tuple[str, EngineInfo | str]]:
    """Each server's URL with what it says of itself, or why it does not."""
    from engines.base import EngineError
    from engines.http.client import EngineClient
    from router.bootstrap import make_engine

    async def ask(url: str) -> tuple[str, EngineInfo | str]:
        client = make_engine(settings, name, (url,))
        assert isinstance(client, EngineClient)
        try:
            readiness, reason = await client.probe()
            return url, await client.info() if readiness == "ready" else reason
        except EngineError as error:
            return url, error.message
        finally:
            await client.aclose()

    return await asyncio.gather(*(ask(url) for url in settings.engine_urls[name]))


def check_disk(data_dir: Path, language: Language) -> Check:
    """Whether the data folder can be written and has room."""
    parent = models.existing_parent(data_dir)
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        return Check("disk", "fail", say("doctor.disk.unwritable", language, path=data_dir))
    free = shutil.disk_usage(parent).free
    cache = place_of(models.full_name("glm", data_dir).hub).cache
    need = models.bytes_of_full(data_dir)
    values = {"free_gb": free / models.GB, "need_gb": need / models.GB, "path": data_dir}
    if free < MIN_FREE_BYTES:
        return Check("disk", "fail", say("doctor.disk.low", language, **values))
    if need and shutil.disk_usage(models.existing_parent(cache)).free < need:
        return Check("disk", "warn", say("doctor.disk.full", language, **values))
    return Check("disk", "ok", say("doctor.disk", language, **values))


def check_models(data_dir: Path, has_torch: bool, language: Language) -> Check:
    """Which weights are here, with variant and size, and which `glowl up` would take."""
    checkpoints = list(find_checkpoints(data_dir))
    present = ", ".join(
        f"{name} ({'; '.join(f'{one.engine}: {describe(one, language)}' for one in checkpoints if one.choice == name)})"
        for name in models.present_models(data_dir)
    )
    choice = models.default_choice() if has_torch else say("doctor.models.choice.none", language)
    text = say("doctor.models", language, present=present or say("doctor.models.none", language), choice=choice)
    return Check("models", "ok" if has_torch else "warn", text)


def check_memory(
    choice: models.ModelChoice, data_dir: Path, report: TorchReport, language: Language
) -> Iterator[Check]:
    """What the chosen models need against what is there, and for comparison what the full ones would."""
    choices: list[models.ModelChoice] = [choice] if choice != "echo" else []
    if choice != "full":
        choices.append("full")
    for chosen in choices:
        shapes = shapes_of(chosen, data_dir)
        if not shapes:
            yield Check("memory", "ok", say("doctor.memory.unknown", language, choice=chosen))
            continue
        ram_bytes = available_bytes()
        options = options_for(shapes, report.gpus, ram_bytes)
        fitting = [option.name for option in options if option.fits]
        place = say("doctor.memory.ram", language)
        have = ram_bytes
        if report.gpus:
            place = report.gpus[0][0] if len(report.gpus) == 1 else say("doctor.memory.gpus", language)
            have = min(memory for _, memory in report.gpus[:2])
        verdict = say("doctor.memory.fits", language, names=", ".join(fitting))
        text = say(
            "doctor.memory",
            language,
            choice=chosen,
            options=", ".join(f"{option.name} {option.total_bytes / models.GB:.1f} GB" for option in options),
            place=place,
            have_gb=have / models.GB,
            verdict=verdict if fitting else say("doctor.memory.none", language),
        )
        # The full models are a warning to somebody who has not asked for them.
        status: Status = "ok" if fitting else "fail" if chosen == choice else "warn"
        yield Check("memory", status, text)


def check_api_port(host: str, port: int, language: Language) -> Check:
    """Whether the api could listen where it wants to."""
    try:
        check_port(host, port)
    except PortInUseError as error:
        if asyncio.run(_is_glowl(base_url(host, port))):
            return Check("port", "warn", say("doctor.port.glowl", language, port=port))
        return Check("port", "warn", say("doctor.port.used", language, where=error))
    return Check("port", "ok", say("doctor.port.free", language, port=port))


def check_access(settings: Settings, data_dir: Path, language: Language) -> Check:
    """Who can ask, and whether with a key."""
    host = settings.published_on or settings.host
    is_named = "redis_url" in settings.model_fields_set
    url = settings.redis_url if is_named else Layout(data_dir).read_redis_url()
    found = asyncio.run(has_owners(url)) if url else None
    if settings.is_only_local:
        needed = True if settings.asks_for_keys else found
        key = "later" if needed is None else "needed" if needed else "free"
        keys = say(f"doctor.access.{key}", language)
        return Check("access", "ok", say("doctor.access.local", language, host=host, keys=keys))
    if settings.asks_for_keys or found:
        return Check("access", "ok", say("doctor.access.keys", language, host=host))
    if settings.insecure:
        return Check("access", "warn", say("doctor.access.open", language, host=host))
    if found is None:
        return Check("access", "warn", say("doctor.access.unknown", language, host=host))
    return Check("access", "fail", say("doctor.access.none", language, host=host))


async def _is_glowl(url: str) -> bool:
    return await http_status(url, "/healthz") == 200 and await http_status(url, "/v1/route") in (401, 405)


def installed_version(distribution: str) -> str | None:
    """The version of an installed distribution, without importing it."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def supported_range(distribution: str) -> str:
    """The version range that glowl's own metadata asks for, such as ``<5.24,>=5.23``; empty if it names none."""
    from packaging.requirements import Requirement

    for line in metadata.requires("glowl") or ():
        requirement = Requirement(line)
        if requirement.name == distribution:
            return str(requirement.specifier)
    return ""

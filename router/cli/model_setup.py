"""What `glowl up` makes sure of before engines start: packages, adapters, weights.

In: the choice of weights and the data folder. Out: a `ModelPlan`, or the end of the command with one line.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from types import MappingProxyType

import typer

from engines.adapter_names import lacks_adapter
from engines.hub.snapshots import cut_files, missing_files, pointer_files
from router.cli import models, secrets
from router.cli.child_process import guarded_argv
from router.cli.common import Language, fail
from router.cli.data_folder import Layout
from router.cli.full_models import Sources, prepare_full
from router.cli.processes import has_engine_packages
from router.cli.texts import say
from router.cli.torch_probe import probe_torch


def parse_choice(value: str | None, language: Language) -> models.ModelChoice:
    """Turn ``--models`` into a choice; None takes the best at hand.

    Raises:
        typer.Exit: after one line, if there is no such choice.
    """
    if value is None:
        return models.default_choice()
    for choice in models.MODEL_CHOICES:
        if choice == value:
            return choice
    fail(say("up.models.unknown", language, value=value), code=2)


def prepare_models(
    choice: models.ModelChoice,
    layout: Layout,
    language: Language,
    *,
    elsewhere: Collection[str] = (),
    adapters: Mapping[str, Sequence[tuple[str, str]]] = MappingProxyType({}),
    sources: Sources | None = None,
) -> models.ModelPlan:
    """Make sure that the engines will find what they are told to load; those that run elsewhere need nothing.

    Args:
        choice: as in ``--models``.
        layout: of the data folder.
        language: of what is said.
        elsewhere: engines whose servers the user has named.
        adapters: as (name, folder or hub id), by engine.
        sources: where weights are from.

    Raises:
        typer.Exit: after one line, if they could not.
    """
    sources = sources or Sources()
    folders = {name: folder for name, folder in sources.folders.items() if name not in elsewhere}
    chosen = [name for name in models.ENGINE_NAMES if name not in elsewhere and name not in folders]
    if not folders and (choice == "echo" or not chosen):
        return models.plan(choice, layout.data_dir) if choice != "full" else models.ModelPlan(choice, {})
    for name, folder in folders.items():
        if missing := missing_files(folder):
            fail(say("up.folder.missing", language, name=name, folder=folder, missing=", ".join(missing)))
        if pointers := pointer_files(folder):
            fail(say("up.folder.pointers", language, name=name, folder=folder, file=pointers[0]))
        if cut := cut_files(folder):
            fail(say("up.folder.cut", language, name=name, folder=folder, cut=", ".join(cut)))
    if not has_engine_packages():
        fail(say("up.engines.missing", language))
    _check_adapters(adapters, language)
    if choice == "pocket" and chosen and not models.has_checkpoints(models.pocket_dir()):
        fail(say("up.pocket.missing", language))
    if choice == "random" and chosen and not models.has_checkpoints(models.random_dir(layout.data_dir)):
        _make_random(layout, language)
    if choice == "full":
        planned = prepare_full(chosen, layout.data_dir, language, sources)
    else:
        planned = models.plan(choice, layout.data_dir)
        if "glm" in folders:
            planned = replace(planned, gpus=probe_torch().gpus)
    return replace(planned, models={**planned.models, **{name: str(folder) for name, folder in folders.items()}})


def _check_adapters(adapters: Mapping[str, Sequence[tuple[str, str]]], language: Language) -> None:
    for engine, sources in adapters.items():
        variable = f"GLOWL_{engine.upper()}_ADAPTERS"
        if sources and find_spec("peft") is None:
            fail(say("up.adapters.missing", language, variable=variable))
        for name, source in sources:
            if lacks_adapter(source):
                fail(say("up.adapter.nowhere", language, variable=variable, name=name, source=source))


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

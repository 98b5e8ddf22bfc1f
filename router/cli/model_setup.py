"""What `glowl up` makes sure of before engines start: packages, adapters, weights, room for a download.

In: the choice of weights and the data folder. Out: a `ModelPlan`, or the end of the command with one line.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Collection, Sequence
from importlib.util import find_spec

import typer

from engines.adapter_names import lacks_adapter
from router.cli import models, secrets
from router.cli.child_process import guarded_argv
from router.cli.common import Language, fail
from router.cli.data_folder import Layout
from router.cli.processes import has_engine_packages
from router.cli.texts import say

# Left free beside a download: caches, logs, the system itself.
DISK_MARGIN_BYTES = 2 * models.GB


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

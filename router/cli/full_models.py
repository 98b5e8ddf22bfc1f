"""The real models: whether this machine can run them, and their download with what there is to see of it.

In: which engines need theirs, and where from. Out: folders with whole checkpoints, or the end of the command with one
line and a status that says whether waiting helps (75) or not (78).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import typer

from engines.host_memory import available_bytes
from engines.hub.names import Hub, ModelName, place_of
from engines.hub.progress import Progress, Watcher, in_words
from engines.hub.snapshots import Snapshot
from engines.hub.words import HubError, Note
from router.cli import models
from router.cli.common import Language, fail
from router.cli.memory_check import Option, options_for, shapes_of
from router.cli.texts import say

LINE_EVERY_S = 10.0
BAR_EVERY_S = 0.2


@dataclass(frozen=True, slots=True)
class Sources:
    """Where weights are from.

    Attributes:
        hub: of the real ones; None is the one that was used last.
        folders: engine name to a folder of the user's own.
        quantization: with which they will be loaded.
        is_anyway: download them also if they do not fit.
    """

    hub: Hub | None = None
    folders: Mapping[str, Path] = field(default_factory=dict)
    quantization: str | None = None
    is_anyway: bool = False


def prepare_full(engines: Sequence[str], data_dir: Path, language: Language, sources: Sources) -> models.ModelPlan:
    """Have the real models of these engines here.

    Raises:
        typer.Exit: after one line, if they cannot be had, or this machine cannot run them.
    """
    from router.cli.torch_probe import probe_torch

    names = {engine: models.full_name(engine, data_dir, sources.hub) for engine in engines}
    gpus = probe_torch().gpus
    if not sources.is_anyway:
        check_fits(names, data_dir, language, quantization=sources.quantization, gpus=gpus)
    if not gpus:
        typer.echo(say("up.full.cpu", language), err=True)
    snapshots = pull_full(names, data_dir, language)
    devices = {"glm": "cuda:0", "owl2": "cuda:1"} if len(gpus) >= 2 else {}
    return models.ModelPlan(
        "full",
        {engine: str(snapshot.folder) for engine, snapshot in snapshots.items()},
        devices,
        {engine: str(snapshot.name) for engine, snapshot in snapshots.items()},
        gpus,
    )


def check_fits(
    names: Mapping[str, ModelName],
    data_dir: Path,
    language: Language,
    *,
    quantization: str | None = None,
    gpus: Sequence[tuple[str, int]] | None = None,
) -> None:
    """Refuse to download what this machine cannot run; what is here already may be tried.

    Args:
        names: engine name to its model.
        data_dir: of `glowl up`.
        language: of the refusal.
        quantization: with which they will be loaded; None if that is not known yet, so that any will do.
        gpus: name and memory of each; None asks torch.

    Raises:
        typer.Exit: after one line.
    """
    num_bytes = sum(models.bytes_to_download(engine, name) for engine, name in names.items())
    if not num_bytes:
        return
    if gpus is None:
        from router.cli.torch_probe import probe_torch

        gpus = probe_torch().gpus
    shapes = {engine: shape for engine, shape in shapes_of("full", data_dir).items() if engine in names}
    options = options_for(shapes, gpus, available_bytes())
    fitting = [option for option in options if option.fits]
    values: dict[str, object] = {
        "size_gb": num_bytes / models.GB,
        "place": gpus[0][0] if gpus else say("doctor.memory.ram", language),
        "have_gb": (gpus[0][1] if gpus else available_bytes()) / models.GB,
    }
    if not fitting:
        fail(say("up.full.unfit", language, **values, **_need(options[-1])), code=os.EX_CONFIG)
    if quantization is not None:
        wanted = options[0] if quantization == "none" else _named(quantization, options)
        if not wanted.fits:
            text = say("up.full.unfit.as", language, **values, **_need(wanted), other=fitting[0].name)
            fail(text, code=os.EX_CONFIG)


def _named(name: str, options: Iterable[Option]) -> Option:
    return next(option for option in options if option.name == name)


def _need(option: Option) -> dict[str, object]:
    return {"name": option.name, "need_gb": option.total_bytes / models.GB}


def pull_full(names: Mapping[str, ModelName], data_dir: Path, language: Language) -> dict[str, Snapshot]:
    """Download what is missing, and remember which revisions are here now.

    Raises:
        typer.Exit: after one line, if they cannot be had.
    """
    from engines.hub.pull import pull

    snapshots: dict[str, Snapshot] = {}
    for engine, name in names.items():
        missing = models.bytes_to_download(engine, name)
        if missing:
            place = place_of(name.hub)
            values = {"name": name, "size_gb": missing / models.GB, "endpoint": place.endpoint, "cache": place.cache}
            typer.echo(say("up.full.download", language, **values))
        try:
            with watching(name, language) as watcher:
                snapshots[engine] = asyncio.run(pull(name, watcher))
        except HubError as error:
            fail(say_note(error.note, language), code=os.EX_TEMPFAIL if error.waiting_helps else os.EX_CONFIG)
        except KeyboardInterrupt:
            fail(say("up.full.stopped", language, name=name), code=130)
        models.record_full(engine, snapshots[engine].name, data_dir)
    return snapshots


def say_note(note: Note, language: Language) -> str:
    """What is printed of a download, in the user's language."""
    values = {name: say_note(held, language) if isinstance(held, Note) else held for name, held in note.values.items()}
    return say(f"hub.{note.code}", language, **values)


@contextmanager
def watching(name: ModelName, language: Language) -> Iterator[Watcher]:
    """Show how a download gets on: a bar on a terminal, else a line now and then."""
    from rich.console import Console

    console = Console(highlight=False)

    def line(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    def note(note: Note) -> None:
        line(say_note(note, language))

    if not console.is_terminal:
        yield Watcher(lambda progress: line(f"{name}: {progress_text(progress, language)}"), note, every_s=LINE_EVERY_S)
        return
    from rich import progress as bars

    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.TextColumn("{task.fields[told]}"),
    )
    with bars.Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(name.repo, total=None, told="")

        def show(progress: Progress) -> None:
            told = progress_text(progress, language)
            bar.update(task, completed=progress.done_bytes, total=progress.total_bytes, told=told)

        yield Watcher(show, note, every_s=BAR_EVERY_S)


def progress_text(progress: Progress, language: Language) -> str:
    """Bytes, rate and time left."""
    values = {
        "done_gb": progress.done_bytes / models.GB,
        "total_gb": progress.total_bytes / models.GB,
        "rate": progress.rate / 1e6,
    }
    if progress.left_s is None:
        return say("up.full.progress", language, **values)
    return say("up.full.progress.left", language, **values, left=in_words(progress.left_s))

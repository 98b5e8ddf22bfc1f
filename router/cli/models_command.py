"""`glowl models`: which weights are on this machine, the real ones downloaded, Owl2's shards turned into safetensors.

In: the data folder and the hubs' caches; a hub; or two folders. Out: a line per checkpoint; both real models, whole; or
this process becomes the converter, which loads torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from engines.hub.names import Hub, model_dir, place_of
from router.cli import models
from router.cli.common import Language, LanguageOption, detect_language, fail, load_settings, parse_language
from router.cli.full_models import check_fits, pull_full
from router.cli.processes import has_engine_packages
from router.cli.texts import say

app = typer.Typer(name="models", help="The weights on this machine.", no_args_is_help=True, rich_markup_mode=None)

CONVERTER = "engines.owl2.convert"
DTYPES = ("keep", "float16", "bfloat16", "float32")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One engine's weights, here or not.

    Attributes:
        choice: as in ``glowl up --models``.
        engine: ``glm`` or ``owl2``.
        variant: what the checkpoint says it is; empty if it is not here.
        num_bytes: on disk.
        missing_bytes: still to be downloaded.
        path: where it is, or would be.
    """

    choice: models.ModelChoice
    engine: str
    variant: str
    num_bytes: int
    missing_bytes: int
    path: Path


def find_checkpoints(data_dir: Path, pocket: Path | None = None) -> Iterator[Checkpoint]:
    """Look at every place where weights may be.

    Args:
        data_dir: of `glowl up`.
        pocket: the package's own checkpoints.
    """
    directories: tuple[tuple[models.ModelChoice, Path], ...] = (
        ("pocket", pocket or models.pocket_dir()),
        ("random", models.random_dir(data_dir)),
    )
    for choice, directory in directories:
        for engine in models.ENGINE_NAMES:
            folder = directory / engine
            is_here = (folder / "config.json").is_file()
            variant = models.read_variant(folder) if is_here else ""
            yield Checkpoint(choice, engine, variant, size_of(folder), 0, folder)
    for engine, model in models.FULL_MODELS.items():
        name = models.full_name(engine, data_dir)
        missing = models.bytes_to_download(engine, name)
        found = models.find_full(name)
        folder = found.folder if found is not None else model_dir(name, place_of(name.hub))
        here = found.num_bytes if found is not None and not missing else max(0, model.size_bytes - missing)
        yield Checkpoint("full", engine, "" if missing else "full", here, missing, folder)


def size_of(directory: Path) -> int:
    """Bytes of the files directly in a folder; 0 if there is none."""
    try:
        return sum(entry.stat().st_size for entry in directory.iterdir() if entry.is_file())
    except OSError:
        return 0


@app.command("list")
def list_models(
    data_dir: Annotated[Path | None, typer.Option(help="The data folder of `glowl up`.")] = None,
    lang: LanguageOption = None,
) -> None:
    """Show which weights are here, how large they are and where."""
    language = parse_language(lang)
    directory = (data_dir or load_settings().data_dir).expanduser().resolve()
    from rich.console import Console

    # A path that is cut into lines cannot be copied.
    console = Console(highlight=False, soft_wrap=True)
    for checkpoint in find_checkpoints(directory):
        name = f"{checkpoint.choice:<7} {checkpoint.engine:<5}"
        console.print(f"{name} {describe(checkpoint, language):<34} {checkpoint.path}", markup=False)


def describe(checkpoint: Checkpoint, language: Language) -> str:
    """Variant and size of a checkpoint, or how much of it is missing."""
    values = {
        "variant": checkpoint.variant,
        "size": _in_words(checkpoint.num_bytes),
        "total": _in_words(checkpoint.num_bytes + checkpoint.missing_bytes),
    }
    if checkpoint.variant:
        return say("models.present", language, **values)
    return say("models.partial" if checkpoint.num_bytes else "models.absent", language, **values)


def _in_words(num_bytes: int) -> str:
    return f"{num_bytes / models.GB:.1f} GB" if num_bytes >= models.GB else f"{num_bytes / 1e6:.1f} MB"


@app.command("pull")
def pull_models(
    engine: Annotated[str | None, typer.Argument(metavar="[glm|owl2]", help="Only this one; default: both.")] = None,
    hub: Annotated[Hub | None, typer.Option(help="Where from; default: as last time, at first huggingface.")] = None,
    revision: Annotated[
        str | None,
        typer.Option(help="Branch, tag or commit of that one model; default: what is here, or the newest."),
    ] = None,
    anyway: Annotated[bool, typer.Option("--anyway", help="Also if this machine cannot run them.")] = False,
    data_dir: Annotated[Path | None, typer.Option(help="The data folder of `glowl up`.")] = None,
    lang: LanguageOption = None,
) -> None:
    """Download the real models, or what is missing of them, and verify them; `glowl up --models full` does it too."""
    language = parse_language(lang)
    if engine not in (None, *models.ENGINE_NAMES):
        raise typer.BadParameter(f"{engine!r} is neither 'glm' nor 'owl2'", param_hint="ENGINE")
    if revision is not None and engine is None:
        raise typer.BadParameter("name the model: glowl models pull glm --revision ...", param_hint="--revision")
    directory = (data_dir or load_settings().data_dir).expanduser().resolve()
    engines = models.ENGINE_NAMES if engine is None else (engine,)
    names = {one: models.full_name(one, directory, hub) for one in engines}
    if revision is not None:
        names = {one: name.at(revision) for one, name in names.items()}
    if not anyway:
        check_fits(names, directory, language)
    for one, snapshot in pull_full(names, directory, language).items():
        size = _in_words(snapshot.num_bytes)
        typer.echo(say("models.pulled", language, engine=one, name=snapshot.name, size=size, folder=snapshot.folder))


@app.command("convert")
def convert(
    source: Annotated[
        str, typer.Argument(metavar="SRC", help="Folder of the original Owl2 checkpoint, or its hub id.")
    ],
    target: Annotated[Path, typer.Argument(metavar="DST", help="Folder to make.")],
    dtype: Annotated[str, typer.Option(metavar="|".join(DTYPES), help="Of the output.")] = "keep",
    max_shard_size: Annotated[str, typer.Option(help="Bound of each output file, such as 500MB.")] = "2GB",
) -> None:
    """Turn `.bin` shards into safetensors: resumable, one shard in memory, every tensor verified."""
    if dtype not in DTYPES:
        raise typer.BadParameter(f"{dtype!r} is none of {', '.join(DTYPES)}", param_hint="--dtype")
    if not has_engine_packages():
        fail(say("engines.missing", detect_language()))
    argv = convert_argv(source, target, dtype=dtype, max_shard_size=max_shard_size)
    # A new process image, because torch must never be loaded into the command line's own.
    os.execv(argv[0], argv)  # noqa: S606


def convert_argv(source: str, target: Path, *, dtype: str, max_shard_size: str) -> list[str]:
    """The command that converts."""
    # -P: a folder named `engines` in the user's current directory must not shadow ours.
    argv = [sys.executable, "-P", "-m", CONVERTER, f"--dtype={dtype}", f"--max-shard-size={max_shard_size}"]
    return [*argv, "--", source, str(target)]

"""`glowl finetune`: this process becomes a run of training; torch is never loaded into the command line's own.

In: a data set and options. Out: an adapter in a folder; what is said on the way is `engines.finetune`'s.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from router.cli.common import LanguageOption, fail, parse_language
from router.cli.processes import ENGINE_NAMES, has_engine_packages
from router.cli.secrets import is_for_engine, keep
from router.cli.texts import say


def finetune(
    name: Annotated[str, typer.Argument(metavar="glm|owl2", help="Which model.")],
    data: Annotated[Path, typer.Option(metavar="DIR", help="A data set: train.jsonl, heldout.jsonl and pictures.")],
    model: Annotated[
        str, typer.Option(metavar="pocket|full|FOLDER|ORG/NAME", help="The base, which is not changed.")
    ] = "pocket",
    config: Annotated[Path | None, typer.Option(metavar="FILE", help="Settings of the run, as TOML.")] = None,
    preset: Annotated[
        str | None, typer.Option(metavar="small-card|one-gpu|cpu", help="By default what fits this machine.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="For the adapter; default NAME-adapter.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    lang: LanguageOption = None,
) -> None:
    """Train a LoRA adapter on a data set, and say what it is worth on the held-out part."""
    if name not in ENGINE_NAMES:
        raise typer.BadParameter(f"{name!r} is neither 'glm' nor 'owl2'", param_hint="NAME")
    language = parse_language(lang)
    if not has_engine_packages() or find_spec("peft") is None:
        fail(say("finetune.missing", language))
    # -P: a folder named `engines` in the user's current directory must not shadow ours.
    argv = [sys.executable, "-P", "-m", "engines.finetune", name, "--data", str(data), "--model", model]
    argv += ["--lang", language]
    for option, value in (("--config", config), ("--preset", preset), ("--out", out)):
        argv += [] if value is None else [option, str(value)]
    argv += ["--resume"] if resume else []
    os.execve(argv[0], argv, keep(os.environ, is_for_engine))  # noqa: S606

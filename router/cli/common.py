"""What several commands share: the language of the texts, settings read with a readable refusal, and `fail`.

In: the environment. Out: plain values, or an end of the command with one clear line on stderr.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
import shutil
import sys
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from policies.text import Language as Language
from router.cli.texts import say

if TYPE_CHECKING:
    from router.settings import Settings

# Read by the commands that ask a service.
_OF_CLIENTS = frozenset({"GLOWL_URL", "GLOWL_API_KEY"})
# compose.yaml gives the whole .env to api and workers; this line of it is for redis.
_OF_COMPOSE = frozenset({"GLOWL_REDIS_MAXMEMORY", "GLOWL_REDIS_URL"})
# What Kubernetes puts into every container beside a service named glowl.
_OF_KUBERNETES = re.compile(r"_SERVICE_(HOST|PORT)(_|$)|_PORT_\d+_(TCP|UDP)(_|$)")


def detect_language(environ: Mapping[str, str] | None = None) -> Language:
    """Language of user-facing texts: Chinese when the locale variables say so, else English."""
    environ = os.environ if environ is None else environ
    locale = environ.get("LC_ALL") or environ.get("LC_MESSAGES") or environ.get("LANG") or ""
    return "zh" if locale.lower().startswith("zh") else "en"


def parse_language(value: str | None) -> Language:
    """Turn ``--lang`` into a language; None asks the environment.

    Raises:
        typer.BadParameter: if it is neither ``en`` nor ``zh``.
    """
    if value is None:
        return detect_language()
    if value.lower().startswith("zh"):
        return "zh"
    if value.lower().startswith("en"):
        return "en"
    raise typer.BadParameter(f"{value!r} is neither 'en' nor 'zh'", param_hint="--lang")


LanguageOption = Annotated[
    str | None, typer.Option("--lang", metavar="en|zh", help="Language of the texts; default: from LC_ALL or LANG.")
]


def words_of(error: Exception, language: Language) -> str:
    """Return what an error says; one that is not ours says it in English to all."""
    return getattr(error, "message_zh", str(error)) if language == "zh" else str(error)


def fail(message: str, *, code: int = 1) -> NoReturn:
    """End the command with one line on stderr.

    Raises:
        typer.Exit: always.
    """
    typer.echo(f"glowl: {message}", err=True)
    raise typer.Exit(code)


def load_settings() -> Settings:
    """Read the environment; a variable that looks like ours and is none is said on stderr.

    Raises:
        typer.Exit: after one line per wrong variable, naming it.
    """
    from pydantic import ValidationError

    from router.settings import Settings

    for name in unknown_variables(os.environ, Settings.variables()):
        typer.echo(f"glowl: {_about_unknown(name, Settings.variables())}", err=True)
    try:
        return Settings()
    except ValidationError as error:
        for problem in error.errors():
            field = ".".join(str(part) for part in problem["loc"]) or "?"
            variable = field if field.isupper() else f"GLOWL_{field.upper()}"
            typer.echo(f"glowl: {variable}: {problem['msg'].removeprefix('Value error, ')}", err=True)
        raise typer.Exit(2) from None


def unknown_variables(environ: Mapping[str, str], known: Collection[str]) -> list[str]:
    """Return the names that begin like ours and are read by nothing: most likely a setting with a typing error."""
    names = {*known, *_OF_CLIENTS, *_OF_COMPOSE}
    ours = (name for name in environ if name.upper().startswith("GLOWL_"))
    return sorted(name for name in ours if name.upper() not in names and not _OF_KUBERNETES.search(name))


def _about_unknown(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.8)
    key = "settings.unknown.near" if near else "settings.unknown"
    return say(key, detect_language(), name=name, near="".join(near))


def command_name() -> str:
    """How this command line is called from another terminal: there no virtual environment need be active."""
    own = Path(sys.executable).with_name("glowl")
    on_path = shutil.which("glowl")
    if on_path is not None and "VIRTUAL_ENV" not in os.environ and own.exists() and own.samefile(on_path):
        return "glowl"
    return shlex.quote(str(own)) if own.exists() else f"{shlex.quote(sys.executable)} -P -m router.cli"


def to_command(*words: str, **options: Path | str | Iterable[Path] | None) -> str:
    """Write a command that can be pasted as it stands.

    Args:
        words: after `command_name`.
        options: that the running command was given too, such as ``data_dir``; without them it would be about another
            service. None leaves one out, and several values repeat it.
    """
    given: list[str] = []
    for name, value in options.items():
        for each in () if value is None else (value,) if isinstance(value, str | Path) else value:
            given += [f"--{name.replace('_', '-')}", str(each)]
    return " ".join([command_name(), *(shlex.quote(word) for word in (*words, *given))])


def write_atomically(path: Path, text: str) -> None:
    """Write a small file so that a reader sees all of it or nothing."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def printable(text: str) -> str:
    """The text without control characters, line ends and tabs apart: a model must not drive the terminal."""
    return "".join(char for char in text if char in "\n\t" or not (ord(char) < 32 or 127 <= ord(char) < 160))

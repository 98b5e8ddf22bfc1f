"""Kept answers as commands read them: of one machine, or of several.

In: folders of `router.loop.store`. Out: exchanges with what was said of them, and what is known of their pictures.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from router.cli.common import Language, fail, load_settings, to_command
from router.cli.durations import parse_duration
from router.cli.texts import say

if TYPE_CHECKING:
    from router.loop.records import Exchange, Feedback
    from router.loop.store import Kept

LoopOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--loop", help="Folder in which answers are kept; may be repeated; default: `loop` in the data folder."
    ),
]
SinceOption = Annotated[str | None, typer.Option("--since", metavar="TIME", help="Only the last so long, such as 30d.")]
OwnerOption = Annotated[
    str, typer.Option("--owner", metavar="ID", help="Only this owner's, by the id that `glowl owners show` prints.")
]


def read_kept(
    loop: list[Path] | None,
    language: Language,
    *,
    since: str | None = None,
    owner: str = "",
    with_again: bool = False,
) -> tuple[list[Exchange], dict[str, Kept]]:
    """Read what is kept, and what is known of its pictures.

    Feedback is kept by the machine that it was sent to, whichever keeps the answer: of several folders, all of it is
    read, and the newest counts.

    Args:
        loop: folders; None for that of the settings.
        language: of what is said.
        since: a duration; None for everything.
        owner: whose; empty for all.
        with_again: those too that nobody asked, but the service itself (`router.second_looks`).

    Raises:
        typer.Exit: after one line, if there is nothing, or it cannot be read.
        typer.BadParameter: if the duration cannot be read.
    """
    from router.loop.capture import FAILURES
    from router.loop.store import FILE, LoopStore

    after = time.time() - parse_duration(since, option="--since") if since else 0.0
    exchanges: dict[str, Exchange] = {}
    pictures: dict[str, Kept] = {}
    elsewhere: dict[str, Feedback] = {}
    folders = loop or [load_settings().loop_dir]
    for folder in folders:
        if not (folder / FILE).exists():
            _fail_empty(folder, language)
        try:
            with LoopStore(folder) as store:
                found = {each.id: each for each in store.select(owner=owner, since=after, with_again=with_again)}
                pictures |= store.pictures(sha256 for each in found.values() for sha256 in each.pictures)
                for name, said in store.lone_feedback().items():
                    elsewhere[name] = max((elsewhere.get(name, said), said), key=lambda each: each.at)
        except FAILURES as error:
            fail(f"{folder / FILE}: {error}")
        exchanges |= found
    if not exchanges:
        if since or owner:
            fail(say("dataset.nothing_found", language, folder=", ".join(map(str, folders))))
        _fail_empty(folders[0], language)
    return [_with_newest(each, elsewhere.get(each.id)) for each in exchanges.values()], pictures


def _fail_empty(folder: Path, language: Language) -> NoReturn:
    command = to_command("owners", "set", "NAME", "--capture", "pictures")
    fail(say("dataset.nothing_kept", language, folder=folder, command=command))


def _with_newest(exchange: Exchange, said: Feedback | None) -> Exchange:
    if said is None or (exchange.feedback is not None and exchange.feedback.at >= said.at):
        return exchange
    return replace(exchange, feedback=said)

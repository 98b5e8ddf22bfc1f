"""`glowl dataset`: data sets out of what owners let us keep.

In: the store of `router.loop` in the data folder. Out: folders of `engines.dataset_format`, and other trainers' forms.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from router.cli.common import Language, LanguageOption, command_name, fail, load_settings, parse_language
from router.cli.durations import parse_duration
from router.cli.texts import say

if TYPE_CHECKING:
    from router.loop.records import Exchange
    from router.loop.store import Kept

app = typer.Typer(name="dataset", help="Data sets out of kept answers (docs/datasets.md).", no_args_is_help=True)

LoopOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--loop", help="Folder in which answers are kept; may be repeated; default: `loop` in the data folder."
    ),
]
SinceOption = Annotated[str | None, typer.Option(metavar="TIME", help="Only the last so long, such as 30d.")]
OwnerOption = Annotated[str, typer.Option(help="Only this owner's, by the id that `glowl owners show` prints.")]
FolderArgument = Annotated[Path, typer.Argument(metavar="FOLDER", help="Of a data set.")]


@app.command("build")
def build(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="To be made.")],
    select: Annotated[
        str, typer.Option(metavar="LIST", help="Out of corrected, down, up, conflict, low: why an answer is taken.")
    ] = "corrected,down,up,conflict,low",
    low: Annotated[float, typer.Option(min=0, max=1, help="Agreement below which `low` takes an answer.")] = 0.5,
    random: Annotated[
        int,
        typer.Option(min=0, help="So many more, drawn from answers on which both models agree; they count as right."),
    ] = 0,
    heldout: Annotated[float, typer.Option(min=0, max=0.9, help="Share that is held out to measure on.")] = 0.2,
    max_chars: Annotated[int, typer.Option(min=1, help="Longest question and answer together.")] = 8000,
    since: SinceOption = None,
    owner: OwnerOption = "",
    loop: LoopOption = None,
    lang: LanguageOption = None,
) -> None:
    """Make a data set of answers that somebody corrected or found right."""
    from engines.dataset_format import DatasetError
    from router.loop.datasets.build import build as make
    from router.loop.datasets.build import write
    from router.loop.datasets.select import REASONS, draw
    from router.loop.datasets.select import select as choose

    language = parse_language(lang)
    wanted = [word.strip() for word in select.split(",") if word.strip()]
    if unknown := sorted(set(wanted) - set(REASONS)):
        raise typer.BadParameter(f"{', '.join(unknown)}: choose from {', '.join(REASONS)}", param_hint="--select")
    exchanges, pictures = read_kept(loop, language, since=since, owner=owner)
    candidates = list(choose(exchanges, wanted, low=low))
    candidates += draw(exchanges, {each.exchange.id for each in candidates}, random)
    dataset = make(candidates, pictures, heldout=heldout, max_chars=max_chars)
    if not dataset.train and not dataset.heldout:
        waiting = dataset.dropped.get("no right answer yet", 0)
        fail(say("dataset.empty", language, waiting=waiting, glowl=command_name()))
    about = {
        "made": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "answers from": f"{_day(min(each.at for each in exchanges))} to {_day(max(each.at for each in exchanges))}",
        "owners": str(len({each.owner for each in exchanges})),
        "models": ", ".join(sorted({answer.model for each in exchanges for answer in each.answers.values()} - {""})),
        "selected": ", ".join([*wanted, *([f"{random} random"] if random else [])]),
        "held out": f"{heldout:.0%} of the groups",
    }
    try:
        write(dataset, folder, about)
    except (OSError, DatasetError) as error:
        fail(str(error))
    typer.echo(
        say(
            *("dataset.written", language),
            folder=folder,
            train=len(dataset.train),
            heldout=len(dataset.heldout),
            groups=dataset.groups,
        )
    )
    for reason, number in sorted(dataset.dropped.items()):
        typer.echo(say("dataset.dropped", language, reason=reason, number=number))


@app.command("review")
def review(
    since: SinceOption = None, owner: OwnerOption = "", loop: LoopOption = None, lang: LanguageOption = None
) -> None:
    """Say how many answers wait for somebody to say what is right, and where to do that."""
    from router.loop.datasets.select import select

    language = parse_language(lang)
    exchanges, _ = read_kept(loop, language, since=since, owner=owner)
    waiting = sum(each.right is None for each in select(exchanges))
    url = f"http://127.0.0.1:{load_settings().port}/ui/#/review"
    typer.echo(say("dataset.review", language, waiting=waiting, url=url, glowl=command_name()))


@app.command("export")
def export(
    folder: FolderArgument,
    out: Annotated[Path, typer.Option(help="Folder to be made.")],
    form: Annotated[
        Literal["openai", "llava"], typer.Option(help="JSONL with pictures inside, or LLaVA's JSON with files beside.")
    ] = "openai",
    lang: LanguageOption = None,
) -> None:
    """Write a data set as other trainers read it."""
    from engines.dataset_format import DatasetError
    from router.loop.datasets.card import export_llava, export_openai

    try:
        counts = (export_openai if form == "openai" else export_llava)(folder, out)
    except (OSError, DatasetError) as error:
        fail(str(error))
    for name, number in counts.items():
        typer.echo(say("dataset.exported", parse_language(lang), file=out / name, number=number))


@app.command("card")
def card(folder: FolderArgument) -> None:
    """Check a data set, line by line, and print its card."""
    from engines.dataset_format import CARD, HELDOUT, TRAIN, DatasetError, read_examples

    try:
        counts = {name: sum(1 for _ in read_examples(folder / name)) for name in (TRAIN, HELDOUT)}
        typer.echo((folder / CARD).read_text("utf-8") if (folder / CARD).is_file() else str(counts))
    except (OSError, DatasetError) as error:
        fail(str(error))


def read_kept(
    loop: list[Path] | None, language: Language, *, since: str | None = None, owner: str = ""
) -> tuple[list[Exchange], dict[str, Kept]]:
    """Read what is kept, and what is known of its pictures.

    Args:
        loop: folders; None for that of the settings.
        language: of what is said.
        since: a duration; None for everything.
        owner: whose; empty for all.

    Raises:
        typer.Exit: after one line, if there is nothing, or it cannot be read.
    """
    from router.loop.capture import FAILURES
    from router.loop.store import FILE, LoopStore

    after = time.time() - parse_duration(since, option="--since") if since else 0.0
    exchanges: dict[str, Exchange] = {}
    pictures: dict[str, Kept] = {}
    folders = loop or [load_settings().loop_dir]
    for folder in folders:
        if not (folder / FILE).exists():
            fail(say("dataset.nothing_kept", language, folder=folder, glowl=command_name()))
        try:
            with LoopStore(folder) as store:
                found = {each.id: each for each in store.select(owner=owner, since=after)}
                pictures |= store.pictures(sha256 for each in found.values() for sha256 in each.pictures)
        except FAILURES as error:
            fail(f"{folder / FILE}: {error}")
        exchanges |= found
    if not exchanges:
        fail(say("dataset.nothing_kept", language, folder=folders[0], glowl=command_name()))
    return list(exchanges.values()), pictures


def _day(at: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(at))

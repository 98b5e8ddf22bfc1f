"""`glowl dataset`: data sets out of what owners let us keep.

In: the store of `router.loop` in the data folder. Out: folders of `engines.dataset_format`, and other trainers' forms.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from router.cli.common import LanguageOption, fail, load_settings, parse_language, printable, to_command, words_of
from router.cli.kept import LoopOption, OwnerOption, SinceOption, read_kept
from router.cli.texts import say

if TYPE_CHECKING:
    from router.loop.records import Exchange, Feedback

app = typer.Typer(name="dataset", help="Data sets out of kept answers (docs/datasets.md).", no_args_is_help=True)

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
        fail(say("dataset.empty", language, waiting=waiting, command=to_command("dataset", "review", loop=loop)))
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
        fail(words_of(error, language))
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
    """Show answers that wait for somebody to say what is right, the newest first, and keep what is said."""
    from router.loop.capture import FAILURES
    from router.loop.datasets import select

    language = parse_language(lang)
    exchanges, pictures = read_kept(loop, language, since=since, owner=owner)
    waiting = sorted(select.waiting(exchanges), key=lambda each: -each.exchange.at)
    typer.echo(say("dataset.waiting", language, waiting=len(waiting)))
    num_said = 0
    for number, candidate in enumerate(waiting, 1):
        exchange = candidate.exchange
        typer.echo(f"\n{number}/{len(waiting)}  {exchange.id}  {', '.join(candidate.reasons)}")
        for sha256 in exchange.pictures:
            kept = pictures.get(sha256)
            typer.echo(f"  {kept.file if kept is not None and kept.file is not None else sha256}")
        typer.echo(printable(f"  ? {exchange.question}"))
        for name, text in (("glm", exchange.draft), ("owl2", exchange.deep), ("=", exchange.final)):
            if text:
                typer.echo(printable(f"  {name}: {text}"))
        said = typer.prompt(say("dataset.ask", language), default="s", show_default=False).strip()
        if said == "q":
            break
        feedback = to_feedback(exchange, said, time.time())
        if feedback is None:
            continue
        try:
            _keep(loop, exchange, feedback)
        except FAILURES as error:
            fail(str(error))
        num_said += 1
    typer.echo(say("dataset.reviewed", language, number=num_said))


def to_feedback(exchange: Exchange, said: str, at: float) -> Feedback | None:
    """Return what a reviewer means; None for nothing.

    Args:
        exchange: that was shown.
        said: ``y``: the final answer is right; ``g`` or ``o``: GLM's or Owl2's is; ``s`` or nothing: skip; any other
            text is the right answer.
        at: unix seconds.
    """
    from router.loop.records import Feedback

    if said in ("", "s"):
        return None
    right = {"y": exchange.final, "g": exchange.draft, "o": exchange.deep}.get(said, said)
    if not right:
        return None
    return Feedback("up", at=at) if right == exchange.final else Feedback("down", right, at=at)


def _keep(loop: list[Path] | None, exchange: Exchange, feedback: Feedback) -> None:
    """Write feedback into the store that has the exchange; redacted as by default."""
    from router.loop.records import redacted
    from router.loop.redact import KINDS
    from router.loop.store import LoopStore

    for folder in loop or [load_settings().loop_dir]:
        with LoopStore(folder) as store:
            if store.get(exchange.id) is not None:
                store.put_feedback(exchange.id, exchange.owner, redacted(feedback, frozenset(KINDS)))


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

    language = parse_language(lang)
    try:
        counts = (export_openai if form == "openai" else export_llava)(folder, out)
    except (OSError, DatasetError) as error:
        fail(words_of(error, language))
    for name, number in counts.items():
        typer.echo(say("dataset.exported", language, file=out / name, number=number))


@app.command("card")
def card(folder: FolderArgument, lang: LanguageOption = None) -> None:
    """Check a data set, line by line, and print its card."""
    from engines.dataset_format import CARD, HELDOUT, TRAIN, DatasetError, read_examples

    try:
        counts = {name: sum(1 for _ in read_examples(folder / name)) for name in (TRAIN, HELDOUT)}
        typer.echo((folder / CARD).read_text("utf-8") if (folder / CARD).is_file() else str(counts))
    except (OSError, DatasetError) as error:
        fail(words_of(error, parse_language(lang)))


def _day(at: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(at))

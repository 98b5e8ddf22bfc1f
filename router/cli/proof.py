"""`glowl verdict` and `glowl replay`: what the log says of the policy.

In: what owners let us keep, of one machine or of several. Out: tables on stdout. No running service is needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from router.cli.common import Language, LanguageOption, fail, load_settings, parse_language
from router.cli.evaluation import check_measure
from router.cli.kept import LoopOption, OwnerOption, SinceOption, read_kept
from router.cli.policy import load_preset_or_file, score_as_set
from router.cli.tables import make_table, print_table
from router.cli.texts import say

if TYPE_CHECKING:
    from router.loop.records import Exchange as KeptExchange
    from router.loop.stats.intervals import Interval
    from router.loop.stats.records import Exchange
    from router.loop.stats.shadows import Shadow
    from router.loop.stats.verdict import Verdict

DataDirOption = Annotated[Path | None, typer.Option("--data-dir", help="Data folder of the service.")]
MeasureOption = Annotated[str, typer.Option("--by", metavar="exact|f1|anls", help="What is compared.")]


def verdict(
    measure: MeasureOption = "exact",
    owner: OwnerOption = "",
    since: SinceOption = None,
    loop: LoopOption = None,
    data_dir: DataDirOption = None,
    lang: LanguageOption = None,
) -> None:
    """Does the deeper look pay? For each slice: what it gains, how sure that is, what it costs. It may say no."""
    language = parse_language(lang)
    check_measure(measure)
    from router.loop.stats.log import to_exchanges
    from router.loop.stats.shadows import to_shadows
    from router.loop.stats.verdict import judge

    kept = read_all(loop, data_dir, owner, since, language)
    for shadow in to_shadows(kept, measure):
        typer.echo(_to_line(shadow, language))
    verdicts = judge(to_exchanges(kept), measure)
    if not verdicts:
        fail(say("verdict.unjudged", language))
    table = make_table(
        language,
        *("eval.column.slice", "eval.column.count", "verdict.column.gain", "verdict.column.seconds"),
        *("verdict.column.says", "verdict.column.change"),
    )
    for each in verdicts:
        table.add_row(
            each.slice,
            str(each.num_questions),
            _show(each.gain, language),
            "-" if each.seconds is None else f"{each.seconds:+.1f}",
            say(f"verdict.{each.says}", language),
            _change(each, language),
        )
    print_table(table)
    typer.echo(say("verdict.note", language))


def replay(
    preset: Annotated[str, typer.Option("--preset", help="Another preset: its name, or a YAML file.")],
    measure: MeasureOption = "exact",
    owner: OwnerOption = "",
    since: SinceOption = None,
    loop: LoopOption = None,
    data_dir: DataDirOption = None,
    lang: LanguageOption = None,
) -> None:
    """What another preset would have gained on the questions of the log."""
    language = parse_language(lang)
    check_measure(measure)
    from policies.decide import decide
    from router.loop.stats.replay import replay as estimate

    score_as_set(load_settings())
    rules = load_preset_or_file(preset)
    log = read_log(loop, data_dir, owner, since, language)
    found = estimate(log, lambda each: decide(each.features, rules).route, measure)
    values = {"count": found.num_questions, "changed": found.num_changed, "known": found.num_known}
    typer.echo(say("replay.changed", language, preset=rules.name, **values))
    if not found.num_questions:
        fail(say("verdict.unjudged", language))
    typer.echo(say("replay.deep", language, before=found.deep_before, after=found.deep_after))
    if found.gain is not None:
        typer.echo(say("replay.gain", language, gain=found.gain.to_points(), count=found.num_questions))
        if found.seconds is not None:
            typer.echo(say("replay.seconds", language, seconds=found.seconds))
        return
    typer.echo(say(f"replay.{found.why}", language, hidden=found.num_hidden, known=found.num_known))


def read_log(
    loop: list[Path] | None, data_dir: Path | None, owner: str, since: str | None, language: Language
) -> list[Exchange]:
    """Read what was captured, as proofs read it.

    Raises:
        typer.Exit: as `read_all`.
        typer.BadParameter: likewise.
    """
    from router.loop.stats.log import to_exchanges

    return to_exchanges(read_all(loop, data_dir, owner, since, language))


def read_all(
    loop: list[Path] | None, data_dir: Path | None, owner: str, since: str | None, language: Language
) -> list[KeptExchange]:
    """Read what was captured, with what was asked again.

    Raises:
        typer.Exit: after one line, if there is nothing, or it cannot be read.
        typer.BadParameter: if the time cannot be read.
    """
    from policies.language import warm_up

    if loop is None and data_dir is not None:
        loop = [data_dir.expanduser().resolve() / load_settings().loop_dir.name]
    kept, _ = read_kept(loop, language, since=since, owner=owner, with_again=True)
    warm_up()
    return kept


def _to_line(shadow: Shadow, language: Language) -> str:
    few = say("eval.few", language)
    values = {
        "name": shadow.adapter,
        "revision": shadow.revision or "?",
        "count": shadow.num_questions,
        "same": few if shadow.same is None else f"{shadow.same.estimate:.1%}",
        "judged": shadow.num_judged,
        "gain": few if shadow.gain is None else shadow.gain.to_points(),
    }
    return say("verdict.shadow", language, **values)


def _show(gain: Interval | None, language: Language) -> str:
    return say("eval.few", language) if gain is None else gain.to_points()


def _change(found: Verdict, language: Language) -> str:
    if not found.change:
        return say("verdict.stays", language)
    return say("verdict.send deep" if found.change == "send deep" else "verdict.answer fast", language)

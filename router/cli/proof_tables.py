"""Tables of what `glowl eval` measured and `glowl promote` judges.

In: results. Out: text on stdout.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from router.cli.common import Language
from router.cli.tables import make_table, print_table
from router.cli.texts import say

if TYPE_CHECKING:
    from router.loop.stats.comparison import Comparison, Refusal
    from router.loop.stats.intervals import Interval
    from router.loop.stats.results import Results


def print_scores(results: Results, arms: Sequence[str], language: Language) -> None:
    """Print each arm's mean scores, how many questions it did not answer, and how long it took."""
    from statistics import fmean, median

    table = make_table(
        language,
        *("eval.column.arm", "eval.column.asked", "eval.column.failed", "eval.column.exact", "eval.column.precision"),
        *("eval.column.recall", "eval.column.f1", "eval.column.anls", "eval.column.seconds"),
    )
    for arm in arms:
        answers = list(results.answers.get(arm, {}).values())
        if not answers:
            continue
        scores = [each.scores for each in answers]
        means = [
            fmean(values)
            for values in zip(*((s.exact, s.precision, s.recall, s.f1, s.anls) for s in scores), strict=True)
        ]
        seconds = [each.seconds for each in answers if each.said is not None]
        table.add_row(
            arm,
            f"{len(answers)}/{results.header.num_questions}",
            str(sum(each.said is None for each in answers)),
            *(f"{100 * mean:.1f}" for mean in means),
            f"{median(seconds):.2f}" if seconds else "-",
        )
    print_table(table)


def print_comparison(results: Results, old: str, new: str, measure: str, language: Language) -> Comparison | None:
    """Print what one arm gains over another, in all and by slice; None if they share no question."""
    from router.loop.stats.comparison import compare

    try:
        found = compare(results, old, new, measure)
    except ValueError:
        return None
    typer.echo(say("eval.compared", language, new=new, old=old, measure=measure))
    table = make_table(language, "eval.column.slice", "eval.column.gain", "eval.column.count", "eval.column.documents")
    for name, gain in (("", found.gain), *found.slices.items()):
        shown = name or say("eval.all", language)
        if gain is None:
            table.add_row(shown, say("eval.few", language), "", "")
        else:
            table.add_row(shown, gain.to_points(), str(gain.num_rows), str(gain.num_groups))
    print_table(table)
    typer.echo(say("eval.mcnemar", language, won=found.num_won, lost=found.num_lost, p=found.p))
    return found


def to_sentence(refusal: Refusal, margin: float, language: Language) -> str:
    """Say why new answers may not take the old ones' place."""
    shown = "" if refusal.interval is None else _with_number(refusal.interval)
    if refusal.why == "few":
        return say("promote.few", language)
    if refusal.why == "no gain":
        return say("promote.no-gain", language, interval=shown)
    if refusal.interval is None:
        return say("promote.slice.few", language, name=refusal.name)
    return say("promote.slice", language, name=refusal.name, interval=shown, margin=100 * margin)


def _with_number(interval: Interval) -> str:
    return f"n = {interval.num_rows}, {interval.to_points()}"

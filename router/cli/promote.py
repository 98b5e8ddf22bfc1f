"""`glowl promote`: let an adapter answer for its model, if `glowl eval` has proven that it is better; and back.

In: an adapter, results of an evaluation. Out: a pointer in redis, which every api follows within a second; or the
reasons why not, and exit status 1.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, NoReturn, TypeVar

import typer

from engines.adapter_names import model_with
from router.cli.common import Language, LanguageOption, fail, parse_language
from router.cli.evaluation import check_measure
from router.cli.owner_store import Admin, DataDirOption, open_admin
from router.cli.tables import show_time
from router.cli.texts import say

if TYPE_CHECKING:
    from router.loop.stats.intervals import Interval
    from router.loop.stats.results import Results
    from router.promotion.records import Pointer
    from router.promotion.store import PromotionStore

Result = TypeVar("Result")

# Whose adapters can be promoted, and how people call it.
_ENGINE: Final = "glm"
_MODEL: Final = "glm-4.6v-flash"


def promote(
    model: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL:ADAPTER]", help="As glm-4.6v-flash:receipts; none: who answers."),
    ] = None,
    evidence: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Results of `glowl eval` for MODEL:base and MODEL:ADAPTER.")
    ] = None,
    rollback: Annotated[bool, typer.Option("--rollback", help="Back to who answered before; at once.")] = False,
    share: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Of the conversations that it answers; the rest stays (A/B).")
    ] = 1.0,
    shadow: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="Ask it this share of the questions in idle time instead; never shown."),
    ] = None,
    margin: Annotated[
        float, typer.Option(min=0.1, max=100.0, help="Points that no guarded slice may have fallen by.")
    ] = 5.0,
    guard: Annotated[list[str] | None, typer.Option(help="A slice to guard beside zh, en and pages.")] = None,
    measure: Annotated[str, typer.Option("--by", metavar="exact|f1|anls", help="What the gain is of.")] = "exact",
    data_dir: DataDirOption = None,
    lang: LanguageOption = None,
) -> None:
    """Let an adapter answer for its model. Refused unless it is proven to be better, and no slice to be worse."""
    language = parse_language(lang)
    check_measure(measure)
    if rollback:
        _roll_back(open_admin(data_dir, language), language)
        return
    if model is None:
        _show(open_admin(data_dir, language), language)
        return
    base, colon, adapter = model.partition(":")
    if not (base and colon and adapter) or adapter.lower() == "base":
        fail(say("promote.name", language, name=model), code=2)
    from router.promotion.records import Promotion

    if shadow is not None:
        _change(
            open_admin(data_dir, language), lambda now: now.shadowed(Promotion(adapter, share=shadow, at=time.time()))
        )
        typer.echo(say("promote.shadow", language, model=model, share=shadow))
        return
    if evidence is None:
        fail(say("promote.evidence", language), code=2)
    results = _read(evidence, language)
    revision = _check(results, evidence, base, model, language)
    gain = _judge(results, base, model, measure, margin / 100, guard or [], language)
    promotion = Promotion(adapter, revision, share, time.time(), f"{measure}, n = {gain.num_rows}, {gain.to_points()}")
    admin = open_admin(data_dir, language)
    _change(admin, lambda now: now.promoted(promotion))
    back = admin.to_command("promote", "--rollback")
    values = {"model": model, "base": base, "share": share, "interval": promotion.proof, "command": back}
    typer.echo(say("promote.done", language, **values))


def _read(path: Path, language: Language) -> Results:
    """Read the evidence.

    Raises:
        typer.Exit: after one line, if it is none.
    """
    from router.loop.stats.results import ResultsError, read_results

    try:
        return read_results(path)
    except ResultsError as error:
        fail(str(error), code=2)
    except OSError as error:
        fail(say("eval.data", language, why=error), code=2)


def _check(results: Results, path: Path, base: str, model: str, language: Language) -> str:
    """Refuse evidence of something else than that this adapter is better than its base; returns its revision.

    Raises:
        typer.Exit: after one line.
    """

    def refuse(key: str, **values: object) -> NoReturn:
        fail(say(key, language, path=path, **values))

    for arm in (f"{base}:base", model):
        answers = results.answers.get(arm)
        if not answers:
            refuse("promote.unknown", arm=arm, arms=", ".join(results.answers) or "-")
        if missing := results.missing(arm):
            refuse("promote.incomplete", arm=arm, missing=missing)
        models = {each.model for each in answers.values() if each.said is not None}
        if any((":" in each) != (arm == model) for each in models):
            refuse("promote.impostor", arm=arm, models=", ".join(sorted(models)), base=base)
    revisions = {
        each.revision
        for arm in (f"{base}:base", model)
        for each in results.answers[arm].values()
        if each.said is not None
    }
    if len(revisions) > 1:
        refuse("promote.mixed", arm=model)
    return next(iter(revisions), "")


def _judge(
    results: Results, base: str, model: str, measure: str, margin: float, guard: list[str], language: Language
) -> Interval:
    """Return the proven gain.

    Raises:
        typer.Exit: after the table and a line per reason, if there is none.
    """
    from router.cli.proof_tables import print_comparison, to_sentence
    from router.loop.stats.comparison import GUARDED, refusals

    found = print_comparison(results, f"{base}:base", model, measure, language)
    assert found is not None  # both arms have answers to all questions
    guarded = (*GUARDED, *guard)
    for name in guarded:
        if name not in found.slices:
            typer.echo(say("promote.unguarded", language, name=name), err=True)
    reasons = refusals(found, guarded=guarded, margin=margin)
    for reason in reasons:
        typer.echo(to_sentence(reason, margin, language), err=True)
    if reasons or found.gain is None:
        fail(say("promote.refused", language, model=model))
    return found.gain


def _run(admin: Admin, work: Callable[[PromotionStore], Awaitable[Result]]) -> Result:
    from router.promotion.store import PromotionStore

    return admin.with_redis(lambda redis: work(PromotionStore(redis)))


def _change(admin: Admin, make: Callable[[Pointer], Pointer]) -> None:
    from router.promotion.records import Pointer

    async def change(store: PromotionStore) -> None:
        pointers = await store.load()
        await store.put(_ENGINE, make(pointers.get(_ENGINE, Pointer())))

    _run(admin, change)


def _roll_back(admin: Admin, language: Language) -> None:
    """Go one step back.

    Raises:
        typer.Exit: after one line, if there is none.
    """
    from router.promotion.records import Pointer

    async def go_back(store: PromotionStore) -> Pointer | None:
        before = (await store.load()).get(_ENGINE, Pointer()).rolled_back()
        if before is not None:
            await store.put(_ENGINE, before)
        return before

    before = _run(admin, go_back)
    if before is None:
        fail(say("promote.back.none", language))
    typer.echo(say("promote.back", language, base=_MODEL, model=model_with(_MODEL, before.now.adapter)))


def _show(admin: Admin, language: Language) -> None:
    from router.promotion.records import Pointer

    pointer = _run(admin, lambda store: store.load()).get(_ENGINE, Pointer())
    now, shadow = pointer.now, pointer.shadow
    if now.adapter:
        values = {"at": show_time(now.at), "revision": now.revision or "?", "proof": now.proof, "share": now.share}
        typer.echo(say("promote.is", language, base=_MODEL, model=model_with(_MODEL, now.adapter), **values))
    else:
        typer.echo(say("promote.none", language))
    if shadow.adapter and shadow.share:
        typer.echo(say("promote.shadow", language, model=model_with(_MODEL, shadow.adapter), share=shadow.share))

"""`glowl promote`: let an adapter answer for its model, if `glowl eval` has proven that it is better; and back.

In: an adapter, results of an evaluation. Out: a pointer in redis, which every api follows within a second; or the
reasons why not, and exit status 1.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, TypeVar

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


def promote(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL:ADAPTER]",
            help="As glm-4.6v-flash:receipts; none: who answers. With --rollback the model alone.",
        ),
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
        _roll_back(open_admin(data_dir, language), model, language)
        return
    if model is None:
        _show(open_admin(data_dir, language), language)
        return
    base, colon, adapter = model.partition(":")
    if not (base and colon and adapter) or adapter.lower() == "base":
        fail(say("promote.name", language, name=model), code=2)
    engine = _engine_of(base, language)
    from router.promotion.records import Promotion

    if shadow is not None:
        if engine != "glm":
            fail(say("promote.shadow.glm", language, name=model), code=2)
        made = Promotion(adapter, share=shadow, at=time.time())
        _change(open_admin(data_dir, language), engine, lambda now: now.shadowed(made))
        typer.echo(say("promote.shadow", language, model=model, share=shadow))
        return
    if evidence is None:
        fail(say("promote.evidence", language), code=2)
    results = _read(evidence, language)
    revision = _check(results, evidence, base, model, language)
    gain = _judge(results, base, model, measure, margin / 100, guard or [], language)
    promotion = Promotion(adapter, revision, share, time.time(), f"{measure}, n = {gain.num_rows}, {gain.to_points()}")
    admin = open_admin(data_dir, language)
    _change(admin, engine, lambda now: now.promoted(promotion))
    back = admin.to_command("promote", base, "--rollback")
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
        fail(say("promote.unread", language, path=path, why=error.strerror or error), code=2)


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
    of_adapter = {each.adapter_revision for each in results.answers[model].values() if each.said is not None}
    if len(revisions) > 1 or len(of_adapter) > 1:
        refuse("promote.mixed", arm=model)
    return next(iter(of_adapter), "") or next(iter(revisions), "")


def _engine_of(model: str, language: Language) -> str:
    """Return whose adapters a model's are; a variant's, such as ``mplug-owl2-pocket``, are its model's.

    Raises:
        typer.Exit: after one line, if there is no such model.
    """
    from router.promotion.records import PROMOTABLE

    name = model.strip().lower().rpartition("/")[2]
    engine = next((engine for engine, known in PROMOTABLE.items() if f"{name}-".startswith(f"{known}-")), None)
    if engine is None:
        fail(say("promote.model", language, name=model, models=", ".join(PROMOTABLE.values())), code=2)
    return engine


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


def _change(admin: Admin, engine: str, make: Callable[[Pointer], Pointer]) -> None:
    from router.promotion.records import Pointer

    async def change(store: PromotionStore) -> None:
        pointers = await store.load()
        await store.put(engine, make(pointers.get(engine, Pointer())))

    _run(admin, change)


def _roll_back(admin: Admin, model: str | None, language: Language) -> None:
    """Go one step back.

    Args:
        admin: has redis.
        model: whose adapters; None for the model that anything was promoted of.
        language: of what is said.

    Raises:
        typer.Exit: after one line, if there is none, or it is not clear which.
    """
    from router.promotion.records import PROMOTABLE

    pointers = _run(admin, lambda store: store.load())
    engines = [engine for engine in PROMOTABLE if engine in pointers and pointers[engine].earlier]
    if model is not None:
        wanted = _engine_of(model.partition(":")[0], language)
        engines = [engine for engine in engines if engine == wanted]
    if not engines:
        fail(say("promote.back.none", language))
    if len(engines) > 1:
        names = ", ".join(PROMOTABLE[engine] for engine in engines)
        command = admin.to_command("promote", PROMOTABLE[engines[-1]], "--rollback")
        fail(say("promote.back.which", language, models=names, command=command), code=2)
    before = pointers[engines[0]].rolled_back()
    assert before is not None
    _run(admin, lambda store: store.put(engines[0], before))
    base = PROMOTABLE[engines[0]]
    typer.echo(say("promote.back", language, base=base, model=model_with(base, before.now.adapter)))


def _show(admin: Admin, language: Language) -> None:
    from router.promotion.records import PROMOTABLE, Pointer

    pointers = _run(admin, lambda store: store.load())
    if not any(each.now.adapter for each in pointers.values()):
        typer.echo(say("promote.none", language))
    for engine, base in PROMOTABLE.items():
        pointer = pointers.get(engine, Pointer())
        now, shadow = pointer.now, pointer.shadow
        if now.adapter:
            values = {"at": show_time(now.at), "revision": now.revision or "?", "proof": now.proof, "share": now.share}
            typer.echo(say("promote.is", language, base=base, model=model_with(base, now.adapter), **values))
        if shadow.adapter and shadow.share:
            typer.echo(say("promote.shadow", language, model=model_with(base, shadow.adapter), share=shadow.share))

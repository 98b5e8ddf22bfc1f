"""`glowl policy fit`: multi-hop weights from the log of this machine, if they prove to be better.

In: what owners let us keep. Out: a file of weights for `GLOWL_MULTI_HOP_WEIGHTS`; or the reason why not, and exit
status 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from router.cli.common import LanguageOption, fail, load_settings, parse_language, write_atomically
from router.cli.evaluation import check_measure
from router.cli.kept import LoopOption, OwnerOption, SinceOption
from router.cli.policy import load_preset_or_file, score_as_set
from router.cli.proof import DataDirOption, MeasureOption, read_log
from router.cli.texts import say


def fit(
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where the weights go.")],
    preset: Annotated[
        str | None, typer.Option(help="By whose rules questions are sent; default GLOWL_PRESET or `seed`.")
    ] = None,
    measure: MeasureOption = "exact",
    owner: OwnerOption = "",
    since: SinceOption = None,
    loop: LoopOption = None,
    data_dir: DataDirOption = None,
    lang: LanguageOption = None,
) -> None:
    """Fit the multi-hop weights to the log; they are written only if held-out documents prove a gain."""
    language = parse_language(lang)
    check_measure(measure)
    from policies.multi_hop_weights import current, to_text
    from router.loop.stats.fit import LEAST_OF_EACH
    from router.loop.stats.fit import fit as fit_weights

    settings = score_as_set(load_settings())
    rules = load_preset_or_file(preset or settings.preset)
    found = fit_weights(read_log(loop, data_dir, owner, since, language), rules, current(), measure)
    for name, count in found.num_rows.items():
        key = "fit.fitted" if name in found.fitted else "fit.kept"
        typer.echo(say(key, language, name=name, count=count, least=LEAST_OF_EACH))
    gain = "" if found.gain is None else found.gain.to_points()
    if not found.is_proven:
        fail(say("fit.refused", language, count=found.num_held_out, gain=gain or say("eval.few", language)))
    note = f"Written by glowl policy fit; gain on {found.num_held_out} held-out questions, in points: {gain}"
    try:
        write_atomically(out, to_text(found.weights, note))
    except OSError as error:
        fail(say("policy.unwritable", language, file=out, why=error.strerror or error))
    values = {"count": found.num_held_out, "changed": found.num_changed, "gain": gain, "file": out}
    typer.echo(say("fit.written", language, **values))

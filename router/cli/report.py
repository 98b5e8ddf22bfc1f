"""`glowl report`: one HTML page about kept answers.

In: the store of `router.loop`. Out: a file that loads nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from router.cli.common import LanguageOption, fail, parse_language, write_atomically
from router.cli.kept import LoopOption, OwnerOption, SinceOption, read_kept
from router.cli.texts import say


def report(
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("glowl-report.html"),
    since: SinceOption = None,
    owner: OwnerOption = "",
    price_in: Annotated[
        float | None, typer.Option(min=0, help="What a hosted API asks for a million tokens read.")
    ] = None,
    price_out: Annotated[float | None, typer.Option(min=0, help="The same of tokens written.")] = None,
    loop: LoopOption = None,
    lang: LanguageOption = None,
) -> None:
    """Write a page about kept answers: pictures, questions, routes, times, disagreements, failures, cost."""
    from router.loop.report.numbers import Prices, measure
    from router.loop.report.page import to_html

    language = parse_language(lang)
    if (price_in is None) != (price_out is None):
        raise typer.BadParameter("give both --price-in and --price-out", param_hint="--price-in")
    prices = Prices(price_in, price_out) if price_in is not None and price_out is not None else None
    exchanges, pictures = read_kept(loop, language, since=since, owner=owner)
    try:
        numbers = measure(exchanges, pictures, prices)
        write_atomically(out, to_html(numbers, pictures, prices))
    except (OSError, ValueError) as error:
        fail(str(error))
    typer.echo(say("report.written", language, file=out, number=numbers.num_exchanges))

"""`glowl policy`: check a preset, run a table of expected routes, compare two presets, measure on labelled questions.

In: files. Out: tables on stdout; exit status 1 when a file is wrong or a case is not as expected. No running service.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from router.cli.common import Language, LanguageOption, fail, load_settings, parse_language
from router.cli.texts import say

if TYPE_CHECKING:
    from policies.rules import Rules
    from router.settings import Settings

app = typer.Typer(
    name="policy", help="Check, test, compare and measure the rules that choose a route.", no_args_is_help=True
)


@app.command("validate")
def validate(
    file: Annotated[Path, typer.Argument(help="A preset, YAML.")],
    lang: LanguageOption = None,
) -> None:
    """Say whether a preset can be used; every fault with its line."""
    language = parse_language(lang)
    from policies.rules import RulesError, load_rules

    try:
        rules = load_rules(file)
    except RulesError as error:
        fail(str(error))
    typer.echo(say("policy.valid", language, file=file, name=rules.name, count=len(rules.rules)))


@app.command("test")
def run_cases(
    file: Annotated[Path, typer.Argument(help="A table of expected routes, YAML.")],
    preset: Annotated[
        str | None, typer.Option(help="Preset name or YAML file; default the table's own, GLOWL_PRESET or `seed`.")
    ] = None,
    lang: LanguageOption = None,
) -> None:
    """Decide every case of a table and name those that are not as expected."""
    language = parse_language(lang)
    from policies.table import load_table, run_table
    from policies.yaml_text import YamlError

    try:
        table = load_table(file)
    except YamlError as error:
        fail(str(error))
    chosen = preset or table.preset
    if preset is None and chosen is not None and chosen.endswith((".yaml", ".yml")):
        chosen = str(file.parent / chosen)
    settings = score_as_set(load_settings())
    outcomes = run_table(table, load_preset_or_file(chosen or settings.preset))
    wrong = [outcome for outcome in outcomes if outcome.differences]
    for outcome in wrong:
        typer.echo(
            say(
                "policy.case.wrong",
                language,
                text=shorten(outcome.case.text),
                differences="; ".join(outcome.differences),
                rule=outcome.decision.rule,
            )
        )
    typer.echo(say("policy.cases", language, right=len(outcomes) - len(wrong), count=len(outcomes)))
    if wrong:
        raise typer.Exit(1)


@app.command("diff")
def diff(
    first: Annotated[str, typer.Argument(help="Preset name or YAML file.")],
    second: Annotated[str, typer.Argument(help="The same.")],
    questions: Annotated[Path, typer.Argument(help="JSON lines with `text` and `n_images`.")],
    svg: Annotated[Path | None, typer.Option(help="Write the picture here too.")] = None,
    shown: Annotated[int, typer.Option(min=0, help="How many changed questions to print.")] = 10,
    lang: LanguageOption = None,
) -> None:
    """Decide a file of questions with two presets; draw both route mixes and name what changes."""
    language = parse_language(lang)
    from policies.report import compare, draw_bars, draw_svg

    score_as_set(load_settings())
    mix = compare(load_preset_or_file(first), load_preset_or_file(second), read_rows(questions, language))
    typer.echo(draw_bars(mix))
    typer.echo(say("policy.changed", language, changed=len(mix.changes), count=mix.num_questions))
    for change in mix.changes[:shown]:
        typer.echo(
            f"  {change.before.route} ({change.before.rule}) -> {change.after.route} ({change.after.rule}): "
            f"{shorten(change.text)}"
        )
    if svg is not None:
        try:
            svg.write_text(draw_svg(mix), encoding="utf-8")
        except OSError as error:
            fail(say("policy.unwritable", language, file=svg, why=error.strerror or error))


@app.command("eval")
def evaluate(
    files: Annotated[list[Path], typer.Argument(help="JSON lines with labelled questions.")],
    preset: Annotated[
        str | None, typer.Option(help="Whose multi-hop threshold is judged; default GLOWL_PRESET or `seed`.")
    ] = None,
    lang: LanguageOption = None,
) -> None:
    """Print per-source tables of what the policy gets right on labelled questions, in Markdown."""
    language = parse_language(lang)
    from policies.language import warm_up
    from policies.report import evaluation_tables

    settings = score_as_set(load_settings())
    rules = load_preset_or_file(preset or settings.preset)
    # A preset that reads no score is judged at the default's threshold.
    threshold = 0.5 if rules.multi_hop_threshold is None else rules.multi_hop_threshold
    warm_up()
    for number, file in enumerate(files):
        rows = read_rows(file, language)
        tables = evaluation_tables(rows, threshold)
        if not tables:
            fail(say("policy.unlabelled", language, file=file))
        typer.echo(("\n" if number else "") + f"## {file.name}\n\n{tables}")


def score_as_set(settings: Settings) -> Settings:
    """Score questions in this command as the service with these settings would; returns them.

    Raises:
        typer.Exit: after one line, if GLOWL_MULTI_HOP_WEIGHTS names no file of weights.
    """
    from policies.multi_hop_weights import WeightsError, use_file

    try:
        use_file(settings.multi_hop_weights)
    except WeightsError as error:
        fail(f"GLOWL_MULTI_HOP_WEIGHTS: {error}", code=2)
    return settings


def load_preset_or_file(preset: str, *, variable: str = "") -> Rules:
    """Load a shipped preset by its name, or a file by its ending.

    Args:
        preset: a name, or the path of a YAML file.
        variable: where it comes from, if that is to be named.

    Raises:
        typer.Exit: after a line per fault; after one line for all if a variable is named.
    """
    from policies.rules import RulesError, load_preset, load_rules

    try:
        return load_rules(preset) if preset.endswith((".yaml", ".yml")) else load_preset(preset)
    except RulesError as error:
        fail(f"{variable}: {'; '.join(str(error).splitlines())}" if variable else str(error), code=2)


def read_rows(file: Path, language: Language) -> list[dict[str, Any]]:
    """Read JSON lines, each an object with a `text`; blank lines are passed over.

    Raises:
        typer.Exit: after one line that names the file and the line in it.
    """
    import orjson

    from router.cli.text_files import TextFileError, read_text_file, split_lines

    rows: list[dict[str, Any]] = []
    try:
        lines = split_lines(read_text_file(file, language)[0])
    except TextFileError as error:
        fail(str(error), code=2)
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            fail(say("policy.row", language, file=file, line=number, why=error), code=2)
        why = find_fault(row, language)
        if why is not None:
            fail(say("policy.row", language, file=file, line=number, why=why), code=2)
        rows.append(row)
    if not rows:
        fail(say("policy.empty", language, file=file), code=2)
    return rows


def find_fault(row: Any, language: Language) -> str | None:
    """Say what keeps a row from being read; None if nothing does."""
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        return say("policy.fault.object", language)
    images = row.get("n_images")
    if images is not None and (not isinstance(images, int) or isinstance(images, bool) or not 0 <= images <= 1000):
        return say("policy.fault.images", language)
    labels = [name for name in ("label_hops", "label_multi_image", "length_words") if row.get(name) is not None]
    missing = [name for name in ("language", "source") if labels and not isinstance(row.get(name), str)]
    if missing:
        return say("policy.fault.labels", language, names=", ".join(missing))
    return None


def shorten(text: str) -> str:
    """Put a question on one line of a terminal."""
    flat = " ".join(text.split())
    return flat if len(flat) <= 80 else f"{flat[:79]}…"

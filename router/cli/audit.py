"""`glowl audit`: is the log as it was written, who asked for what, and what is being asked now.

In: the folder of the log. Out: lines on stdout; exit status 1 if the log was changed. No running service is needed.
"""

from __future__ import annotations

import time
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from router.cli.common import Language, LanguageOption, detect_language, fail, load_settings, parse_language
from router.cli.texts import say

if TYPE_CHECKING:
    from router.audit.chain import DayFile
    from router.audit.verify import Report

_LOOK_EVERY_S = 0.5
# The ids of chat completions and messages are the response's with another beginning.
_SHAPES = ("chatcmpl-", "msg_")

app = typer.Typer(name="audit", help="The audit log: check it, search it, follow it.", no_args_is_help=True)

FolderOption = Annotated[
    Path | None, typer.Option(help="Where the log is; default: `audit` in the data folder, GLOWL_DATA_DIR.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("verify")
def verify(
    folder: FolderOption = None,
    has: Annotated[
        list[str] | None,
        typer.Option(help="A hash that this command printed before and that must be in it; may be repeated."),
    ] = None,
    is_json: JsonOption = False,
    lang: LanguageOption = None,
) -> None:
    """Say whether the log is as it was written, and at which line it is not."""
    language = parse_language(lang)
    from router.audit.verify import verify as check

    place = _folder(folder)
    _days(place, language)
    try:
        report = check(place, frozenset(each.strip().lower() for each in has or ()))
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}")
    if is_json:
        _print_json(report, language)
    else:
        _print_report(report, language)
    if not report.is_good:
        raise typer.Exit(1)


@app.command("show")
def show(
    folder: FolderOption = None,
    day: Annotated[str, typer.Option(help="Only this day (UTC), such as 2026-11-29.")] = "",
    owner: Annotated[str, typer.Option(help="Only this owner's, by the id that `glowl owners show` prints.")] = "",
    key: Annotated[str, typer.Option(help="Only with this key, by its public name, such as glowl_8KmT2xQa.")] = "",
    request: Annotated[str, typer.Option(help="Only this one, by its x-request-id or the id of its answer.")] = "",
    status: Annotated[int, typer.Option(help="Only with this HTTP status.")] = 0,
    is_json: JsonOption = False,
) -> None:
    """Print the requests of all processes in the order in which they ended."""
    place, language = _folder(folder), detect_language()
    ids = {request, *(f"resp_{request.removeprefix(shape)}" for shape in _SHAPES if request.startswith(shape))}

    def is_wanted(record: dict[str, Any]) -> bool:
        return (
            (not owner or record.get("owner") == owner)
            and (not key or record.get("key_id") == key)
            and (not request or not ids.isdisjoint((record.get("request_id"), record.get("response_id"))))
            and (not status or record.get("status") == status)
        )

    num_shown = 0
    for files in _days(place, language):
        if not day or files[0].day == day:
            for record in filter(is_wanted, _records(place, files)):
                _print_record(record, is_json=is_json)
                num_shown += 1
    if not num_shown:  # an owner's name in place of its id looks like an owner that asked nothing
        typer.echo(say("audit.nothing", language), err=True)


@app.command("tail")
def tail(
    folder: FolderOption = None,
    number: Annotated[int, typer.Option("-n", min=0, help="How many of the last lines.")] = 20,
    is_followed: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    is_json: JsonOption = False,
) -> None:
    """Print the last lines of all processes, and those that come."""
    place, language = _folder(folder), detect_language()
    seen: dict[str, int] = {}
    records: list[dict[str, Any]] = []
    for files in reversed(_days(place, language)):
        if len(records) >= number:
            seen |= {file.name: (place / file.name).stat().st_size for file in files}
        else:
            records = [*_records(place, files, seen), *records]
    for record in records[max(len(records) - number, 0) :]:
        _print_record(record, is_json=is_json)
    try:
        while is_followed:
            time.sleep(_LOOK_EVERY_S)
            for files in _days(place, language):
                for record in _records(place, files, seen):
                    _print_record(record, is_json=is_json)
    except KeyboardInterrupt:
        raise typer.Exit from None


def _folder(folder: Path | None) -> Path:
    return load_settings().audit_dir if folder is None else folder


def _days(folder: Path, language: Language) -> list[list[DayFile]]:
    """Return the files of each day, the oldest first.

    Raises:
        typer.Exit: after one line, if there are none: a wrong folder is not a log without lines.
    """
    from router.audit.chain import files_in

    try:
        files = files_in(folder)
    except OSError as error:
        fail(f"{folder}: {error.strerror}")
    if not files:
        fail(say("audit.none", language, folder=folder))
    return [list(group) for _, group in groupby(files, key=lambda file: file.day)]


def _records(folder: Path, files: list[DayFile], seen: dict[str, int] | None = None) -> list[dict[str, Any]]:
    """Return what whole lines say, in the order of their time; with ``seen``, only what was not read before."""
    from router.audit.chain import read_line

    found: list[dict[str, Any]] = []
    for file in files:
        with (folder / file.name).open("rb") as lines:
            lines.seek((seen or {}).get(file.name, 0))
            for text in lines:
                if not text.endswith(b"\n"):
                    break
                if seen is not None:
                    seen[file.name] = lines.tell()
                record = dict(read_line(text[:-1]).record)
                if record:
                    found.append(record)
    return sorted(found, key=lambda record: str(record.get("at")))


def _print_record(record: dict[str, Any], *, is_json: bool) -> None:
    from engines.json_text import dump_line

    if is_json:
        typer.echo(dump_line(record))
        return
    at = str(record.get("at", ""))
    if record.get("kind") != "request":
        rest = {key: value for key, value in record.items() if key not in ("at", "kind", "n", "prev", "hash", "others")}
        typer.echo(f"{at}  {record.get('kind')}  {dump_line(rest).decode()}")
        return
    asked = "  ".join(
        f"{name} {record[name]}" for name in ("code", "response_id", "state", "engine", "rule") if record.get(name)
    )
    tokens = f"  {record['prompt_tokens']}+{record['completion_tokens']} tokens" if "prompt_tokens" in record else ""
    typer.echo(
        f"{at}  {record['status']}  {record['method']} {record['path']}  {record['owner'] or '-'}  "
        f"{record['key_id'] or '-'}  {record['address']}  {record['took_ms']} ms  {asked}{tokens}"
    )


def _print_report(report: Report, language: Language) -> None:
    for chain in report.chains:
        typer.echo(
            say(
                "audit.chain",
                language,
                name=chain.name,
                first=chain.days[0],
                last=chain.days[1],
                lines=chain.num_lines,
                hash=chain.head.hash,
            )
        )
        for note in chain.notes:
            typer.echo(f"  {note.of(language)}")
    for problem in report.problems:
        place = f"{problem.file}:{problem.line}" if problem.line else problem.file
        typer.echo(f"{place}: {problem.text.of(language)}", err=True)
    for hash_ in sorted(report.wanted):
        typer.echo(say("audit.wanted", language, hash=hash_), err=True)
    typer.echo(say("audit.good" if report.is_good else "audit.bad", language))


def _print_json(report: Report, language: Language) -> None:
    from engines.json_text import dump_line

    typer.echo(
        dump_line(
            {
                "is_good": report.is_good,
                "chains": [
                    {
                        "chain": chain.name,
                        "days": list(chain.days),
                        "lines": chain.num_lines,
                        "n": chain.head.number,
                        "hash": chain.head.hash,
                        "notes": [note.of(language) for note in chain.notes],
                    }
                    for chain in report.chains
                ],
                "problems": [
                    {"file": problem.file, "line": problem.line, "text": problem.text.of(language)}
                    for problem in report.problems
                ],
                "missing": sorted(report.wanted),
            }
        )
    )
